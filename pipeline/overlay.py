"""The picture that people look at: a frame with boxes, mesh outlines and a panel of action units per face.

Pure drawing, used by the video file and the window. All sizes follow the picture's, so that a frame of
640×360 and one of 3840×2160 look alike; text never falls below 11 px, and a panel that does not fit is left
out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from engines.spec import EngineSpec
from pipeline.messages import AUResult, FaceCrop, Frame

Image8 = NDArray[np.uint8]
Colour = tuple[int, int, int]
Rect = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels; x2 and y2 lie outside."""

# Okabe and Ito's colours, which stay apart under the common kinds of colour blindness; without black and the
# dark blue (unreadable on dark panels) and without the yellow-orange that warns of untrained weights. BGR.
ACCENTS: tuple[Colour, ...] = (
    (233, 180, 86),
    (115, 190, 40),
    (190, 140, 220),
    (66, 228, 240),
    (70, 130, 240),
    (230, 220, 205),
)
WARNING: Colour = (0, 176, 255)
WHITE: Colour = (250, 250, 250)
GREY: Colour = (190, 190, 190)
DARK: Colour = (24, 20, 18)
TRACK: Colour = (92, 88, 84)

TOP_AUS = 5

AU_NAMES = {
    "AU01": "inner brow raiser",
    "AU02": "outer brow raiser",
    "AU04": "brow lowerer",
    "AU05": "upper lid raiser",
    "AU06": "cheek raiser",
    "AU07": "lid tightener",
    "AU09": "nose wrinkler",
    "AU10": "upper lip raiser",
    "AU11": "nasolabial deepener",
    "AU12": "lip corner puller",
    "AU13": "cheek puffer",
    "AU14": "dimpler",
    "AU15": "lip corner depressor",
    "AU16": "lower lip depressor",
    "AU17": "chin raiser",
    "AU18": "lip puckerer",
    "AU20": "lip stretcher",
    "AU22": "lip funneler",
    "AU23": "lip tightener",
    "AU24": "lip pressor",
    "AU25": "lips part",
    "AU26": "jaw drop",
    "AU27": "mouth stretch",
    "AU28": "lip suck",
    "AU43": "eyes closed",
    "AU45": "blink",
}

# Closed paths over MediaPipe's 478 mesh points.
_FACE_OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
_FEATURES = (
    (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246),  # eye, left in the picture
    (
        263,
        249,
        390,
        373,
        374,
        380,
        381,
        382,
        362,
        398,
        384,
        385,
        386,
        387,
        388,
        466,
    ),  # eye, right in the picture
    (70, 63, 105, 66, 107, 55, 65, 52, 53, 46),  # brow, left in the picture
    (300, 293, 334, 296, 336, 285, 295, 282, 283, 276),  # brow, right in the picture
    (
        61,
        146,
        91,
        181,
        84,
        17,
        314,
        405,
        321,
        375,
        291,
        409,
        270,
        269,
        267,
        0,
        37,
        39,
        40,
        185,
    ),  # lips, outside
    (
        78,
        95,
        88,
        178,
        87,
        14,
        317,
        402,
        318,
        324,
        308,
        415,
        310,
        311,
        312,
        13,
        82,
        81,
        80,
        191,
    ),  # lips, inside
)

_STATES = {"warming": "warming up …", "off_hop": "between outputs"}


def accent(face: int) -> Colour:
    """The BGR colour of a face id, always the same."""
    return ACCENTS[face % len(ACCENTS)]


def draw(
    frame: Frame, results: Sequence[AUResult], engines: Sequence[EngineSpec], fps: float | None = None
) -> Image8:
    """One annotated picture, H×W×3 BGR uint8, of the frame's size; the frame itself is left as it is.

    `results` are all rows of the frame (one with `crop` None when it has no face); `fps` is the speed of
    processing, shown at the top.
    """
    return Overlay(engines).draw(frame, results, fps)


