"""What ALTO and Lamb share: checks of a group's options, state, gathering, dispatch. The update is in ``kernels``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from valleys import reference
from valleys._state import load_keeping_dtype, state_dtype
from valleys.hyperparameters import check_explore, check_range
from valleys.kernels import Rule, Tensors, buckets, use_foreach
from valleys.kernels.foreach import alto_

__all__ = ["Layerwise", "Params"]

Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
_ACCELERATED = ("momentum", "second_moment")


class Layerwise(Optimizer):
    """An optimizer of layerwise adaptation; with ``alpha`` among its options, fed by E.

    Args:
        params: parameters, named parameters or parameter groups.
        options: every option with its default; each may be overridden per group.
    """

    def __init__(self, params: Params, options: dict[str, Any]) -> None:
        self._explores = "alpha" in options
        _check_group(options, self._explores)
        super().__init__(params, options)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._explores = "alpha" in self.defaults

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a parameter group; its options are checked like the constructor's."""
        super().add_param_group(param_group)
        try:
            _check_group(self.param_groups[-1], self._explores)
        except (TypeError, ValueError, RuntimeError):
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Makes one step.

        Args:
            closure: evaluates the model, calls ``backward`` and returns the loss; optional.

        Returns:
            The loss that the closure returned, or None.

        Raises:
            RuntimeError: a sparse gradient, or a parameter sharded as a DTensor.
            ValueError: an option of a group was changed to something out of range.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # All checks before the first change.
        work = [(group, _rule(group), self._with_gradient(group)) for group in self.param_groups]
        for group, rule, params in work:
            if params:
                self._step_group(group, rule, params)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what ``state_dict`` saved; moments keep their dtype and move to their parameter's device.

        Args:
            state_dict: the result of ``state_dict`` of an optimizer with the same groups.

        Raises:
            ValueError: the groups do not match, or an option in them is out of range.
        """

        def check(incoming: dict[str, Any]) -> dict[str, Any]:
            for group in incoming["param_groups"]:
                _check_group({**self.defaults, **group}, self._explores)
            return incoming

        def install(states: list[tuple[Tensor, dict[str, Tensor]]]) -> None:
            for param, entry in states:
                if entry:
                    self.state[param].update(entry)

        load_keeping_dtype(self, super().load_state_dict, state_dict, self._states, install, check)

    @property
    def _states(self) -> tuple[str, ...]:
        moments = ("exp_avg", "exp_avg_sq")
        return ("explore_exp_avg", *moments) if self._explores else moments

    def _with_gradient(self, group: dict[str, Any]) -> list[Tensor]:
        params = [param for param in group["params"] if param.grad is not None]
        for param in params:
            if hasattr(param, "placements"):
                raise RuntimeError(
                    f"{type(self).__name__}: a parameter of shape {tuple(param.shape)} is a DTensor, and this version "
                    "would take the norm of its shard for that of its layer; keep parameters whole (DDP), or adapt an "
                    "elementwise optimizer"
                )
            if param.grad is not None and param.grad.layout != torch.strided:
                raise RuntimeError(
                    f"{type(self).__name__}: a parameter of shape {tuple(param.shape)} has a sparse gradient; "
                    "build its layer with sparse=False, or leave it to torch.optim.SparseAdam"
                )
        return params

    def _step_group(self, group: dict[str, Any], rule: Rule, params: list[Tensor]) -> None:
        for param in params:
            self._initialise(param, rule.capturable)
            self.state[param]["step"] += 1
        grads = [param.grad for param in params if param.grad is not None]
        if group["differentiable"]:
            with torch.enable_grad():
                self._step_differentiably(params, grads, rule, group["max_grad_norm"])
            return
        columns = {name: [_real(self.state[param][name]) for param in params] for name in self._states}
        tensors = Tensors(
            params=[_real(param) for param in params],
            grads=[_real(grad) for grad in grads],
            explore=columns.get("explore_exp_avg"),
            exp_avgs=columns["exp_avg"],
            exp_avg_sqs=columns["exp_avg_sq"],
            steps=[self.state[param]["step"] for param in params],
        )
        clip = None if group["max_grad_norm"] is None else _clip_factor(tensors.grads, group["max_grad_norm"])
        for bucket in buckets(tensors, use_foreach(group["foreach"], params)):
            alto_(bucket, rule, clip)

    def _initialise(self, param: Tensor, capturable: bool) -> None:
        state = self.state[param]
        if len(state) == 0:
            device = param.device if capturable else torch.device("cpu")
            state["step"] = torch.zeros((), dtype=torch.float32, device=device)
            for name in self._states:
                state[name] = torch.zeros_like(param, dtype=state_dtype(param), requires_grad=False)

    def _step_differentiably(
        self, params: list[Tensor], grads: list[Tensor], rule: Rule, max_grad_norm: float | None
    ) -> None:
        """The reference itself: out of place, so that autograd can follow parameters and states."""
        if rule.maximize:
            grads = [-grad for grad in grads]
        if max_grad_norm is not None:
            grads = reference.clip(grads, max_grad_norm)
        for param, grad in zip(params, grads, strict=True):
            state = self.state[param]
            buffer = state.get("explore_exp_avg")
            moments = reference.Moments(state["exp_avg"], state["exp_avg_sq"], int(state["step"].item()) - 1)
            new, memory, moments = reference.alto(
                param.clone().to(moments.m.dtype),  # autograd keeps it; the parameter is overwritten below
                grad.to(moments.m.dtype),
                None if buffer is None else reference.OneBuffer(buffer),
                moments,
                lr=rule.lr,
                alpha=rule.alpha,
                b1=rule.beta1,
                b2=rule.beta2,
                b3=rule.beta3,
                lam=rule.weight_decay,
                eps1=rule.eps,
                eps2=rule.trust_eps,
                eps3=rule.norm_eps,
                bias_correction=rule.bias_correction,
                layer_adaptation=rule.layer_adaptation,
                in_m=rule.accelerate_momentum,
                in_v=rule.accelerate_second_moment,
                ratio_clip=rule.trust_clip,
            )
            state.update(exp_avg=moments.m, exp_avg_sq=moments.v)
            if isinstance(memory, reference.OneBuffer):
                state["explore_exp_avg"] = memory.s
            param.copy_(new)


def _real(tensor: Tensor) -> Tensor:
    """A complex tensor as pairs of real numbers, which is how torch.optim treats them."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _clip_factor(grads: list[Tensor], max_grad_norm: float) -> Tensor:
    """min(1, max_grad_norm / (|g| + 1e-6)) over a group; norms accumulate in float32 or better."""
    device = grads[0].device
    norms = [torch.linalg.vector_norm(g, dtype=torch.promote_types(g.dtype, torch.float32)).to(device) for g in grads]
    dtype = max((norm.dtype for norm in norms), key=lambda dtype: torch.finfo(dtype).bits)
    norm = torch.linalg.vector_norm(torch.stack([norm.to(dtype) for norm in norms]))
    factor: Tensor = max_grad_norm / (norm + 1e-6)
    return factor.clamp(max=1.0)


