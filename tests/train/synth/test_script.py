from itertools import combinations

import numpy as np

from train.synth.actions import ACTIONS
from train.synth.figure import Acting
from train.synth.script import (
    LABELLED,
    acting_at,
    draw_events,
    draw_expression,
    draw_neutral,
    draw_still,
    excludes,
    gaze_path,
)

ASKED = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 24, 25, 26, 27, 28, 43)


def test_every_unit_that_was_asked_for_is_labelled_and_drawn() -> None:
    assert tuple(f"AU{n:02d}" for n in ASKED) == LABELLED
    assert set(LABELLED) <= set(ACTIONS)
    rng = np.random.default_rng(1)
    drawn = [draw_expression(rng) for _ in range(3000)]
    for au in LABELLED:
        strong = np.mean([max(state.get(au, (0, 0))) >= 0.2 for state in drawn])
        assert 0.03 < strong < 0.6, au
    shares = [share for state in drawn for sides in state.values() for share in sides]
    assert min(shares) >= 0
    assert max(shares) <= 1


def test_single_units_and_combinations_and_nothing_occur() -> None:
    rng = np.random.default_rng(2)
    sizes = np.array([len(draw_expression(rng)) for _ in range(2000)])
    assert (sizes == 0).mean() > 0.02
    assert (sizes == 1).mean() > 0.1
    assert (sizes >= 3).mean() > 0.2


def test_sides_are_mostly_alike() -> None:
    rng = np.random.default_rng(3)
    pairs = [sides for _ in range(2000) for sides in draw_expression(rng).values() if max(sides) > 0.3]
    uneven = np.array([abs(r - left) / max(r, left) for r, left in pairs])
    assert (uneven > 0).mean() > 0.3
    assert np.median(uneven) < 0.15
    assert (uneven > 0.5).mean() < 0.05


def test_what_excludes_each_other_does_not_meet_in_random_faces() -> None:
    rng = np.random.default_rng(4)
    for _ in range(1500):
        state = {au: max(sides) for au, sides in draw_still(rng).intensities.items()}
        for one, other in combinations(state, 2):
            if excludes(one, other):
                assert min(state[one], state[other]) < 0.5, (one, other, state)


def test_cheeks_rise_in_broad_smiles_as_peoples_do_and_in_grimaces_without_one() -> None:
    rng = np.random.default_rng(7)
    drawn = [{au: max(sides) for au, sides in draw_expression(rng).items()} for _ in range(4000)]
    in_smiles = np.array([state.get("AU06", 0.0) for state in drawn if state.get("AU12", 0.0) >= 0.6])
    raised = np.array([state.get("AU12", 0.0) for state in drawn if state.get("AU06", 0.0) >= 0.5])
    assert 0.7 < (in_smiles >= 0.3).mean() < 0.95
    assert 0.5 < (raised >= 0.2).mean() < 0.85
    smiles = [(s["AU12"], s["AU06"]) for s in drawn if s.get("AU12", 0.0) >= 0.5 and "AU06" in s]
    assert np.corrcoef(np.array(smiles).T)[0, 1] > 0.2


def test_a_neutral_face_hardly_moves_and_an_imperfect_one_does() -> None:
    rng = np.random.default_rng(5)

    def strongest(imperfect: bool) -> float:
        return float(
            np.median(
                [max(max(s) for s in draw_neutral(rng, imperfect).intensities.values()) for _ in range(200)]
            )
        )

    assert strongest(False) < 0.15
    assert strongest(True) > 0.15


def test_expressions_of_a_clip_come_and_go_without_jumps() -> None:
    rng = np.random.default_rng(6)
    steps, peak = [], []
    for _ in range(30):
        events = draw_events(rng, 4.0)
        states = [acting_at(events, k / 25, Acting(), (0.0, 0.0)).intensities for k in range(100)]
        for au in LABELLED:
            if au != "AU43":  # blinks take 0.1 s
                path = np.array([max(state.get(au, (0.0, 0.0))) for state in states])
                steps.append(np.abs(np.diff(path)).max())
                peak.append(path.max())
    assert np.max(peak) > 0.8
    assert np.percentile(steps, 99) < 0.5
    assert np.mean(np.array(steps) == 0) > 0.2


def test_gaze_rests_and_jumps() -> None:
    path = np.array(gaze_path(np.random.default_rng(7), 400))
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    assert np.median(steps) < 1
    assert steps.max() > 3
