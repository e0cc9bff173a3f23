"""Sliding engines: the right frames in every window, and the full-window network's numbers."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engines import build, cache
from engines.backends.torch import BACKEND as TORCH
from engines.bundle import read_bundle, resolve
from engines.cache import Entry, Parity
from engines.export import ExportedEngine
from engines.networks import build_network
from engines.sliding import Advance, SlidingEngine, Track, load_sliding
from engines.spec import CropSpec
from engines.weights import load_network, save_bundle
from pipeline.errors import EngineError, UsageError
from pipeline.windows import FaceWindow

SPEC = resolve("satnet").spec
NO_ENTRY = Entry(Path(), Parity(0, 0, 0, 1, 1e-5), built=False)


class Recorder:
    """A session whose states are the frames that went in; outputs them."""

    def __init__(self) -> None:
        self.frames = self.steps = 0

    def features(self, crop: np.ndarray) -> int:
        self.frames += 1
        return int(crop.view(np.uint8).ravel()[0])

    def gates(self, features: int) -> int:
        return features

    def step(self, gates: Sequence[int], states: Sequence[Any]) -> list[Any]:
        self.steps += len(gates)
        return [(*(s or ()), g) for g, s in zip(gates, states, strict=True)]

    def head(self, state: Any) -> np.ndarray:
        return np.array(state, np.float32)


def recording() -> tuple[SlidingEngine, Recorder]:
    spec = dataclasses.replace(SPEC, crop=CropSpec("box", 1))
    session = Recorder()
    return SlidingEngine(spec, session, "torch", "fp32", "asked for", NO_ENTRY), session


def pixel(value: int) -> np.ndarray:
    return np.full((1, 1, 3), value, np.uint8)


# A face at a frame: away, there, or there after something that ends its window.
events = st.lists(st.lists(st.sampled_from("-11111111g"), min_size=3, max_size=3), min_size=1, max_size=120)


@settings(max_examples=60, deadline=None)
@given(events, st.integers(1, 3), st.integers(1, 20), st.integers(0, 3))
def test_windows_hold_what_face_windows_hold(script: list[list[str]], every: int, hop: int, lag: int) -> None:
    """Three faces come, go and break off, with up to three frames in work besides the newest; windows and
    states are as FaceWindow has them."""
    engine, session = recording()
    in_work: deque[tuple[list[Advance], list[Any], list[Any]]] = deque()

    def finish_oldest() -> None:
        advances, features, expected = in_work.popleft()
        outputs = engine.finish(advances, features)
        for advance, (info, crops), output in zip(advances, expected, outputs, strict=True):
            assert advance.state == info.state
            assert (output is None) == (crops is None)
            if output is not None:
                assert output.tolist() == crops[:, 0, 0, 0].tolist()
            assert len(advance.track.states) <= every * math.ceil(16 / hop)

    tracks: dict[int, tuple[Track, FaceWindow, int, int]] = {}
    seq = 0
    for n, faces in enumerate(script):
        seq += 1
        pushed, expected = [], []
        for face, event in enumerate(faces):
            if event == "-":
                tracks.pop(face, None)
                continue
            new = (engine.track(every, hop), FaceWindow(16, every, hop), 0, 0)
            track, window, index, epoch = tracks.get(face, new)
            epoch += event == "g"
            crop = pixel((n * 3 + face) % 256)
            pushed.append((track, crop, index, event == "g"))
            expected.append(window.push(crop, epoch, seq, 1, index, n / 25))
            tracks[face] = (track, window, index + 1, epoch)
        advances = engine.begin(pushed)
        features = [
            session.features(crop) if advance.ends else None
            for advance, (_, crop, _, _) in zip(advances, pushed, strict=True)
        ]
        in_work.append((advances, features, expected))
        if len(in_work) > lag:
            finish_oldest()
    while in_work:
        finish_oldest()


def test_nothing_is_computed_that_no_output_needs() -> None:
    engine, session = recording()
    track = engine.track(1, 32)
    for i in range(64):
        assert (engine.push([(track, pixel(i), i, False)])[0] is not None) == (i in (31, 63))
    assert (session.frames, session.steps) == (32, 32)


def test_a_missing_track_index_restarts() -> None:
    engine, _ = recording()
    track = engine.track(1, 1)
    for i in [*range(15), *range(16, 31)]:
        assert engine.push([(track, pixel(i), i, False)]) == [None]
    [output] = engine.push([(track, pixel(31), 31, False)])
    assert output is not None
    assert output.tolist() == list(range(16, 32))


def test_refusals() -> None:
    engine, _ = recording()
    track = engine.track(1, 1)
    with pytest.raises(UsageError, match=r"crop: expected uint8 \(1, 1, 3\), got float32 \(1, 1, 3\)"):
        engine.push([(track, np.zeros((1, 1, 3), np.float32), 0, False)])
    with pytest.raises(UsageError, match="track once"):
        engine.push([(track, pixel(0), 0, False), (track, pixel(0), 0, False)])
    with pytest.raises(UsageError, match="every and hop of 1 or more"):
        engine.track(0, 1)
    assert engine.push([]) == []
    with pytest.raises(UsageError, match="single frames"):
        load_sliding("cednn")
    with pytest.raises(UsageError, match="threads"):
        load_sliding("satnet", threads=0)


# The real network.


class Remembering:
    """A session that computes a frame once, however often it is pushed, to try many hops."""

    def __init__(self, session: Any) -> None:
        self._session, self._known = session, {}
        self.gates, self.step, self.head = session.gates, session.step, session.head

    def features(self, crop: np.ndarray) -> Any:
        key = crop.tobytes()
        if key not in self._known:
            self._known[key] = self._session.features(crop)
        return self._known[key]


@pytest.fixture(scope="module")
def sliding() -> SlidingEngine:
    engine = load_sliding("satnet", "openvino")
    engine.session = Remembering(engine.session)
    return engine


@pytest.fixture(scope="module")
def eager() -> ExportedEngine:
    return ExportedEngine(SPEC, load_network(resolve("satnet")))


def full_window(eager: ExportedEngine, crops: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return eager(torch.from_numpy(np.ascontiguousarray(crops))[None])[0].numpy()


def slide(engine: SlidingEngine, crops: np.ndarray, every: int, hop: int) -> dict[int, np.ndarray]:
    track = engine.track(every, hop)
    outputs = {i: engine.push([(track, crop, i, False)])[0] for i, crop in enumerate(crops)}
    return {i: output for i, output in outputs.items() if output is not None}


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    coarse = np.random.default_rng(3).integers(0, 256, (36, 28, 28, 3), dtype=np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)


@pytest.fixture(scope="module")
def real_crops(real_clip: Path) -> np.ndarray:
    """48 box crops of the real clip, uint8 (48, 224, 224, 3)."""
    from pipeline.faces import FaceStage, Wanted
    from pipeline.messages import Ledger
    from pipeline.neutral import NeutralPolicy
    from pipeline.sources import open_source, resolve_sources

    stage = FaceStage(Wanted((CropSpec("box", 224),)), NeutralPolicy("none"), max_faces=1)
    source = open_source(resolve_sources([str(real_clip)], [])[0])
    try:
        frames = itertools.islice(source.frames(Ledger("clip")), 48)
        return np.stack([stage(frame)[0].crops_bgr["box_224"] for frame in frames])
    finally:
        source.close()
        stage.close()


@pytest.fixture(scope="module")
def at_hop_1(sliding: SlidingEngine, noise: np.ndarray) -> dict[int, np.ndarray]:
    return slide(sliding, noise, 1, 1)


def test_random_crops_at_hop_1(
    at_hop_1: dict[int, np.ndarray], eager: ExportedEngine, noise: np.ndarray
) -> None:
    assert list(at_hop_1) == list(range(15, 36))
    for end in (15, 16, 25, 35):
        np.testing.assert_allclose(at_hop_1[end], full_window(eager, noise[end - 15 : end + 1]), atol=1e-5)
    assert np.ptp(list(at_hop_1.values()), axis=0).max() > 0.01


@pytest.mark.parametrize("hop", range(2, 17))
def test_every_hop_gives_the_outputs_of_hop_1(
    sliding: SlidingEngine, noise: np.ndarray, at_hop_1: dict[int, np.ndarray], hop: int
) -> None:
    """To the bit: what else is in flight changes nothing."""
    outputs = slide(sliding, noise, 1, hop)
    assert list(outputs) == [i for i in range(15, 36) if (i + 1) % hop == 0]
    assert all(np.array_equal(output, at_hop_1[i]) for i, output in outputs.items())


@pytest.mark.parametrize(("every", "hop", "ends"), [(1, 4, (23, 47)), (2, 3, (32, 47)), (3, 2, (45, 47))])
def test_real_crops(
    sliding: SlidingEngine,
    eager: ExportedEngine,
    real_crops: np.ndarray,
    every: int,
    hop: int,
    ends: tuple[int, ...],
) -> None:
    outputs = slide(sliding, real_crops, every, hop)
    for end in ends:
        window = real_crops[end - 15 * every : end + 1 : every]
        np.testing.assert_allclose(outputs[end], full_window(eager, window), atol=1e-5)


def test_company_and_restarts_change_nothing(
    sliding: SlidingEngine, noise: np.ndarray, at_hop_1: dict[int, np.ndarray]
) -> None:
    """Three faces at different frames of the same crops, one of which breaks off and begins again."""
    tracks = [sliding.track(1, 1) for _ in range(3)]
    seen = 0
    for n in range(34):
        starts = (0, 2, 0 if n < 7 else 7)  # the third face's crops begin anew at frame 7
        outputs = sliding.push(
            [
                (track, noise[n - start], n, n == start)
                for track, start in zip(tracks, starts, strict=True)
                if n >= start
            ]
        )
        for start, output in zip([s for s in starts if n >= s], outputs, strict=True):
            assert (output is None) == (n - start < 15)
            if output is not None:
                assert np.array_equal(output, at_hop_1[n - start])
                seen += 1
    assert seen == 19 + 17 + 12


def test_the_torch_backend(eager: ExportedEngine, noise: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "compare", lambda *_: Parity(0, 0, 0, 1, 1e-5))  # done below
    engine = load_sliding("satnet", "torch")
    outputs = slide(engine, noise[:18], 1, 18)
    assert list(outputs) == [17]
    np.testing.assert_allclose(outputs[17], full_window(eager, noise[2:18]), atol=1e-6)


def test_another_temporal_variant(tmp_path: Path, noise: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "compare", lambda *_: Parity(0, 0, 0, 1, 1e-5))  # done below
    spec = dataclasses.replace(SPEC, name="tnet", variant={"variant": "tnet"})
    torch.manual_seed(0)
    save_bundle(tmp_path / "tnet", spec, build_network(spec).state_dict())
    engine = load_sliding(tmp_path / "tnet", "openvino")
    whole = ExportedEngine(spec, load_network(read_bundle(tmp_path / "tnet")))
    outputs = slide(engine, noise[:16], 1, 16)
    np.testing.assert_allclose(outputs[15], full_window(whole, noise[:16]), atol=1e-5)


# In the cache.


def test_parity_is_stored_and_loading_again_compiles_nothing(sliding: SlidingEngine) -> None:
    said: list[str] = []
    again = load_sliding("satnet", "openvino", log=said.append)
    assert said == []
    assert again.parity == sliding.parity
    assert 0 < sliding.parity.max_abs <= sliding.parity.tolerance == 1e-5
    assert sliding.parity.decisions == 5 * len(SPEC.aus)
    assert again.folder.name.startswith("satnet-sliding-openvino-fp32-")


def test_a_damaged_entry_is_built_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUSTREAM_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(build, "compare", lambda *_: Parity(0, 0, 0, 1, 1e-5))
    said: list[str] = []
    engine = load_sliding("satnet", "torch", log=said.append)
    (engine.folder / "weights.safetensors").write_bytes(b"")
    load_sliding("satnet", "torch", log=said.append)
    kinds = [next(k for k in ("damaged", "compiling", "sliding (torch, fp32): max") if k in s) for s in said]
    built = ["compiling", "sliding (torch, fp32): max"]
    assert kinds == [*built, "damaged", *built]


def test_parity_is_enforced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build, "compare", lambda *_: Parity(2e-5, 0, 0, 1, 1e-5))
    with pytest.raises(EngineError, match=r"satnet, sliding \(torch, fp32\).*max 2\.0e-05"):
        build.build_sliding(resolve("satnet"), TORCH, "fp32", tmp_path)


def test_the_key_covers_the_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sources = tmp_path / "engines"
    shutil.copytree(cache._HERE, sources, ignore=shutil.ignore_patterns("__pycache__", "bundled"))
    monkeypatch.setattr(cache, "_HERE", sources)
    bundle = resolve("satnet")
    keys = [
        cache.entry_key(bundle, "openvino", "fp32"),
        cache.entry_key(bundle, "openvino", "fp32", "sliding"),
    ]
    for name in ("winograd.py", "convlstm.py"):
        (sources / name).write_text((sources / name).read_text() + "\n# changed")
        keys.append(cache.entry_key(bundle, "openvino", "fp32", "sliding"))
        assert cache.entry_key(bundle, "openvino", "fp32") == keys[0]
    monkeypatch.setattr(cache, "installed_version", lambda package: None if package == "numba" else "1")
    keys.append(cache.entry_key(bundle, "openvino", "fp32", "sliding"))
    assert len(set(keys)) == len(keys)


def test_streaming_from_a_warm_cache_imports_no_torch(
    noise: np.ndarray, at_hop_1: dict[int, np.ndarray], tmp_path: Path
) -> None:
    np.save(tmp_path / "crops.npy", noise[:16])
    code = f"""
import json, sys
import numpy as np
from engines.sliding import load_sliding
engine = load_sliding("satnet", "openvino")
track = engine.track(1, 1)
for i, crop in enumerate(np.load({str(tmp_path / "crops.npy")!r})):
    [output] = engine.push([(track, crop, i, False)])
print(json.dumps(["torch" in sys.modules, output.tolist()]))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    torch_imported, output = json.loads(done.stdout)
    assert torch_imported is False
    assert done.stderr == ""
    assert np.array_equal(np.float32(output), at_hop_1[15])  # from run to run