class Overlay:
    """Draws the frames of a run, so that panels keep their place and temporal values their bars.

    An engine that gives one value every few frames would flicker; its last value is drawn dimmed in between,
    until the window breaks (the row says `warming`) or the face is not in the frame.
    """

    def __init__(self, engines: Sequence[EngineSpec]) -> None:
        self._engines = tuple(engines)
        self._memory: dict[tuple[str, int], _Memory] = {}

    def draw(
        self, frame: Frame, results: Sequence[AUResult], fps: float | None = None, scale: float = 1.0
    ) -> Image8:
        """The annotated picture; resized by `scale` before anything is drawn."""
        image = _scaled(frame.image_bgr, scale)
        canvas = _Canvas(image)
        stream = frame.stamp.stream
        faces: list[_Face] = []
        for result in results:
            if result.crop is None:
                continue
            memory = self._memory.setdefault((stream, result.crop.face), _Memory())
            memory.remember(result)
            faces.append(_Face(result, result.crop, canvas.clip(result.crop.bbox_xyxy, scale), memory))
        seen = {(stream, face.crop.face) for face in faces}
        self._memory = {key: m for key, m in self._memory.items() if key[0] != stream or key in seen}

        for face in faces:
            _draw_outline(canvas, face.crop, scale)
        for face in faces:
            _draw_box(canvas, face)
        if faces:
            # From left to right, so that panels come to stand in the order of their faces.
            _draw_panels(canvas, sorted(faces, key=lambda face: face.box[0] + face.box[2]), self._engines)
        _draw_strip(canvas, frame, len(faces), fps)
        return image


@dataclass(slots=True)
class _Memory:
    """What the overlay keeps of a face from frame to frame."""

    last: dict[str, AUResult] = field(default_factory=dict)
    """By engine: the last row with a value."""
    panel_xy: tuple[int, int] | None = None
    narrow: bool = False
    """Once AU names did not fit, they stay away; otherwise the panel would jump between two widths."""
    top: int = TOP_AUS
    """How many bars an engine gets; falls when there is no room, and stays there for the same reason."""

    def remember(self, result: AUResult) -> None:
        if result.window is not None and result.window.state == "warming":
            self.last.clear()
        self.last |= dict.fromkeys(result.aus, result)


@dataclass(frozen=True, slots=True, eq=False)
class _Face:
    """One face of the frame that is being drawn; `box` is its bounding box within the picture."""

    result: AUResult
    crop: FaceCrop
    box: Rect
    memory: _Memory


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of a panel: a title (`tag` None), an engine's name and tag, or an AU with its bar."""

    text: str
    tag: str | None = None
    value: float | None = None
    threshold: float = 0.0
    active: bool = False
    dim: bool = False


def _lines(face: _Face, engines: Sequence[EngineSpec], top: int) -> list[_Line]:
    """The panel of a face, with the `top` strongest action units of each engine."""
    result, crop, memory = face.result, face.crop, face.memory
    lines = [_Line(f"face {crop.face} · neutral {crop.neutral}")]
    for spec in engines:
        source = result if spec.name in result.aus else memory.last.get(spec.name)
        lines.append(_Line(spec.name, tag=spec.trained))
        if source is None:
            state = result.window.state if result.window is not None and spec.window > 1 else None
            lines.append(_Line(_STATES.get(state or "", "no value"), dim=True))
            continue
        values = source.aus[spec.name]
        thresholds = dict(zip(spec.aus, spec.thresholds, strict=True))
        # The strongest, in the order of their numbers: sorted by value they would change places all the time.
        strongest = sorted(values, key=lambda au: -_finite(values[au]))[:top]
        active = source.active.get(spec.name, ())
        lines += [
            _Line(
                au,
                value=_finite(values[au]),
                threshold=thresholds.get(au, 0.0),
                active=au in active,
                dim=source is not result,
            )
            for au in sorted(strongest)
        ]
    return lines


def _finite(value: float) -> float:
    return min(max(float(value), 0.0), 1.0) if np.isfinite(value) else 0.0


def _scaled(image: Image8, scale: float) -> Image8:
    if scale == 1.0:
        return image.copy()
    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _overlap(a: Rect, b: Rect) -> int:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0


def _gap(a: Rect, b: Rect) -> int:
    """Distance between two rectangles along the axis in which they are further apart; 0 when they touch."""
    return max(b[0] - a[2], a[0] - b[2], b[1] - a[3], a[1] - b[3], 0)


