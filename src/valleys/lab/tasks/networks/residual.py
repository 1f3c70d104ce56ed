"""The residual blocks of all ResNets here."""

from __future__ import annotations

from torch import Tensor, nn

from valleys.lab.tasks.networks.layers import normalized

__all__ = ["Padded", "Residual", "basic", "bottleneck", "projection"]


class Residual(nn.Module):
    r"""A block that adds its input to what it computes.

    .. math:: y = \max(0, f(x) + s(x))

    Args:
        branch: f.
        shortcut: s, the identity where both have the same shape.
    """

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to images of shape (N, channels, H, W)."""
        return nn.functional.relu(self.branch(x) + self.shortcut(x))


class Padded(nn.Module):
    """The shortcut without parameters (option A): every ``stride``-th pixel, and channels of zeros.

    Args:
        missing: how many channels to add.
        stride: step between pixels.
    """

    def __init__(self, missing: int, stride: int) -> None:
        super().__init__()
        self.before = missing // 2
        self.after = missing - self.before
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Shape (N, channels, H, W) -> (N, channels + missing, H / stride, W / stride)."""
        thinned = x[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(thinned, (0, 0, 0, 0, self.before, self.after))


def projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The shortcut of a 1x1 convolution (option B), or the identity where the shape does not change.

    Args:
        inputs: channels before.
        outputs: channels after.
        stride: step between pixels.

    Returns:
        The layer.
    """
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(*normalized(inputs, outputs, 1, stride))


def basic(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Two 3x3 convolutions.

    Args:
        inputs: channels before.
        outputs: channels after.
        stride: of the first.

    Returns:
        The branch of a block.
    """
    return nn.Sequential(
        *normalized(inputs, outputs, 3, stride), nn.ReLU(inplace=True), *normalized(outputs, outputs, 3)
    )


def bottleneck(inputs: int, inner: int, outputs: int, stride: int) -> nn.Module:
    """A 1x1, a 3x3 and a 1x1 convolution, the second with the stride.

    Args:
        inputs: channels before.
        inner: channels between.
        outputs: channels after.
        stride: of the 3x3 convolution; He et al. had it in the first layer, all later work has it here.

    Returns:
        The branch of a block.
    """
    return nn.Sequential(
        *normalized(inputs, inner, 1),
        nn.ReLU(inplace=True),
        *normalized(inner, inner, 3, stride),
        nn.ReLU(inplace=True),
        *normalized(inner, outputs, 1),
    )
