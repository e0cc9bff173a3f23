"""Video files and network streams through PyAV.

Rotation, odd sizes, grey and 10-bit pictures become upright 8-bit BGR. PTS is the container's own, untouched,
and only estimated (and counted in the ledger) where a frame has none.
"""

from __future__ import annotations

import errno
import gc
import itertools
import math
import re
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import av
import av.error
import av.logging
import cv2
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.address import LIVE_SCHEMES, open_options, scheme_of, without_credentials
from pipeline.damage import Avi, Damage, Matroska
from pipeline.errors import SourceError, StalledError
from pipeline.h264 import FrameNumbers
from pipeline.messages import Frame, Ledger, Stamp, StreamInfo

DEFAULT_RATE_HZ = 25.0
OPEN_TIMEOUT_SECONDS = 5.0
READ_TIMEOUT_SECONDS = 10.0
FIRST_PICTURE_SECONDS = 15.0
"""A feed that is joined between two key frames shows nothing until the next."""
_MAX_BAD_READS = 100
"""Reads in a row that may fail before the rest of a file counts as unreadable."""
_MAX_PIXELS = 1 << 26
"""8192×8192: more than any camera gives; a damaged or hostile header can claim a thousand times that."""
_END_TOLERANCE_SECONDS = 0.5
_PEEKED_TIMELESS = 8
"""Pictures of a stream without times that are waited for, to learn how fast they come."""
_HELD_FRAMES = 8
"""First frames that wait for the first PTS; a stream without any must not wait for ever."""
_UNSPECIFIED = 2
"""AVCOL_SPC_UNSPECIFIED"""

av.logging.set_level(None)  # FFmpeg's own chatter; what matters comes back as an error or is counted


@dataclass(slots=True)
class _Picture:
    frame: VideoFrame
    reason: str | None
    """Why it is dropped; None for one that is fine."""
    decoded_seconds: float
    """On the monotonic clock."""


