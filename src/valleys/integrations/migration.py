"""From other people's LAMB, from AdamW, and from the authors' package: the same names, the same numbers, the moments.

What each of them does otherwise, and which options make up for it, is on the page ``docs/migration.md``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from valleys._engine.checkpoint.other_optimizers import moments_of
from valleys._engine.layerwise import Layerwise
from valleys.adaptor import adapt
from valleys.alto import ALTO

__all__ = ["authors_alto", "authors_e", "load_moments"]

Params = Iterable[Tensor] | Iterable[dict[str, Any]]


def authors_alto(
    params: Params,
    lr: float = 1e-3,
    betas: tuple[float, float, float] = (0.99, 0.9, 0.99),
    alp: float = -5.0,
    eps: float = 1e-6,
    weight_decay: float = 1e-4,
) -> ALTO:
    r"""ALTO under the names and with the habits of the authors' package, step for step.

    .. math:: g \leftarrow g \min(1, 1 / (|g| + 10^{-6})), \qquad \text{ratio} = |\theta| / |r| \ \text{or}\ 1

    That is :class:`valleys.ALTO` with ``max_grad_norm=1``, without eps2 and eps3, and without the layer ratio in groups
    whose weight decay is 0. New runs are better off with :class:`valleys.ALTO` itself.

    Args:
        params: parameters or parameter groups. In several groups their clipping is over all of them together, ours per
            group, so it is left out with a warning: clip with ``torch.nn.utils.clip_grad_norm_`` before each step.
        lr: learning rate, >= 0. Default: 1e-3.
        betas: (beta1, beta2, beta3), each in [0, 1). Default: (0.99, 0.9, 0.99), their factory's; their class has 0.1
            for beta1, which at its alpha breaks the paper's own constraint.
        alp: alpha, ``|alp| * (1 - betas[0]) < 1``. Default: -5.
        eps: eps1, >= 0. Default: 1e-6, their factory's.
        weight_decay: >= 0. Default: 1e-4.

    Returns:
        The optimizer, of class :class:`valleys.ALTO`.

    Raises:
        ValueError: a hyperparameter out of range.

    Example:
        >>> import torch
        >>> optimizer = authors_alto([torch.nn.Parameter(torch.ones(3))], lr=0.01)
        >>> optimizer.param_groups[0]["alpha"], optimizer.param_groups[0]["max_grad_norm"]
        (-5.0, 1.0)

    Source: ``e-optimizer-adaptor`` 0.1.0, ``ALTO.py``; equal to it in tests/integrations/test_migration.py.
    """
    groups: list[Any] = [_renamed(entry) if isinstance(entry, dict) else entry for entry in params]
    optimizer = ALTO(groups, lr, betas[1:], alp, betas[0], eps, weight_decay, trust_eps=0.0, norm_eps=0.0)
    one = len(optimizer.param_groups) == 1
    for group in optimizer.param_groups:
        group["layer_adaptation"] = group["weight_decay"] != 0
        group["max_grad_norm"] = 1.0 if one else None
    if not one:
        warnings.warn(
            "the authors' ALTO clips the gradients of all groups together to norm 1, and max_grad_norm is a group's: "
            "call torch.nn.utils.clip_grad_norm_(parameters, 1.0) before each step to get the same numbers",
            stacklevel=2,
        )
    return optimizer


def _renamed(group: dict[str, Any]) -> dict[str, Any]:
    """A parameter group under our names."""
    options = dict(group)
    if "alp" in options:
        options["alpha"] = options.pop("alp")
    if "betas" in options:
        options["beta"], options["betas"] = options["betas"][0], options["betas"][1:]
    return options


def authors_e(
    base_optimizer: Optimizer,
    alpha: float = -5.0,
    beta: float = 0.99,
    noise_std: float = 0.0,
    grad_clip: float | None = None,
) -> Optimizer:
    r"""E under the names of the authors' package: :func:`valleys.adapt`.

    .. math:: \tilde g_k = g_k + \alpha a_k

    Args:
        base_optimizer: any torch optimizer; it is adapted in place.
        alpha: strength of E, ``|alpha| * (1 - beta) < 1``. Default: -5.
        beta: memory of E, in [0, 1). Default: 0.99.
        noise_std: only 0: noise is no part of E. Default: 0.
        grad_clip: only None: clip the gradients yourself. Default: None.

    Returns:
        The same object, adapted.

    Raises:
        ValueError: noise, clipping, or a hyperparameter out of range.

    Example:
        >>> import torch
        >>> optimizer = authors_e(torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1))
        >>> isinstance(optimizer, torch.optim.SGD), optimizer.param_groups[0]["explore_alpha"]
        (True, -5.0)

    Source: ``e-optimizer-adaptor`` 0.1.0, ``E.py``; equal to it in tests/integrations/test_migration.py.
    """
    if noise_std != 0:
        raise ValueError(
            f"noise_std={noise_std!r}: only 0, noise is no part of E; add it to the gradients before the step"
        )
    if grad_clip is not None:
        raise ValueError(
            f"grad_clip={grad_clip!r}: only None; call torch.nn.utils.clip_grad_value_(parameters, {grad_clip!r}) "
            "before the step"
        )
    return adapt(base_optimizer, alpha, beta)


def load_moments(optimizer: Optimizer, saved: dict[str, Any], parameters: Sequence[Tensor] | None = None) -> Optimizer:
    r"""Take the moments and step counts out of another optimizer's checkpoint; the options stay this optimizer's own.

    .. math:: s = g_{prev} - \frac{\beta_1}{1 - \beta_1} a

    is E's buffer where the checkpoint is of the authors' ALTO, which keeps the last gradient and a. From any other
    checkpoint E's memory starts empty.

    Args:
        optimizer: a fresh :class:`valleys.ALTO` or :class:`valleys.Lamb`, with the options that it shall have.
        saved: ``state_dict()`` of an optimizer that keeps ``exp_avg`` and ``exp_avg_sq`` of the gradient: the authors'
            ALTO, Adam and AdamW, LAMB of apex, timm, DeepSpeed or pytorch_optimizer.
        parameters: all parameters in the order in which that optimizer had them, as ``model.parameters()``. Default:
            None, by name where both were given named parameters, else the order of ``optimizer``, which must then have
            groups of the same sizes.

    Returns:
        ``optimizer``.

    Raises:
        TypeError: an optimizer of another class, whose own ``load_state_dict`` is the way.
        ValueError: states without moments, of other shapes or another number of parameters, or parameters in groups of
            other sizes.

    Example:
        >>> import torch, valleys
        >>> weights = [torch.nn.Parameter(torch.ones(3))]
        >>> old = torch.optim.AdamW(weights, lr=1e-3)
        >>> weights[0].grad = torch.ones(3)
        >>> old.step()
        >>> new = load_moments(valleys.Lamb(weights, lr=1e-2), old.state_dict())
        >>> new.state[weights[0]]["exp_avg"], float(new.state[weights[0]]["step"])
        (tensor([0.1000, 0.1000, 0.1000]), 1.0)

    Source: ours.
    """
    if not isinstance(optimizer, Layerwise):
        raise TypeError(
            f"optimizer: moments are loaded into valleys.ALTO and valleys.Lamb, not {type(optimizer).__name__}; its "
            "own load_state_dict takes a checkpoint of its class, with E or without"
        )
    optimizer.load_state_dict(moments_of(optimizer, saved, parameters))
    return optimizer
