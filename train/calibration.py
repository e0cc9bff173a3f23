"""Faces to calibrate INT8 on: out of videos, as the streaming code cuts them, or out of sample folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.quantise import Faces
from engines.spec import EngineSpec
from pipeline.capture import captured_frames
from pipeline.config import RunConfig
from pipeline.errors import UsageError
from pipeline.faces import FaceStage, Wanted
from pipeline.inference import inputs_of
from pipeline.messages import FaceCrop, Ledger
from pipeline.neutral import NeutralPolicy, parse_policy
from pipeline.progress import Progress
from pipeline.sources import Source, SourceSpec, open_source, resolve_sources
from pipeline.windows import spacing
from train import metrics
from train.batches import Batches
from train.evaluate import judged, plain_batches
from train.pool import Pool
from train.samples import INDEX_FILE, Samples

EVERY_PERSON = 4
"""Of a sample folder's people every fourth is calibrated on."""
BLOCK_SECONDS = 1.0
"""Of a video every other second is; more where a window is longer."""
WINDOW_HOP = 8
"""Frames from one window of a temporal engine to the next."""

Inputs = Mapping[str, NDArray[Any]]
Auc = Callable[[NDArray[np.int64], NDArray[np.float32]], float]


@dataclass(frozen=True)
class _Part:
    """Faces of one folder, or of all videos."""

    items: Sequence[Inputs]
    calibrates: NDArray[np.bool_]
    what: str
    split: str
    auc: Auc | None = None


def gather(spec: EngineSpec, sources: Sequence[str]) -> Faces:
    """What an engine would read of these sources, split into faces to calibrate on and faces to judge by.

    Args:
        spec: of the engine.
        sources: folders of samples (`python -m train synth`), and whatever `--source` takes that ends.

    Raises:
        UsageError: none, or one that cannot be used for this engine.
        SourceError: one cannot be read.
    """
    folders = [s for s in sources if (Path(s) / INDEX_FILE).exists()]
    videos = [s for s in sources if s not in folders]
    parts = [_folder(spec, Path(folder)) for folder in folders]
    if videos:
        parts.append(_videos(spec, videos))
    starts = np.cumsum([0, *(len(part.items) for part in parts)])

    def auc(rows: NDArray[np.int64], found: NDArray[np.float32]) -> float:
        """Of the folder with the most labelled rows among them."""
        inside = [(rows >= a) & (rows < b) for a, b in pairwise(starts)]
        labelled = [(here.sum(), i) for i, here in enumerate(inside) if parts[i].auc is not None]
        _, i = max(labelled)
        score = parts[i].auc
        assert score is not None
        return score(rows[inside[i]] - starts[i], found[inside[i]])

    return Faces(
        items=_Chained([part.items for part in parts], starts),
        calibrates=np.concatenate([part.calibrates for part in parts]),
        what=" and ".join(part.what for part in parts),
        split="; ".join(dict.fromkeys(part.split for part in parts)),
        auc=auc if any(part.auc is not None for part in parts) else None,
    )


class _Chained(Sequence[Inputs]):
    """Several sequences as one."""

    def __init__(self, parts: Sequence[Sequence[Inputs]], starts: NDArray[np.int64]) -> None:
        self._parts, self._starts = parts, starts

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, i: Any) -> Any:
        part = int(np.searchsorted(self._starts, i, side="right")) - 1
        return self._parts[part][int(i - self._starts[part])]


