from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sink_samples import CEDNN, crop, info, ledger, open_one, result, stamp

from pipeline.messages import Frame
from pipeline.sinks.video import TICKS_PER_SECOND, Timeline, fitted


def picture(size_wh: tuple[int, int], shade: int = 0) -> np.ndarray:
    """Four plain quarters of known colours; the shade tells frames apart."""
    image = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    h, w = size_wh[1] // 2, size_wh[0] // 2
    image[:h, :w], image[:h, w:] = (200, 40, 40), (40, 200, 40)
    image[h:, :w], image[h:, w:] = (40, 40, 200), (30 + shade, 30 + shade, 30 + shade)
    return image


def decode(path: Path) -> list[tuple[float, np.ndarray]]:
    with av.open(str(path)) as container:
        return [(float(f.time), f.to_ndarray(format="bgr24")) for f in container.decode(video=0)]


def write(
    path: Path, times: list[float], size_wh: tuple[int, int] = (160, 120), live: bool = False
) -> list[Path]:
    sink = open_one(path)
    sink.open_stream(info(live=live))
    for i, t in enumerate(times):
        at = stamp(i, pts=t)
        sink.write(Frame(at, picture(size_wh, 8 * i)), [result(at, None)])
    sink.close_stream(ledger())
    return sink.finish()


def test_variable_frame_rate_survives(tmp_path: Path) -> None:
    times = [0.0, 1001 / 24000, 0.1, 0.1333, 0.5, 0.52, 1.9, 2.0 + 1 / 90000]
    assert write(tmp_path / "o.mp4", times) == [tmp_path / "o.mp4"]
    frames = decode(tmp_path / "o.mp4")
    assert [t for t, _ in frames] == pytest.approx(times, abs=0.6 / TICKS_PER_SECOND)
    for i, (_, image) in enumerate(frames):  # each at its own time, in its own colours
        assert image[100:110, 20:60].mean(axis=(0, 1)) == pytest.approx((40, 40, 200), abs=6)
        assert image[100:110, 100:140].mean(axis=(0, 1)) == pytest.approx((30 + 8 * i,) * 3, abs=4)


def test_times_of_a_file_are_kept_and_of_a_live_source_begin_at_zero(tmp_path: Path) -> None:
    write(tmp_path / "file.mp4", [1.4, 1.5, 1.6])
    assert [t for t, _ in decode(tmp_path / "file.mp4")] == pytest.approx([1.4, 1.5, 1.6])
    write(tmp_path / "live.mp4", [5000.0, 5000.1, 5000.2], live=True)
    assert [t for t, _ in decode(tmp_path / "live.mp4")] == pytest.approx([0.0, 0.1, 0.2])


def test_the_index_stands_before_the_pictures(tmp_path: Path) -> None:
    write(tmp_path / "o.mp4", [0.0, 0.04])
    data = (tmp_path / "o.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("size_wh", [(161, 121), (64, 65), (203, 360)])
def test_odd_sizes_are_padded_by_one(tmp_path: Path, size_wh: tuple[int, int]) -> None:
    write(tmp_path / "o.mp4", [0.0], size_wh)
    ((_, image),) = decode(tmp_path / "o.mp4")
    assert image.shape[:2] == (size_wh[1] + size_wh[1] % 2, size_wh[0] + size_wh[0] % 2)


def test_a_photo_is_a_film_of_one_picture_that_lasts(tmp_path: Path) -> None:
    write(tmp_path / "o.mp4", [0.0])
    with av.open(str(tmp_path / "o.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.frames == 1
        assert stream.duration * stream.time_base == pytest.approx(1 / 25, abs=1e-3)


def test_a_change_of_resolution_is_fitted_into_the_first_size(tmp_path: Path) -> None:
    sink = open_one(tmp_path / "o.mp4")
    sink.open_stream(info())
    for i, size_wh in enumerate([(160, 120), (320, 180), (90, 160)]):
        at = stamp(i, epoch=i)
        sink.write(Frame(at, np.full((size_wh[1], size_wh[0], 3), 180, np.uint8)), [result(at, crop())])
    sink.close_stream(ledger())
    sink.finish()
    frames = decode(tmp_path / "o.mp4")
    assert {image.shape for _, image in frames} == {(120, 160, 3)}
    assert len(frames) == 3
    assert frames[2][1][60, 5].max() < 40  # black beside the portrait picture


def test_one_file_per_stream_and_none_without_pictures(tmp_path: Path) -> None:
    sink = open_one(tmp_path / "o.mp4", (CEDNN,), ("a.mp4", "b.mp4"))
    for stream, n in (("a.mp4", 2), ("b.mp4", 0)):
        sink.open_stream(info(stream))
        for i in range(n):
            at = stamp(i, stream)
            sink.write(Frame(at, picture((64, 64))), [result(at, None)])
        sink.close_stream(ledger(stream))
    assert sink.finish() == [tmp_path / "o.a.mp4"]
    assert [path.name for path in tmp_path.iterdir()] == ["o.a.mp4"]


@given(
    st.lists(st.tuples(st.floats(-10, 1e5, allow_nan=False), st.booleans()), min_size=1, max_size=40),
    st.floats(),
    st.booleans(),
)
def test_ticks_always_rise_and_rising_times_are_kept(
    moments: list[tuple[float, bool]], rate_hz: float, live: bool
) -> None:
    timeline, epoch, ticks = Timeline(rate_hz, live), 0, []
    for i, (t, new_epoch) in enumerate(moments):
        epoch += new_epoch
        ticks.append(timeline.ticks(stamp(i, pts=t, epoch=epoch)))
    assert ticks[0] >= 0
    assert all(a < b for a, b in pairwise(ticks))

    rising = sorted({round(abs(t), 4) for t, _ in moments})
    timeline = Timeline(rate_hz, live=False)
    kept = [timeline.ticks(stamp(i, pts=t)) for i, t in enumerate(rising)]
    assert kept == [round(t * TICKS_PER_SECOND) for t in rising]


def test_a_loop_goes_on_one_interval_after_its_end() -> None:
    timeline = Timeline(25.0, live=False)
    seconds = [
        timeline.ticks(stamp(i, pts=t, epoch=e)) / TICKS_PER_SECOND
        for i, (t, e) in enumerate([(0.0, 0), (0.04, 0), (0.08, 0), (0.0, 1), (0.04, 1), (9.0, 2)])
    ]
    assert seconds == pytest.approx([0.0, 0.04, 0.08, 0.12, 0.16, 9.12])


def test_fitted_keeps_what_fits() -> None:
    image = picture((64, 48))
    assert fitted(image, (64, 48)) is image
    padded = fitted(image[:47, :63], (64, 48))
    assert (padded[:47, :63] == image[:47, :63]).all()
    assert (padded[47, :63] == image[46, :63]).all()
