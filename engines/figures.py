"""What a network costs, counted on its real code, and the figures that its paper prints.

Everything runs on PyTorch's meta device: shapes only, no arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from engines.networks.base import AUNetwork
from engines.networks.cednn import BRANCHES, CEDNN
from engines.networks.satnet import VARIANTS, ConvLSTM, SATNet

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
    """Of convolutions and linear layers for one output; `network` lives on the meta device.

    Args:
        network: CEDNN or SAT-Net.
        frames: of a temporal network's window.
    """
    px = network.input_px
    shape = (1, frames, 3, px, px) if network.temporal else (1, 3, px, px)
    inputs = [torch.zeros(shape, device="meta")]
    if network.reads_level_map:
        inputs.append(torch.zeros((1, px, px), device="meta"))
    with FlopCounterMode(display=False) as counter:
        network.eval()(*inputs)
    return counter.get_total_flops() // 2


def cednn_figures() -> list[Figures]:
    """All twelve variants without maps and SE (Table 6), then the one of Table 8."""
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


def satnet_figures() -> list[Figures]:
    """SAT-Net, its ablations and its ConvLSTM alone; a window of 16 frames."""
    rows = []
    for variant in VARIANTS:
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


def _conv_lstm(lstm: ConvLSTM) -> tuple[int, int]:
    """Parameters and multiply-accumulates over 16 frames of 28×28; the first has no hidden state yet."""
    pixel = [layer.weight.numel() for layer in (lstm.input_gates, lstm.hidden_gates)]
    return parameters(lstm), 28 * 28 * (16 * pixel[0] + 15 * pixel[1])