def _draw_panels(canvas: _Canvas, faces: Sequence[_Face], engines: Sequence[EngineSpec]) -> None:
    """A panel for each face, with as many bars as go without covering a face, for all the same."""
    room = canvas.room
    room_wh = (room[2] - room[0], room[3] - room[1])
    best: _Layout | None = None
    for top in range(min(face.memory.top for face in faces), 0, -1):
        lines = [_lines(face, engines, top) for face in faces]
        names = len(faces) == 1 and _names_fit(canvas, faces[0], lines[0])
        sizes = [canvas.panel_size(panel, names) for panel in lines]
        fits = all(width <= room_wh[0] and height <= room_wh[1] for width, height in sizes)
        crowded = 2 * sum(width * height for width, height in sizes) > room_wh[0] * room_wh[1]
        if not fits or (crowded and top > 1):
            continue
        rects, covered = _arrange(sizes, faces, room, canvas.n(6))
        if best is None or sum(covered) < 0.7 * sum(best.covered):
            best = _Layout(top, names, lines, rects, covered)
        if sum(covered) == 0:
            break
    if best is None:
        return
    for face, panel, rect, hidden in zip(faces, best.lines, best.rects, best.covered, strict=True):
        face.memory.top, face.memory.panel_xy = best.top, rect[:2]
        # In a crowd, seeing the faces matters more than a panel for each.
        if len(faces) == 1 or 3 * hidden <= (rect[2] - rect[0]) * (rect[3] - rect[1]):
            canvas.panel(rect, panel, accent(face.crop.face), best.names)


def _names_fit(canvas: _Canvas, face: _Face, lines: Sequence[_Line]) -> bool:
    """Whether there is room beside the face for the names of the action units."""
    free = max(face.box[0] - canvas.room[0], canvas.room[2] - face.box[2]) - canvas.n(6)
    face.memory.narrow |= canvas.panel_size(lines, names=True)[0] > free
    return not face.memory.narrow


@dataclass(frozen=True, slots=True)
class _Layout:
    """Panels with `top` bars an engine: lines, places, and what each covers of faces and panels, in px²."""

    top: int
    names: bool
    lines: Sequence[Sequence[_Line]]
    rects: Sequence[Rect]
    covered: Sequence[int]


def _arrange(
    sizes_wh: Sequence[tuple[int, int]], faces: Sequence[_Face], room: Rect, margin: int
) -> tuple[list[Rect], list[int]]:
    """Places one panel after the other, from the left and from the right, and takes what turns out better.

    Returns the panels' places and the area that each covers, in px².
    """
    boxes = [face.box for face in faces]
    lasts = [face.memory.panel_xy for face in faces]
    forward = range(len(faces))
    attempts = []
    # Once the panels stand, they hardly move, and one pass is enough.
    for order in (forward,) if all(lasts) or len(faces) == 1 else (forward, forward[::-1]):
        placed: dict[int, tuple[Rect, int, int]] = {}
        for i in order:
            others = [rect for rect, _, _ in placed.values()]
            placed[i] = _place(sizes_wh[i], i, boxes, others, room, lasts[i], margin)
        attempts.append([placed[i] for i in forward])
    best = min(attempts, key=lambda attempt: sum(cost for _, _, cost in attempt))
    return [rect for rect, _, _ in best], [covered for _, covered, _ in best]


def _place(
    size_wh: tuple[int, int],
    own: int,
    boxes: Sequence[Rect],
    panels: Sequence[Rect],
    room: Rect,
    last_xy: tuple[int, int] | None,
    margin: int,
) -> tuple[Rect, int, int]:
    """Where a panel covers least of faces and other panels and stands near to its face, or to where it was;
    with the area that it covers, in px², and what that place costs. It lies in `room`, which must be large
    enough."""
    width, height = size_wh
    box = boxes[own]
    xs = (box[2] + margin, box[0] - margin - width, box[0], box[2] - width, room[0], room[2] - width)
    middle = (box[1] + box[3] - height) // 2
    ys = (
        box[1],
        middle,
        box[3] - height,
        box[3] + margin,
        box[1] - margin - height,
        room[1],
        room[3] - height,
    )
    candidates = [(x, y) for x in xs for y in ys]
    if last_xy is not None:
        candidates.append(last_xy)

    def covered(rect: Rect) -> int:
        faces = sum(_overlap(rect, face) for face in boxes) + _overlap(rect, box)
        return faces + 2 * sum(_overlap(rect, panel) for panel in panels)

    def cost(rect: Rect) -> int:
        # Slack, so that a panel need not follow every movement of its face.
        away = 4 * max(0, _gap(rect, box) - 4 * margin)
        # Next to somebody else's face it would seem to be theirs.
        away += sum(
            4 * margin for i, face in enumerate(boxes) if i != own and _gap(rect, face) <= _gap(rect, box)
        )
        if last_xy is not None:
            away += abs(rect[0] - last_xy[0]) + abs(rect[1] - last_xy[1])
        return covered(rect) + away * margin

    rects = []
    for x, y in candidates:
        x = min(max(x, room[0]), room[2] - width)
        y = min(max(y, room[1]), room[3] - height)
        rects.append((x, y, x + width, y + height))
    best = min(rects, key=cost)
    return best, covered(best), cost(best)


