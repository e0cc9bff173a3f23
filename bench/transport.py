"""`python -m bench transport`: frames from one process to another: ours beside ZeroMQ bytes and a Queue.

A frame counts as there when the consumer has read a grid of its pixels. Latency: from the start of sending to
that moment, one frame on the way at a time. Throughput: up to four on the way. "ours" copies the frame into a
slot of the ring; "ours, in place" is for pixels that were decoded there. The candidates take turns.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.report import print_table, write_json
from pipeline.channels import Receiver, Sender
from pipeline.errors import RunError
from pipeline.messages import Stamp
from pipeline.ring import Ring, RingSpec, RunDirectory, create_rings
from pipeline.sockets import End
from pipeline.streams import FramePacket

Pixels = NDArray[np.uint8]

OURS, IN_PLACE, ZMQ, QUEUE = "ours", "ours, in place", "ZeroMQ bytes", "multiprocessing.Queue"
TRANSPORTS = (OURS, IN_PLACE, ZMQ, QUEUE)
SIZES_WH = ((1920, 1080), (3840, 2160))
AT_ONCE = 4
_DIFFERENT_FRAMES = 4
_PATIENCE_SECONDS = 60.0


def grid(frame: Pixels) -> Pixels:
    """The pixels that are looked at: 8×8 of them, spread over the frame."""
    return frame[:: frame.shape[0] // 8, :: frame.shape[1] // 8]


class Transport(Protocol):
    """One candidate; each process uses the half that is its own."""

    def send(self, frame: Pixels) -> None: ...

    def receive(self) -> Pixels:
        """The next frame, readable until `done`."""
        ...

    def done(self) -> None: ...


class Ours:
    def __init__(self, folder: Path, spec: RingSpec, producer: bool, in_place: bool) -> None:
        name = "in_place" if in_place else "copied"
        self._in_place = in_place
        self._ring = Ring(folder, spec, spec.holders[not producer])
        if producer:
            self._sender = Sender(folder / name, name)
        else:
            self._receiver = Receiver(folder / name, name, AT_ONCE)

    def send(self, frame: Pixels) -> None:
        slot = self._ring.take()
        if slot is None:
            raise RunError("no free slot although there is one more than credits")
        ref, place = slot.reserve(frame.shape)
        if self._in_place:
            grid(place)[:] = grid(frame)
        else:
            np.copyto(place, frame)
        self._ring.pass_on(ref, "consumer")
        self._sender.send(FramePacket(Stamp("bench", 0, 0, 0.0, 0.0, 0.0), 1, ref, {}), _PATIENCE_SECONDS)

    def receive(self) -> Pixels:
        packet = self._receiver.receive(_PATIENCE_SECONDS)
        if not isinstance(packet, FramePacket) or packet.image is None:
            raise RunError(f"expected a frame, got {packet}")
        self._held = packet.image
        return self._ring.view(packet.image)

    def done(self) -> None:
        self._ring.release(self._held)
        self._receiver.done()


class ZeroMQBytes:
    """A frame as one message, acknowledged by an empty one."""

    def __init__(self, folder: Path, shape: tuple[int, ...], producer: bool) -> None:
        self._end = End(folder / "bytes", binds=not producer)
        self._shape = shape
        self._on_the_way = 0

    def send(self, frame: Pixels) -> None:
        while self._end.receive() is not None:
            self._on_the_way -= 1
        while self._on_the_way >= AT_ONCE:
            self._wait()
            self._on_the_way -= 1
        self._end.send(frame.reshape(-1).data)
        self._on_the_way += 1

    def receive(self) -> Pixels:
        return np.frombuffer(self._wait(), np.uint8).reshape(self._shape)

    def done(self) -> None:
        self._end.send(b"")

    def _wait(self) -> bytes:
        while (data := self._end.receive()) is None:
            if not any(End.wait([self._end], _PATIENCE_SECONDS)):
                raise RunError("ZeroMQ bytes: nothing came")
        return data


class Queue:
    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def send(self, frame: Pixels) -> None:
        self._queue.put(frame, timeout=_PATIENCE_SECONDS)

    def receive(self) -> Pixels:
        frame: Pixels = self._queue.get(timeout=_PATIENCE_SECONDS)
        return frame

    def done(self) -> None:
        pass


def worker(
    producer: bool,
    folder: Path,
    spec: RingSpec,
    shape: tuple[int, ...],
    queue: Any,
    seen: Any,
    orders: Connection,
) -> None:
    """One of the two processes: does what is ordered (candidate, frames, one at a time?), answers when."""
    candidates: dict[str, Transport] = {
        OURS: Ours(folder, spec, producer, in_place=False),
        IN_PLACE: Ours(folder, spec, producer, in_place=True),
        ZMQ: ZeroMQBytes(folder, shape, producer),
        QUEUE: Queue(queue),
    }
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, shape, np.uint8) for _ in range(_DIFFERENT_FRAMES)]
    while (order := orders.recv()) is not None:
        name, count, one_at_a_time = order
        run: Callable[..., list[int]] = _produce if producer else _consume
        orders.send(run(candidates[name], frames, count, seen if one_at_a_time else None))


def _produce(transport: Transport, frames: list[Pixels], count: int, seen: Any) -> list[int]:
    began = []
    for i in range(count):
        began.append(time.monotonic_ns())
        transport.send(frames[i % len(frames)])
        if seen is not None and not seen.acquire(timeout=_PATIENCE_SECONDS):
            raise RunError("a frame never arrived")
    return began


def _consume(transport: Transport, frames: list[Pixels], count: int, seen: Any) -> list[int]:
    sums = [int(grid(frame).sum()) for frame in frames]
    there = []
    for i in range(count):
        total = int(grid(transport.receive()).sum())
        there.append(time.monotonic_ns())
        if total != sums[i % len(sums)]:
            raise AssertionError(f"wrong pixels: sum {total}, expected {sums[i % len(sums)]}")
        transport.done()
        if seen is not None:
            seen.release()
    return there


def measure(size_wh: tuple[int, int], rounds: int, frames: int) -> list[dict[str, Any]]:
    """The rows of one size of frames: `frames` of them per candidate, round and kind of measurement."""
    width, height = size_wh
    shape = (height, width, 3)
    spec = RingSpec("frames", AT_ONCE + 1, width * height * 3, ("producer", "consumer"))
    context = multiprocessing.get_context("spawn")
    directory = RunDirectory()
    processes, lines = [], []
    try:
        create_rings(directory.path, [spec])
        queue, seen = context.Queue(AT_ONCE), context.Semaphore(0)
        for producer in (True, False):
            here, there = context.Pipe()
            arguments = (producer, directory.path, spec, shape, queue, seen, there)
            processes.append(context.Process(target=worker, args=arguments, daemon=True))
            processes[-1].start()
            there.close()  # so that a worker that fails is noticed: EOFError
            lines.append(here)

        def both(name: str, count: int, one_at_a_time: bool) -> NDArray[np.int64]:
            for line in lines:
                line.send((name, count, one_at_a_time))
            return np.array([line.recv() for line in lines])

        for name in TRANSPORTS:  # connections, page tables, allocators
            both(name, AT_ONCE + 1, True)
        latency_ms: dict[str, list[NDArray[np.float64]]] = {name: [] for name in TRANSPORTS}
        frame_ms: dict[str, list[float]] = {name: [] for name in TRANSPORTS}
        for _ in range(rounds):
            for name in TRANSPORTS:
                began, there_ns = both(name, frames, True)
                latency_ms[name].append((there_ns - began) / 1e6)
            for name in TRANSPORTS:
                began, there_ns = both(name, frames, False)
                frame_ms[name].append(float(there_ns[-1] - began[0]) / 1e6 / frames)
        for line in lines:
            line.send(None)
        for process in processes:
            process.join(_PATIENCE_SECONDS)
    except EOFError as error:
        raise RunError("a process of the bench failed; its traceback stands above") from error
    finally:
        for process in processes:
            process.kill()
            process.join()
        directory.close()
    return [_row(f"{width}×{height}", name, latency_ms, frame_ms) for name in TRANSPORTS]


def _row(
    size: str, name: str, latency_ms: dict[str, list[NDArray[np.float64]]], frame_ms: dict[str, list[float]]
) -> dict[str, Any]:
    def p50(of: str) -> float:
        return float(np.median(np.concatenate(latency_ms[of])))

    per_frame = float(np.median(frame_ms[name]))
    return {
        "size": size,
        "transport": name,
        "p50_ms": p50(name),
        "p95_ms": float(np.percentile(np.concatenate(latency_ms[name]), 95)),
        "ms_per_frame": per_frame,
        "fps": 1e3 / per_frame,
        "latency_vs_queue": p50(QUEUE) / p50(name),
        "time_vs_queue": float(np.median(frame_ms[QUEUE])) / per_frame,
    }


def main(argv: list[str]) -> int:
    """Measure both sizes; print, and write with --json."""
    parser = argparse.ArgumentParser(prog="python -m bench transport", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--frames", type=int, default=25, help="per round, candidate and kind of measurement")
    arguments = parser.parse_args(argv)
    rows = [row for size in SIZES_WH for row in measure(size, arguments.rounds, arguments.frames)]
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(
        f"uint8 frames between two processes; latency with one on the way, time per frame with {AT_ONCE}; "
        f"load {load}"
    )
    print_table(rows)
    if arguments.json:
        write_json(arguments.json, rows)
    return 0
