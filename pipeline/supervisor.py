"""The run in processes: capture, face, infer and sink side by side, started, watched and ended here.

1. all four start; when they say that they are ready, capture has looked at the sources and infer has its
   engines
2. rings are made to measure, the setup is written; sink opens the outputs; capture begins
3. the end of the streams goes through all stages; or somebody wishes to stop, which capture is told; or a
   stage dies, which its neighbours notice: then the sink closes its files with a ledger that says so
4. whoever has not gone by then is ended; nothing stays behind
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from engines.bundle import resolve
from pipeline import neutral, profile
from pipeline.channels import Receiver, Sender
from pipeline.config import RunConfig
from pipeline.errors import AustreamError, PeerLostError, RunError
from pipeline.header import header_row
from pipeline.messages import Ledger, StreamInfo
from pipeline.ring import RunDirectory, create_rings
from pipeline.snapshot import EngineSnapshot, Histogram, RunSnapshot, StageSnapshot, StreamSnapshot
from pipeline.sources import render_demo, resolve_sources
from pipeline.stages.worker import CONFIG_FILE, NEUTRAL_FILE, SETUP_FILE, STAGES, stream_info
from pipeline.streams import HAND_OVERS, Control, Failure, Ready, Seen, Timing, crops_ring, frames_ring

_START_SECONDS = 600.0
"""Compiling an engine for the first time takes a while, rendering the demo clip too."""
_STOP_SECONDS = 4.0
_AFTER_DEATH_SECONDS = 2.5
_SHOW_EVERY_SECONDS = 0.25
_ROOT = Path(__file__).parents[1]


def _ignore(_: object) -> None:
    pass


class StageError(RunError):
    """A stage died or failed; its traceback, if it had one, is in `traceback`."""

    def __init__(self, message: str, traceback: str = "", exit_code: int = 1) -> None:
        super().__init__(message)
        self.traceback = traceback
        self.exit_code = exit_code


class _Stage:
    """One worker process and the lines to it."""

    def __init__(self, name: str, folder: Path) -> None:
        index = STAGES.index(name)
        self.name = name
        reports = HAND_OVERS["reports"]
        self._reports = Receiver(reports.endpoint(folder, index), "reports", reports.credits)
        self._control = Sender(HAND_OVERS["control"].endpoint(folder, index), "control")
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(_ROOT), *filter(None, [environment.get("PYTHONPATH")])]
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.stages", name, str(folder)],
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        self.ready: list[dict[str, Any]] = []
        self.failure: Failure | None = None
        self.ledgers: dict[str, Ledger] = {}
        self.seen: dict[str, Seen] = {}
        self.timings: dict[tuple[str, str], Histogram] = {}
        self.wish: str | None = None

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def listen(self) -> None:
        """Take in what the worker has reported."""
        try:
            while (message := self._reports.receive(0)) is not None:
                if isinstance(message, Ready):
                    self.ready.append(json.loads(message.about))
                elif isinstance(message, Failure):
                    self.failure = self.failure or message
                elif isinstance(message, Ledger):
                    self.ledgers[message.stream] = message
                elif isinstance(message, Control):
                    self.wish = message.reason
                elif isinstance(message, Seen):
                    self.seen[message.stream] = message
                elif isinstance(message, Timing):
                    self.timings[message.stage, message.engine] = message.latency
                self._reports.done()
        except PeerLostError:
            pass  # the process is gone; poll() tells

    def tell(self, verb: str, reason: str = "", ledger: Ledger | None = None) -> None:
        with contextlib.suppress(PeerLostError):
            self._control.try_send(Control(verb, reason, ledger))  # type: ignore[arg-type]

    def close(self) -> None:
        self._reports.close()
        self._control.close()


class StreamedRun:
    """A run in processes, ready to go. `wait` does it; then `ledgers` and `paths` tell what came of it."""

    def __init__(
        self,
        config: RunConfig,
        *,
        stop: Callable[[], str | None] = lambda: None,
        rendering: Callable[[int, int], None] | None = None,
        show: Callable[[RunSnapshot], object] = _ignore,
    ) -> None:
        """`show`: gets a snapshot several times a second, from the start of the stages on."""
        self.config, self._stop, self._show = config, stop, show
        self._began, self._shown = time.monotonic(), 0.0
        self.infos: list[StreamInfo] = []
        self.engines: list[dict[str, Any]] = []
        self.ledgers: list[Ledger] = []
        self.paths: list[Path] = []
        specs = resolve_sources(config.source, config.camera)
        for name in config.engine:
            resolve(name)
        if any(spec.uri == "demo" for spec in specs):
            # Here and not in the capture process, so that its progress shows.
            render_demo(rendering)
        self._directory = RunDirectory()
        self._stages: dict[str, _Stage] = {}
        try:
            folder = self._directory.path
            self._prepare_neutral(folder)
            (folder / CONFIG_FILE).write_text(json.dumps(config.mapping()))
            self._stages = {name: _Stage(name, folder) for name in STAGES}
            capture, infer = self._ready("capture"), self._ready("infer")
            self._ready("face")
            self.infos = [stream_info(entry) for entry in capture["infos"]]
            self.engines = infer["engines"]
            self.header = header_row(config, specs, self.infos, self.engines)
            self._set_up(folder)
            for name in ("sink", "infer", "face"):
                self._stages[name].tell("start")
            self._ready("sink")
        except BaseException:
            self.close()
            raise

    def wait(self, progress: Callable[[Ledger], object] = _ignore) -> None:
        """Run to the end, telling `progress` about the stream that is on.

        Raises:
            StageError: a stage died or failed.
            AustreamError: as the stages raised it.
        """
        try:
            self._stages["capture"].tell("start")
            told: str | None = None
            deadline: float | None = None
            while any(stage.alive for stage in self._stages.values()):
                self._listen()
                for ledger in self._stages["sink"].ledgers.values():
                    progress(ledger)
                if self._first_death() is not None:
                    break
                wish = self._stop() or self._stages["sink"].wish
                if wish and told is None:
                    told, deadline = wish, time.monotonic() + _STOP_SECONDS
                    self._stages["capture"].tell("stop", wish)
                if deadline is not None and time.monotonic() > deadline:
                    break
                time.sleep(0.02)
            self._listen()
            self._finish(told)
        finally:
            self.close()

    def close(self) -> None:
        """End what still runs and remove what there is."""
        for stage in self._stages.values():
            if stage.alive and stage.name != "sink":
                stage.process.kill()
        # The sink has files to close; a moment after it has lost its neighbour it is through.
        if "sink" in self._stages:
            self._stages["sink"].tell("stop", "called off")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._stages["sink"].process.wait(timeout=1.0)
            self._stages["sink"].process.kill()
        for stage in self._stages.values():
            stage.process.wait()
            stage.close()
        self._directory.close()

    def _finish(self, wish: str | None) -> None:
        death = self._first_death()
        sink = self._stages["sink"]
        if death is not None or wish is not None:
            self._let_the_sink_end(death, wish)
        self._listen()
        done = next((about for about in sink.ready if "paths" in about), None)
        self.paths = [Path(path) for path in done["paths"]] if done else []
        self.ledgers = list(sink.ledgers.values()) or list(self._stages["capture"].ledgers.values())
        self._show(self.snapshot())
        # A stage may have something to complain of and yet have worked to the end: --save-neutral, for one.
        complaint = death or next((stage for stage in self._stages.values() if stage.failure), None)
        if complaint is not None:
            raise self._error(complaint)

    def _let_the_sink_end(self, death: _Stage | None, wish: str | None) -> None:
        """After a death: capture stops, its count goes to the sink, which closes its files with it."""
        capture, sink = self._stages["capture"], self._stages["sink"]
        reason = f"the {death.name} stage failed" if death is not None else str(wish)
        deadline = time.monotonic() + _AFTER_DEATH_SECONDS
        capture.tell("stop", reason)
        while capture.alive and time.monotonic() < deadline - 1.5:
            self._listen()
            time.sleep(0.02)
        self._listen()
        for name in ("capture", "face", "infer"):
            if self._stages[name].alive and death is not None:
                self._stages[name].process.kill()
        ledger = next(reversed(capture.ledgers.values()), None)
        sink.tell("stop", reason, replace(ledger) if ledger else None)
        while sink.alive and time.monotonic() < deadline:
            self._listen()
            time.sleep(0.02)

    def _first_death(self) -> _Stage | None:
        """The stage that failed first; a lost neighbour is not the cause if another has one of its own."""
        dead = [s for s in self._stages.values() if not s.alive and s.process.returncode != 0]
        if not dead:
            return None
        for stage in dead:
            stage.listen()
        return min(dead, key=_blame)

    def _error(self, stage: _Stage) -> AustreamError:
        failure = stage.failure
        if failure is None:
            code = stage.process.returncode
            how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            return StageError(
                f"the {stage.name} stage died ({how}); its files were closed as far as they went"
            )
        if failure.traceback:
            return StageError(f"the {stage.name} stage failed: {failure.error}", failure.traceback)
        return StageError(failure.error, exit_code=failure.exit_code)

    def snapshot(self) -> RunSnapshot:
        """The run as it is known now."""
        sink, ended = self._stages["sink"], {ledger.stream for ledger in self.ledgers}
        streams = []
        for info in self.infos:
            ledger = sink.ledgers.get(info.stream, Ledger(info.stream))
            seen = sink.seen.get(info.stream, Seen(info.stream, 0, 0))
            over = info.stream in ended
            streams.append(
                StreamSnapshot(
                    *(info.stream, bool(ledger.delivered) and not over, over, seen.epoch),
                    *(ledger.captured, ledger.delivered, dict(ledger.dropped), seen.faces),
                )
            )
        timings = sink.timings
        stages = [
            StageSnapshot(stage.name, stage.alive, 0, 0, timings.get((stage.name, ""), Histogram()))
            for stage in self._stages.values()
        ]
        engines = [
            EngineSnapshot(
                *(entry["name"], entry["backend"], entry["precision"], entry["trained"]),
                timings.get(("infer", entry["name"]), Histogram()),
            )
            for entry in self.engines
        ]
        at_work = bool(engines) and all(stage.running for stage in stages)
        uptime_seconds = time.monotonic() - self._began
        return RunSnapshot(uptime_seconds, at_work, tuple(streams), tuple(stages), tuple(engines))

    def _listen(self) -> None:
        for stage in self._stages.values():
            stage.listen()
        if time.monotonic() - self._shown >= _SHOW_EVERY_SECONDS:
            self._shown = time.monotonic()
            self._show(self.snapshot())

    def _ready(self, name: str) -> dict[str, Any]:
        """Wait until a stage is ready; what it found."""
        stage = self._stages[name]
        deadline = time.monotonic() + _START_SECONDS
        while not stage.ready:
            self._listen()
            if (death := self._first_death()) is not None:
                time.sleep(0.05)
                self._listen()
                raise self._error(death)
            if self._stop():
                raise KeyboardInterrupt
            if time.monotonic() > deadline:
                raise StageError(f"the {name} stage was not ready within {_START_SECONDS:g} s")
            time.sleep(0.01)
        return stage.ready.pop(0)

    def _prepare_neutral(self, folder: Path) -> None:
        """A neutral that is given is looked at here, so that a bad one is found before anything starts."""
        parsed = neutral.parse_policy(self.config.neutral)
        if isinstance(parsed, Path):
            from pipeline.faces import neutral_from_photo

            held = profile.load_profile(parsed) if parsed.suffix == ".npz" else neutral_from_photo(parsed)
            profile.save_profile(folder / NEUTRAL_FILE, held)
        if self.config.save_neutral:
            profile.check_target(Path(self.config.save_neutral))

    def _set_up(self, folder: Path) -> None:
        sizes = [info.size_wh for info in self.infos]
        largest = (max(w for w, _ in sizes), max(h for _, h in sizes))
        specs = [resolve(name).spec for name in self.config.engine]
        from pipeline.faces import Wanted

        shapes = Wanted.by(specs).pixels()
        to_sink = self.config.window or any(out.lower().endswith(".mp4") for out in self.config.out)
        rings = [frames_ring(largest, to_sink=to_sink), crops_ring(shapes, self.config.max_faces)]
        create_rings(folder, rings)
        setup = {
            "header": self.header,
            "infos": [{**entry, "size_wh": list(entry["size_wh"])} for entry in map(_plain, self.infos)],
            "pixels_to_sink": to_sink,
            "rings": {ring.name: _plain(ring) for ring in rings},
        }
        (folder / SETUP_FILE).write_text(json.dumps(setup))


def _plain(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _blame(stage: _Stage) -> int:
    """0 for a cause, 1 for an end without a word, 2 for who only lost a neighbour."""
    if stage.failure is None:
        return 0 if stage.process.returncode < 0 else 1
    return 2 if "is gone" in stage.failure.error else 0
