from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import RunError, StaleError
from pipeline.ring import (
    PixelRef,
    Ring,
    Rings,
    RingSpec,
    RunDirectory,
    attach_ring,
    create_rings,
    packed_bytes,
    ring_names,
    sweep,
)

SPAWN = multiprocessing.get_context("spawn")
SPEC = RingSpec("frames", 3, 1000, ("a", "b", "c"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create_rings(tmp_path, [SPEC])
    return tmp_path


def rings(folder: Path) -> tuple[Ring, Ring, Ring]:
    a, b, c = (Ring(folder, SPEC, name) for name in SPEC.holders)
    return a, b, c


def filled(ring: Ring, value: int) -> PixelRef:
    slot = ring.take()
    assert slot is not None
    return slot.put(np.full((10, 10, 3), value, np.uint8))


def test_pixels_go_from_holder_to_holder_without_a_copy(folder: Path) -> None:
    a, b, c = rings(folder)
    ref = filled(a, 7)
    assert (ref.slot, ref.generation, ref.shape) == (0, 1, (10, 10, 3))
    a.pass_on(ref, "b")
    seen = b.view(ref)
    assert (seen == 7).all()
    assert not seen.flags.writeable
    assert not seen.flags.owndata
    b.pass_on(ref, "c")
    assert (c.view(ref) == 7).all()
    with pytest.raises(StaleError, match="not leased"):
        b.view(ref)
    c.release(ref)
    assert a.held() == {}


def test_several_arrays_in_a_slot_each_on_its_own_cache_line(folder: Path) -> None:
    a, _, _ = rings(folder)
    slot = a.take()
    assert slot is not None
    first = slot.put(np.full((3, 3), 1, np.uint8))
    second, place = slot.reserve((5, 5, 3))
    place[:] = 2
    assert (first.offset, second.offset) == (0, 64)
    assert (a.view(first) == 1).all()
    assert (a.view(second) == 2).all()
    assert packed_bytes([(3, 3), (5, 5, 3)]) == 64 + 128
    with pytest.raises(RunError, match="1192 bytes do not fit into a slot of 1000"):
        slot.put(np.zeros(1000, np.uint8))
    with pytest.raises(TypeError):
        slot.put(np.zeros(3, np.float32))


def test_a_transposed_array_is_put_in_order(folder: Path) -> None:
    a, _, _ = rings(folder)
    slot = a.take()
    assert slot is not None
    turned = np.arange(60, dtype=np.uint8).reshape(3, 20).T
    assert np.array_equal(a.view(slot.put(turned)), turned)


def test_a_stale_descriptor_is_refused_and_its_release_harmless(folder: Path) -> None:
    a, b, _ = rings(folder)
    old = filled(a, 1)
    a.pass_on(old, "b")
    b.release(old)
    new = filled(a, 2)
    assert new.slot == old.slot
    a.pass_on(new, "b")
    for use in (b.view, b.copy, lambda ref: b.pass_on(ref, "c")):
        with pytest.raises(StaleError, match="generation 2, the descriptor 1"):
            use(old)
    b.release(old)
    b.release(old)
    assert (b.view(new) == 2).all()


@pytest.mark.parametrize(
    "ref",
    [
        PixelRef("frames", 0, 1, 900, (10, 10, 3)),
        PixelRef("frames", 0, 1, 2**62, (1,)),
        PixelRef("frames", 0, 1, 0, (2**40, 2**40, 2**40)),
        PixelRef("frames", 3, 1, 0, (1,)),
        PixelRef("frames", 2**62, 1, 0, (1,)),
        PixelRef("crops", 0, 1, 0, (1,)),
    ],
)
def test_descriptors_of_what_is_not_there(folder: Path, ref: PixelRef) -> None:
    a, _, _ = rings(folder)
    filled(a, 1)
    with pytest.raises(StaleError):
        a.view(ref)


def test_a_full_ring_gives_no_slot(folder: Path) -> None:
    a, b, _ = rings(folder)
    refs = [filled(a, i) for i in range(3)]
    assert a.take() is None
    a.pass_on(refs[1], "b")
    assert a.take() is None
    b.release(refs[1])
    slot = a.take()
    assert slot is not None
    assert slot.index == 1
    with pytest.raises(ValueError, match="only a takes"):
        b.take()


def test_a_slot_lent_to_two_is_free_when_both_are_done(folder: Path) -> None:
    a, b, c = rings(folder)
    ref = filled(a, 1)
    a.pass_on(ref, "b", "c")
    assert a.held() == {"b": [0], "c": [0]}
    b.release(ref)
    assert (c.view(ref) == 1).all()
    c.release(ref)
    assert a.held() == {}


def test_pixels_overwritten_while_they_are_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, _ = rings(folder)
    ref = filled(a, 1)
    a.pass_on(ref, "b")
    view = b.view(ref)

    def reclaimed_meanwhile(_: PixelRef) -> np.ndarray:
        a.reclaim("b")
        filled(a, 2)
        return view

    monkeypatch.setattr(b, "view", reclaimed_meanwhile)
    with pytest.raises(StaleError):
        b.copy(ref)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["take", "pass", "release", "reclaim"]), st.integers(0, 99)), max_size=60
    )
)
def test_whoever_holds_the_lease_sees_its_own_pixels_and_nobody_else(ops: list[tuple[str, int]]) -> None:
    """Against a model: for every descriptor ever made, who holds it and what it must show."""
    directory = RunDirectory()
    try:
        create_rings(directory.path, [SPEC])
        handles = dict(zip(SPEC.holders, rings(directory.path), strict=True))
        holder: dict[PixelRef, str | None] = {}
        for op, n in ops:
            refs = list(holder)
            ref = refs[n % len(refs)] if refs else None
            by = SPEC.holders[n % 3]
            if op == "take":
                held = sum(h is not None for h in holder.values())
                slot = handles["a"].take()
                assert (slot is None) == (held == SPEC.slots)
                if slot is not None:
                    holder[slot.put(np.full(8, len(holder) % 256, np.uint8))] = "a"
            elif op == "reclaim":
                handles["a"].reclaim(by)
                holder = {r: None if h == by else h for r, h in holder.items()}
            elif op == "release" and ref is not None:
                handles[by].release(ref)
                holder[ref] = None if holder[ref] == by else holder[ref]
            elif op == "pass" and ref is not None and holder[ref] is not None:
                to = SPEC.holders[(n + 1) % 3]
                handles[str(holder[ref])].pass_on(ref, to)
                holder[ref] = to
            for i, (r, h) in enumerate(holder.items()):
                for name, ring in handles.items():
                    if name == h:
                        assert (ring.view(r) == i % 256).all()
                    else:
                        with pytest.raises(StaleError):
                            ring.view(r)
    finally:
        directory.close()


