"""The run in processes: capture, face, infer and sink side by side, started, watched, started anew and ended.

1. all start; when they say that they are ready, capture has looked at the sources and infer has its engines;
   a feed that is not there yet keeps nobody waiting
2. rings are made to measure, the setup is written; sink opens the outputs; capture begins
3. a process that dies, or gives no heartbeat, is started anew, where all sources are live: a file was
   promised to be read without a gap; for face and infer a spare takes its place
4. the end of the streams goes through all stages; or somebody wishes to stop, which capture is told; or a
   stage dies for good: then the sink closes its files with a ledger that says so
5. whoever has not gone by then is ended; nothing stays behind
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from engines.bundle import resolve
from pipeline import neutral, profile
from pipeline.books import RUNNING, read_arrivals, read_book
from pipeline.config import RunConfig
from pipeline.ctl import CtlServer, Reply
from pipeline.errors import AustreamError, RunError, UsageError
from pipeline.header import header_row
from pipeline.messages import Ledger, StreamInfo
from pipeline.overview import engines_of, listed, stages_of, streams_of
from pipeline.ring import RunDirectory, create_rings, ring_names
from pipeline.snapshot import RunSnapshot
from pipeline.sources import captures_of, render_demo, resolve_sources, write_streams
from pipeline.spares import Spares
from pipeline.stageprocess import START_SECONDS, STOPPED_SECONDS, StageError, StageProcess
from pipeline.stages.wiring import capture_name, ends_of, frames_link, links_of, sockets_of
from pipeline.stages.worker import (
    CONFIG_FILE,
    FIRST_WORD_SECONDS,
    LIVES_FILE,
    NEUTRAL_FILE,
    SETUP_FILE,
    stream_info,
)
from pipeline.streams import crops_ring, frames_ring

_STOP_SECONDS = 4.0
_AFTER_DEATH_SECONDS = 2.5
_COMING_BACK_SECONDS = 20.0
"""So long the end waits for a stage that is being started anew, so that what is on its way gets through."""
_BETWEEN_FILES_SECONDS = 1.0
"""From one long step of the sink to the next."""
MOST_RESTARTS, WITHIN_SECONDS = 5, 60.0
"""A stage is started anew at most so often within this time."""
_SNAPSHOT_SECONDS = 0.25


def _ignore(*_: object) -> None:
    pass


class StreamedRun:
    """A run in processes, ready to go. `wait` does it; then `ledgers` and `paths` tell what came of it."""

    def __init__(
        self,
        config: RunConfig,
        *,
        stop: Callable[[], str | None] = lambda: None,
        rendering: Callable[[int, int], None] | None = None,
        log: Callable[[str], object] = _ignore,
        show: Callable[[RunSnapshot], object] = _ignore,
    ) -> None:
        """
        Args:
            stop: says why the run is to end, once it is.
            rendering: told (done, total) while the demo clip is rendered for the first time.
            log: told in one line what befalls the feeds and the stages.
            show: gets a snapshot several times a second, from the start of the stages on.
        """
        self.config, self._stop, self._log, self._show = config, stop, log, show
        self.infos: list[StreamInfo] = []
        self.engines: list[dict[str, Any]] = []
        self.ledgers: list[Ledger] = []
        self.paths: list[Path] = []
        self._specs = resolve_sources(config.source, config.camera, config.rtsp_transport)
        for name in config.engine:
            resolve(name)
        if any(spec.uri == "demo" for spec in self._specs):
            # Here and not in the capture process, so that its progress shows.
            render_demo(rendering)
        self._began_seconds = time.monotonic()
        self._snapshot, self._snapshot_seconds = RunSnapshot(0.0, False, (), ()), 0.0
        self._commands: queue.SimpleQueue[tuple[Mapping[str, str], Future[Reply]]] = queue.SimpleQueue()
        self._connected: dict[str, bool] = {}
        self._stages: dict[str, StageProcess] = {}
        """By name: one for every stage, of capture one for every feed."""
        self._deaths: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=MOST_RESTARTS))
        self._gone: dict[str, Ledger] = {}
        """By stream: what captures that have ended said of it."""
        self._gone_lives = 0
        self._complained: list[StageProcess] = []
        """Captures that have ended with something to complain of, such as a file that broke off."""
        self._unused_rings: dict[str, list[str]] = {}
        """Streams of captures that have ended, by the name of their rings: frames may be on their way."""
        self._too_often: StageProcess | None = None
        self._said_to_close = False
        self._looked_at_seconds = time.monotonic()
        self._lives = dict.fromkeys(links_of(1 + max(captures_of(self._specs))), 0)
        self._directory = RunDirectory()
        self._spares = Spares(self._directory.path, self._log)
        self._ctl: CtlServer | None = None
        try:
            folder = self._directory.path
            self._prepare_neutral(folder)
            (folder / CONFIG_FILE).write_text(json.dumps(config.mapping()))
            write_streams(folder, self._specs)
            self._write_lives()
            names = [end for link in self._lives for end in ends_of(link)]
            for name in dict.fromkeys(names):
                self._stages[name] = StageProcess(name, folder)
            found = self._first_words()
            self.engines = self._ready("infer")["engines"]
            self._ready("face")
            infos = {name: [stream_info(entry) for entry in about["infos"]] for name, about in found.items()}
            order = [spec.stream for spec in self._specs]
            self.infos = sorted(chain(*infos.values()), key=lambda info: order.index(info.stream))
            self._restarts = all(about["keeps_up"] for about in found.values())
            self._no_next_life = {name for name, about in found.items() if not about["resumes"]}
            seen = {info.stream: info for info in self.infos}
            self.header = header_row(config, self._specs, seen, self.engines)
            self._set_up(folder, infos)
            for name in ("sink", "infer", "face"):
                self._stages[name].tell("start")
            self._ready("sink")
            if self._restarts:
                self._ctl = CtlServer(folder, self.command)
        except BaseException:
            self.close()
            raise

    def wait(self, progress: Callable[[Ledger], object] = _ignore) -> None:
        """Run to the end, telling `progress` about the streams that are on.

        Raises:
            StageError: a stage died or failed, and was not to be started anew.
            AustreamError: as the stages raised it.
        """
        try:
            for capture in self._captures:
                if not capture.started and capture.ready:
                    capture.ready.clear()
                    capture.tell("start")
            told: str | None = None
            told_at = 0.0
            deadline: float | None = None
            while any(stage.alive for stage in self._stages.values()):
                self._listen()
                for ledger in self._stages["sink"].ledgers.values():
                    progress(ledger)
                self._watch()
                if not self._mend(told):
                    break
                self._let_go()
                self._obey()
                self._look()
                wish = self._stop() or self._stages["sink"].wish
                if wish and told is None:
                    told, told_at = wish, time.monotonic()
                    self._stop_captures(wish)
                if told and (deadline is None or self._comes_back(told_at) or self._closes_files(told_at)):
                    deadline = time.monotonic() + _STOP_SECONDS
                if deadline is None and self._sink_is_through:
                    deadline = time.monotonic() + _STOP_SECONDS
                self._spares.keep(self._stages, self._restarts and not told and self._all_at_work)
                if deadline is not None and time.monotonic() > deadline:
                    break
                time.sleep(0.02)
            self._listen()
            self._finish(told)
        finally:
            self.close()

    def snapshot(self) -> RunSnapshot:
        """The run as it was a moment ago; may be asked from any thread."""
        return self._snapshot

    def command(self, request: Mapping[str, str]) -> Reply:
        """Do what `ctl` asks; may be called from any thread while `wait` runs.

        Args:
            request: {"do": "list"}, {"do": "add", "uri": …}, {"do": "remove" or "neutral", "stream": …}.

        Raises:
            UsageError: there is no such command or stream, or it cannot be done.
            RunError: the run does not answer; it is about to end.
        """
        answer: Future[Reply] = Future()
        self._commands.put((request, answer))
        try:
            return answer.result(timeout=5.0)
        except TimeoutError:
            raise RunError("the run does not answer; it is about to end") from None

    def close(self) -> None:
        """End what still runs and remove what there is."""
        while not self._commands.empty():
            self._commands.get()[1].set_exception(RunError("the run is about to end"))
        if self._ctl is not None:
            self._ctl.close()
        self._spares.close()
        for stage in self._stages.values():
            if stage.alive and stage.name != "sink":
                stage.process.kill()
        # Nothing is left to close, or somebody is in a hurry; then what there is stays as .part.
        if "sink" in self._stages:
            self._stages["sink"].tell("stop", "called off")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._stages["sink"].process.wait(timeout=1.0)
            self._stages["sink"].process.kill()
        for stage in self._stages.values():
            stage.process.wait()
            stage.close()
        self._directory.close()

    # Watching, and starting anew.

    def _watch(self) -> None:
        """Kill what hangs. Where nobody listened, all of the program had been stopped, as by Ctrl-Z."""
        now = time.monotonic()
        nobody_listened = now - self._looked_at_seconds > STOPPED_SECONDS
        self._looked_at_seconds = now
        for stage in self._stages.values():
            if nobody_listened:
                stage.forgive()
            elif stage.hangs(soon=self._restarts):
                stage.kill_hung()

    def _mend(self, told: str | None) -> bool:
        """Start dead stages anew; False when the run cannot go on."""
        for stage in [stage for stage in self._stages.values() if stage.failed]:
            stage.listen()
            if told or not self._may_restart(stage):
                return False
            self._restart(stage)
        for stage in self._stages.values():
            if not stage.started and stage.ready:
                stage.ready.clear()
                stage.tell("start")
                if stage.life:
                    seconds = time.monotonic() - self._deaths[stage.name][-1]
                    self._log(f"{stage.title} is at work again after {seconds:.1f} s")
                if stage.stage != "capture" and self._line_at_work:
                    for capture in self._captures:
                        capture.tell("up")
        return True

    def _may_restart(self, stage: StageProcess) -> bool:
        refused = stage.failure is not None and stage.failure.kind == "refused"
        if not self._restarts or refused or self._capture_is_through:
            return False
        if stage.name in self._no_next_life:
            return False
        deaths = self._deaths[stage.name]
        if len(deaths) == MOST_RESTARTS and time.monotonic() - deaths[0] < WITHIN_SECONDS:
            self._too_often = stage
            return False
        return True

    def _restart(self, dead: StageProcess) -> None:
        name, deaths = dead.name, self._deaths[dead.name]
        deaths.append(time.monotonic())
        recent = sum(time.monotonic() - seconds < WITHIN_SECONDS for seconds in deaths)
        times = f"{recent} of at most {MOST_RESTARTS} times within {WITHIN_SECONDS:g} s"
        self._log(f"{dead.title} died ({dead.how_it_ended()}); it is started anew, {times}")
        dead.close()
        for path in sockets_of(name, self._directory.path, dead.life, self._lives):
            path.unlink(missing_ok=True)
        for link in self._lives:
            self._lives[link] += name in ends_of(link)
        self._write_lives()
        stage = self._spares.take(name) or StageProcess(name, self._directory.path, dead.life + 1)
        stage.ledgers = dead.ledgers
        self._stages[name] = stage
        for other in self._stages.values():
            if other is not stage:
                other.tell("links")
        sink = self._stages["sink"]
        if dead.stage == "capture":
            for spec in self._specs:
                if self._capture_of(spec.stream) == name:
                    sink.tell("down", "capture", stream=spec.stream)
            if not self._line_at_work:
                stage.tell("down")
        else:
            sink.tell("down", name)
            for capture in self._captures:
                capture.tell("down", name)

    def _let_go(self) -> None:
        """Of captures that have ended while others go on; of their rings once the sink has had all frames."""
        if self._capture_is_through:
            return
        for capture in [capture for capture in self._captures if capture.process.poll() == 0]:
            capture.listen()
            self._look()
            link = frames_link(capture.name)
            streams = [spec.stream for spec in self._specs if self._capture_of(spec.stream) == capture.name]
            self._unused_rings[link] = streams
            self._gone |= capture.ledgers
            self._gone_lives += capture.life
            self._complained += [capture] if _complains(capture) else []
            capture.close()
            del self._stages[capture.name], self._lives[link]
            self._write_lives()
            self._stages["face"].tell("links")
        closed = {name for name, ledger in self._stages["sink"].ledgers.items() if ledger.ended != RUNNING}
        for link in [link for link, streams in self._unused_rings.items() if closed.issuperset(streams)]:
            del self._unused_rings[link]
            for name in ring_names(self._directory.path, link):
                (self._directory.path / name).unlink()

    @property
    def _captures(self) -> list[StageProcess]:
        return [stage for stage in self._stages.values() if stage.stage == "capture"]

    @property
    def _all_at_work(self) -> bool:
        return not any(stage.comes_back for stage in self._stages.values())

    @property
    def _line_at_work(self) -> bool:
        """Whether there is nothing for the captures to wait for."""
        return all(stage.started for stage in self._stages.values() if stage.stage != "capture")

    def _stop_captures(self, reason: str) -> None:
        for capture in self._captures:
            if not capture.started:  # its streams, too, have an end and a ledger
                capture.tell("start")
            capture.tell("stop", reason)

    def _comes_back(self, since: float) -> bool:
        """Whether the end of the run, begun at `since`, waits for a stage that is being started anew."""
        return not self._all_at_work and time.monotonic() - since < _COMING_BACK_SECONDS

    def _closes_files(self, since: float) -> bool:
        """Whether the sink does what takes long, for which the end of the run, begun at `since`, waits."""
        closes = self._stages["sink"].at_length
        if closes and not self._said_to_close and time.monotonic() - since > _STOP_SECONDS:
            self._said_to_close = True
            self._log("the sink still makes its files whole; another Ctrl-C leaves them as they are")
        return closes

    @property
    def _capture_is_through(self) -> bool:
        """All streams are at their end: what is lost now does not come back."""
        return all(capture.process.poll() == 0 for capture in self._captures)

    @property
    def _sink_is_through(self) -> bool:
        return self._stages["sink"].process.poll() == 0

    # What is asked and told.

    def _obey(self) -> None:
        """Do what `command` was asked."""
        while not self._commands.empty():
            request, answer = self._commands.get()
            try:
                answer.set_result(self._do(request))
            except AustreamError as error:
                answer.set_exception(error)

    def _do(self, request: Mapping[str, str]) -> Reply:
        verb, stream = request.get("do"), request.get("stream", "")
        if verb == "list":
            return {"streams": [listed(stream) for stream in self._look_now().streams]}
        if not self._restarts:
            raise UsageError("this run reads files to their end; only live streams come and go")
        if verb == "add":
            return {"stream": self._add(request.get("uri", ""))}
        if verb not in ("remove", "neutral"):
            raise UsageError(f"ctl {verb}: expected add, remove, list or neutral")
        running = [known.stream for known in self._look_now().streams if not known.ended]
        if stream not in running:
            raise UsageError(f"ctl {verb} {stream}: no such stream; there are {', '.join(running) or 'none'}")
        if verb == "neutral" and self.config.neutral == "none":
            raise UsageError("ctl neutral: the run was started with --neutral none")
        process = self._stages.get(self._capture_of(stream) if verb == "remove" else "face")
        if process is None:
            raise UsageError(f"ctl {verb} {stream}: it has just ended")
        if verb == "remove" and not process.started:  # a feed that was never there has an end, too
            process.tell("start")
        process.tell(verb, stream=stream)
        return {"stream": stream}

    def _capture_of(self, stream: str) -> str:
        """The name of the process that reads it."""
        streams = [spec.stream for spec in self._specs]
        return capture_name(captures_of(self._specs)[streams.index(stream)])

    def _add(self, uri: str) -> str:
        if uri.startswith("camera:") and uri.removeprefix("camera:").isdecimal():
            sources, cameras = [], [int(uri.removeprefix("camera:"))]
        elif "://" in uri and not uri.lower().startswith("file:"):
            sources, cameras = [uri], []
        else:
            raise UsageError("ctl add: expected a live source, such as rtsp://HOST/PATH or camera:0")
        taken = [known.stream for known in self._specs]
        (spec,) = resolve_sources(sources, cameras, self.config.rtsp_transport, taken=taken)
        if self._capture_is_through or self._stages["face"].process.poll() == 0:
            raise RunError("the run is about to end")
        specs = [*self._specs, replace(spec, live=True)]
        capture = capture_name(captures_of(specs)[-1])
        write_streams(self._directory.path, specs)
        try:
            self._stages[capture] = StageProcess(capture, self._directory.path)
        except RunError:
            write_streams(self._directory.path, self._specs)
            raise
        self._specs = specs
        self._lives[frames_link(capture)] = 0
        self._write_lives()
        self._stages["face"].tell("links")
        return spec.stream

    def _look(self) -> None:
        """Log what befell the feeds, and renew the snapshot."""
        for capture in self._captures:
            for event in capture.events:
                self._connected[event.stream] = event.kind in ("connected", "changed", "damaged")
                self._log(f"{event.stream}: {event.kind}" + (f": {event.text}" if event.text else ""))
            capture.events.clear()
        if time.monotonic() - self._snapshot_seconds >= _SNAPSHOT_SECONDS:
            self._look_now()

    def _look_now(self) -> RunSnapshot:
        self._snapshot_seconds = time.monotonic()
        stages = stages_of(self._stages, self._lives, self._gone_lives)
        by_capture = dict(chain(self._gone.items(), *(capture.ledgers.items() for capture in self._captures)))
        self._snapshot = RunSnapshot(
            self._snapshot_seconds - self._began_seconds,
            all(stage.running for stage in stages),
            streams_of(self._specs, by_capture, self._stages["sink"], self._connected),
            stages,
            engines_of(self.engines, self._stages),
        )
        self._show(self._snapshot)
        return self._snapshot

    # The end.

    def _finish(self, wish: str | None) -> None:
        death = self._too_often or self._first_death()
        sink = self._stages["sink"]
        if death is not None or wish is not None:
            self._let_the_sink_end(death, wish)
        self._listen()
        done = next((about for about in sink.ready if "paths" in about), None)
        self.paths = [Path(path) for path in done["paths"]] if done else []
        self.ledgers = list(sink.ledgers.values()) if done else self._ledgers_by_the_books(death, wish)
        # A stage may have something to complain of and yet have worked to the end: --save-neutral, for one.
        complaints = [*self._complained, *filter(_complains, self._stages.values())]
        complaint = death or next(iter(complaints), sink if sink.failed else None)
        if complaint is not None and complaint is self._too_often:
            raise StageError(
                f"{complaint.title} died {MOST_RESTARTS + 1} times within {WITHIN_SECONDS:g} s, the "
                f"last time: {complaint.how_it_ended()}; {complaint.files}",
                complaint.failure.traceback if complaint.failure else "",
            )
        if complaint is not None:
            raise complaint.error()
        if not done and (sink.alive or not sink.started):
            raise StageError("the sink stage was not through in time; its files may end in .part")

    def _let_the_sink_end(self, death: StageProcess | None, wish: str | None) -> None:
        """Capture stops, the others are ended; the sink closes its files, by the books that capture has kept.
        After a death, or when the streams did not come to their end in time."""
        sink, reason = self._stages["sink"], _why(death, wish)
        began = time.monotonic()
        deadline = began + _AFTER_DEATH_SECONDS
        self._stop_captures(reason)
        while any(capture.alive for capture in self._captures) and time.monotonic() < deadline - 1.5:
            self._listen()
            time.sleep(0.02)
        self._listen()
        for stage in self._stages.values():
            if stage.alive and stage is not sink:
                stage.process.kill()
        sink.tell("stop", reason)
        while sink.alive and time.monotonic() < deadline:
            self._listen()
            if self._closes_files(began):
                deadline = max(deadline, time.monotonic() + _BETWEEN_FILES_SECONDS)
            time.sleep(0.02)

    def _ledgers_by_the_books(self, death: StageProcess | None, wish: str | None) -> list[Ledger]:
        """When the sink has not said how it ended: what capture has kept, and what came of it by the sink's
        books. What was on its way stays in flight."""
        ledgers, arrivals = [], read_arrivals(self._directory.path)
        for number, spec in enumerate(self._specs):
            arrived = arrivals.get(spec.stream)
            known = None if arrived is None else arrived.ledger(self._stages["sink"].life)
            book = read_book(self._directory.path, number)
            if book is not None and (known is None or known.ended == RUNNING):
                known = book.ledger.with_arrivals(known or Ledger(spec.stream))
            if known is not None:
                ledgers.append(replace(known, ended=known.ended or _why(death, wish)))
        return ledgers

    def _first_death(self) -> StageProcess | None:
        """The stage that failed first; a lost neighbour is not the cause if another has one of its own."""
        dead = [stage for stage in self._stages.values() if stage.failed]
        for stage in dead:
            stage.listen()
        return min(dead, key=_blame, default=None)

    def _listen(self) -> None:
        for stage in self._stages.values():
            stage.listen()

    def _first_words(self) -> dict[str, dict[str, Any]]:
        """Wait for the capture processes: by name, what they found. Once one is there, feeds of which the
        others may be waiting have a little longer; a file is waited for."""
        numbers = zip(captures_of(self._specs), self._specs, strict=True)
        waited_for = {capture_name(number) for number, spec in numbers if not spec.feed}
        there_since: float | None = None

        def enough() -> bool:
            nonlocal there_since
            ready = {capture.name for capture in self._captures if capture.ready}
            if there_since is None and any(
                capture.ready[0]["infos"] for capture in self._captures if capture.ready
            ):
                there_since = time.monotonic()
            late = there_since is not None and time.monotonic() - there_since > FIRST_WORD_SECONDS
            return len(ready) == len(self._captures) or (late and waited_for <= ready)

        self._wait_for_start(enough, "capture")
        # Those that come later are heard by `_mend`; these are started by `wait`.
        return {capture.name: capture.ready[0] for capture in self._captures if capture.ready}

    def _ready(self, name: str) -> dict[str, Any]:
        """Wait until a stage is ready; what it found."""
        stage = self._stages[name]
        self._wait_for_start(lambda: bool(stage.ready), name)
        return stage.ready.pop(0)

    def _wait_for_start(self, true: Callable[[], bool], name: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not true():
            self._listen()
            self._look()
            if (death := self._first_death()) is not None:
                time.sleep(0.05)
                self._listen()
                raise death.error()
            if self._stop():
                raise KeyboardInterrupt
            if time.monotonic() > deadline:
                raise StageError(f"the {name} stage was not ready within {START_SECONDS:g} s")
            time.sleep(0.01)

    def _prepare_neutral(self, folder: Path) -> None:
        """A neutral that is given is looked at here, so that a bad one is found before anything starts."""
        parsed = neutral.parse_policy(self.config.neutral)
        if isinstance(parsed, Path):
            from pipeline.faces import neutral_from_photo

            held = profile.load_profile(parsed) if parsed.suffix == ".npz" else neutral_from_photo(parsed)
            profile.save_profile(folder / NEUTRAL_FILE, held)
        if self.config.save_neutral:
            profile.check_target(Path(self.config.save_neutral))

    def _set_up(self, folder: Path, infos: Mapping[str, Sequence[StreamInfo]]) -> None:
        """infos: by capture process, the streams that are there."""
        specs = [resolve(name).spec for name in self.config.engine]
        from pipeline.faces import Wanted

        shapes = Wanted.by(specs).pixels()
        to_sink = self.config.window or any(out.lower().endswith(".mp4") for out in self.config.out)
        rings = [crops_ring(shapes, self.config.max_faces)]
        for name, streams in infos.items():
            if streams:
                # A live source that is not yet there brings a ring with it, should its pictures be larger.
                sizes = [info.size_wh for info in streams]
                largest = max(w for w, _ in sizes), max(h for _, h in sizes)
                link = frames_link(name)
                rings.append(frames_ring(largest, to_sink=to_sink, link=link, captures=len(self._captures)))
        create_rings(folder, rings)
        setup = {
            "header": self.header,
            "streams": [spec.stream for spec in self._specs],
            "restarts": self._restarts,
            "pixels_to_sink": to_sink,
        }
        (folder / SETUP_FILE).write_text(json.dumps(setup))

    def _write_lives(self) -> None:
        path = self._directory.path / LIVES_FILE
        part = path.with_suffix(".part")
        part.write_text(json.dumps(self._lives))
        part.replace(path)


def _why(death: StageProcess | None, wish: str | None) -> str:
    """Why the streams end that had no end of their own."""
    return f"{death.title} failed" if death is not None else wish or "the run ended"


def _complains(stage: StageProcess) -> bool:
    """Whether it failed by itself, and not because a neighbour was ended."""
    return stage.failure is not None and stage.failure.kind != "lost a neighbour"


def _blame(stage: StageProcess) -> int:
    """0 for a cause, 1 for an end without a word, 2 for who only lost a neighbour."""
    if stage.failure is None:
        return 0 if stage.process.returncode < 0 else 1
    return 2 if stage.failure.kind == "lost a neighbour" else 0