class _Rows(Sequence[Inputs]):
    """Items of a sample folder, read when asked for."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, i: Any) -> Any:
        batch = self._batches[int(i)]
        beside = {name: tensor.numpy() for name, tensor in batch.beside.items()}
        return {"crops": batch.pictures.numpy()} | beside


def _folder(spec: EngineSpec, folder: Path) -> _Part:
    known = Samples.open(folder).aus
    aus = [au for au in spec.aus if au in known]
    pool = Pool.open([folder], aus or known[:1])
    if len(pool.people) < 2:
        raise UsageError(f"--calibrate {folder}: expected 2 people or more, to judge by others, got one")
    items = judged(pool, spec)
    person = pool.subject[items[:, -1]]
    columns = [spec.aus.index(au) for au in aus]

    def auc(rows: NDArray[np.int64], found: NDArray[np.float32]) -> float:
        return metrics.mean(metrics.auc(found[:, columns], pool.occurrence[items[rows, -1]]))

    kind = "stills" if spec.window == 1 else f"windows of {spec.window} frames"
    return _Part(
        _Rows(plain_batches(pool, spec, items, batch_size=1)),
        person % EVERY_PERSON == 0,
        f"{len(items)} {kind} of {len(pool.people)} people ({pool.source})",
        f"every {EVERY_PERSON}th person is calibrated on, the others judge",
        auc if aus else None,
    )


def _videos(spec: EngineSpec, sources: Sequence[str]) -> _Part:
    items: list[Inputs] = []
    calibrates: list[bool] = []
    specs = resolve_sources(list(sources), [])
    block = BLOCK_SECONDS
    for source in specs:
        opened = open_source(source)
        if opened.info.live:
            opened.close()
            raise UsageError(f"--calibrate {source.stream}: expected a source that ends, such as a video")
        every = spacing(opened.info.rate_hz, spec.rate_hz or opened.info.rate_hz)
        span = ((spec.window - 1) * every + 1) / opened.info.rate_hz
        block = max(block, 2 * span if spec.window > 1 else 0.0)
        policy = parse_policy("auto")
        assert isinstance(policy, NeutralPolicy)
        config = RunConfig(source=(source.uri,))
        stage = FaceStage(Wanted.by([spec]), policy, config.max_faces)
        try:
            found = _faces(source, opened, stage, config)
            for seconds, inputs in _items(spec, found, every):
                sides = {int(s // block) % 2 for s in seconds}
                if len(sides) == 1:  # a window across two blocks would be on both sides
                    items.append(inputs)
                    calibrates.append(sides == {0})
        finally:
            stage.close()
    if not items:
        raise UsageError(f"--calibrate {', '.join(sources)}: no face in it that {spec.name} could read")
    kind = "faces" if spec.window == 1 else f"windows of {spec.window} frames"
    names = specs[0].stream if len(specs) == 1 else f"{len(specs)} videos"
    return _Part(
        items,
        np.array(calibrates, bool),
        f"{len(items)} {kind} of {names}",
        f"of every video, {block:.2g} s calibrate and the next {block:.2g} s judge, in turns",
    )


def _faces(
    source: SourceSpec, opened: Source, stage: FaceStage, config: RunConfig
) -> Iterator[tuple[float, FaceCrop]]:
    """Every face of a source with its time."""
    progress = Progress(source.stream, opened.info.frames)
    ledger = Ledger(source.stream)
    for frame in captured_frames(opened, source, config, ledger, lambda: None):
        for crop in stage(frame):
            yield frame.stamp.pts_seconds, crop
        progress.step(ledger.captured)
    progress.close()


def _items(
    spec: EngineSpec, faces: Iterator[tuple[float, FaceCrop]], every: int
) -> Iterator[tuple[list[float], Inputs]]:
    """What the engine reads, with the times of its frames."""
    if spec.window == 1:
        for seconds, crop in faces:
            yield [seconds], inputs_of(spec, crop)
        return
    kept: dict[int, list[tuple[float, int, NDArray[np.uint8]]]] = {}
    span = (spec.window - 1) * every + 1
    for seconds, crop in faces:
        frames = kept.setdefault(crop.face, [])
        if frames and crop.track_index != frames[-1][1] + 1:
            frames.clear()
        frames.append((seconds, crop.track_index, crop.crops_bgr[spec.crop.name]))
        if len(frames) >= span:
            window = frames[-span::every]
            if (crop.track_index + 1) % WINDOW_HOP == 0:
                yield [s for s, _, _ in window], {"crops": np.stack([c for _, _, c in window])[None]}
            del frames[:-span]
