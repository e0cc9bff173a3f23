"""Recipes: everything that decides what a training run yields, read from TOML."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from engines.networks import build_network
from engines.spec import CropSpec, EngineSpec
from pipeline.errors import EngineError, UsageError
from train.tables import from_table, plain

RECIPES = Path(__file__).parent / "recipes"
PAPER = "paper"
"""In `freeze`: what the paper keeps."""
PUBLISHED = "published:"
"""How `initial` begins for weights under public names."""
MIN_SHRUNK_PX = 64
PRESENT_FROM = 2.0
"""Intensity from which an AU counts as present, as the papers count DISFA's."""


def _require(owner: object, low: float, high: float, *names: str) -> None:
    """Every named number lies in [low, high]."""
    for name in names:
        value = getattr(owner, name)
        if not low <= value <= high:
            span = f"{low:g} or more" if math.isinf(high) else f"{low:g} to {high:g}"
            raise ValueError(f"{name}: expected {span}, got {value!r}")


@dataclass(frozen=True, slots=True)
class EngineTable:
    """`[engine]`: which network, and what it reads."""

    name: str
    network: str
    crop: str
    """A `CropSpec.name`."""
    aus: tuple[str, ...]
    variant: Mapping[str, Any] = field(default_factory=dict)
    level_map: bool = False
    """Whether it also reads the level map."""
    au_centers: bool = False
    """Whether it also reads where its crop shows the AU centres."""
    neutral: bool = False
    """Whether it also reads the neutral face."""
    landmarks: bool = False
    """Whether it also reads the mesh points of the face and its neutral."""
    window: int = 1
    rate_hz: float | None = None
    """Frames a second of the clips that a temporal network is trained on."""
    max_intensity: float | None = None
    """For a network that estimates intensities: its output times this is one."""


@dataclass(frozen=True, slots=True)
class DataTable:
    """`[data]`: sample folders, and the subjects that are kept for validation."""

    folders: tuple[str, ...]
    """Relative to where the command runs."""
    validation_share: float = 0.15
    """Of the subjects, drawn by `validation_seed`."""
    validation_seed: int = 0
    validation_subjects: tuple[int, ...] = ()
    """Named ones instead of a share."""
    present_from: Mapping[str, float] = field(default_factory=dict)
    """By AU, the least intensity, 0–5, that is learned from as present; what is fainter counts as unknown."""
    test_subjects: tuple[int, ...] = ()
    """Not trained on, and not validated on unless they are named there too."""
    shown_only: bool = False
    """Leave out samples that show none of the AUs, as CEDNN does on CK+."""
    dataset: str = ""
    fold: str = ""
    """Of a published protocol: the part that is tested."""
    protocol: Literal["", "clean", "paper"] = ""
    """See train/protocol.py."""

    def __post_init__(self) -> None:
        for au, least in self.present_from.items():
            if not (isinstance(least, int | float) and 0 <= least <= 5):
                raise ValueError(f"present_from.{au}: expected an intensity from 0 to 5, got {least!r}")
        if not self.folders:
            raise ValueError("folders: expected at least one sample folder, got none")
        _require(self, 0.01, 0.9, "validation_share")
        _require(self, 0, math.inf, "validation_seed")
        if self.protocol != "paper" and set(self.validation_subjects) & set(self.test_subjects):
            raise ValueError(
                "validation_subjects: expected others than test_subjects, unless protocol is 'paper'"
            )


