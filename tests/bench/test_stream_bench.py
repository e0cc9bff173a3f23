"""`bench stream`: what it refuses before it measures, and its rows. Nothing is timed here."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from bench import stream
from bench.__main__ import main
from bench.stream import Measured


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--engines", "igc", "--precision", "int8"],
            "bench: igc: no INT8 form, its bundle has no int8.json; make one:",
        ),
        (
            ["--engines", "delta", "--engines", "delta,igc", "--precision", "int8"],
            "bench: igc: no INT8",
        ),
        (["--engines", "delta,nobody"], "bench: unknown engine 'nobody'"),
        (["--precision", "int3"], "bench: unknown precision 'int3'"),
    ],
)
def test_what_cannot_be_had_is_one_line_before_anything_is_measured(
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AUSTREAM_CACHE_DIR", str(tmp_path))  # no forms calibrated here
    monkeypatch.setattr(stream, "_ours", lambda *_, **__: pytest.fail("it measures"))
    assert main(["stream", "--source", "x.mp4", *arguments]) in (1, 2)
    error = capsys.readouterr().err
    assert error.startswith(said)
    assert error.count("\n") == 1


def test_rows_beside_the_naive_program_and_without() -> None:
    asked = Namespace(precision="int8", hop=4)
    slow, fast = [Measured(100, 10.0)], [Measured(100, 2.0)]
    rows = stream._rows("cednn", asked, slow, fast, fast)
    assert [(row["program"], row["faster_than_naive"]) for row in rows] == [
        ("naive", 1.0), ("austream --inline", 5.0), ("austream", 5.0),
    ]  # fmt: skip
    rows = stream._rows("delta", asked, [], fast, fast)
    assert [(row["program"], row["fps"], row["faster_than_naive"]) for row in rows] == [
        ("austream --inline", 50.0, None), ("austream", 50.0, None),
    ]  # fmt: skip
