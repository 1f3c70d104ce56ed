"""Networks: as large as the paper says, initialised as documented, and of the right shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from valleys.lab.errors import LabError
from valleys.lab.tasks.networks import cifar_resnet, cifar_resnet18, densenet, resnet34, resnet50, vgg16
from valleys.lab.tasks.networks.resnets import Padded, Residual, basic, projection

SIZES = [
    # network, classes, parameters, what the paper says in units of 10 ** digits
    (partial(cifar_resnet, 20), 10, 269_722, "0.27M"),
    (partial(cifar_resnet, 20), 100, 275_572, None),
    (partial(cifar_resnet, 8), 10, 75_290, None),
    (cifar_resnet18, 10, 11_173_962, None),
    (cifar_resnet18, 100, 11_220_132, None),
    (vgg16, 10, 33_726_378, "33.73M"),
    (vgg16, 100, 34_095_108, None),
    (densenet, 10, 7_259_786, None),
    (densenet, 100, 7_271_396, "7.27M"),
    (resnet34, 1000, 21_797_672, "21.80M"),
    (resnet50, 1000, 25_557_032, "25.56M"),
]

SMALL = [
    (partial(cifar_resnet, 8, width=4), 32),
    (partial(cifar_resnet, 20, width=4), 32),
    (partial(cifar_resnet18, width=4), 32),
    (partial(vgg16, widths=(4, 4, 8, 8, 8), hidden=16), 32),
    (partial(densenet, blocks=(1, 2, 1, 1), growth=4, hidden=(8,)), 32),
    (partial(resnet34, width=4), 64),
    (partial(resnet50, width=4), 64),
]


def layers(network: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [layer for layer in network.modules() if isinstance(layer, kind)]


@pytest.mark.parametrize(("build", "classes", "count", "paper"), SIZES)
def test_a_network_has_the_papers_number_of_parameters(
    build: Callable[[int], nn.Module], classes: int, count: int, paper: str | None
) -> None:
    with torch.device("meta"):
        network = build(classes)
    assert sum(param.numel() for param in network.parameters()) == count
    if paper is not None:
        assert f"{count / 1e6:.2f}M" == paper


def test_with_biases_before_normalisations_the_counts_would_be_those_of_the_docstrings() -> None:
    def biases(network: nn.Module) -> int:
        return sum(layer.out_channels for layer in network.modules() if isinstance(layer, nn.Conv2d))

    with torch.device("meta"):
        assert 33_726_378 + biases(vgg16(10)) == 33_730_666
        assert 34_095_108 + biases(vgg16(100)) == 34_099_396
        assert 7_259_786 + biases(densenet(10)) == 7_268_746
        wide = sum(param.numel() for param in densenet(10, inner=4).parameters())
        shortcuts = [projection(16, 32, 2), projection(32, 64, 2)]
    assert f"{wide / 1e6:.2f}M" == "12.94M"
    assert 269_722 + sum(param.numel() for layer in shortcuts for param in layer.parameters()) == 272_474


@pytest.mark.parametrize(("build", "size"), SMALL)
def test_a_network_scores_every_class_and_trains_every_parameter(build: Callable[[int], nn.Module], size: int) -> None:
    torch.manual_seed(0)
    network = build(7)
    scores = network(torch.randn(4, 3, size, size))
    assert scores.shape == (4, 7)
    nn.functional.cross_entropy(scores, torch.arange(4)).backward()  # type: ignore[no-untyped-call]
    for name, param in network.named_parameters():
        assert param.grad is not None, name
        assert param.grad.isfinite().all(), name
        assert param.grad.count_nonzero() > 0, name


@pytest.mark.parametrize(
    ("build", "size", "maps"),
    [
        # where the image has which size, by the outputs of all convolutions of more than one pixel
        (partial(cifar_resnet, 8, width=4), 32, {32: 3, 16: 2, 8: 2}),
        (partial(cifar_resnet, 20, width=4), 32, {32: 7, 16: 6, 8: 6}),
        (partial(cifar_resnet18, width=4), 32, {32: 5, 16: 4, 8: 4, 4: 4}),
        (partial(vgg16, widths=(4, 4, 8, 8, 8), hidden=16), 32, {32: 2, 16: 2, 8: 3, 4: 3, 2: 3}),
        (partial(densenet, blocks=(1, 2, 3, 1), growth=4, hidden=(8,)), 32, {32: 2, 16: 2, 8: 3, 4: 1}),
        (partial(resnet34, width=4), 64, {32: 1, 16: 6, 8: 8, 4: 12, 2: 6}),
        (partial(resnet50, width=4), 64, {32: 1, 16: 3, 8: 4, 4: 6, 2: 3}),
    ],
)
def test_stages_have_their_depths_and_resolutions(
    build: Callable[[int], nn.Module], size: int, maps: dict[int, int]
) -> None:
    sizes: dict[int, int] = {}

    def note(_: nn.Module, __: object, output: torch.Tensor) -> None:
        sizes[output.shape[-1]] = sizes.get(output.shape[-1], 0) + 1

    network = build(2).eval()
    for layer in layers(network, nn.Conv2d):
        if layer.kernel_size != (1, 1):
            layer.register_forward_hook(note)
    network(torch.randn(1, 3, size, size))
    assert sizes == maps


@pytest.mark.parametrize("depth", [2, 7, 18, 21, -4])
def test_a_cifar_resnet_of_an_impossible_depth_is_refused(depth: int) -> None:
    with pytest.raises(LabError, match=rf"depth {depth}: .* 6 n \+ 2 .* choose 8, 14, 20"):
        cifar_resnet(depth, 10)


def test_a_residual_block_adds_its_input_and_rectifies() -> None:
    x = torch.tensor([[[[1.0, -3.0]]]])
    assert Residual(nn.Identity(), nn.Identity())(x).flatten().tolist() == [2.0, 0.0]
    branch = basic(2, 2, 1).eval()
    image = torch.randn(1, 2, 4, 4)
    assert torch.equal(Residual(branch, nn.Identity())(image), (branch(image) + image).clamp(min=0))


def test_the_shortcut_without_parameters_thins_the_image_and_adds_silent_channels() -> None:
    x = torch.arange(2 * 16, dtype=torch.float32).reshape(1, 2, 4, 4)
    y = Padded(3, 2)(x)
    assert y.shape == (1, 5, 2, 2)
    assert torch.equal(y[:, 1:3], x[:, :, ::2, ::2])
    assert y[:, [0, 3, 4]].count_nonzero() == 0


def test_dense_layers_pass_their_input_on() -> None:
    network = densenet(2, blocks=(1, 1), growth=4, hidden=(8,))
    layer = next(module for module in network.modules() if type(module).__name__ == "_Dense")
    x = torch.randn(2, 8, 4, 4)
    y = layer(x)
    assert y.shape == (2, 12, 4, 4)
    assert torch.equal(y[:, :8], x)


@pytest.mark.parametrize(
    ("build", "probabilities"), [(vgg16, [0.3, 0.3]), (densenet, [0.4, 0.4]), (cifar_resnet18, [])]
)
def test_hidden_linear_layers_drop_units_as_in_the_paper(
    build: Callable[[int], nn.Module], probabilities: list[float]
) -> None:
    with torch.device("meta"):
        network = build(10)
    assert [layer.p for layer in layers(network, nn.Dropout)] == probabilities
    hidden = {vgg16: [4096, 4096, 10], densenet: [256, 128, 10], cifar_resnet18: [10]}[build]
    assert [layer.out_features for layer in layers(network, nn.Linear)] == hidden


@pytest.mark.parametrize(("build", "size"), SMALL)
def test_initialisation_follows_he(build: Callable[[int], nn.Module], size: int) -> None:
    torch.manual_seed(0)
    network = build(10)
    scaled = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is None
            scaled.append(layer.weight.flatten() * math.sqrt(layer.out_channels * math.prod(layer.kernel_size) / 2))
        elif isinstance(layer, nn.Linear):
            assert layer.bias.count_nonzero() == 0
            scaled.append(layer.weight.flatten() * math.sqrt(layer.in_features / 2))
        elif isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all()
            assert (layer.bias == 0).all()
    for weights in scaled:
        spread = 5 / math.sqrt(2 * len(weights))  # five standard deviations of a standard deviation's estimate
        assert weights.std().item() == pytest.approx(1, abs=spread)


def test_networks_come_from_torchs_generator() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(cifar_resnet(8, 10).parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
