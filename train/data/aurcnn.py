"""AU R-CNN's lists (Ma et al. 2019), of BP4D and DISFA.

    idx/3_fold/id_trainval_1.txt, id_test_1.txt, id_valid_1.txt
        F023/T4/0935.jpg⇥14,12,?6⇥#⇥BP4D                 tabs; `0`: none, `?6`: AU 6 is unknown
        Img_LeftCamera/SN001/17.jpg⇥0⇥#⇥DISFA            pictures of DISFA count from 1, from both cameras

The third column names another picture where this one was made from it; such lines are passed over. Lines may
come twice, and a validation list repeats a part of the test list. In the DISFA lists an AU counts as present
from intensity 1 on, not 2 as in the papers here; the folds are not the published ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import SourceError
from train.data.files import entries
from train.data.lists import Importer, Kind, Row, Rows, check_apart, first_with, list_lines, merge, union
from train.shards import UNKNOWN

_LISTS = r"id_(trainval|test|valid)_\d+\.txt"


def find(root: Path, kind: Kind) -> Path | None:
    return first_with(root, ("", "3_fold", "idx/3_fold", "X_3_fold", "X/idx/3_fold"), _LISTS, kind)


def rows(folder: Path, kind: Kind) -> Rows:
    """All pictures with labels.

    Raises:
        SourceError: no line of this dataset, a line that is none, contradictions, or a subject is trained on
            and tested.
    """
    found = {path.name: _read(path, kind) for path in entries(folder, _LISTS)}
    for name, lines in found.items():
        train = name.replace("id_test_", "id_trainval_")
        if name.startswith("id_test_") and train in found:
            check_apart({name: lines, train: found[train]})
    together = union(found, folder)
    if not together:
        raise SourceError(f"{folder}: not one picture of {kind.prefix} in its lists; name the other dataset")
    return together


def _read(path: Path, kind: Kind) -> Rows:
    found: Rows = {}
    for number, line in enumerate(list_lines(path), start=1):
        cells = line.split("\t")
        if len(cells) != 4:
            raise SourceError(
                f"{path}: line {number}: expected a picture, AUs, origin and dataset with tabs between, "
                f"got {line[:40]!r}"
            )
        picture, aus, origin, dataset = cells
        if dataset == kind.prefix and origin == "#":
            merge(found, picture, _labels(aus, kind.aus, f"{path}: line {number}"), path)
    return found


def _labels(text: str, aus: Sequence[str], where: str) -> Row:
    """`14,12,?6` → labels of `aus`; others are passed over."""
    labels = dict.fromkeys(aus, 0)
    for cell in text.split(","):
        number = cell.strip().removeprefix("?")
        if not number.isdigit():
            raise SourceError(f"{where}: expected AUs like 14,12,?6 or 0, got {text[:40]!r}")
        if f"AU{int(number):02d}" in labels:
            labels[f"AU{int(number):02d}"] = UNKNOWN if cell.strip().startswith("?") else 1
    return tuple(labels.values())


AURCNN = Importer(
    name="aurcnn",
    title="AU R-CNN",
    find=find,
    wanted="id_trainval_1.txt or the like",
    images=("../../BP4D-training", "../../Img_LeftCamera/.."),
    rows=rows,
    frames={},
    note="these lists call an AU of DISFA present from intensity 1 on, other code from 2 on",
)
