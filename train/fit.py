"""Train a network by a recipe. Kill it when you like: the same command goes on to the same weights.

OUT/recipe.json            the recipe as it is run
OUT/last.safetensors       the run's state (every few minutes and at every epoch's end)
OUT/PHASE.safetensors      best weights of a phase; of the last one they are the result, best.safetensors
OUT/log.csv, tensorboard/  a row an epoch, and curves
OUT/features/              what a phase on cached features reads
"""

from __future__ import annotations

import fcntl
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import AustreamError, OutputError, UsageError
from pipeline.progress import Progress
from pipeline.whole import write_whole
from train import checkpoint, metrics
from train.augment import draw
from train.batches import Batches, items_of, stream
from train.features import FeatureCache, cached
from train.initial import initial_weights
from train.logs import RunLog
from train.objective import Objective
from train.phase import PhaseRun
from train.pool import Pool
from train.predict import autocast, probabilities
from train.provenance import commit, describe
from train.recipe import PUBLISHED, PhaseTable, Recipe, differences
from train.tables import plain

LAST, BEST = "last.safetensors", "best.safetensors"
CURVE_EVERY = 10
"""Steps from one point of the loss curve to the next."""


def say(message: str) -> None:
    """One line on stderr."""
    print(message, file=sys.stderr, flush=True)


def choose_device(recipe: Recipe) -> torch.device:
    """Where to compute, with threads and precision set.

    Raises:
        UsageError: no GPU where one is asked for, or fp16 on a CPU.
    """
    there = torch.cuda.is_available()
    if recipe.device == "cuda" and not there:
        raise UsageError("device: 'cuda', but PyTorch sees no GPU here; set device to 'auto' or 'cpu'")
    device = torch.device("cpu" if recipe.device == "cpu" or not there else "cuda")
    if recipe.precision == "fp16" and device.type == "cpu":
        raise UsageError("precision: 'fp16' needs a GPU; on a CPU take 'bf16' or 'fp32'")
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    torch.backends.cudnn.deterministic = True
    return device


