"""`python -m train data prepare ROOT --out CACHE`: a dataset as the streaming code sees it, once and for all.

Every recording goes frame by frame through the face stage that `run_stream.py` uses, with its subject's
neutral given; what comes out is a sample folder (`train.samples`) that `train fit` reads, with an index of
all labelled frames beside it (`train.data.cache`). The neutral is the dataset's own where it has one: the
first frame of a DISFA+ trial or a CK+ sequence. BP4D, BP4D+, DISFA and FERA have none, and `base.REST_RULE`
says which frame is taken; of FERA 2017, in the same view.

Recordings are prepared in parallel, and one is done when its index is there, which is written last. A run
that was killed goes on with the recordings that are not done, and ends with the same bytes as one that was
not.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context, parent_process
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pipeline.errors import OutputError, RunError, SourceError, UsageError
from pipeline.progress import Progress
from pipeline.whole import write_whole
from train.data.cache import FRAMES, PREPARED_FILE
from train.data.plan import Order, Plan, plan
from train.data.streamed import Job, Options, Stream
from train.data.summary import summary, text
from train.provenance import commit
from train.samples import SHARDS, SampleWriter

_CROPS = ("five_point_224", "box_224")
_LOOK_SECONDS = 0.5


def prepare(order: Order) -> dict[str, Any]:
    """Prepare every recording that is not done yet, then write the indexes; returns prepared.json.

    Raises:
        SourceError: the dataset is not whole, or a frame cannot be read.
        UsageError: the folder holds what another run prepared.
        OutputError: it cannot be written, or there is not enough room.
    """
    planned = plan(order)
    desk = _Desk(planned)
    desk.check_owner()
    waiting = [job for job in planned.jobs if not desk.is_done(job)]
    _check_room(planned, waiting)
    failed = _prepare_all(desk, waiting)
    kept = tuple(job for job in planned.jobs if job.file not in failed)
    desk.writer.finish()
    report = summary(planned, kept, (*planned.left_out, *failed.values())) | {"prepared_by": commit()}
    content = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    write_whole(order.out / PREPARED_FILE, content.encode())
    return report


class _Desk:
    """Does one recording after the other, in whatever process."""

    def __init__(self, planned: Plan) -> None:
        self.out, self.options = planned.order.out, planned.order.options
        self.partial, self.workers = planned.order.partial, planned.order.workers
        self.identity, self.jobs = planned.identity, planned.jobs
        self.writer: SampleWriter = planned.writer()
        try:
            (self.out / FRAMES).mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.out}: cannot be written: {error.strerror}") from None

    def check_owner(self) -> None:
        """Refuse a folder that another dataset or other options were prepared into."""
        for path in sorted((self.out / SHARDS).glob("*.safetensors")):
            self.writer.has_shard(path.stem)

    def is_done(self, job: Job) -> bool:
        """Whether a recording's index is there, which is written last."""
        path = self._index_path(job)
        if not path.exists():
            return False
        try:
            with safe_open(path, framework="np") as file:
                run = (file.metadata() or {}).get("run")
        except (OSError, SafetensorError):
            return False
        if run != self.identity:
            raise UsageError(f"{path}: prepared from other data or with other options; give another folder")
        return True

    def do(self, job: Job, advance: Callable[[], object]) -> str | None:
        """Stream a recording and write its shards and its index.

        Returns:
            None, or with `partial` why the recording cannot be read.

        Raises:
            SourceError: it cannot be read, without `partial`.
        """
        cv2.setNumThreads(1)
        stream = Stream(job, self.options)
        try:
            for k, arrays in enumerate(stream.chunks(advance)):
                self.writer.write_shard(f"{job.file}-{k:03d}", arrays)
        except SourceError as error:
            for path in (self.out / SHARDS).glob(f"{job.file}-*"):
                path.unlink()
            if not self.partial:
                raise
            return f"{job.recording.subject}/{job.recording.name}: {error}"
        index = stream.index()
        arrays = {name: getattr(index, name) for name in index.__dataclass_fields__}
        arrays["neutral_frame"] = np.array(stream.neutral_frame if stream.neutral_frame is not None else -1)
        write_whole(self._index_path(job), save(arrays, {"run": self.identity}))
        return None

    def _index_path(self, job: Job) -> Path:
        return self.out / FRAMES / f"{job.file}.safetensors"


