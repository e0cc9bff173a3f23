from __future__ import annotations

import math

import numpy as np
import pytest
from overlay_samples import AUS, ENGINES, engine, face, frame, row

from pipeline.messages import AUResult
from pipeline.overlay_canvas import Canvas, accent
from pipeline.overlay_panel import AU_NAMES, Line, Panel, panel_lines

PICTURE, CROP = frame(640, 360), face((380, 100, 520, 280))


def result(values: dict[str, float], name: str = "cednn") -> AUResult:
    return AUResult(PICTURE.stamp, 1, CROP, {name: values}, {name: ()})


def test_a_panel_tells_the_face_the_engines_and_their_strongest_units_by_number() -> None:
    values = dict(zip(AUS, (0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.0), strict=True))
    lines = panel_lines(result(values), CROP, {}, ENGINES[:1], top=3)
    assert lines[0].text == "face 0 · neutral automatic"
    assert (lines[1].text, lines[1].tag) == ("cednn", "untrained")
    assert [(line.text, line.value) for line in lines[2:]] == [("AU02", 0.9), ("AU06", 0.8), ("AU15", 0.7)]


@pytest.mark.parametrize(("value", "shown"), [(math.nan, 0.0), (-0.1, 0.0), (1.5, 1.0), (math.inf, 0.0)])
def test_bars_stay_between_0_and_1(value: float, shown: float) -> None:
    assert panel_lines(result({"AU01": value}), CROP, {}, ENGINES[:1], top=1)[-1].value == shown


def test_values_from_an_earlier_row_are_dimmed() -> None:
    earlier = result({"AU01": 0.7}, "satnet")
    between = row(PICTURE, CROP, (), "off_hop")
    (line,) = panel_lines(between, CROP, {"satnet": earlier}, ENGINES[1:], top=1)[2:]
    assert line == Line("AU01", value=0.7, threshold=0.5, dim=True)


@pytest.mark.parametrize(
    ("window", "state", "said"),
    [(16, "warming", "warming up …"), (16, "off_hop", "between outputs"), (1, "warming", "no value")],
)
def test_an_engine_without_a_value_says_why_and_keeps_the_place_of_its_bars(
    window: int, state: str, said: str
) -> None:
    engines, canvas = (engine("satnet", window),), Canvas(PICTURE.image_bgr.copy())
    without = panel_lines(row(PICTURE, CROP, (), state), CROP, {}, engines, top=5)
    with_value = panel_lines(row(PICTURE, CROP, ("satnet",)), CROP, {}, engines, top=5)
    assert without[2].text == said
    for names in (True, False):
        assert Panel(without, names).size_wh(canvas) == Panel(with_value, names).size_wh(canvas)


def test_every_name_fits_into_the_panel() -> None:
    lines = [Line("face 0 · neutral none"), *(Line(au, value=0.0, active=True) for au in AU_NAMES)]
    panel, canvas = Panel(lines, names=True), Canvas(np.full((720, 900, 3), 128, np.uint8))
    width, height = panel.size_wh(canvas)
    bars_and_values = canvas.n(54) + canvas.text_width("0.00")
    widest = max(canvas.text_width(f"{au} {name}") for au, name in AU_NAMES.items())
    assert widest + bars_and_values < width - canvas.n(10) - canvas.n(7)
    panel.draw(canvas, (50, 60, 50 + width, 60 + height), accent(0))
    changed = (canvas.image != 128).any(axis=2)
    assert changed[:60].sum() == changed[60 + height :].sum() == 0
    assert changed[:, :50].sum() == changed[:, 50 + width :].sum() == 0