class VideoSource:
    """A video file or a network stream through PyAV.

    Args:
        uri: a path or an address.
        stream: what to call it.
        rtsp_transport: `tcp` or `udp`.
        stop: asked at every packet; reading ends when it says so.
        stall_seconds: raise `StalledError` when so long no picture comes; None: be patient.
    """

    def __init__(
        self,
        uri: str,
        stream: str,
        *,
        rtsp_transport: str = "tcp",
        stop: Callable[[], bool] = lambda: False,
        stall_seconds: float | None = None,
    ) -> None:
        self._uri = uri
        self._scheme = scheme_of(uri)
        self._shown = without_credentials(uri)
        self._transport, self._stop = rtsp_transport, stop
        self._read_seconds = stall_seconds or READ_TIMEOUT_SECONDS
        self._reformatter = VideoReformatter()
        self._display_matrix: tuple[int, ...] | None = None
        """Of the last key frame; None before the first picture."""
        self._container = self._open()
        try:
            self._stream = self._video_stream()
            self._check_complete()
            self._counted = Ledger(stream)  # what peeking for the first frame met
            self._patience = FIRST_PICTURE_SECONDS
            self._pictures = self._decode()
            self._timeless = self._container.format.name == "mpjpeg"
            """A row of JPEG pictures without times, as cameras send them over HTTP."""
            self._peeked = list(itertools.islice(self._pictures, _PEEKED_TIMELESS if self._timeless else 1))
            self._patience = stall_seconds or math.inf
            if not self._peeked:
                raise SourceError(
                    f"{self._shown}: not one frame can be decoded; the file is damaged or holds no pictures"
                )
            height, width = self._upright_bgr(self._peeked[0].frame).shape[:2]
        except BaseException:
            self._container.close()
            raise
        live = self._scheme in LIVE_SCHEMES or bool(self._scheme and self._container.duration is None)
        frames = None if live else self._stream.frames or None
        rate_hz = _measured_rate_hz(self._peeked) if self._timeless else _rate_hz(self._stream)
        self.info = StreamInfo(stream, (width, height), rate_hz, frames, live)

    def close(self) -> None:
        self._pictures.close()
        self._container.close()
        gc.collect()  # the frames whose side data was read: see _upright_bgr

    def frames(self, ledger: Ledger, epoch: int = 0, first_seq: int = 0) -> Iterator[Frame]:
        ledger.undecodable_packets += self._counted.undecodable_packets
        self._counted = ledger
        seq, size, ends_at = first_seq, None, None
        for picture, pts_seconds in self._with_pts(ledger):
            monotonic, wall = time.monotonic(), time.time()
            ledger.captured += 1
            frame = picture.frame
            ends_at = pts_seconds + float((frame.duration or 0) * (frame.time_base or 0))
            if picture.reason:
                ledger.drop("capture", picture.reason)
            else:
                image = self._upright_bgr(frame)
                if size not in (None, image.shape):
                    epoch += 1
                size = image.shape
                yield Frame(Stamp(self.info.stream, epoch, seq, pts_seconds, monotonic, wall), image)
            seq += 1
        if not self._stop():
            self._check_end(ledger, ends_at)

    def _open(self) -> InputContainer:
        options = {"max_pixels": str(_MAX_PIXELS), **open_options(self._scheme, self._transport)}
        timeout = (OPEN_TIMEOUT_SECONDS, self._read_seconds) if self._scheme else None
        began = time.monotonic()
        try:
            # "file:" keeps FFmpeg from taking a colon in a file's name for a protocol.
            return av.open(
                self._uri if self._scheme else f"file:{self._uri}", options=options, timeout=timeout
            )
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SourceError(self._why_not(error, time.monotonic() - began)) from None

    def _why_not(self, error: Exception, after_seconds: float) -> str:
        reason = _reason(error)
        # Cut off while it waits, the RTSP reader calls what it has so far invalid.
        waited = self._scheme and after_seconds >= OPEN_TIMEOUT_SECONDS
        if waited:
            reason = f"no answer within {OPEN_TIMEOUT_SECONDS:g} s"
        elif self._scheme and isinstance(error, av.error.InvalidDataError):
            return f"{self._shown}: what the server sends is not a video that can be opened ({reason})"
        if self._scheme:
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
        kinds = set()
        for stream in self._container.streams:
            if not isinstance(stream, VideoStream):
                kinds.add(str(stream.type))
            elif stream.disposition & av.stream.Disposition.attached_pic:
                kinds.add("cover picture")
            elif stream.codec_context is None:
                kinds.add("video in a format that FFmpeg does not decode")
            else:
                # Frame threads hold frames back, blur which packet failed, and at the end lose frames behind
                # a failure. Slices decode a 1080p frame in 3.6 ms where they took 2.4 on two cores, with
                # less work in all.
                stream.thread_type = "SLICE"
                if self._scheme in LIVE_SCHEMES:
                    # Slices that are decoded side by side are not missed when they are damaged: FFmpeg then
                    # flags 3 of 20 pictures that are visibly wrong, and with one thread all 20.
                    stream.codec_context.thread_count = 1
                stream.codec_context.options = {"max_pixels": str(_MAX_PIXELS)}
                return stream
        found = ", ".join(sorted(kinds)) or "none"
        raise SourceError(f"{self._shown}: no video stream in it (streams: {found}); expected a video")

    def _check_complete(self) -> None:
        """An MP4 whose index stands in front opens even when its pictures are cut off."""
        if "mp4" not in self._container.format.name or self._scheme:
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

    def _check_end(self, ledger: Ledger, ended_at: float | None) -> None:
        """Say so where the pictures end before the container says they do."""
        stated = self._stated_end()
        missing = 0.0 if stated is None or ended_at is None else stated - ended_at
        early = missing > max(_END_TOLERANCE_SECONDS, 2.0 / self.info.rate_hz)
        if self._scheme in LIVE_SCHEMES and (early or stated is None):
            raise SourceError(f"{self._shown}: the server closed the connection; check that it still runs")
        if early:
            ledger.ended = f"end of file, {missing:.1f} s before its stated end: cut short or damaged"

    def _stated_end(self) -> float | None:
        """Seconds at which the video ends, where the container says and FFmpeg did not see it in the data."""
        name, stream, duration = self._container.format.name, self._stream, self._container.duration
        if "matroska" in name or self._scheme in LIVE_SCHEMES:
            ends = _clock_seconds(stream.metadata.get("DURATION", ""))  # of the video; sound may be longer
            return ends or (None if duration is None else duration / av.time_base)
        if (name == "avi" or "mp4" in name) and stream.duration is not None and stream.time_base is not None:
            # Of an AVI that was cut off FFmpeg halves the duration, but not the number in the header.
            ticks = max(stream.duration, stream.frames) if name == "avi" else stream.duration
            return float(((stream.start_time or 0) + ticks) * stream.time_base)
        return None

    def _decode(self) -> Generator[_Picture, None, None]:
        """Pictures as the decoder gives them; packets that do not decode are counted and passed over."""
        damage = Damage()
        packets = pictures = failed = 0
        interlaced = False
        last_picture = time.monotonic()
        lost: SourceError | None = None
        try:
            for packet in self._packets(damage):
                if self._stop():
                    break
                if time.monotonic() - last_picture > self._patience:
                    raise self._stalled(self._patience)
                if packet is not None:
                    packets += _shows_a_picture(packet, self._stream.codec.name)
                    if packet.is_corrupt:
                        damage.begins(packet.pts, includes_it=True)
                try:
                    frames = self._stream.decode(packet)
                except av.error.EOFError:
                    break
                except av.error.FFmpegError:
                    failed += 1
                    self._counted.undecodable_packets += 1
                    damage.begins(None if packet is None else packet.pts)
                    continue
                for frame in frames:
                    pictures += 1
                    interlaced |= bool(frame.interlaced_frame)
                    frame.time_base = self._stream.time_base  # unset on the last ones, which have no packet
                    yield _Picture(frame, damage.reason_to_drop(frame), time.monotonic())
                    last_picture = time.monotonic()
        except SourceError as error:
            lost = error
        # Some fail without a word: those that follow a lost key frame, for one. (Interlaced: a field each.)
        if not interlaced:
            self._counted.undecodable_packets += max(0, packets - pictures - failed)
        if lost is not None:
            raise lost

    def _packets(self, damage: Damage) -> Iterator[Packet | None]:
        """Packets of the video and, last, None: flush."""
        layout = self._layout()
        # Of a Matroska file all streams, for only together do their packets cover its bytes.
        streams = list(self._container.streams) if isinstance(layout, Matroska) else [self._stream]
        bad = 0
        while bad < _MAX_BAD_READS:
            try:
                for packet in self._container.demux(*streams):
                    bad = 0
                    if not packet.size:
                        continue  # AVI's "as before"; to the decoder it would mean the end
                    lost = layout.packets_lost_before(packet) if layout else 0
                    if lost:
                        self._counted.undecodable_packets += lost
                        damage.begins(packet.pts)
                    if packet.stream_index == self._stream.index:
                        yield packet
                break
            except av.error.EOFError:
                break
            except (av.error.InvalidDataError, av.error.UndefinedError, av.error.PatchWelcomeError):
                bad += 1
                self._counted.undecodable_packets += 1
                damage.begins(None)
            except av.error.ExitError:
                raise self._stalled(self._read_seconds) from None
            except (av.error.FFmpegError, OSError) as error:
                if getattr(error, "errno", None) == errno.EIO and self._ends_with_the_connection():
                    break
                raise SourceError(
                    f"{self._shown}: reading failed ({_reason(error)}); check the connection or the disk"
                ) from None
        if bad >= _MAX_BAD_READS:
            self._counted.ended = f"the rest cannot be read: {bad} failures in a row"
        yield None

    def _layout(self) -> Matroska | Avi | FrameNumbers | None:
        """What tells of packets that are missing, for the containers whose readers do not."""
        name = self._container.format.name
        if self._scheme in LIVE_SCHEMES:
            h264 = self._stream.codec.name == "h264"
            return FrameNumbers(self._stream.codec_context.extradata) if h264 else None
        if self._scheme:
            return None
        if "matroska" in name:
            return Matroska()
        return Avi(self._stream) if name == "avi" else None

    def _stalled(self, seconds: float) -> StalledError:
        return StalledError(f"{self._shown}: no picture for {seconds:g} s; check the camera and the network")

    def _ends_with_the_connection(self) -> bool:
        """HTTP without a length: to the MP4 reader its end is a failure; `_check_end` tells which it is."""
        return self._scheme in ("http", "https") and self._container.size < 0

    def _with_pts(self, ledger: Ledger) -> Iterator[tuple[_Picture, float]]:
        """Pictures with their PTS in seconds; one without gets its neighbour's and the nominal interval."""
        interval = 1.0 / self.info.rate_hz
        last: float | None = None
        held: list[_Picture] = []
        avi = self._container.format.name == "avi"
        peeked, self._peeked = self._peeked, []
        began = peeked[0].decoded_seconds if peeked else 0.0
        for picture in itertools.chain(peeked, self._pictures):
            if self._timeless:
                ledger.estimated_pts += 1
                yield picture, picture.decoded_seconds - began
                continue
            # AVI numbers pictures in the order they are decoded in; what the decoder hands on as DTS is their
            # order of presentation.
            ticks = picture.frame.dts if avi else picture.frame.pts
            pts = None if ticks is None else float(ticks * (picture.frame.time_base or 1))
            if pts is None and last is None and len(held) < _HELD_FRAMES:
                held.append(picture)  # the first frames of an RTSP stream: the next PTS tells
                continue
            if pts is None:
                ledger.estimated_pts += not avi  # the last ones of an AVI are just counted on
                pts = interval * len(held) if last is None else last + interval
            yield from self._release(held, pts, ledger)
            yield picture, pts
            last = pts
        yield from self._release(held, interval * len(held), ledger)

    def _release(
        self, held: list[_Picture], next_pts: float, ledger: Ledger
    ) -> Iterator[tuple[_Picture, float]]:
        count = len(held)
        for i, picture in enumerate(held):
            ledger.estimated_pts += 1
            yield picture, next_pts - (count - i) / self.info.rate_hz
        held.clear()

    def _upright_bgr(self, frame: VideoFrame) -> NDArray[np.uint8]:
        # Without a note, HD means BT.709 to every player; FFmpeg's converter takes BT.601 for any size.
        hd = frame.width >= 1280 or frame.height > 576
        untold = frame.colorspace == _UNSPECIFIED and not frame.format.is_rgb
        source = Colorspace.ITU709 if hd and untold else None
        bgr = self._reformatter.reformat(frame, format="bgr24", src_colorspace=source)
        if frame.key_frame or self._display_matrix is None:
            # Seldom, as PyAV's side data keeps its frame alive until the garbage collector comes: 0.2 GB of
            # pictures in between.
            self._display_matrix = _display_matrix(frame)
        return _turned(np.asarray(bgr.to_ndarray(), np.uint8), self._display_matrix)


