"""What a run says, on stderr: lines for people, or with --log-json one JSON object a line for programs.

    {"time": "2026-11-21T09:30:00.000Z", "level": "info", "message": "wrote results.jsonl",
     "fields": {"path": "results.jsonl"}}

`level` is debug, info, warning or error; `fields` says what can be computed with, and is absent without any.

Whatever is said passes `hide_secrets`: a mistyped address reaches messages that do not know it for one.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from pipeline.sinks.encode import json_line

_OWN = ("austream", "pipeline", "engines")
_LOG = logging.getLogger("austream")
_USER = re.compile(r"\b([\w+.-]+:/*)\S*@")
"""User and password of an address, also of one with a slash too few or without its scheme."""
_TOLD = re.compile(
    r"(?i)(:/\S*?\b(?:pass(?:word|wd)?|pwd|secret|token|auth|login|user(?:name)?)=)[^\s'\"\\]*"
)
"""They may also be parts of its path or its query."""


def set_up(as_json: bool) -> None:
    """From now on all of this process's log goes to stderr, in this form; libraries from `warning` on."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _ToStderr)]:
        root.removeHandler(handler)
    root.addHandler(_ToStderr(as_json))
    for name in _OWN:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.captureWarnings(as_json)
    sys.excepthook = _log_uncaught


def hide_secrets(text: str, mark: str = "…") -> str:
    """A text in which addresses have lost user and password.

    >>> hide_secrets("--camera rtsp:/me:secret@host/live?token=1: expected a number")
    '--camera rtsp:/…@host/live?token=…: expected a number'
    """
    return _TOLD.sub(lambda found: found[1] + mark, _USER.sub(lambda found: f"{found[1]}{mark}@", text))


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
        if self._as_json:
            text = hide_secrets(json_record(record), r"\u2026")  # what is hidden ends before a string does
        else:
            text = hide_secrets("\n".join([record.getMessage(), *_traceback(record)]))
        # sys.stderr as it is now, whoever has replaced it since.
        print(text, file=sys.stderr, flush=True)


def json_record(record: logging.LogRecord) -> str:
    """A log record as one line of JSON."""
    entry: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
        "level": {"CRITICAL": "error"}.get(record.levelname, record.levelname.lower()),
        "message": record.getMessage(),
    }
    fields = dict(getattr(record, "fields", {}))
    if found := _traceback(record):
        fields["traceback"] = found[0]
    if fields:
        entry["fields"] = fields
    return json.dumps(json.loads(json_line(entry)))  # NaN is no JSON, and a terminal may know ASCII only


def _traceback(record: logging.LogRecord) -> list[str]:
    """None or one."""
    return ["".join(traceback.format_exception(*record.exc_info)).rstrip()] if record.exc_info else []


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _LOG.error("%s: %s", kind.__name__, error, exc_info=(kind, error, trace))
