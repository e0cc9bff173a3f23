"""A face's panel in the overlay: who it is, and each engine's strongest action units as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engines.spec import EngineSpec
from pipeline.messages import AUResult, FaceCrop
from pipeline.overlay_canvas import GREY, WARNING, WHITE, Canvas, Colour, dimmed
from pipeline.overlay_layout import Rect

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

_LONGEST_NAME = "AU11 nasolabial deepener"
_LONGEST_TITLE = "face 0 · neutral estimating"
_STATES = {"warming": "warming up …", "off_hop": "between outputs"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a panel: a title (`tag` None), an engine's name and tag, or an AU with its bar."""

    text: str
    tag: str | None = None
    value: float | None = None
    """0–1."""
    threshold: float = 0.0
    active: bool = False
    dim: bool = False


def panel_lines(
    result: AUResult,
    crop: FaceCrop,
    last: Mapping[str, AUResult],
    engines: Sequence[EngineSpec],
    top: int,
) -> list[Line]:
    """What the panel of `crop`'s face says, with the `top` strongest action units of each engine.

    `last` has the row in which an engine last gave a value; what comes from there is dimmed.
    """
    lines = [Line(f"face {crop.face} · neutral {crop.neutral}")]
    for spec in engines:
        source = result if spec.name in result.aus else last.get(spec.name)
        lines.append(Line(spec.name, tag=spec.trained))
        if source is None:
            state = result.window.state if result.window is not None and spec.window > 1 else None
            lines.append(Line(_STATES.get(state or "", "no value"), dim=True))
            # Empty lines keep the place of the bars, so that the panel does not grow when they come.
            lines += [Line("")] * (min(top, len(spec.aus)) - 1)
            continue
        values = source.aus[spec.name]
        thresholds = dict(zip(spec.aus, spec.thresholds, strict=True))
        # The strongest, in the order of their numbers: sorted by value they would change places all the time.
        strongest = sorted(values, key=lambda au: -_finite(values[au]))[:top]
        active = source.active.get(spec.name, ())
        lines += [
            Line(
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


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines on a dark ground; `names` says whether action units stand there with their names."""

    lines: Sequence[Line]
    names: bool

    def size_wh(self, canvas: Canvas) -> tuple[int, int]:
        """Width and height in pixels of the canvas, the same for all values."""
        n = canvas.n
        widths = [self._name_px(canvas) + n(54) + _value_px(canvas), canvas.text_width(_LONGEST_TITLE)]
        for line in self.lines:
            if line.tag is not None:
                widths.append(canvas.text_width(line.text) + n(16) + canvas.text_width(line.tag))
            elif line.value is None:
                widths.append(canvas.text_width(line.text))
        gaps = sum(line.tag is not None for line in self.lines) * n(4)
        return max(widths) + 2 * n(7) + n(3), len(self.lines) * canvas.line_px + gaps + 2 * n(4)

    def draw(self, canvas: Canvas, rect: Rect, colour: Colour) -> None:
        """Draws the panel, in the colour of its face, into a rectangle of its size."""
        n = canvas.n
        x1, y, x2, y2 = rect
        canvas.shade(rect, n(5))
        canvas.image[y + n(5) : y2 - n(5), x1 : x1 + n(3)] = colour
        left, right = x1 + n(10), x2 - n(7)
        y += n(4)
        for line in self.lines:
            if line.tag is not None:
                y += n(4)
                end = canvas.text(left, y, line.text, WHITE)
                _draw_tag(canvas, end + n(6), y, line.tag)
            elif line.value is None:
                canvas.text(left, y, line.text, GREY if line.dim else colour)
            else:
                self._draw_au(canvas, left, right, y, line, line.value, colour)
            y += canvas.line_px

    def _draw_au(
        self, canvas: Canvas, left: int, right: int, y: int, line: Line, value: float, colour: Colour
    ) -> None:
        bright = colour if line.active else GREY
        name = f"{line.text} {AU_NAMES.get(line.text, '')}".rstrip() if self.names else line.text
        canvas.text(left, y, name, bright)
        number = f"{value:.2f}"
        canvas.text(right - canvas.text_width(number), y, number, bright)
        thick = canvas.n(6)
        top = y + (canvas.line_px - thick) // 2
        bar = (left + self._name_px(canvas), top, right - _value_px(canvas), top + thick)
        canvas.bar(bar, value, line.threshold, dimmed(bright) if line.dim else bright)

    def _name_px(self, canvas: Canvas) -> int:
        return canvas.text_width(_LONGEST_NAME if self.names else "AU00") + canvas.n(6)


def _value_px(canvas: Canvas) -> int:
    return canvas.text_width("0.00") + canvas.n(6)


def _draw_tag(canvas: Canvas, x: int, y: int, tag: str) -> None:
    """How an engine was trained; `untrained` on a bright ground, for nobody may overlook it."""
    if tag == "untrained":
        canvas.chip(x, y, tag, WARNING)
    else:
        canvas.text(x, y, tag, GREY)
