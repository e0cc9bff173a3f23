from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from overlay_samples import AUS, ENGINES, engine, face, frame, row

from pipeline.messages import AUResult
from pipeline.overlay import Overlay, draw
from pipeline.overlay_canvas import ACCENTS, TRACK, WARNING, accent


def changed(picture: np.ndarray) -> np.ndarray:
    return (picture != 128).any(axis=2)


def count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(axis=2).sum())


sizes = st.tuples(st.integers(64, 700), st.integers(64, 700))
coordinates = st.floats(-500, 1200, allow_nan=False)


@settings(deadline=None, max_examples=60)
@given(sizes, st.lists(st.tuples(coordinates, coordinates, st.floats(1, 900), st.floats(1, 900)), max_size=5))
def test_any_boxes_in_any_picture(
    size_wh: tuple[int, int], boxes: list[tuple[float, float, float, float]]
) -> None:
    """Boxes partly or wholly outside too; the frame stays as it is, and drawing twice gives the same."""
    picture = frame(*size_wh)
    faces = [face((x, y, x + w, y + h), i) for i, (x, y, w, h) in enumerate(boxes)]
    results = [row(picture, crop) for crop in faces] or [row(picture, None)]
    drawn = draw(picture, results, ENGINES, 24.0)
    assert drawn.shape == picture.image_bgr.shape
    assert drawn.dtype == np.uint8
    assert (picture.image_bgr == 128).all()
    assert (drawn == draw(picture, results, ENGINES, 24.0)).all()


def test_the_panel_stands_beside_the_face_and_the_face_stays_clear() -> None:
    picture = frame(640, 360)
    for box in ((400, 80, 560, 280), (60, 80, 220, 280), (500, 100, 700, 400)):
        drawn = changed(draw(picture, [row(picture, face(box))], ENGINES))
        x1, y1, x2, y2 = (max(0, box[0]), box[1], min(640, box[2]), min(360, box[3]))
        beside = drawn.copy()
        beside[:25] = False
        beside[y1 - 25 : y2 + 5, x1 - 5 : x2 + 5] = False
        assert beside.sum() > 10_000  # the panel
        bare = changed(draw(picture, [row(picture, face(box))], ()))
        inside = (slice(y1 + 12, y2 - 12), slice(x1 + 12, x2 - 12))
        assert drawn[inside].sum() <= bare[inside].sum() * 1.02 + 20  # only the outline lies on the face


def test_untrained_weights_are_plain_to_see_and_trained_ones_not_marked() -> None:
    for width, height in ((640, 360), (3840, 2160), (360, 640)):
        picture, scale = frame(width, height), width / 640
        crop = face((380 * scale, 100 * scale, 520 * scale, 280 * scale))
        trained = (engine("cednn", trained="synthetic-trained"),)
        untrained = (engine("cednn"),)
        assert count(draw(picture, [row(picture, crop)], trained), WARNING) == 0
        area = count(draw(picture, [row(picture, crop)], untrained), WARNING)
        assert area > 0.001 * width * height


def test_every_face_has_a_colour_of_its_own() -> None:
    picture = frame(1280, 720)
    faces = [face((100 + 400 * i, 300, 250 + 400 * i, 500), i) for i in range(3)]
    drawn = draw(picture, [row(picture, crop) for crop in faces], ENGINES)
    for i in range(3):
        assert count(drawn, accent(i)) > 300
        for other in range(i + 1, 3):
            assert np.abs(np.subtract(accent(i), accent(other))).max() > 60
    for unused in ACCENTS[3:]:
        assert count(drawn, unused) == 0


def test_active_units_have_longer_bars_in_the_faces_colour() -> None:
    picture, crop = frame(640, 360), face((380, 100, 520, 280), 0)
    weak = AUResult(picture.stamp, 1, crop, {"cednn": dict.fromkeys(AUS, 0.2)}, {"cednn": ()})
    strong = AUResult(picture.stamp, 1, crop, {"cednn": dict.fromkeys(AUS, 0.9)}, {"cednn": AUS})
    only = ENGINES[:1]
    assert (
        count(draw(picture, [strong], only), accent(0)) > count(draw(picture, [weak], only), accent(0)) + 500
    )


