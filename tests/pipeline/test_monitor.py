"""The page as Prometheus reads it, over real HTTP, held against the files of the same run."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest
from clips import write_clip
from prometheus_client.parser import text_string_to_metric_families

from pipeline.config import RunConfig
from pipeline.errors import OutputError, UsageError
from pipeline.keys import make_keys
from pipeline.monitor import _READERS, READY_SECONDS, STALE_SECONDS, Health, Monitor, _Handler
from pipeline.snapshot import (
    LATENCY_BOUNDS_MS,
    EngineSnapshot,
    Histogram,
    RunSnapshot,
    StageSnapshot,
    StreamSnapshot,
)
from pipeline.supervisor import StreamedRun

ROOT = Path(__file__).parents[2]
STAGES = ("capture", "face", "infer", "sink")


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, path: str = "/metrics", token: str | None = None) -> tuple[int, str]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def samples(page: str) -> dict[tuple[str, ...], float]:
    """(name, label values in the order of their names) → value."""
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def stream(**changes: object) -> StreamSnapshot:
    return replace(StreamSnapshot("door", True, False, 2, 100, 80, {("capture", "stride"): 15}), **changes)  # type: ignore[arg-type]


def snapshot(
    streams: tuple[StreamSnapshot, ...] = (), down: str = "", ready: bool = True, restarts: int = 0
) -> RunSnapshot:
    taken = Histogram().plus(3.0).plus(7.0).plus(7000.0)
    stages = tuple(StageSnapshot(name, name != down, restarts, 2, taken) for name in STAGES)
    engines = (EngineSnapshot("delta", "openvino", "fp32", "synthetic-trained", taken),)
    return RunSnapshot(12.5, ready and not down, streams or (stream(),), stages, engines)


@pytest.fixture
def monitor(port: int) -> Iterator[Monitor]:
    monitor = Monitor(str(port), None)
    yield monitor
    monitor.close()


def test_every_number_of_a_snapshot_is_on_the_page(monitor: Monitor, port: int) -> None:
    two = (stream(faces=3, reconnects=4), stream(stream='cam "2"\\\n', connected=False, ended=True))
    monitor.show(snapshot(two, restarts=1))
    status, page = get(port)
    read = samples(page)
    assert status == 200
    assert read["austream_frames_captured_total", "door"] == 100
    assert read["austream_frames_delivered_total", "door"] == 80
    assert read["austream_frames_dropped_total", "stride", "capture", "door"] == 15  # reason, stage, stream
    assert read["austream_frames_in_flight", "door"] == 5
    assert read["austream_reconnects_total", "door"] == 4
    assert read["austream_faces", "door"] == 3
    assert read["austream_stream_epoch", "door"] == 2
    assert read["austream_stream_connected", "door"] == 1
    assert read["austream_stream_connected", 'cam "2"\\\n'] == 0
    assert read["austream_stream_ended", 'cam "2"\\\n'] == 1
    assert read[("austream_uptime_seconds",)] == 12.5
    for stage in STAGES:
        assert read["austream_stage_running", stage] == 1
        assert read["austream_stage_queue_length", stage] == 2
        assert read["austream_stage_restarts_total", stage] == 1
    for name in (
        ("austream_stage_latency_seconds", "face"),
        ("austream_engine_compute_seconds", "delta"),
        ("austream_frame_latency_seconds",),
    ):
        base, *labels = name
        assert read[f"{base}_count", *labels] == 3
        assert read[f"{base}_sum", *labels] == pytest.approx(7.010)
        buckets = _buckets(page, base, labels)
        assert (buckets["0.002"], buckets["0.005"], buckets["0.01"], buckets["5"]) == (0, 1, 2, 2)
        assert buckets["+Inf"] == 3
    info = next(k for k in read if k[0] == "austream_engine_info")
    assert set(info[1:]) == {"delta", "openvino", "fp32", "synthetic-trained"}
    assert any(k[0] == "austream_build_info" for k in read)


def _buckets(page: str, base: str, labels: list[str]) -> dict[str, float]:
    """Upper bound (as %g) → frames up to it."""
    return {
        "+Inf" if (le := sample.labels["le"]) == "+Inf" else f"{float(le):g}": sample.value
        for family in text_string_to_metric_families(page)
        if family.name == base
        for sample in family.samples
        if sample.name.endswith("_bucket") and [v for k, v in sample.labels.items() if k != "le"] == labels
    }


@pytest.mark.usefixtures("monitor")
def test_before_the_run_begins_the_page_says_what_this_is(port: int) -> None:
    status, page = get(port)
    assert status == 200
    assert {k[0] for k in samples(page)} == {"austream_build_info"}
    assert get(port, "/healthz") == (200, "ok\n")
    status, why = get(port, "/readyz")
    assert status == 503
    assert "engines are not loaded" in why
    assert get(port, "/")[0] == 404


def test_openmetrics_for_who_asks(monitor: Monitor, port: int) -> None:
    monitor.show(snapshot())
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers=accept)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert "openmetrics" in answer.headers["Content-Type"]
        assert answer.read().endswith(b"# EOF\n")


def test_health_over_time() -> None:
    now = 0.0
    health = Health(lambda: now)
    assert health.illness() is None
    assert "engines" in str(health.unreadiness())
    health.show(snapshot((stream(delivered=0),), ready=False))
    assert health.illness() is None  # starting
    assert "not all stages" in str(health.unreadiness())
    health.show(snapshot((stream(delivered=0),)))
    assert health.unreadiness() == "no frame has been delivered yet"
    health.show(snapshot((stream(delivered=1),)))
    assert health.unreadiness() is None
    for _ in range(12):  # the camera is gone, the supervisor is not
        now += 1.0
        health.show(snapshot((stream(delivered=1),)))
    assert now > READY_SECONDS
    assert health.unreadiness() == "no frame has been delivered for 12 s"
    assert health.illness() is None
    health.show(snapshot((stream(delivered=1, ended=True),)))
    assert health.unreadiness() is None  # nothing more is to come
    health.show(snapshot((stream(delivered=2),), down="infer"))
    assert health.illness() == health.unreadiness() == "not running: infer"
    health.show(snapshot((stream(delivered=3),)))
    assert health.illness() is None
    now += STALE_SECONDS + 1
    assert "the supervisor has not been heard of" in str(health.illness())


def test_a_token_is_asked_for_where_there_are_keys(port: int, tmp_path: Path) -> None:
    make_keys(tmp_path / "keys")
    token = (tmp_path / "keys" / "token").read_text().strip()
    monitor = Monitor(f"0.0.0.0:{port}", str(tmp_path / "keys"))
    try:
        monitor.show(snapshot())
        for path in ("/metrics", "/healthz", "/readyz", "/nothing"):
            assert get(port, path)[0] == 401
            assert get(port, path, token="x" * len(token))[0] == 401
        status, page = get(port, token=token)
        assert status == 200
        assert token not in page
    finally:
        monitor.close()


def test_who_says_nothing_or_nonsense_does_not_keep_others_from_reading(monitor: Monitor, port: int) -> None:
    monitor.show(snapshot())
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
    with socket.create_connection(("127.0.0.1", port)) as rude:
        rude.sendall(b"\xff\x00" * 40_000 + b"\r\n\r\n")
        assert get(port)[0] == 200
    for connection in idle:
        connection.close()


def test_who_speaks_slowly_does_not_keep_others_out_for_long(
    monkeypatch: pytest.MonkeyPatch, monitor: Monitor, port: int
) -> None:
    """A byte now and then is in time for every read; the request as a whole is not."""
    monkeypatch.setattr(_Handler, "timeout", 1.0)
    monitor.show(snapshot())
    slow: list[socket.socket] = []
    over = threading.Event()

    def drip() -> None:
        while not over.wait(0.1):
            for connection in slow:
                with suppress(OSError):
                    connection.send(b"G")

    dripping = threading.Thread(target=drip)
    dripping.start()
    slow.extend(socket.create_connection(("127.0.0.1", port)) for _ in range(_READERS))
    try:
        for _ in range(100):
            with suppress(OSError, http.client.HTTPException):
                if get(port)[0] == 200:
                    break
            time.sleep(0.1)
        else:
            pytest.fail("nobody else was ever let in")
    finally:
        over.set()
        dripping.join()
        for connection in slow:
            connection.close()


@pytest.mark.parametrize(
    ("listen", "says"),
    [
        ("0", "port 0 does not exist"),
        ("70000", "does not exist"),
        ("host:", "expected PORT or HOST:PORT"),
        ("example.org:9464", "not an address of this machine"),
        ("0.0.0.0:9464", "add --keys DIR"),
        ("192.168.1.2:9464", "add --keys DIR"),
        ("[::]:9464", "add --keys DIR"),
    ],
)
def test_where_it_may_not_listen(listen: str, says: str) -> None:
    for refuse in (lambda: Monitor(listen, None), lambda: RunConfig(source=("a.mp4",), metrics=listen)):
        with pytest.raises(UsageError, match=says):
            refuse()


@pytest.mark.usefixtures("monitor")
def test_a_port_in_use_is_one_clear_line(port: int) -> None:
    with pytest.raises(OutputError, match=f"--metrics {port}: the port is in use by another program"):
        Monitor(str(port), None)


def test_the_page_of_a_real_run_agrees_with_its_rows(real_clip: Path, tmp_path: Path, port: int) -> None:
    out = tmp_path / "r.jsonl"
    config = RunConfig(
        source=(str(real_clip),), engine=("cednn",), duration=1.0, out=(str(out),), metrics=str(port)
    )
    monitor = Monitor(str(port), None)
    try:
        pages: list[dict[tuple[str, ...], float]] = []
        run = StreamedRun(config, show=monitor.show)

        def look(_: object) -> None:
            if len(pages) < 5 or time.monotonic() > look_again[0]:
                look_again[0] = time.monotonic() + 0.3
                pages.append(samples(get(port)[1]))

        look_again = [0.0]
        run.wait(look)
        assert get(port, "/healthz")[0] == get(port, "/readyz")[0] == 200
        page = get(port)[1]
    finally:
        monitor.close()
    header, *results, ledger = [json.loads(line) for line in out.read_text().splitlines()]
    name, read = ledger["stream"], samples(page)
    assert ledger["dropped"] == [{"stage": "capture", "reason": "duration limit", "frames": 1}]
    assert read["austream_frames_captured_total", name] == ledger["captured"] == 25
    assert read["austream_frames_delivered_total", name] == ledger["delivered"] == 24
    assert read["austream_frames_dropped_total", "duration limit", "capture", name] == 1
    assert read["austream_frames_in_flight", name] == ledger["in_flight"] == 0
    assert read["austream_faces", name] == sum(row["face"] is not None for row in results[-1:]) == 1
    assert read["austream_stream_ended", name] == 1
    frames = list({row["frame"]: row["latency_ms"] for row in results}.values())
    bounds = [f"{bound / 1e3:g}" for bound in LATENCY_BOUNDS_MS] + ["+Inf"]
    for stage in ("capture", "face", "infer", "total"):
        base = "austream_frame_latency_seconds" if stage == "total" else "austream_stage_latency_seconds"
        labels = [] if stage == "total" else [stage]
        counted = [0] * len(bounds)
        for latency_ms in frames:
            counted[bisect_left(LATENCY_BOUNDS_MS, latency_ms[stage])] += 1
        assert _buckets(page, base, labels) == dict(zip(bounds, accumulate(counted), strict=True)), stage
        assert read[f"{base}_sum", *labels] == pytest.approx(sum(f[stage] for f in frames) / 1e3, abs=1e-4)
    for engine in header["engines"]:
        answered = sum(1 for row in results if engine["name"] in row.get("aus", {}))
        assert read["austream_engine_compute_seconds_count", engine["name"]] == answered == 24
        assert read["austream_engine_compute_seconds_sum", engine["name"]] > 0
    delivered = [p.get(("austream_frames_delivered_total", name), 0.0) for p in pages]
    assert delivered == sorted(delivered)  # a counter never falls


def test_the_flags_from_start_to_end(tmp_path: Path, port: int) -> None:
    """The command line: --metrics with a token, --log-json, --rotate and a signal, in one run."""
    clip, keys = write_clip(tmp_path / "clip.mp4", size_wh=(160, 120)), tmp_path / "keys"
    command = [sys.executable, str(ROOT / "run_stream.py")]
    made = subprocess.run([*command, "keys", str(keys), "desk"], capture_output=True, text=True, check=True)
    assert made.stderr.count("made ") == 4
    token = (keys / "token").read_text().strip()
    process = subprocess.Popen(
        [
            *(*command, "--source", str(clip), "--engine", "cednn", "--loop", "--duration", "3600"),
            *("--metrics", str(port), "--keys", str(keys), "--log-json"),
            *("--out", str(tmp_path / "r.jsonl"), "--rotate", "10kB"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    try:
        deadline, status = time.monotonic() + 300, 0  # the engine may have to be compiled
        while status != 200 and time.monotonic() < deadline:
            time.sleep(0.2)
            try:
                status, why = get(port, "/readyz", token)
            except OSError:
                continue
        assert status == 200, why
        assert get(port, "/metrics")[0] == 401
        while not (tmp_path / "r.0002.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 143, err
    assert token not in err
    lines = [json.loads(line) for line in err.splitlines()]
    assert all({"time", "level", "message"} <= line.keys() for line in lines)
    closed = [line["message"] for line in lines if line["message"].startswith("closed ")]
    files = sorted(tmp_path.glob("r.*.jsonl"))
    assert len(closed) == len(files) - 1 >= 2
    (told,) = [line["fields"]["ledger"] for line in lines if "ledger" in line.get("fields", {})]
    rows = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    assert rows[-1] == told
    assert sum(row["type"] == "result" for row in rows) == told["delivered"]
    assert not list(tmp_path.glob("*.part"))
    assert not any(token in path.read_text() for path in files)