def _rule(group: dict[str, Any]) -> Rule:
    """A group's options as the kernels take them; Lamb's are ALTO's at alpha = 0."""
    explores = "alpha" in group
    beta1, beta2, beta3 = group["betas"] if explores else (0.0, *group["betas"])
    alpha = group["alpha"] if explores else 0.0
    # A scheduler or the user may have changed these since they were checked.
    check_explore(alpha, beta1, beta_name="betas[0]")
    accelerate = group["accelerate"] if explores else ()
    return Rule(
        lr=group["lr"],
        alpha=alpha,
        beta1=beta1,
        beta2=beta2,
        beta3=beta3,
        eps=group["eps"],
        weight_decay=group["weight_decay"],
        trust_eps=group["trust_eps"],
        norm_eps=group["norm_eps"],
        bias_correction=group["bias_correction"],
        layer_adaptation=group["layer_adaptation"],
        trust_clip=_trust_clip(group["trust_clip"]),
        accelerate_momentum="momentum" in accelerate,
        accelerate_second_moment="second_moment" in accelerate,
        maximize=group["maximize"],
        capturable=group["capturable"],
    )


def _trust_clip(value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    low, high = value if isinstance(value, (tuple, list)) else (0.0, value)
    return float(low), float(high)


def _check_group(group: dict[str, Any], explores: bool) -> None:
    """Raises on the first option out of range, naming it, its value, the range and the remedy."""
    names = ("beta1 of E", "beta2", "beta3") if explores else ("beta2", "beta3")
    betas = group["betas"]
    if not isinstance(betas, (tuple, list)) or len(betas) != len(names):
        raise ValueError(f"betas must be {len(names)} numbers ({', '.join(names)}), got {betas!r}")
    for index, (name, beta) in enumerate(zip(names, betas, strict=True)):
        check_range(f"betas[{index}]", beta, 0.0, 1.0, high_open=True, remedy=f"it is {name}, a decay rate like 0.9")
    check_range("lr", group["lr"], 0.0, remedy="a usual value is 1e-2")
    for name in ("eps", "weight_decay", "trust_eps", "norm_eps"):
        check_range(name, group[name], 0.0, remedy="0 turns it off")
    _check_trust_clip(group["trust_clip"])
    if group["max_grad_norm"] is not None:
        check_range("max_grad_norm", group["max_grad_norm"], 0.0, low_open=True, remedy="None turns clipping off")
    if explores:
        check_explore(group["alpha"], betas[0], beta_name="betas[0]")
        accelerate = group["accelerate"]
        if isinstance(accelerate, str) or not set(accelerate) <= set(_ACCELERATED):
            raise ValueError(
                f"accelerate must be a tuple of names out of {_ACCELERATED}, got {accelerate!r}; () turns E off"
            )
    elif "alpha" in group:
        raise ValueError(f"alpha={group['alpha']!r} has no effect on Lamb; use ALTO, which is Lamb with E")
    _check_backend(group)


def _check_trust_clip(value: Any) -> None:
    if value is None:
        return
    bounds = value if isinstance(value, (tuple, list)) else (0.0, value)
    if len(bounds) != 2:
        raise ValueError(f"trust_clip must be None, an upper bound or (low, high), got {value!r}")
    check_range("trust_clip's lower bound", bounds[0], 0.0, remedy="0 means none")
    check_range("trust_clip's upper bound", bounds[1], bounds[0], remedy="it must not be below the lower one")


def _check_backend(group: dict[str, Any]) -> None:
    if group["fused"]:
        raise RuntimeError(
            "fused=True: this version of valleys has no fused backend; use foreach=True, or leave fused=None"
        )
    if group["differentiable"] and (group["foreach"] or group["capturable"]):
        raise RuntimeError(
            "differentiable=True excludes foreach=True and capturable=True: autograd needs the out-of-place update; "
            "leave them unset"
        )
