"""Sample folders are written whole, read back exactly, and refuse what is no sample folder."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patterns import CROPS, clips, shard, stills, writer
from torch.utils.data import DataLoader, Dataset

from pipeline.errors import OutputError, SourceError, UsageError
from train.samples import Samples

AUS = ("AU01", "AU12")


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    first, second = shard(5, 2, seed=1), shard(3, 2, seed=2)
    made = writer(tmp_path, AUS)
    made.write_shard("a", first)
    made.write_shard("b", second)
    made.finish()
    samples = Samples.open(tmp_path)
    assert (len(samples), samples.aus, samples.rate_hz, samples.source) == (8, AUS, 25.0, "synthetic")
    rows = [7, 0, 4, 5, 0]
    for name in CROPS:
        whole = np.concatenate((first[name], second[name]))
        assert np.array_equal(samples.crop(name, rows), whole[rows])
    whole = np.concatenate((first["level_map"], second["level_map"]))
    assert np.array_equal(samples.level_map(rows), whole[rows])
    assert np.array_equal(samples.occurrence, np.concatenate((first["occurrence"], second["occurrence"])))
    assert samples.crop("box_224", []).shape == (0, 224, 224, 3)
    assert list(samples.subjects) == [0, 1]


def test_neutrals_belong_to_their_own_shard(tmp_path: Path) -> None:
    stills(tmp_path, 12)
    second = shard(6, 2, seed=1)
    faces, points, there = Samples.open(tmp_path).neutral([6, 7])  # rows 0 and 1 of the second shard
    assert list(there) == [False, True]
    assert not faces[0].any()
    assert np.array_equal(faces[1], second["neutrals"][second["neutral"][1]])
    assert np.array_equal(points[1], second["neutral_points"][second["neutral"][1]])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 12)), min_size=1, max_size=40, unique=True),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_windows_are_consecutive_frames_of_one_clip(
    rows: list[tuple[int, int]], length: int, stride: int
) -> None:
    sequence, frame = (np.array(column, np.int32) for column in zip(*rows, strict=True))
    samples = Samples(
        Path(),
        "x",
        AUS,
        CROPS,
        25.0,
        {},
        ("s",),
        np.array([0, len(rows)]),
        {"sequence": sequence, "frame": frame},
    )
    where = {pair: row for row, pair in enumerate(rows)}
    wanted = []
    for clip in range(4):  # every run of frames without a gap, walked frame by frame
        for begin in range(13):
            if (clip, begin) in where and (clip, begin - 1) not in where:
                end = next(k for k in range(begin, 99) if (clip, k) not in where)
                begins = [at for at in range(begin, end, stride) if at + length <= end]
                wanted += [[where[clip, at + k] for k in range(length)] for at in begins]
    found = samples.windows(length, stride)
    assert found.shape == (len(wanted), length)
    assert sorted(found.tolist()) == sorted(wanted)


def test_windows_go_on_from_shard_to_shard(tmp_path: Path) -> None:
    made = writer(tmp_path, AUS)
    for name, begin in (("a", 0), ("b", 5)):
        made.write_shard(name, shard(5, 2, sequence=np.zeros(5), frame=np.arange(begin, begin + 5)))
    made.finish()
    assert Samples.open(tmp_path).windows(8, 1).tolist() == [
        list(range(8)),
        list(range(1, 9)),
        list(range(2, 10)),
    ]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("five_point_224", lambda a: a[:, :100]),
        ("level_map", lambda a: a.astype(np.int32)),
        ("level_map", lambda a: np.full_like(a, 6)),
        ("level_map", lambda a: np.ones_like(a)),  # also where there is no neutral
        ("occurrence", lambda a: np.full_like(a, 2)),
        ("intensity", lambda a: a + 5.5),
        ("neutral", lambda a: np.full_like(a, 3)),
        ("points", lambda a: np.full_like(a, np.nan)),
        ("subject", lambda a: a[:-1]),
    ],
)
def test_a_wrong_array_is_named(
    tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    made = writer(tmp_path, AUS)
    arrays = shard(4, 2)
    arrays[name] = change(arrays[name])
    wrong = name if name != "subject" else "level_map"  # n is what subject says
    with pytest.raises(ValueError, match=f"shard bad: {wrong}: expected"):
        made.write_shard("bad", arrays)
    assert not made.has_shard("bad")
    assert list((tmp_path / "shards").iterdir()) == []


def test_missing_and_unknown_arrays_are_named(tmp_path: Path) -> None:
    arrays = shard(4, 2)
    arrays["gaze"] = arrays.pop("exposure")
    with pytest.raises(ValueError, match=r"missing arrays \['exposure'\], unknown arrays \['gaze'\]"):
        writer(tmp_path, AUS).write_shard("bad", arrays)


def test_unknown_labels_pass(tmp_path: Path) -> None:
    arrays = shard(4, 2)
    arrays["occurrence"][1, 0], arrays["intensity"][1, 0] = 9, np.nan
    made = writer(tmp_path, AUS)
    made.write_shard("a", arrays)
    made.finish()
    assert Samples.open(tmp_path).occurrence[1, 0] == 9


def test_a_run_goes_on_where_it_was_and_another_seed_is_refused(tmp_path: Path) -> None:
    writer(tmp_path, AUS).write_shard("a", shard(4, 2))
    assert writer(tmp_path, AUS).has_shard("a")
    assert not writer(tmp_path, AUS).has_shard("b")
    with pytest.raises(UsageError, match="another run"):
        writer(tmp_path, AUS, seed=1).has_shard("a")
    with pytest.raises(UsageError, match="another run"):
        writer(tmp_path, AUS, seed=1).finish()


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = writer(tmp_path, AUS)

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left on device"):
        made.write_shard("a", shard(2, 2))
    assert list((tmp_path / "shards").iterdir()) == []


class Rows(Dataset[int]):
    """The sum of each crop, read in a worker."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> int:
        return int(self.samples.crop("box_224", [row]).sum())


def test_workers_read_the_same(tmp_path: Path) -> None:
    samples = Samples.open(stills(tmp_path, 8))
    wanted = [int(samples.crop("box_224", [row]).sum()) for row in range(8)]
    loader = DataLoader(Rows(samples), batch_size=None, num_workers=2, multiprocessing_context="spawn")
    assert list(loader) == wanted
    assert len(pickle.loads(pickle.dumps(samples))) == 8


def test_bad_folders_are_one_clear_line(tmp_path: Path) -> None:
    def refused(match: str) -> None:
        with pytest.raises(SourceError, match=match) as caught:
            Samples.open(tmp_path / "f")
        assert "\n" not in str(caught.value)

    refused("No such file or directory; name another folder")
    clips(tmp_path / "f", [4, 4])
    index = tmp_path / "f" / "samples.json"
    fields = json.loads(index.read_text())
    index.write_text(json.dumps(fields | {"schema": 2}))
    refused("expected schema 1, got 2")
    index.write_text("{")
    refused("expected JSON")
    index.write_text(json.dumps(fields | {"aus": ["AU01"]}))
    refused("intensity: expected")
    index.write_text(json.dumps(fields | {"shards": {"c0": 4, "c1": 5}}))
    refused("c1.safetensors: .* expected")
    index.write_text(json.dumps(fields))
    Samples.open(tmp_path / "f")
    path = tmp_path / "f" / "shards" / "c1.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    refused("c1.safetensors: expected a shard of samples")
    path.unlink()
    refused("c1.safetensors: expected a shard of samples")
    index.unlink()
    refused("did not finish")
