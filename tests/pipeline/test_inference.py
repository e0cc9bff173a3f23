"""The infer stage with a stand-in for the engines: who is asked what, when, and what the ledger says."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from engines.gpu import GPU
from engines.runtime import load_engine
from engines.sliding import load_sliding
from engines.spec import CropSpec, EngineSpec
from pipeline import inference
from pipeline.config import RunConfig
from pipeline.inference import InferStage, Pending, auto_hop, load_engines
from pipeline.messages import AUResult, FaceCrop, Geometry, HeadPose, Ledger, Quality, Stamp


class CountingEngine:
    """Answers with the mean of the pixels it gets, so that a mix-up of faces or frames shows."""

    backend = "openvino"

    def __init__(self, name: str, window: int, level_map: bool) -> None:
        self.spec = EngineSpec(
            name=name,
            network="cednn",
            variant={},
            crop=CropSpec("box", 224) if window > 1 else CropSpec("five_point", 224),
            level_map=level_map,
            window=window,
            rate_hz=25.0 if window > 1 else None,
            aus=("AU01", "AU12"),
            thresholds=(0.5, 0.2),
            provenance={"trained": "test"},
        )
        self.asked: list[tuple[tuple[int, ...], bool]] = []
        self.centers: np.ndarray | None = None

    def run(
        self, crops: np.ndarray, level_map: np.ndarray | None = None, au_centers: np.ndarray | None = None
    ) -> np.ndarray:
        self.asked.append((crops.shape, level_map is not None))
        self.centers = au_centers
        means = crops.reshape(len(crops), -1).mean(1) / 255
        return np.stack([means, means], axis=1).astype(np.float32)


def crop_of(face: int, value: int, track_index: int) -> FaceCrop:
    picture = np.full((224, 224, 3), value, np.uint8)
    return FaceCrop(
        face=face,
        track_index=track_index,
        bbox_xyxy=(0.0, 0.0, 10.0, 10.0),
        confidence=1.0,
        landmarks_px=np.zeros((478, 3), np.float32),
        pose=HeadPose(0, 0, 0),
        quality=Quality(10, 0, 1, True),
        geometry=Geometry(0.3, 0, 0.5, 0, 0.2, 0.3, 0.7),
        neutral="none",
        exposure_gain=1.0,
        exposure_offset=0.0,
        crops_bgr={"five_point_224": picture, "box_224": picture},
        level_map=np.zeros((224, 224), np.uint8),
        level_shares=None,
    )


def stamp_of(seq: int) -> Stamp:
    return Stamp("clip", 0, seq, seq / 25, 0.0, 0.0)


def test_each_face_gets_its_own_probabilities_and_active_aus() -> None:
    engine = CountingEngine("one", 1, True)
    results = InferStage([engine], 25.0, 1)(
        stamp_of(0), [crop_of(3, 102, 0), crop_of(7, 204, 0)], 1, Ledger("clip")
    )
    assert [r.crop.face for r in results] == [3, 7]
    assert results[0].aus == {"one": {"AU01": pytest.approx(0.4), "AU12": pytest.approx(0.4)}}
    assert results[0].active == {"one": ("AU12",)}
    assert results[1].active == {"one": ("AU01", "AU12")}
    assert engine.asked == [((1, 224, 224, 3), True)] * 2


def test_intensities_come_beside_their_shares() -> None:
    engine = CountingEngine("one", 1, False)
    engine.spec = replace(engine.spec, max_intensity=5.0)
    plain = CountingEngine("two", 1, False)
    (result,) = InferStage([engine, plain], 25.0, 1)(stamp_of(0), [crop_of(0, 102, 0)], 1, Ledger("clip"))
    assert result.intensity == {"one": {"AU01": pytest.approx(2.0), "AU12": pytest.approx(2.0)}}
    assert result.aus["one"] == result.aus["two"]
    assert result.row()["intensity"] == {"one": {"AU01": 2.0, "AU12": 2.0}}


def test_tracked_landmarks_become_au_centres() -> None:
    """As shares of the engine's own crop: a point in the middle of the box is half way across."""
    engine = CountingEngine("one", 1, False)
    engine.spec = replace(engine.spec, crop=CropSpec("box", 224), au_centers=True)
    points = np.zeros((478, 3), np.float32)
    points[:, :2] = 100, 60
    points[61, :2] = 88, 84  # a mouth corner
    crop = replace(crop_of(0, 9, 0), landmarks_px=points, bbox_xyxy=(80.0, 40.0, 120.0, 80.0))
    InferStage([engine], 25.0, 1)(stamp_of(0), [crop], 1, Ledger("clip"))
    assert engine.centers is not None
    assert (engine.centers.shape, engine.centers.dtype) == ((1, 20, 2), np.float32)
    np.testing.assert_allclose(engine.centers[0, 0], [0.5, 0.5], atol=1e-6)
    # The box's 40 px and a tenth on each side make the crop: 48 px.
    np.testing.assert_allclose(engine.centers[0, 12], [0.5 - 12 / 48, 0.5 + 24 / 48], atol=1e-6)


def test_a_frame_without_a_face_is_one_result_and_counted() -> None:
    ledger = Ledger("clip")
    engine = CountingEngine("one", 1, False)
    (result,) = InferStage([engine], 25.0, 1)(stamp_of(0), [], 1, ledger)
    assert result.crop is None
    assert result.row()["face"] is None
    assert ledger.without_face == 1
    assert engine.asked == []


def test_the_temporal_engine_answers_on_the_hop_and_the_ledger_counts_the_rest() -> None:
    engine = CountingEngine("slow", 16, False)
    stage, ledger = InferStage([engine], 25.0, 4), Ledger("clip")
    states = []
    for i in range(32):
        (result,) = stage(stamp_of(i), [crop_of(0, i, i)], 1, ledger)
        states.append(result.window.state)
        if result.window.state == "ready":
            assert result.aus["slow"]["AU01"] == pytest.approx(np.mean(range(i - 15, i + 1)) / 255, rel=1e-5)
        else:
            assert "slow" not in result.aus
    assert states == ["warming"] * 15 + ["ready", "off_hop", "off_hop", "off_hop"] * 4 + ["ready"]
    assert ledger.skipped_inferences == {"warming": 15, "off_hop": 12}


def test_a_face_that_misses_a_frame_starts_its_window_anew_and_others_go_on() -> None:
    engine = CountingEngine("slow", 16, False)
    stage, ledger = InferStage([engine], 25.0, 1), Ledger("clip")
    for i in range(20):
        crops = [crop_of(0, 10, i)] + ([] if i == 10 else [crop_of(1, 200, i - (i > 10))])
        results = stage(stamp_of(i), crops, 1, ledger)
    assert [r.window.state for r in results] == ["ready", "warming"]


def test_frame_rate_60_takes_every_second_frame() -> None:
    engine = CountingEngine("slow", 16, False)
    stage, ledger = InferStage([engine], 60.0, 1), Ledger("clip")
    for i in range(31):
        (result,) = stage(stamp_of(i), [crop_of(0, i, i)], 1, ledger)
    assert result.window.every == 2
    assert result.window.state == "ready"
    assert result.aus["slow"]["AU01"] == pytest.approx(np.mean(range(0, 31, 2)) / 255, rel=1e-5)


def test_an_engine_that_reads_the_level_map_needs_one() -> None:
    stage = InferStage([CountingEngine("one", 1, True)], 25.0, 1)
    with pytest.raises(ValueError, match="level_map: expected one"):
        stage(stamp_of(0), [replace(crop_of(0, 1, 0), level_map=None)], 1, Ledger("clip"))


def test_a_new_stride_starts_windows_anew_with_a_spacing_of_their_own() -> None:
    engine = CountingEngine("slow", 16, False)
    stage, ledger = InferStage([engine], 60.0, 1), Ledger("clip")
    for i in range(31):
        (result,) = stage(stamp_of(i), [crop_of(0, i, i)], 1, ledger)
    assert (result.window.state, result.window.every) == ("ready", 2)
    states = []
    for k in range(1, 20):
        (result,) = stage(stamp_of(30 + 2 * k), [crop_of(0, 30 + 2 * k, 30 + k)], 2, ledger)
        states.append(result.window.state)
    assert result.window.every == 1
    assert states == ["warming"] * 15 + ["ready"] * 4
    assert result.aus["slow"]["AU01"] == pytest.approx(np.mean(range(38, 70, 2)) / 255, rel=1e-5)


