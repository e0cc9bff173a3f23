"""What a network costs, counted on its real code, and the figures that its paper prints.

Everything runs on PyTorch's meta device: shapes only, no arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from engines.networks import arl, delta, eacnet, satnet, tranet
from engines.networks.base import AUNetwork
from engines.networks.cednn import BRANCHES, CEDNN, IGC
from engines.networks.satnet import ConvLSTM, SATNet
from engines.spec import AU_CENTERS, LANDMARKS

CEDNN_PARAMETERS_M = {
    "residual": (13.33, 11.34, 10.68, 10.02, 9.80, 9.59),
    "dense": (14.22, 12.23, 11.57, 10.91, 10.69, 10.48),
}
"""Table 6, millions, by L in the order of `BRANCHES`."""
CEDNN_FLOPS_G = {
    "residual": (1.13, 0.69, 0.54, 0.40, 0.36, 0.33),
    "dense": (1.32, 0.88, 0.74, 0.60, 0.56, 0.52),
}
CEDNN_ELEMENTWISE_G = 0.0352
"""What the paper's FLOPs hold beyond multiply-accumulates: any from 0.0349 to 0.0355 explains all 12."""
CEDNN_SE_PARAMETERS_M = 9.79
"""Table 8: residual L18M1 with channel attention."""
IGC_FIGURES = 0.57, 0.83
"""Table 6: millions of parameters, GFLOPs."""
IGC_AUS = 13
"""Of CK+, with which the baseline comes to its figure."""
IGC_ELEMENTWISE_G = 0.111
"""Of its biases, normalisations (two operations) and ReLUs, on 48·224², 96·112² and 192·56² numbers."""
TRANET_REGIONS: tuple[tranet.Region, ...] = ("upper",) * 3 + ("middle",) * 2 + ("lower",) * 7
"""Of twelve AUs; the paper has eight."""
PAPER_AUS = 12
"""Of DISFA+ and of BP4D, which the papers' figures are for."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One network beside its paper; None where the paper gives no figure."""

    network: str
    parameters: int
    multiply_accumulates: int
    paper_parameters_m: float | None = None
    paper_flops_g: float | None = None
    agrees: bool | None = None
    """Whether every figure of the paper is met to the digits that it prints."""


def parameters(network: nn.Module) -> int:
    """Trainable numbers."""
    return sum(p.numel() for p in network.parameters())


def multiply_accumulates(network: AUNetwork, frames: int = 1) -> int:
    """Of convolutions, linear layers and products of matrices for one output.

    Args:
        network: any; lives on the meta device.
        frames: of a temporal network's window.
    """
    px = network.input_px
    shape = (1, frames, 3, px, px) if network.temporal else (1, 3, px, px)
    beside = {
        "level_map": (1, px, px),
        "au_centers": (1, AU_CENTERS, 2),
        "neutral": (1, 3, px, px),
        "landmarks": (1, 2, LANDMARKS, 3),
    }
    read = {
        name: torch.zeros(size, device="meta")
        for name, size in beside.items()
        if getattr(network, f"reads_{name}")
    }
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(shape, device="meta"), **read)
    return counter.get_total_flops() // 2


def cednn_figures() -> list[Figures]:
    """All twelve variants without maps and SE (Table 6), and the one of Table 8."""
    rows = []
    for connection in ("residual", "dense"):
        columns = zip(BRANCHES, CEDNN_PARAMETERS_M[connection], CEDNN_FLOPS_G[connection], strict=True)
        for branches, paper_m, paper_g in columns:
            with torch.device("meta"):
                network = CEDNN(PAPER_AUS, branches, connection, attention_blocks=0, se=None)
            count, macs = parameters(network), multiply_accumulates(network)
            agrees = (
                round(count / 1e6, 2) == paper_m and round(macs / 1e9 + CEDNN_ELEMENTWISE_G, 2) == paper_g
            )
            name = f"{connection} L{branches}M{18 // branches}"
            rows.append(Figures(name, count, macs, paper_m, paper_g, agrees))
    with torch.device("meta"):
        network = CEDNN(PAPER_AUS)
    count, macs = parameters(network), multiply_accumulates(network)
    agrees = (
        round(count / 1e6, 2) == CEDNN_SE_PARAMETERS_M and round(macs / 1e9 + CEDNN_ELEMENTWISE_G, 2) == 0.33
    )
    rows.append(Figures("residual L18M1, 3 maps, SE first", count, macs, CEDNN_SE_PARAMETERS_M, 0.33, agrees))
    return rows


