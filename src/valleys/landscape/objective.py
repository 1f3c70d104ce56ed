"""A loss as a function of a model's parameters alone: fixed batches, nothing random, nothing that changes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

__all__ = ["Objective"]

_REDUCTIONS = ("mean", "sum")

_TOLERANCE = 1e-5  # relative difference of two evaluations by rounding: some CUDA kernels add in no fixed order


class Objective:
    r"""The loss of fixed batches as a function of the parameters.

    .. math:: L(\theta) = \sum_j \frac{n_j}{n} \ell_j(\theta) \;\text{(mean)}, \qquad
        L(\theta) = \sum_j \ell_j(\theta) \;\text{(sum)}

    with the loss :math:`\ell_j` of batch j and its denominator :math:`n_j`, of n in all: its number of examples, or
    what ``denominator`` gives. Every instrument of ``valleys.landscape`` measures this function. All batches count, the
    last small one too; how the examples are cut into batches does not matter.

    Args:
        model: with its parameters where and in the type in which they are to be measured. It is left as it is: neither
            ``.grad`` nor training mode are touched.
        loss: ``(model(inputs), targets) -> scalar``.
        batches: ``(inputs, targets)`` pairs; a list, or anything that gives the same pairs, in the same order, each
            time that it is iterated. On the model's device, or they are moved there, batch by batch.
        reduction: what ``loss`` does with the examples of a batch: ``mean`` or ``sum``.
        denominator: ``targets -> number``, by which the mean over a batch divides where it is not the number of its
            examples: ``lambda y: (y != -100).sum()`` with ``ignore_index=-100``, ``lambda y: w[y].sum()`` with class
            weights w. A batch where it is 0 is left out. Default: None, the number of examples.
        parameters: of the model, which are varied. Default: those that require gradients.
        check: refuse what is not a function of them alone: see Raises. Costs two forward passes over all batches; with
            several batches two more, in which the parameters are moved by about a tenth, and put back exactly.

    Raises:
        ValueError: an unknown reduction; no batches or no parameters; dropout, or batch normalisation that uses the
            batch's own statistics, in training mode; a loss that is not finite or differs between two evaluations; with
            several batches, a loss that depends on how the examples are cut into them, or of which this cannot be
            tested (examples that do not fit into one batch) while ``denominator`` is None.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.ones_(model.weight)
        >>> objective = Objective(model, nn.functional.mse_loss, [(torch.ones(2, 1), torch.zeros(2, 1))])
        >>> objective.value(), objective.gradient()[0].item(), objective.examples
        (1.0, 2.0, 2)

    Source: ours.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any, Any], Tensor],
        batches: Iterable[tuple[Any, Any]],
        *,
        reduction: str = "mean",
        denominator: Callable[[Any], Any] | None = None,
        parameters: Sequence[Tensor] | None = None,
        check: bool = True,
    ) -> None:
        if reduction not in _REDUCTIONS:
            raise ValueError(f"reduction {reduction!r}: choose one of {', '.join(_REDUCTIONS)}, as the loss does it")
        selection = [p for p in model.parameters() if p.requires_grad] if parameters is None else list(parameters)
        if not selection:
            raise ValueError("parameters: there is none that requires a gradient; name them, or unfreeze the model")
        self.model = model
        self.loss = loss
        self.reduction = reduction
        self.parameters = tuple(selection)
        self._batches = batches
        self.device = selection[0].device
        if iter(batches) is batches:
            raise ValueError("batches: an iterator can be read once only; give a list of (inputs, targets)")
        self._stated = denominator
        sizes = [(count(targets), self._size(targets)) for _, targets in batches]
        self.examples, self.denominator = sum(size for size, _ in sizes), sum(size for _, size in sizes)
        if self.denominator == 0:
            raise ValueError("batches: they hold no example that counts; give a list of (inputs, targets)")
        if check:
            self._check()
            if len(sizes) > 1:
                self._check_cut()

    @property
    def numel(self) -> int:
        """Number of parameters that are varied."""
        return sum(parameter.numel() for parameter in self.parameters)

    def batches(self) -> Iterator[tuple[Any, Any, float]]:
        """The batches on the model's device, each with the factor of its loss in the whole."""
        for inputs, targets in self._batches:
            share = self.share(targets)
            if share:  # a mean over nothing is NaN
                weight = share if self.reduction == "mean" else 1.0
                yield on_device(inputs, self.device), on_device(targets, self.device), weight

    def share(self, targets: Any) -> float:
        """Return a batch's denominator over that of all."""
        return self._size(targets) / self.denominator

    def value(self) -> float:
        """The loss, summed in float64 over the batches."""
        total = 0.0
        with torch.no_grad():
            for inputs, targets, weight in self.batches():
                total += weight * self.loss(self.model(inputs), targets).double().item()
        return total

    def gradient(self) -> tuple[Tensor, ...]:
        """The gradient, in the parameters' shapes and types; ``.grad`` is left alone."""
        total = [torch.zeros_like(parameter) for parameter in self.parameters]
        with torch.enable_grad():
            for inputs, targets, weight in self.batches():
                loss = self.loss(self.model(inputs), targets)
                parts = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
                torch._foreach_add_(total, list(parts), alpha=weight)
        return tuple(total)

    @contextmanager
    def moved(self, direction: Sequence[Tensor], distance: float = 1.0) -> Iterator[None]:
        """Within the context the parameters are at theta + distance * direction; afterwards exactly where they were.

        Args:
            direction: one tensor per parameter, of its shape.
            distance: a factor.

        Yields:
            Nothing.
        """
        with self._restored():
            with torch.no_grad():
                for parameter, part in zip(self.parameters, direction, strict=True):
                    parameter.add_(part, alpha=distance)
            yield

    @contextmanager
    def placed(self, point: Sequence[Tensor]) -> Iterator[None]:
        """Within the context the parameters are exactly at a point; afterwards exactly where they were."""
        with self._restored():
            self._write(point)
            yield

    def flatten(self, tensors: Sequence[Tensor]) -> Tensor:
        """One vector of (numel,) from tensors of the parameters' shapes."""
        return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])

    def unflatten(self, vector: Tensor) -> tuple[Tensor, ...]:
        """Tensors of the parameters' shapes, types and device from one vector of (numel,)."""
        parts = vector.split([parameter.numel() for parameter in self.parameters])
        return tuple(
            part.reshape(parameter.shape).to(parameter) for part, parameter in zip(parts, self.parameters, strict=True)
        )

    def _size(self, targets: Any) -> float:
        size = count(targets) if self._stated is None else float(self._stated(targets))
        if not 0 <= size < math.inf:
            raise ValueError(
                f"denominator: it is {size} for a batch; return a number by which a mean divides, 0 or more"
            )
        return size

    @contextmanager
    def _restored(self) -> Iterator[None]:
        before = [parameter.detach().clone() for parameter in self.parameters]
        try:
            yield
        finally:
            self._write(before)

    @torch.no_grad()
    def _write(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def _check(self) -> None:
        for name, module in self.model.named_modules():
            kind = type(module).__name__
            if not module.training:
                continue
            if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
                raise ValueError(f"model: {kind} {name!r} draws anew at every call; call model.eval() first")
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                raise ValueError(
                    f"model: {kind} {name!r} in training mode makes the loss of an example depend on its batch, and "
                    "changes its running statistics at every call; call model.eval() first"
                )
        first, second = self.value(), self.value()
        if not math.isfinite(first):
            raise ValueError(
                f"loss: it is {first} at these parameters; there is no landscape to measure; pass denominator where "
                "all targets of a batch are ignored, else mend the model"
            )
        if not abs(first - second) <= _TOLERANCE * max(abs(first), abs(second)):  # NaN is no equal
            raise ValueError(
                f"loss: it is {first} and then {second} on the same batches: something is random (a functional "
                "dropout, augmentation, a shuffling loader) or changes from call to call; switch it off: model.eval(), "
                "and a list of batches"
            )

    def _check_cut(self) -> None:
        """Compare the loss over the batches with that over the same examples in batches that are cut elsewhere.

        At moved parameters: at these all examples may have one loss (a last layer of zeros), so that no weight matters,
        or hardly any (a perfect fit), so that rounding does.
        """
        random = torch.Generator().manual_seed(0)
        noise = [torch.randn(p.shape, generator=random).to(p) * (0.1 * p.square().mean().sqrt() + 0.01)
                 for p in map(Tensor.detach, self.parameters)]  # fmt: skip
        distance = 1.0
        with self.moved(noise):
            first = self.value()
        if not math.isfinite(first):
            distance, first = 0.0, self.value()
        other = copy.copy(self)
        other._batches = _recut((inputs, targets) for inputs, targets, _ in self.batches())
        remedy = (
            "pass denominator, by which the mean over a batch divides (with ignore_index: lambda targets: (targets != "
            "-100).sum(); with class weights: lambda targets: weights[targets].sum(); else: len), correct reduction, "
            "or give one batch"
        )
        try:
            with self.moved(noise, distance):
                second = other.value()
        except Exception as error:  # the user's model and loss may raise any
            if self._stated is not None:
                return
            raise ValueError(
                f"loss: that it is the {self.reduction} over examples cannot be tested, as they do not fit into other "
                f"batches ({type(error).__name__}: {error}); {remedy}"
            ) from error
        tolerance = max(torch.finfo(parameter.dtype).eps for parameter in self.parameters) ** 0.6
        if not abs(first - second) <= tolerance * max(abs(first), abs(second)):
            raise ValueError(
                f"loss: it is not the {self.reduction} over examples: near these parameters it is {first}, and "
                f"{second} where they are cut into other batches; {remedy}"
            )


def _recut(batches: Iterable[tuple[Any, Any]]) -> Iterator[Any]:
    """Yield the same examples, each batch's second half with the next one's first; single ones in pairs."""
    rest: Any = None
    for number, batch in enumerate(batches):
        middle = count(batch[1]) // 2 or number % 2
        head = _rows(batch, slice(middle))
        yield head if rest is None else _joined(rest, head)
        rest = _rows(batch, slice(middle, None))
    yield rest


def _rows(batch: Any, rows: slice) -> Any:
    return tree_map(lambda leaf: leaf[rows] if _has_rows(leaf, batch) else leaf, batch)


def _joined(first: Any, second: Any) -> Any:
    def join(one: Any, other: Any) -> Any:
        if _has_rows(one, first) and _has_rows(other, second):
            return torch.cat([one, other])
        if one is not other and not torch.equal(one, other):
            raise ValueError("what has no row for each example differs from batch to batch")
        return one

    return tree_map(join, first, second)


def _has_rows(leaf: Any, batch: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == count(batch[1])


def count(targets: Any) -> int:
    """Return the number of examples in a batch."""
    if isinstance(targets, Mapping):
        return count(next(iter(targets.values())))
    if isinstance(targets, (tuple, list)):
        return count(targets[0])
    return len(targets)


def on_device(batch: Any, device: torch.device) -> Any:
    """Move a batch's tensors to a device, in any tuples, lists and mappings."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: on_device(value, device) for name, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        parts = [on_device(value, device) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch
