"""Compiling: what parity compares, and its refusal. The sweep over backends is in test_engine_backends.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from engines.backends.base import Backend, Session
from engines.build import build, compare, parity_inputs
from engines.bundle import resolve
from engines.export import ExportedEngine
from engines.spec import EngineSpec
from pipeline.errors import EngineError


class Constant:
    """A session that answers the same to everything."""

    def __init__(self, value: float, n_aus: int = 13) -> None:
        self.answer = np.full((1, n_aus), value, np.float32)

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        assert inputs["crops"].dtype == np.uint8
        return self.answer.repeat(len(inputs["crops"]), axis=0)


class WrongBackend(Backend):
    """Compiles everything into 0.3."""

    name = "wrong"
    precisions = ("fp32",)

    def export(self, engine: ExportedEngine, spec: EngineSpec, precision: str, folder: Path) -> None:
        """Nothing to write."""

    def open(self, folder: Path, spec: EngineSpec, threads: int | None) -> Session:  # noqa: ARG002
        return Constant(0.3)


def test_iarl_is_arl_but_for_what_its_output_means() -> None:
    arl, iarl = resolve("arl"), resolve("iarl")
    same = ("network", "variant", "crop", "aus")
    assert all(getattr(arl.spec, name) == getattr(iarl.spec, name) for name in same)
    assert arl.random_seed == iarl.random_seed


@pytest.mark.parametrize("name", ["cednn", "igc", "satnet", "arl", "eacnet", "tranet", "delta"])
def test_parity_inputs_are_seeded_and_varied(name: str) -> None:
    spec = resolve(name).spec
    once, again = dict(parity_inputs(spec)), dict(parity_inputs(spec))
    assert list(once) == ["noise", "gradients", "more gradients", "black", "white"]
    for kind, inputs in once.items():
        assert {name: (a.shape, a.dtype.type) for name, a in inputs.items()} == spec.inputs(1)
        assert all(np.array_equal(array, again[kind][name]) for name, array in inputs.items())
        if spec.au_centers:
            assert inputs["au_centers"].min() < 0 < 1 < inputs["au_centers"].max()
        if spec.level_map:
            assert set(np.unique(inputs["level_map"])) == set(range(6))
        if spec.neutral:
            assert inputs["neutral"].any() == inputs["landmarks"][:, 1].any() == (kind != "black")
    crops = {kind: inputs["crops"] for kind, inputs in once.items()}
    assert crops["black"].max() == 0
    assert crops["white"].min() == 255
    assert not np.array_equal(crops["gradients"], crops["more gradients"])
    if spec.window > 1:  # frames differ, or the order of a window would not be checked
        assert not np.array_equal(crops["gradients"][0, 0], crops["gradients"][0, 1])


def test_compare_counts() -> None:
    spec = resolve("igc").spec  # thresholds of 0.5
    parity = compare(Constant(0.75), Constant(0.25), spec, "fp32")
    assert (parity.max_abs, parity.mean_abs) == (0.5, 0.5)
    assert (parity.decisions_changed, parity.decisions) == (65, 65)
    assert compare(Constant(0.75), Constant(0.625), spec, "fp32").decisions_changed == 0
    assert compare(Constant(0.5), Constant(0.49), spec, "fp32").decisions_changed == 65
    assert compare(Constant(float("nan")), Constant(0.5), spec, "fp32").max_abs > 1e300


def test_every_place_of_a_batch_is_compared() -> None:
    """Right alone and in the first place, wrong in the third."""
    spec = resolve("igc").spec

    class WrongThird(Constant):
        def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
            found = super().run(inputs)
            found[2::8] += 0.25
            return found

    right, wrong = Constant(0.5), WrongThird(0.5)
    assert compare(wrong, right, spec, "fp32").holds
    parity = compare(wrong, right, spec, "fp32", batch=8)
    assert (parity.max_abs, parity.decisions) == (0.25, 13 * (5 + 8 + 5))
    assert compare(right, right, spec, "fp32", batch=8).max_abs == 0


def test_another_result_is_refused_with_figures(tmp_path: Path) -> None:
    with pytest.raises(
        EngineError, match=r"cednn \(wrong, fp32\).*max \d\.\de.*tolerance 1e-04.*of 65"
    ) as error:
        build(resolve("cednn"), WrongBackend(), "fp32", tmp_path)
    assert "\n" not in str(error.value)