class Run:
    """A run in its folder."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        """Opens the data and the folder; nothing is trained yet.

        Raises:
            UsageError: recipe and data contradict each other, or the folder holds a run of another recipe or
                on other samples.
            SourceError: a sample folder or the run's checkpoint cannot be read.
            OutputError: the folder cannot be written.
        """
        self.recipe, self.out = recipe, out
        self.device = choose_device(recipe)
        self.pool = Pool.open(recipe.data.folders, recipe.engine.aus)
        self.training, self.validation = self.pool.split(recipe.data)
        self._check_labels()
        self.tensors: dict[str, Tensor] = {}
        self.facts: dict[str, Any] = {}
        if (out / LAST).exists():
            self.tensors, self.facts = checkpoint.read(out / LAST)
            if changed := differences(decisive(self.facts["recipe"]), decisive(plain(recipe))):
                shown = "; ".join(changed[:3])
                raise UsageError(f"{out}: holds a run of another recipe ({shown}); give another --out")
            now = describe(self.pool)
            if self.facts.get("data", now) != now:  # runs of earlier versions do not say theirs
                where = ", ".join(recipe.data.folders)
                raise UsageError(
                    f"{out}: trained on other samples than {where} holds now; give another --out"
                )
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"--out {out}: cannot make it: {error.strerror}") from None

    def _check_labels(self) -> None:
        """Something to learn of every AU."""
        shown = (self.pool.occurrence[self.training] == 1).any(axis=0)
        if not shown.all():
            missing = [au for au, there in zip(self.pool.aus, shown, strict=True) if not there]
            raise UsageError(
                f"data: no training frame shows {', '.join(missing)}; add samples, or change engine.aus"
            )

    def train(self) -> None:
        """All phases from where the run is.

        Raises:
            AustreamError: a loss that is no number, a full disk, no windows in the data.
        """
        write_whole(self.out / "recipe.json", (json.dumps(plain(self.recipe), indent=2) + "\n").encode())
        begin = int(self.facts.get("phase", 0))
        for index in range(begin, len(self.recipe.phase)):
            self._train_phase(index)
        say(f"done: {self.out / BEST}; next: python -m train export {self.out} FOLDER")

    def _train_phase(self, index: int) -> None:
        phase = self.recipe.phase[index]
        training, validation = self.batches(index)
        steps = phase.steps_per_epoch or max(len(training) // phase.accumulate, 1)
        labels = self.pool.occurrence[self.training], self.pool.intensity[self.training]
        objective = Objective.of(phase, self.recipe.spec(phase), *labels)
        run = PhaseRun(self.recipe, index, steps, objective, self.device)
        if self.tensors:
            run.restore(self.tensors, self.facts)
            say(f"{self.out}: phase {phase.name} goes on after step {run.step} of {run.total}")
            self.tensors = {}
        else:
            self._initialise(run)
        log = RunLog(self.out, index, run.step)
        try:
            self._steps(run, training, validation, log)
        finally:
            log.close()

    def _initialise(self, run: PhaseRun) -> None:
        """From the phase before, or from the recipe's weights, or anew."""
        published = self.recipe.initial.removeprefix(PUBLISHED)
        if run.index:
            path = self._best_of(run.index - 1)
            weights: Mapping[str, Tensor] = checkpoint.read(path)[0]
        elif published != self.recipe.initial:
            run.begin_published(Path(published))
            if run.steps_per_epoch:
                say(f"phase {run.phase.name}: begins with the published weights in {published}")
            return
        elif self.recipe.initial:
            path = Path(self.recipe.initial)
            weights = initial_weights(path, run.learner.network, self.recipe)
        else:
            return
        fresh = run.begin_with(weights)
        if len(fresh) == len(run.learner.network.state_dict()):
            raise UsageError(f"initial: {path}: no tensor in it fits {self.recipe.engine.network}")
        if run.steps_per_epoch:
            parts = sorted({name.split(".")[0] for name in fresh})
            say(f"phase {run.phase.name}: begins with {path}; new: {', '.join(parts) or 'nothing'}")

    def _best_of(self, index: int) -> Path:
        last = index == len(self.recipe.phase) - 1
        return self.out / (BEST if last else f"{self.recipe.phase[index].name}.safetensors")

    def batches(self, index: int) -> tuple[Batches, Batches]:
        """Training and validation batches of a phase.

        Raises:
            UsageError: there is no window in one of them, or nothing to judge by.
        """
        phase, recipe = self.recipe.phase[index], self.recipe
        spec = recipe.spec(phase)
        items = items_of(self.pool, phase, spec.window, spec.rate_hz)
        judged = items_of(self.pool, replace(phase, hop=max(phase.hop, 4)), spec.window, spec.rate_hz)
        items, judged = items[self.training[items[:, -1]]], judged[self.validation[judged[:, -1]]]
        for what, rows in (("training", items), ("validation", judged)):
            if not len(rows):
                raise UsageError(
                    f"phase {phase.name}: no window of {spec.window} consecutive frames among the {what} "
                    "subjects; give it clips"
                )
        labels = self.pool.occurrence[judged[:, -1]]
        if np.isnan(metrics.auc(np.zeros(labels.shape), labels)).all():
            raise UsageError(
                f"phase {phase.name}: no AU is both present and absent in what is held out for validation; "
                "hold out more subjects"
            )
        training = Batches(
            pool=self.pool.without_faint(recipe.data.present_from),
            items=items,
            crop=recipe.augment.crop or spec.crop.name,
            beside=tuple(name for name in spec.inputs(1) if name != "crops"),
            table=recipe.augment,
            batch_size=phase.batch_size,
            shuffle=True,
            sampler=phase.sampler,
            seed=(recipe.seed, index),
            kept_px=spec.crop.size_px,
            shrunk_px=phase.shrunk_px,
        )
        validation = replace(
            training, pool=self.pool, items=judged, crop=spec.crop.name, table=None, shuffle=False
        )
        self._check_sampler(phase, training)
        if self.recipe.best_by == "icc" and np.isnan(self.pool.intensity[judged[:, -1]]).all():
            raise UsageError("best_by: 'icc' needs intensities, the validation samples have none; take 'auc'")
        if phase.reads == "features":
            training = replace(training, features=self._features(index, items, phase.copies, True))
            validation = replace(validation, features=self._features(index, judged, 1, False))
        return training, validation

    def _check_sampler(self, phase: PhaseTable, training: Batches) -> None:
        """`balanced` draws from the items that show an AU, once the faint ones are left out."""
        shown = (training.pool.occurrence[training.items[:, -1]] == 1).any(axis=0)
        if phase.sampler == "balanced" and not shown.all():
            missing = [au for au, there in zip(self.pool.aus, shown, strict=True) if not there]
            raise UsageError(
                f"phase {phase.name}: sampler: 'balanced' finds nothing that shows {', '.join(missing)}; add "
                "samples, lower data.present_from, or take 'uniform'"
            )

    def _features(self, index: int, items: NDArray[np.int64], copies: int, augmented: bool) -> FeatureCache:
        """Of every frame in these windows, by the weights that the phase begins with."""
        rows = np.unique(items)
        path = self.out / "features" / f"{index}_{'training' if augmented else 'validation'}.npy"
        run = PhaseRun(self.recipe, index, 0, None, self.device)  # for its frozen layers alone
        self._initialise(run)
        table, crop = self.recipe.augment, self.recipe.engine.crop
        network: Any = run.learner.eval().network
        identity = {"recipe": decisive(plain(self.recipe)), "index": index, "augmented": augmented}
        identity["data"] = describe(self.pool)

        @torch.inference_mode()
        def features_of(copy: int, chosen: NDArray[np.int64]) -> Tensor:
            crops = self.pool.crop(crop, chosen)
            if augmented:
                clips = self.pool.clip(chosen)
                seeds = [(self.recipe.seed, index, copy, int(clip)) for clip in clips]
                changes = [draw(table, crops.shape[1], np.random.default_rng(seed)) for seed in seeds]
                frames = zip(chosen, changes, crops, strict=True)
                crops = np.stack([change.picture(picture, int(row)) for row, change, picture in frames])
            images = run.learner.engine.images(torch.from_numpy(crops).to(self.device))
            with autocast(self.device, self.recipe.precision):
                return network.frame_features(images).cpu()

        progress = Progress(f"{path.stem} features", copies * len(rows))
        try:
            return cached(path, rows, len(self.pool), copies, identity, features_of, progress.step)
        finally:
            progress.close()

    def _steps(self, run: PhaseRun, training: Batches, validation: Batches, log: RunLog) -> None:
        """Steps, validations and checkpoints until the phase ends."""
        phase, workers = run.phase, self.recipe.workers
        total, begun = run.total, run.step
        batches = stream(training, begun * phase.accumulate, total * phase.accumulate, workers, self.device)
        progress = Progress(f"{phase.name} ({self.device}, {self.recipe.precision})", total - begun, "steps")
        saved = time.monotonic()
        try:
            while run.step < total:
                loss = run.take_step(list(islice(batches, phase.accumulate)))
                progress.step(run.step - begun)
                if run.step % CURVE_EVERY == 0:
                    log.curve(f"{phase.name}/loss", loss, run.step)
                if run.step % run.steps_per_epoch == 0:
                    self._judge(run, validation, log)
                if run.step % run.steps_per_epoch == 0 or time.monotonic() - saved > self._pause:
                    self._save(run)
                    saved = time.monotonic()
        finally:
            progress.close()

    @property
    def _pause(self) -> float:
        return 60 * self.recipe.checkpoint_minutes

    def _save(self, run: PhaseRun) -> None:
        facts = run.facts() | {"recipe": plain(self.recipe), "data": describe(self.pool)}
        checkpoint.write(self.out / LAST, run.tensors(), facts)

    def _judge(self, run: PhaseRun, validation: Batches, log: RunLog) -> None:
        """Validate, keep the weights where they are the best so far, and log."""
        found = probabilities(run.seen, validation, self.device, self.recipe.precision)
        rows = validation.items[:, -1]
        scores = metrics.all_metrics(
            found,
            np.asarray(self.recipe.spec().thresholds),
            self.pool.occurrence[rows],
            self.pool.intensity[rows],
        )
        means = {name: metrics.mean(column) for name, column in scores.items()}
        score = means[self.recipe.best_by]
        better = score > run.best
        if better:
            run.best, run.best_step = score, run.step
            facts = {"recipe": plain(self.recipe), "phase": run.index, "step": run.step, "validation": means}
            facts |= {"commit": commit(), "data": describe(self.pool)}
            checkpoint.write(self._best_of(run.index), run.seen.network.state_dict(), facts)
        epoch = run.step // run.steps_per_epoch
        loss, run.loss_sum = run.loss_sum / run.steps_per_epoch, 0.0
        row: dict[str, Any] = {"phase": run.index, "name": run.phase.name, "epoch": epoch, "step": run.step}
        row |= {"loss": f"{loss:.6f}"} | {f"mean_{name}": f"{value:.4f}" for name, value in means.items()}
        row |= {f"f1_{au}": f"{v:.4f}" for au, v in zip(self.pool.aus, scores["f1"], strict=True)}
        row |= {f"auc_{au}": f"{v:.4f}" for au, v in zip(self.pool.aus, scores["auc"], strict=True)}
        log.row(row)
        for name, value in means.items():
            log.curve(f"{run.phase.name}/mean_{name}", value, run.step)
        say(
            f"{run.phase.name}: epoch {epoch} of {run.phase.epochs}, loss {loss:.4f}, validation F1 "
            f"{means['f1']:.3f}, AUC {means['auc']:.3f}{', best so far' if better else ''}"
        )


def decisive(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a plain recipe that the weights depend on."""
    return {k: v for k, v in recipe.items() if k not in ("workers", "checkpoint_minutes", "note")}


def _alone_in(out: Path) -> IO[bytes]:
    """A file that is locked by this process as long as it is open.

    Raises:
        UsageError: another process trains in the folder.
    """
    lock = (out / "lock").open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise UsageError(f"{out}: another run is at work in it; wait for it, or give another --out") from None
    return lock


def fit(recipe: Recipe, out: Path) -> None:
    """Train by a recipe in a folder, or go on there.

    Raises:
        AustreamError: with one line that says what is wrong.
    """
    try:
        run = Run(recipe, out)
        with _alone_in(out):
            run.train()
    except AustreamError:
        raise
    except OSError as error:
        raise OutputError(f"--out {out}: {error.strerror or error}") from None