@dataclass(frozen=True, slots=True)
class AugmentTable:
    """`[augment]`: how strongly training pictures are changed; 0 leaves one kind out."""

    flip: float = 0.5
    """Share of samples mirrored, level map with them."""
    brightness: float = 0.0
    """Grey levels of 255, up or down."""
    contrast: float = 0.0
    """Gain 1 ± this."""
    colour: float = 0.0
    """Gain of each channel, 1 ± this."""
    blur: float = 0.0
    """Up to this standard deviation in pixels, on half of the samples."""
    noise: float = 0.0
    """Up to this standard deviation in grey levels."""
    jpeg: float = 0.0
    """Share of samples that go through JPEG at quality 25 to 90."""
    rotate_deg: float = 0.0
    scale: float = 0.0
    """Size 1 ± this."""
    shift_px: float = 0.0
    erase: float = 0.0
    """Share of samples of which a rectangle is hidden."""
    neutral_dropout: float = 0.0
    """Share of samples whose neutral is left out, as where a stream has none yet."""
    crop: str = ""
    """A larger crop of the samples, of which training cuts pieces of the engine's size at random, e.g.
    `level_eyes_whole_200`; validation keeps to the engine's own."""
    jitter: float = 0.01
    """How far landmarks are turned and stretched, as a share: the head's pose is never read exactly."""

    def __post_init__(self) -> None:
        _require(self, 0, 1, "flip", "jpeg", "erase", "neutral_dropout")
        _require(self, 0, 0.9, "contrast", "colour", "scale")
        _require(self, 0, 100, "brightness", "noise", "shift_px")
        _require(self, 0, 0.3, "jitter")
        _require(self, 0, 20, "blur")
        _require(self, 0, 180, "rotate_deg")


@dataclass(frozen=True, slots=True)
class ARLTable:
    """`arl` of a phase: the parts of ARL's Eqs. 9 and 13."""

    weights: Literal["inverse_rate", "equal"] = "inverse_rate"
    """Of the AUs; `equal`, 1 each, is B-Net's."""
    energy: float = 0.0
    """Share of the CRF's energy; the paper's is 1, but see train/paper_losses.py."""
    cosine: float = 0.5
    """λ of Eq. 13, where intensities are estimated; 0 for iWCSP-Net."""

    def __post_init__(self) -> None:
        _require(self, 0, math.inf, "energy", "cosine")


@dataclass(frozen=True, slots=True)
class PhaseTable:
    """`[[phase]]`: one stretch of training; the next begins with the best weights of this one."""

    name: str
    epochs: int
    lr: float
    reads: Literal["frames", "windows", "features"] = "frames"
    """`frames`: one picture each; `windows`: whole windows; `features`: windows of what the frozen layers up
    to the ConvLSTM make of each frame, computed once and kept on disk."""
    variant: Mapping[str, Any] = field(default_factory=dict)
    """Replaces fields of the engine's variant, e.g. SA-Net as a first phase of SAT-Net."""
    steps_per_epoch: int = 0
    """Optimiser steps from one validation to the next; 0: once through the data."""
    shrunk_px: int = 0
    """Side that pictures are shrunk to, where the network takes any: a first phase at half the side costs a
    quarter. 0: as large as the engine reads them."""
    batch_size: int = 32
    """Samples or windows that go through the network at once."""
    accumulate: int = 1
    """Batches whose gradients are summed to one step."""
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: Literal["constant", "step", "cosine"] = "constant"
    step_epochs: int = 10
    step_factor: float = 0.1
    final_share: float = 0.01
    """Of lr, where a cosine ends."""
    warmup_steps: int = 0
    clip_norm: float = 0.0
    """Longest gradient, over all weights; 0: any."""
    loss: Literal["bce", "mean_bce", "weighted_bce", "arl", "eacnet", "tranet", "linear"] = "bce"
    """See train/objective.py. `arl` is Eq. 9, or Eq. 13 where the engine has a `max_intensity`."""
    arl: ARLTable = field(default_factory=ARLTable)
    sampler: Literal["uniform", "balanced", "rare", "inverse_rate"] = "uniform"
    """See `Batches.order`."""
    freeze: tuple[str, ...] = ()
    """Parts of the network that stay as they are, e.g. `layer1` or `layer1.0`; `paper` stands for those that
    the network's paper leaves at their published values."""
    ema_decay: float = 0.0
    """Of the moving average of the weights that is validated and kept; 0: none."""
    hop: int = 1
    """Frames from one training window to the next, in a clip."""
    copies: int = 1
    """Differently augmented copies of every clip, for `features`."""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"name: expected a word, got {self.name!r}")
        whole = ("epochs", "batch_size", "accumulate", "step_epochs", "hop", "copies")
        _require(self, 1, math.inf, *whole)
        _require(self, 0, math.inf, "steps_per_epoch", "warmup_steps", "clip_norm", "weight_decay")
        if self.shrunk_px and (self.shrunk_px < MIN_SHRUNK_PX or self.reads != "frames"):
            wanted = f"0, or {MIN_SHRUNK_PX} or more beside reads = 'frames'"
            raise ValueError(f"shrunk_px: expected {wanted}, got {self.shrunk_px}")
        _require(self, 1e-8, 10, "lr")
        _require(self, 0, 0.99999, "momentum", "ema_decay")
        _require(self, 0, 1, "step_factor", "final_share")
        if self.nesterov and (self.optimiser != "sgd" or not self.momentum):
            raise ValueError("nesterov: expected optimiser 'sgd' with momentum beside it")


