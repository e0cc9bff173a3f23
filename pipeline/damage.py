"""What is missing or damaged in a video: which of its pictures can be trusted, and what readers jump over.

A packet that does not decode is passed over and counted. What the decoder gives after it is predicted
from a picture that is not there: smeared faces that no flag tells from real ones. So from damage on (a packet
that fails or that the container calls corrupt, a stretch that the demuxer jumped over, a frame that the
decoder patched up) every frame up to the next key frame is counted and dropped, for at most
`_LONGEST_DAMAGE_SECONDS`: a stream that refreshes bit by bit has no key frames.
"""

from __future__ import annotations

from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

_LONGEST_DAMAGE_SECONDS = 10.0
_JUMP_BYTES = 1024
"""Matroska puts some 30 bytes between blocks; a longer stretch that no packet covers was not understood."""
_AVI_CHUNK_HEADER_BYTES = 8


class Damage:
    """Whether what the decoder gives can be trusted."""

    def __init__(self) -> None:
        self._since: float | None = None
        """PTS in seconds of the first frame dropped for the damage; None while there is none."""
        self._active = False
        self._first_good: int | None = None
        """The least PTS, in the stream's time base, of a key frame that ends the damage; None: any."""

    def begins(self, pts: int | None, includes_it: bool = False) -> None:
        """Here something is lost; `includes_it`: the frame with this PTS may come and is not whole."""
        self._active, self._since = True, None
        self._first_good = None if pts is None else pts + includes_it

    def reason_to_drop(self, frame: VideoFrame) -> str | None:
        if frame.is_corrupt:
            self.begins(frame.pts, includes_it=True)
            return "corrupt"
        if not self._active:
            return None
        early = self._first_good is not None and frame.pts is not None and frame.pts < self._first_good
        now = frame.time
        if self._since is None:
            self._since = now
        lasted = 0.0 if now is None or self._since is None else now - self._since
        if (frame.key_frame and not early) or lasted > _LONGEST_DAMAGE_SECONDS:
            self._active = False
            return None
        return "after damage"


class Matroska:
    """Finds the stretches that FFmpeg's Matroska reader jumps over without a word, to the next cluster."""

    def __init__(self) -> None:
        self._position = -1
        self._end: int | None = None

    def packets_lost_before(self, packet: Packet) -> int:
        """1 where bytes before this packet belong to none; how many packets they held is not known."""
        if packet.pos is None or packet.pos < 0:
            return 0
        jumped = self._end is not None and packet.pos - self._end > _JUMP_BYTES
        # Laced packets share a position; a block's additions (an alpha channel) follow it.
        begin = self._end if packet.pos == self._position and self._end is not None else packet.pos
        self._end = begin + packet.size
        if packet.has_sidedata("matroska_block_additional"):
            self._end = None
        self._position = packet.pos
        return int(jumped)


class Avi:
    """AVI's times are the numbers of the pictures; after a jump its reader is wrong, the index is not."""

    def __init__(self, stream: VideoStream) -> None:
        entries = stream.index_entries
        self._stream_index = stream.index
        self._numbers = {e.pos: e.timestamp for e in (entries[i] for i in range(len(entries)))}
        self._shift = 0

    def packets_lost_before(self, packet: Packet) -> int:
        """How many; the packet's times are set right."""
        if packet.stream_index != self._stream_index or packet.dts is None or packet.pos is None:
            return 0
        number = self._numbers.get(packet.pos - _AVI_CHUNK_HEADER_BYTES)
        lost = 0 if number is None else max(0, number - packet.dts - self._shift)
        self._shift += lost
        if self._shift:
            packet.dts += self._shift
            packet.pts = None if packet.pts is None else packet.pts + self._shift
        return lost
