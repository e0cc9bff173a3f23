from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.feeds import RtspServer
from bench.many_feeds import _SHOWN
from pipeline.errors import RunError


def test_what_is_shown_of_the_metrics_page() -> None:
    page = """\
# HELP austream_frames_captured_total Frames decoded
austream_frames_captured_total{stream="a"} 3.0
austream_frames_captured_created{stream="a"} 1e9
austream_frames_dropped_total{reason="stride",stage="capture",stream="a"} 1.0
austream_reconnects_total{stream="a"} 0.0
austream_frame_latency_seconds_bucket{le="0.1"} 5.0"""
    shown = [line for line in page.splitlines() if _SHOWN.match(line)]
    assert shown == [page.splitlines()[i] for i in (1, 3, 4)]


def test_a_wrong_duration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["many_feeds", "--duration", "long"]) == 2
    assert "--duration long: expected a time such as" in capsys.readouterr().err


def test_two_feeds_of_a_clip_at_once(
    real_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        RtspServer().close()
    except RunError as error:
        pytest.skip(str(error))
    report = tmp_path / "report.json"
    words = [
        "--source",
        str(real_clip),
        "--feeds",
        "2",
        "--duration",
        "4s",
        "--rate",
        "8",
        "--size",
        "320x180",
    ]
    plot = tmp_path / "plot.png"
    rc = main(["many_feeds", *words, "--engine", "cednn", "--json", str(report), "--plot", str(plot)])
    first, second, page, blame = json.loads(report.read_text())["rows"]
    assert (rc, blame["to_blame"]) == (0, [])
    assert first["feed"] != second["feed"]
    for row in (first, second):
        assert row["balanced"]
        assert 0 < row["delivered"] <= row["captured"]
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert any(f'captured_total{{stream="{row["feed"]}"}}' in line for line in page["metrics"])
    assert plot.stat().st_size > 1000
    assert "to blame: nothing" in capsys.readouterr().out
