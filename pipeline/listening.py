"""Where to listen: on loopback, unless there are keys for whoever comes from elsewhere."""

from __future__ import annotations

import ipaddress
import re

from pipeline.errors import UsageError

LOOPBACK = "127.0.0.1"


def host_and_port(flag: str, text: str) -> tuple[str, int]:
    """`9464`, `127.0.0.1:9464`, `localhost:9464` or `[::1]:9464` as an IP address and a port.

    Raises:
        UsageError: it is none of these, or the port does not exist.
    """
    parts = re.fullmatch(r"(?:(\[[^\]]+\]|[^:\s]+):)?(\d{1,5})", text)
    if parts is None:
        raise UsageError(f"{flag} {text}: expected PORT or HOST:PORT, such as 9464 or {LOOPBACK}:9464")
    host, port = (parts[1] or LOOPBACK).strip("[]"), int(parts[2])
    if not 1 <= port <= 65535:
        raise UsageError(f"{flag} {text}: port {port} does not exist; expected 1 to 65535")
    return ip_address(flag, text, host), port


def ip_address(flag: str, text: str, host: str) -> str:
    """The address that a host given to `flag` stands for; names other than localhost are not looked up."""
    host = {"localhost": LOOPBACK, "*": "0.0.0.0"}.get(host, host)
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        raise UsageError(
            f"{flag} {text}: {host} is not an address of this machine; expected {LOOPBACK}, or 0.0.0.0 with "
            "--keys for all of its networks"
        ) from None


def check_reach(flag: str, text: str, host: str, has_keys: bool) -> None:
    """UsageError when somebody from elsewhere could come without a key."""
    if not has_keys and not ipaddress.ip_address(host).is_loopback:
        raise UsageError(
            f"{flag} {text}: {host} can be reached from elsewhere; add --keys DIR (python run_stream.py keys "
            f"DIR makes it), or listen on {LOOPBACK}"
        )