def _draw_outline(canvas: _Canvas, crop: FaceCrop, scale: float) -> None:
    """The mesh's contours, half transparent, so that the face stays visible under them."""
    points = crop.landmarks_px[:, :2] * scale
    oval = points[list(_FACE_OVAL)]
    x1, y1, x2, y2 = canvas.clip((*oval.min(axis=0), *oval.max(axis=0)), 1.0, pad=3)
    if x1 >= x2 or y1 >= y2:
        return
    patch = canvas.image[y1:y2, x1:x2]
    lines = patch.copy()
    shift = 4  # sub-pixel coordinates: the outline glides with the face instead of jumping
    colour = accent(crop.face)
    for path, width in ((_FACE_OVAL, 1.0), *((path, 1.2) for path in _FEATURES)):
        polygon = np.round((points[list(path)] - (x1, y1)) * (1 << shift)).astype(np.int32)
        cv2.polylines(lines, [polygon], True, colour, canvas.n(width), cv2.LINE_AA, shift)
    cv2.addWeighted(lines, 0.55, patch, 0.45, 0.0, dst=patch)


def _draw_box(canvas: _Canvas, face: _Face) -> None:
    """Brackets at the corners of the box, clipped to the picture, and the face's id."""
    x1, y1, x2, y2 = face.box
    colour = accent(face.crop.face)
    arm = max(2, min(x2 - x1, y2 - y1) // 6)
    width = canvas.n(2)
    for x, y, dx, dy in ((x1, y1, 1, 1), (x2 - 1, y1, -1, 1), (x1, y2 - 1, 1, -1), (x2 - 1, y2 - 1, -1, -1)):
        corner = np.array([(x + dx * arm, y), (x, y), (x, y + dy * arm)], np.int32)
        cv2.polylines(canvas.image, [corner], False, colour, width, cv2.LINE_AA)
    label = str(face.crop.face)
    tag_w = canvas.text_width(label) + 2 * canvas.n(4)
    top = max(canvas.strip_px + 1, y1 - canvas.line_px - canvas.n(2))
    cv2.rectangle(canvas.image, (x1, top), (x1 + tag_w - 1, top + canvas.line_px - 1), colour, -1)
    canvas.text(x1 + canvas.n(4), top, label, DARK)


def _draw_strip(canvas: _Canvas, frame: Frame, faces: int, fps: float | None) -> None:
    """Stream, frame number, time and speed along the top; what does not fit is left out from the right."""
    height, width = canvas.image.shape[:2]
    if height < 4 * canvas.strip_px:
        return
    canvas.shade((0, 0, width, canvas.strip_px), radius=0)
    stamp = frame.stamp
    minutes, seconds = divmod(max(0.0, stamp.pts_seconds), 60.0)
    items = [f"frame {stamp.seq}", f"{int(minutes):02d}:{seconds:06.3f}"]
    if fps is not None:
        items.append(f"{fps:.1f} fps")
    if faces == 0:
        items.append("no face")
    pad, top = canvas.n(6), (canvas.strip_px - canvas.line_px) // 2
    right = width - pad
    for item in reversed(items):
        left = right - canvas.text_width(item)
        if left < pad:
            continue
        canvas.text(left, top, item, WARNING if item == "no face" else GREY)
        right = left - 2 * pad
    canvas.text(pad, top, canvas.shortened(stamp.stream, right - pad), WHITE)


class _Canvas:
    """A picture with the few shapes that the overlay is made of, all sized by the picture."""

    def __init__(self, image: Image8) -> None:
        height, width = image.shape[:2]
        self.image = image
        self.text_px = max(11, round(12 * min(height / 360, width / 480)))
        self.line_px = _line_height(self.text_px)
        self.strip_px = self.line_px + self.n(4)
        margin = self.n(4)
        self.room: Rect = (margin, self.strip_px + margin, width - margin, height - margin)
        """Where panels may stand."""

    def n(self, length: float) -> int:
        """A length for a picture of 360 lines, in pixels of this one, at least 1."""
        return max(1, round(length * self.text_px / 12))

    def clip(self, box_xyxy: Sequence[float], scale: float, pad: int = 0) -> Rect:
        """A box scaled, rounded and cut to the picture, at least 2 px wide and high."""
        height, width = self.image.shape[:2]
        low = [
            min(max(int(v * scale) - pad, 0), size - 2)
            for v, size in zip(box_xyxy[:2], (width, height), strict=True)
        ]
        high = [int(np.ceil(v * scale)) + pad for v in box_xyxy[2:]]
        x2, y2 = (min(max(v, lo + 2), size) for v, lo, size in zip(high, low, (width, height), strict=True))
        return low[0], low[1], x2, y2

    def text_width(self, text: str) -> int:
        return sum(_mask(part, self.text_px).shape[1] for part in _parts(text))

    def shortened(self, text: str, width: int) -> str:
        """The text, or as much of its beginning as fits, with an ellipsis; empty when nothing does."""
        if self.text_width(text) <= width:
            return text
        while text and self.text_width(text + "…") > width:
            text = text[:-1]
        return text + "…" if text else ""

    def text(self, x: int, y: int, text: str, colour: Colour) -> int:
        """Draws a line of text with its top left corner at (x, y), cut at the edges; returns its end."""
        height, width = self.image.shape[:2]
        for part in _parts(text):
            ink, through = _sprite(part, self.text_px, colour)
            x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + ink.shape[1], width), min(y + ink.shape[0], height)
            if x1 < x2 and y1 < y2:
                cut = (slice(y1 - y, y2 - y), slice(x1 - x, x2 - x))
                patch = self.image[y1:y2, x1:x2]
                cv2.multiply(patch, through[cut], dst=patch, scale=1 / 255)
                cv2.add(patch, ink[cut], dst=patch)
            x += ink.shape[1]
        return x

    def shade(self, rect: Rect, radius: int) -> None:
        """Darkens a rectangle with rounded corners."""
        x1, y1, x2, y2 = rect
        patch = self.image[y1:y2, x1:x2]
        corners = [
            (ys, xs, patch[ys, xs].copy())
            for ys in (slice(0, radius), slice(patch.shape[0] - radius, None))
            for xs in (slice(0, radius), slice(patch.shape[1] - radius, None))
            if radius
        ]
        cv2.convertScaleAbs(patch, dst=patch, alpha=0.28, beta=12)
        outside = _corner(radius)
        for ys, xs, before in corners:
            flipped = outside[:: 1 if ys.start == 0 else -1, :: 1 if xs.start == 0 else -1, None]
            patch[ys, xs] = patch[ys, xs] + (before - patch[ys, xs].astype(np.float32)) * flipped

    def bar(self, rect: Rect, line: _Line, colour: Colour) -> None:
        """A value between 0 and 1, with a mark at the threshold."""
        x1, y1, x2, y2 = rect
        self.image[y1:y2, x1:x2] = TRACK
        fill = round((line.value or 0.0) * (x2 - x1))
        bright = colour if line.active else GREY
        self.image[y1:y2, x1 : x1 + fill] = tuple(c * 6 // 10 for c in bright) if line.dim else bright
        mark = min(x1 + round(line.threshold * (x2 - x1)), x2 - self.n(1))
        self.image[y1 - self.n(1) : y2 + self.n(1), mark : mark + self.n(1)] = WHITE

    def panel_size(self, lines: Sequence[_Line], names: bool) -> tuple[int, int]:
        """Width and height of a panel."""
        pad = self.n(7)
        widths = [self._name_px(names) + self.n(54) + self._value_px]
        for line in lines:
            if line.tag is not None:
                widths.append(self.text_width(line.text) + self.n(16) + self.text_width(line.tag))
            elif line.value is None:
                widths.append(self.text_width(line.text))
        gaps = sum(line.tag is not None for line in lines) * self.n(4)
        return max(widths) + 2 * pad + self.n(3), len(lines) * self.line_px + gaps + 2 * self.n(4)

    def panel(self, rect: Rect, lines: Sequence[_Line], colour: Colour, names: bool) -> None:
        x1, y, x2, y2 = rect
        self.shade(rect, self.n(5))
        self.image[y + self.n(5) : y2 - self.n(5), x1 : x1 + self.n(3)] = colour
        left, right = x1 + self.n(10), x2 - self.n(7)
        y += self.n(4)
        for line in lines:
            if line.tag is not None:
                y += self.n(4)
                end = self.text(left, y, line.text, WHITE)
                self._tag(end + self.n(6), y, line.tag)
            elif line.value is None:
                self.text(left, y, line.text, GREY if line.dim else colour)
            else:
                self._au(left, right, y, line, colour, names)
            y += self.line_px

    def _au(self, left: int, right: int, y: int, line: _Line, colour: Colour, names: bool) -> None:
        text_colour = colour if line.active else GREY
        name = f"{line.text} {AU_NAMES.get(line.text, '')}".rstrip() if names else line.text
        self.text(left, y, name, text_colour)
        value = f"{line.value:.2f}"
        value_left = right - self.text_width(value)
        self.text(value_left, y, value, text_colour)
        thick = self.n(6)
        top = y + (self.line_px - thick) // 2
        self.bar((left + self._name_px(names), top, right - self._value_px, top + thick), line, colour)

    def _tag(self, x: int, y: int, tag: str) -> None:
        """How an engine was trained; `untrained` on a bright ground, for nobody may overlook it."""
        if tag != "untrained":
            self.text(x, y, tag, GREY)
            return
        width = self.text_width(tag) + 2 * self.n(4)
        cv2.rectangle(self.image, (x, y + 1), (x + width - 1, y + self.line_px - 2), WARNING, -1)
        self.text(x + self.n(4), y, tag, DARK)

    def _name_px(self, names: bool) -> int:
        widest = "AU15 lip corner depressor" if names else "AU00"
        return self.text_width(widest) + self.n(6)

    @property
    def _value_px(self) -> int:
        return self.text_width("0.00") + self.n(6)


def _parts(text: str) -> list[str]:
    """Words whole and digits one by one: numbers change with every frame, and their sprites are cached."""
    return re.findall(r"\d|\D+", text)


@lru_cache(maxsize=16)
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)  # Pillow carries this font itself; no file to look for


