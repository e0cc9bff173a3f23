"""The ablations of the papers by name, as changes to a study's recipe.

cednn      res-l6m3, dense-l18m1, …; then -att2, -att3, -att4 for maps in so many blocks, -se1 or -se2 for
           squeeze and excitation on a block's output or within it; igc and resnet18
satnet     satnet, tnet (no attention), sanet (no ConvLSTM), resnet18
arl        arl, wcs (no CRF), wc (no spatial attention), w (no attention), b (AUs weigh the same); iarl the
           same with an i, and iwcsp (no cosine loss)
eacnet     eacnet, enet, fvgg
tranet     tranet, residual, no_channel, no_spatial, masks, cbam, senet50
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from pipeline.errors import UsageError
from train.paper_tables import Study

Changes = tuple[str, ...]
"""`key=value` as `read_recipe` takes them."""

CEDNN = re.compile(r"(res|dense)-l(\d+)m(\d+)(?:-att([1-4]))?(?:-se([12]))?")
FRAMES = ("engine.window=1", 'phase.0.reads="frames"')
"""What a temporal recipe becomes without its ConvLSTM."""
ARL = {"b": "b", "w": "b", "wc": "wc", "wcs": "wcs", "wcsp": "wcsp", "arl": "wcsp"}
"""Variant of the paper → of the network."""


def _cednn(variant: str) -> Changes | None:
    if variant == "igc":
        return ('engine.network="igc"', "engine.variant={}", "engine.level_map=false")
    if variant == "resnet18":  # not pretrained, as all of that paper's networks
        return ('engine.network="satnet"', 'engine.variant={variant = "resnet18"}', "engine.level_map=false")
    match = CEDNN.fullmatch(variant)
    if match is None or int(match[2]) * int(match[3]) != 18:
        return None
    fields = {
        "branches": match[2],
        "connection": '"residual"' if match[1] == "res" else '"dense"',
        "attention_blocks": match[4] or "0",
        "se": {"1": '"first"', "2": '"second"', None: '"none"'}[match[5]],
    }
    inner = ", ".join(f"{key} = {value}" for key, value in fields.items())
    return (f"engine.variant={{{inner}}}", f"engine.level_map={str(bool(match[4])).lower()}")


def _satnet(variant: str) -> Changes | None:
    if variant not in ("satnet", "tnet", "sanet", "resnet18"):
        return None
    named = f'engine.variant={{variant = "{variant}"}}'
    return (named, *FRAMES) if variant in ("sanet", "resnet18") else (named,)


def _arl(variant: str) -> Changes | None:
    if variant not in ARL or variant == "wcsp":
        return None
    weights = ('phase.0.arl.weights="equal"',) if variant == "b" else ()
    return (f'engine.variant={{variant = "{ARL[variant]}"}}', *weights)


def _iarl(variant: str) -> Changes | None:
    plain = "arl" if variant == "iarl" else variant[1:]
    if not variant.startswith("i") or plain not in ARL:
        return None
    cosine = () if plain == "arl" else ("phase.0.arl.cosine=0.0",)
    weights = ('phase.0.arl.weights="equal"',) if plain == "b" else ()
    return (f'engine.variant={{variant = "{ARL[plain]}"}}', *cosine, *weights)


def _eacnet(variant: str) -> Changes | None:
    """On BP4D, where each is a step to the next."""
    later = {"fvgg": ("phase.2={}", "phase.1={}"), "enet": ("phase.2={}",), "eacnet": ()}
    return (*_eacnet_engine(variant), *later[variant]) if variant in later else None


def _eacnet_on_disfa(variant: str) -> Changes | None:
    """From the same variant on BP4D."""
    if variant not in ("fvgg", "enet", "eacnet"):
        return None
    begins = f"build/reproduce/eacnet-bp4d-{variant}/P1/run/best.safetensors"
    before = "crops" if variant == "eacnet" else "fc6"
    kept = f'phase.0.freeze=["features", "{before}", "fc7"]'
    return (*_eacnet_engine(variant), f'initial="{begins}"', kept)


def _eacnet_engine(variant: str) -> Changes:
    reads = str(variant != "fvgg").lower()
    return f'engine.variant={{variant = "{variant}"}}', f"engine.au_centers={reads}"


def _tranet(variant: str) -> Changes | None:
    known = ("tranet", "residual", "no_channel", "no_spatial", "masks", "cbam", "senet50")
    return (f'engine.variant={{variant = "{variant}"}}',) if variant in known else None


BY_STUDY: Mapping[str, Callable[[str], Changes | None]] = {  # by paper, or by study where that differs
    "cednn": _cednn,
    "satnet": _satnet,
    "arl": _arl,
    "iarl": _iarl,
    "eacnet": _eacnet,
    "eacnet-disfa": _eacnet_on_disfa,
    "tranet": _tranet,
}


def changes(study: Study, variant: str) -> Changes:
    """What makes a variant of a study's recipe.

    Raises:
        UsageError: the paper has no such variant.
    """
    paper = study.name.split("-")[0]
    found = BY_STUDY.get(study.name, BY_STUDY[paper])(variant)
    if found is None:
        known = ", ".join(study.variants)
        raise UsageError(f"--variant {variant}: no variant of {study.title}; expected one of {known}")
    return found