def test_sliding_and_recomputing_give_the_same_rows_across_lost_faces_and_gaps() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (60, 224, 224, 3), dtype=np.uint8)
    slow, fast = load_engine("satnet"), load_sliding("satnet")
    rows = []
    for engine in (slow, fast):
        stage, ledger = InferStage([engine], 25.0, 7), Ledger("clip")
        results = []
        seq, begun = 0, {0: 0, 1: 5}
        for i in range(60):
            seq += 1 if i != 20 else 2  # a gap
            faces = [f for f in (0, 1) if i >= begun[f] and not (f == 1 and i == 33)]
            crops = [
                replace(crop_of(f, 0, i - begun[f]), crops_bgr={"box_224": pictures[(i + 11 * f) % 60]})
                for f in faces
            ]
            results += stage(stamp_of(seq), crops, 1, ledger)
        rows.append((results, ledger))
    (recomputed, ledger_a), (slid, ledger_b) = rows
    assert ledger_a.skipped_inferences == ledger_b.skipped_inferences
    assert [r.window for r in slid] == [r.window for r in recomputed]
    answered = [(a, b) for a, b in zip(recomputed, slid, strict=True) if "satnet" in a.aus]
    assert len(answered) >= 4
    for a, b in answered:
        assert set(b.aus) == {"satnet"}
        np.testing.assert_allclose(list(b.aus["satnet"].values()), list(a.aus["satnet"].values()), atol=2e-5)


def test_a_gpus_batch_has_room_for_the_faces_of_all_feeds_in_work(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(inference, "load_engine", lambda *_, faces, **__: asked.append(faces))
    feeds = tuple(f"rtsp://camera-{n}/" for n in range(9))
    for source, camera in (
        (("a.mp4", "b.mp4"), ()),
        (feeds[:1], (0,)),
        ((*feeds[:2], "a.mp4"), ()),
        (feeds, ()),
    ):
        load_engines(RunConfig(source=source, camera=camera, max_faces=5), print)
    assert asked == [5, 10, 10, 15]  # of 9 feeds three frames are in work at a time


def test_the_hop_is_a_gpus_only_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "nvidia_gpu", lambda: None)
    assert auto_hop(["inductor"]) == auto_hop(["openvino"]) == auto_hop([]) == 4
    monkeypatch.setattr(inference, "nvidia_gpu", lambda: GPU("NVIDIA H100", "9.0", "13.0"))
    assert auto_hop(["inductor"]) == auto_hop(["inductor", "tensorrt"]) == 1
    assert auto_hop(["inductor", "openvino"]) == auto_hop([]) == 4


def test_streams_side_by_side_get_the_results_of_each_alone() -> None:
    """Two streams take turns at the same engines, three frames in work at a time, as in the infer stage."""
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 256, (2, 26, 224, 224, 3), dtype=np.uint8)
    engines = [load_sliding("satnet")]

    def crops(stream: int, i: int) -> list[FaceCrop]:
        picture = pictures[stream, i]
        return [replace(crop_of(0, 0, i), crops_bgr={"box_224": picture})]

    def stamp(stream: int, seq: int) -> Stamp:
        return replace(stamp_of(seq), stream=f"stream {stream}")

    alone = []
    for stream in (0, 1):
        stage = InferStage(engines, 25.0, 3)
        alone.append([stage(stamp(stream, i), crops(stream, i), 1, Ledger("s"))[0] for i in range(26)])

    # A turn each, and now and then several for one of them, as frames come.
    turns = rng.permutation([0] * 26 + [1] * 26)
    with ThreadPoolExecutor(2) as workers:
        stages = [InferStage(engines, 25.0, 3, workers) for _ in (0, 1)]
        together: list[list[AUResult]] = [[], []]
        in_work: deque[tuple[int, Pending]] = deque()
        begun = [0, 0]
        for stream in turns:
            i = begun[stream]
            begun[stream] += 1
            pending = stages[stream].begin(stamp(stream, i), crops(stream, i), 1, Ledger("s"))
            in_work.append((stream, pending))
            if len(in_work) == 3:
                first, oldest = in_work.popleft()
                together[first] += stages[first].finish(oldest)
        for stream, pending in in_work:
            together[stream] += stages[stream].finish(pending)

    for mine, others in zip(together, alone, strict=True):
        assert [r.stamp for r in mine] == [r.stamp for r in others]
        assert [r.window for r in mine] == [r.window for r in others]
        answered = [(a.aus["satnet"], b.aus["satnet"]) for a, b in zip(mine, others, strict=True) if a.aus]
        assert len(answered) >= 3
        for a, b in answered:
            np.testing.assert_allclose(list(a.values()), list(b.values()), atol=1e-6)
