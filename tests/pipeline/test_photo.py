from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import BLUE, GREEN, GREY, RED, corners, quadrants, read, shows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import SourceError
from pipeline.messages import Ledger
from pipeline.photo import PHOTO_SUFFIXES, read_photo

FORMATS = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF"}
ORIENTATIONS = {
    1: (RED, GREEN, BLUE, GREY),
    2: (GREEN, RED, GREY, BLUE),
    3: (GREY, BLUE, GREEN, RED),
    4: (BLUE, GREY, RED, GREEN),
    5: (RED, BLUE, GREEN, GREY),
    6: (BLUE, RED, GREY, GREEN),
    7: (GREY, GREEN, BLUE, RED),
    8: (GREEN, GREY, RED, BLUE),
}


def picture() -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(quadrants(80, 60)[:, :, ::-1]))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    path = tmp_path / f"photo{suffix}"
    picture().save(path, FORMATS[suffix], exif=exif)
    image = read_photo(path)
    assert image.shape == ((80, 60, 3) if orientation >= 5 else (60, 80, 3))
    assert shows(image, ORIENTATIONS[orientation], 10)


def test_a_photo_is_a_stream_of_one_frame(tmp_path: Path) -> None:
    path = tmp_path / "PHOTO.PNG"
    picture().save(path)
    info, [frame], ledger = read(path)
    assert (info.stream, info.size_wh, info.frames, info.live) == ("PHOTO.PNG", (80, 60), 1, False)
    assert (frame.stamp.seq, frame.stamp.pts_seconds) == (0, 0.0)
    assert ledger == Ledger("PHOTO.PNG", captured=1)


@pytest.mark.parametrize("suffix", sorted(PHOTO_SUFFIXES))
def test_every_suffix(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo{suffix}"
    image = picture().convert("L") if suffix == ".pgm" else picture()
    image.save(path)
    assert read_photo(path).shape == (60, 80, 3)


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "LA"])
def test_modes(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "photo.png"
    picture().convert(mode).save(path)
    image = read_photo(path)
    assert image.dtype == np.uint8
    assert image.shape == (60, 80, 3)
    if mode == "RGBA":
        assert shows(image, ORIENTATIONS[1], 1)


def test_16_bits(tmp_path: Path) -> None:
    wide = quadrants(80, 60).astype(np.uint16) * 257
    for name in ("photo.png", "photo.tiff"):
        cv2.imwrite(str(tmp_path / name), wide)
        assert shows(read_photo(tmp_path / name), ORIENTATIONS[1], 1)
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((60, 80), 120 * 257, np.uint16))
    assert shows(read_photo(tmp_path / "grey.png"), 4 * (GREY,), 1)


def test_cmyk(tmp_path: Path) -> None:
    path = tmp_path / "print.jpg"
    picture().convert("CMYK").save(path, quality=95)
    assert shows(read_photo(path), ORIENTATIONS[1], 12), corners(read_photo(path))


@pytest.mark.parametrize("suffix", [*FORMATS, ".bmp"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_cut_off(tmp_path: Path, suffix: str, share: float, capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, FORMATS.get(suffix, "BMP"))
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(stream.getvalue()[: int(share * len(stream.getvalue()))])
    with pytest.raises(SourceError, match=r"damaged|not a picture") as caught:
        read_photo(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    where=st.floats(0.05, 0.95), data=st.binary(min_size=1, max_size=40), form=st.sampled_from(list(FORMATS))
)
def test_damage_is_a_picture_or_one_line(tmp_path: Path, where: float, data: bytes, form: str) -> None:
    stream = io.BytesIO()
    picture().save(stream, FORMATS[form])
    encoded = bytearray(stream.getvalue())
    at = int(where * len(encoded))
    encoded[at : at + len(data)] = data
    path = tmp_path / f"damaged{form}"
    path.write_bytes(encoded)
    try:
        message = str(read_photo(path).shape)
    except SourceError as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\xff\xd8\xff"])
def test_no_picture(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text.jpg"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"text\.jpg"):
        read_photo(path)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (20000, 20000)).save(path)
    with pytest.raises(SourceError, match="at most 178 megapixels"):
        read_photo(path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        read_photo(tmp_path / "none.jpg")
