"""A prepared dataset: opened where it is there, prepared where it is not."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UsageError
from train.data.cache import PREPARED_FILE, PreparedSet, open_cache
from train.data.command import main as data
from train.recipe import Recipe

CACHES = Path("build") / "cache"


def obtain(
    dataset: str,
    root: Path | None,
    cache: Path | None,
    recipe: Recipe,
    compensates: bool,
    partial: bool,
) -> PreparedSet:
    """Open a dataset's cache, made by `train data prepare` where there is none.

    Args:
        dataset: its name.
        root: its own folder; may be left out where the cache is there.
        cache: None for one in build/cache.
        recipe: whose crops it must have.
        compensates: whether neutrals are exposed like their frames.
        partial: whether subjects may be missing.

    Raises:
        AustreamError: no cache and no root, a cache of something else, or the dataset cannot be prepared.
    """
    crops = sorted({recipe.engine.crop, recipe.augment.crop} - {""})
    folder = cache or CACHES / f"{dataset}{'' if compensates else '-uncompensated'}"
    if not (folder / PREPARED_FILE).exists():
        if root is None:
            raise UsageError(f"{folder}: not prepared yet; name the dataset's folder with --root")
        words = ["prepare", str(root), "--out", str(folder), "--dataset", dataset, "--crops", ",".join(crops)]
        words += [] if compensates else ["--no-exposure-compensation"]
        words += ["--partial"] if partial else []
        data(words)
    prepared = open_cache(folder)
    if prepared.dataset != dataset:
        raise UsageError(f"{folder}: holds {prepared.dataset}, not {dataset}; name another --cache")
    absent = [crop for crop in crops if crop not in prepared.samples.crops]
    if absent:
        has = ", ".join(prepared.samples.crops)
        raise UsageError(
            f"{folder}: has no {', '.join(absent)}, only {has}; give another --cache, to be prepared"
        )
    if not prepared.whole and not partial:
        raise UsageError(
            f"{folder}: prepared with subjects or recordings missing; --partial takes it as it is"
        )
    return prepared
