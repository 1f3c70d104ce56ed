"""The public classes ALTO (E on LAMB) and Lamb: their options and defaults."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from valleys._engine.layerwise import Layerwise, Params

__all__ = ["ALTO", "Lamb"]

_LOW_RATE = 1e-3
_reported_rates: list[float] = []  # at most one: the warning comes once in a process


class ALTO(Layerwise):
    r"""LAMB fed by E: large-batch training that goes on along the valley.

    .. math::
        a_k &= \beta_1 a_{k-1} + (1-\beta_1)(g_k - g_{k-1}), \qquad \tilde g_k = g_k + \alpha a_k \\
        m_k &= \beta_2 m_{k-1} + (1-\beta_2) \tilde g_k, \qquad
        v_k = \beta_3 v_{k-1} + (1-\beta_3) \tilde g_k^2 \\
        r_k &= \frac{m_k / (1-\beta_2^k)}{\sqrt{v_k / (1-\beta_3^k)} + \epsilon_1} + \lambda \theta_{k-1} \\
        \theta_k &= \theta_{k-1} - \eta\, r_k \frac{\phi(|\theta|)}{|r_k| + \epsilon_2 \phi(|\theta|)},
        \qquad \phi(x) = x + \epsilon_3

    for each parameter tensor ("layer") by itself; E's part in one buffer instead of two, so three buffers in all. They
    are float32 where the parameter is float16 or bfloat16, unless ``state_dtype`` says otherwise. Norms accumulate in
    float32 or better.

    Three departures from the paper: tensors of fewer than two dimensions have neither ratio nor weight decay, unless
    ``layer_adaptation=True`` gives them both; the ratio is 1 where the parameter or its update is exactly zero (LAMB's
    convention; the paper's phi would hold a zero layer at eps3), and at most 1 where the gradient is exactly zero (an
    unused expert, whose weight decay the ratio would blow up to a shrinkage by lr per step).

    Every option may be set per parameter group. Parameters may be sharded (FSDP2, tensor parallelism, both): layers
    keep their norms, added up over the ranks in one all-reduce per mesh and step, two with ``max_grad_norm``.
    :meth:`trust_ratios` returns the ratios of the last step.

    Args:
        params: parameters, named parameters or parameter groups; :func:`valleys.param_groups` makes good ones.
        lr: learning rate, >= 0: the relative length of a layer's step. A first value is 0.35 / sqrt(updates), see
            ``valleys suggest --from``; below 1e-3 a warning comes once. A tensor is allowed. Default: 1e-2.
        betas: decay rates of the first and the second moment, each in [0, 1); the paper's beta2 and beta3. Default:
            (0.9, 0.99).
        alpha: strength of E, ``|alpha| * (1 - beta) < 1``; below 0 explores, above 0 exploits; see
            :func:`valleys.suggest`. Default: -5.
        beta: memory of E, in [0, 1); the paper's beta1. Default: 0.99.
        eps: eps1, >= 0, added to the root of the second moment. Default: 1e-6.
        weight_decay: lambda, >= 0; part of the update whose length the ratio sets. A group with a ``weight_decay`` of
            its own decays all its tensors, also those that ``layer_adaptation="matrices"`` leaves out (the group's
            ``decay_vectors`` records that). Default: 1e-4.
        trust_eps: eps2, >= 0. Default: 1e-6.
        norm_eps: eps3, >= 0. Default: 1e-10.
        bias_correction: divide the moments by 1 - beta^k (Alg. 2); False is Alg. 1. Default: True.
        layer_adaptation: which tensors get the ratio. "matrices": those of two or more dimensions; others (biases, norm
            gains, scalars) get neither ratio nor weight decay, that is Adam's update. True: all, the paper's Alg. 2.
            False: none, which leaves Adam's update with decoupled weight decay for all. Default: "matrices".
        trust_clip: bounds of the ratio, ``(low, high)`` or the upper one. Default: None, no bounds.
        max_grad_norm: clip the group's gradients to this l2 norm, > 0, without changing ``.grad``. Default: None.
        skip_nonfinite: leave a group as it is, step count included, where the norm of its gradients is not finite, and
            count that in the state ``skipped_steps``; no GPU is waited for. Without it one NaN takes its whole layer,
            whose norms it enters, where in AdamW it takes one element. Default: False.
        accelerate: the moments that E's gradient enters, of "momentum" and "second_moment". Or "after_momentum", which
            shows why E enters the gradient: both moments are of the plain one, and a enters the update, r = (m / (1 -
            beta2^k) + alpha a) / (sqrt(v / (1 - beta3^k)) + eps1) + lambda theta; by foreach alone, not with
            ``blocks``, DTensors or :meth:`trust_ratios`. Default: both moments.
        blocks: layers that one parameter holds: what :func:`valleys.blocks.stacked`, ``sections`` or ``interleaved``
            returns, or a tuple of those; each gets a ratio of its own. Usually per group; :func:`valleys.blocks.find`
            knows the usual ones. Default: None, every parameter is one layer.
        maximize: ascend instead of descend. Default: False.
        foreach: True: multi-tensor operations in bounded pieces; False: a loop. Default: None, see ``fused``.
        fused: None takes the fastest kernel that works for each device and dtype ("c", C, on the CPU; "triton" on
            CUDA) and warns once if it must fall back to foreach; True insists on one, a name on that one, "compiled"
            among them (``torch.compile``); False has none. Default: None.
        capturable: keep the step count on the parameter's device, for CUDA graphs. Default: False.
        differentiable: let autograd follow the step. Default: False.
        state_dtype: dtype of the buffers: None (the parameter's, but float32 for half precision), ``torch.float32``,
            ``torch.bfloat16``, half the memory, or "8bit", a quarter: 256 elements share a scale. Tensors with less
            than 4,096 elements, or 64 in a row of the first dimension, stay in float32, as do layers inside a parameter
            and shards of other dimensions that cut rows elsewhere than at multiples of 256. Default: None.
        stochastic_rounding: round bfloat16 parameters and compressed buffers up or down at random with the right
            expectation, so that small updates are not lost; False rounds to nearest. Default: True.
        error_correction: keep 8 bits more of each bfloat16 parameter in its state, which together are a number of 24
            bits in place of float32 master weights; the parameter is the nearest bfloat16 number. Default: False.
        seed: seed of that rounding, in [0, 2^32). Random bits depend on it, the step and the element alone: replicas
            and a resumed run round alike. Default: 0.

    Raises:
        ValueError: an option out of its range, also in a group, also later in ``add_param_group``.
        RuntimeError: ``fused`` asks for a kernel that does not work here; options that exclude each other; sparse
            gradients; flat shards (FSDP1, DeepSpeed ZeRO), whose norms are not those of layers.

    Example:
        >>> import torch, valleys
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> optimizer = valleys.ALTO(valleys.param_groups(model, weight_decay=1e-4), lr=1e-2)
        >>> loss = model(torch.ones(4, 2)).square().mean()
        >>> loss.backward()
        >>> optimizer.step()

    Source: Zhao et al. 2025 (arXiv 2510.27153), Alg. 2 and, without bias correction, Alg. 1.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        betas: Sequence[float] = (0.9, 0.99),
        alpha: float = -5.0,
        beta: float = 0.99,
        eps: float = 1e-6,
        weight_decay: float = 1e-4,
        *,
        trust_eps: float = 1e-6,
        norm_eps: float = 1e-10,
        bias_correction: bool = True,
        layer_adaptation: bool | Literal["matrices"] = "matrices",
        trust_clip: float | tuple[float, float] | None = None,
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = False,
        accelerate: tuple[str, ...] | Literal["after_momentum"] = ("momentum", "second_moment"),
        blocks: tuple[Any, ...] | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | str | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        state_dtype: torch.dtype | Literal["8bit"] | None = None,
        stochastic_rounding: bool = True,
        error_correction: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(params, _options(locals()))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group; its options are checked like the constructor's."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        rate = group["lr"]
        if isinstance(rate, Tensor):
            if rate.device.type != "cpu":  # to read it would wait for the device
                return
            rate = rate.item()
        if group["layer_adaptation"] is not False:
            _warn_of_low_rate(rate)


class Lamb(Layerwise):
    r"""LAMB: ALTO at alpha = 0, without E's buffer.

    .. math::
        \theta_k = \theta_{k-1} - \eta\, r_k \frac{\phi(|\theta|)}{|r_k| + \epsilon_2 \phi(|\theta|)}, \qquad
        r_k = \frac{m_k / (1-\beta_2^k)}{\sqrt{v_k / (1-\beta_3^k)} + \epsilon_1} + \lambda \theta_{k-1}

    The baseline for :class:`valleys.ALTO`, with the same options, departures and backends. No gradient is clipped
    unless ``max_grad_norm`` says so; other LAMBs differ there and elsewhere, see docs/lamb.md.

    Args:
        params: parameters, named parameters or parameter groups; :func:`valleys.param_groups` makes good ones.
        lr: learning rate, >= 0. A tensor is allowed. Default: 1e-3.
        betas: decay rates of the first and second moment, each in [0, 1). Default: (0.9, 0.999).
        eps: eps1, >= 0, added to the root of the second moment. Default: 1e-6.
        weight_decay: lambda, >= 0. Default: 0.01.
        trust_eps: eps2, >= 0; 0 is LAMB's own ratio. Default: 1e-6.
        norm_eps: eps3, >= 0; 0 is LAMB's own ratio. Default: 1e-10.
        bias_correction, layer_adaptation, trust_clip, max_grad_norm, skip_nonfinite: as in :class:`valleys.ALTO`.
        blocks, maximize, foreach, fused, capturable, differentiable: as in :class:`valleys.ALTO`.
        state_dtype, stochastic_rounding, error_correction, seed: as in :class:`valleys.ALTO`.

    Raises:
        ValueError: an option out of its range, also in a group, also later in ``add_param_group``.
        RuntimeError: ``fused`` asks for a kernel that does not work here; options that exclude each other; sparse
            gradients; flat shards (FSDP1, DeepSpeed ZeRO), whose norms are not those of layers.

    Example:
        >>> import torch, valleys
        >>> weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
        >>> optimizer = valleys.Lamb([weight], lr=0.1, weight_decay=0.0, trust_eps=0.0, norm_eps=0.0)
        >>> weight.grad = torch.tensor([[1.0, -1.0]])
        >>> optimizer.step()  # a step of length lr * |weight| = 0.5 along (-1, 1)
        >>> weight.data
        tensor([[2.6464, 4.3536]])

    Source: You et al. 2019 (arXiv 1904.00962), Alg. 2; phi and eps2 as in Zhao et al. 2025 (arXiv 2510.27153).
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        *,
        trust_eps: float = 1e-6,
        norm_eps: float = 1e-10,
        bias_correction: bool = True,
        layer_adaptation: bool | Literal["matrices"] = "matrices",
        trust_clip: float | tuple[float, float] | None = None,
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = False,
        blocks: tuple[Any, ...] | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | str | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        state_dtype: torch.dtype | Literal["8bit"] | None = None,
        stochastic_rounding: bool = True,
        error_correction: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(params, _options(locals()))


def _warn_of_low_rate(rate: float) -> None:
    """Warn once about a learning rate that an elementwise optimizer left; 0 is what a warm-up starts from."""
    if not 0.0 < rate < _LOW_RATE or _reported_rates:
        return
    _reported_rates.append(rate)
    warnings.warn(
        f"lr = {rate:g} is low for ALTO, whose step changes each layer by lr of its own length: a rate tuned for AdamW "
        "does not carry over. A first one is 0.35 / sqrt(updates), see `valleys suggest --from adamw --lr "
        f"{rate:g} --steps UPDATES --batch-size EXAMPLES`; runs of over 100,000 updates may need so low a rate",
        UserWarning,
        stacklevel=6,
    )


def _options(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a constructor that are options of a parameter group, all but the first two."""
    return {name: value for name, value in arguments.items() if name not in ("self", "params", "__class__")}
