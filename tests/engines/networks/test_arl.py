"""ARL against direct loops over its equations, and its CRF's gradients against finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from engines.backends.openvino import _traced, core
from engines.export import Mixed
from engines.networks import arl
from engines.networks.arl import ARL, VARIANTS, Branch, FullyConnectedCRF, PatchConv, RegionLayer
from engines.weights import randomise
from pipeline.errors import UsageError
from train.paper_losses import crf_energy


def mean_field_by_loops(logits: np.ndarray, features: np.ndarray, mu: np.ndarray) -> np.ndarray:
    """Eqs. 3–5 pixel by pixel and pair by pair: (H, W), (C, H, W), (2, 2) → P(y = 1), (H, W)."""
    height, width = logits.shape
    pixels = [(row, column) for row in range(height) for column in range(width)]
    p1 = {at: 1 / (1 + math.exp(-logits[at])) for at in pixels}
    unary = {at: (-math.log(1 - p1[at]), -math.log(p1[at])) for at in pixels}
    q = {at: (1 - p1[at], p1[at]) for at in pixels}

    def kernels(j: tuple[int, int], k: tuple[int, int]) -> tuple[float, float]:
        apart = (j[0] - k[0]) ** 2 + (j[1] - k[1]) ** 2
        unlike = sum((f[j] - f[k]) ** 2 for f in features)
        return math.exp(-apart / (2 * 160**2) - unlike / (2 * 3**2)), math.exp(-apart / (2 * 3**2))

    for _ in range(5):
        following = {}
        for j in pixels:
            sums = [[0.0, 0.0], [0.0, 0.0]]  # by kernel and label
            norms = [0.0, 0.0]
            for k in pixels:
                if k == j:
                    continue
                for m, kernel in enumerate(kernels(j, k)):
                    norms[m] += kernel
                    for label in (0, 1):
                        sums[m][label] += kernel * q[k][label]
            message = [5 * sums[0][y] / norms[0] + 3 * sums[1][y] / norms[1] for y in (0, 1)]
            energy = [unary[j][y] + sum(mu[y, other] * message[other] for other in (0, 1)) for y in (0, 1)]
            weight = [math.exp(-e) for e in energy]
            following[j] = (weight[0] / sum(weight), weight[1] / sum(weight))
        q = following
    return np.array([[q[row, column][1] for column in range(width)] for row in range(height)])


@pytest.mark.parametrize("mu", [[[0, 1], [1, 0]], [[0.3, 0.7], [1.4, -0.2]]])
def test_the_crf_is_the_direct_loop(mu: list[list[float]], rng: np.random.Generator) -> None:
    height, width = 5, 6
    crf = FullyConnectedCRF(height, width).double()
    crf.compatibility.data = torch.tensor(mu, dtype=torch.float64)
    logits, features = rng.normal(0, 2, (2, height, width)), rng.normal(0, 2, (2, 3, height, width))
    with torch.inference_mode():
        got = crf(torch.from_numpy(logits[:, None]), torch.from_numpy(features))
    for face in range(2):
        expected = mean_field_by_loops(logits[face], features[face], np.array(mu))
        np.testing.assert_allclose(got[face, 0].numpy(), expected, atol=1e-7)


def test_the_crf_starts_as_potts_and_refines() -> None:
    """Two halves that the features part as far as tanh can, 16 of them as in the network."""
    crf = FullyConnectedCRF(8, 8)
    assert crf.compatibility.tolist() == [[0, 1], [1, 0]]
    logits = torch.full((1, 1, 8, 8), -1.0)
    logits[..., 4:] = 1.0
    logits[0, 0, 3, 1] = 1.0  # a stray pixel
    features = torch.full((1, 16, 8, 8), -1.0)
    features[..., 4:] = 1.0
    with torch.inference_mode():
        refined = crf(logits, features)
    assert refined[..., 4:].min() > 0.9
    assert refined[..., :4].max() < 0.1


@pytest.mark.parametrize(("mean", "low", "high"), [(0.4987, 0.0, 0.05), (0.5013, 0.95, 1.0)])
def test_the_crf_decides_for_all_pixels_near_a_half(mean: float, low: float, high: float) -> None:
    """Why new weights must not leave the mean to chance: `ATTENTIVE`."""
    logits = torch.full((1, 1, 44, 44), math.log(mean / (1 - mean)))
    with torch.inference_mode():
        refined = FullyConnectedCRF()(logits, torch.zeros(1, 16, 44, 44))
    assert low <= refined.min() <= refined.max() <= high


@pytest.mark.parametrize("seed", range(3))
def test_new_weights_attend(seed: int) -> None:
    """Whatever was drawn, by PyTorch or from a bundle's seed."""
    torch.manual_seed(seed)
    network = ARL(4)
    images = torch.randn(1, 3, 176, 176)
    for _ in range(2):
        with torch.inference_mode():
            _, maps = network.eval()(images, return_attention=True)
        assert min(float(m.refined.min()) for m in maps) > 0.9
        randomise(network, seed)


