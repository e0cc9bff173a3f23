"""Stages that die or hang in a live run are started anew; what was lost is counted; nothing is left."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest
from live_runs import killed_again_and_again, live_run, rows_of, slow_copy, until

from pipeline import subscribe, supervisor
from pipeline.config import RunConfig
from pipeline.spares import SPARED
from pipeline.stageprocess import START_SECONDS, StageError, StageProcess
from pipeline.supervisor import MOST_RESTARTS, StreamedRun


@pytest.fixture(scope="module")
def clip(real_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slow_copy(real_clip, tmp_path_factory.mktemp("clips") / "slow.mkv", 4)


def endless(clip: Path) -> list[str]:
    return ["--source", str(clip), "--live", "--loop", "--duration", "3600"]


def test_killed_and_stopped_stages_come_back_and_every_frame_is_accounted_for(
    clip: Path, tmp_path: Path
) -> None:
    blows = [("face", signal.SIGKILL), ("infer", signal.SIGKILL), ("capture", signal.SIGKILL)]
    blows += [("infer", signal.SIGSTOP)]
    pids = set()
    with live_run(tmp_path / "r.jsonl", *endless(clip), *endless(clip)[:2]) as run:
        assert run.goes_on(), run.errors
        folder = run.folder()

        def at_work() -> dict[str, int]:
            return {name: pid for name, pid in run.workers().items() if not name.startswith("spare")}

        def sockets() -> tuple[int, int]:
            """Those between the stages, and those of the supervisor's lines, spares' included."""
            names = [path.name for path in folder.glob("*.socket")]
            lines = sum(name.startswith(("control", "reports")) for name in names)
            return len(names) - lines, lines

        links, _ = sockets()
        for number, (stage, blow) in enumerate(blows, 1):
            workers = at_work()
            pids |= set(run.workers().values())
            os.kill(workers[stage], blow)
            assert until(lambda n=number: run.said("is at work again") == n), run.errors
            assert run.goes_on(), run.errors
            now = at_work()
            assert now.pop(stage) != workers.pop(stage)
            assert now == workers  # the neighbours are the same processes as before
            # Two for each of the four stages at work, and for each spare.
            assert until(lambda: sockets()[0] == links and sockets()[1] <= 2 * (4 + len(SPARED))), sockets()
        code = run.stop()
    assert code == 130, run.errors
    assert not folder.exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert run.said("killed by signal 9") == 3
    assert run.said("it was stopped") == 1
    for ledger in run.ledgers().values():
        assert ledger["balanced"], ledger
        assert ledger["restarts"] == {"face": 1, "infer": 2, "capture": 1}
        assert ledger["ended"] == "interrupted"
    check_rows(tmp_path / "r.jsonl")


def check_rows(path: Path) -> None:
    """Rows of each stream: numbers rise, epochs rise, ids are not used again after the face stage's death,
    and the ledger's count of rows is theirs."""
    rows = [row for row in rows_of(path) if row["type"] == "result"]
    for stream in {row["stream"] for row in rows}:
        mine = [row for row in rows if row["stream"] == stream]
        frames = [row["frame"] for row in mine]
        epochs = [row["epoch"] for row in mine]
        assert frames == sorted(set(frames))
        assert epochs == sorted(epochs)
        assert len(set(epochs)) >= 4
        faces_of: dict[int, set[int]] = {}
        for row in mine:
            if row["face"] is not None:
                faces_of.setdefault(row["epoch"], set()).add(row["face"])
        assert min(faces_of[max(faces_of)]) > max(faces_of[min(faces_of)])
        ledger = next(row for row in rows_of(path) if row["type"] == "ledger" and row["stream"] == stream)
        assert ledger["delivered"] == len(mine)


def test_a_stage_that_dies_again_and_again_ends_the_run_with_one_clear_line(
    clip: Path, tmp_path: Path
) -> None:
    with live_run(tmp_path / "r.jsonl", *endless(clip)) as run:
        assert run.goes_on(), run.errors
        folder = run.folder()
        killed_again_and_again(run, "face", MOST_RESTARTS + 1)
        code = run.wait()
    assert code == 1
    assert f"the face stage died {MOST_RESTARTS + 1} times within 60 s" in run.errors[-1], run.errors
    assert "Traceback" not in "".join(run.errors)
    assert not folder.exists()
    (ledger,) = run.ledgers().values()
    assert ledger["ended"] == "the face stage failed"
    assert ledger["restarts"] == {"face": MOST_RESTARTS}


