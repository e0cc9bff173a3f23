"""How a folder of rendered faces in a dataset's layout is told from the dataset."""

from __future__ import annotations

from pathlib import Path

README = "README.txt"
MARK = "SYNTHETIC"
"""First line of that file in the top folder."""


def is_rendered(root: Path) -> bool:
    """Whether a folder holds faces that `train data mimic` rendered."""
    try:
        with (root / README).open(encoding="utf-8", errors="replace") as file:
            return file.readline().strip() == MARK
    except OSError:
        return False
