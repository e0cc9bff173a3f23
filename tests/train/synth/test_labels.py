import numpy as np
import pytest

from train.synth.figure import Acting, Truth
from train.synth.labels import UNKNOWN, labels
from train.synth.script import LABELLED


def label(au: str, shares: dict[str, float], lip_gap: float = 0.0, lids: float = 1.0) -> tuple[float, int]:
    acting = Acting({name: (share, share) for name, share in shares.items()})
    intensity, occurrence = labels(acting, Truth(lip_gap, (lids, lids), np.zeros((468, 2))))
    assert intensity.dtype == np.float32
    assert occurrence.dtype == np.uint8
    k = LABELLED.index(au)
    return float(intensity[k]), int(occurrence[k])


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.09, 0), (0.15, UNKNOWN), (0.2, 1), (1.0, 1)])
def test_a_trace_is_neither_present_nor_absent(share: float, expected: int) -> None:
    assert label("AU04", {"AU04": share}) == (pytest.approx(5 * share), expected)


def test_what_was_not_asked_for_is_absent() -> None:
    intensity, occurrence = labels(Acting(), Truth(0.004, (1.0, 1.0), np.zeros((468, 2))))
    assert not intensity.any()
    assert not occurrence.any()


@pytest.mark.parametrize(("gap", "expected"), [(0.0, 0), (0.012, 0), (0.018, UNKNOWN), (0.03, 1), (0.4, 1)])
def test_parted_lips_are_labelled_from_what_is_to_be_seen(gap: float, expected: int) -> None:
    assert label("AU25", {}, lip_gap=gap)[1] == expected
    assert label("AU25", {"AU25": 1.0}, lip_gap=gap)[1] == expected


def test_a_wide_gap_is_the_strongest() -> None:
    assert label("AU25", {}, lip_gap=0.3)[0] == 5
    assert 1 < label("AU25", {}, lip_gap=0.08)[0] < 4


def test_closed_eyes_are_labelled_from_the_lids_and_half_blinks_left_open() -> None:
    assert label("AU43", {"AU43": 1.0}, lids=0.02) == (5.0, 1)
    assert label("AU43", {"AU43": 0.7}, lids=0.3)[1] == UNKNOWN
    assert label("AU43", {"AU43": 0.5}, lids=0.5)[1] == 0
    assert label("AU43", {"AU06": 1.0, "AU07": 1.0}, lids=0.3) == (0.0, 0)
    assert label("AU43", {}, lids=1.0) == (0.0, 0)


def test_the_stronger_side_counts() -> None:
    acting = Acting({"AU12": (0.1, 0.8)})
    intensity, occurrence = labels(acting, Truth(0.0, (1.0, 1.0), np.zeros((468, 2))))
    assert intensity[LABELLED.index("AU12")] == pytest.approx(4.0)
    assert occurrence[LABELLED.index("AU12")] == 1


def test_what_a_hand_hides_is_unknown() -> None:
    truth = Truth(0.1, (1.0, 1.0), np.zeros((468, 2)), frozenset({"mouth"}))
    intensity, occurrence = labels(Acting({"AU04": (1.0, 1.0), "AU12": (1.0, 1.0)}), truth)
    for au in ("AU10", "AU12", "AU25", "AU26", "AU28"):
        assert np.isnan(intensity[LABELLED.index(au)])
        assert occurrence[LABELLED.index(au)] == UNKNOWN
    assert occurrence[LABELLED.index("AU04")] == 1
    assert occurrence[LABELLED.index("AU43")] == 0
