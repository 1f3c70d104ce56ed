"""Choice of the backend that updates some tensors: the fastest that works, unless the user says otherwise."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from valleys.kernels import Needs, Rule, Tensors, foreach, summary
from valleys.kernels.layout import is_plain

__all__ = ["FUSED", "Backend", "best", "fused_backend", "require_fused", "select"]

FUSED = ("c", "triton", "compiled")
"""Values of ``fused`` beside None, True and False: backends by name."""


class Backend(Protocol):
    """The functions of a backend's module; see ``kernels.foreach`` for the meaning."""

    def alto_(self, tensors: Tensors, rule: Rule, clip: Tensor | None = None, skip: Tensor | None = None) -> None:
        """One step of ALTO or LAMB, where every tensor is a layer."""

    def measure_(self, tensors: Tensors, rule: Rule, clip: Tensor | None = None, skip: Tensor | None = None) -> Tensor:
        """The first half of a step: moves the states; says what ``ratio.step_lengths`` needs of each tensor."""

    def apply_(self, tensors: Tensors, rule: Rule, factors: Tensor, skip: Tensor | None = None) -> None:
        """The second half: each parameter moves by its factor times the update."""

    def explore_(
        self,
        grads: list[Tensor],
        buffers: list[Tensor],
        outs: list[Tensor],
        *,
        alpha: float,
        beta: float,
        keys: list[int] | list[Tensor] | None = None,
    ) -> None:
        """One step of E."""

    def square_sum(self, tensors: list[Tensor]) -> Tensor:
        """The squared norm of all tensors together."""


def select(tensors: Sequence[Tensor], needs: Needs, foreach_option: bool | None, fused: bool | str | None) -> Backend:
    """Return the backend for tensors of one device; the options are the group's ``foreach`` and ``fused``.

    With ``fused`` None it is the fastest one that works; True insists on a fused one, a name on that one.

    Raises:
        RuntimeError: ``fused`` asks for what does not work here; the message says why.
    """
    if not fused and (fused is False or foreach_option is not None or torch.compiler.is_compiling()):
        return foreach
    name = fused if isinstance(fused, str) else _default(tensors[0].device)
    if name is None:
        if fused:
            raise RuntimeError(f"fused=True: there is no fused backend for {tensors[0].device.type}; use foreach=True")
        return foreach
    kind = next((type(tensor).__name__ for tensor in tensors if not is_plain(tensor)), None)
    backend: Backend | None = None
    problem: str | None = f"a fused kernel needs plain tensors, not {kind}"
    if needs.after_momentum:
        problem = "accelerate='after_momentum' is written in multi-tensor operations alone"
    elif kind is None or name == "compiled":
        backend, problem = fused_backend(name, tensors[0].device, needs)
    if backend is not None and problem is None:
        return backend
    if fused:
        raise RuntimeError(f"fused={fused!r}: {problem}; leave fused=None, or use foreach=True")
    _warn_once(str(problem))
    return foreach


def best(tensors: Sequence[Tensor], needs: Needs) -> Backend | None:
    """The fused backend that ``fused=None`` would take, or None."""
    name = _default(tensors[0].device)
    if name is None or torch.compiler.is_compiling() or not all(is_plain(tensor) for tensor in tensors):
        return None
    return fused_backend(name, tensors[0].device, needs)[0]


def require_fused(params: Sequence[tuple[Tensor, torch.dtype, bool]], fused: bool | str) -> None:
    """Raise what the first step would raise about ``fused``, before any work.

    With each parameter come its states' dtype and whether it has a correction.
    """
    for param, state, corrects in params:
        if param.device.type != "meta":
            # A complex tensor comes to a kernel as pairs of real numbers.
            dtype, state = param.dtype.to_real(), state.to_real()
            select([param], Needs(dtype, dtype, state, corrects=corrects), None, fused)


@functools.cache
def fused_backend(name: str, device: torch.device, needs: Needs) -> tuple[Backend | None, str | None]:
    """Return the backend of that name, or None and the reason why it does not work here."""
    try:
        backend = importlib.import_module(f"valleys.kernels.{name}")
    except ImportError as error:
        return None, f"the {name} backend needs {error.name or error}, which does not import; install valleys[{name}]"
    except Exception as error:  # a broken installation may raise anything, and foreach works
        return None, f"the {name} backend does not import: {summary(error)}"
    try:
        problem: str | None = backend.unavailable(device, needs)
    except Exception as error:  # so may a driver or a compiler
        problem = f"the {name} backend does not work: {summary(error)}"
    return (None, problem) if problem else (backend, None)  # type: ignore[return-value]


def _default(device: torch.device) -> str | None:
    return {"cpu": "c", "cuda": "triton"}.get(device.type)


@functools.cache
def _warn_once(problem: str) -> None:
    warnings.warn(
        f"valleys falls back from a fused kernel to multi-tensor operations, which are slower: {problem}. "
        "fused=False silences this for ALTO and Lamb.",
        stacklevel=6,
    )
