"""Commands to a running instance: whatever comes over its socket, the answer is one line and it goes on."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import ctl
from pipeline.ctl import MAX_BYTES, VERBS, CtlServer, Reply, ask, parse_request, running_instances
from pipeline.errors import UsageError
from pipeline.ring import RunDirectory
from run_stream import main

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode() + b"\n"))
def test_only_requests_are_taken_for_requests(line: bytes) -> None:
    try:
        request = parse_request(line)
    except UsageError:
        return
    assert request["do"] in VERBS
    assert all(isinstance(value, str) for value in request.values())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}\n",
        b"[" * 60_000 + b"\n",
        b'{"do": "list"}',
        b'{"do": "list", "more": "x"}\n',
        b'{"do": "add"}\n',
        b'{"do": "add", "uri": 5}\n',
        b'{"do": "stop"}\n',
        b'{"do": "add", "uri": "' + b"x" * MAX_BYTES + b'"}\n',
    ],
    ids=lambda line: line[:24].decode(),
)
def test_what_is_no_request_is_refused(line: bytes) -> None:
    with pytest.raises(UsageError, match=r"^ctl: "):
        parse_request(line)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Path]:
    """The folder of the folder of one instance, which knows the stream `a` and adds any other."""

    def handle(request: Mapping[str, str]) -> Reply:
        if request.get("stream", "a") != "a":
            raise UsageError(f"no such stream: {request['stream']}")
        return {"got": dict(request)}

    directory = RunDirectory(tmp_path)
    server = CtlServer(directory.path, handle)
    yield tmp_path
    server.close()
    directory.close()


def test_an_instance_answers(instance: Path) -> None:
    for pid in (None, os.getpid()):
        assert ask({"do": "list"}, pid, instance) == {"got": {"do": "list"}}
    with pytest.raises(UsageError, match=r"^no such stream: b$"):
        ask({"do": "remove", "stream": "b"}, None, instance)
    with pytest.raises(UsageError, match="no instance with live streams runs under this number"):
        ask({"do": "list"}, 1, instance)


def test_noise_on_the_socket_leaves_the_instance_as_it_was(instance: Path) -> None:
    (path,) = running_instances(instance).values()
    for noise in (
        b"",
        b"\n",
        b"\x00" * 100_000,
        b'{"do": "add", "uri": "half a req',
        os.urandom(5000) + b"\n",
    ):
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(10)
            line.connect(str(path))
            try:
                line.sendall(noise)
                line.shutdown(socket.SHUT_WR)
                answer = line.recv(4096)
            except OSError:  # it hung up on so much noise
                continue
            assert b"error" in answer
            assert answer.count(b"\n") == 1
    assert ask({"do": "list"}, None, instance) == {"got": {"do": "list"}}


def test_a_client_that_says_nothing_does_not_keep_others_out(instance: Path) -> None:
    (path,) = running_instances(instance).values()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(path))
        answers: list[Reply] = []
        asking = threading.Thread(target=lambda: answers.append(ask({"do": "list"}, None, instance)))
        asking.start()
        asking.join(timeout=30)
    assert answers == [{"got": {"do": "list"}}]


def test_no_instance_and_several(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no instance with live streams is running"):
        ask({"do": "list"}, None, tmp_path)
    held = []
    files = tmp_path / "austream-files"  # a run that reads files takes no requests
    files.mkdir()
    held.append(os.open(files / "lock", os.O_RDWR | os.O_CREAT))
    fcntl.flock(held[0], fcntl.LOCK_EX)
    with pytest.raises(UsageError, match=r"an instance runs but takes no commands: .* it reads a file"):
        ask({"do": "list"}, None, tmp_path)
    for pid in (11, 12):  # two runs of other processes, as they lie in shared memory
        folder = tmp_path / f"austream-{pid}"
        folder.mkdir()
        (folder / "pid").write_text(str(pid))
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(lock, fcntl.LOCK_EX)
        held.append(lock)
    dead = tmp_path / "austream-dead"
    dead.mkdir()
    (dead / "pid").write_text("13")
    (dead / "lock").touch()
    with pytest.raises(UsageError, match="several instances are running; say which with --pid: 11, 12"):
        ask({"do": "list"}, None, tmp_path)
    for lock in held:
        os.close(lock)


def test_a_run_that_takes_no_commands_is_said_to_be_on(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)  # without a CtlServer, as beside a file
    with pytest.raises(
        UsageError, match=r"an instance runs but takes no commands: .*it reads a file.*--lossless"
    ):
        ask({"do": "list"}, None, tmp_path)
    directory.close()
    with pytest.raises(UsageError, match="no instance with live streams is running"):
        ask({"do": "list"}, None, tmp_path)


def test_the_command_line_says_what_is_wrong_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ctl, "shared_memory_folder", lambda: tmp_path)
    for argv, says in (
        (["remove", "a"], "ctl: no instance"),
        (["add"], "ctl: the following arguments are required: URI"),
        (["forget", "a"], "ctl: argument add"),
    ):
        assert main(["ctl", *argv]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"run_stream.py: {says}")
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "words", [["remove", "rtsp://me:SECRET@h"], ["add", "camera:0", "rtsp:/me:SECRET@h"]]
)
def test_no_password_is_repeated(
    instance: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.setattr(ctl, "shared_memory_folder", lambda: instance)
    assert main(["ctl", *words]) == 2
    err = capsys.readouterr().err
    assert "rtsp:/" in err
    assert "SECRET" not in err
