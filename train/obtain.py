"""A prepared dataset: opened where it is there, prepared where it is not."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UsageError
from train.data.cache import PREPARED_FILE, PreparedSet, open_cache
from train.data.command import main as data
from train.recipe import Recipe

CACHES = Path("build") / "cache"


def crops_of(recipe: Recipe) -> list[str]:
    """Those that a recipe reads."""
    return sorted({recipe.engine.crop, recipe.augment.crop} - {""})


def cache_of(dataset: str, recipe: Recipe, compensates: bool) -> Path:
    """Where a dataset is prepared for a recipe unless something else is said."""
    return CACHES / "-".join([dataset, *crops_of(recipe)] + ["uncompensated"] * (not compensates))


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
        dataset: its name; a cache may also hold a program's lists of it, `jaanet-bp4d` for `bp4d`.
        root: its own folder; may be left out where the cache is there, which must be of that folder.
        cache: None for one in build/cache, named by dataset and options.
        recipe: whose crops it must have.
        compensates: whether neutrals are exposed like their frames.
        partial: whether subjects may be missing.

    Raises:
        AustreamError: no cache and no root, a cache of something else, or the dataset cannot be prepared.
    """
    crops = crops_of(recipe)
    folder = cache or cache_of(dataset, recipe, compensates)
    if not (folder / PREPARED_FILE).exists():
        if root is None:
            raise UsageError(f"{folder}: not prepared yet; name the dataset's folder with --root")
        words = ["prepare", str(root), "--out", str(folder), "--dataset", dataset, "--crops", ",".join(crops)]
        words += [] if compensates else ["--no-exposure-compensation"]
        words += ["--partial"] if partial else []
        data(words)
    prepared = open_cache(folder)
    of = prepared.dataset
    if dataset not in (of, of.rpartition("-")[2]):  # `jaanet-bp4d`
        raise UsageError(f"{folder}: holds {of}, not {dataset}; name another --cache")
    absent = [crop for crop in crops if crop not in prepared.samples.crops]
    if absent:
        has = ", ".join(prepared.samples.crops)
        raise UsageError(
            f"{folder}: has no {', '.join(absent)}, only {has}; give another --cache, to be prepared"
        )
    place = prepared.report.get("root")  # older caches do not say
    if root is not None and place is not None and Path(place) != root.resolve():
        raise UsageError(
            f"{folder}: was prepared from {place}, not from {root}; leave --root out, or name another --cache"
        )
    if prepared.exposure_compensation != compensates:
        wanted = "with" if compensates else "without"
        raise UsageError(
            f"{folder}: not prepared {wanted} exposure compensation, as this paper's recipe has it; "
            "give another --cache, to be prepared"
        )
    if not prepared.whole and not partial:
        raise UsageError(
            f"{folder}: prepared with subjects or recordings missing; --partial takes it as it is"
        )
    return prepared
