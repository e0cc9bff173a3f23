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
MADE_OF = {"disfaplus": "disfa", "fera2015": "bp4d"}
"""Datasets whose subjects are another one's, under the same names."""
SOMEBODY = ""
"""The name of one of a dataset's people where it is not published which."""


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


def person(dataset: str, subject: str) -> tuple[str, str]:
    """Who a subject is: a dataset's name, and the subject's in it.

    F001 of BP4D and F001 of BP4D+ are two persons. FERA 2017 trains on BP4D's (TR_) and validates on some of
    BP4D+'s (VA_), but not as far as is known under BP4D+'s numbers.
    """
    dataset = dataset.rpartition("-")[2]  # lists of BP4D (`jaanet-bp4d`) are of its people
    if dataset == "fera2017":
        part, _, name = subject.rpartition("_")
        return ("bp4d", name) if part == "TR" else ("bp4dplus", SOMEBODY)
    return MADE_OF.get(dataset, dataset), subject


def across(trained: PreparedSet, tested: PreparedSet) -> Fold:
    """Trained on everybody of one dataset, tested on those of another who cannot be among them; named `all`.

    Raises:
        UsageError: there are no others.
    """
    known = {person(trained.dataset, name) for name in trained.subjects}
    places = {place for place, _ in known}

    def stranger(subject: str) -> bool:
        place, name = person(tested.dataset, subject)
        if name == SOMEBODY or (place, SOMEBODY) in known:
            return place not in places
        return (place, name) not in known

    others = tuple(filter(stranger, tested.subjects))
    if not others:
        raise UsageError(
            f"--test-on {tested.dataset}: all of its subjects are or may be in {trained.dataset} too, "
            "which is trained on; name another dataset"
        )
    # The ones trained on go by their dataset as well, as F001 here and there may be two persons.
    return Fold("all", tuple(f"{trained.dataset} {name}" for name in trained.subjects), others)
