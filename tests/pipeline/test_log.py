"""The log: plain lines, or one strict JSON object a line whatever is said."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import log
from pipeline.progress import Progress
from run_stream import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def afterwards() -> Iterator[None]:
    yield
    log.set_up(False)


def test_plain_lines_are_the_message_alone(capfd: pytest.CaptureFixture[str]) -> None:
    log.set_up(False)
    log.say("wrote 100 % of r.jsonl", path="r.jsonl")
    logging.getLogger("pipeline.sinks.files").warning("%s: incomplete", "r.jsonl.part")
    logging.getLogger("somebody.else").info("chatter")
    out, err = capfd.readouterr()
    assert (out, err) == ("", "wrote 100 % of r.jsonl\nr.jsonl.part: incomplete\n")


def test_json_says_when_how_grave_what_and_with_which_numbers(capfd: pytest.CaptureFixture[str]) -> None:
    log.set_up(True)
    log.set_up(True)  # not twice
    log.say("wrote r.jsonl", path=Path("r.jsonl"), frames=3)
    log.complain("no\nsource", exit_code=2)
    logging.getLogger("engines.cache").info("compiling")
    logging.getLogger("somebody.else").warning("trouble")
    warnings.warn("old", DeprecationWarning, stacklevel=1)
    said = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(x["level"], x["message"], x.get("fields")) for x in said[:4]] == [
        ("info", "wrote r.jsonl", {"path": "r.jsonl", "frames": 3}),
        ("error", "no\nsource", {"exit_code": 2}),
        ("info", "compiling", None),
        ("warning", "trouble", None),
    ]
    for entry in said:
        told = datetime.fromisoformat(entry["time"])
        assert abs((datetime.now(UTC) - told).total_seconds()) < 60
        assert entry["time"].endswith("Z")


@given(st.text(), st.dictionaries(st.text(max_size=5), st.floats() | st.text() | st.binary(), max_size=3))
def test_any_message_is_one_line_of_json(message: str, fields: dict) -> None:
    record = logging.makeLogRecord({"msg": "%s", "args": (message,), "levelname": "INFO", "fields": fields})
    line = log.json_record(record)
    assert "\n" not in line

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(line, parse_constant=refuse)["message"] == message


@pytest.mark.parametrize(
    "words",
    [
        ["--sorce", "rtsp://me:SECRET@host/live"],
        ["rtsp://me:SECRET@host/live"],
        ["--camera", "rtsp://me:SECRET@host/live"],
        ["--source", "rtsp:/me:SECRET@host/live"],
        ["--source", "rtsp:me:SEC'RET@host/live"],
        ["--source", "me:SEC@RET@host/live"],
        ["--sorce", "rtsp://host/user=me&password=SECRET&channel=1"],
        ["--sorce", "http://host/clip.mp4?token=SECRET"],
        ["--config", "{config}"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("form", [[], ["--log-json"]], ids=["plain", "json"])
def test_a_mistyped_address_keeps_its_password(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], words: list[str], form: list[str]
) -> None:
    config = tmp_path / "run.toml"
    config.write_text('camera = "rtsp://me:SECRET@host/live"')
    assert main([*form, *(word.format(config=config) for word in words)]) in (1, 2)
    err = capfd.readouterr().err
    assert "host/" in err
    assert not any(part in err for part in ("SEC", "RET"))
    if form:
        assert "…" in json.loads(err)["message"]


def test_a_bugs_traceback_keeps_passwords_too() -> None:
    code = "from pipeline import log; log.set_up(False); raise KeyError('rtsp://me:SEC' + 'RET@host')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[-1] == "KeyError: 'rtsp://…@host'"
    assert "Traceback (most recent call last):" in done.stderr
    assert "SECRET" not in done.stderr


addresses = st.text("a:/@=?&'\"\\ \n•token", max_size=20)


@given(addresses, st.lists(addresses, max_size=3))
def test_what_is_hidden_leaves_json_json(message: str, fields: list[str]) -> None:
    record = logging.makeLogRecord({"msg": message, "levelname": "INFO", "fields": {"some": fields}})
    found = json.loads(log.hide_secrets(log.json_record(record), r"\u2026"))
    assert len(found["fields"]["some"]) == len(fields)


@pytest.mark.parametrize(
    "line",
    ["wrote a@b.jsonl", "rtsp://h:554/live: stalled: no picture", "metrics at http://127.0.0.1:9464/metrics"],
)
def test_what_is_no_secret_stays(line: str) -> None:
    assert log.hide_secrets(line) == line


def test_progress_goes_to_the_log_with_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, dict]] = []
    now = 0.0
    monkeypatch.setattr("pipeline.progress.time.monotonic", lambda: now)
    progress = Progress("clip.mp4", 100, say=lambda line, **fields: said.append((line, fields)))
    for done in range(11):
        progress.step(done)
        now += 1.0
    progress.close()
    assert len(said) == 2
    line, fields = said[-1]
    assert line == "clip.mp4: 10 of 100 frames, 1.0/s, 90 s left"
    assert fields == {"name": "clip.mp4", "done": 10, "unit": "frames", "total": 100, "per_second": 1.0}


def test_a_wrong_command_line_is_said_in_json_too() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "run_stream.py"), "--log-json", "--source", "x.mp4", "--frames", "0"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    (line,) = done.stderr.splitlines()
    entry = json.loads(line)
    assert (done.returncode, entry["level"], entry["fields"]) == (2, "error", {"exit_code": 2})
    assert "--frames 0: expected" in entry["message"]


def test_a_bug_is_said_in_json_too() -> None:
    code = "from pipeline import log; log.set_up(True); raise KeyError('x')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    (line,) = done.stderr.splitlines()
    assert "KeyError" in json.loads(line)["fields"]["traceback"]
