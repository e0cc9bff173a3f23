"""What a camera and a file do to a picture: lens blur, tones, noise, JPEG and H.264."""

from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from train.synth.demo import add_noise


@dataclass(frozen=True)
class Tone:
    """How a camera renders tones.

    gamma_bgr: exponents of the three channels; contrast: 1 plain; saturation: 1 plain, 0 grey
    sharpen: share of an unsharp mask
    """

    gamma_bgr: tuple[float, float, float]
    contrast: float
    saturation: float
    sharpen: float


@dataclass(frozen=True)
class Camera:
    """blur_px, noise_levels: standard deviations; quality: of JPEG, crf: of H.264, None without."""

    blur_px: float
    noise_levels: float
    quality: int | None
    crf: int | None
    tone: Tone | None = None


def draw_camera(rng: np.random.Generator, moving: bool) -> Camera:
    """moving: a clip may go through H.264, a still only through JPEG."""
    blur = float(rng.choice((0.0, rng.uniform(0.3, 0.8), rng.uniform(0.8, 1.6)), p=(0.35, 0.5, 0.15)))
    noise = float(rng.choice((0.0, rng.uniform(0.5, 2.5), rng.uniform(2.5, 8.0)), p=(0.2, 0.6, 0.2)))
    tone = _draw_tone(rng)
    if moving and rng.random() < 0.6:
        return Camera(blur, noise, None, int(rng.integers(18, 36)), tone)
    return Camera(blur, noise, int(rng.integers(35, 97)) if rng.random() < 0.8 else None, None, tone)


def _draw_tone(rng: np.random.Generator) -> Tone:
    overall = rng.lognormal(0, 0.14)
    blue, green, red = (float(overall * own) for own in rng.lognormal(0, 0.05, 3))
    saturation = 0.0 if rng.random() < 0.04 else float(rng.uniform(0.55, 1.12))
    sharpen = float(rng.uniform(0.2, 1.0)) if rng.random() < 0.3 else 0.0
    return Tone((blue, green, red), float(rng.uniform(0.85, 1.25)), saturation, sharpen)


def _toned(picture: NDArray[np.uint8], tone: Tone) -> NDArray[np.uint8]:
    """Contrast and gamma by table, then saturation and sharpness."""
    ramp = np.arange(256)[:, None] / 255
    curve = np.clip(0.5 + tone.contrast * (ramp ** np.array(tone.gamma_bgr) - 0.5), 0, 1)
    table = np.round(255 * curve).astype(np.uint8)[None]
    picture = np.asarray(cv2.LUT(picture, table), np.uint8)
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    picture = np.asarray(cv2.addWeighted(picture, tone.saturation, grey, 1 - tone.saturation, 0), np.uint8)
    if tone.sharpen:
        soft = cv2.GaussianBlur(picture, (0, 0), 1.2)
        picture = np.asarray(cv2.addWeighted(picture, 1 + tone.sharpen, soft, -tone.sharpen, 0), np.uint8)
    return picture


def photograph(picture: NDArray[np.uint8], camera: Camera, seed: int) -> NDArray[np.uint8]:
    """Blur, tone, noise and JPEG; H.264 is for whole clips."""
    if camera.blur_px:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), camera.blur_px), np.uint8)
    if camera.tone is not None:
        picture = _toned(picture, camera.tone)
    if camera.noise_levels:
        add_noise(picture, camera.noise_levels, np.uint32(seed))
    if camera.quality is not None:
        packed = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, camera.quality])[1]
        picture = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
    return picture


def recorded(pictures: list[NDArray[np.uint8]], crf: int, rate_hz: int) -> list[NDArray[np.uint8]]:
    """The pictures (all H×W×3 uint8 BGR, H and W even) after H.264."""
    file = BytesIO()
    height, width = pictures[0].shape[:2]
    with av.open(file, "w", format="mp4") as container:
        # Without lookahead, as a camera encodes: with it, x264 does not give the same bytes every time.
        options = {"crf": str(crf), "preset": "veryfast", "tune": "zerolatency", "threads": "1"}
        stream = container.add_stream("libx264", rate=rate_hz, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for k, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame.pts, frame.time_base = k, Fraction(1, rate_hz)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file, "r") as source:
        decoded = source.decode(source.streams.video[0])
        return [np.asarray(frame.to_ndarray(format="bgr24"), np.uint8) for frame in decoded]
