"""What ALTO and Lamb share: checks of a group's options, state, gathering, dispatch. The update is in ``kernels``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from valleys import reference
from valleys._gather import Bucket, Row, buckets
from valleys._layers import Pools
from valleys._options import check_group, check_parameters, check_sharded, rule_of
from valleys._probe import is_probe
from valleys._state import load_keeping_dtype, new_state, state_dtype
from valleys.blocks import patterns
from valleys.distributed import is_sharded, local, refuse_flat
from valleys.kernels import Rule
from valleys.kernels.choice import require_fused
from valleys.kernels.ratio import step_lengths
from valleys.kernels.rounding import salt

__all__ = ["Layerwise", "Params"]

Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


class _Work(NamedTuple):
    """The step of one group: nothing has been changed yet."""

    group: dict[str, Any]
    rule: Rule
    params: list[Tensor]
    rows: list[Row]
    buckets: list[Bucket]


class Layerwise(Optimizer):
    """An optimizer of layerwise adaptation; with ``alpha`` among its options, fed by E.

    Args:
        params: parameters, named parameters or parameter groups.
        options: every option with its default; each may be overridden per group.
    """

    def __init__(self, params: Params, options: dict[str, Any]) -> None:
        self._explores = "alpha" in options
        check_group(options, self._explores)
        super().__init__(params, options)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._explores = "alpha" in self.defaults
        for group in self.param_groups:
            for name, default in self.defaults.items():  # a checkpoint may be older than an option
                group.setdefault(name, default)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a parameter group; its options are checked like the constructor's."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            check_group(group, self._explores)
            check_parameters(group)
            if group["fused"]:
                shards = [local(param) for param in group["params"]]
                require_fused(shards, group["fused"], lambda p: state_dtype(p, group["state_dtype"]))
        except (TypeError, ValueError, RuntimeError):
            self.param_groups.pop()
            raise
        self._shapes = self._known_shapes() | {tuple(param.shape) for param in group["params"]}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Makes one step.

        Args:
            closure: evaluates the model, calls ``backward`` and returns the loss; optional.

        Returns:
            The loss that the closure returned, or None.

        Raises:
            RuntimeError: a sparse gradient; a flat shard, whose norm is not a layer's.
            ValueError: an option of a group was changed to something out of range.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self.state and is_probe():
            for group in self.param_groups:
                for param in self._with_gradient(group):
                    self._initialise(param, group)
            return loss
        # All checks before the first change.
        pools = Pools(self.param_groups)
        work = list(self._prepare(pools))
        steps = [self.state[param]["step"] for job in work for param in job.params]
        if steps:
            torch._foreach_add_(steps, 1)
        clips = _clip_factors(work, pools)
        for job, clip in zip(work, clips, strict=True):
            if job.group["differentiable"] and job.params:
                with torch.enable_grad():
                    self._step_differentiably(job.params, job.rule, job.group["max_grad_norm"])
            for backend, tensors, _, pool, counted, layers in job.buckets:
                if pool is None or not layers:
                    backend.alto_(tensors, job.rule, clip)
                    continue
                sums = backend.measure_(tensors, job.rule, clip)
                if counted:
                    pool.add(layers, sums)
        pools.add_up()
        for job in work:
            for backend, tensors, _, pool, _, layers in job.buckets:
                if pool is not None and layers:
                    sums = pool.of(layers, tensors.params[0].device)
                    backend.apply_(tensors, job.rule, step_lengths(sums, job.rule))
            for row in job.rows:
                row.write_back()
            if job.rows and not torch.compiler.is_compiling():
                # The kernels write behind autograd's back, which must refuse a backward pass through what they changed.
                torch.autograd.graph.increment_version(job.params)
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
                check_group({**self.defaults, **group}, self._explores)
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

    def _known_shapes(self) -> frozenset[tuple[int, ...]]:
        """Shapes of the parameters the optimizer was given; a copy, or an unpickled one, was given what it has."""
        known = vars(self).get("_shapes")
        if known is None:
            known = frozenset(tuple(param.shape) for group in self.param_groups for param in group["params"])
            self._shapes = known
        return known  # type: ignore[no-any-return]

    def _with_gradient(self, group: dict[str, Any]) -> list[Tensor]:
        params = [param for param in group["params"] if param.grad is not None]
        needs_norms = group["layer_adaptation"] or group["max_grad_norm"] is not None
        for param in params:
            if is_sharded(param):
                check_sharded(param, group)  # it may have taken a whole one's place
            elif needs_norms:
                refuse_flat(param, self._known_shapes(), type(self).__name__)
            if param.grad is not None and param.grad.layout != torch.strided:
                raise RuntimeError(
                    f"{type(self).__name__}: a parameter of shape {tuple(param.shape)} has a sparse gradient; "
                    "build its layer with sparse=False, or leave it to torch.optim.SparseAdam"
                )
        return params

    def _prepare(self, pools: Pools) -> Iterator[_Work]:
        first = 0
        for group in self.param_groups:
            rule, params = rule_of(group), self._with_gradient(group)
            for param in params:
                self._initialise(param, group)
            if group["differentiable"]:
                yield _Work(group, rule, params, [], [])
            else:
                # A parameter's number tells its random bits from the others' and survives a resume.
                numbers = [number for number, param in enumerate(group["params"], first) if param.grad is not None]
                random = rule.stochastic_rounding and torch.bfloat16 in (
                    group["state_dtype"],
                    *(p.dtype for p in params),
                )
                rule = rule._replace(stochastic_rounding=random)
                salts = [salt(group["seed"], number) if random else 0 for number in numbers]
                rows = [self._row(param, group, bits, pools) for param, bits in zip(params, salts, strict=True)]
                # Raises if ``fused`` asks too much.
                yield _Work(group, rule, params, rows, buckets(rows, group, self._explores))
            first += len(group["params"])

    def _initialise(self, param: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if len(state) == 0:
            device = param.device if group["capturable"] else torch.device("cpu")
            state["step"] = torch.zeros((), dtype=torch.float32, device=device)
            for name in self._states:
                state[name] = new_state(param, group["state_dtype"], signed=name != "exp_avg_sq")
        elif group["capturable"] and state["step"].device != param.device:
            state["step"] = state["step"].to(param.device)  # switched on in mid-run

    def _row(self, param: Tensor, group: dict[str, Any], salt: int, pools: Pools) -> Row:
        row = Row.of(param, self.state[param], self._states, state_dtype(param, group["state_dtype"]), salt)
        place = pools.place(param)
        return row if place is None else row.placed(param, place, patterns(group["blocks"], param.shape))

    def _step_differentiably(self, params: list[Tensor], rule: Rule, max_grad_norm: float | None) -> None:
        """The reference itself: out of place, so that autograd can follow parameters and states."""
        grads = [param.grad for param in params if param.grad is not None]
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


def _clip_factors(work: list[_Work], pools: Pools) -> list[Tensor | None]:
    """For each group min(1, max_grad_norm / (|g| + 1e-6)), or None; norms accumulate in float32 or better."""
    bounds = [job.group["max_grad_norm"] for job in work]
    if all(bound is None for bound in bounds):
        return [None] * len(work)
    sums = [
        (which, bucket.pool, bucket.backend.square_sum(bucket.grads))
        for which, job in enumerate(work)
        for bucket in job.buckets
        if bucket.counted and bounds[which] is not None
    ]
    return [
        None if bound is None or not job.buckets else (bound / (total.sqrt() + 1e-6)).clamp(max=1.0)
        for bound, job, total in zip(bounds, work, pools.totals(sums, len(work)), strict=True)
    ]
