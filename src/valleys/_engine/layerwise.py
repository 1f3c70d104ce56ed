"""The optimizer under ALTO and Lamb: checks of options, states, gathering, dispatch. The update is in ``kernels``."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from valleys import reference
from valleys._engine.amp import Gradients, Scale, advance, factors, square_sum
from valleys._engine.block_memory import Pattern, patterns
from valleys._engine.checkpoint.checks import Kind, check_saved
from valleys._engine.checkpoint.dcp_probe import is_probe
from valleys._engine.checkpoint.other_optimizers import is_without_e, moments_of
from valleys._engine.dtensor import is_sharded, is_uninitialized, local, refuse_flat
from valleys._engine.eight_bit import CODE, convert
from valleys._engine.kernel_inputs import Bucket, Row, buckets, update_sums
from valleys._engine.layer_norms import Pools, over_ranks
from valleys._engine.options import (
    check_group,
    check_parameters,
    check_sharded,
    has_codes,
    is_adapted,
    is_corrected,
    kernel_dtype,
    rounds_stochastically,
    rule_of,
)
from valleys._engine.state import (
    BUFFER,
    CORRECTION,
    CPU,
    ROUNDING_STEP,
    SKIPPED_STEPS,
    count_tensor,
    load_keeping_dtype,
    new_state,
    step_tensor,
    stored_names,
)
from valleys._engine.tensor_checks import check_tensors, check_values
from valleys.kernels import Rule
from valleys.kernels.choice import require_fused
from valleys.kernels.ratio import step_lengths
from valleys.kernels.rounding import salt

Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


class _Work(NamedTuple):
    """The step of one group: nothing has been changed yet."""

    group: dict[str, Any]
    params: list[Tensor]
    rows: list[Row]
    buckets: list[Bucket]


class Layerwise(Optimizer):
    """An optimizer of layerwise adaptation, fed by E if ``alpha`` is among its options, the defaults of a group."""

    # torch.amp.GradScaler leaves the scale to the step, which then needs no pass of its own to unscale.
    _step_supports_amp_scaling = True

    def __init__(self, params: Params, options: dict[str, Any]) -> None:
        self._explores = "alpha" in options
        check_group(options, self._explores)
        super().__init__(params, {**options, "betas": _plain(options["betas"]), "decay_vectors": False})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._explores = "alpha" in self.defaults
        for group in self.param_groups:
            for name, default in self.defaults.items():  # a checkpoint may be older than an option
                group.setdefault(name, default)
        for entry in self.state.values():
            if isinstance(entry.get("step"), (int, float)):  # pickled long ago
                entry["step"] = step_tensor(entry["step"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group; its options are checked like the constructor's."""
        if isinstance(param_group, dict):
            # A decay that the group was given is for all its tensors; torch fills in the default below.
            param_group.setdefault("decay_vectors", "weight_decay" in param_group)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            check_group(group, self._explores)
            check_parameters(group)
            group["betas"] = _plain(group["betas"])
            if group["fused"]:
                present = [param for param in group["params"] if not is_uninitialized(param)]
                needs = [(local(param), kernel_dtype(param, group), is_corrected(param, group)) for param in present]
                require_fused(needs, group["fused"])
        except (TypeError, ValueError, RuntimeError):
            self.param_groups.pop()
            raise
        self._remember(group["params"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Make one step.

        Args:
            closure: evaluates the model, calls ``backward`` and returns the loss; optional.

        Returns:
            The loss that the closure returned, or None.

        Raises:
            RuntimeError: a sparse gradient; a flat shard, whose norm is not a layer's.
            ValueError: an option of a group was changed to something out of range; a gradient or a state has not the
                shape, device or sharding of its parameter. Nothing has moved then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self.state and is_probe():
            for group in self.param_groups:
                for param in self._with_gradient(group):
                    self._initialise(param, group, on_device=group["capturable"])
            return loss
        # All checks before the first change.
        scale, pools = Scale.of(self), Pools(self.param_groups)
        work = list(self._prepare(pools, scale))
        effects = factors([job.group for job in work], list(_gradients(work)), pools, scale)
        for job, effect in zip(work, effects, strict=True):
            advance([self.state[param] for param in job.params], effect.skip)
        for job, (clip, skip) in zip(work, effects, strict=True):
            if job.group["differentiable"] and job.params and not (skip is not None and skip.item()):
                with torch.enable_grad():
                    self._step_differentiably(job.params, job.group, scale.grad_scale)
            for bucket in job.buckets:
                if bucket.pool is None or not bucket.layers:
                    bucket.backend.alto_(bucket.tensors, bucket.rule, clip, skip)
                    continue
                sums = bucket.backend.measure_(bucket.tensors, bucket.rule, clip, skip)
                if bucket.counted:
                    bucket.pool.add(bucket.layers, sums)
        pools.add_up()
        for job, (_, skip) in zip(work, effects, strict=True):
            for bucket in job.buckets:
                if bucket.pool is not None and bucket.layers:
                    sums = bucket.pool.of(bucket.layers, bucket.tensors.params[0].device)
                    bucket.backend.apply_(bucket.tensors, bucket.rule, step_lengths(sums, bucket.rule), skip)
            for row in job.rows:
                row.write_back()
            if job.rows and not torch.compiler.is_compiling():
                # The kernels write behind autograd's back, which must refuse a backward pass through what they changed.
                torch.autograd.graph.increment_version(job.params)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` saved; moments keep their dtype and move to their parameter's device.

        All of it or, after an error, nothing. From the state dict of a Lamb, Adam or AdamW ALTO takes the moments and
        step counts, by name where both were given named parameters; it keeps its options, and E's memory starts empty.

        Args:
            state_dict: the result of ``state_dict`` of an optimizer with the same groups.

        Raises:
            ValueError: the groups do not match; an option in them is out of range; a state is missing, or of another
                shape than its parameter, or no number.
        """
        foreign = self._explores and is_without_e(state_dict)
        if foreign:
            state_dict = moments_of(self, state_dict)

        def check(incoming: dict[str, Any]) -> dict[str, Any]:
            options = ("lr", "betas", "eps", "weight_decay", *(("alpha",) if self._explores else ()))
            check_saved(self, incoming, lambda *_: self._kinds, options)
            for group, own in zip(incoming["param_groups"], self.param_groups, strict=True):
                loaded = {**self.defaults, **group, "params": own["params"]}
                check_group(loaded, self._explores)
                check_parameters(loaded)
                if self._explores and "beta" not in group:
                    raise ValueError(f"{type(self).__name__}: a group of the state dict has no 'beta'; set it to 0.99")
            if foreign:
                warnings.warn(
                    f"the state dict has no {BUFFER!r}: it was saved by an optimizer without E. Its moments are taken, "
                    "the memory of E starts empty, and the options stay as they are",
                    stacklevel=5,
                )
            return incoming

        load_keeping_dtype(self, super().load_state_dict, state_dict, stored_names(self._kinds), check)

    @torch.no_grad()
    def trust_ratios(self, parameters: Mapping[Tensor, Tensor] | None = None) -> dict[Tensor, Tensor]:
        r"""Return the trust ratio of each layer, for the moments that the last step left and the present options.

        .. math::
            \frac{\phi(|\theta|)}{|r| + \epsilon_2 \phi(|\theta|)}, \qquad
            r = \frac{m / (1-\beta_2^k)}{\sqrt{v / (1-\beta_3^k)} + \epsilon_1} + \lambda \theta

        with ``trust_clip`` and the exceptions of the update. The one for gradients that are exactly zero needs the
        gradients of the last step: ``.grad``. A parameter without one counts as one whose gradient was not zero.

        Args:
            parameters: values for theta, by parameter. Those from before the last step give exactly the ratios that
                the step used. Default: None, the present values; also those of a parameter that is not in it.

        Returns:
            By parameter, float64 where the device has it: a 0-dimensional tensor, or with ``blocks`` one of shape
            (layers,). Parameters that never made a step, or have no ratio, are left out. Of sharded parameters all
            ranks must ask together, and get the same.

        Raises:
            ValueError: ``parameters`` has a key that is no parameter of the optimizer, or a value of another shape.
            RuntimeError: ``accelerate="after_momentum"``, whose update needs the a of the step, which is not kept.

        Example:
            >>> import torch, valleys
            >>> weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
            >>> optimizer = valleys.Lamb([weight], lr=0.1, weight_decay=0.0)
            >>> before, weight.grad = weight.detach().clone(), torch.tensor([[1.0, -1.0]])
            >>> optimizer.step()
            >>> round(optimizer.trust_ratios({weight: before})[weight].item(), 4)  # |weight| / |r| = 5 / sqrt(2)
            3.5355
        """
        values = parameters or {}
        rules: dict[Tensor, tuple[Rule, tuple[Pattern, ...]]] = {}
        sums: dict[Tensor, Tensor] = {}
        check_values(values, [param for group in self.param_groups for param in group["params"]])
        for group in self.param_groups:
            for param in group["params"]:
                state = self.state.get(param, {})
                # A step that skip_nonfinite left out may have been the first: there are moments then, and no step.
                if {"exp_avg", "exp_avg" + CODE} & set(state) and is_adapted(param, group) and state["step"].item() > 0:
                    rule, blocks = rules[param] = rule_of(group), patterns(group["blocks"], param.shape)
                    if rule.after_momentum:
                        raise RuntimeError("trust_ratios: accelerate='after_momentum' keeps no a to compute them of")
                    sums[param] = update_sums(param, values.get(param, param), state, rule, blocks)
        ratios = {p: step_lengths(total, rules[p][0]._replace(lr=1.0)) for p, total in over_ranks(sums).items()}
        return {param: ratio if rules[param][1] else ratio.squeeze(0) for param, ratio in ratios.items()}

    @property
    def _kinds(self) -> dict[str, Kind]:
        """States that a checkpoint must hold for a parameter that has any."""
        moments = dict.fromkeys(self._states, Kind.MOMENT)
        counts = {ROUNDING_STEP: Kind.COUNT, SKIPPED_STEPS: Kind.COUNT}
        return {"step": Kind.STEP, **moments, CORRECTION: Kind.CORRECTION, **counts}

    @property
    def _states(self) -> tuple[str, ...]:
        moments = ("exp_avg", "exp_avg_sq")
        return ("explore_exp_avg", *moments) if self._explores else moments

    def _remember(self, params: Iterable[Tensor]) -> None:
        """Note the shapes of parameters the optimizer was given; those of lazy modules come later."""
        params = list(params)
        shapes = (tuple(param.shape) for param in params if not is_uninitialized(param))
        vars(self).setdefault("_shapes", set()).update(shapes)
        vars(self).setdefault("_lazy", []).extend(weakref.ref(param) for param in params if is_uninitialized(param))

    def _known_shapes(self) -> set[tuple[int, ...]]:
        """Shapes of the parameters the optimizer was given; a copy, or an unpickled one, was given what it has."""
        if "_shapes" not in vars(self):
            self._remember(param for group in self.param_groups for param in group["params"])
        elif self._lazy:
            waiting = [param for reference in self._lazy if (param := reference()) is not None]
            self._lazy: list[Any] = []
            self._remember(waiting)
        return vars(self)["_shapes"]  # type: ignore[no-any-return]

    def _with_gradient(self, group: dict[str, Any]) -> list[Tensor]:
        params = [param for param in group["params"] if param.grad is not None]
        needs_norms = group["layer_adaptation"] or group["max_grad_norm"] is not None or group["skip_nonfinite"]
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

    def _prepare(self, pools: Pools, scale: Scale) -> Iterator[_Work]:
        first = 0
        for group in self.param_groups:
            check_group(group, self._explores)  # a scheduler or the user may have changed something
            params = self._with_gradient(group)
            rows: dict[bool, list[Row]] = {True: [], False: []}  # with a trust ratio, without one
            # What must be known without waiting for the device is kept there.
            on_device = group["capturable"] or group["skip_nonfinite"] or scale.found_inf is not None
            for index, param in enumerate(group["params"]):
                if param.grad is not None:
                    state = self._initialise(param, group, on_device)
                    names = (*self._states, CORRECTION) if CORRECTION in state else self._states
                    ordinary = check_tensors(self, group, index, state, names)
                    convert(param, state, self._states, has_codes(param, group))
                    if not group["differentiable"]:
                        row = self._row(param, group, first + index, state, pools, ordinary)
                        rows[is_adapted(param, group)].append(row)
            capturable = group["capturable"] or (on_device and any(param.device.type != "cpu" for param in params))
            cut: list[Bucket] = []
            for adapted, members in rows.items():
                rule = rule_of(group, adapted)._replace(capturable=capturable)
                cut += buckets(members, rule, group, self._explores)  # raises if ``fused`` asks too much
            yield _Work(group, params, rows[True] + rows[False], cut)
            first += len(group["params"])

    def _initialise(self, param: Tensor, group: dict[str, Any], on_device: bool) -> dict[str, Any]:
        state: dict[str, Any] = self.state[param]
        device = param.device if on_device else CPU
        if not state:
            state["step"] = step_tensor(0, device)
            for name in self._states:
                state.update(new_state(param, group["state_dtype"], name, group["blocks"]))
        state["step"] = step_tensor(state.get("step"), device)
        # A checkpoint may be older than the option.
        if rounds_stochastically(param, group):
            state[ROUNDING_STEP] = count_tensor(state.get(ROUNDING_STEP, state["step"]), device)
        if not is_corrected(param, group):
            state.pop(CORRECTION, None)
        elif CORRECTION not in state:
            state[CORRECTION] = torch.zeros_like(param, dtype=torch.int8, requires_grad=False)
        if group["skip_nonfinite"]:
            state[SKIPPED_STEPS] = count_tensor(state.get(SKIPPED_STEPS, 0), device)
        return state

    def _row(
        self, param: Tensor, group: dict[str, Any], number: int, state: dict[str, Any], pools: Pools, ordinary: bool
    ) -> Row:
        rounds = rounds_stochastically(param, group)
        # A parameter's number tells its random bits from the others' and survives a resume.
        bits = salt(group["seed"], number) if rounds else 0
        row = Row.of(param, state, self._states, kernel_dtype(param, group), bits, ordinary)
        if CORRECTION in state:
            row = row.corrected(param, state)
        if not rounds and row.rounding_step is not None:
            row = row._replace(rounding_step=None)  # counted while the option was on
        place = pools.place(param)
        return row if place is None else row.placed(param, place, patterns(group["blocks"], param.shape))

    def _step_differentiably(self, params: list[Tensor], group: dict[str, Any], grad_scale: Tensor | None) -> None:
        """The reference itself: out of place, so that autograd can follow parameters and states."""
        grads = [param.grad for param in params if param.grad is not None]
        if grad_scale is not None:
            grads = [grad / grad_scale.to(grad.device, grad.dtype) for grad in grads]
        if group["maximize"]:
            grads = [-grad for grad in grads]
        if group["max_grad_norm"] is not None:
            grads = reference.clip(grads, group["max_grad_norm"])
        for param, grad in zip(params, grads, strict=True):
            rule, state = rule_of(group, is_adapted(param, group)), self.state[param]
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
                after_m=rule.after_momentum,
                ratio_clip=rule.trust_clip,
            )
            state.update(exp_avg=moments.m, exp_avg_sq=moments.v)
            if isinstance(memory, reference.OneBuffer):
                state["explore_exp_avg"] = memory.s
            param.copy_(new)


def _plain(betas: Iterable[Any]) -> tuple[float, ...]:
    """Decay rates that any checkpoint can hold: they may come from NumPy or a configuration."""
    return tuple(float(beta) for beta in betas)


def _gradients(work: list[_Work]) -> Iterator[Gradients]:
    """The gradients whose norm the options of a group are about; of replicas, one rank's."""
    for number, job in enumerate(work):
        for bucket in job.buckets:
            if bucket.counted:
                yield Gradients(number, bucket.pool, bucket.backend.square_sum, bucket.grads)
        if job.group["differentiable"] and job.params:
            yield Gradients(number, None, square_sum, [param.grad for param in job.params if param.grad is not None])
