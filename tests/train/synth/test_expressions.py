import numpy as np
import pytest

from train.synth import landmarks as lm
from train.synth.actions import Pull
from train.synth.expressions import CLOSED_GAP, Expressions
from train.synth.render import Renderer

BROWS_INNER = [107, 55, 336, 285]
BROWS_OUTER = [70, 63, 105, 300, 293, 334]
EYES = [*lm.RIGHT_LID_UPPER, *lm.RIGHT_LID_LOWER, *lm.LEFT_LID_UPPER, *lm.LEFT_LID_LOWER]
MOUTH_ONLY = ("AU12", "AU15", "AU17", "AU20", "AU25", "AU26")


@pytest.fixture(scope="module")
def expressions(renderer: Renderer) -> Expressions:
    return renderer.expressions


@pytest.fixture(scope="module")
def rest(renderer: Renderer) -> np.ndarray:
    return renderer.donor.frame.to_face(renderer.rest.points_px)


def test_rest_has_closed_lips_of_average_width_with_level_corners(rest: np.ndarray) -> None:
    gaps = rest[list(lm.LOWER_LIP_INNER), 1] - rest[list(lm.UPPER_LIP_INNER), 1]
    assert np.abs(gaps).max() < 0.01
    assert 0.53 <= np.ptp(rest[list(lm.MOUTH_CORNERS), 0]) <= 0.62
    assert np.allclose(rest[list(lm.MOUTH_CORNERS), 1], rest[[13, 14], 1].mean(), atol=0.025)


def test_smile_with_parted_lips_is_the_portrait_again(renderer: Renderer, rest: np.ndarray) -> None:
    photo = renderer.donor.frame.to_face(renderer.donor.points_px)
    back = rest + renderer.rest.smile + renderer.rest.parting
    assert np.allclose(back, photo)
    assert np.abs(photo - rest).max() > 0.05


def test_nothing_moves_at_rest_but_the_lip_line(expressions: Expressions) -> None:
    still = np.abs(expressions.displacement({}))
    assert still.max() <= CLOSED_GAP
    lips = list({*lm.UPPER_LIP_INNER, *lm.LOWER_LIP_INNER})
    assert np.delete(still, lips, axis=0).max() < 0.002


@pytest.mark.parametrize(
    ("au", "points", "axis", "sign", "least"),
    [
        ("AU01", BROWS_INNER, 1, -1, 0.08),
        ("AU02", BROWS_OUTER, 1, -1, 0.05),
        ("AU04", BROWS_INNER, 1, +1, 0.04),
        ("AU06", [50, 101, 280, 330], 1, -1, 0.03),
        ("AU09", [64, 129, 294, 358], 1, -1, 0.02),
        ("AU12", [291], 0, +1, 0.03),
        ("AU12", [61, 291], 1, -1, 0.05),
        ("AU15", [61, 291], 1, +1, 0.05),
        ("AU17", [199, 200], 1, -1, 0.03),
        ("AU20", [291], 0, +1, 0.05),
        ("AU25", [14], 1, +1, 0.05),
        ("AU26", [152, 14, 17], 1, +1, 0.1),
        ("AU43", [159, 386], 1, +1, 0.05),
    ],
)
def test_an_action_unit_moves_its_points(
    expressions: Expressions, au: str, points: list[int], axis: int, sign: int, least: float
) -> None:
    assert (sign * expressions.displacement({au: 1.0})[points, axis]).min() > least


@pytest.mark.parametrize("au", [*MOUTH_ONLY, "AU01", "AU02", "AU04"])
def test_eyes_stay_open_and_in_place(expressions: Expressions, au: str) -> None:
    assert np.abs(expressions.displacement({au: 1.0})[EYES]).max() < 0.015


@pytest.mark.parametrize("au", MOUTH_ONLY)
def test_the_mouth_leaves_the_brows_alone(expressions: Expressions, au: str) -> None:
    assert np.abs(expressions.displacement({au: 1.0})[[*BROWS_INNER, *BROWS_OUTER]]).max() < 0.01


@pytest.mark.parametrize(
    "au", ["AU01", "AU02", "AU04", "AU06", "AU09", "AU12", "AU15", "AU17", "AU20", "AU43"]
)
def test_lips_stay_closed_and_uncrossed_without_au25_and_au26(
    expressions: Expressions, rest: np.ndarray, au: str
) -> None:
    moved = rest + expressions.displacement({au: 1.0})
    gap = moved[list(lm.LOWER_LIP_INNER), 1] - moved[list(lm.UPPER_LIP_INNER), 1]
    assert gap.min() > -1e-9
    assert gap.max() < 0.03


def test_au43_closes_the_lids_in_proportion(expressions: Expressions, rest: np.ndarray) -> None:
    def opening(intensity: float) -> float:
        moved = rest + expressions.displacement({"AU43": intensity})
        return float(np.mean(moved[[145, 374], 1] - moved[[159, 386], 1]))

    assert opening(1.0) < 0.1 * opening(0.0)
    assert opening(0.5) == pytest.approx(0.5 * opening(0.0), rel=0.1)


def test_both_halves_move_alike(expressions: Expressions) -> None:
    # AU12, AU25 and AU43 come from the portrait and are as lopsided as it is.
    for au in ("AU01", "AU02", "AU04", "AU15", "AU20"):
        moved = expressions.displacement({au: 1.0})
        for right, left in ((55, 285), (70, 300), (61, 291), (0, 0)):
            assert np.allclose(moved[right], moved[left] * (-1, 1), atol=0.012), (au, right)


def test_a_pull_on_the_midline_cannot_go_sideways() -> None:
    with pytest.raises(ValueError, match="midline"):
        Pull((152,), 0.1, 0.0)
