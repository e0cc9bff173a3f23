"""Whatever the bytes are, a decoder gives what it promises or raises one of austream's own errors.

The wire's messages are tried in tests/pipeline/test_wire.py, published rows in test_subscriber.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.bundle import BUNDLED, read_bundle
from engines.weights import load_network
from pipeline.channels import Receiver, Sender
from pipeline.config import RunConfig, read_toml
from pipeline.errors import AustreamError, EngineError, SourceError, TransportError, UsageError, WireError
from pipeline.keys import bearer_token, client_keys, make_keys, server_keys
from pipeline.neutral import Neutral
from pipeline.profile import load_profile, save_profile
from pipeline.sockets import End
from pipeline.streams import Control
from pipeline.wire import encode

relaxed = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
edits = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=6), st.integers(0, 6)), max_size=4
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)
DEEP = b"[" * 200_000


def mutated(data: bytes, changes: list[tuple[float, bytes, int]]) -> bytes:
    for place, put, cut in changes:
        at = int(place * len(data))
        data = data[:at] + put + data[at + cut :]
    return data


@contextlib.contextmanager
def little_memory(mebibytes: float) -> Any:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mebibytes * 2**20
    finally:
        tracemalloc.stop()


def npz(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


def npy(array: np.ndarray | None = None, header: bytes = b"") -> bytes:
    file = io.BytesIO()
    if array is not None:
        np.save(file, array)
        return file.getvalue()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("profile") / "me.npz"
    picture = np.full((224, 224, 3), 90, np.uint8)
    save_profile(path, Neutral(picture, "given", np.zeros((468, 3), np.float32)))
    assert load_profile(path).image_bgr.shape == (224, 224, 3)
    return path.read_bytes()


@settings(relaxed, max_examples=150)
@given(changes=edits, random=st.binary(max_size=100))
def test_profiles(profile: bytes, tmp_path: Path, changes: Any, random: bytes) -> None:
    path = tmp_path / "x.npz"
    for data in (mutated(profile, changes), random):
        path.write_bytes(data)
        with contextlib.suppress(SourceError):
            assert np.isfinite(load_profile(path).landmarks).all()


ABOUT = np.frombuffer(b'{"format": "austream-neutral", "version": 2, "alignment": "five_point"}', np.uint8)


@pytest.mark.parametrize(
    "data",
    [
        npz(
            about=npy(ABOUT),
            image_bgr=npy(header=b"{'descr':'|u1','fortran_order':False,'shape':(10**12,)}\n"),
        ),
        npz(
            about=npy(ABOUT),
            image_bgr=npy(header=b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000,), }\n"),
        ),
        npz(
            about=npy(ABOUT),
            image_bgr=npy(header=b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"),
        ),
        npz(about=npy(ABOUT), image_bgr=bytes(200 << 20)),  # a zip bomb: 200 MiB in 200 kB
        npz(about=npy(np.zeros(2 << 20, np.uint8))),
        npz(about=npy(np.frombuffer(DEEP, np.uint8))),
        npz(about=npy(np.frombuffer(b"[]", np.uint8)), image_bgr=b""),
        npz(
            about=npy(ABOUT),
            image_bgr=npy(np.zeros((224, 224, 3), np.uint8)),
            landmarks=npy(np.full((468, 3), "x")),
        ),
    ],
)
def test_profiles_that_mean_harm(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(data)
    del data
    with little_memory(8), pytest.raises(SourceError):
        load_profile(path)


TOML = b"""
source = ["a.mp4"]
engine = "cednn"
hop = 4
duration = 2.5
live = true
rotate = "1h"
out = "x.csv"
"""


@settings(relaxed, max_examples=300)
@given(changes=edits, random=st.binary(max_size=60))
def test_configurations(tmp_path: Path, changes: Any, random: bytes) -> None:
    path = tmp_path / "run.toml"
    for data in (mutated(TOML, changes), random):
        path.write_bytes(data)
        with contextlib.suppress(UsageError):
            config = RunConfig.from_mapping(read_toml(path), "test")
            assert RunConfig.from_mapping(json.loads(json.dumps(config.mapping())), "again") == config


@settings(relaxed, max_examples=300)
@given(st.dictionaries(st.sampled_from(sorted(RunConfig.__dataclass_fields__)), values, max_size=4))
def test_configurations_with_any_values(given_values: dict[str, Any]) -> None:
    with contextlib.suppress(UsageError):
        RunConfig.from_mapping({"source": "a.mp4", **given_values}, "test")


def test_configurations_that_mean_harm(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    for data in (b"source = " + DEEP, b"source = " + b"[" * 400, b"hop = 1" + b"0" * 5000, bytes(3 << 20)):
        path.write_bytes(data)
        with pytest.raises(UsageError):
            RunConfig.from_mapping(read_toml(path), "test")


SPEC = json.loads((BUNDLED / "delta" / "engine.json").read_text())


@settings(relaxed, max_examples=100)
@given(changes=edits, field=st.sampled_from(sorted(SPEC)), value=values, random=st.binary(max_size=60))
def test_descriptions_of_engines(tmp_path: Path, changes: Any, field: str, value: Any, random: bytes) -> None:
    changed = json.dumps(SPEC | {field: value}).encode()
    nested = json.dumps(SPEC | {"crop": {"kind": value, "size_px": value}, "aus": [value] * 2}).encode()
    for data in (mutated(json.dumps(SPEC).encode(), changes), changed, nested, random):
        (tmp_path / "engine.json").write_bytes(data)
        with contextlib.suppress(EngineError):
            assert read_bundle(tmp_path).spec.aus


def test_descriptions_of_engines_that_mean_harm(tmp_path: Path) -> None:
    for data in (DEEP, b'{"schema": 1' + b"0" * 5000 + b"}", b" " * (2 << 20), b"\xff\xfe{}"):
        (tmp_path / "engine.json").write_bytes(data)
        with pytest.raises(EngineError):
            read_bundle(tmp_path)
    for variant in ({"n_aus": 3}, {"variant": []}, {"branches": "18"}, {"branches": 10**9}, {"se": {}}):
        for network in ("cednn", "satnet", "delta"):
            spec = SPEC | {"network": network, "variant": variant, "weights": {"random_seed": 0}}
            (tmp_path / "engine.json").write_text(json.dumps(spec))
            with pytest.raises(EngineError):
                load_network(read_bundle(tmp_path))


WEIGHTS = (BUNDLED / "delta" / "weights.safetensors").read_bytes()


@settings(relaxed, max_examples=12)
@given(changes=edits, head=st.booleans(), random=st.binary(max_size=40))
def test_weights(tmp_path: Path, changes: Any, head: bool, random: bytes) -> None:
    """Under a checksum that fits, so that the reader itself is tried."""
    length = 8 + struct.unpack("<Q", WEIGHTS[:8])[0]
    damaged = mutated(WEIGHTS[:length], changes) + WEIGHTS[length:] if head else mutated(WEIGHTS, changes)
    for data in (damaged, random):
        (tmp_path / "weights.safetensors").write_bytes(data)
        digest = {"file": "weights.safetensors", "sha256": hashlib.sha256(data).hexdigest()}
        (tmp_path / "engine.json").write_text(json.dumps(SPEC | {"weights": digest}))
        with contextlib.suppress(EngineError):
            load_network(read_bundle(tmp_path))


@settings(relaxed, max_examples=60)
@given(changes=edits, kind=st.sampled_from([b"H", b"M", b"E", b"?"]), random=st.binary(max_size=60))
def test_frames_of_a_channel(tmp_path: Path, changes: Any, kind: bytes, random: bytes) -> None:
    """A producer of random and of damaged frames, over a real socket."""
    good = struct.pack("<cQ", b"M", 0) + encode(Control("stop", "because"))
    for data in (mutated(good, changes), random, struct.pack("<cQ", kind, 0) + random):
        receiver = Receiver(tmp_path / "c", "control", 2)
        liar = End(tmp_path / "c", binds=False)
        liar.send(data)
        with contextlib.suppress(WireError):
            message = receiver.receive(0.01 if data[:1] == b"H" else 2.0)
            assert message is None or isinstance(message, Control)
        liar.close()
        receiver.close()


@settings(relaxed, max_examples=30)
@given(data=st.binary(max_size=30), number=st.integers(0, 2**64 - 1), kind=st.sampled_from([b"G", b"D"]))
def test_answers_on_a_channel(tmp_path: Path, data: bytes, number: int, kind: bytes) -> None:
    """A consumer of whom nothing can be believed."""
    for answer in (data, struct.pack("<cQ", kind, number) + data):
        consumer = End(tmp_path / "d", binds=True)
        sender = Sender(tmp_path / "d", "control")
        End.wait([consumer], 5.0)
        consumer.receive()
        consumer.send(answer)
        with contextlib.suppress(TransportError):
            sender.wait(2.0)
            assert sender.credits >= 0
        sender.close()
        consumer.close()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    make_keys(folder, ["desk"])
    return folder


@settings(relaxed, max_examples=100)
@given(changes=edits, random=st.binary(max_size=60))
def test_keys(keys: Path, tmp_path: Path, changes: Any, random: bytes) -> None:
    own = {name: (keys / name).read_bytes() for name in ("server.key", "token", "desk.key")}
    for name, data in own.items():
        path = tmp_path / name
        path.touch(mode=0o600)
        for damaged in (mutated(data, changes), random):
            path.write_bytes(damaged)
            read = {"server.key": lambda: server_keys(tmp_path), "token": lambda: bearer_token(tmp_path)}
            with contextlib.suppress(UsageError):
                read.get(name, lambda: client_keys(tmp_path / "desk.key"))()


def test_keys_that_mean_harm(tmp_path: Path) -> None:
    path = tmp_path / "x.key"
    path.touch(mode=0o600)
    for data in (b"public = " + DEEP, bytes(1 << 20), b"\xff" * 100):
        path.write_bytes(data)
        with pytest.raises(AustreamError):
            client_keys(path)
