"""Addresses of feeds: which are read, how FFmpeg opens them, and how they are shown without their secrets."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

LIVE_SCHEMES = frozenset({"rtsp", "rtsps", "udp"})
"""Without an end of their own."""
NETWORK_SCHEMES = LIVE_SCHEMES | {"http", "https"}
RTSP_TRANSPORTS = ("tcp", "udp")

_SECRET = re.compile(r"(?i)(?:pass(?:word|wd)?|pwd|secret|token|key|auth|user(?:name)?|login)=")
"""Some cameras take user and password as parts of the path."""
_PROBE = {"analyzeduration": "1000000", "fpsprobesize": "12"}
"""A second, or twelve pictures, tell FFmpeg what a feed is; left alone it takes up to five seconds. What it
looked at is kept: the first key frame is not thrown away."""
_SOCKET_SECONDS = 5


def scheme_of(uri: str) -> str:
    """`rtsp` of `rtsp://…`; empty for a path."""
    return urlsplit(uri).scheme.lower() if "://" in uri else ""


def open_options(scheme: str, rtsp_transport: str) -> dict[str, str]:
    """What FFmpeg is told when it opens an address of this scheme."""
    if scheme in ("rtsp", "rtsps"):
        # Sound is not asked for: its packets would hide that the pictures have stopped.
        return {
            "rtsp_transport": rtsp_transport,
            "allowed_media_types": "video",
            "timeout": str(_SOCKET_SECONDS * 1_000_000),
            **_PROBE,
        }
    return {"overrun_nonfatal": "1", **_PROBE} if scheme == "udp" else {}


def without_credentials(uri: str) -> str:
    """An address as it may be shown and written: user, password and query values are taken out."""
    uri = printable(uri)
    if "://" not in uri:
        return uri
    try:
        parts = urlsplit(uri)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return uri.split("://", 1)[0] + "://…"
    if parts.scheme and "@" in parts.path + parts.query + parts.fragment:
        return f"{parts.scheme}://…"  # a password with a / ? or # in it: where it ends cannot be told
    host = f"[{host}]" if ":" in host else host
    told = _SECRET.search(parts.path)
    path = parts.path[: told.start()] + "…" if told else parts.path
    return urlunsplit((parts.scheme, host + port, path, "…" if parts.query else "", ""))


def printable(text: str) -> str:
    """A name as it can be printed in one line and written as UTF-8, whatever bytes the file system holds."""
    return "".join(c if c.isprintable() else "�" for c in text)