def test_the_crfs_gradients_are_finite_differences(rng: np.random.Generator) -> None:
    crf = FullyConnectedCRF(3, 4).double()
    logits = torch.from_numpy(rng.normal(0, 1, (1, 1, 3, 4))).requires_grad_()
    features = torch.from_numpy(rng.normal(0, 1, (1, 2, 3, 4))).requires_grad_()

    def run(logits: torch.Tensor, features: torch.Tensor, mu: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(crf, {"compatibility": mu}, (logits, features))

    mu = torch.tensor([[0.1, 0.9], [1.1, 0.2]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (logits, features, mu), atol=1e-6)


def test_float32_on_the_papers_grid_is_float64() -> None:
    torch.manual_seed(0)
    logits, features = torch.randn(1, 1, 44, 44), torch.tanh(torch.randn(1, 16, 44, 44))
    crf = FullyConnectedCRF()
    with torch.inference_mode():
        single = crf(logits, features)
        double = crf.double()(logits.double(), features.double())
    assert (single - double).abs().max() < 2e-6


@pytest.fixture
def undecided() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and features of a face whose mean is so near 1/2 that the CRF parts its pixels."""
    coarse = torch.randn(1, 17, 6, 6, generator=torch.Generator().manual_seed(0))
    maps = nn.functional.interpolate(coarse, size=(44, 44), mode="bilinear")
    logits = maps[:, :1] - maps[:, :1].mean() + 0.025
    return logits, torch.tanh(2 * maps[:, 1:])


def test_openvino_computes_the_crf_where_it_decides(undecided: tuple[torch.Tensor, torch.Tensor]) -> None:
    """By itself: within a network of new weights its maps are 1 everywhere, however they are computed."""
    crf = FullyConnectedCRF().eval()
    given = dict(zip(("logits", "features"), (m.numpy() for m in undecided), strict=True))
    graph = _traced(crf, {name: (array.shape, np.float32) for name, array in given.items()})
    got = core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(given)[0]
    with torch.inference_mode():
        wanted = crf(*undecided).numpy()
    assert wanted.min() < 0.1
    assert wanted.max() > 0.9
    assert ((wanted > 0.2) & (wanted < 0.8)).mean() > 0.1
    np.testing.assert_allclose(got, wanted, atol=2e-5)


def test_autocast_leaves_the_crf_in_float32(undecided: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Eagerly and exported, and its energy in training; only what comes in is halved."""
    logits, features = undecided
    crf = FullyConnectedCRF()
    plain, energy = crf(logits, features), crf_energy(crf, logits, features, torch.sigmoid(logits))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(crf(logits, features), plain)
        assert torch.equal(crf_energy(crf, logits, features, torch.sigmoid(logits)), energy)
        halved = [m.bfloat16() for m in undecided]
        assert torch.equal(crf(*halved), crf(*(m.float() for m in halved)))
    mixed = Mixed(crf, "cpu", torch.bfloat16)
    given = {"logits": logits, "features": features}
    with torch.inference_mode():
        assert torch.equal(mixed(**given), plain)
    with torch.no_grad():
        exported = torch.export.export(mixed, (), given, strict=False).module()
        assert torch.equal(exported(**given), plain)


def test_patches_have_their_own_filters() -> None:
    """Cut out by hand, normalised, convolved with zeros around, put back."""
    torch.manual_seed(0)
    layer = PatchConv(4, 6, 3).eval()
    for buffer in (layer.norm.running_mean, layer.norm.weight.data, layer.norm.bias.data):
        buffer.copy_(torch.rand(96))
    x = torch.randn(2, 6, 16, 24)
    got = layer(x)
    for row in range(4):
        for column in range(4):
            n = 4 * row + column
            place = (..., slice(4 * row, 4 * row + 4), slice(6 * column, 6 * column + 6))
            own = slice(6 * n, 6 * n + 6)
            scale = layer.norm.weight[own] / torch.sqrt(layer.norm.running_var[own] + layer.norm.eps)
            patch = x[place] - layer.norm.running_mean[own, None, None]
            patch = torch.relu(patch * scale[:, None, None] + layer.norm.bias[own, None, None])
            filters = slice(3 * n, 3 * n + 3)
            expected = nn.functional.conv2d(
                patch, layer.conv.weight[filters], layer.conv.bias[filters], padding=1
            )
            torch.testing.assert_close(got[place], expected, rtol=1e-4, atol=1e-5)


def test_the_region_layer_adds_three_scales_to_its_input() -> None:
    torch.manual_seed(0)
    layer = RegionLayer(3, 16).eval()
    x = torch.randn(1, 3, 16, 16)
    base = layer.conv(x)
    fine = layer.fine(base)
    middle = layer.middle(fine)
    joined = torch.cat([fine, middle, layer.coarse(middle)], 1)
    assert [fine.shape[1], middle.shape[1], joined.shape[1]] == [8, 4, 16]
    torch.testing.assert_close(layer(x), torch.relu(layer.norm(base + joined)))


def test_a_branch_follows_equations_1_to_7() -> None:
    torch.manual_seed(0)
    branch = Branch(64, "wcsp").eval()
    x = torch.randn(1, 64, 44, 44)
    with torch.inference_mode():
        logit, attention = branch(x)
        f1 = torch.relu(branch.first(x))
        v_c = torch.sigmoid(branch.channel_weights.weight @ f1.mean((2, 3))[0] + branch.channel_weights.bias)
        f_c = branch.second(f1) * v_c[None, :, None, None]
        f3 = torch.relu(branch.third(torch.relu(branch.second_norm(f_c))))
        f3s = torch.tanh(branch.pixel_features(f3))
        v_0s = torch.sigmoid(branch.pixel_weights(f3s))
        v_s = branch.crf(torch.logit(v_0s), f3s)
        f_s = branch.fourth(f3) * v_s
        f_r = branch.fifth(torch.relu(branch.fourth_norm(f_s))).mean((2, 3))
        torch.testing.assert_close(logit, branch.fc(f_r), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(attention.channels[0], v_c)
        torch.testing.assert_close(attention.initial, v_0s)
        torch.testing.assert_close(attention.refined, v_s, rtol=1e-4, atol=1e-5)


def test_recomputing_the_kernel_leaves_the_gradients() -> None:
    torch.manual_seed(0)
    branch = Branch(64, "wcsp").eval()
    x = torch.randn(1, 64, 44, 44)
    branch(x)[0].sum().backward()
    got = {name: p.grad.clone() for name, p in branch.named_parameters()}
    branch.zero_grad()
    branch.of_crf = lambda function, *maps: function(branch.crf, *maps)
    branch(x)[0].sum().backward()
    for name, parameter in branch.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, rtol=1e-4, atol=1e-7)
    assert got["crf.compatibility"].abs().max() > 0


def saved_bytes(network: torch.nn.Module, image: torch.Tensor) -> int:
    """What a pass keeps for the way back, weights left out, every storage once."""
    own = {p.untyped_storage().data_ptr() for p in (*network.parameters(), *network.buffers())}
    kept: dict[int, int] = {}

    def keep(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        answer = network(image)
    del answer
    return sum(kept.values())


def test_a_batch_of_32_fits_in_memory() -> None:
    """What two faces and a few AUs keep for the way back, taken to 32 faces and 12 AUs in float32."""
    few, more = (ARL(n).train() for n in (1, 2))
    one, two = (saved_bytes(few, torch.randn(faces, 3, 176, 176)) for faces in (1, 2))
    a_branch = saved_bytes(more, torch.randn(1, 3, 176, 176)) - one
    a_face = two - one
    assert a_branch < 15e6  # the kernel alone would be that: it is not kept
    assert 32 * (a_face + 11 * a_branch) < 4e9


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_have_their_parts_and_maps(variant: str) -> None:
    torch.manual_seed(0)
    network = ARL(2, variant).eval()
    names = "".join(name for name, _ in network.named_parameters())
    assert ("channel_weights" in names) == (variant != "b")
    assert ("pixel_weights" in names) == (variant in ("wcs", "wcsp"))
    assert ("compatibility" in names) == (variant == "wcsp")
    image = torch.randn(2, 3, 176, 176)
    with torch.inference_mode():
        logits, maps = network(image, return_attention=True)
        torch.testing.assert_close(network(image), logits)
    assert logits.shape == (2, 2)
    assert len(maps) == 2
    for attention in maps:
        shapes = [None if m is None else tuple(m.shape) for m in attention]
        spatial = (2, 1, 44, 44) if variant in ("wcs", "wcsp") else None
        features = (2, 16, 44, 44) if spatial else None
        assert shapes == [None if variant == "b" else (2, 64), spatial, spatial, spatial, features]
        if spatial:
            assert torch.equal(torch.sigmoid(attention.pixel_logits), attention.initial)
            assert torch.equal(attention.initial, attention.refined) == (variant == "wcs")


def test_the_papers_numbers() -> None:
    assert (arl.ALPHA, arl.BETA, arl.GAMMA, arl.STEPS, arl.UNIT) == (160, 3, 3, 5, 8)
    assert (arl.APPEARANCE_WEIGHT, arl.SMOOTHNESS_WEIGHT) == (5, 3)
    assert ARL.input_px == 176
    with pytest.raises(UsageError, match="arl: variant"):
        ARL(2, "wcspx")
