"""One fold on disk: its run, its bundle, and what that says of the tested subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.bundle import Bundle, read_bundle, write_spec
from engines.spec import EngineSpec
from pipeline.errors import SourceError
from train import checkpoint, metrics
from train.comparison import score
from train.data.cache import PreparedSet
from train.evaluate import judged, load_learner, plain_batches
from train.export import export
from train.fit import BEST, decisive
from train.pool import Pool
from train.recipe import Recipe, differences
from train.tables import plain
from train.tested import Tested, found_by, identity_of


@dataclass(frozen=True)
class FoldTest:
    """A fold's place."""

    name: str
    """Of the engine that comes out."""
    recipe: Recipe
    folder: Path
    prepared: PreparedSet
    """What is tested."""
    people: tuple[str, ...]
    """Who is tested, by name."""
    hop: int
    """Frames from one tested window to the next, for a temporal network."""
    note: str = ""
    """For the bundle."""

    @property
    def run(self) -> Path:
        """Of `train fit`."""
        return self.folder / "run"

    @cached_property
    def aus(self) -> tuple[str, ...]:
        """Those of the engine that the tested dataset codes."""
        return tuple(au for au in self.recipe.engine.aus if au in self.prepared.aus)

    def bundle(self) -> Bundle:
        """The run's best weights as an engine, written unless it is there.

        Raises:
            AustreamError: the run is not finished, or the bundle cannot be written.
        """
        folder, digest = self.folder / "bundle", checkpoint.digest(self.run / BEST)
        if (folder / "engine.json").exists():
            known = read_bundle(folder)
            if known.spec.provenance.get("checkpoint") == digest:
                return known
        return export(self.run, folder, self.name, self.note)[0]

    def known(self, visible: str) -> Tested | None:
        """An earlier test of the same weights by the same recipe; None where there is none."""
        if not (self.run / BEST).exists() or not (self.folder / "bundle" / "engine.json").exists():
            return None
        trained = checkpoint.read_facts(self.run / BEST)["recipe"]
        if differences(decisive(trained), decisive(plain(self.recipe))):
            return None
        return Tested.load(self._path(visible), self._identity(self.bundle(), visible))

    def tested(self, visible: str) -> Tested:
        """What the bundle's weights say of everybody who is tested, computed unless it is there.

        Args:
            visible: of `VISIBLE`.

        Raises:
            SourceError: none of them has a sample.
        """
        known = self.known(visible)
        if known is not None:
            return known
        bundle = self.bundle()
        learner, _ = load_learner(self.run / BEST, half=True)
        spec = bundle.spec
        pool, items = self.items(spec)
        columns = [spec.aus.index(au) for au in self.aus]
        what = f"{self.recipe.data.fold}, {visible}"
        found = found_by(learner, plain_batches(pool, spec, items), visible, what)[:, columns]
        rows = items[:, -1]
        clean = self.recipe.data.protocol == "clean"
        tested = Tested(
            fold=self.recipe.data.fold,
            visible=visible,
            aus=self.aus,
            people=self.people,
            thresholds=tuple(spec.thresholds[c] for c in columns) if clean else None,
            probability=found,
            occurrence=pool.occurrence[rows],
            intensity=pool.intensity[rows],
            pose=self.poses(rows),
        )
        if visible == "full":  # before it is saved: what is saved is not done again
            self._tell(bundle, tested)
        tested.save(self._path(visible), self._identity(bundle, visible))
        return tested

    def items(self, spec: EngineSpec) -> tuple[Pool, NDArray[np.int64]]:
        """The tested dataset, and rows of every tested sample or window, (k, T).

        Raises:
            SourceError: there is none.
        """
        pool = Pool.open([self.prepared.folder], self.aus)
        wanted = np.zeros(len(pool), bool)
        wanted[self.prepared.rows_of(self.people)] = True
        wanted &= pool.counted(self.recipe.data)
        items = judged(pool, spec, self.hop)
        items = items[wanted[items[:, -1]]]
        if not len(items):
            raise SourceError(f"{self.prepared.folder}: no sample of {', '.join(self.people)} to test on")
        return pool, items

    def _path(self, visible: str) -> Path:
        return self.folder / f"tested-{visible}.safetensors"

    def _identity(self, bundle: Bundle, visible: str) -> str:
        samples = self.prepared.samples
        facts = {"people": self.people, "visible": visible, "hop": self.hop}
        facts |= {"samples": (samples.source, len(samples), samples.provenance.get("run"))}
        return identity_of(bundle, facts | {"dataset": self.prepared.dataset, "aus": self.aus})

    def poses(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,): FERA 2017 names its recordings TASK_VIEW."""
        if self.prepared.dataset != "fera2017":
            return np.zeros(len(rows), np.int64)
        views = np.array([int(r.name.rpartition("_")[2]) for r in self.prepared.recordings], np.int64)
        return views[self.prepared.recording[rows]]

    def _tell(self, bundle: Bundle, tested: Tested) -> None:
        """Write the scores of the tested subjects into the bundle; of intensities, F1 is of 2 and more."""
        threshold, intensities = self.recipe.threshold, self.recipe.engine.max_intensity is not None
        called = tested.probability >= threshold
        scores = {
            "f1": metrics.f1(called, tested.occurrence),
            "accuracy": metrics.accuracy(called, tested.occurrence),
            "auc": metrics.auc(tested.probability, tested.occurrence),
        }
        if intensities:
            scores |= {name: score(name, tested, threshold, rounded=True) for name in ("icc", "mae")}
        told = {
            "dataset": self.prepared.dataset,
            "synthetic": self.prepared.synthetic,
            "subjects": list(tested.people),
            "frames": len(tested),
            "threshold": threshold,
            "mean": {name: _rounded(metrics.mean(column)) for name, column in scores.items()},
            "aus": {
                au: {name: _rounded(float(column[a])) for name, column in scores.items()}
                for a, au in enumerate(tested.aus)
            },
        }
        spec = replace(bundle.spec, provenance=dict(bundle.spec.provenance) | {"test": told})
        write_spec(bundle.folder, spec, bundle.weights_id)


def _rounded(value: float) -> float | None:
    return None if value != value else round(value, 4)


def names(people: Sequence[str], most: int = 12) -> str:
    """`SN001, SN002, … (27)`."""
    shown = ", ".join(people[:most])
    return shown if len(people) <= most else f"{shown}, … ({len(people)})"
