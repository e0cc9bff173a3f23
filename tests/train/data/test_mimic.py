"""What `mimic` lays out is read back by the datasets' own loaders, and is marked as rendered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UsageError
from train.data.base import Recording
from train.data.check import check
from train.data.folds import PUBLISHED
from train.data.layouts import DATASETS, recognise
from train.data.mimic import LAYOUTS, Order, Sitter, main, mimic
from train.data.mimic_layouts import DATASETS as OWN
from train.data.mimic_layouts import Shown
from train.data.rendered import is_rendered
from train.shards import UNKNOWN
from train.synth.script import LABELLED, excludes


class Invented:
    """Recordings of grey pictures with labels at random, kept for comparison."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(1)
        self.made: list[Shown] = []

    def __call__(self, frames: int, _rate_hz: float, **_: object) -> Shown:
        shape = (frames, len(LABELLED))
        pictures = [np.full((48, 64, 3), 20 + k % 200, np.uint8) for k in range(frames)]
        intensity = self.rng.uniform(0, 5, shape).astype(np.float32)
        shown = Shown(pictures, intensity, self.rng.choice([0, 1, 9], shape).astype(np.uint8), ("AU12",))
        self.made.append(shown)
        return shown


@pytest.mark.parametrize("layout", OWN)
def test_the_loader_reads_what_was_laid_out(tmp_path: Path, layout: str) -> None:
    invented, chosen = Invented(), LAYOUTS[layout]
    subject = chosen.subjects[0]
    chosen.write(tmp_path, subject, invented, 1.0)
    dataset = recognise(tmp_path, layout)
    (read,) = dataset.read(tmp_path)
    assert read.name == subject
    assert len(read.recordings) == len(invented.made)
    for recording, made in zip(read.recordings, _in_order(read.recordings, invented.made), strict=True):
        recording.require()
        _compare(recording, made, layout)


def _in_order(recordings: tuple[Recording, ...], made: list[Shown]) -> list[Shown]:
    """FERA 2017's loader gives views in turn; here there is one task in each, the frontal one last."""
    return made[::-1] if recordings[0].name == "T2_3" else made


def _compare(recording: Recording, made: Shown, layout: str) -> None:
    labels, dataset = recording.labels, DATASETS[layout]
    columns = [LABELLED.index(au) for au in dataset.aus]
    rows = {"ckplus": slice(-1, None)}.get(layout, slice(None))
    if layout.startswith("bp4d") or layout == "fera2015":
        rows = slice(2, -2)
    levels, present = np.floor(made.intensity + 0.5)[rows][:, columns], made.occurrence[rows][:, columns]
    if layout == "ckplus":  # only what is present is listed
        levels = np.where(present == 1, levels, 0)
    coded = ~np.isnan(labels.intensity)
    assert np.array_equal(labels.intensity[coded], levels[coded])
    assert coded.any()
    if layout.startswith("disfa"):
        assert np.array_equal(labels.occurrence, levels >= 2)
    elif layout == "ckplus":
        assert np.array_equal(labels.occurrence, present == 1)
    else:
        assert np.array_equal(labels.occurrence, present)
        assert (labels.occurrence == UNKNOWN).any()
    numbers = np.asarray(recording.media.numbers)
    greys = [picture.mean() for _, picture in recording.media.frames()]
    first = np.searchsorted(numbers, labels.frame[0])
    assert abs(greys[first] - np.mean(made.pictures_bgr[rows][0])) < 6  # JPEG and MPEG-4 lose a little


def test_a_rendered_dataset_is_told_from_the_real_one(rendered: Callable[[str], Path]) -> None:
    root = rendered("disfaplus")
    report = check(root)
    assert is_rendered(root)
    assert report.dataset.name == "disfaplus"
    assert [subject.name for subject in report.subjects] == ["SN009", "SN013", "SN027"]
    assert any("SYNTHETIC: rendered faces" in problem.text for problem in report.problems)
    assert report.fatal == []  # that most subjects are not there is no surprise
    assert not is_rendered(root / "Images")


def test_people_show_every_au_in_turn_and_begin_at_rest() -> None:
    sitter = Sitter(3, 0, LAYOUTS["disfa"].aus)
    seen: set[str] = set()
    for _ in range(6):
        events = sitter._events(1.2)
        assert len(events) == 1
        assert events[0].onset >= 0.2
        aus = list(events[0].peaks)
        assert not any(excludes(one, other) for one in aus for other in aus if one != other)
        seen |= set(aus)
    assert seen == set(LAYOUTS["disfa"].aus)


def test_few_people_are_spread_over_the_published_parts() -> None:
    for name in ("disfaplus", "disfa", "bp4d"):
        first = LAYOUTS[name].subjects[:6]
        parts = [set(part) for part in PUBLISHED[name].values()]
        assert [len(part & set(first)) for part in parts] == [2, 2, 2]


def test_mistakes_are_one_clear_line(tmp_path: Path) -> None:
    def order(**changes: object) -> Order:
        values = {"out": tmp_path / "o", "people": 1, "seconds": 1.0, "seed": 1} | changes
        return Order(LAYOUTS["disfaplus"], **values)  # type: ignore[arg-type]

    with pytest.raises(UsageError, match="--people 10: expected 1 to 9, as DISFA"):
        order(people=10)
    with pytest.raises(UsageError, match=r"--seconds 0\.1: expected 0\.4"):
        order(seconds=0.1)
    with pytest.raises(UsageError, match="--seed -1"):
        order(seed=-1)
    with pytest.raises(UsageError, match="disfa2: no such layout; expected one of disfaplus"):
        main(["disfa2", str(tmp_path / "o")])
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "mine").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        mimic(order())
    (tmp_path / "p.part").mkdir()
    with pytest.raises(UsageError, match=r"p\.part: in the way, and not of this command"):
        mimic(order(out=tmp_path / "p"))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["o", "p.part"]
