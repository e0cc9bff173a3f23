"""A reproduction with everything settled: which study, which data, which folds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from train import protocol, tables
from train.data.cache import PreparedSet
from train.data.folds import Fold
from train.foldtest import FoldTest
from train.paper_tables import Study
from train.recipe import Recipe, differences

MERELY_HOW = ("device", "threads", "workers", "checkpoint_minutes", "note", "seed", "channels_last")
"""Settings of a recipe that leave it the paper's."""


@dataclass(frozen=True, slots=True)
class Task:
    """Everything that a reproduction goes by."""

    study: Study
    variant: str
    protocol: protocol.Protocol
    trained: PreparedSet
    tested: PreparedSet | None
    """Another dataset to test on; None for the folds of the one that is trained on."""
    every: tuple[Fold, ...]
    """All folds; one named `all`, testing strangers, where another dataset is tested."""
    todo: tuple[Fold, ...]
    recipe: Recipe
    papers: Recipe
    """As the paper has it: without --set."""
    visible: tuple[str, ...]
    hop: int
    out: Path

    @property
    def partial(self) -> bool:
        """Whether subjects or recordings of a dataset are missing."""
        return not (self.trained.whole and (self.tested is None or self.tested.whole))

    @property
    def synthetic(self) -> bool:
        """Whether anything in it is rendered."""
        return self.trained.synthetic or (self.tested is not None and self.tested.synthetic)

    @property
    def changed(self) -> list[str]:
        """Where the recipe was changed by hand, but for what does not touch the result."""
        found = differences(tables.plain(self.papers), tables.plain(self.recipe))
        return [line for line in found if line.split(" ")[0] not in MERELY_HOW]

    @property
    def note(self) -> str:
        """What a bundle says of itself."""
        recipe = "a changed recipe" if self.changed else "the paper's recipe"
        rendered = (
            "Rendered faces in the dataset's layout, no real person. " if self.trained.synthetic else ""
        )
        but = f" Not as the paper has it: {self.study.deviates}." if self.study.deviates else ""
        return f"{rendered}{self.study.title} ({self.variant}) by {recipe}.{but}"

    def fold_test(self, fold: Fold) -> FoldTest:
        """Where a fold is trained and tested."""
        test = () if self.tested is not None else fold.test
        recipe = protocol.plan(self.recipe, self.trained, fold.name, test, self.protocol)
        return FoldTest(
            name=f"{self.study.name}-{fold.name.lower()}",
            recipe=recipe,
            folder=self.out / fold.name,
            prepared=self.tested or self.trained,
            people=fold.test,
            hop=self.hop,
            note=self.note,
        )
