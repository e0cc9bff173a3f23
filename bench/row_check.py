"""Whether the rows of a run's .jsonl files can be right, beside what its ledgers say of themselves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any


def wrong_rows(*files: Iterable[str], whole: bool = True) -> list[str]:
    """What is wrong, a few words each; empty: nothing.

    Within a stream, epochs never fall. Within a stream and epoch, the frames of every face rise, and so do
    those without a face. As many frames have rows as the ledger calls delivered; one more for every sink that
    died, which may have written it and not said so.

    Args:
        files: the lines of each, oldest first. Each begins with a header. All but the last were left by a
            sink that died, and their last lines may be cut off.
        whole: whether the last one is: then it ends with a ledger for every stream; otherwise it is as the
            others.
    """
    found: Counter[str] = Counter()
    last_frame: dict[tuple[str, int, int | None], int] = {}
    last_epoch: dict[str, int] = {}
    frames: dict[str, set[tuple[int, int]]] = {}
    delivered: dict[str, int] = {}
    for row in _rows(files, whole, found):
        if row["type"] == "ledger":
            delivered[row["stream"]] = row["delivered"]
        if row["type"] != "result":
            continue
        stream, epoch, frame = row["stream"], row["epoch"], row["frame"]
        track = (stream, epoch, row["face"])
        found["rows out of order"] += frame <= last_frame.get(track, -1)
        found["epochs that fall"] += epoch < last_epoch.get(stream, -1)
        last_frame[track], last_epoch[stream] = frame, epoch
        frames.setdefault(stream, set()).add((epoch, frame))
    if whole:
        for stream in frames.keys() | delivered.keys():
            told, seen = delivered.get(stream), len(frames.get(stream, ()))
            if told is None:
                found["streams without a ledger"] += 1
            elif not told <= seen < told + len(files):
                found[f"{told} frames delivered but {seen} in rows; streams"] += 1
    return [f"{what}: {count}" for what, count in sorted(found.items()) if count]


def _rows(files: Sequence[Iterable[str]], whole: bool, found: Counter[str]) -> Iterator[dict[str, Any]]:
    for of, lines in enumerate(files, 1):
        for number, line in enumerate(lines):
            if not (whole and of == len(files)) and not line.endswith("\n"):
                break
            try:
                row: dict[str, Any] = json.loads(line)
            except ValueError:
                found["lines are no JSON"] += 1
                continue
            found["headers missing"] += number == 0 and row["type"] != "header"
            yield row
