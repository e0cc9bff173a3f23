"""The picture that people look at: a frame with boxes, mesh outlines and a panel of action units per face.

Pure drawing, used by the video file and the window. A panel that does not fit is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from engines.spec import EngineSpec
from pipeline.messages import AUResult, FaceCrop, Frame
from pipeline.overlay_canvas import GREY, WARNING, WHITE, Canvas, Image8, accent
from pipeline.overlay_layout import Rect, area, arrange, clipped, glide, within
from pipeline.overlay_panel import Panel, panel_lines

TOP_AUS = 5

# Closed paths over MediaPipe's 478 mesh points; left and right as in the picture.
_FACE_OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
_EYE_LEFT = (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246)
_EYE_RIGHT = (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466)
_BROW_LEFT = (70, 63, 105, 66, 107, 55, 65, 52, 53, 46)
_BROW_RIGHT = (300, 293, 334, 296, 336, 285, 295, 282, 283, 276)
_LIPS_OUTSIDE = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
_LIPS_INSIDE = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)
_FEATURES = (_EYE_LEFT, _EYE_RIGHT, _BROW_LEFT, _BROW_RIGHT, _LIPS_OUTSIDE, _LIPS_INSIDE)


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
        canvas = Canvas(_scaled(frame.image_bgr, scale))
        stream = frame.stamp.stream
        faces: list[_Face] = []
        for result in results:
            if result.crop is None:
                continue
            memory = self._memory.setdefault((stream, result.crop.face), _Memory())
            memory.remember(result)
            box = clipped([v * scale for v in result.crop.bbox_xyxy], canvas.size_wh)
            faces.append(_Face(result, result.crop, box, memory))
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
        return canvas.image


@dataclass(slots=True)
class _Memory:
    """What the overlay keeps of a face from frame to frame."""

    last: dict[str, AUResult] = field(default_factory=dict)
    """By engine: the last row with a value."""
    panel_xy: tuple[int, int] | None = None
    """Where the panel ought to stand."""
    drawn_xy: tuple[int, int] | None = None
    """Where it was drawn: near its goal it glides there, as a jump draws all eyes."""
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


def _scaled(image: Image8, scale: float) -> Image8:
    if scale == 1.0:
        return image.copy()
    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _draw_outline(canvas: Canvas, crop: FaceCrop, scale: float) -> None:
    """The mesh's contours."""
    points = crop.landmarks_px[:, :2] * scale
    paths = ((_FACE_OVAL, 1.0), *((path, 1.2) for path in _FEATURES))
    canvas.loops([(points[list(path)], width) for path, width in paths], accent(crop.face))


def _draw_box(canvas: Canvas, face: _Face) -> None:
    """Brackets at the corners of the box, and the face's id on them."""
    colour = accent(face.crop.face)
    canvas.brackets(face.box, colour)
    top = max(_strip_px(canvas) + 1, face.box[1] - canvas.line_px - canvas.n(2))
    canvas.chip(face.box[0], top, str(face.crop.face), colour)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Panels with `top` bars an engine, their places, and what each covers of faces and panels, in px²."""

    top: int
    panels: Sequence[Panel]
    rects: Sequence[Rect]
    covered: Sequence[int]


def _draw_panels(canvas: Canvas, faces: Sequence[_Face], engines: Sequence[EngineSpec]) -> None:
    """A panel for each face, with as many bars as go without covering a face, for all the same."""
    room = _room(canvas)
    room_wh = (room[2] - room[0], room[3] - room[1])
    boxes = [face.box for face in faces]
    best: _Layout | None = None
    for top in range(min(face.memory.top for face in faces), 0, -1):
        lines = [panel_lines(face.result, face.crop, face.memory.last, engines, top) for face in faces]
        names = len(faces) == 1 and _names_fit(canvas, faces[0], Panel(lines[0], names=True))
        panels = [Panel(of_face, names) for of_face in lines]
        sizes = [panel.size_wh(canvas) for panel in panels]
        fits = all(width <= room_wh[0] and height <= room_wh[1] for width, height in sizes)
        crowded = 2 * sum(width * height for width, height in sizes) > room_wh[0] * room_wh[1]
        if not fits or (crowded and top > 1):
            continue
        rects, covered = arrange(sizes, boxes, [face.memory.panel_xy for face in faces], room, canvas.n(6))
        if best is None or sum(covered) < 0.7 * sum(best.covered):
            best = _Layout(top, panels, rects, covered)
        if sum(covered) == 0:
            break
    if best is None:
        return
    for face, panel, rect, hidden in zip(faces, best.panels, best.rects, best.covered, strict=True):
        memory = face.memory
        memory.top, memory.panel_xy = best.top, rect[:2]
        # Not all the way from one side of the face to the other, which would hide it.
        memory.drawn_xy = glide(memory.drawn_xy or rect[:2], rect[:2], reach=canvas.n(60))
        place = within(memory.drawn_xy, panel.size_wh(canvas), room)
        # In a crowd, seeing the faces matters more than a panel for each.
        if len(faces) == 1 or 3 * hidden <= area(rect):
            panel.draw(canvas, place, accent(face.crop.face))


def _names_fit(canvas: Canvas, face: _Face, panel: Panel) -> bool:
    """Whether there is room beside the face for the names of the action units."""
    room = _room(canvas)
    free = max(face.box[0] - room[0], room[2] - face.box[2]) - canvas.n(6)
    face.memory.narrow |= panel.size_wh(canvas)[0] > free
    return not face.memory.narrow


def _draw_strip(canvas: Canvas, frame: Frame, faces: int, fps: float | None) -> None:
    """The stream along the top, and from the right time, frame number and speed, as many as fit.

    What comes and goes or changes its width stands left of the rest, which thus stands still.
    """
    width, height = canvas.size_wh
    strip_px = _strip_px(canvas)
    if height < 4 * strip_px:
        return
    canvas.shade((0, 0, width, strip_px), radius=0)
    stamp = frame.stamp
    minutes, seconds = divmod(max(0.0, stamp.pts_seconds), 60.0)
    items = [f"{int(minutes):02d}:{seconds:06.3f}", f"frame {stamp.seq}"]
    if fps is not None:
        items.append(f"{fps:.1f} fps")
    if faces == 0:
        items.append("no face")
    pad, top = canvas.n(6), (strip_px - canvas.line_px) // 2
    right = width - pad
    for item in items:
        left = right - canvas.text_width(item)
        if left < pad:
            continue
        canvas.text(left, top, item, WARNING if item == "no face" else GREY)
        right = left - 2 * pad
    canvas.text(pad, top, canvas.shortened(stamp.stream, right - pad), WHITE)


def _strip_px(canvas: Canvas) -> int:
    """Height of the strip along the top."""
    return canvas.line_px + canvas.n(4)


def _room(canvas: Canvas) -> Rect:
    """Where panels may stand: below the strip, and not quite at the edges."""
    margin, (width, height) = canvas.n(4), canvas.size_wh
    return margin, _strip_px(canvas) + margin, width - margin, height - margin
