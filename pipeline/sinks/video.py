"""The overlay as an MP4 file (H.264), with the times of the source."""

# ruff: noqa: ARG002  (the methods of Sink take more than one kind of output needs)

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.errors import OutputError
from pipeline.messages import AUResult, Frame, Ledger, Stamp, StreamInfo
from pipeline.overlay import Overlay
from pipeline.sinks.files import PartFile
from pipeline.sinks.rate import RateMeter

TICKS_PER_SECOND = 360_000
"""Holds milliseconds, MPEG's 90 kHz and every usual frame rate, 30000/1001 included, without rounding."""

# The encoder shares the machine with inference: a fast preset, and as many threads as keep two cores busy at
# most. No B-frames and no lookahead, so that memory stays small with 4K pictures and DTS equals PTS.
ENCODER_OPTIONS = {"preset": "superfast", "crf": "21", "bf": "0", "rc-lookahead": "0", "threads": "2"}
_BT601, _LIMITED_RANGE = 6, 1  # FFmpeg's AVCOL_SPC_SMPTE170M and AVCOL_RANGE_MPEG


class Timeline:
    """Presentation times of one output, in ticks, strictly rising.

    A file keeps its own times; a live source begins at 0. A new epoch that falls back in time (a loop, a
    reconnect) goes on one frame interval after the last picture; a single time that does not rise is moved up
    by one tick.
    """

    def __init__(self, rate_hz: float, live: bool) -> None:
        # Sources without a rate say 0, NaN or nonsense.
        self.interval = round(TICKS_PER_SECOND / (rate_hz if 0.1 <= rate_hz <= 1000.0 else 25.0))
        """The nominal frame interval in ticks."""
        self._from_zero = live
        self._offset = 0
        self._last: int | None = None
        self._epoch: int | None = None

    def ticks(self, stamp: Stamp) -> int:
        own = round(stamp.pts_seconds * TICKS_PER_SECOND)
        if self._last is None:
            # MP4 has no times before 0.
            self._offset = -own if self._from_zero or own < 0 else 0
            ticks = own + self._offset
        else:
            if stamp.epoch != self._epoch and own + self._offset <= self._last:
                self._offset = self._last + self.interval - own
            ticks = max(own + self._offset, self._last + 1)
        self._last, self._epoch = ticks, stamp.epoch
        return ticks


class VideoSink:
    """The overlay of one stream. A picture of another size than the first is fitted into the first's."""

    lossless = True

    def __init__(self, path: Path, overlay: Overlay, from_zero: bool = False) -> None:
        """`overlay`: what draws, for all files of a stream; `from_zero`: whether times begin anew here."""
        self._part = PartFile(path)
        self._overlay, self._from_zero = overlay, from_zero
        self._rate = RateMeter()
        self._timeline: Timeline | None = None
        self._container: av.container.OutputContainer | None = None
        self._stream: VideoStream | None = None

    def open_stream(self, info: StreamInfo) -> None:
        self._timeline = Timeline(info.rate_hz, info.live or self._from_zero)

    def write(self, frame: Frame, results: Sequence[AUResult]) -> None:
        assert self._timeline is not None, "open_stream comes first"
        picture = self._overlay.draw(frame, results, self._rate.tick())
        with self._errors():
            if self._stream is None:
                self._open(picture)
            assert self._stream is not None
            size_wh = (self._stream.width, self._stream.height)
            # OpenCV's conversion takes a fifth of swscale's time and does not darken.
            yuv = cv2.cvtColor(fitted(picture, size_wh), cv2.COLOR_BGR2YUV_I420)
            video_frame = av.VideoFrame.from_ndarray(np.asarray(yuv, np.uint8), format="yuv420p")
            video_frame.pts = self._timeline.ticks(frame.stamp)
            video_frame.time_base = Fraction(1, TICKS_PER_SECOND)
            self._mux(video_frame)
        self._part.rows += 1

    def close_stream(self, ledger: Ledger) -> None:
        self._close()

    def finish(self) -> list[Path]:
        self._close()
        if self._part.rows == 0:  # no picture, no video
            self._part.discard()
            return []
        return [self._part.commit()]

    def abort(self) -> None:
        # Closing writes the index, so that what is there can be played.
        with suppress(OSError):
            self._close()
        self._part.abandon()

    def _open(self, picture: NDArray[np.uint8]) -> None:
        height, width = picture.shape[:2]
        container = av.open(str(self._part.part), "w", format="mp4", options={"movflags": "+faststart"})
        stream = container.add_stream("libx264", options=ENCODER_OPTIONS)
        # yuv420p has half as many colours as pixels each way: odd sizes get one more column or row.
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, TICKS_PER_SECOND)
        context = stream.codec_context
        context.colorspace, context.color_range = _BT601, _LIMITED_RANGE  # what OpenCV converts to
        self._container, self._stream = container, stream

    def _mux(self, picture: av.VideoFrame | None) -> None:
        assert self._container is not None
        assert self._stream is not None
        assert self._timeline is not None
        for packet in self._stream.encode(picture):
            packet.duration = self._timeline.interval  # counts for the last one; others end at the next PTS
            self._container.mux(packet)

    def _close(self) -> None:
        if self._container is None:
            return
        with self._errors():
            try:
                self._mux(None)
            finally:
                container, self._container = self._container, None
                container.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with self._part.errors():
            try:
                yield
            except av.FFmpegError as error:
                if isinstance(error, OSError):
                    raise  # with its errno: a full disk and the like
                raise OutputError(
                    f"{self._part.target}: cannot be encoded: {error}; choose another --out"
                ) from error


def fitted(picture: NDArray[np.uint8], size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture in exactly this size: as it is, with its last column or row doubled, or scaled into it."""
    height, width = picture.shape[:2]
    right, bottom = size_wh[0] - width, size_wh[1] - height
    if right == bottom == 0:
        return picture
    if right in (0, 1) and bottom in (0, 1):
        return np.asarray(cv2.copyMakeBorder(picture, 0, bottom, 0, right, cv2.BORDER_REPLICATE), np.uint8)
    scale = min(size_wh[0] / width, size_wh[1] / height)
    inner = cv2.resize(picture, (max(1, round(width * scale)), max(1, round(height * scale))))
    canvas = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    y, x = (size_wh[1] - inner.shape[0]) // 2, (size_wh[0] - inner.shape[1]) // 2
    canvas[y : y + inner.shape[0], x : x + inner.shape[1]] = inner
    return canvas
