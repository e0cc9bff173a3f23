"""Pictures of a live H.264 stream that never arrived.

Over UDP, or from a camera whose network is too slow, pictures go missing whole. FFmpeg's H.264 decoder then
predicts from whatever it has, and no flag tells the smeared pictures from real ones. The stream itself does:
reference pictures carry running numbers (ITU-T H.264, 7.4.3, `frame_num`), in the header of every slice.

Losses of pictures that nothing is predicted from show in the PTS only, and harm no other picture. Bytes that
were changed, and still are a stream, nobody can tell; TCP's and UDP's checksums keep them away.
"""

from __future__ import annotations

from av.packet import Packet

_SLICE, _IDR_SLICE, _SPS = 1, 5, 7
_START = b"\0\0\1"
_WITH_CHROMA_FORMAT = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
"""Profiles whose sequence parameter sets say more (7.3.2.1.1)."""
_MOST_HEADER_BYTES = 512


class FrameNumbers:
    """Watches the numbers of an H.264 stream in byte-stream format (annex B).

    Args:
        extradata: parameter sets that came ahead of the stream, if any.
    """

    def __init__(self, extradata: bytes | None) -> None:
        self._bits: int | None = None
        """Of `frame_num`; None while no parameter set has said so, or where numbers may be left out."""
        self._two_planes = False
        self._last: int | None = None
        """`frame_num` of the last reference picture."""
        self._read_picture(extradata or b"")

    def packets_lost_before(self, packet: Packet) -> int:
        """How many reference pictures are missing before this packet, its own first slices included."""
        return self._read_picture(bytes(memoryview(packet)))

    def _read_picture(self, data: bytes) -> int:
        begin = data.find(_START)
        while begin >= 0:
            unit = data[begin + 3 : begin + 3 + _MOST_HEADER_BYTES]
            kind = unit[0] & 31 if unit else 0
            try:
                if kind == _SPS:
                    self._read_parameters(unit)
                elif kind in (_SLICE, _IDR_SLICE):
                    return self._read_slice(unit, kind == _IDR_SLICE)
            except EOFError:
                return 0  # cut short: the decoder will say so
            begin = data.find(_START, begin + 3)
        return 0

    def _read_parameters(self, unit: bytes) -> None:
        bits = _Bits(unit[1:])
        profile = bits.take(24) >> 16
        bits.number()
        self._two_planes = False
        if profile in _WITH_CHROMA_FORMAT:
            chroma_format = bits.number()
            if chroma_format == 3:
                self._two_planes = bool(bits.take(1))
            bits.number(), bits.number(), bits.take(1)
            if bits.take(1):
                for i in range(12 if chroma_format == 3 else 8):
                    if bits.take(1):
                        bits.skip_scaling_list(16 if i < 6 else 64)
        frame_num_bits = bits.number() + 4
        order = bits.number()
        if order == 0:
            bits.number()
        elif order == 1:
            bits.take(1), bits.number(), bits.number()
            for _ in range(min(bits.number(), 255)):
                bits.number()
        bits.number()
        may_leave_out = bits.take(1)
        self._bits = None if may_leave_out or frame_num_bits > 16 else frame_num_bits

    def _read_slice(self, unit: bytes, idr: bool) -> int:
        if self._bits is None:
            return 0
        bits = _Bits(unit[1:])
        first_block = bits.number()
        bits.number(), bits.number()
        if self._two_planes:
            bits.take(2)
        number, is_reference = bits.take(self._bits), bool(unit[0] & 0x60)
        last, size = self._last, 1 << self._bits
        if idr or is_reference:
            self._last = number
        elif last is not None and number != last:
            self._last = (number - 1) % size
        if first_block:
            return 1  # the slices above this one
        return 0 if idr or last is None or number == last else (number - last - 1) % size


class _Bits:
    """Bits of a unit, from the highest; EOFError behind the last."""

    def __init__(self, escaped: bytes) -> None:
        data = escaped.replace(b"\0\0\3", b"\0\0")  # 7.4.1: emulation prevention
        self._value, self._left = int.from_bytes(data), 8 * len(data)

    def take(self, count: int) -> int:
        if count > self._left:
            raise EOFError
        self._left -= count
        return (self._value >> self._left) & ((1 << count) - 1)

    def number(self) -> int:
        """Exp-Golomb (9.1); of a signed one, some number too."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def skip_scaling_list(self, count: int) -> None:
        last = following = 8
        for _ in range(count):
            if following:
                code = self.number()
                step = (code + 1) // 2 if code % 2 else -(code // 2)
                following = (last + step) % 256
            last = following or last
