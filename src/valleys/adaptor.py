"""E for any torch optimizer: the same object, fed g + alpha a (Alg. 5)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from valleys._engine.adapted.adapted_class import activate, adapted_class, register, release_step, track_step
from valleys._engine.options import check_precision
from valleys.alto import ALTO
from valleys.hyperparameters import check_explore

__all__ = ["ESGD", "EAdam", "EAdamW", "adapt"]

OptimizerT = TypeVar("OptimizerT", bound=Optimizer)
Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


def adapt(
    optimizer: OptimizerT,
    alpha: float = -5.0,
    beta: float = 0.99,
    *,
    inplace: bool = False,
    state_dtype: torch.dtype | Literal["8bit"] | None = None,
    seed: int = 0,
) -> OptimizerT:
    r"""Makes a torch optimizer explore: the same object, whose steps see E's gradient instead of ``.grad``.

    .. math::
        \tilde g_k = g_k + \alpha a_k, \qquad a_k = \beta a_{k-1} + (1-\beta)(g_k - g_{k-1}), \qquad a_0 = g_0 = 0,

    computed in one buffer per parameter, s = EMA of the gradient: g~ = g + alpha (1 - beta)(g - s).

    The optimizer keeps its identity, its place in schedulers, scalers and trainers, and its class in the sense of
    ``isinstance``. Strength and memory become the options ``explore_alpha`` and ``explore_beta`` of its parameter
    groups (a group that has them keeps its own) and may be changed during training. The buffer lies in
    ``optimizer.state[parameter]["explore_exp_avg"]`` and goes through checkpoints like any state; the optimizer itself
    never sees it. It is float32 where the parameter is float16 or bfloat16. A group whose alpha is 0 sees its gradients
    unchanged and keeps no buffer.

    A step runs the closure, unscales the gradients if a GradScaler left that to the optimizer, adapts them, runs the
    optimizer on them and puts ``.grad`` back. A step that the scaler skips moves no buffer, nor does a parameter
    without a gradient.

    Args:
        optimizer: any ``torch.optim.Optimizer`` whose step evaluates the loss at most once.
        alpha: strength of E; below 0 explores (large batches), above 0 exploits (small batches), 0 turns E off.
            Range: ``|alpha| * (1 - beta) < 1``. Default: -5, the paper's large-batch rule; see :func:`valleys.suggest`.
        beta: memory of E, in [0, 1). Default: 0.99.
        inplace: write the adapted gradient into ``.grad`` and leave it there, which saves one transient copy of the
            gradients. Default: False.
        state_dtype: dtype of the buffer: None (the parameter's, but float32 for half precision), ``torch.float32``,
            ``torch.bfloat16``, half the memory, or "8bit", a quarter, for tensors as :class:`valleys.ALTO` says. The
            last two are rounded stochastically. Default: None.
        seed: seed of the stochastic rounding, in [0, 2^32). Default: 0.

    Returns:
        ``optimizer`` itself, adapted.

    Raises:
        TypeError: not a torch optimizer, adapted already, a wrapper around another optimizer, or one whose step needs
            several evaluations or sparse gradients (LBFGS, SparseAdam).
        ValueError: alpha or beta outside their range, here or in a parameter group.
        RuntimeError: ``optimizer.step`` was replaced on the object by something other than a torch scheduler.

    Example:
        >>> import torch, valleys
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = valleys.adapt(torch.optim.RMSprop(model.parameters(), lr=1e-3), alpha=-5.0, beta=0.99)
        >>> isinstance(optimizer, torch.optim.RMSprop), type(optimizer).__name__
        (True, 'ERMSprop')
        >>> model(torch.ones(4, 2)).square().mean().backward()
        >>> optimizer.step()
        >>> sorted(optimizer.state_dict()["state"][0])
        ['explore_exp_avg', 'square_avg', 'step']

    Source: Zhao et al. 2025 (arXiv 2510.27153), Alg. 5; one buffer instead of two: ours.
    """
    _refuse(optimizer)
    # Everything is checked before the object is touched.
    check_explore(alpha, beta)
    check_precision(state_dtype, seed)
    for group in optimizer.param_groups:
        check_explore(
            group.get("explore_alpha", alpha),
            group.get("explore_beta", beta),
            alpha_name="explore_alpha",
            beta_name="explore_beta",
        )
    scheduled = release_step(optimizer)
    optimizer.__class__ = adapted_class(type(optimizer))  # type: ignore[assignment]
    activate(optimizer, alpha, beta, inplace, state_dtype, seed)
    if scheduled:
        track_step(optimizer)
    return optimizer


def _refuse(optimizer: object) -> None:
    """Raises TypeError for what E cannot adapt, with the remedy."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}; for a class, build the "
            "optimizer first: adapt(torch.optim.AdamW(params), ...)"
        )
    name = type(optimizer).__name__
    if hasattr(type(optimizer), "adapted_from"):
        raise TypeError(
            f"optimizer ({name}) is adapted already; change explore_alpha and explore_beta in its param_groups instead"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TypeError(
            f"optimizer ({name}) evaluates the closure several times per step, each at another point, so a gradient "
            "that was adapted once would be lost; use a first-order optimizer"
        )
    if isinstance(optimizer, torch.optim.SparseAdam):
        raise TypeError(
            f"optimizer ({name}) needs sparse gradients, which E would make dense; use Adam with dense gradients"
        )
    if hasattr(optimizer, "fused_backward"):
        raise TypeError(
            f"optimizer ({name}) updates the parameters inside the backward pass, so no step could be adapted; use an "
            "optimizer that waits for step"
        )
    for attribute in ("optimizer", "base_optimizer"):
        inner = getattr(optimizer, attribute, None)
        if isinstance(inner, Optimizer):
            raise TypeError(
                f"optimizer ({name}) wraps another optimizer ({type(inner).__name__}); adapt the inner one before "
                "wrapping it"
            )
    if isinstance(optimizer, ALTO):
        raise TypeError(f"optimizer ({name}) has E built in; set its alpha and beta instead")


def _start(
    optimizer: Optimizer,
    alpha: float,
    beta: float,
    inplace: bool,
    state_dtype: torch.dtype | Literal["8bit"] | None,
    seed: int,
) -> None:
    """Activates a ready-made class; ``alpha`` in a group would be silently ignored there, so it raises."""
    check_explore(alpha, beta)
    check_precision(state_dtype, seed)
    for group in optimizer.param_groups:
        for name in ("alpha", "beta"):
            if name in group:
                raise ValueError(
                    f"{name}={group[name]!r} in a parameter group of {type(optimizer).__name__} has no effect; "
                    f"write explore_{name} instead"
                )
    activate(optimizer, alpha, beta, inplace, state_dtype, seed)


class ESGD(torch.optim.SGD):
    """SGD with E; with momentum b2, m = b2 m + (g + alpha a), theta -= lr m.

    The same as ``adapt(torch.optim.SGD(...), alpha, beta)``, but for the default momentum, which is Alg. 3's 0.9.

    Args:
        params: parameters, named parameters or parameter groups.
        lr: learning rate, >= 0. Default: 1e-3.
        momentum: b2, >= 0. Default: 0.9.
        alpha, beta, inplace, state_dtype, seed: as in :func:`adapt`; per group ``explore_alpha`` and ``explore_beta``.
        options: the other options of ``torch.optim.SGD``.

    Raises:
        ValueError: alpha or beta out of range.

    Example:
        >>> import torch, valleys
        >>> optimizer = valleys.ESGD([torch.nn.Parameter(torch.ones(2))], lr=0.1, alpha=0.5, beta=0.01)
        >>> isinstance(optimizer, torch.optim.SGD)
        True

    Source: Zhao et al. 2025 (arXiv 2510.27153), Alg. 3.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.9,
        *,
        alpha: float = -5.0,
        beta: float = 0.99,
        inplace: bool = False,
        state_dtype: torch.dtype | Literal["8bit"] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, momentum, **options)
        _start(self, alpha, beta, inplace, state_dtype, seed)


class EAdam(torch.optim.Adam):
    """Adam with E: g + alpha a in place of g, in both moments.

    The same as ``adapt(torch.optim.Adam(...), alpha, beta)``.

    Args:
        params: parameters, named parameters or parameter groups.
        lr: learning rate, >= 0. Default: 1e-3.
        betas: Adam's betas, each in [0, 1). Default: (0.9, 0.999).
        alpha, beta, inplace, state_dtype, seed: as in :func:`adapt`; per group ``explore_alpha`` and ``explore_beta``.
        options: the other options of ``torch.optim.Adam``.

    Raises:
        ValueError: alpha or beta out of range.

    Example:
        >>> import torch, valleys
        >>> optimizer = valleys.EAdam([torch.nn.Parameter(torch.ones(2))], lr=1e-3)
        >>> optimizer.param_groups[0]["explore_alpha"]
        -5.0

    Source: Zhao et al. 2025 (arXiv 2510.27153), Alg. 4.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        *,
        alpha: float = -5.0,
        beta: float = 0.99,
        inplace: bool = False,
        state_dtype: torch.dtype | Literal["8bit"] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, betas, **options)
        _start(self, alpha, beta, inplace, state_dtype, seed)