def test_another_ring_than_expected(folder: Path) -> None:
    for other in (RingSpec("frames", 3, 1001, ("a", "b", "c")), RingSpec("frames", 2, 1000, ("a", "b", "c"))):
        with pytest.raises(RunError, match="another ring"):
            Ring(folder, other, "a")
    with pytest.raises(RunError, match="cannot be attached"):
        Ring(folder, RingSpec("none", 1, 1, ("a",)), "a")


def test_too_little_shared_memory_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    def docker_default(_: Path) -> os.statvfs_result:
        return SimpleNamespace(f_bavail=64 * 256, f_frsize=4096)  # type: ignore[return-value]

    big = RingSpec("frames", 9, 3840 * 2160 * 3, ("a", "b"))
    with pytest.raises(RunError) as caught:
        create_rings(tmp_path, [RingSpec("crops", 3, 1000, ("a", "b")), big], statvfs=docker_default)
    for part in (
        "67.1 MB of shared memory are free",
        "224.0 MB",
        "frames 9 × 24.9 MB",
        "--max-faces",
        "--shm-size=267m",
    ):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_frame_larger_than_all_memory(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="shared memory are free"):
        create_rings(tmp_path, [RingSpec("frames", 4, 2**60, ("a", "b"))])
    assert list(tmp_path.iterdir()) == []


def test_memory_that_runs_out_while_rings_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RunError, match="shared memory are free"):
        create_rings(tmp_path, [SPEC])
    assert list(tmp_path.iterdir()) == []


def _hold_two_of_three(folder: Path, line: Connection) -> None:
    ring = Ring(folder, SPEC, "a")
    kept, given_on = filled(ring, 1), filled(ring, 2)
    ring.pass_on(given_on, "b")
    line.send(kept.generation)
    time.sleep(60)


def test_slots_of_a_killed_producer_are_reclaimed_and_others_kept(folder: Path) -> None:
    here, there = SPAWN.Pipe()
    producer = SPAWN.Process(target=_hold_two_of_three, args=(folder, there))
    producer.start()
    assert here.poll(20)
    os.kill(int(producer.pid or 0), signal.SIGKILL)
    producer.join(10)
    supervisor, b = Ring(folder, SPEC), Ring(folder, SPEC, "b")
    assert supervisor.held() == {"a": [0], "b": [1]}
    assert supervisor.reclaim("a") == [0]
    assert supervisor.held() == {"b": [1]}
    assert (b.view(PixelRef("frames", 1, 1, 0, (10, 10, 3))) == 2).all()
    successor = Ring(folder, SPEC, "a")
    assert filled(successor, 3).generation == 2