def test_a_stage_that_hangs_while_it_is_started_anew_is_noticed_and_keeps_nobody_from_ending(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_COMING_BACK_SECONDS", 0.5)
    out, said = tmp_path / "r.jsonl", []

    def story() -> Iterator[None]:
        """Goes on by a step whenever the run asks whether it is to stop."""
        while not any("result" in line for line in written()):
            yield
        hung = yield from struck()
        hung.began_seconds -= START_SECONDS
        while run._stages["face"].life < 2 or not run._all_at_work:
            yield
        rows = len(written())
        while len(written()) < rows + 2:
            yield
        yield from struck()

    def struck() -> Generator[None, None, StageProcess]:
        """The face stage is killed, and its next life stopped before it can begin."""
        dead = run._stages["face"]
        dead.process.kill()
        while run._stages["face"] is dead:
            yield
        os.kill(run._stages["face"].process.pid, signal.SIGSTOP)
        return run._stages["face"]

    def written() -> list[str]:
        return out.with_name("r.jsonl.part").read_text().splitlines()

    def stop() -> str | None:
        if runs and not told_at and next(steps, "over") == "over":
            told_at.append(time.monotonic())
        return "interrupted" if told_at else None

    steps, runs, told_at = story(), [], []
    config = RunConfig(
        source=(str(clip),), live=True, loop=True, duration=3600.0, engine=("cednn",), out=(str(out),)
    )
    run = StreamedRun(config, stop=stop, log=said.append)
    runs.append(run)
    run.wait()
    assert time.monotonic() - told_at[0] < 15
    assert f"it hung: no word for {START_SECONDS:g} s" in "".join(said)
    (ledger,) = run.ledgers
    assert (ledger.ended, ledger.restarts) == ("interrupted", {"face": 3})
    assert run.paths == [out]
    assert rows_of(out)[-1]["delivered"] == ledger.delivered > 2


def test_a_file_that_is_played_once_is_not_played_from_its_beginning_again(
    clip: Path, tmp_path: Path
) -> None:
    with live_run(tmp_path / "r.jsonl", "--source", str(clip), "--live") as run:
        assert run.goes_on(), run.errors
        os.kill(run.workers()["face"], signal.SIGKILL)
        assert until(lambda: run.said("is at work again") == 1), run.errors
        assert run.goes_on(), run.errors
        os.kill(run.workers()["capture"], signal.SIGKILL)
        assert run.wait() == 1
    assert "the capture stage died (killed by signal 9)" in run.errors[-1]
    (ledger,) = run.ledgers().values()
    assert (ledger["ended"], ledger["restarts"]) == ("the capture stage failed", {"face": 1})
    frames = [row["frame"] for row in rows_of(tmp_path / "r.jsonl") if row["type"] == "result"]
    assert frames == sorted(set(frames))


def test_a_dead_sink_goes_on_in_files_of_its_own_and_nothing_is_counted_twice(
    clip: Path, tmp_path: Path
) -> None:
    out, table = tmp_path / "r.jsonl", tmp_path / "t.csv"
    (tmp_path / "r.0007.jsonl").write_text("an earlier run's\n")
    words = ["--out", str(table), "--publish", address := f"ipc://{tmp_path}/rows"]
    with live_run(out, *endless(clip), *endless(clip)[:2], *words) as run, subscribed(address) as published:
        assert run.goes_on(), run.errors
        folder = run.folder()
        sockets = len(list(folder.glob("*.socket")))
        before = run.workers()
        left = []
        for deaths in (1, 2):
            os.kill(run.workers()["sink"], signal.SIGKILL)
            assert until(lambda n=deaths: run.said("the sink stage is at work again") == n), run.errors
            left.append({path: path.read_bytes() for path in tmp_path.glob("*.part")})
            assert run.goes_on(), run.errors
            heard = len(published)
            assert until(lambda n=heard: len(published) > n + 4), run.errors
        assert {**run.workers(), "sink": 0} == {**before, "sink": 0}
        assert until(lambda: len(list(folder.glob("*.socket"))) == sockets), list(folder.glob("*.socket"))
        code = run.stop()
    assert code == 130, run.errors
    assert not folder.exists()
    parts = [tmp_path / "r.jsonl.part", tmp_path / "r.0008.jsonl.part"]
    last = tmp_path / "r.0009.jsonl"
    assert run.files() == [parts[0], tmp_path / "r.0007.jsonl", parts[1], last]
    assert left[1][parts[0]] == parts[0].read_bytes()  # nobody has touched it since
    streams = set(run.ledgers())
    assert len(streams) == 2
    for file, part, following in (("r.jsonl", parts[0], parts[1]), ("r.0008.jsonl", parts[1], last)):
        assert rows_of(following)[0]["continues"] == part.name
        assert "ledger" not in {row["type"] for row in rows_of(part)}
        held = {(r["stream"], r["frame"]) for r in rows_of(part) if r["type"] == "result"}
        (told,) = [line for line in run.errors if f"{file}.part: left by the sink that died" in line]
        count = int(told.split(", with ")[1].split()[0])
        assert count <= len(held) <= count + 1, told  # one may have been written and not yet noted
        assert f"{following.name.removesuffix('.part')} goes on" in told
    frames = [(r["stream"], r["frame"]) for p in (*parts, last) for r in rows_of(p) if r["type"] == "result"]
    assert len(frames) == len(set(frames))
    for stream, ledger in run.ledgers().items():
        seen = [frame for at, frame in frames if at == stream]
        assert seen == sorted(seen)
        assert ledger["balanced"], ledger
        assert ledger["restarts"] == {"sink": 2}
        assert {entry["stage"] for entry in ledger["dropped"]} <= {"capture", "sink"}
        assert ledger["delivered"] <= len(seen) <= ledger["delivered"] + 2
        # Whoever subscribed sees by the numbers what went by while there was nobody to send it.
        numbers = [row["sequence"] for row in published if row.get("stream") == stream]
        assert numbers == sorted(set(numbers))
        assert len(seen) >= numbers[-1] + 1 - 3  # the ledger has one, too
    tables = sorted(tmp_path.glob("t.*csv*"))
    assert len(tables) == 6  # one for every stream and sink
    lines = [line for path in tables for line in path.read_text().splitlines()]
    assert 0 <= len(frames) - sum(line[0].isdecimal() for line in lines) <= 2


@contextmanager
def subscribed(address: str) -> Iterator[list[dict]]:
    """The rows that a subscriber gets, growing."""
    rows: list[dict] = []

    def take() -> None:
        for row in subscribe(address, timeout_seconds=60):
            rows.append(row)  # noqa: PERF402  (one by one, as they are read meanwhile)

    Thread(target=take, daemon=True).start()
    yield rows


def test_a_sink_that_dies_again_and_again_ends_the_run_and_the_books_say_how_far_it_came(
    clip: Path, tmp_path: Path
) -> None:
    with live_run(tmp_path / "r.jsonl", *endless(clip)) as run:
        assert run.goes_on(), run.errors
        folder = run.folder()
        killed_again_and_again(run, "sink", MOST_RESTARTS + 1)
        assert run.wait() == 1
    assert f"the sink stage died {MOST_RESTARTS + 1} times within 60 s" in run.errors[-1], run.errors
    assert "the files that it had open stay .part" in run.errors[-1]
    assert not folder.exists()
    rows = run.results()
    # What waits in the stages is in flight; what capture has dropped is not.
    (told,) = [line for line in run.errors if " = delivered " in line]
    assert f" = delivered {rows} " in told or f" = delivered {rows - 1} " in told
    assert "ended: the sink stage failed" in told
    assert f"{MOST_RESTARTS} restarts" in told
    assert 0 <= int(told.split("in flight ")[1].split(";")[0]) <= 12, told


def test_a_sink_that_dies_while_the_run_ends_leaves_its_part(clip: Path, tmp_path: Path) -> None:
    with live_run(tmp_path / "r.jsonl", *endless(clip)) as run:
        assert run.goes_on(), run.errors
        sink = run.workers()["sink"]
        os.kill(sink, signal.SIGSTOP)
        run.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        os.kill(sink, signal.SIGKILL)
        assert run.wait() == 1
    assert "the sink stage died (killed by signal 9); the files that it had open stay .part" in run.errors[-1]
    assert [path.name for path in run.files()] == ["r.jsonl.part"]


def test_what_the_user_must_put_right_ends_the_run_at_once(clip: Path, tmp_path: Path) -> None:
    with live_run(tmp_path / "r.jsonl", *endless(clip)) as run:
        assert run.goes_on(), run.errors
        size = run.files()[0].stat().st_size + 1
        resource.prlimit(run.workers()["sink"], resource.RLIMIT_FSIZE, (size, size))
        assert run.wait() == 1
    assert run.said("started anew") == 0
    assert "File too large" in run.errors[-1], run.errors


def test_a_sink_that_does_not_come_back_keeps_nobody_from_ending(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_COMING_BACK_SECONDS", 0.5)
    out = tmp_path / "r.jsonl"

    def stop() -> str | None:
        """Once there are rows, the sink is killed; its next life stands still before it can begin."""
        if not runs or "result" not in out.with_name("r.jsonl.part").read_text():
            return None
        sink = runs[0]._stages["sink"]
        if not sink.life and not dead:
            dead.append(sink.process.pid)
            sink.process.kill()
        if not sink.life:
            return None
        with suppress(ProcessLookupError):
            os.kill(sink.process.pid, signal.SIGSTOP)
        return "interrupted"

    runs: list[StreamedRun] = []
    dead: list[int] = []
    values = {"live": True, "loop": True, "duration": 3600.0}
    run = StreamedRun(RunConfig(source=(str(clip),), engine=("cednn",), out=(str(out),), **values), stop=stop)
    runs.append(run)
    with pytest.raises(StageError, match=r"not through in time; its files may end in .part"):
        run.wait()
    (ledger,) = run.ledgers
    assert (ledger.ended, ledger.restarts) == ("interrupted", {"sink": 1})
    assert ledger.delivered == len([row for row in rows_of(Path(f"{out}.part")) if row["type"] == "result"])


def test_ctrl_c_waits_for_a_sink_that_is_being_started_anew(clip: Path, tmp_path: Path) -> None:
    with live_run(tmp_path / "r.jsonl", *endless(clip)) as run:
        assert run.goes_on(), run.errors
        os.kill(run.workers()["sink"], signal.SIGKILL)
        assert until(lambda: run.said("the sink stage died") == 1), run.errors
        assert run.stop() == 130, run.errors
    (ledger,) = run.ledgers().values()
    assert (ledger["ended"], ledger["balanced"], ledger["restarts"]) == ("interrupted", True, {"sink": 1})
    assert run.said("wrote") == 1
