"""JAA-Net's lists (Shao et al. 2018), of BP4D and DISFA.

    data/list/BP4D_part1_path.txt, …combine_1_2_path.txt    `BP4D/F001/T1/2440.jpg`, `DISFA/SN002/0.jpg`
    data/list/BP4D_part1_AUoccur.txt                        `0 0 1 …` a line; whoever has the dataset makes it
    data/imgs/, or dataset/                                 the pictures

The lists leave out the frames of `bp4d.BAD_FRAMES` and `disfa.BAD_FRAMES`. Pictures of DISFA count from 0.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.errors import SourceError
from train.data.files import entries
from train.data.lists import Importer, Kind, Rows, check_apart, first_with, list_lines, paired, union

_PATHS = r"X_(part\d|combine_\d_\d)_path\.txt"


def find(root: Path, kind: Kind) -> Path | None:
    return first_with(root, ("", "list", "data/list"), _PATHS, kind)


def rows(folder: Path, kind: Kind) -> Rows:
    """All pictures with labels.

    Raises:
        SourceError: pictures without labels, contradictions, or a subject in two parts.
    """
    found: dict[str, Rows] = {}
    unlabelled: dict[str, Path] = {}
    for paths in entries(folder, _PATHS.replace("X", kind.prefix)):
        labels = paths.with_name(paths.name.replace("_path.txt", "_AUoccur.txt"))
        if labels.exists():
            found[paths.name] = paired(paths, labels, kind)
        else:
            unlabelled |= dict.fromkeys(list_lines(paths), labels)
    together = union(found, folder)
    missing = [path for path in unlabelled if path not in together]
    if missing:
        raise SourceError(
            f"{unlabelled[missing[0]]}: not there, so {len(missing)} pictures have no labels (first: "
            f"{missing[0]}); JAA-Net's code comes without its AUoccur lists, add yours"
        )
    check_apart({name: lines for name, lines in found.items() if re.search(r"_part\d_", name)})
    return together


JAANET = Importer(
    name="jaanet",
    title="JAA-Net",
    find=find,
    wanted="X_part1_path.txt or the like",
    images=("../imgs", "../../dataset"),
    rows=rows,
    frames={"bp4d": 146_576, "disfa": 126_144},
)
