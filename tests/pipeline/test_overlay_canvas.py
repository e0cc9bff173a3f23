from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.overlay_canvas import ACCENTS, DARK, GREY, TRACK, WARNING, WHITE, Canvas, accent, dimmed


def canvas(width: int = 640, height: int = 360) -> Canvas:
    return Canvas(np.full((height, width, 3), 128, np.uint8))


def count(on: Canvas, colour: tuple[int, int, int]) -> int:
    return int((on.image == colour).all(axis=2).sum())


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=())), st.integers(-50, 700), st.integers(-50, 400))
def test_any_text_anywhere(text: str, x: int, y: int) -> None:
    """Lone surrogates (file names that are not UTF-8), line breaks and NUL too."""
    on = canvas()
    assert on.text(x, y, text, WHITE) == x + on.text_width(text)


@pytest.mark.parametrize("name", ["監視カメラ.mp4", "a\nb", "\udcff.mp4", "مرحبا", "👩‍👧"])
def test_what_the_font_lacks_is_drawn_as_boxes(name: str) -> None:
    on = canvas()
    on.text(10, 10, name, WHITE)
    below = on.image[10 + on.line_px :]
    assert count(on, WHITE) > 0
    assert (below == 128).all()


@settings(deadline=None)
@given(st.text(max_size=80), st.integers(-5, 400))
def test_shortened_text_is_as_long_as_fits(text: str, width: int) -> None:
    on = canvas()
    short = on.shortened(text, width)
    assert on.text_width(short) <= max(width, 0)
    if short != text:
        assert short == "" or (short.endswith("…") and text.startswith(short[:-1]))
        longer = text[: len(short[:-1]) + 1] + "…"
        assert on.text_width(longer) > width


def test_numbers_stand_still() -> None:
    on = canvas()
    assert len({on.text_width(f"{n:03d}") for n in range(1000)}) == 1


def test_sizes_follow_the_pictures() -> None:
    small, large = canvas(640, 360), canvas(3840, 2160)
    assert large.text_px == 6 * small.text_px
    assert large.n(10) == 6 * small.n(10)
    assert canvas(64, 48).text_px == 11


def test_accents_repeat_and_stay_apart_from_all_else() -> None:
    assert accent(1) == accent(1 + len(ACCENTS))
    colours = (*ACCENTS, WARNING, DARK, TRACK)
    assert len({*colours, *map(dimmed, ACCENTS)}) == len(colours) + len(ACCENTS)
    assert dimmed((100, 50, 0)) == (60, 30, 0)


@pytest.mark.parametrize(("value", "filled"), [(0.0, 0), (0.5, 50), (1.0, 100)])
def test_a_bar_is_filled_up_to_its_value_and_marked_at_the_threshold(value: float, filled: int) -> None:
    on = canvas()
    on.bar((100, 100, 200, 106), value, 0.25, GREY)
    under_mark = 1 if filled > 25 else 0
    assert count(on, GREY) == 6 * (filled - under_mark)
    assert (on.image[99:107, 125] == WHITE).all()
    assert count(on, WHITE) == 8


def test_shade_darkens_but_for_the_corners() -> None:
    on = canvas()
    on.shade((100, 100, 200, 200), radius=8)
    assert (on.image[100, 100] == 128).all()
    assert (on.image[199, 199] == 128).all()
    assert (on.image[110:190, 100:200] < 60).all()
    outside = np.ones((360, 640), bool)
    outside[100:200, 100:200] = False
    assert (on.image[outside] == 128).all()


def test_loops_let_through_what_lies_under_them() -> None:
    on = canvas()
    square = np.array([(50, 50), (700, 50), (700, 150), (50, 150)], np.float32)
    on.loops([(square, 2.0)], (255, 255, 255))
    assert (on.image[50, 100:600] > 128).all()
    assert (on.image[50, 100:600] < 255).all()
    assert (on.image[60:140, 60:] == 128).all()
