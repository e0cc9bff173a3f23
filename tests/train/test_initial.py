"""Weights of other AUs begin in the right place; samples are drawn as the papers say; subjects stay apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engines.networks.arl import ARL
from engines.networks.delta import Delta
from engines.networks.satnet import SATNet
from engines.networks.tranet import TRANet
from pipeline.errors import SourceError, UsageError
from train import checkpoint
from train.batches import sampling_weights
from train.initial import by_au, initial_weights
from train.pool import Pool
from train.recipe import DataTable, Recipe, read_recipe
from train.tables import plain

BP4D = ("AU01", "AU02", "AU04", "AU06", "AU07", "AU10", "AU12", "AU14", "AU15", "AU17", "AU23", "AU24")
DISFA = ("AU01", "AU02", "AU04", "AU06", "AU09", "AU12", "AU25", "AU26")
SOURCES = ("AU01", "AU02", "AU04", "AU06", "AU10", "AU12", "AU23", "AU24")
"""Section 4.1.2 of ARL: AUs 9, 25 and 26 from 10, 23 and 24."""


def test_arls_branches_follow_their_aus() -> None:
    """Branch by branch, the way from BP4D to DISFA."""
    torch.manual_seed(0)
    theirs, ours = ARL(12, "b"), ARL(8, "b")
    before = {name: t.clone() for name, t in ours.state_dict().items()}
    found = by_au(theirs.state_dict(), ours, theirs.rows_of_aus(), BP4D, SOURCES)
    assert set(found) == set(before)
    for i, au in enumerate(SOURCES):
        for name, tensor in theirs.branches[BP4D.index(au)].state_dict().items():
            assert torch.equal(found[f"branches.{i}.{name}"], tensor), (i, au, name)
    shared = [name for name in before if not name.startswith("branches.")]
    assert shared
    assert all(torch.equal(found[name], theirs.state_dict()[name]) for name in shared)


def test_an_au_without_a_source_keeps_its_own_row() -> None:
    torch.manual_seed(0)
    theirs, ours = SATNet(12, "resnet18"), SATNet(3, "resnet18")
    found = by_au(theirs.state_dict(), ours, theirs.rows_of_aus(), BP4D, ("AU12", "AU45", "AU01"))
    assert torch.equal(found["fc.weight"][0], theirs.fc.weight[6])
    assert torch.equal(found["fc.weight"][1], ours.fc.weight[1])
    assert torch.equal(found["fc.bias"][2], theirs.fc.bias[0])


def test_what_attends_for_an_au_goes_with_it() -> None:
    """Of as many AUs in another order, of which nothing in the shapes tells."""
    for make in (lambda: SATNet(2, "sanet"), lambda: Delta(2)):
        theirs, ours = make(), make()
        per_au = theirs.rows_of_aus()
        for name, parameter in theirs.named_parameters():
            if name in per_au:
                torch.nn.init.normal_(parameter)
        found = by_au(theirs.state_dict(), ours, per_au, ("AU01", "AU02"), ("AU02", "AU01"))
        state = theirs.state_dict()
        assert {name for name in state if len(state[name].shape) and len(state[name]) == 2} == set(per_au)
        for name, tensor in state.items():
            assert torch.equal(found[name], tensor.flip(0) if name in per_au else tensor), name


UPPER, LOWER = "branches.upper.fc2.weight", "branches.lower.fc2.weight"


@pytest.fixture(scope="module")
def tra_net() -> TRANet:
    """For AUs 1, 2, 12 and 6, the last below."""
    return TRANet(4, "masks", ("upper", "upper", "lower", "lower"))


@pytest.mark.parametrize(
    ("theirs", "regions", "upper", "lower"),
    [
        (("AU01", "AU02", "AU12", "AU06"), ("upper", "upper", "lower", "lower"), (0, 1), (0, 1)),
        (("AU02", "AU01", "AU12", "AU06"), ("upper", "upper", "lower", "lower"), (1, 0), (0, 1)),
        (("AU12", "AU04", "AU01", "AU06"), ("lower", "upper", "upper", "lower"), (1, None), (0, 1)),
        # AU 6 has looked at another half: its row would read what it never meant.
        (("AU01", "AU02", "AU12", "AU06"), ("upper", "middle", "lower", "middle"), (0, None), (0, None)),
        (("AU01", "AU02", "AU12", "AU06"), None, (None, None), (None, None)),
    ],
)
def test_tra_nets_rows_follow_their_aus_within_a_region(
    tra_net: TRANet,
    tmp_path: Path,
    theirs: tuple[str, ...],
    regions: tuple[str, ...] | None,
    upper: tuple[int | None, ...],
    lower: tuple[int | None, ...],
) -> None:
    """Which row of the file each row begins with; None: its own."""
    sizes = {name: (regions or ()).count(name) for name in ("upper", "middle", "lower")}
    weights = {f"branches.{name}.fc2.weight": torch.randn(n, 256) for name, n in sizes.items() if n}
    weights |= {} if regions else {UPPER: torch.randn(2, 256), LOWER: torch.randn(2, 256)}
    path = tmp_path / "best.safetensors"
    engine = {"aus": theirs, "variant": {"variant": "masks"} | ({"regions": regions} if regions else {})}
    checkpoint.write(path, weights, {"recipe": {"engine": engine}})
    with torch.device("meta"):
        recipe = read_recipe(
            "tranet-synth",
            [
                "engine.aus=['AU01', 'AU02', 'AU12', 'AU06']",
                "engine.variant={variant = 'masks', regions = ['upper', 'upper', 'lower', 'lower']}",
            ],
        )
    found = initial_weights(path, tra_net, recipe)
    for name, rows in ((UPPER, upper), (LOWER, lower)):
        own = tra_net.state_dict()[name]
        for i, row in enumerate(rows):
            assert torch.equal(found[name][i], own[i] if row is None else weights[name][row]), (name, i)


@pytest.fixture
def recipe() -> Recipe:
    with torch.device("meta"):
        return read_recipe("arl-disfa", ['engine.variant={variant = "b"}', "phase.0.loss='bce'"])


def test_what_a_run_can_begin_with(recipe: Recipe, tmp_path: Path) -> None:
    path, ours = tmp_path / "best.safetensors", ARL(8, "b")
    with torch.device("meta"):
        trained = read_recipe("arl-bp4d", ['engine.variant={variant = "b"}', "phase.0.loss='bce'"])
    theirs = ARL(12, "b")
    checkpoint.write(path, theirs.state_dict(), {"recipe": plain(trained)})
    found = initial_weights(path, ours, recipe)
    name = "branches.4." + next(iter(theirs.branches[0].state_dict()))
    assert torch.equal(found[name], theirs.state_dict()[name.replace(".4.", ".5.", 1)]), "AU09 begins as AU10"
    wrong = replace(recipe, initial_aus={"AU09": "AU09"})
    with pytest.raises(UsageError, match="initial_aus: AU09 = 'AU09': expected one of"):
        initial_weights(path, ours, wrong)
    with pytest.raises(SourceError, match="cannot read it"):
        initial_weights(tmp_path / "none.safetensors", ours, recipe)


def test_eac_nets_table_of_rates() -> None:
    """Table II: raising the six less frequent AUs of BP4D to about twice their rate, the others hardly."""
    original = np.array([0.24, 0.18, 0.23, 0.44, 0.52, 0.58, 0.57, 0.43, 0.15, 0.36, 0.19, 0.16])
    balanced = np.array([0.39, 0.32, 0.33, 0.45, 0.54, 0.60, 0.56, 0.49, 0.30, 0.50, 0.33, 0.30])
    rng = np.random.default_rng(0)
    present = rng.uniform(size=(20000, 12)) < original  # independent of each other, which AUs are not
    weights = sampling_weights(present, "rare")
    assert set(weights) == {1.0, 5.0}
    np.testing.assert_array_equal(weights == 5, present[:, original < 0.3].any(axis=1))
    rates = weights @ present / weights.sum()
    assert (rates[original < 0.3] > original[original < 0.3]).all()
    np.testing.assert_allclose(rates[original > 0.3], balanced[original > 0.3], atol=0.16)


def test_tra_net_draws_rare_aus_more_often() -> None:
    present = np.zeros((100, 2), bool)
    present[:50, 0] = present[:2, 1] = True  # rates 0.5 and 0.02
    weights = sampling_weights(present, "inverse_rate")
    assert weights[0] == pytest.approx((2 + 50) / 2)  # shows both
    assert weights[10] == pytest.approx(2)
    assert weights[99] == 1


def test_tested_subjects_are_in_neither_part(bars: Path, small: Callable[..., Recipe]) -> None:
    pool = Pool.open([bars], small().engine.aus)
    table = DataTable((str(bars),), validation_share=0.3, test_subjects=(0, 1, 2))
    training, validation = pool.split(table)
    parts = [set(np.unique(pool.subject[rows])) for rows in (training, validation)]
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & {0, 1, 2}
    assert len(parts[0] | parts[1]) == 7
    paper = replace(table, validation_subjects=(0, 1, 2), protocol="paper")
    training, validation = pool.split(paper)
    assert set(np.unique(pool.subject[validation])) == {0, 1, 2}
    assert not training[validation].any()
    with pytest.raises(ValueError, match="expected others than test_subjects, unless protocol is 'paper'"):
        replace(table, validation_subjects=(2, 5))


def test_samples_that_show_nothing_can_be_left_out(bars: Path, small: Callable[..., Recipe]) -> None:
    pool = Pool.open([bars], small().engine.aus)
    shown = (pool.occurrence == 1).any(axis=1)
    assert 0 < shown.sum() < len(pool)
    training, validation = pool.split(DataTable((str(bars),), shown_only=True))
    np.testing.assert_array_equal(training | validation, shown)
