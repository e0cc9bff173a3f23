"""ME-GraphAU's lists (Luo et al. 2022), of BP4D and DISFA.

    data/BP4D/list/BP4D_train_img_path_fold1.txt     `F001/T1/2440.jpg`, not padded; DISFA: `SN001/0.png`
    data/BP4D/list/BP4D_train_label_fold1.txt        `0 1 9 …` a line, 9 unknown
    data/BP4D/img/                                   the pictures

Every frame is in the test list of one fold; fold 1 tests P3, fold 2 P2, fold 3 P1. No frame is left out.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import SourceError
from train.data.files import entries
from train.data.lists import Importer, Kind, Rows, check_apart, first_with, paired, union

_PATHS = r"X_(train|test)_img_path_fold\d\.txt"


def find(root: Path, kind: Kind) -> Path | None:
    return first_with(root, ("", "list", "X/list", "data/X/list"), _PATHS, kind)


def rows(folder: Path, kind: Kind) -> Rows:
    """All pictures with labels.

    Raises:
        SourceError: a list of labels is missing, contradictions, or a subject is trained on and tested.
    """
    found: dict[str, Rows] = {}
    for paths in entries(folder, _PATHS.replace("X", kind.prefix)):
        labels = paths.with_name(paths.name.replace("_img_path_", "_label_"))
        if not labels.exists():
            raise SourceError(f"{labels}: not there; expected the labels of the pictures in {paths.name}")
        found[paths.name] = paired(paths, labels, kind)
    tests = {name: lines for name, lines in found.items() if "_test_" in name}
    check_apart(tests)
    for name, lines in tests.items():
        train = name.replace("_test_", "_train_")
        check_apart({name: lines} | ({train: found[train]} if train in found else {}))
    return union(found, folder)


MEGRAPHAU = Importer(
    name="megraphau",
    title="ME-GraphAU",
    find=find,
    wanted="X_train_img_path_fold1.txt or the like",
    images=("../img",),
    rows=rows,
    frames={"bp4d": 146_847, "disfa": 130_814},
)
