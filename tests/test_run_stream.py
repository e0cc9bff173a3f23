"""The command line: what a user does wrong costs one line, exit 1 or 2, and leaves nothing half-written."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from engines.bundle import BUNDLED
from run_stream import main

ROOT = Path(__file__).parents[1]


def write_clip(path: Path, frames: int = 5, moov_first: bool = False) -> Path:
    options = {"movflags": "faststart"} if moov_first else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.time_base = Fraction(1, 25)
        rng = np.random.default_rng(0)
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(
                rng.integers(0, 256, (120, 160, 3), dtype=np.uint8), format="bgr24"
            )
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def truncated(path: Path, moov_first: bool) -> Path:
    whole = write_clip(path, 20, moov_first).read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    return path


def sound(path: Path) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(8000))
    return path


def no_frames(path: Path) -> Path:
    """A container that promises a video stream and holds no frame of it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        container.start_encoding()
    return path


def text(path: Path) -> Path:
    path.write_text("this is not a film\n" * 50)
    return path


def empty(path: Path) -> Path:
    path.touch()
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def damaged_bundle(path: Path) -> Path:
    path.mkdir()
    fields = json.loads((BUNDLED / "cednn" / "engine.json").read_text())
    (path / "engine.json").write_text(json.dumps(fields)[:-40])
    return path


def plain_photo(path: Path) -> Path:
    cv2.imwrite(str(path), np.full((120, 160, 3), 128, np.uint8))
    return path


Maker = Callable[[Path], Path]

# What is wrong; the file it needs; the arguments, {bad} the file, {clip} a good clip; what the line must say.
WRONG_SOURCES: list[tuple[str, Maker | None, str, list[str], str]] = [
    ("missing file", None, "gone.mp4", ["--source", "{bad}"], "no such file"),
    ("directory", folder, "films", ["--source", "{bad}"], r"is a directory; expected .*\*\.mp4"),
    ("empty file", empty, "empty.mp4", ["--source", "{bad}"], "empty"),
    ("text called .mp4", text, "text.mp4", ["--source", "{bad}"], "not a video"),
    ("text called .txt", text, "notes.txt", ["--source", "{bad}"], "not a video|text file"),
    ("text called .jpg", text, "text.jpg", ["--source", "{bad}"], "not a picture"),
    ("truncated MP4", lambda p: truncated(p, False), "cut.mp4", ["--source", "{bad}"], "cut short|index"),
    (
        "truncated MP4, index first",
        lambda p: truncated(p, True),
        "cut.mp4",
        ["--source", "{bad}"],
        r"truncated, \d+ of 20",
    ),
    ("no video stream", sound, "sound.wav", ["--source", "{bad}"], "no video stream"),
    ("zero frames", no_frames, "none.mkv", ["--source", "{bad}"], "not one frame|not a video"),
    ("glob without match", None, "none*.mp4", ["--source", "{bad}"], "no file matches"),
    ("camera that is not there", None, "", ["--camera", "63", "--check"], "--camera 63: no such camera"),
    (
        "unreachable RTSP",
        None,
        "",
        ["--source", "rtsp://me:secret@127.0.0.1:9/live", "--check"],
        "cannot be reached",
    ),
    ("unreachable HTTP", None, "", ["--source", "http://127.0.0.1:9/a.mp4"], "cannot be reached"),
    ("another scheme", None, "", ["--source", "ftp://127.0.0.1/a.mp4"], "ftp:// is not read"),
    ("no host", None, "", ["--source", "rtsp:///live"], "names no host"),
    ("no source", None, "", [], "no source"),
    ("one bad of two", text, "text.mp4", ["--source", "{clip}", "--source", "{bad}"], "text.mp4"),
]
WRONG_OPTIONS: list[tuple[str, Maker | None, str, list[str], str]] = [
    ("unknown engine", None, "", ["--engine", "cedn"], "cedn.*cednn"),
    ("damaged bundle", damaged_bundle, "mine", ["--engine", "{bad}"], "engine.json"),
    ("unknown backend", None, "", ["--backend", "abacus"], "abacus"),
    ("unknown precision", None, "", ["--precision", "fp1"], "fp1"),
    ("hop 0", None, "", ["--hop", "0"], "--hop 0"),
    ("hop word", None, "", ["--hop", "often"], "--hop often"),
    ("no faces", None, "", ["--max-faces", "0"], "--max-faces 0"),
    ("neutral photo without a face", plain_photo, "wall.png", ["--neutral", "{bad}"], "no face found"),
    ("neutral that is no picture", text, "me.jpg", ["--neutral", "{bad}"], "not a picture"),
    ("neutral that is not there", None, "me.jpg", ["--neutral", "{bad}"], "no such file"),
    ("neutral profile that is none", text, "me.npz", ["--neutral", "{bad}"], "not a neutral profile"),
    ("neutral for 0 seconds", None, "", ["--neutral", "first:0"], "first:SECONDS"),
    ("contradiction", None, "", ["--neutral", "none", "--save-neutral", "a.npz"], "no neutral to save"),
    ("endless loop", None, "", ["--loop"], "--loop without an end"),
    ("same engine twice", None, "", ["--engine", "cednn,cednn"], "twice"),
    ("unknown flag", None, "", ["--fast"], "--fast"),
    ("unknown ending", None, "r.xml", ["--out", "{bad}"], r"\.jsonl"),
    ("folder that is not there", None, "no/r.jsonl", ["--out", "{bad}"], "make it first"),
    ("output over the source", None, "", ["--out", "{clip}"], "source|read"),
    ("same output twice", None, "r.jsonl", ["--out", "{bad}", "--out", "{bad}"], "twice"),
    ("publishing to the world", None, "", ["--publish", "tcp://0.0.0.0:5556"], "--keys DIR"),
    ("config that is not there", None, "run.toml", ["--config", "{bad}"], "cannot be read"),
]


