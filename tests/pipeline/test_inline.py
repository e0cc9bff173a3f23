"""The whole chain on real and rendered footage: rows, ledger, limits, determinism, and the Python API."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

import pipeline
from pipeline.config import RunConfig
from pipeline.errors import SourceError, UsageError
from pipeline.inline import Run, run


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_times(row: dict) -> dict:
    return {key: value for key, value in row.items() if key not in ("latency_ms", "wall")}


@pytest.fixture(scope="module")
def real_run(real_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 frames of the real clip through two engines into every kind of file."""
    folder = tmp_path_factory.mktemp("real")
    outs = [str(folder / name) for name in ("r.jsonl", "r.csv", "r.parquet", "r.mp4")]
    # hop 8, so that the temporal engine answers and skips within a few frames
    engines = ("cednn", "satnet")
    done = Run(RunConfig(source=(str(real_clip),), engine=engines, frames=40, hop=8, out=tuple(outs)))
    for _ in done:
        pass
    return folder


def test_rows_of_real_footage(real_run: Path, real_clip: Path) -> None:
    header, *results, ledger = rows_of(real_run / "r.jsonl")
    assert header["type"] == "header"
    assert [e["name"] for e in header["engines"]] == ["cednn", "satnet"]
    assert all(e["trained"] for e in header["engines"])
    assert header["options"]["hop"] == 8
    assert [row["frame"] for row in results] == list(range(40))
    with av.open(str(real_clip)) as container:
        pts = [
            float(frame.pts * frame.time_base)
            for frame, _ in zip(container.decode(video=0), range(40), strict=False)
        ]
    np.testing.assert_allclose([row["pts_seconds"] for row in results], pts, atol=1e-6)
    assert {row["face"] for row in results} == {0}
    assert {row["neutral"] for row in results} == {"estimating"}  # her lids are down: that is no rest
    for row in results:
        assert all(0 <= p <= 1 for p in row["aus"]["cednn"].values())
        assert len(row["aus"]["cednn"]) == 13
        assert 200 < row["quality"]["face_px"] < 300
    assert [i for i, row in enumerate(results) if "satnet" in row["aus"]] == [15, 23, 31, 39]
    assert [row["window"]["state"] for row in results[14:18]] == ["warming", "ready", "off_hop", "off_hop"]
    assert results[23]["window"]["first_pts_seconds"] == pytest.approx(results[8]["pts_seconds"], abs=1e-5)
    assert ledger["type"] == "ledger"
    assert (ledger["captured"], ledger["delivered"], ledger["in_flight"]) == (40, 40, 0)
    assert ledger["skipped_inferences"] == {"warming": 15, "off_hop": 21}
    assert ledger["ended"] == "frame limit"


