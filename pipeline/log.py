"""What a run says, on stderr: lines for people, or with --log-json one JSON object a line for programs.

    {"time": "2026-11-21T09:30:00.000Z", "level": "info", "message": "wrote results.jsonl",
     "fields": {"path": "results.jsonl"}}

`level` is debug, info, warning or error; `fields` says what can be computed with, and is absent without any.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from pipeline.sinks.encode import json_line

_OWN = ("austream", "pipeline", "engines")
_LOG = logging.getLogger("austream")


def set_up(as_json: bool) -> None:
    """From now on all of this process's log goes to stderr, in this form; libraries from `warning` on."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _ToStderr)]:
        root.removeHandler(handler)
    root.addHandler(_ToStderr(as_json))
    for name in _OWN:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.captureWarnings(as_json)
    sys.excepthook = _log_uncaught if as_json else sys.__excepthook__


def say(message: str, **fields: Any) -> None:
    """What people want to know as it happens."""
    _LOG.info("%s", message, extra={"fields": fields})


def complain(message: str, **fields: Any) -> None:
    """What went wrong and ends the run."""
    _LOG.error("%s", message, extra={"fields": fields})


class _ToStderr(logging.Handler):
    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def emit(self, record: logging.LogRecord) -> None:
        # sys.stderr as it is now, whoever has replaced it since.
        print(json_record(record) if self._as_json else record.getMessage(), file=sys.stderr, flush=True)


def json_record(record: logging.LogRecord) -> str:
    """A log record as one line of JSON."""
    entry: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
        "level": {"CRITICAL": "error"}.get(record.levelname, record.levelname.lower()),
        "message": record.getMessage(),
    }
    fields = dict(getattr(record, "fields", {}))
    if record.exc_info:
        fields["traceback"] = "".join(traceback.format_exception(*record.exc_info))
    if fields:
        entry["fields"] = fields
    return json.dumps(json.loads(json_line(entry)))  # NaN is no JSON, and a terminal may know ASCII only


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _LOG.error("%s: %s", kind.__name__, error, exc_info=(kind, error, trace))
