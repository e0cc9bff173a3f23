"""From a study to the runs of its folds: who is trained on, who decides, who is tested.

`clean`, the default: a part of the training subjects decides which epoch is kept, and the thresholds; the
tested subjects decide nothing. `paper`: the tested fold itself decides which epoch is kept, as in the public
code that most of these papers compare with; no threshold is chosen then but the papers' 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from pipeline.errors import UsageError
from train.data.cache import PreparedSet
from train.data.folds import Fold, folds, present_folds
from train.recipe import Recipe

Protocol = Literal["clean", "paper"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
SAME_PEOPLE = (("disfa", "disfaplus"), ("bp4d", "fera2015", "fera2017"), ("bp4dplus", "fera2017"))
"""Datasets that share subjects, under the same names but for FERA 2017's TR_ and VA_."""


def folds_of(prepared: PreparedSet, partial: bool) -> tuple[Fold, ...]:
    """The published folds of a dataset.

    Args:
        prepared: the dataset.
        partial: go by those published subjects that are there; these are not the published folds then.

    Raises:
        UsageError: subjects are missing or unknown, or a part has nobody.
    """
    if not partial:
        return folds(prepared.dataset, prepared.subjects)
    return present_folds(prepared.dataset, prepared.subjects)


def chosen(every: Sequence[Fold], wanted: Sequence[str]) -> tuple[Fold, ...]:
    """Those named, by `P1`, `1` or their part's name; all where none is.

    Raises:
        UsageError: there is no such fold.
    """
    if not wanted:
        return tuple(every)
    names = {fold.name.lower(): fold for fold in every}
    found = []
    for word in wanted:
        key = word.strip().lower()
        key = f"p{key}" if key.isdigit() else key
        if key not in names:
            raise UsageError(
                f"--folds {word}: no such fold; expected among {', '.join(f.name for f in every)} "
                "(a fold is named by the part that it tests)"
            )
        found.append(names[key])
    return tuple(dict.fromkeys(found))


def plan(recipe: Recipe, prepared: PreparedSet, name: str, test: Sequence[str], protocol: Protocol) -> Recipe:
    """The recipe of one fold.

    Args:
        recipe: the study's.
        prepared: what it is trained on.
        name: of the fold; `all` where everybody is trained on.
        test: subjects that are tested; nobody where another dataset is.
        protocol: who decides.

    Raises:
        UsageError: `paper`, and nobody to decide.
    """
    number = {subject: i for i, subject in enumerate(prepared.subjects)}
    tested = tuple(sorted(number[subject] for subject in test))
    if protocol == "paper":
        if not tested:
            raise UsageError(
                "--protocol paper: goes with a dataset's own folds; leave it out beside --test-on"
            )
        deciding = tested
    else:
        train = sorted(set(number.values()) - set(tested))
        if len(train) < 2:
            raise UsageError(f"fold {name}: {len(train)} subject to train on; expected one more to decide")
        order = np.random.default_rng(recipe.data.validation_seed).permutation(len(train))
        count = min(max(round(recipe.data.validation_share * len(train)), 1), len(train) - 1)
        deciding = tuple(sorted(train[i] for i in order[:count]))
    data = replace(
        recipe.data,
        folders=(str(prepared.folder),),
        validation_subjects=deciding,
        test_subjects=tested,
        dataset=prepared.dataset,
        fold=name,
        protocol=protocol,
    )
    return replace(recipe, data=data)


def across(trained: PreparedSet, tested: PreparedSet) -> Fold:
    """Trained on everybody of one dataset, tested on those of another who are not in the first; named `all`.

    Raises:
        UsageError: there are no others.
    """
    shared = any({trained.dataset, tested.dataset} <= set(group) for group in SAME_PEOPLE)
    known = {name.rpartition("_")[2] for name in trained.subjects} if shared else set()
    others = tuple(name for name in tested.subjects if name.rpartition("_")[2] not in known)
    if not others:
        raise UsageError(
            f"--test-on {tested.dataset}: all of its subjects are in {trained.dataset} too, which is "
            "trained on; name another dataset"
        )
    # F001 of BP4D and F001 of BP4D+ are two persons, so the ones trained on go by their dataset as well.
    return Fold("all", tuple(f"{trained.dataset} {name}" for name in trained.subjects), others)
