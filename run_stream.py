#!/usr/bin/env python3
"""Facial action units from a camera, an RTSP feed or a file: flags in, a run out."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

# Said before MediaPipe and OpenVINO are loaded: their chatter is not the user's.
os.environ.setdefault("GLOG_minloglevel", "2")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pipeline import ctl, log
from pipeline.config import RunConfig, read_toml
from pipeline.errors import AustreamError, UsageError
from pipeline.inline import Run, unbalanced
from pipeline.keys import make_keys, server_keys
from pipeline.log import say
from pipeline.messages import Ledger, StreamInfo
from pipeline.monitor import Monitor
from pipeline.progress import Progress
from pipeline.supervisor import StreamedRun


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; --help shows the flags")


def parser() -> argparse.ArgumentParser:
    """The command line. Flags left out stay out, so that a config file can fill them."""
    p = _Parser(
        prog="run_stream.py",
        description="Facial action units from cameras, RTSP feeds, videos and photos.",
        epilog="run_stream.py keys DIR [NAME ...] makes keys for --keys, and one for every subscriber named.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add = p.add_argument
    add(
        "--source",
        action="append",
        metavar="URI",
        help="file, glob, photo, rtsp://, http(s):// or demo; repeatable",
    )
    add("--camera", action="append", type=int, metavar="N", help="camera number; repeatable")
    add(
        "--engine",
        action="append",
        metavar="NAME",
        help="engine name or bundle folder; repeatable or comma-separated (default: delta)",
    )
    add("--backend", help="auto, openvino, onnxruntime, inductor, tensorrt or torch (default: auto)")
    add("--precision", help="auto, fp32, bf16, fp16 or int8 (default: auto)")
    add(
        "--neutral",
        metavar="HOW",
        help="auto, none, first:SECONDS, a photo, or a saved profile (default: auto)",
    )
    add(
        "--save-neutral", metavar="FILE.npz", help="save the neutral of the face longest in view as a profile"
    )
    add(
        "--no-exposure-compensation",
        dest="exposure_compensation",
        action="store_false",
        help="compare with the neutral as it is (CEDNN's own protocol)",
    )
    add(
        "--hop",
        metavar="N",
        help="a temporal engine gives an output every N frames (default: auto, 4 on a CPU)",
    )
    add("--max-faces", type=int, metavar="N", help="follow at most N faces (default: 4)")
    add("--frames", type=int, metavar="N", help="stop each stream after N frames")
    add("--duration", type=float, metavar="S", help="stop each stream after S seconds")
    add("--loop", action="store_true", help="play files again and again")
    add("--out", action="append", metavar="PATH", help=".jsonl, .csv, .parquet, .mp4 or a folder; repeatable")
    add("--publish", metavar="ADDRESS", help="publish rows over ZeroMQ, e.g. tcp://127.0.0.1:5556")
    add("--rotate", metavar="1h|1GB", help="go on in a new file after so long, or when so large")
    add("--metrics", metavar="[HOST:]PORT", help="serve /metrics (Prometheus), /healthz and /readyz")
    add(
        "--keys",
        metavar="DIR",
        help="let others in over tcp: those with a key of DIR (run_stream.py keys DIR)",
    )
    add("--window", action="store_true", help="show the overlay in a window (q ends the run)")
    add("--rtsp-transport", metavar="HOW", help="how RTSP pictures travel: tcp or udp (default: tcp)")
    add("--live", dest="live", action="store_true", help="keep up with the source, dropping frames")
    add("--lossless", dest="live", action="store_false", help="lose no frame, however long it takes")
    add("--inline", action="store_true", help="run in one process")
    add("--log-json", action="store_true", help="log as one JSON object a line")
    add("--config", metavar="FILE.toml", help="options from a file; flags win")
    add("--check", action="store_true", help="check sources, engines and outputs, then stop")
    return p


def config_from(arguments: dict[str, Any]) -> RunConfig:
    """The configuration that flags and config file make together."""
    path = arguments.pop("config", None)
    values = read_toml(Path(path)) if path else {}
    if "engine" in arguments:
        arguments["engine"] = [
            name.strip() for item in arguments["engine"] for name in item.split(",") if name.strip()
        ]
    if "hop" in arguments:
        arguments["hop"] = _hop(arguments["hop"])
    return RunConfig.from_mapping({**values, **arguments}, f"--config {path}" if path else "command line")


def _hop(text: str) -> int | None:
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--hop {text}: expected auto or a whole number from 1 up") from None


class _Stop:
    """A wish to end the run in order, from Ctrl-C or SIGTERM; a second one ends it at once."""

    def __init__(self) -> None:
        self.wish: str | None = None
        self.exit_code = 0
        signal.signal(signal.SIGINT, self._handle)
        signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, number: int, _frame: object) -> None:
        if self.wish is not None:
            raise KeyboardInterrupt
        self.wish = "interrupted" if number == signal.SIGINT else "terminated"
        self.exit_code = 128 + number


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    log.set_up("--log-json" in argv)
    try:
        if argv[:1] == ["ctl"]:
            return ctl.main(argv[1:])
        if argv[:1] == ["keys"]:
            return _keys(argv[1:])
        arguments = vars(parser().parse_args(argv))
        check = arguments.pop("check", False)
        inline = arguments.pop("inline", False)
        stop = _Stop()
        config = config_from(arguments)
        log.set_up(config.log_json)
        return _run(config, check, inline, stop)
    except AustreamError as error:
        if text := getattr(error, "traceback", ""):
            log.complain(text)
        log.complain(f"run_stream.py: {error}", exit_code=error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _keys(argv: list[str]) -> int:
    """`run_stream.py keys DIR [NAME ...]`."""
    p = _Parser(prog="run_stream.py keys", description="Make the keys that --keys DIR takes.")
    p.add_argument("folder", metavar="DIR", type=Path, help="made if need be; what it holds is kept")
    p.add_argument("names", metavar="NAME", nargs="*", help="a subscriber that gets a key of its own")
    arguments = p.parse_args(argv)
    for path in make_keys(arguments.folder, arguments.names):
        say(f"made {path}", path=str(path))
    return 0


def _run(config: RunConfig, check: bool, inline: bool, stop: _Stop) -> int:
    if config.keys is not None:
        server_keys(Path(config.keys))  # a mistake is said now, not when all is loaded
    if config.metrics is None:
        return _watched(config, check, inline, stop, None)
    if inline:
        raise UsageError("--metrics with --inline: only a run in processes can be watched; leave one out")
    monitor = Monitor(config.metrics, config.keys)
    try:
        say(f"metrics at {monitor.url}", url=monitor.url)
        return _watched(config, check, inline, stop, monitor)
    finally:
        monitor.close()


def _watched(config: RunConfig, check: bool, inline: bool, stop: _Stop, monitor: Monitor | None) -> int:
    bars: dict[str, Progress] = {}

    def rendering(done: int, total: int) -> None:
        bars.setdefault("demo", _progress(config, "rendering the demo clip", total)).step(done)

    run: Run | StreamedRun
    if inline or check:
        run = Run(config, stop=lambda: stop.wish, log=say, rendering=rendering)
    else:
        show = monitor.show if monitor is not None else _ignore
        run = StreamedRun(config, stop=lambda: stop.wish, rendering=rendering, log=say, show=show)
    for bar in bars.values():
        bar.close()
    for info in run.infos:
        length = f", {info.frames} frames" if info.frames else ""
        size = f"{info.size_wh[0]}×{info.size_wh[1]}, {info.rate_hz:.3f} frames/s"
        say(f"{info.stream}: {size}{length}", source=asdict(info))
    for engine in run.header["engines"]:
        how = f"{engine['backend']} {engine['precision']} ({engine['chosen_because']})"
        named = {name: engine[name] for name in ("name", "trained", "backend", "precision")}
        say(f"{engine['name']}: {engine['trained']}, {how}", engine=named)
        if engine["precision"] == "int8":
            say(f"{engine['name']}: INT8 {engine['precision_from']}")
    if check:
        run.close()
        say("checked: sources, engines and outputs are in order")
        return 0
    shown = _Shown(config, run.infos, len(run.header["sources"]))
    began = time.monotonic()
    try:
        run.wait(shown.step)
    finally:
        shown.close()
        seconds = time.monotonic() - began
        for ledger in run.ledgers:
            say(ledger.summary(), ledger=ledger.row())
    delivered = sum(ledger.delivered for ledger in run.ledgers)
    rate = delivered / max(seconds, 1e-9)
    say(f"{delivered} frames in {seconds:.1f} s: {rate:.1f} frames/s", frames=delivered, seconds=seconds)
    for path in run.paths:
        say(f"wrote {path}", path=str(path))
    if error := unbalanced(run.ledgers):
        raise error
    return stop.exit_code


class _Shown:
    """Progress: of the stream that is on, or of all live streams together."""

    def __init__(self, config: RunConfig, infos: Sequence[StreamInfo], streams: int) -> None:
        self._config = config
        self._lengths = {info.stream: info.frames for info in infos}
        self._side_by_side = streams > 1 and (
            bool(config.live) or len(infos) < streams or any(info.live for info in infos)
        )
        self._delivered: dict[str, int] = {}
        self._progress: Progress | None = None
        self._stream: str | None = None

    def step(self, ledger: Ledger) -> None:
        if self._side_by_side:
            self._delivered[ledger.stream] = ledger.delivered
            self._progress = self._progress or _progress(self._config, "all streams", None)
            self._progress.step(sum(self._delivered.values()))
            return
        if ledger.stream != self._stream:
            self.close()
            self._stream = ledger.stream
            limits = [n for n in (self._lengths.get(ledger.stream), self._config.frames) if n]
            known = min(limits) if limits and not self._config.loop else self._config.frames
            self._progress = _progress(self._config, ledger.stream, known)
        if self._progress is not None:
            self._progress.step(ledger.delivered)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.close()
            self._progress = None


def _progress(config: RunConfig, name: str, total: int | None) -> Progress:
    return Progress(name, total, say=say if config.log_json else None)


def _ignore(_: object) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