BUILT = re.compile("compiling|decisions changed")
"""What an engine says that is compiled for the first time."""


def refuse(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, make: Maker | None, name: str, arguments: list[str]
) -> tuple[int, str]:
    """Exit code and stderr of a run that must be refused; nothing new may lie in the folder."""
    clip = write_clip(tmp_path / "clip.mp4")
    bad = tmp_path / name
    if make is not None:
        bad = make(bad)
    before = sorted(tmp_path.rglob("*"))
    filled = [a.format(bad=bad, clip=clip) for a in arguments]
    capfd.readouterr()
    code = main(filled)
    out, err = capfd.readouterr()
    assert out == ""
    assert sorted(tmp_path.rglob("*")) == before
    return code, err


@pytest.mark.parametrize(
    ("make", "name", "arguments", "says"), [c[1:] for c in WRONG_SOURCES], ids=[c[0] for c in WRONG_SOURCES]
)
def test_a_source_that_cannot_be_is_one_line(capfd, tmp_path, make, name, arguments, says) -> None:
    out = tmp_path / "out.jsonl"
    code, err = refuse(capfd, tmp_path, make, name, ["--engine", "cednn", "--out", str(out), *arguments])
    assert code in (1, 2)
    line = err.strip().splitlines()[-1]
    assert line.startswith("run_stream.py: ")
    assert re.search(says, line), line
    assert "Traceback" not in err
    assert "secret" not in err
    # Engines may have said that they compile, and how well; nothing else comes before the error.
    assert all(BUILT.search(other) for other in err.strip().splitlines()[:-1]), err


@pytest.mark.parametrize(
    ("make", "name", "arguments", "says"), [c[1:] for c in WRONG_OPTIONS], ids=[c[0] for c in WRONG_OPTIONS]
)
def test_an_option_that_cannot_be_is_one_line(capfd, tmp_path, make, name, arguments, says) -> None:
    engine = [] if "--engine" in arguments else ["--engine", "cednn"]
    source = [] if "--config" in arguments else ["--source", "{clip}"]
    code, err = refuse(capfd, tmp_path, make, name, [*source, *engine, *arguments])
    assert code in (1, 2)
    (line,) = [x for x in err.strip().splitlines() if not BUILT.search(x)]
    assert line.startswith("run_stream.py: ")
    assert re.search(says, line), line


def stream(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "run_stream.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload]


def test_a_run_tells_what_was_chosen_what_became_of_every_frame_and_what_was_written(tmp_path: Path) -> None:
    clip, out = write_clip(tmp_path / "clip.mp4"), tmp_path / "r.jsonl"
    done = stream("--source", str(clip), "--engine", "cednn", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "160×120, 25.000 frames/s, 5 frames" in done.stderr
    assert "cednn: synthetic-trained, openvino fp32" in done.stderr
    assert "captured 5 = delivered 5 + in flight 0; ended: end of file; 5 without a face" in done.stderr
    assert f"wrote {out}" in done.stderr


def test_check_writes_nothing_and_says_that_all_is_in_order(tmp_path: Path) -> None:
    clip, out = write_clip(tmp_path / "clip.mp4"), tmp_path / "r.jsonl"
    done = stream("--source", str(clip), "--engine", "cednn", "--out", str(out), "--check")
    assert done.returncode == 0, done.stderr
    assert "in order" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mp4"]


@pytest.mark.parametrize(
    ("sent", "code", "ended"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_the_run_with_whole_files(
    tmp_path: Path, sent: signal.Signals, code: int, ended: str
) -> None:
    clip, out, video = write_clip(tmp_path / "clip.mp4", 20), tmp_path / "r.jsonl", tmp_path / "o.mp4"
    command = [sys.executable, str(ROOT / "run_stream.py"), "--source", str(clip), "--engine", "cednn"]
    command += ["--loop", "--duration", "3600", "--out", str(out), "--out", str(video)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    part = tmp_path / "r.jsonl.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.read_bytes().count(b"\n") > 5) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(sent)
    _, err = process.communicate(timeout=15)
    assert process.returncode == code, err
    *_, ledger = [json.loads(line) for line in out.read_text().splitlines()]
    assert (ledger["type"], ledger["ended"], ledger["balanced"]) == ("ledger", ended, True)
    with av.open(str(video)) as container:
        assert sum(1 for _ in container.decode(video=0)) == ledger["delivered"]


@pytest.mark.parametrize("way", [[], ["--inline"]], ids=["processes", "inline"])
def test_a_neutral_that_cannot_be_saved_is_said_in_one_line(tmp_path: Path, way: list[str]) -> None:
    clip, saved = write_clip(tmp_path / "clip.mp4"), tmp_path / "me.npz"
    done = stream("--source", str(clip), "--engine", "cednn", "--save-neutral", str(saved), *way)
    assert done.returncode == 1
    assert f"--save-neutral {saved}: no neutral was gathered" in done.stderr.strip().splitlines()[-1]
    assert not saved.exists()
