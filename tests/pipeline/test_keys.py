"""Keys on disk: made by one command, readable by their owner only, never replaced."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import zmq

import run_stream
from pipeline.errors import OutputError, UsageError
from pipeline.keys import bearer_token, client_keys, make_keys, server_keys


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_one_command_makes_all_and_keeps_what_is_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "keys"
    before = os.umask(0)
    try:
        assert run_stream.main(["keys", str(folder), "desk"]) == 0
    finally:
        os.umask(before)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"made {folder / name}" for name in ("server.key", "token", "desk.key", "clients/desk.pub")
    ]
    for name in ("server.key", "token", "desk.key"):
        assert mode(folder / name) == 0o600
        assert not any(secret in err for secret in (folder / name).read_text().split('"') if len(secret) > 20)
    assert mode(folder / "clients") == 0o700
    first = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert run_stream.main(["keys", str(folder), "second"]) == 0
    assert {path: path.read_bytes() for path in first} == first
    assert (folder / "second.key").exists()
    assert run_stream.main(["keys", str(folder), "desk"]) == 2  # there is one already
    assert {path: path.read_bytes() for path in first} == first
    assert not list(folder.rglob("*.part"))


def test_the_halves_of_every_pair_belong_together(tmp_path: Path) -> None:
    make_keys(tmp_path, ["a", "b"])
    server = server_keys(tmp_path)
    assert zmq.curve_public(server.secret) == server.public
    clients = [client_keys(tmp_path / f"{name}.key") for name in ("a", "b")]
    for client in clients:
        assert zmq.curve_public(client.secret) == client.public
        assert client.server == server.public
        assert server.lets_in(client.public)
    assert len({server.public, *(client.public for client in clients)}) == 3
    stranger, _ = zmq.curve_keypair()
    assert not server.lets_in(stranger)
    assert len(bearer_token(tmp_path)) >= 43  # 32 random bytes


@pytest.mark.parametrize("name", ["server", "../up", "", "a b", "-x", "x" * 65, "ä"])
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="expected a name of letters"):
        make_keys(tmp_path / "keys", [name])
    assert not (tmp_path / "keys").exists()


def test_what_others_may_read_is_no_secret(tmp_path: Path) -> None:
    make_keys(tmp_path, ["desk"])
    for name, read in (
        ("server.key", lambda: server_keys(tmp_path)),
        ("token", lambda: bearer_token(tmp_path)),
        ("desk.key", lambda: client_keys(tmp_path / "desk.key")),
    ):
        read()
        (tmp_path / name).chmod(0o640)
        with pytest.raises(UsageError, match="others may read it, so it is no secret; chmod 600"):
            read()


def test_a_folder_without_keys_says_how_to_make_them(tmp_path: Path) -> None:
    for read in (server_keys, bearer_token):
        with pytest.raises(
            UsageError, match=r"No such file or directory.*run_stream\.py keys DIR makes them"
        ):
            read(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        make_keys(tmp_path / "file" / "keys")


@pytest.mark.parametrize("secret", ["short", "x" * 39, 'x" # comment', "ü" * 40])
def test_a_token_or_key_that_is_none(tmp_path: Path, secret: str) -> None:
    make_keys(tmp_path)
    (tmp_path / "token").write_text(f"{secret}\n\nsecond")
    (tmp_path / "server.key").write_text(f'public = "{secret}"\nsecret = "{secret}"\n')
    for read in (server_keys, bearer_token):
        with pytest.raises(UsageError) as caught:
            read(tmp_path)
        assert secret not in str(caught.value)