def _prepare_all(desk: _Desk, waiting: Sequence[Job]) -> dict[str, str]:
    """Do all jobs in as many processes as asked for; file → why, of those that could not be read."""
    done = len(desk.jobs) - len(waiting)
    name = f"preparing ({done} of {len(desk.jobs)} recordings were done)" if done else "preparing"
    progress = Progress(name, sum(len(job.span) for job in waiting), unit="frames")
    failed: dict[str, str] = {}
    try:
        run = _alone if desk.workers == 1 or len(waiting) < 2 else _in_parallel
        for job, why in run(desk, waiting, progress.step):
            if why is not None:
                failed[job.file] = why
    finally:
        progress.close()
    return failed


Told = Callable[[int], object]
"""Called now and then with how many frames have been streamed so far."""


def _alone(desk: _Desk, waiting: Sequence[Job], told: Told) -> Iterator[tuple[Job, str | None]]:
    count = 0

    def advance() -> None:
        nonlocal count
        count += 1
        told(count)

    for job in waiting:
        yield job, desk.do(job, advance)


def _in_parallel(desk: _Desk, waiting: Sequence[Job], told: Told) -> Iterator[tuple[Job, str | None]]:
    # Spawned, since a fork would share the graphs of MediaPipe.
    context = get_context("spawn")
    count, stop = context.Value("q", 0), context.Event()
    workers = min(desk.workers, len(waiting))
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(desk, count, stop)
    ) as pool:
        # The longest first, so that none is left over at the end.
        order = sorted(waiting, key=lambda job: -len(job.span))
        running: dict[Future[str | None], Job] = {pool.submit(_do, job): job for job in order}
        try:
            while running:
                ended, _ = wait(running, _LOOK_SECONDS, FIRST_COMPLETED)
                told(count.value)
                for future in ended:
                    yield running.pop(future), future.result()
        finally:
            stop.set()  # after Ctrl-C or an error nobody waits for a recording of minutes
            pool.shutdown(wait=False, cancel_futures=True)


_here: dict[str, Any] = {}
"""Of a worker process."""


def _begin(desk: _Desk, count: Synchronized[int], stop: Event) -> None:
    """Make ready a worker, which ends with the process that it works for, even when that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _here.update(desk=desk, count=count, stop=stop)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do(job: Job) -> str | None:
    desk: _Desk = _here["desk"]
    count: Synchronized[int] = _here["count"]
    stop: Event = _here["stop"]

    def advance() -> None:
        if stop.is_set():
            raise RunError("stopped")
        with count.get_lock():
            count.value += 1

    return desk.do(job, advance)


def _check_room(planned: Plan, waiting: Sequence[Job]) -> None:
    crops = sum(3 * crop.size_px**2 for crop in planned.order.options.crops)
    needed = (crops + 224 * 224 + 478 * 12) * sum(len(job.recording.labels) for job in waiting)
    free = shutil.disk_usage(planned.order.out).free
    if needed > free:  # better now than after hours
        raise OutputError(
            f"{planned.order.out}: needs up to {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
            "give a folder on another disk, or fewer --crops"
        )


def main(argv: Sequence[str]) -> int:
    """What follows `python -m train data prepare`.

    Raises:
        AustreamError: see `prepare`.
    """
    from train.synth.generate import crop_spec  # it imports the renderer, which workers do without

    parser = argparse.ArgumentParser(
        prog="python -m train data prepare",
        description="Make a dataset's sample folder by the streaming code; run again, it goes on.",
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="the dataset's top folder")
    parser.add_argument("--out", type=Path, metavar="CACHE", required=True, help="a folder elsewhere")
    parser.add_argument(
        "--dataset", metavar="NAME", help="if the layout does not tell: fera2015, jaanet-bp4d …"
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="image root of JAA-Net's and others' lists"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="default: one a core"
    )
    parser.add_argument(
        "--crops", default=",".join(_CROPS), metavar="NAMES", help=f"default {','.join(_CROPS)}"
    )
    parser.add_argument(
        "--no-exposure-compensation",
        dest="exposure_compensation",
        action="store_false",
        help="compare with the neutral as it was exposed, as CEDNN's own protocol does",
    )
    parser.add_argument(
        "--keep-bad", action="store_true", help="keep the frames that JAA-Net's published lists leave out"
    )
    parser.add_argument(
        "--partial", action="store_true", help="prepare what is there, and say in prepared.json what is not"
    )
    args = parser.parse_args(argv)
    crops = tuple(crop_spec(name) for name in dict.fromkeys(args.crops.split(",")))
    options = Options(crops, args.exposure_compensation, args.keep_bad)
    order = Order(args.root, args.out, args.dataset, args.images, args.workers, options, args.partial)
    print(text(prepare(order), args.out))
    return 0