class EAdamW(torch.optim.AdamW):
    """AdamW with E: g + alpha a in place of g, in both moments; the weight decay stays outside.

    The same as ``adapt(torch.optim.AdamW(...), alpha, beta)``.

    Args:
        params: parameters, named parameters or parameter groups.
        lr: learning rate, >= 0. Default: 1e-3.
        betas: AdamW's betas, each in [0, 1). Default: (0.9, 0.999).
        alpha, beta, inplace, state_dtype, seed: as in :func:`adapt`; per group ``explore_alpha`` and ``explore_beta``.
        options: the other options of ``torch.optim.AdamW``.

    Raises:
        ValueError: alpha or beta out of range.

    Example:
        >>> import torch, valleys
        >>> optimizer = valleys.EAdamW([torch.nn.Parameter(torch.ones(2))], lr=1e-3, alpha=-50.0, beta=0.99)
        >>> optimizer.param_groups[0]["explore_alpha"]
        -50.0

    Source: Zhao et al. 2025 (arXiv 2510.27153), Alg. 5 with AdamW.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        *,
        alpha: float = -5.0,
        beta: float = 0.99,
        inplace: bool = False,
        state_dtype: torch.dtype | Literal["8bit"] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, betas, **options)
        _start(self, alpha, beta, inplace, state_dtype, seed)


for _ready_made in (ESGD, EAdam, EAdamW):
    register(_ready_made)
