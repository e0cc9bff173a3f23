"""A clip as engines saw it, frame by frame, and the picture of that: traces of AUs under its faces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.runtime import log_to_stderr
from engines.spec import EngineSpec
from pipeline import align, mesh
from pipeline.config import RunConfig
from pipeline.errors import SourceError, UsageError
from pipeline.inline import Run
from pipeline.messages import AUResult, FaceCrop, Frame, Geometry
from pipeline.neutral import rest_distance
from pipeline.overlay_panel import AU_NAMES
from pipeline.progress import Progress
from pipeline.whole import whole

FACE_PX = 112
THUMBNAILS = 14

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Watched:
    """One face of a clip, in n frames."""

    stream: str
    frames: int
    """Of the clip, or as many as were asked for; n of them show this face."""
    rate_hz: float
    specs: tuple[EngineSpec, ...]
    seq: NDArray[np.int64]
    """(n,), numbers of the frames."""
    pts_seconds: Values
    """(n,)"""
    geometry: Mapping[str, Values]
    """(n,) by the names of `Geometry`."""
    rest_distance: Values
    """(n,): from an average face at rest (`pipeline.neutral`); NaN where it could not be a neutral."""
    probability: Mapping[str, Values]
    """(n, A) by engine; NaN rows where it says nothing, as before its first window."""
    active: Mapping[str, NDArray[np.bool_]]
    """(n, A) by engine."""
    faces_bgr: NDArray[np.uint8]
    """(n, 112, 112, 3), five-point aligned."""

    def __len__(self) -> int:
        return len(self.seq)


@dataclass(frozen=True, slots=True)
class Beside:
    """What is drawn behind the trace of an AU for comparison."""

    au: str
    name: str
    values: Values
    """(n,)"""
    spearman: float
    of_no_weight: bool
    """Whether the engine sees what it is compared with."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Labels of one AU."""

    seconds: Values
    """(k,)"""
    occurrence: NDArray[np.uint8]
    """(k,), 0, 1 or 9."""


def watch(source: str, engines: Sequence[str], frames: int | None, precision: str = "fp32") -> Watched:
    """Run the chain over a clip, temporal engines at every frame, and keep what it said of one face.

    It is the largest of each frame, and of those the one that is in view longest.

    Raises:
        UsageError: more than one source.
        SourceError: the clip cannot be read, or shows no face.
        EngineError: an engine cannot be loaded.
    """
    config = RunConfig(
        source=(source,), engine=tuple(engines), hop=1, max_faces=1, frames=frames, precision=precision
    )
    run = Run(config, log=log_to_stderr)
    if len(run.infos) != 1:
        run.close()
        raise UsageError(f"--source {source}: {len(run.infos)} files; give one clip")
    info, specs = run.infos[0], tuple(engine.spec for engine in run.engines)
    progress = Progress(info.stream, frames or info.frames)
    seen: dict[int, list[tuple[AUResult, NDArray[np.uint8]]]] = {}
    for frame, results in run.frames():
        progress.step(run.ledgers[-1].delivered)
        for result in results:
            if result.crop is not None:
                seen.setdefault(result.crop.face, []).append((result, aligned_face(frame, result.crop)))
    progress.close()
    if not seen:
        raise SourceError(f"{info.stream}: no face in it; give a clip that shows one")
    longest = max(seen.values(), key=len)
    return _watched(info.stream, run.ledgers[-1].captured, info.rate_hz, specs, longest)


def aligned_face(frame: Frame, crop: FaceCrop) -> NDArray[np.uint8]:
    """The five-point aligned face, 112×112×3 BGR, whichever crops the engines read."""
    transform = align.five_point_transform(crop.landmarks_px, FACE_PX)
    return mesh.warp(frame.image_bgr, transform, FACE_PX)