def test_a_temporal_engine_keeps_its_last_value_between_outputs_but_not_across_a_break() -> None:
    crop, only = face((380, 100, 520, 280)), ENGINES[1:]
    overlay = Overlay(only)
    ready, between, broken = (frame(640, 360) for _ in range(3))

    def bars(drawn: np.ndarray) -> int:
        return count(drawn, TRACK)  # the ground of the bars

    fresh = bars(overlay.draw(ready, [row(ready, crop)]))
    assert fresh > 0
    held = overlay.draw(between, [row(between, crop, (), "off_hop")])
    assert bars(held) == fresh
    assert count(held, accent(0)) < count(overlay.draw(ready, [row(ready, crop)]), accent(0))  # dimmed
    assert bars(overlay.draw(broken, [row(broken, crop, (), "warming")])) == 0
    assert bars(overlay.draw(between, [row(between, crop, (), "off_hop")])) == 0
    assert bars(draw(between, [row(between, crop, (), "off_hop")], only)) == 0


def test_a_panel_stays_where_it_is_while_its_face_moves_a_little() -> None:
    overlay = Overlay(ENGINES)
    left_edges = set()
    for i in range(12):
        picture = frame(640, 360, seq=1)
        drawn = changed(overlay.draw(picture, [row(picture, face((380 + i, 100, 520 + i, 280)))]))
        drawn[:30] = False
        left_edges.add(int(np.flatnonzero(drawn.any(axis=0))[0]))
    assert len(left_edges) == 1


def test_a_panel_follows_its_face_without_jumps_and_keeps_its_size() -> None:
    """From a first frame in which the temporal engine is still warming up."""
    overlay = Overlay(ENGINES)
    left_edges, heights = [], set()
    for i in range(60):
        picture = frame(640, 360, seq=1)
        warming = i < 5
        engines = ("cednn",) if warming else ("cednn", "satnet")
        state = "warming" if warming else "ready"
        drawn = changed(
            overlay.draw(picture, [row(picture, face((440 - i, 60, 600 - i, 320)), engines, state)])
        )
        drawn[:30] = False
        columns = np.flatnonzero(drawn.any(axis=0))
        left_edges.append(int(columns[0]))
        heights.add(int(drawn[:, columns[0] + 1].sum()))
    assert max(left_edges) - min(left_edges) >= 30
    assert np.abs(np.diff(left_edges)).max() <= 6
    assert len(heights) == 1


def test_the_strip_tells_streams_frames_and_missing_faces_apart() -> None:
    def strip(**changes: object) -> np.ndarray:
        fps = changes.pop("fps", 20.0)
        picture = frame(640, 360, **changes)  # type: ignore[arg-type]
        return draw(picture, [row(picture, None)], ENGINES, fps)[:24]  # type: ignore[arg-type]

    base = strip()
    assert (base == strip()).all()
    for other in (strip(seq=1), strip(stream="other.mp4"), strip(fps=30.0), strip(fps=None)):
        assert (base != other).any()
    assert count(base, WARNING) > 0
    assert strip(stream="rtsp://camera/" + "long/" * 100).shape == base.shape


def test_time_and_frame_number_stand_still_when_the_speed_changes_or_the_face_goes() -> None:
    picture = frame(640, 360)
    crop = face((380, 100, 520, 280))
    drawn = [
        draw(picture, [row(picture, of)], ENGINES, fps)[:20, -110:]
        for of in (crop, None)
        for fps in (None, 9.9, 10.0, 123.4)
    ]
    assert all((other == drawn[0]).all() for other in drawn)


def test_scaled_drawing_has_the_scaled_size() -> None:
    picture = frame(1600, 900)
    drawn = Overlay(ENGINES).draw(picture, [row(picture, face((800, 200, 1200, 700)))], scale=0.5)
    assert drawn.shape == (450, 800, 3)
    found = np.argwhere((drawn == accent(0)).all(axis=2) & (np.arange(800) > 395))
    assert found[:, 0].max() == pytest.approx(350, abs=4)


def test_it_is_fast_enough_to_run_beside_the_networks() -> None:
    picture, crop = frame(640, 360), face((380, 100, 520, 280))
    overlay, times = Overlay(ENGINES), []
    for _ in range(40):
        before = time.perf_counter()
        overlay.draw(picture, [row(picture, crop)], 25.0)
        times.append(time.perf_counter() - before)
    assert min(times) < 0.005  # measured: 1.3 ms
