"""Which spares are kept, and when there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import spares
from pipeline.errors import RunError
from pipeline.spares import CALM_SECONDS, SPARED, Spares


class _Spare:
    """In place of a process."""

    made: list[_Spare]

    def __init__(self, name: str, _folder: Path, life: int) -> None:
        self.name, self.life, self.alive, self.ready = name, life, True, []
        self.title = f"the {name} stage"
        self.process = SimpleNamespace(kill=lambda: None, wait=lambda: None, pid=0)
        _Spare.made.append(self)

    def listen(self) -> None:
        pass

    def how_it_ended(self) -> str:
        return "killed by signal 9"

    def close(self) -> None:
        self.alive = False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [1000.0]
    _Spare.made = []
    monkeypatch.setattr(spares.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(spares, "StageProcess", _Spare)
    monkeypatch.setattr(spares, "_resident_bytes", lambda _: 100 << 20)
    monkeypatch.setattr(spares, "_free_bytes", lambda: 10 << 30)
    return now


STAGES = {
    name: SimpleNamespace(name=name, life=4, title=f"the {name} stage", process=SimpleNamespace(pid=1))
    for name in SPARED
}


def kept(mine: Spares, clock: list[float], seconds: float, calm: bool = True) -> list[str]:
    """What has been started after so long."""
    until = clock[0] + seconds
    while clock[0] < until:
        mine.keep(STAGES, calm)  # type: ignore[arg-type]
        clock[0] += 0.02
    return [spare.name for spare in _Spare.made]


def test_spares_are_started_one_after_the_other_in_calm(tmp_path: Path, clock: list[float]) -> None:
    mine = Spares(tmp_path, print)
    assert kept(mine, clock, 60, calm=False) == []
    assert kept(mine, clock, CALM_SECONDS - 1) == []
    assert kept(mine, clock, 30) == [SPARED[0]]  # it is not yet ready
    for spare in _Spare.made:
        spare.ready.append("yes")
    assert kept(mine, clock, CALM_SECONDS + 1) == list(SPARED[:2])
    taken = mine.take(SPARED[0])
    assert taken is _Spare.made[0]  # type: ignore[comparison-overlap]
    assert taken.life == 5
    assert mine.take(SPARED[0]) is None
    mine.close()
    assert not _Spare.made[1].alive


def test_without_room_there_is_none_and_it_is_said_and_tried_again_later(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    mine = Spares(tmp_path, said.append)
    monkeypatch.setattr(spares, "_free_bytes", lambda: 150 << 20)
    assert kept(mine, clock, 60) == []
    assert len(said) == len(SPARED)
    assert "no spare for the face stage: it would take 100 MB, and 150 MB are free" in said[0]
    monkeypatch.setattr(spares, "_free_bytes", lambda: 10 << 30)
    assert kept(mine, clock, 700) == [SPARED[0]]


def test_one_that_cannot_be_started_or_dies_ends_nothing(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    mine = Spares(tmp_path, said.append)
    kept(mine, clock, CALM_SECONDS + 1)
    _Spare.made[0].alive = False
    kept(mine, clock, 0.1)
    assert "the face stage: it died (killed by signal 9)" in said[0]

    def fails(*_: object) -> None:
        raise RunError("no room for another socket")

    monkeypatch.setattr(spares, "StageProcess", fails)
    kept(mine, clock, 60)
    assert [line.split(";")[0] for line in said[1:]] == [
        f"no spare for the {name} stage: no room for another socket" for name in SPARED[1:]
    ]


def test_a_container_has_the_memory_that_it_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spares, "_CGROUP", tmp_path)
    there = spares._free_bytes()
    (tmp_path / "memory.current").write_text("60000000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert spares._free_bytes() == pytest.approx(there, rel=0.1)
    (tmp_path / "memory.max").write_text("100000000\n")
    assert spares._free_bytes() == 40_000_000
