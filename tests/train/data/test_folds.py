from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from train.data import bp4d, disfa, disfaplus
from train.data.folds import PUBLISHED, Fold, check_parts, drawn_parts, folds

EVERYBODY = {"bp4d": bp4d.SUBJECTS, "disfa": disfa.SUBJECTS, "disfaplus": disfaplus.SUBJECTS}


@pytest.mark.parametrize("dataset", EVERYBODY)
def test_published_parts_hold_everybody_once(dataset: str) -> None:
    parts = PUBLISHED[dataset]
    assert sorted(s for part in parts.values() for s in part) == sorted(EVERYBODY[dataset])
    for one, other in combinations(parts.values(), 2):
        assert not set(one) & set(other)


def test_sizes_of_published_parts() -> None:
    sizes = {name: [len(part) for part in parts.values()] for name, parts in PUBLISHED.items()}
    assert sizes == {"bp4d": [14, 14, 13], "disfa": [9, 9, 9], "disfaplus": [3, 3, 3], "fera2015": [21, 20]}


@pytest.mark.parametrize("dataset", EVERYBODY)
def test_a_fold_is_named_by_the_part_that_it_tests(dataset: str) -> None:
    for fold in folds(dataset, EVERYBODY[dataset]):
        assert fold.test == PUBLISHED[dataset][fold.name]
        assert set(fold.train) == set(EVERYBODY[dataset]) - set(fold.test)


@given(st.sets(st.integers(1, 999), min_size=3, max_size=130), st.integers(0, 9))
def test_drawn_parts_hold_everybody_once(numbers: set[int], seed: int) -> None:
    subjects = [f"S{number:03d}" for number in numbers]
    parts = drawn_parts(subjects, 3, seed)
    assert sorted(s for part in parts.values() for s in part) == sorted(subjects)
    sizes = [len(part) for part in parts.values()]
    assert max(sizes) - min(sizes) <= 1
    assert drawn_parts(sorted(subjects, reverse=True), 3, seed) == parts


def test_a_seed_decides_the_draw() -> None:
    subjects = [f"S{number:03d}" for number in range(123)]
    assert drawn_parts(subjects, 3, 0) != drawn_parts(subjects, 3, 1)


def test_a_subject_in_two_parts_is_refused() -> None:
    with pytest.raises(UsageError, match="mine: SN002 is in P1 and in P2; a subject belongs to one part"):
        check_parts({"P1": ("SN001", "SN002"), "P2": ("SN002",)}, "mine")
    with pytest.raises(UsageError, match="fold P1: SN002 is in its training part and in its test part"):
        Fold("P1", train=("SN001", "SN002"), test=("SN002",))
    with pytest.raises(UsageError, match="twice: SN001 is in P1 and in P1"):
        check_parts({"P1": ("SN001", "SN001")}, "twice")


def test_folds_of_half_a_dataset_are_refused() -> None:
    with pytest.raises(UsageError, match="disfa: SN002: missing, so the folds would not be the published"):
        folds("disfa", [s for s in disfa.SUBJECTS if s != "SN002"])
    with pytest.raises(UsageError, match="disfa: SN099: in no published part"):
        folds("disfa", [*disfa.SUBJECTS, "SN099"])
    with pytest.raises(UsageError, match="2 subjects do not make 3 parts"):
        folds("ckplus", ["S005", "S010"])
    with pytest.raises(UsageError, match="fera2017: training has no subject"):
        folds("fera2017", ["VA_F001"])