def _shows_a_picture(packet: Packet, codec: str) -> bool:
    """Not what an edit list hides, nor VP8's reference frames that are only predicted from."""
    if packet.is_discard:
        return False
    return codec not in ("vp8", "libvpx") or bool(memoryview(packet)[0] & 0x10)


def _measured_rate_hz(pictures: Sequence[_Picture]) -> float:
    """As they came; the first ones, which waited while the stream was opened, came at once."""
    steps = [b.decoded_seconds - a.decoded_seconds for a, b in pairwise(pictures)]
    steps = [step for step in steps if step > 1 / 240]
    return 1.0 / float(np.median(steps)) if steps else DEFAULT_RATE_HZ


def _rate_hz(stream: VideoStream) -> float:
    # The average is measured; the others are guesses that may be a clock's rate.
    for rate, highest in (
        (stream.average_rate, 1000.0),
        (stream.guessed_rate, 240.0),
        (stream.base_rate, 240.0),
    ):
        if rate and 0.1 <= float(rate) <= highest:
            return float(rate)
    return DEFAULT_RATE_HZ


def _clock_seconds(text: str) -> float | None:
    """Seconds of Matroska's `HH:MM:SS.fraction`."""
    found = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", text)
    return 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3]) if found else None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__


def _display_matrix(frame: VideoFrame) -> tuple[int, ...]:
    """a, b, c and d of x' = ax + cy, y' = bx + dy, in 16.16 fixed point; nothing where the frame has none."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(matrix, SideData):
        return ()
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5]
    return int(a), int(b), int(c), int(d)


def _turned(image: NDArray[np.uint8], display_matrix: tuple[int, ...]) -> NDArray[np.uint8]:
    """As the container's display matrix says: quarter turns and mirrorings, all eight of EXIF."""
    if not display_matrix:
        return np.ascontiguousarray(image)
    a, b, c, d = display_matrix
    if abs(b) > abs(a):
        image, a, d = cv2.transpose(image), c, b
    if a < 0 or d < 0:
        image = cv2.flip(image, -1 if a < 0 and d < 0 else 1 if a < 0 else 0)
    return np.ascontiguousarray(image)
