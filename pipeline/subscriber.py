"""The other end of --publish: `for row in pipeline.subscribe("tcp://127.0.0.1:5556"): …`"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import WireError
from pipeline.keys import client_keys
from pipeline.messages import SCHEMA_VERSION
from pipeline.sockets import Subscriber

MAX_BYTES = 1 << 20
"""Of a row; that of a face with all engines has some 3,000."""
_FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "header": {"sources": (list,), "engines": (list,), "options": (dict,)},
    "result": {
        "stream": (str,),
        "sequence": (int,),
        "epoch": (int,),
        "frame": (int,),
        "pts_seconds": (int, float),
        "face": (int, type(None)),
    },
    "ledger": {"stream": (str,), "sequence": (int,), "captured": (int,), "delivered": (int,)},
}
"""What a reader may rely on, by type of row."""


def subscribe(
    address: str, key: str | Path | None = None, timeout_seconds: float | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of a running `--publish`, the header first, as dictionaries; what went before is missed.

    Args:
        address: such as `tcp://127.0.0.1:5556`.
        key: the file NAME.key of `python run_stream.py keys`, for a run with --keys.
        timeout_seconds: end when no row came for so long; None waits for ever.

    Raises:
        UsageError: not an address, or not a key.
        PeerLostError: the publisher does not let this key in.
        WireError: what came is no row.
    """
    subscriber = Subscriber(address, None if key is None else client_keys(Path(key)), MAX_BYTES)
    try:
        while (data := subscriber.receive(timeout_seconds)) is not None:
            yield read_row(data)
    finally:
        subscriber.close()


def read_row(data: bytes) -> dict[str, Any]:
    """One published row, checked as far as `_FIELDS` goes.

    Raises:
        WireError: whatever is wrong with it.
    """
    if len(data) > MAX_BYTES:
        raise WireError(f"row: expected at most {MAX_BYTES} bytes, got {len(data)}")
    try:
        row = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WireError(f"row: expected JSON, got {data[:40]!r}") from error
    kind = row.get("type") if isinstance(row, dict) else None
    fields = _FIELDS.get(kind) if isinstance(kind, str) else None
    if fields is None:
        raise WireError(f"row: expected an object of type {', '.join(_FIELDS)}, got {data[:40]!r}")
    if row.get("schema") != SCHEMA_VERSION:
        raise WireError(f"row: expected schema {SCHEMA_VERSION}, got {str(row.get('schema'))[:20]}")
    for name, types in fields.items():
        if type(row.get(name)) not in types:
            raise WireError(f"row: {kind}: {name} is {str(row.get(name))[:20]}")
    return dict(row)