def _watched(
    stream: str,
    frames: int,
    rate_hz: float,
    specs: tuple[EngineSpec, ...],
    seen: Sequence[tuple[AUResult, NDArray[np.uint8]]],
) -> Watched:
    results = [result for result, _ in seen]
    crops = [result.crop for result in results if result.crop is not None]
    distances = [rest_distance(crop.geometry, crop.pose, crop.quality) for crop in crops]
    return Watched(
        stream=stream,
        frames=frames,
        rate_hz=rate_hz,
        specs=specs,
        seq=np.array([r.stamp.seq for r in results], np.int64),
        pts_seconds=np.array([r.stamp.pts_seconds for r in results]),
        geometry={
            name: np.array([getattr(crop.geometry, name) for crop in crops])
            for name in Geometry.__dataclass_fields__
        },
        rest_distance=np.array([np.nan if d is None else d for d in distances]),
        probability={
            s.name: np.array([[r.aus.get(s.name, {}).get(au, np.nan) for au in s.aus] for r in results])
            for s in specs
        },
        active={
            s.name: np.array([[au in r.active.get(s.name, ()) for au in s.aus] for r in results])
            for s in specs
        },
        faces_bgr=np.stack([face for _, face in seen]),
    )


def turning_points(clip: Watched, count: int) -> NDArray[np.int64]:
    """Up to `count` rows of a clip, closer together where the face changes.

    Half of the way from one to the next is time, half is change of the mesh's distances.
    """
    change = np.zeros(len(clip))
    for values in clip.geometry.values():
        steps = np.abs(np.diff(_smooth(values)))
        change[1:] += steps / max(float(np.ptp(values)), 1e-9)
    time = np.diff(clip.pts_seconds, prepend=clip.pts_seconds[0])
    halves = [np.cumsum(part) / max(float(part.sum()), 1e-9) for part in (change, time)]
    way: Values = (halves[0] + halves[1]) / 2
    wanted = (np.arange(count) + 0.5) / count * way[-1]
    return np.unique(np.abs(way[None] - wanted[:, None]).argmin(axis=1))


