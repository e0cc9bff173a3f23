"""--metrics: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever restarts and routes.

Lives in the parent process, in threads of its own that read the latest snapshot and nothing else.

    /healthz   200 while the supervisor goes round and every stage runs, also while the run still starts
    /readyz    200 while engines are loaded and frames are delivered, at least one in READY_SECONDS

Otherwise both answer 503 with the reason. With a token, all three ask for it.
"""

from __future__ import annotations

import errno
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from pipeline.errors import OutputError
from pipeline.keys import bearer_token
from pipeline.listening import check_reach, host_and_port
from pipeline.metrics import RunCollector
from pipeline.snapshot import RunSnapshot

READY_SECONDS = 10.0
"""Without a frame for so long a run is not ready."""
STALE_SECONDS = 10.0
"""The supervisor shows a snapshot several times a second; without one for so long it hangs."""
_READERS = 16
"""Requests answered at a time; more are turned away."""
_REQUEST_SECONDS = 5.0
"""How long a request and its answer may take, however many bytes come one by one."""


class Health:
    """What a run's snapshots say about how it is."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds that only rise."""
        self._clock = clock
        self._shown_at = self._delivered_at = clock()
        self._delivered = 0
        self._was_ready = False
        self.latest: RunSnapshot | None = None

    def show(self, run: RunSnapshot) -> None:
        """The run as it is now. Never waits."""
        now = self._clock()
        delivered = sum(stream.delivered for stream in run.streams)
        if delivered != self._delivered:
            self._delivered, self._delivered_at = delivered, now
        self._was_ready |= run.ready
        self.latest, self._shown_at = run, now

    def illness(self) -> str | None:
        """Why the run should be started anew, if it should."""
        run = self.latest
        if run is None or _over(run):
            return None
        if (silent := self._clock() - self._shown_at) > STALE_SECONDS:
            return f"the supervisor has not been heard of for {silent:.0f} s"
        down = [stage.stage for stage in run.stages if not stage.running]
        return f"not running: {', '.join(down)}" if self._was_ready and down else None

    def unreadiness(self) -> str | None:
        """Why no results are to be had now, if so."""
        run = self.latest
        if run is None or not run.engines:
            return "starting: the engines are not loaded yet"
        if ill := self.illness():
            return ill
        if _over(run):
            return None
        if not run.ready:
            return "starting: not all stages are at work"
        if not self._delivered:
            return "no frame has been delivered yet"
        silent = self._clock() - self._delivered_at
        return f"no frame has been delivered for {silent:.0f} s" if silent > READY_SECONDS else None


def _over(run: RunSnapshot) -> bool:
    """Whether nothing more is to come: what the processes then do is no illness."""
    return bool(run.streams) and all(stream.ended for stream in run.streams)


class Monitor:
    """The server, from its construction to `close`."""

    def __init__(self, listen: str, keys: str | None) -> None:
        """Begins to listen.

        Args:
            listen: as --metrics takes it, [HOST:]PORT.
            keys: the folder of --keys, whose token is asked for.

        Raises:
            UsageError: no port, a host beyond loopback without keys, or no token in the folder.
            OutputError: the port cannot be had.
        """
        host, port = host_and_port("--metrics", listen)
        check_reach("--metrics", listen, host, keys is not None)
        token = bearer_token(Path(keys)) if keys is not None else None
        self._health = Health()
        try:
            self._server = _Server(host, port, token, self._health)
        except OSError as error:
            raise OutputError(f"--metrics {listen}: {_reason(error)}") from error
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="austream-metrics", daemon=True
        )
        self._thread.start()

    def show(self, run: RunSnapshot) -> None:
        """What is served from now on."""
        self._health.show(run)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "the port is in use by another program; choose another port"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address; expected one of its own, or 0.0.0.0 for all"
        case errno.EACCES:
            return "the port may not be opened; choose one above 1023"
    return f"it cannot be opened: {error.strerror}; choose another port"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = _READERS
    """Connections that may wait to be accepted; beyond that, clients try again a second later."""

    def __init__(self, host: str, port: int, token: str | None, health: Health) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.token, self.health = token, health
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(RunCollector(lambda: health.latest))
        self._room = threading.BoundedSemaphore(_READERS)
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that went away or broke off is its own affair."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "austream", ""
    timeout = _REQUEST_SECONDS

    def setup(self) -> None:
        super().setup()
        self._deadline = threading.Timer(self.timeout, self._hang_up)
        self._deadline.daemon = True
        self._deadline.start()

    def finish(self) -> None:
        self._deadline.cancel()
        super().finish()

    def _hang_up(self) -> None:
        with suppress(OSError):  # it is gone
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        if not self._may_read():
            self._answer(HTTPStatus.UNAUTHORIZED, "a token is asked for: Authorization: Bearer …\n")
        elif self.path == "/metrics":
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            self._answer(HTTPStatus.OK, encode(self.server.registry), kind)
        elif self.path == "/healthz":
            self._tell(self.server.health.illness())
        elif self.path == "/readyz":
            self._tell(self.server.health.unreadiness())
        else:
            self._answer(HTTPStatus.NOT_FOUND, "expected /metrics, /healthz or /readyz\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Readers come every few seconds; nothing to tell."""

    def _may_read(self) -> bool:
        token = self.server.token
        said = self.headers.get("Authorization", "").encode(errors="replace")
        return token is None or secrets.compare_digest(said, f"Bearer {token}".encode())

    def _tell(self, trouble: str | None) -> None:
        status = HTTPStatus.SERVICE_UNAVAILABLE if trouble else HTTPStatus.OK
        self._answer(status, f"{trouble or 'ok'}\n")

    def _answer(self, status: HTTPStatus, body: str | bytes, kind: str = "text/plain; charset=utf-8") -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        if status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
