from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pipeline.errors import OutputError, UsageError
from pipeline.sockets import Publisher, check_address


@pytest.mark.parametrize(
    ("address", "bound"),
    [
        ("tcp://127.0.0.1:5556", "tcp://127.0.0.1:5556"),
        ("tcp://127.8.8.8:1", "tcp://127.8.8.8:1"),
        ("tcp://localhost:5556", "tcp://127.0.0.1:5556"),
        ("tcp://[::1]:5556", "tcp://[::1]:5556"),
        ("tcp://127.0.0.1:*", "tcp://127.0.0.1:*"),
        ("ipc:///tmp/austream", "ipc:///tmp/austream"),
    ],
)
def test_local_addresses(address: str, bound: str) -> None:
    assert check_address(address) == bound


@pytest.mark.parametrize(
    "address",
    [
        "tcp://*:5556",
        "tcp://0.0.0.0:5556",
        "tcp://[::]:5556",
        "tcp://192.168.1.2:5556",
        "tcp://eth0:5556",
        "tcp://example.org:5556",
        "tcp://127.0.0.1.example.org:5556",
        "tcp://127.0.0.1:5556;tcp://0.0.0.0:5556",
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:70000",
        "tcp://127.0.0.1",
        "udp://127.0.0.1:5556",
        "pgm://127.0.0.1:5556",
        "ipc://",
        "ipc:///no/such/folder/socket",
        "ipc:///tmp/" + "x" * 200,
        "5556",
        "",
    ],
)
def test_everything_else_is_refused(address: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_address(address)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "bound"),
    [
        ("tcp://*:5556", "tcp://0.0.0.0:5556"),
        ("tcp://0.0.0.0:*", "tcp://0.0.0.0:*"),
        ("tcp://[::]:5556", "tcp://[::]:5556"),
        ("tcp://192.168.1.2:5556", "tcp://192.168.1.2:5556"),
    ],
)
def test_beyond_loopback_with_keys_only(address: str, bound: str) -> None:
    with pytest.raises(UsageError, match="can be reached from elsewhere; add --keys DIR"):
        check_address(address)
    assert check_address(address, has_keys=True) == bound


def test_a_tcp_port_in_use() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OutputError, match="in use"):
            Publisher(f"tcp://127.0.0.1:{other.getsockname()[1]}")


def test_an_ipc_address_is_not_stolen_and_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = Publisher(f"ipc://{path}")
    with pytest.raises(OutputError, match="in use"):
        Publisher(f"ipc://{path}")
    assert path.exists()
    first.close()
    first.close()
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as dead:  # what a killed process leaves behind
        dead.bind(str(path))
    Publisher(f"ipc://{path}").close()


def test_a_file_in_the_way_of_an_ipc_address_is_kept(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("precious")
    with pytest.raises(UsageError, match="not a socket"):
        Publisher(f"ipc://{notes}")
    assert notes.read_text() == "precious"
