"""Small models in float64 whose curvature can be computed whole, by other means than the instruments use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from valleys.landscape.objective import Objective

SIZES = (5, 3, 4)
"""Examples of the batches: uneven, so that weights matter."""


class Attention(nn.Module):
    """Causal self-attention, by PyTorch's function or written out."""

    def __init__(self, *, plain: bool = False) -> None:
        super().__init__()
        self.qkv, self.out, self.plain = nn.Linear(4, 12), nn.Linear(4, 3), plain

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        if not self.plain:
            # With a dimension for heads, without which the fused kernels are not used anyway.
            q, k, v = (part.unsqueeze(1) for part in (q, k, v))
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True).squeeze(1)
        else:
            scores = (q @ k.transpose(-1, -2) / 2).masked_fill(torch.ones(3, 3).triu(1).bool(), -torch.inf)
            mixed = scores.softmax(-1) @ v
        outputs: Tensor = self.out(x + mixed).mean(1)
        return outputs


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def conv() -> nn.Module:
    norm = nn.BatchNorm2d(2)
    assert norm.running_mean is not None
    norm.running_mean += 0.3
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), norm, nn.GELU(), nn.MaxPool2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(8, 3)
    ).eval()


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (4,)),
    "conv": (conv, (1, 6, 6)),
    "attention": (Attention, (3, 4)),
}


def batches(shape: tuple[int, ...], sizes: tuple[int, ...] = SIZES) -> list[tuple[Tensor, Tensor]]:
    """Random classification data, the same for any cut into batches."""
    random = torch.Generator().manual_seed(1)
    n = sum(sizes)
    inputs = torch.randn(n, *shape, dtype=torch.float64, generator=random)
    targets = torch.randint(0, 3, (n,), generator=random)
    return list(zip(inputs.split(sizes), targets.split(sizes), strict=True))


def objective(name: str, reduction: str = "mean", sizes: tuple[int, ...] = SIZES) -> Objective:
    """A classifier's; the same parameters each time that it is asked for."""
    make, shape = MODELS[name]
    torch.manual_seed(0)
    return Objective(make().double(), cross_entropy(reduction), batches(shape, sizes), reduction=reduction)


def cross_entropy(reduction: str) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets, reduction=reduction)

    return loss


def flat_outputs(whole: Objective) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """Outputs for all examples at once as a function of the flat parameters, these parameters, and the targets."""
    names = [name for name, _ in whole.model.named_parameters()]
    pairs = [(inputs, targets) for inputs, targets, _ in whole.batches()]
    inputs, targets = torch.cat([pair[0] for pair in pairs]), torch.cat([pair[1] for pair in pairs])

    def outputs(flat: Tensor) -> Tensor:
        parts = flat.split([p.numel() for p in whole.parameters])
        values = {name: part.view(p.shape) for name, part, p in zip(names, parts, whole.parameters, strict=True)}
        result: Tensor = torch.func.functional_call(whole.model, values, (inputs,))
        return result

    return outputs, whole.flatten(whole.parameters), targets


def _hessian(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    # Reverse over reverse: torch.func.hessian's forward mode warns of a deprecated part of torch.
    result: Callable[[Tensor], Tensor] = torch.func.jacrev(torch.func.jacrev(function))
    return result


def dense_hessian(name: str, reduction: str = "mean") -> Tensor:
    """By ``torch.func`` on all examples at once."""
    whole = objective(name, reduction)
    if isinstance(whole.model, Attention):
        whole.model.plain = True
    outputs, flat, targets = flat_outputs(whole)
    matrix: Tensor = _hessian(lambda p: whole.loss(outputs(p), targets))(flat)
    return matrix


def dense_ggn(name: str, reduction: str = "mean") -> Tensor:
    r"""J^T H_L J from a dense Jacobian and the dense Hessian of the loss by the outputs."""
    whole = objective(name, reduction)
    if isinstance(whole.model, Attention):
        whole.model.plain = True
    outputs, flat, targets = flat_outputs(whole)
    jacobian = torch.func.jacrev(lambda p: outputs(p).reshape(-1))(flat)
    shape = outputs(flat).shape
    inner = _hessian(lambda z: whole.loss(z.view(shape), targets))(outputs(flat).reshape(-1))
    matrix: Tensor = jacobian.T @ inner @ jacobian
    return matrix


class Quadratic(nn.Module):
    """Half of theta A theta, with A as its input."""

    def __init__(self, n: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.ones(n, dtype=dtype))

    def forward(self, matrix: Tensor) -> Tensor:
        matrix = matrix[0]
        outputs: Tensor = self.theta @ (matrix @ self.theta if matrix.ndim == 2 else matrix * self.theta) / 2
        return outputs


def quadratic(matrix: Tensor) -> Objective:
    """The objective whose Hessian is a symmetric matrix, or the diagonal one of a vector."""
    return Objective(Quadratic(len(matrix), matrix.dtype), itself, [(matrix[None], torch.zeros(1))])


def itself(outputs: Tensor, targets: object) -> Tensor:
    return outputs


def rotated(spectrum: Any, seed: int = 0) -> Tensor:
    """A symmetric matrix with these eigenvalues, in float64."""
    values = torch.as_tensor(spectrum, dtype=torch.float64)
    random = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64, generator=random))
    matrix: Tensor = (basis * values) @ basis.T
    return matrix
