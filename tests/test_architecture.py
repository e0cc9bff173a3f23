"""Imports go one way, and what ARCHITECTURE.md shows is there."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = [p for top in ("pipeline", "engines", "train", "bench") for p in (ROOT / top).rglob("*.py")]


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def offenders(paths: list[Path], *forbidden: str) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in imports(path)
        if any(name == f or name.startswith(f + ".") for f in forbidden)
    ]


def under(*parts: str) -> list[Path]:
    return [p for p in MODULES if p.relative_to(ROOT).as_posix().startswith("/".join(parts))]


def test_engines_know_of_the_pipeline_only_its_errors_and_how_it_writes() -> None:
    allowed = ("pipeline.errors", "pipeline.whole")
    names = {n for p in under("engines") for n in imports(p) if n.startswith("pipeline.")}
    known = tuple(f"{name}." for name in allowed)
    assert {n for n in names if n not in allowed and not n.startswith(known)} == set()


def test_nothing_below_imports_train_but_the_demo_source() -> None:
    wrong = offenders(under("pipeline") + under("engines"), "train")
    kept = ("pipeline/sources.py imports train.synth.demo", "engines/__main__.py imports train.calibration")
    assert [w for w in wrong if not w.startswith(kept)] == []


def test_nothing_imports_bench_but_itself() -> None:
    assert offenders(under("pipeline") + under("engines") + under("train"), "bench") == []


def test_only_sockets_imports_zmq() -> None:
    assert offenders([p for p in MODULES if p.name != "sockets.py"], "zmq") == []


def test_nothing_can_unpickle() -> None:
    assert offenders(MODULES, "pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal") == []
    text = "".join(p.read_text(encoding="utf-8") for p in MODULES)
    assert "allow_pickle=True" not in text
    assert "torch.load(" not in text


@pytest.mark.parametrize(
    "module", ["pipeline.sources", "pipeline.faces", "pipeline.inline", "engines.runtime"]
)
def test_the_streaming_path_starts_without_torch(module: str) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_architecture_page_names_every_module() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    missing = [p.stem for p in MODULES if p.name not in ("__init__.py", "__main__.py") and p.stem not in page]
    assert missing == []