def _check_loss(phase: PhaseTable, engine: EngineTable, where: str) -> None:
    """A loss that this engine has.

    Raises:
        ValueError: it has not.
    """
    if engine.max_intensity is not None and phase.loss != "arl":
        raise ValueError(f"{where}: loss: expected 'arl' beside engine.max_intensity, got {phase.loss!r}")
    if phase.loss == "tranet" and engine.network != "tranet":
        raise ValueError(f"{where}: loss: 'tranet' sums TRA-Net's branches, {engine.network!r} has none")
    variant = {**engine.variant, **phase.variant}.get("variant", "wcsp")
    if phase.arl.energy and (phase.loss, engine.network, variant) != ("arl", "arl", "wcsp"):
        raise ValueError(f"{where}: arl.energy: expected loss 'arl' of the network with a CRF, arl's 'wcsp'")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole recipe."""

    engine: EngineTable
    data: DataTable
    phase: tuple[PhaseTable, ...]
    augment: AugmentTable = field(default_factory=AugmentTable)
    seed: int = 0
    device: Literal["cpu", "cuda", "auto"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the forward and backward pass; weights and optimiser stay fp32."""
    threads: int = 0
    """0: PyTorch's own choice. Another number may change last bits."""
    workers: int = 0
    """Processes that prepare batches; 0: none."""
    channels_last: bool = False
    best_by: Literal["f1", "auc", "icc"] = "auc"
    """Mean over AUs on the validation subjects that decides which epoch is kept; f1 at threshold 0.5, or at
    intensity 2."""
    initial: str = ""
    """Safetensors to begin with; tensors of the same name and shape are taken. `published:FILE`: the paper's
    published starting weights under their public names, of which none may be missing."""
    initial_aus: Mapping[str, str] = field(default_factory=dict)
    """AUs that `initial` does not have → which of its own they begin as."""
    checkpoint_minutes: float = 2.0
    note: str = ""

    def __post_init__(self) -> None:
        _require(self, 0, math.inf, "seed", "threads", "workers", "checkpoint_minutes")
        if not self.phase:
            raise ValueError("phase: expected at least one [[phase]]")
        if len({p.name for p in self.phase}) != len(self.phase):
            raise ValueError(f"phase: expected different names, got {[p.name for p in self.phase]}")
        for i, phase in enumerate(self.phase):
            _check_loss(phase, self.engine, f"phase.{i}")
            if PAPER in phase.freeze and not self.initial:
                raise ValueError(f"phase.{i}: freeze: 'paper' keeps published weights; name them by initial")
            if phase.reads == "features" and self.augment.crop:
                raise ValueError(
                    f"phase.{i}: reads: 'features' are of the engine's own crop; no augment.crop"
                )
            if phase.reads == "features" and self.engine.network != "satnet":
                raise ValueError(f"phase.{i}: reads: 'features' is for satnet, got {self.engine.network!r}")
            self.spec(phase)
        if plain(self.spec(self.phase[-1])) != plain(self.spec()):
            raise ValueError("phase: expected the last one to train the engine itself, got another variant")

    @property
    def threshold(self) -> float:
        """The probability from which the papers call an AU: 0.5, or that of intensity 2."""
        intensity = self.engine.max_intensity
        return 0.5 if intensity is None else PRESENT_FROM / intensity

    def spec(self, phase: PhaseTable | None = None) -> EngineSpec:
        """The engine that comes out, or the one that a phase trains; thresholds 0.5, or at intensity 2.

        Raises:
            ValueError: network, variant, crop, window or AUs contradict each other.
        """
        try:
            crop = CropSpec.named(self.engine.crop)
            larger = CropSpec.named(self.augment.crop or self.engine.crop)
        except ValueError as error:
            raise ValueError(f"engine.{error}") from None
        if larger.size_px < crop.size_px:
            raise ValueError(f"augment.crop: expected {crop.size_px} px or more, got {larger.name}")
        if larger != crop and (self.engine.level_map or self.engine.neutral):
            raise ValueError(
                "augment.crop: level map and neutral belong to the engine's own crop; leave it out"
            )
        named = {**self.engine.variant, **(phase.variant if phase else {})}
        variant = {key: None if value == "none" else value for key, value in named.items()}
        window = 1 if phase is not None and phase.reads == "frames" else self.engine.window
        try:
            spec = EngineSpec(
                name=self.engine.name,
                network=self.engine.network,
                variant=variant,
                crop=crop,
                level_map=self.engine.level_map,
                au_centers=self.engine.au_centers and variant.get("variant") != "fvgg",
                neutral=self.engine.neutral,
                landmarks=self.engine.landmarks,
                window=window,
                rate_hz=self.engine.rate_hz if window > 1 else None,
                aus=self.engine.aus,
                max_intensity=self.engine.max_intensity,
                thresholds=(self.threshold,) * len(self.engine.aus),
                provenance={"trained": "in training"},
            )
            with torch.device("meta"):  # its shapes alone
                network = build_network(spec)
        except (ValueError, EngineError) as error:
            raise ValueError(f"engine: {error}") from None
        if phase is not None and phase.shrunk_px and not network.takes_any_px:
            raise ValueError(f"shrunk_px: {spec.network} reads pictures of {network.input_px} px alone")
        return spec


