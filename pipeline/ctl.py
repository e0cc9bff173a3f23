"""`run_stream.py ctl`: a running instance is asked to add, remove or list live streams, or to take neutrals.

The instance listens on a socket in its private directory, which only its user can reach. A request is one
line of JSON, an object of strings: `{"do": "add", "uri": "rtsp://…"}`; so is the answer, `{"ok": …}` or
`{"error": "one line"}`.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import AustreamError, RunError, UsageError
from pipeline.ring import shared_memory_folder

Reply = dict[str, Any]
Handle = Callable[[Mapping[str, str]], Reply]

MAX_BYTES = 1 << 16
"""Of a request; an answer may be as long as its list of streams, and a hundred times this."""
_PATIENCE_SECONDS = 3.0
_SOCKET, _PID = "ctl.socket", "pid"
VERBS = {"add": "uri", "remove": "stream", "neutral": "stream", "list": None}
"""What can be asked, and the name of its argument."""
_NUMBERS = ("captured", "delivered", "dropped", "faces", "epoch", "reconnects")


def parse_request(line: bytes) -> dict[str, str]:
    """A request from what came over the socket, whatever that is.

    Raises:
        UsageError: it is none.
    """
    if len(line) > MAX_BYTES or not line.endswith(b"\n"):
        raise UsageError(f"ctl: a request is one line of at most {MAX_BYTES} bytes")
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise UsageError("ctl: a request is one line of JSON") from None
    if not isinstance(request, dict) or not all(isinstance(value, str) for value in request.values()):
        raise UsageError('ctl: a request is an object of strings, such as {"do": "list"}')
    verb = request.get("do")
    if verb not in VERBS or set(request) != {"do", *filter(None, [VERBS[verb]])}:
        raise UsageError(f"ctl: expected one of {', '.join(VERBS)} with its argument")
    return request


class CtlServer:
    """Takes requests, one connection at a time, in a thread of its own."""

    def __init__(self, folder: Path, handle: Handle) -> None:
        """folder: the run's directory. `handle` raises AustreamError for what cannot be done."""
        (folder / _PID).write_text(str(os.getpid()))

        class Handler(socketserver.StreamRequestHandler):
            timeout = _PATIENCE_SECONDS

            def handle(self) -> None:
                try:
                    reply: Reply = {"ok": handle(parse_request(self.rfile.readline(MAX_BYTES + 1)))}
                except AustreamError as error:
                    reply = {"error": str(error)}
                except OSError:
                    return  # it said nothing, or went away
                self.wfile.write(json.dumps(reply).encode() + b"\n")

        class Server(socketserver.UnixStreamServer):
            def handle_error(self, *_: object) -> None:
                """A client that went away is no concern of the run."""

        self._server = Server(str(folder / _SOCKET), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def running_instances(parent: Path | None = None) -> dict[int, Path]:
    """By pid: the sockets of this user's runs that take requests."""
    found = {}
    for path in _living(parent or shared_memory_folder()):
        with contextlib.suppress(OSError, ValueError):  # it reads files, or has not begun
            found[int((path / _PID).read_text())] = path / _SOCKET
    return found


def _living(parent: Path) -> list[Path]:
    """The directories of this user's runs, whether or not they take requests."""
    living = []
    for path in parent.glob("austream-*"):
        try:
            with open(path / "lock", "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            living.append(path)
        except OSError:
            continue
    return living


def ask(request: Mapping[str, str], pid: int | None = None, parent: Path | None = None) -> Reply:
    """Send a request to a running instance, the only one or that of a pid, and wait for the answer.

    Raises:
        UsageError: no instance runs, or several do, or it refuses.
        RunError: it does not answer.
    """
    instances = running_instances(parent)
    if pid is not None and pid not in instances:
        raise UsageError(f"ctl --pid {pid}: no instance with live streams runs under this number")
    if not instances and _living(parent or shared_memory_folder()):
        raise UsageError(
            "ctl: an instance runs but takes no commands: it is just starting, or it reads a file or has "
            "--lossless, where no stream comes or goes"
        )
    if not instances:
        raise UsageError("ctl: no instance with live streams is running; start run_stream.py first")
    if pid is None and len(instances) > 1:
        several = ", ".join(map(str, sorted(instances)))
        raise UsageError(f"ctl: several instances are running; say which with --pid: {several}")
    path = instances[pid] if pid is not None else next(iter(instances.values()))
    try:
        with socket.socket(socket.AF_UNIX) as line, line.makefile("rb") as answers:
            line.settimeout(2 * _PATIENCE_SECONDS)
            line.connect(str(path))
            line.sendall(json.dumps(dict(request)).encode() + b"\n")
            reply = json.loads(answers.readline(100 * MAX_BYTES))
    except (OSError, ValueError) as error:
        raise RunError(f"ctl: the instance does not answer ({error}); is it about to end?") from None
    if "error" in reply:
        raise UsageError(str(reply["error"]))
    return dict(reply["ok"])


def main(argv: Sequence[str]) -> int:
    """`run_stream.py ctl …`; the exit code."""
    parser = argparse.ArgumentParser(
        prog="run_stream.py ctl", description="Add, remove and list the live streams of a running instance."
    )
    parser.add_argument("--pid", type=int, help="of the instance, should several be running")
    verbs = parser.add_subparsers(dest="do", required=True, metavar="add|remove|list|neutral")
    verbs.add_parser("list", help="all streams and how they stand")
    for verb, metavar, what in (
        ("add", "URI", "read one more live source"),
        ("remove", "STREAM", "end a stream"),
        ("neutral", "STREAM", "its people look neutral now, for a second"),
    ):
        verbs.add_parser(verb, help=what).add_argument(str(VERBS[verb]), metavar=metavar)
    arguments = vars(parser.parse_args(argv))
    pid = arguments.pop("pid")
    try:
        reply = ask(arguments, pid)
    except AustreamError as error:
        print(f"run_stream.py: {error}", file=sys.stderr)
        return error.exit_code
    if arguments["do"] == "list":
        for entry in reply["streams"]:
            numbers = ", ".join(f"{name} {entry[name]}" for name in _NUMBERS)
            print(f"{entry['stream']}: {entry['state']}; {numbers}")
    else:
        print(f"{arguments['do']}: {reply['stream']}")
    return 0
