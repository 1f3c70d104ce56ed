"""Products of the Hessian, or of the Gauss-Newton matrix, with a vector: all that the curvature instruments need."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_unflatten

from valleys.landscape.objective import Objective

__all__ = ["Curvature"]

KINDS = ("hessian", "ggn")  # the generalised Gauss-Newton matrix
_TYPES = (torch.float32, torch.float64)
_MULTIPLES = (1.0, 1.1, 1.3, 1.7)  # of both vectors, that round differently

LinearOperator = Any
"""A symmetric matrix with ``shape``, ``dtype``, ``device`` and ``@`` for a vector: curvlinops' operators, tensors."""


class SymmetricOperator:
    """A symmetric matrix that is a sum over batches; here, of one, the square matrix of another library."""

    def __init__(self, matrix: LinearOperator) -> None:
        shape, dtype = tuple(getattr(matrix, "shape", ())), getattr(matrix, "dtype", None)
        if len(shape) != 2 or shape[0] != shape[1] or dtype not in _TYPES:
            raise ValueError(
                f"objective: a {type(matrix).__name__} of shape {shape} and type {dtype}; give an Objective, a "
                "Curvature or a linear operator: square, in torch.float32 or float64, with shape, dtype, device and @"
            )
        self._matrix = matrix
        self._describe(type(matrix).__name__, shape[0], dtype, matrix.device)

    def _describe(self, kind: str, numel: int, dtype: torch.dtype, device: torch.device) -> None:
        self.kind, self.numel, self.dtype, self.device = kind, numel, dtype, device
        self.shape = (numel, numel)
        self._symmetric = False  # not tested yet

    def matvec(self, vector: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the product with a vector in parts; the first time symmetry is tested, by another product."""
        product = self._sum(vector)
        if not self._symmetric and any(bool(part.any()) for part in vector):
            self._require_symmetric(vector, product)
            self._symmetric = True
        return product

    def matvec_flat(self, vector: Tensor) -> Tensor:
        """The same product for one vector of (numel,); in ``dtype``, on ``device``."""
        return self.flatten(self.matvec(self.unflatten(vector)))

    __matmul__ = matvec_flat

    def parts(self, vector: Sequence[Tensor]) -> Iterator[tuple[float, tuple[Tensor, ...]]]:
        """Yield each batch's share of the whole and its part of the product; the parts add up to the whole."""
        yield 1.0, (self._matrix @ vector[0],)

    def flatten(self, parts: Sequence[Tensor]) -> Tensor:
        """Return one vector of (numel,) from a vector in parts."""
        return torch.cat([part.detach().reshape(-1) for part in parts]).to(self.dtype)

    def unflatten(self, vector: Tensor) -> tuple[Tensor, ...]:
        """Return a vector in parts: one, or one for each parameter."""
        return (vector.to(self.device, self.dtype),)

    def dense(self) -> Tensor:
        """The whole matrix, (numel, numel) in float64 on the CPU, symmetrised; from one product for each column."""
        require_memory(self, 3 * self.numel, "a dense matrix is for small models; use eigenvalues or density")
        matrix = torch.empty(self.numel, self.numel, dtype=torch.float64)
        unit = torch.zeros(self.numel, dtype=self.dtype)
        for column in range(self.numel):
            unit[column] = 1
            matrix[column] = self.flatten(self._sum(self.unflatten(unit)))
            unit[column] = 0
        self.matvec(self.unflatten(torch.randn(self.numel, generator=torch.Generator().manual_seed(0))))
        return (matrix + matrix.T) / 2

    def _sum(self, vector: Sequence[Tensor]) -> tuple[Tensor, ...]:
        total: list[Tensor] = []
        for _, part in self.parts(vector):
            if total:
                torch._foreach_add_(total, list(part))
            else:
                total = list(part)
        if not all(bool(tensor.isfinite().all()) for tensor in total):
            raise RuntimeError(
                f"the {self.kind} product is not finite: the loss has no second derivative at these parameters (a norm "
                "or a root of zero?), or overflows; move away from that point, or use float64"
            )
        return tuple(total)

    def _require_symmetric(self, vector: Sequence[Tensor], product: Sequence[Tensor]) -> None:
        r"""Raise ValueError if :math:`u^\top H v` and :math:`v^\top H u` differ for a random u.

        A difference beyond the precision may still be rounding, above all where the loss is nearly zero. Then multiples
        of both tell: rounding changes from one to the next, a wrong derivative does not.
        """
        generator = torch.Generator().manual_seed(0x5EED)  # not the vector that somebody drew
        random = self.unflatten(torch.randn(self.numel, dtype=self.dtype, generator=generator))
        tolerance = max(torch.finfo(part.dtype).eps for part in random) ** 0.5
        differences: list[float] = []
        for factor in _MULTIPLES:
            u, v = ([part * factor for part in parts] for parts in (random, vector))
            sides: list[Any] = [(u, product if factor == 1 else self._sum(v)), (v, self._sum(u))]
            first, second = (sum(map(dot, *side)) for side in sides)
            size = max(norm(left) * norm(right) for left, right in sides) / math.sqrt(self.numel)
            if abs(first - second) <= tolerance * size:
                return
            differences.append((first - second) / size)
        if max(differences) - min(differences) < 0.1 * abs(differences[0]):
            raise ValueError(
                f"the {self.kind} is not symmetric: u.Hv is {first:.6g} and v.Hu {second:.6g}; {self._cause()}"
            )

    def _cause(self) -> str:
        return "eigenvalues, trace and density are those of a symmetric matrix; give one, such as (A + A.T) / 2"


class Curvature(SymmetricOperator):
    r"""The Hessian or the generalised Gauss-Newton matrix (GGN) of an objective, as a linear operator.

    .. math:: H v = \nabla_\theta \big(\nabla_\theta L(\theta) \cdot v\big), \qquad
        G v = \sum_j w_j\, J_j^\top \big(\nabla_z^2 \ell_j\big) J_j\, v

    with the outputs z of batch j, their Jacobian :math:`J_j` and the batch's weight :math:`w_j` in the objective. The
    GGN leaves out the curvature of the model; for a loss that is convex in the outputs it has no negative eigenvalue.

    Batches go one after the other, so that the graph of one batch is alive at a time. One product costs about two (H)
    or three (G) gradients, and memory for about five vectors of ``numel`` besides the batch's graph. ``.grad`` is
    left alone. Attention runs on PyTorch's plain kernels meanwhile, since its fused ones have no second derivative.

    Args:
        objective: the loss as a function of the parameters, which are float32 or float64.
        kind: ``hessian`` or ``ggn``.
        outputs_loss: for ``ggn``, ``(model(inputs), targets) -> scalar`` in the objective's reduction, where it is not
            to be the objective's loss. Default: None, the objective's loss. What the loss takes from elsewhere than
            the outputs, such as a penalty on the parameters, is not in the GGN.

    Raises:
        ValueError: an unknown kind; ``outputs_loss`` with the Hessian; parameters in half precision or that require no
            gradient; a compiled model. From a product: it is not symmetric, as an
            operation has a wrong second derivative; with ``ggn``, a loss that is linear in the outputs.
        RuntimeError: from a product: it is not finite, or an operation has no second derivative.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> batch = (torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0]]))
        >>> curvature = Curvature(Objective(model, nn.functional.mse_loss, [batch]))
        >>> curvature.matvec_flat(torch.tensor([1.0, 0.0]))  # H = 2 x x^T
        tensor([2., 4.])

    Source: Pearlmutter 1994, Fast exact multiplication by the Hessian; Schraudolph 2002, Fast curvature matrix-vector
        products for second-order gradient descent. J v by two reverse passes is a known trick (J. Townsend 2017).
    """

    def __init__(
        self,
        objective: Objective,
        kind: str = "hessian",
        *,
        outputs_loss: Callable[[Any, Any], Tensor] | None = None,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r}: choose one of {', '.join(KINDS)}")
        if outputs_loss is not None and kind != "ggn":
            raise ValueError(f"outputs_loss: kind {kind!r} does not use it; choose kind='ggn', or leave it out")
        for parameter in objective.parameters:
            if parameter.dtype not in _TYPES:
                raise ValueError(
                    f"parameters: one is {parameter.dtype}, too coarse for second derivatives; convert the model "
                    "first: model.float() or model.double()"
                )
            if not parameter.requires_grad:
                raise ValueError(
                    f"parameters: one of shape {tuple(parameter.shape)} requires no gradient; unfreeze it with "
                    "requires_grad_(), or leave it out"
                )
        if hasattr(objective.model, "_orig_mod"):
            raise ValueError("model: a compiled model has no second derivatives; give the one that was compiled")
        self.objective = objective
        dtype = max((parameter.dtype for parameter in objective.parameters), key=lambda dtype: dtype.itemsize)
        self._describe(kind, objective.numel, dtype, objective.device)
        self._outputs_loss = objective.loss if outputs_loss is None else outputs_loss
        self._recurrent = any(isinstance(module, nn.RNNBase) for module in objective.model.modules())

    def unflatten(self, vector: Tensor) -> tuple[Tensor, ...]:
        """Return tensors of the parameters' shapes, types and device from one vector of (numel,)."""
        return self.objective.unflatten(vector)

    def parts(self, vector: Sequence[Tensor]) -> Iterator[tuple[float, tuple[Tensor, ...]]]:
        """Yield each batch's share of the whole and its part of the product; the parts add up to the whole."""
        parameters = self.objective.parameters
        if [part.shape for part in vector] != [parameter.shape for parameter in parameters]:
            raise ValueError(
                f"vector: {len(vector)} tensors of shapes {[tuple(part.shape) for part in vector]}; give one per "
                "parameter, of its shape (objective.unflatten does)"
            )
        product = self._hessian if self.kind == "hessian" else self._ggn
        for inputs, targets, weight in self.objective.batches():
            with self._differentiable_twice():
                part = product(inputs, targets, vector)
            # Out of place: autograd may return a tensor twice, an expanded one, or the vector itself.
            yield self.objective.share(targets), tuple(torch._foreach_mul(part, weight))

    def _cause(self) -> str:
        kinds = {type(module).__name__: name for name, module in self.objective.model.named_modules()}
        hint = f" (weight_norm's is in torch 2.13, here {kinds['_WeightNorm']!r})" if "_WeightNorm" in kinds else ""
        other = ", or use kind='ggn', which needs none of the model" if self.kind == "hessian" else ""
        return (
            f"an operation of the model or the loss has a wrong second derivative{hint}; write it in plain tensor "
            f"operations, such as g * v / v.norm(dim=1, keepdim=True){other}"
        )

    def _hessian(self, inputs: Any, targets: Any, vector: Sequence[Tensor]) -> list[Tensor]:
        parameters = self.objective.parameters
        loss = self.objective.loss(self.objective.model(inputs), targets)
        if not loss.requires_grad:
            return [torch.zeros_like(parameter) for parameter in parameters]
        first = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
        return _pull(first, parameters, vector)

    def _ggn(self, inputs: Any, targets: Any, vector: Sequence[Tensor]) -> list[Tensor]:
        parameters = self.objective.parameters
        leaves, structure = tree_flatten(self.objective.model(inputs))
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
        if not places:
            return [torch.zeros_like(parameter) for parameter in parameters]
        outputs = [leaves[place] for place in places]
        # Cut from the model: the second derivative of the loss must not see that one output depends on another.
        cut = [output.detach().requires_grad_() for output in outputs]
        for place, output in zip(places, cut, strict=True):
            leaves[place] = output
        loss = self._outputs_loss(tree_unflatten(leaves, structure), targets)
        slopes = torch.autograd.grad(loss, cut, create_graph=True, materialize_grads=True)
        # J v: the vector-Jacobian product u -> J^T u is linear in u, and its own transpose is v -> J v.
        dummies = [torch.zeros_like(output, requires_grad=True) for output in outputs]
        pulled = torch.autograd.grad(outputs, parameters, dummies, create_graph=True, materialize_grads=True)
        pushed = _pull(pulled, dummies, vector)
        curved = _pull(slopes, cut, pushed)
        if _vanish(curved) and not _vanish(cut):
            # Saturated at this point, or flat everywhere? A linear loss has the same slopes at zero.
            for place, output in zip(places, cut, strict=True):
                leaves[place] = torch.zeros_like(output, requires_grad=True)
            elsewhere = [leaves[place] for place in places]
            loss = self._outputs_loss(tree_unflatten(leaves, structure), targets)
            if all(map(torch.equal, slopes, torch.autograd.grad(loss, elsewhere, materialize_grads=True))):
                raise ValueError(
                    "loss: it is linear in the model's outputs, so its GGN is zero. Let the model give logits and the "
                    "loss be cross_entropy (not log_softmax and nll_loss, nor a model that returns its own loss), name "
                    "such a loss as outputs_loss, or use the Hessian"
                )
        return list(torch.autograd.grad(outputs, parameters, curved, materialize_grads=True))

    @contextmanager
    def _differentiable_twice(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if self._recurrent:  # cuDNN's recurrent layers have no second derivative, PyTorch's own have
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            yield


def curvature_of(source: Objective | SymmetricOperator | LinearOperator, kind: str) -> SymmetricOperator:
    """Return the matrix to measure: an objective's, or the given one."""
    if isinstance(source, Objective):
        return Curvature(source, kind)
    if kind != "hessian":
        raise ValueError(f"kind {kind!r}: what is given is a matrix already; leave kind out")
    return source if isinstance(source, SymmetricOperator) else SymmetricOperator(source)


def _pull(values: Sequence[Tensor], at: Sequence[Tensor], vector: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradient of the scalar product of values and vector; zeros where nothing depends on ``at``."""
    pairs = [(value, part) for value, part in zip(values, vector, strict=True) if value.requires_grad]
    if not pairs:
        return [torch.zeros_like(tensor) for tensor in at]
    inner, outer = zip(*pairs, strict=True)
    return list(torch.autograd.grad(inner, at, outer, retain_graph=True, materialize_grads=True))


def _vanish(tensors: Sequence[Tensor]) -> bool:
    return not any(bool(tensor.any()) for tensor in tensors)


def norm(parts: Sequence[Tensor]) -> float:
    """Return the length of a vector in parts, summed in float64."""
    return math.sqrt(sum(dot(part, part) for part in parts))


def dot(left: Tensor, right: Tensor) -> float:
    """Return the scalar product of two vectors, summed in float64."""
    return (left * right).sum(dtype=torch.float64).item()


def require_memory(operator: SymmetricOperator, vectors: int, remedy: str, *, on_cpu: bool = False) -> None:
    """Raise ValueError where so many vectors of (numel,) need more memory than the device, or the CPU, has."""
    need = vectors * operator.numel * operator.dtype.itemsize
    device = torch.device("cpu") if on_cpu else operator.device
    have = _memory(device)
    if need > have:
        raise ValueError(
            f"{vectors} vectors of {operator.numel:,} parameters take {need / 2**30:.1f} GiB, and {device} has "
            f"{have / 2**30:.1f}: {remedy}"
        )


def _memory(device: torch.device) -> float:
    """Return the bytes of memory in all; infinite where they are unknown."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return float("inf")