def igc_figures() -> list[Figures]:
    """CEDNN's baseline, of the same Table 6."""
    with torch.device("meta"):
        baseline = IGC(IGC_AUS)
    count, macs = parameters(baseline), multiply_accumulates(baseline)
    agrees = (round(count / 1e6, 2), round(macs / 1e9 + IGC_ELEMENTWISE_G, 2)) == IGC_FIGURES
    return [Figures("IGC-L24M2", count, macs, *IGC_FIGURES, agrees)]


def satnet_figures() -> list[Figures]:
    """SAT-Net, its ablations and its ConvLSTM alone; a window of 16 frames."""
    rows = []
    for variant in satnet.VARIANTS:
        with torch.device("meta"):
            network = SATNet(PAPER_AUS, variant)
        count, macs = parameters(network), multiply_accumulates(network, 16)
        paper = 11.0 if variant == "resnet18" else None  # "11 million"
        agrees = None if paper is None else round(count / 1e6) == paper
        rows.append(Figures(variant, count, macs, paper, None, agrees))
        if variant == "satnet":
            lstm = network.conv_lstm
            rows.append(
                Figures("its ConvLSTM", *_conv_lstm(lstm), 1.2, None, round(parameters(lstm) / 1e6, 1) == 1.2)
            )
    return rows


def _plain(names: dict[str, Callable[[], AUNetwork]]) -> list[Figures]:
    """Networks whose papers print no figure."""
    rows = []
    for name, make in names.items():
        with torch.device("meta"):
            network = make()
        rows.append(Figures(name, parameters(network), multiply_accumulates(network)))
    return rows


def arl_figures() -> list[Figures]:
    """ARL and its ablations; iARL and its own are the same networks."""
    names = {"b": "B-Net, W-Net", "wc": "WC-Net", "wcs": "WCS-Net", "wcsp": "ARL, iARL"}
    return _plain({names[v]: partial(arl.ARL, PAPER_AUS, v) for v in arl.VARIANTS})


def eacnet_figures() -> list[Figures]:
    """FVGG, E-Net and EAC-Net."""
    return _plain({v: partial(eacnet.EACNet, PAPER_AUS, v) for v in eacnet.VARIANTS})


def tranet_figures() -> list[Figures]:
    """TRA-Net and the variants of its Table 2."""
    return _plain({v: partial(tranet.TRANet, PAPER_AUS, v, TRANET_REGIONS) for v in tranet.VARIANTS})


def delta_figures() -> list[Figures]:
    """Delta, and each of its parts alone."""
    parts: dict[str, dict[str, bool]] = {
        "delta": {},
        "pixels": {"landmarks": False},
        "landmarks": {"pixels": False},
    }
    return _plain({name: partial(delta.Delta, PAPER_AUS, **given) for name, given in parts.items()})


FIGURES: dict[str, tuple[Callable[[], list[Figures]], str]] = {
    "cednn": (
        cednn_figures,
        "12 AUs. Paper: Table 6, and Table 8 for the row with SE. Its FLOPs also count element-wise work\n"
        "(biases, normalisation, ReLU, pooling): one constant makes up the difference, "
        f"{1000 * CEDNN_ELEMENTWISE_G:.1f} million.\n`agrees` means with it.",
    ),
    "igc": (
        igc_figures,
        f"{IGC_AUS} AUs. Paper: CEDNN's, Table 6, whose baseline it is. `agrees` means with element-wise\n"
        f"work: biases, normalisation and ReLU, {1000 * IGC_ELEMENTWISE_G:.0f} million.",
    ),
    "satnet": (
        satnet_figures,
        "12 AUs; satnet and tnet over a window of 16 frames. The paper: 1.2 and 11 million, no FLOPs.",
    ),
    "arl": (
        arl_figures,
        "12 AUs, products with the CRF's 1936×1936 kernels included. The paper: no figures.",
    ),
    "eacnet": (eacnet_figures, "12 AUs. The paper: no figures."),
    "tranet": (tranet_figures, "12 AUs. The paper: no figures."),
    "delta": (delta_figures, "12 AUs. austream's own, of no paper."),
}
"""By network: its rows, and what is to be known about them."""


def _conv_lstm(lstm: ConvLSTM) -> tuple[int, int]:
    """Parameters and multiply-accumulates over 16 frames of 28×28; the first has no hidden state yet."""
    pixel = [layer.weight.numel() for layer in (lstm.input_gates, lstm.hidden_gates)]
    return parameters(lstm), 28 * 28 * (16 * pixel[0] + 15 * pixel[1])
