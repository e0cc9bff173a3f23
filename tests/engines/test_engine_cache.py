"""The cache of compiled engines, with a build that only writes two files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from engines import cache
from engines.bundle import Bundle, read_bundle, resolve
from engines.cache import Entry, Parity
from engines.gpu import GPU
from pipeline.errors import EngineError

PARITY = Parity(1e-6, 1e-7, 0, 13, 1e-4)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUSTREAM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


def build(folder: Path) -> Parity:
    (folder / "model.xml").write_text("<net/>")
    (folder / "model.bin").write_bytes(bytes(1000))
    return PARITY


def get(log: Callable[[str], None] = print, make: Callable[[Path], Parity] = build) -> Entry:
    return cache.entry(resolve("cednn"), "openvino", "fp32", make, log)


def test_built_once(own_cache: Path) -> None:
    first, second = get(), get()
    assert (first.built, second.built) == (True, False)
    assert first.folder == second.folder
    assert second.parity == PARITY
    assert [p for p in own_cache.iterdir() if not p.name.endswith(".lock")] == [first.folder]


def flip_a_byte(folder: Path) -> None:
    content = bytearray((folder / "model.bin").read_bytes())
    content[500] ^= 1
    (folder / "model.bin").write_bytes(content)


def become_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


def edit_entry(folder: Path, **changes: object) -> None:
    path = folder / "entry.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flip_a_byte, "model.bin was changed"),
        (lambda f: (f / "model.bin").write_bytes(bytes(999)), "model.bin was changed"),
        (lambda f: (f / "model.xml").unlink(), "model.xml: missing"),
        (lambda f: (f / "entry.json").unlink(), "entry.json: No such file"),
        (lambda f: (f / "entry.json").write_text("{"), "entry.json cannot be read"),
        (lambda f: (f / "entry.json").write_text("[]"), "entry.json cannot be read"),
        (lambda f: (f / "entry.json").write_text("[" * 200_000), "entry.json cannot be read"),
        (lambda f: edit_entry(f, parity={}), "entry.json was changed"),
        (lambda f: edit_entry(f, parity=asdict(PARITY) | {"max_abs": 0.0}), "entry.json was changed"),
        (lambda f: edit_entry(f, files={}), "entry.json was changed"),
        (lambda f: edit_entry(f, sha256=None), "entry.json was changed"),
        (lambda f: (f / "frame.xml").write_text(""), "frame.xml: missing, or not of this engine"),
        (lambda f: edit_entry(f, key="0"), "another engine"),
        (lambda f: edit_entry(f, schema=cache.SCHEMA + 1), "another engine"),
        (become_a_file, "Not a directory"),
    ],
)
def test_damage_is_repaired_and_said(damage: Callable[[Path], object], said: str) -> None:
    folder = get().folder
    damage(folder)
    lines: list[str] = []
    repaired = get(lines.append)
    assert repaired.built
    assert len(lines) == 1
    assert said in lines[0]
    assert "building it again" in lines[0]
    assert (folder / "model.bin").read_bytes() == bytes(1000)
    assert not get().built


def test_a_failed_build_leaves_nothing(own_cache: Path) -> None:
    def fail(folder: Path) -> Parity:
        (folder / "model.xml").write_text("half")
        raise EngineError("no")

    with pytest.raises(EngineError, match="no"):
        get(make=fail)
    assert [p.suffix for p in own_cache.iterdir()] == [".lock"]


def test_leftovers_of_a_killed_build_go(own_cache: Path) -> None:
    folder = get().folder
    shutil.rmtree(folder)
    (own_cache / f".{folder.name}.building" / "new").mkdir(parents=True)
    (own_cache / f".{folder.name}.building" / "new" / "junk").write_text("")
    assert get().built
    assert sorted(p.name for p in folder.iterdir()) == ["entry.json", "model.bin", "model.xml"]
    assert not (own_cache / f".{folder.name}.building").exists()


def test_two_processes_build_once() -> None:
    code = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_engine_cache as t
def slow(folder):
    time.sleep(0.7)
    return t.build(folder)
print(t.get(make=slow).built)
"""
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert sorted(process.communicate(timeout=60)[0].strip() for process in both) == ["False", "True"]


def test_an_unwritable_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUSTREAM_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(EngineError, match=r"cannot write the engine cache.*AUSTREAM_CACHE_DIR"):
        get()


def test_the_users_cache_folder_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AUSTREAM_CACHE_DIR")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / name))
    assert cache.cache_folder() == tmp_path / "austream" / "engines"


def test_the_key_covers_what_the_engine_depends_on(
    write_bundle: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = tmp_path / "engines"
    shutil.copytree(cache._HERE, sources, ignore=shutil.ignore_patterns("__pycache__", "bundled"))
    monkeypatch.setattr(cache, "_HERE", sources)
    bundle = read_bundle(write_bundle("one"))

    def key(of: Bundle = bundle, backend: str = "openvino", precision: str = "fp32") -> str:
        return cache.entry_key(of, backend, precision)

    first = key()
    keys = [first, key(precision="fp16"), key(backend="torch")]
    keys.append(key(read_bundle(write_bundle("seed", weights={"random_seed": 1}))))
    keys.append(key(read_bundle(write_bundle("thresholds", thresholds=[0.4] * 13))))
    touched = ("networks/cednn.py", "networks/layers.py", "export.py", "build.py", "backends/openvino.py")
    for name in touched:
        path = sources / name
        path.write_text((path.read_text() if path.exists() else "") + "\n# changed")
        keys.append(key())
    real = cache.installed_version
    for package in ("openvino", "torch"):
        with monkeypatch.context() as patch:
            patch.setattr(cache, "installed_version", lambda p, new=package: "0" if p == new else real(p))
            keys.append(key())
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_machine", lambda: "another CPU")
        keys.append(key())
    keys.append(cache.entry_key(bundle, "openvino", "fp32", batch=8))
    keys += [key(backend=name) for name in ("onnxruntime", "inductor", "tensorrt")]
    for gpu in (GPU("H100", "9.0", "13.0"), GPU("H200", "9.0", "13.0"), GPU("H100", "9.0", "13.1")):
        with monkeypatch.context() as patch:
            patch.setattr(cache, "nvidia_gpu", lambda there=gpu: there)
            keys += [key(backend=name) for name in ("inductor", "tensorrt")]
    with monkeypatch.context() as patch:
        patch.setattr(cache, "installed_version", lambda p: "11.1" if p.startswith("tensorrt") else real(p))
        keys.append(key(backend="tensorrt"))
    assert len(set(keys)) == len(keys)
    unrelated = sources / "networks" / "satnet.py"
    before = key()
    unrelated.write_text(unrelated.read_text() + "\n# changed")
    assert key() == before