def _smooth(values: Values, width: int = 5) -> Values:
    padded = np.pad(values, width // 2, mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), mode="valid")


def save_figure(figure: Any, path: Path, dpi: int) -> None:
    """Write a figure as PNG, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    with whole(path) as part:
        figure.savefig(part, dpi=dpi, format="png")


def draw_traces(
    path: Path,
    clip: Watched,
    spec: EngineSpec,
    beside: Sequence[Beside],
    calm: NDArray[np.bool_],
    marks: Mapping[str, Marks],
) -> None:
    """One engine over one clip: faces, and below them a row for each AU.

    Args:
        path: of the PNG.
        clip: what was seen.
        spec: the engine.
        beside: drawn thin and grey, each stretched to the row's height.
        calm: (n,), shaded.
        marks: labels by AU, as dots.
    """
    figure, rows = rows_below_faces(clip, f"{spec.name} ({spec.trained}) on {clip.stream}", len(spec.aus))
    for a, (au, axes) in enumerate(zip(spec.aus, rows, strict=True)):
        _trace(axes, clip, spec, a, [b for b in beside if b.au == au], marks.get(au))
        for begin, end in _runs(calm):
            axes.axvspan(clip.pts_seconds[begin], clip.pts_seconds[end], color="#cfe8d8", lw=0, zorder=-3)
    legend = (
        "blue: probability, filled where active · dashed: threshold · grey: the mesh's distance, stretched"
    )
    legend += " · (ρ): of no weight, the engine sees the landmarks" * any(b.of_no_weight for b in beside)
    legend += " · green: calm" * bool(calm.any()) + " · dots: labelled by eye" * bool(marks)
    save_with_legend(figure, path, legend)


def rows_below_faces(clip: Watched, title: str, count: int, faces: bool = True) -> tuple[Any, list[Any]]:
    """A figure with faces at the clip's turning points and so many empty rows over its time below them.

    Args:
        clip: what was seen.
        title: above all.
        count: of rows.
        faces: whether to show them; a plot of somebody who is not to be recognised does without.

    Returns:
        The figure, for `save_with_legend`, and the rows' axes from the top.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    strip = [1.02, 0.28] if faces else []
    heights = [*strip, *[0.46] * count]
    figure = plt.figure(figsize=(14, sum(heights) + 1.1))
    top, bottom = 1 - 0.42 / figure.get_figheight(), 0.62 / figure.get_figheight()
    grid = figure.add_gridspec(
        len(heights), 1, height_ratios=heights, left=0.155, right=0.86, top=top, bottom=bottom, hspace=0.16
    )
    span = (float(clip.pts_seconds[0]), float(clip.pts_seconds[-1]) + 1e-6)
    chosen = turning_points(clip, THUMBNAILS)
    if faces:
        _draw_strip(figure, grid[0], grid[1], clip, chosen, span)
    rows = [figure.add_subplot(grid[len(strip) + k]) for k in range(count)]
    for k, axes in enumerate(rows):
        for row in chosen:
            axes.axvline(clip.pts_seconds[row], color="#eeeeee", lw=0.7, zorder=-2)
        axes.set(xlim=span, ylim=(0, 1), yticks=(0, 1))
        axes.tick_params(labelsize=7, length=2, labelbottom=k == count - 1, labelleft=k == 0)
        axes.spines[["top", "right"]].set_visible(False)
    rows[-1].set_xlabel("seconds", fontsize=9)
    figure.suptitle(title, x=0.155, ha="left", fontsize=11)
    return figure, rows


def save_with_legend(figure: Any, path: Path, legend: str) -> None:
    """Write what `rows_below_faces` began, with a line of explanation at the bottom, and close it.

    Raises:
        OutputError: it cannot be written.
    """
    import matplotlib.pyplot as plt

    figure.text(0.155, 0.12 / figure.get_figheight(), legend, va="center", fontsize=8, color="#555555")
    save_figure(figure, path, dpi=130)
    plt.close(figure)


def _draw_strip(
    figure: Any, faces: Any, lines: Any, clip: Watched, chosen: NDArray[np.int64], span: tuple[float, float]
) -> None:
    """Faces side by side, and lines from each down to its moment."""
    axes = figure.add_subplot(faces)
    count, gap = len(chosen), 0.03
    for i, row in enumerate(chosen):
        axes.imshow(clip.faces_bgr[row, :, :, ::-1], extent=(i + gap, i + 1 - gap, 0, 1), aspect="auto")
    axes.set(xlim=(0, max(count, THUMBNAILS)), ylim=(0, 1))
    axes.axis("off")
    axes = figure.add_subplot(lines)
    for i, row in enumerate(chosen):
        moment = (clip.pts_seconds[row] - span[0]) / (span[1] - span[0])
        axes.plot(
            [(i + 0.5) / max(count, THUMBNAILS), moment], [1.3, -0.3], color="#999999", lw=0.7, clip_on=False
        )
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.axis("off")


def _trace(
    axes: Any, clip: Watched, spec: EngineSpec, a: int, beside: Sequence[Beside], marks: Marks | None
) -> None:
    """The row of one AU."""
    au, threshold = spec.aus[a], spec.thresholds[a]
    seconds, found = clip.pts_seconds, clip.probability[spec.name][:, a]
    for other, style in zip(beside, ("-", ":"), strict=False):
        low, high = np.percentile(other.values, (1, 99))
        stretched = (other.values - low) / max(float(high - low), 1e-9)
        axes.plot(seconds, stretched.clip(0, 1), style, color="#777777", lw=0.9, zorder=2)
    active = clip.active[spec.name][:, a]
    axes.fill_between(seconds, 0, found, where=active, color="#56b4e9", alpha=0.55, lw=0, step="mid")
    axes.axhline(threshold, color="#d55e00", lw=0.7, ls="--", zorder=1)
    axes.plot(seconds, found, color="#0072b2", lw=1.2, zorder=3)
    if marks is not None:
        for value, height, face in ((1, 1.0, "#111111"), (0, 0.0, "white")):
            at = marks.seconds[marks.occurrence == value]
            dots = {"s": 16, "facecolor": face, "edgecolor": "#111111", "linewidth": 0.7}
            axes.scatter(at, np.full(len(at), height), clip_on=False, zorder=4, **dots)
    words = f"{au}  {AU_NAMES.get(au, '')}"
    axes.text(-0.035, 0.5, words, ha="right", va="center", fontsize=8.5, transform=axes.transAxes)
    notes = [f"{style} {b.name}  {_rho(b)}" for b, style in zip(beside, "—⋯", strict=False)]
    axes.text(1.01, 0.5, "\n".join(notes), va="center", fontsize=8, color="#555555", transform=axes.transAxes)


def _rho(beside: Beside) -> str:
    text = f"ρ {beside.spearman:+.2f}".replace("-", "−")
    return f"({text})" if beside.of_no_weight else text


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last row of every unbroken run."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]
