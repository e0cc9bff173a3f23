"""Keys of a run that may be reached from elsewhere: a folder made by `python run_stream.py keys DIR`.

    server.key         the run's own key pair                                       private
    token              what a reader of --metrics sends as its bearer token         private
    NAME.key           all that subscriber NAME needs: hand it over, delete it      private
    clients/NAME.pub   who may subscribe; delete one to shut somebody out

Private files can be read by their owner only, and are refused otherwise. Nothing in them is ever shown: not
in errors, not in a repr.
"""

from __future__ import annotations

import os
import re
import secrets
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import OutputError, UsageError
from pipeline.sockets import key_pair

_LARGEST_BYTES = 4096
_KEY = re.compile(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
"""32 bytes in Z85, ZeroMQ's base 85."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")
_MAKE = "python run_stream.py keys DIR makes them"


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """What a listening end needs."""

    public: bytes
    secret: bytes = field(repr=False)
    clients: Path
    """Folder of the public keys that are let in; looked at whenever somebody comes."""

    def lets_in(self, client: bytes) -> bool:
        """Whether this public key is among the clients."""
        files = sorted(self.clients.glob("*.pub"))
        return any(secrets.compare_digest(client, _read(path, ["public"])["public"]) for path in files)


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """What a connecting end needs."""

    public: bytes
    secret: bytes = field(repr=False)
    server: bytes
    """The public key of the run that it trusts."""


def make_keys(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """Make what the folder lacks, with a key for every subscriber named; nothing there is replaced.

    Returns:
        The files that were made.

    Raises:
        UsageError: a name that cannot be a file's. OutputError: the folder cannot be written.
    """
    for name in names:
        if not _NAME.fullmatch(name) or name == "server":
            raise UsageError(f"keys: {name[:80]!r}: expected a name of letters, digits, - and _, not server")
    made: list[Path] = []
    try:
        (folder / "clients").mkdir(mode=0o700, parents=True, exist_ok=True)
        own = folder / "server.key"
        if not own.exists():
            public, secret = key_pair()
            made.append(_write(own, {"public": public, "secret": secret}))
        if not (folder / "token").exists():
            made.append(_write_text(folder / "token", secrets.token_urlsafe(32) + "\n"))
        server = server_keys(folder).public
        for name in names:
            listed, private = folder / "clients" / f"{name}.pub", folder / f"{name}.key"
            if listed.exists() or private.exists():
                raise UsageError(f"keys: there is a {name} in {folder} already; choose another name")
            public, secret = key_pair()
            made.append(_write(private, {"public": public, "secret": secret, "server": server}))
            made.append(_write(listed, {"public": public}))
    except OSError as error:
        raise OutputError(f"keys: {error.filename}: cannot be written ({error.strerror})") from error
    return made


def server_keys(folder: Path) -> ServerKeys:
    """The keys in a folder of `make_keys`; UsageError when there are none."""
    path = folder / "server.key"
    _check_private(path)
    own = _read(path, ["public", "secret"])
    return ServerKeys(own["public"], own["secret"], folder / "clients")


def client_keys(path: Path) -> ClientKeys:
    """The keys in a NAME.key of `make_keys`; UsageError when it is none."""
    _check_private(path)
    own = _read(path, ["public", "secret", "server"])
    return ClientKeys(own["public"], own["secret"], own["server"])


def bearer_token(folder: Path) -> str:
    """The token in a folder of `make_keys`; UsageError when there is none."""
    path = folder / "token"
    _check_private(path)
    try:
        token = _read_bytes(path).decode().strip()
    except UnicodeDecodeError:
        token = ""
    if not _TOKEN.fullmatch(token):
        raise UsageError(f"{path}: expected one line of 16 letters, digits or more; {_MAKE}")
    return token


def _write(path: Path, values: dict[str, bytes]) -> Path:
    return _write_text(path, "".join(f'{name} = "{key.decode()}"\n' for name, key in values.items()))


def _write_text(path: Path, text: str) -> Path:
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    part.rename(path)
    return path


def _check_private(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); {_MAKE}") from None
    if mode & 0o077:
        raise UsageError(f"{path}: others may read it, so it is no secret; chmod 600 it, or make new keys")


def _read(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    wrong = f"{path}: not a file of keys with {', '.join(names)}; {_MAKE}"
    try:
        values = tomllib.loads(_read_bytes(path).decode())
    except (ValueError, RecursionError):
        # Without the cause: it would quote the line.
        raise UsageError(wrong) from None
    keys = {name: values.get(name) for name in names}
    if not all(isinstance(key, str) and _KEY.fullmatch(key) for key in keys.values()):
        raise UsageError(wrong)
    return {name: str(key).encode() for name, key in keys.items()}


def _read_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST_BYTES)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); {_MAKE}") from None
