"""The layers that the networks share, and how they are initialised."""

from __future__ import annotations

from torch import nn


def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    """Build a convolution that keeps the image's size at stride 1; no bias, as a batch normalisation follows."""
    return nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)


def normalized(inputs: int, outputs: int, size: int, stride: int = 1) -> list[nn.Module]:
    """Build a convolution and its batch normalisation."""
    return [convolution(inputs, outputs, size, stride), nn.BatchNorm2d(outputs)]


def initialised(network: nn.Module) -> nn.Module:
    r"""Initialise convolutions and linear layers after He et al.; normalisations begin as the identity.

    .. math:: w \sim N(0, 2 / n), \quad b = 0

    where n is a convolution's fan-out (kernel size times output channels) and a linear layer's fan-in.

    Source: He et al. 2015 (arXiv 1502.01852).
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return network