def test_every_file_tells_the_same(real_run: Path) -> None:
    results = [row for row in rows_of(real_run / "r.jsonl") if row["type"] == "result"]
    with (real_run / "r.cednn.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [int(line["frame"]) for line in lines] == [row["frame"] + 1 for row in results]
    for line, row in zip(lines, results, strict=True):
        assert float(line["timestamp"]) == pytest.approx(row["pts_seconds"], abs=1e-3)
        assert float(line["AU12_c"]) == float("AU12" in row["active"]["cednn"])
    table = pq.read_table(real_run / "r.parquet").to_pylist()
    assert [r["cednn.AU25"] for r in table] == pytest.approx(
        [r["aus"]["cednn"]["AU25"] for r in results], abs=1e-5
    )
    with av.open(str(real_run / "r.mp4")) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == 40
    assert (frames[0].width, frames[0].height) == (640, 360)
    assert sorted(p.name for p in real_run.iterdir()) == [
        "r.cednn.csv",
        "r.jsonl",
        "r.mp4",
        "r.parquet",
        "r.satnet.csv",
    ]


PAPERS = ("cednn", "igc", "satnet", "arl", "iarl", "eacnet", "tranet")


@pytest.mark.skipif(
    os.environ.get("AUSTREAM_SWEEP") != "all",
    reason="seven networks take minutes to compile; AUSTREAM_SWEEP=all runs it",
)
def test_all_papers_engines_answer_together(real_clip: Path) -> None:
    """Each from its own crop of the same faces, as if it ran alone."""
    rows = list(run(str(real_clip), engines=PAPERS, frames=20, hop=4))
    assert len(rows) == 20
    assert all(row["face"] == 0 for row in rows)
    for i, row in enumerate(rows):
        temporal = {"satnet"} if i in (15, 19) else set()
        assert set(row["aus"]) == {*PAPERS} - {"satnet"} | temporal
        for name, aus in row["aus"].items():
            assert len(aus) == 13, name
            assert all(0 <= p <= 1 for p in aus.values()), name
        shares, intensity = row["aus"]["iarl"], row["intensity"]
        assert set(intensity) == {"iarl"}
        assert intensity["iarl"] == pytest.approx({au: 5 * p for au, p in shares.items()}, abs=1e-3)
    for name in PAPERS:
        answers = np.array([list(row["aus"][name].values()) for row in rows if name in row["aus"]])
        assert len(np.unique(answers, axis=0)) > 1, f"{name} says the same of every frame"
    alone = list(run(str(real_clip), engines="tranet", frames=20))
    assert [row["aus"]["tranet"] for row in alone] == [row["aus"]["tranet"] for row in rows]


def test_the_same_frames_give_the_same_rows(real_clip: Path) -> None:
    first, second = (
        [without_times(row) for row in run(str(real_clip), engines="cednn", frames=25)] for _ in range(2)
    )
    assert len(first) == 25
    assert first == second


def test_results_do_not_depend_on_what_comes_later(real_clip: Path) -> None:
    short = [without_times(row) for row in run(str(real_clip), engines="cednn", frames=12)]
    long = [without_times(row) for row in run(str(real_clip), engines="cednn", frames=30)]
    assert long[:12] == short


def test_the_api_of_the_readme(real_clip: Path) -> None:
    seen = [
        row["aus"]["cednn"]["AU12"]
        for row in pipeline.run(source=str(real_clip), engines=["cednn"], frames=3)
    ]
    assert len(seen) == 3


def test_unknown_options_of_the_api_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown option 'engine_name'"):
        run("clip.mp4", engine_name="cednn")


def test_the_header_is_there_before_the_first_row_and_ledgers_after_the_last(real_clip: Path) -> None:
    this = run(str(real_clip), engines="cednn", frames=2)
    assert this.header["sources"][0]["size_wh"] == [640, 360]
    assert this.ledgers == []
    list(this)
    assert [ledger.delivered for ledger in this.ledgers] == [2]


def clip(path: Path, frames: int, rate: int = 25, face: np.ndarray | None = None) -> Path:
    """Plain grey frames, or one picture held, as a small H.264 file."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.time_base = Fraction(1, rate)
        for i in range(frames):
            picture = np.full((240, 320, 3), 90, np.uint8) if face is None else face
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_frames_without_a_face_are_rows_too(tmp_path: Path) -> None:
    this = run(str(clip(tmp_path / "grey.mp4", 7)), engines="cednn")
    rows = list(this)
    assert [(row["frame"], row["face"]) for row in rows] == [(i, None) for i in range(7)]
    assert this.ledgers[0].without_face == this.ledgers[0].delivered == 7


def test_several_sources_one_after_another_into_one_file(tmp_path: Path) -> None:
    for name, frames in (("b2.mp4", 2), ("b10.mp4", 3)):
        clip(tmp_path / name, frames)
    out = tmp_path / "all.jsonl"
    list(run([str(tmp_path / "b*.mp4")], engines="cednn", out=str(out)))
    header, *middle = rows_of(out)
    assert [s["stream"] for s in header["sources"]] == ["b2.mp4", "b10.mp4"]
    assert [(r["type"], r["stream"]) for r in middle if r["type"] == "ledger"] == [
        ("ledger", "b2.mp4"),
        ("ledger", "b10.mp4"),
    ]
    assert [(r["stream"], r["frame"]) for r in middle if r["type"] == "result"] == [
        *(("b2.mp4", i) for i in range(2)),
        *(("b10.mp4", i) for i in range(3)),
    ]


def test_duration_and_loop(tmp_path: Path) -> None:
    path = str(clip(tmp_path / "grey.mp4", 10))
    this = run(path, engines="cednn", duration=0.2)
    assert [row["frame"] for row in this] == [0, 1, 2, 3, 4]
    assert this.ledgers[0].balanced
    assert this.ledgers[0].ended == "duration limit"
    looped = run(path, engines="cednn", loop=True, frames=25)
    rows = list(looped)
    assert [row["frame"] for row in rows] == list(range(25))
    assert [row["epoch"] for row in rows] == [0] * 10 + [1] * 10 + [2] * 5
    assert looped.ledgers[0].captured == looped.ledgers[0].delivered == 25


def test_a_live_source_beside_another_is_refused(tmp_path: Path) -> None:
    this = run(
        [str(clip(tmp_path / f"{name}.mp4", 3)) for name in "ab"], engines="cednn", out=f"{tmp_path}/r.csv"
    )
    this.infos[0] = replace(this.infos[0], live=True)
    with pytest.raises(UsageError, match=r"--inline reads one source after another, and a\.mp4 has no end"):
        list(this)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_a_photo_is_one_frame_and_can_be_the_neutral(tmp_path: Path) -> None:
    from skimage import data

    photo = tmp_path / "astronaut.png"
    cv2.imwrite(str(photo), data.astronaut()[:, :, ::-1])
    (row,) = run(str(photo), engines=["delta", "satnet"], neutral=str(photo))
    assert (row["face"], row["neutral"]) == (0, "given")
    assert row["level_share"]["face"] == 0
    assert row["window"]["state"] == "warming"
    assert "satnet" not in row["aus"]


def test_a_neutral_is_saved_and_used_again(real_clip: Path, tmp_path: Path) -> None:
    saved = tmp_path / "her.npz"
    list(run(str(real_clip), engines="cednn", frames=30, neutral="first:1", save_neutral=str(saved)))
    rows = list(run(str(real_clip), engines="cednn", frames=3, neutral=str(saved)))
    assert [row["neutral"] for row in rows] == ["given"] * 3


def test_a_source_that_fails_on_the_way_keeps_what_came_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.video import VideoSource

    whole = VideoSource.frames

    def breaks(self: VideoSource, *arguments: object):
        for i, frame in enumerate(whole(self, *arguments)):  # type: ignore[arg-type]
            if i == 4:
                # The frame was decoded and counted; it goes back, as if it had never come.
                arguments[0].captured -= 1  # type: ignore[attr-defined]
                raise SourceError("camera gone; check its cable")
            yield frame

    monkeypatch.setattr(VideoSource, "frames", breaks)
    out = tmp_path / "r.jsonl"
    with pytest.raises(SourceError, match="camera gone"):
        list(run(str(clip(tmp_path / "grey.mp4", 10)), engines="cednn", out=str(out)))
    *_, ledger = rows_of(out)
    assert ledger["delivered"] == 4
    assert ledger["ended"] == "camera gone; check its cable"
    assert ledger["balanced"]