def read_recipe(path: Path | str, changes: Sequence[str] = ()) -> Recipe:
    """A recipe from a file, or the one of that name in train/recipes.

    Args:
        path: a file; where there is none, `NAME` means train/recipes/NAME.toml.
        changes: `key=value` with a dotted key and a TOML value, e.g. `phase.0.epochs=3`; `phase.1={}` leaves
            that phase out.

    Raises:
        UsageError: the file cannot be read, is no TOML, or says something impossible.
    """
    path = Path(path)
    named = RECIPES / f"{path}.toml"
    path = named if not path.exists() and named.exists() else path
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise UsageError(
            f"{path}: cannot read the recipe: {error.strerror}; known by name: {known}"
        ) from None
    except ValueError as error:
        raise UsageError(f"{path}: expected TOML: {' '.join(str(error).split())}") from None
    for change in changes:
        _change(table, change)
    if isinstance(table.get("phase"), list):
        table["phase"] = [phase for phase in table["phase"] if phase != {}]
    return from_table(Recipe, table, path.name)


def _change(table: dict[str, Any], change: str) -> None:
    """Set one key of a nested table."""
    dotted, equals, text = change.partition("=")
    if not equals or not dotted:
        raise UsageError(f"--set {change}: expected key=value, e.g. phase.0.epochs=3")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        value = text
    *parents, last = dotted.split(".")
    at: Any = table
    for part in parents:
        try:
            at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
        except (ValueError, IndexError):
            raise UsageError(f"--set {change}: no entry {part!r} in the recipe; count from 0") from None
    if isinstance(at, list) and last.isdigit() and int(last) < len(at):
        at[int(last)] = value  # phase.2={} leaves a phase out
        return
    if not isinstance(at, dict):
        raise UsageError(f"--set {change}: expected a key within a table; for a phase, phase.0.{last}")
    at[last] = value


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Dotted keys at which two plain recipes differ, with both values."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = sorted(set(one) | set(other))
        return [d for k in keys for d in differences(one.get(k), other.get(k), f"{where}.{k}".lstrip("."))]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [d for i in range(len(one)) for d in differences(one[i], other[i], f"{where}.{i}")]
    return [] if one == other else [f"{where} {one!r} → {other!r}"]