def test_a_run_directory_is_private_and_leaves_nothing(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    assert directory.path.stat().st_mode & 0o777 == 0o700
    create_rings(directory.path, [SPEC])
    assert all(p.stat().st_mode & 0o077 == 0 for p in directory.path.iterdir())
    ring = Ring(directory.path, SPEC, "a")
    view = ring.view(filled(ring, 5))
    del ring
    directory.close()
    directory.close()
    assert list(tmp_path.iterdir()) == []
    assert (view == 5).all()  # a map lives as long as somebody looks at it


def test_two_runs_at_once(tmp_path: Path) -> None:
    one, two = RunDirectory(tmp_path), RunDirectory(tmp_path)
    assert one.path != two.path
    assert two.swept == []
    assert one.path.is_dir()
    one.close()
    two.close()


def _run(parent: Path, line: Connection) -> None:
    directory = RunDirectory(parent)
    create_rings(directory.path, [SPEC])
    line.send(directory.path.name)
    time.sleep(60)


def test_what_a_killed_run_left_is_swept(tmp_path: Path) -> None:
    here, there = SPAWN.Pipe()
    run = SPAWN.Process(target=_run, args=(tmp_path, there))
    run.start()
    assert here.poll(20)
    name = here.recv()
    assert sweep(tmp_path) == []
    os.kill(int(run.pid or 0), signal.SIGKILL)
    run.join(10)
    assert (tmp_path / name / "frames").exists()
    directory = RunDirectory(tmp_path)
    assert directory.swept == [name]
    assert not (tmp_path / name).exists()
    directory.close()


def test_a_ring_is_attached_to_by_its_name_alone(tmp_path: Path) -> None:
    spec = RingSpec("frames.3", 2, 100, ("capture", "face", "sink"))
    create_rings(tmp_path, [spec])
    producer, consumer = (
        attach_ring(tmp_path, "frames.3", "capture"),
        attach_ring(tmp_path, "frames.3", "face"),
    )
    assert producer.spec == consumer.spec == spec
    slot = producer.take()
    assert slot is not None
    ref = slot.put(np.arange(60, dtype=np.uint8))
    producer.pass_on(slot, "face")
    np.testing.assert_array_equal(consumer.view(ref), np.arange(60))
    with pytest.raises(RunError, match=r"frames\.4"):
        attach_ring(tmp_path, "frames.4", "face")
    (tmp_path / "frames.5").write_bytes(b"no ring at all, whatever its name says" * 3)
    with pytest.raises(RunError):
        attach_ring(tmp_path, "frames.5", "face")


def test_rings_of_a_kind_are_found_as_their_descriptors_come(tmp_path: Path) -> None:
    holders = ("capture", "face", "sink")
    create_rings(tmp_path, [RingSpec("frames.0", 2, 64, holders), RingSpec("crops.0", 1, 64, holders)])
    consumer = Rings(tmp_path, "frames", "face")
    refs = []
    for number, size in ((0, 60), (10, 600), (2, 6000)):
        if number:
            create_rings(tmp_path, [RingSpec(f"frames.{number}", 2, size, holders)])
        ring = attach_ring(tmp_path, f"frames.{number}", "capture")
        slot = ring.take()
        assert slot is not None
        refs.append(slot.put(np.full(size, number, np.uint8)))
        ring.pass_on(slot, "face")
    assert ring_names(tmp_path, "frames") == ["frames.0", "frames.2", "frames.10"]
    create_rings(tmp_path, [RingSpec(name, 1, 64, holders) for name in ("frames-10.0", "frames-2.1")])
    (tmp_path / "frames-1.0.socket").touch()
    (tmp_path / ".frames-1.0.part").touch()  # one that is being made
    everyone = ["frames.0", "frames.2", "frames.10", "frames-2.1", "frames-10.0"]
    assert ring_names(tmp_path, "frames", of_all=True) == everyone
    assert ring_names(tmp_path, "frames-2") == ["frames-2.1"]
    for ref, number in zip(refs, (0, 10, 2), strict=True):
        assert (consumer.copy(ref) == number).all()
    consumer.pass_on(refs[0], "sink")
    consumer.release(refs[1])
    sink = Rings(tmp_path, "frames", "sink")
    sink.reclaim("face")  # also in rings that no descriptor has named to it
    held = {name: attach_ring(tmp_path, name, None).held() for name in ring_names(tmp_path, "frames")}
    assert held == {"frames.0": {"sink": [0]}, "frames.2": {}, "frames.10": {}}
    other = attach_ring(tmp_path, "frames-2.1", "capture")
    slot = other.take()
    assert slot is not None
    other.pass_on(slot, "face")
    consumer.reclaim("face", producer="frames-10")
    assert other.held() == {"face": [0]}
    consumer.reclaim("face", producer="frames-2")
    assert other.held() == {}
    with pytest.raises(StaleError):
        consumer.view(PixelRef("crops.0", 0, 1, 0, (4,)))
    with pytest.raises(StaleError):
        consumer.view(PixelRef("frames.9", 0, 1, 0, (4,)))
