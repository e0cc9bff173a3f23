"""Video files and network streams through PyAV.

Rotation, odd sizes, grey and 10-bit pictures become upright 8-bit BGR. PTS is the container's own, untouched,
and only estimated (and counted in the ledger) where a frame has none. Packets that do not decode are counted
and passed over.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from fractions import Fraction
from urllib.parse import urlsplit, urlunsplit

import av
import av.error
import av.logging
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.errors import SourceError
from pipeline.messages import Frame, Ledger, Stamp, StreamInfo

LIVE_SCHEMES = frozenset({"rtsp", "rtsps"})
NETWORK_SCHEMES = LIVE_SCHEMES | {"http", "https"}
DEFAULT_RATE_HZ = 25.0
OPEN_TIMEOUT_SECONDS = 5.0
READ_TIMEOUT_SECONDS = 10.0
_MAX_BAD_READS = 100
"""Reads in a row that may fail before the rest of a file counts as unreadable."""

av.logging.set_level(None)  # FFmpeg's own chatter; what matters comes back as an error or is counted


def without_credentials(uri: str) -> str:
    """An address as it may be shown and written: user, password and query values are taken out."""
    try:
        parts = urlsplit(uri)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return uri.split("://", 1)[0] + "://…"
    host = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, host + port, parts.path, "…" if parts.query else "", ""))


class VideoSource:
    """A video file or a network stream through PyAV."""

    def __init__(self, uri: str, stream: str) -> None:
        self._uri = uri
        self._shown = without_credentials(uri) if "://" in uri else uri
        self._container = self._open()
        try:
            self._stream = self._video_stream()
            self._check_complete()
            self._counted = Ledger(stream)  # what peeking for the first frame met
            self._frames = self._decode()
            self._first = next(self._frames, None)
            if self._first is None:
                raise SourceError(
                    f"{self._shown}: not one frame can be decoded; the file is damaged or holds no pictures"
                )
        except BaseException:
            self._container.close()
            raise
        width, height = self._first.width, self._first.height
        if _turns(self._first) % 2:
            width, height = height, width
        live = self._container.duration is None and urlsplit(uri).scheme in NETWORK_SCHEMES
        frames = self._stream.frames or None
        self.info = StreamInfo(
            stream, (width, height), _rate_hz(self._stream), None if live else frames, live
        )

    def close(self) -> None:
        self._frames.close()
        self._container.close()

    def frames(self, ledger: Ledger, epoch: int = 0, first_seq: int = 0) -> Iterator[Frame]:
        ledger.undecodable_packets += self._counted.undecodable_packets
        self._counted = ledger
        seq, size = first_seq, None
        for frame, pts_seconds in self._with_pts(ledger):
            monotonic, wall = time.monotonic(), time.time()
            ledger.captured += 1
            if frame.is_corrupt:
                ledger.drop("capture", "corrupt")
                seq += 1
                continue
            if size not in (None, (frame.width, frame.height)):
                epoch += 1
            size = (frame.width, frame.height)
            yield Frame(
                Stamp(self.info.stream, epoch, seq, pts_seconds, monotonic, wall), _upright_bgr(frame)
            )
            seq += 1

    def _open(self) -> InputContainer:
        network = urlsplit(self._uri).scheme in NETWORK_SCHEMES
        options = {"rtsp_transport": "tcp"} if urlsplit(self._uri).scheme in LIVE_SCHEMES else {}
        timeout = (OPEN_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS) if network else None
        try:
            return av.open(self._uri, options=options, timeout=timeout)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SourceError(self._why_not(error, network)) from None

    def _why_not(self, error: Exception, network: bool) -> str:
        reason = getattr(error, "strerror", None) or type(error).__name__
        if isinstance(error, av.error.ExitError):
            reason = f"no answer within {OPEN_TIMEOUT_SECONDS:g} s"
        if network:
            return f"{self._shown}: cannot be reached ({reason}); check the address and that the server runs"
        if isinstance(error, PermissionError):
            return f"{self._shown}: may not be read; check its permissions"
        return (
            f"{self._shown}: not a video that can be opened ({reason}); expected a complete video: one "
            "that was cut short lacks its index, and a name does not make a video"
        )

    def _video_stream(self) -> VideoStream:
        # A text file passes for terminal art, an album cover for a film.
        if self._container.format.name == "tty":
            raise SourceError(f"{self._shown}: a text file, not a video")
        for stream in self._container.streams.video:
            if not stream.disposition & av.stream.Disposition.attached_pic:
                # Frame threads would hold frames back: fine for a file, latency for a live stream.
                live = self._container.duration is None and "://" in self._uri
                stream.thread_type = "SLICE" if live else "AUTO"
                return stream
        kinds = sorted({str(s.type) for s in self._container.streams}) or ["none"]
        raise SourceError(
            f"{self._shown}: no video stream in it (streams: {', '.join(kinds)}); expected a video"
        )

    def _check_complete(self) -> None:
        """An MP4 whose index stands in front opens even when its pictures are cut off."""
        if "mp4" not in self._container.format.name or "://" in self._uri:
            return
        entries = self._stream.index_entries
        size = self._container.size
        ends = [e.pos + e.size for e in (entries[i] for i in range(len(entries)))]
        whole = sum(end <= size for end in ends)
        if whole < len(ends):
            raise SourceError(
                f"{self._shown}: truncated, {whole} of {len(ends)} frames are there; copy the file again, or "
                "keep what is there with: ffmpeg -i FILE -c copy WHOLE.mp4"
            )

    def _decode(self) -> Generator[VideoFrame, None, None]:
        """Frames as the decoder gives them; packets that do not decode are counted and passed over."""
        bad = 0
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
                frames = packet.decode()
                bad = 0
            except (StopIteration, av.error.EOFError):
                return
            except (av.error.InvalidDataError, av.error.UndefinedError, av.error.PatchWelcomeError):
                self._counted.undecodable_packets += 1
                bad += 1
                if bad >= _MAX_BAD_READS:
                    return
                packets = self._container.demux(self._stream)
                continue
            except (av.error.FFmpegError, OSError) as error:
                reason = getattr(error, "strerror", None) or type(error).__name__
                raise SourceError(
                    f"{self._shown}: reading failed ({reason}); check the connection or the disk"
                ) from None
            yield from (frame for frame in frames if isinstance(frame, VideoFrame))

    def _with_pts(self, ledger: Ledger) -> Iterator[tuple[VideoFrame, float]]:
        """Frames with their PTS in seconds. One without PTS gets its neighbour's and the nominal interval."""
        interval = 1.0 / self.info.rate_hz
        last: float | None = None
        held: list[VideoFrame] = []
        frame = self._first
        while frame is not None:
            if frame.pts is None and last is None and len(held) < 8:
                held.append(frame)  # the first frames of an RTSP stream: the next PTS tells
            else:
                if frame.pts is not None:
                    pts = float(frame.pts * (frame.time_base or Fraction(1)))
                else:
                    pts = interval * len(held) if last is None else last + interval
                    ledger.estimated_pts += 1
                yield from self._release(held, pts, ledger)
                yield frame, pts
                last = pts
            frame = next(self._frames, None)
        yield from self._release(held, interval * len(held), ledger)

    def _release(
        self, held: list[VideoFrame], next_pts: float, ledger: Ledger
    ) -> Iterator[tuple[VideoFrame, float]]:
        count = len(held)
        for i, frame in enumerate(held):
            ledger.estimated_pts += 1
            yield frame, next_pts - (count - i) / self.info.rate_hz
        held.clear()


def _rate_hz(stream: VideoStream) -> float:
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and 1.0 <= float(rate) <= 240.0:
            return float(rate)
    return DEFAULT_RATE_HZ


def _turns(frame: VideoFrame) -> int:
    """Quarter turns counter-clockwise that make the frame upright."""
    return round(frame.rotation / 90) % 4


def _upright_bgr(frame: VideoFrame) -> NDArray[np.uint8]:
    image = frame.to_ndarray(format="bgr24")
    return np.ascontiguousarray(np.rot90(image, _turns(frame)))
