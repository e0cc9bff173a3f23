"""The shapes that the overlay is made of: text, darkened grounds, bars, antialiased lines, and their colours.

All sizes follow the picture's, so that a frame of 640×360 and one of 3840×2160 look alike; text never falls
below 11 px.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.overlay_layout import Rect, clipped

Image8 = NDArray[np.uint8]
Colour = tuple[int, int, int]
"""Blue, green, red, 0–255."""

# Okabe and Ito's colours, which stay apart under the common kinds of colour blindness; without black and the
# dark blue (unreadable on dark panels) and without the yellow-orange that warns of untrained weights.
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

_SHIFT = 4  # bits of sub-pixel coordinates: a line glides with the face instead of jumping


def accent(face: int) -> Colour:
    """The colour of a face id, always the same."""
    return ACCENTS[face % len(ACCENTS)]


def dimmed(colour: Colour) -> Colour:
    blue, green, red = (c * 6 // 10 for c in colour)
    return blue, green, red


class Canvas:
    """A picture, H×W×3, that is drawn on in place."""

    def __init__(self, image: Image8) -> None:
        height, width = image.shape[:2]
        self.image = image
        self.size_wh = (width, height)
        self.text_px = max(11, round(12 * min(height / 360, width / 480)))
        self.line_px = _line_height(self.text_px)

    def n(self, length: float) -> int:
        """A length for a picture of 360 lines, in pixels of this one, at least 1."""
        return max(1, round(length * self.text_px / 12))

    def text_width(self, text: str) -> int:
        return sum(_mask(part, self.text_px).shape[1] for part in _parts(text))

    def shortened(self, text: str, width: int) -> str:
        """The text, or as much of its beginning as fits, with an ellipsis; empty when nothing does."""
        if self.text_width(text) <= width:
            return text
        fits = bisect_right(range(1, len(text)), width, key=lambda n: self.text_width(text[:n] + "…"))
        return text[:fits] + "…" if fits else ""

    def text(self, x: int, y: int, text: str, colour: Colour) -> int:
        """Draws a line of text with its top left corner at (x, y), cut at the edges; returns its end."""
        width, height = self.size_wh
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

    def chip(self, x: int, y: int, text: str, ground: Colour) -> None:
        """Dark text on a bright ground, one line high."""
        pad = self.n(4)
        right, bottom = x + self.text_width(text) + 2 * pad, y + self.line_px
        cv2.rectangle(self.image, (x, y + 1), (right - 1, bottom - 2), ground, -1)
        self.text(x + pad, y, text, DARK)

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

    def bar(self, rect: Rect, value: float, threshold: float, colour: Colour) -> None:
        """A value between 0 and 1, with a mark at the threshold."""
        x1, y1, x2, y2 = rect
        self.image[y1:y2, x1:x2] = TRACK
        self.image[y1:y2, x1 : x1 + round(value * (x2 - x1))] = colour
        mark = min(x1 + round(threshold * (x2 - x1)), x2 - self.n(1))
        self.image[y1 - self.n(1) : y2 + self.n(1), mark : mark + self.n(1)] = WHITE

    def brackets(self, rect: Rect, colour: Colour) -> None:
        """The four corners of a rectangle."""
        x1, y1, x2, y2 = rect
        arm = max(2, min(x2 - x1, y2 - y1) // 6)
        for x, y, dx, dy in (
            (x1, y1, 1, 1),
            (x2 - 1, y1, -1, 1),
            (x1, y2 - 1, 1, -1),
            (x2 - 1, y2 - 1, -1, -1),
        ):
            corner = np.array([(x + dx * arm, y), (x, y), (x, y + dy * arm)], np.int32)
            cv2.polylines(self.image, [corner], False, colour, self.n(2), cv2.LINE_AA)

    def loops(self, loops_xy: Sequence[tuple[NDArray[np.float32], float]], colour: Colour) -> None:
        """Closed lines, half transparent, so that what lies under them stays visible.

        Each is N×2 points in pixels, which may lie outside, and the width of the line for 360 lines.
        """
        points = np.concatenate([loop for loop, _ in loops_xy])
        x1, y1, x2, y2 = clipped((*points.min(axis=0), *points.max(axis=0)), self.size_wh, pad=3)
        patch = self.image[y1:y2, x1:x2]
        lines = patch.copy()
        for loop, width in loops_xy:
            polygon = np.round((loop - (x1, y1)) * (1 << _SHIFT)).astype(np.int32)
            cv2.polylines(lines, [polygon], True, colour, self.n(width), cv2.LINE_AA, _SHIFT)
        cv2.addWeighted(lines, 0.55, patch, 0.45, 0.0, dst=patch)


def _parts(text: str) -> list[str]:
    """Words whole and digits one by one: numbers change with every frame, and their sprites are cached.

    What cannot be printed (a stream's name may hold anything) becomes the box of a missing character.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
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