@lru_cache(maxsize=16)
def _line_height(size_px: int) -> int:
    font = _font(size_px)
    top, bottom = font.getbbox("Åg")[1::2]
    return int(np.ceil(bottom + max(0, top)))


@lru_cache(maxsize=2048)
def _mask(text: str, size_px: int) -> Image8:
    """A piece of text as H×W alpha, one line high; digits all of one width, so that numbers stand still."""
    font = _font(size_px)
    length = font.getlength(text)
    width = max(1, round(font.getlength("0") if text.isdigit() else length))
    left = (width - length) / 2 if text.isdigit() else 0
    mask = Image.new("L", (width, _line_height(size_px)))
    ImageDraw.Draw(mask).text((left, 0), text, fill=255, font=font)
    return np.asarray(mask, np.uint8)


@lru_cache(maxsize=256)
def _sprite(text: str, size_px: int, colour: Colour) -> tuple[Image8, Image8]:
    """A piece of text as H×W×3 of ink and H×W×3 of what shines through: picture · through / 255 + ink."""
    alpha = np.repeat(_mask(text, size_px)[..., None], 3, axis=2)
    ink = cv2.multiply(alpha, np.full_like(alpha, colour), scale=1 / 255)
    return np.asarray(ink, np.uint8), np.asarray(255 - alpha, np.uint8)


@lru_cache(maxsize=16)
def _corner(radius: int) -> NDArray[np.float32]:
    """What lies outside of a rounded top left corner, 0–1, radius×radius."""
    y, x = np.mgrid[0:radius, 0:radius] + 0.5
    return np.clip(np.hypot(radius - x, radius - y) - radius + 0.5, 0, 1).astype(np.float32)
