"""An adapted optimizer among hooks, schedulers, scalers, pickles, checkpoints: it behaves as its base does."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer, lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import valleys
from optimizer_cases import CASES, Case, parameters, set_gradients
from test_adapt import ALPHA, BETA, bits, close, run_adapted, same

# ALTO and Lamb keep the same promises by themselves.
OURS = {
    "ALTO loop": Case(valleys.ALTO, {"lr": 0.02, "beta": BETA, "foreach": False}, amp=True),
    "ALTO foreach": Case(valleys.ALTO, {"lr": 0.02, "beta": BETA, "foreach": True}, amp=True),
}
ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
ALL_AND_OURS = pytest.mark.parametrize("case", [*CASES.values(), *OURS.values()], ids=[*CASES, *OURS])


def adapted(case: Case, params: Any, **options: Any) -> Optimizer:
    optimizer = case.build(params)
    return optimizer if isinstance(optimizer, valleys.ALTO) else valleys.adapt(optimizer, ALPHA, BETA, **options)


def saved(state: Any) -> Any:
    """Through torch.save and the safe loader."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


# --- identity, copies -------------------------------------------------------------------------------------------------


@ALL
def test_it_is_the_same_object_of_its_old_class(case: Case) -> None:
    optimizer = case.build(parameters(case))
    base = type(optimizer)
    groups, state = optimizer.param_groups, optimizer.state
    result = valleys.adapt(optimizer, ALPHA, BETA)
    assert result is optimizer
    assert isinstance(optimizer, base)
    assert type(optimizer).__name__ == "E" + base.__name__
    assert optimizer.param_groups is groups
    assert optimizer.state is state


@ALL_AND_OURS
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_go_on_bit_for_bit(case: Case, how: str) -> None:
    params = parameters(case)
    optimizer = adapted(case, params, inplace=True)
    run_adapted(optimizer, params, range(10))
    pair = (params, optimizer)
    twins, twin = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    assert type(twin) is type(optimizer)
    run_adapted(optimizer, params, range(10, 20))
    assert not same(bits(params), bits(twins))
    run_adapted(twin, twins, range(10, 20))
    assert same(bits(params), bits(twins))
    grads = [p.grad for p in twins if p.grad is not None]
    assert same(grads, [p.grad for p in params if p.grad is not None])  # adapt's inplace was copied too


# --- state dicts ------------------------------------------------------------------------------------------------------


@ALL_AND_OURS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_resume_through_the_safe_loader_is_bit_for_bit(case: Case, dtype: torch.dtype) -> None:
    params = parameters(case, dtype)
    optimizer = adapted(case, params)
    run_adapted(optimizer, params, range(10))
    state, start = saved(optimizer.state_dict()), bits(params)
    run_adapted(optimizer, params, range(10, 20))

    resumed = [torch.nn.Parameter(value) for value in start]
    again = adapted(case, resumed)
    again.param_groups[0]["lr"] = 1.0  # the checkpoint's options count
    again.load_state_dict(state)
    if dtype == torch.bfloat16 and case.cls not in (valleys.ALTO, valleys.Lamb):
        # torch casts its own float32 states (NAdam's mu_product, say) on loading; E's buffer keeps its dtype.
        buffers = [entry["explore_exp_avg"] for entry in again.state_dict()["state"].values()]
        assert same(buffers, [entry["explore_exp_avg"] for entry in state["state"].values()])
        assert all(buffer.dtype == torch.float32 for buffer in buffers)
        return
    run_adapted(again, resumed, range(10, 20))
    if case.cls is torch.optim.NAdam and dtype == torch.float64:
        # torch turns NAdam's float32 mu_product into float64 on loading: the plain one does not resume exactly either.
        close(params, resumed, rtol=1e-6)
        return
    assert same(bits(params), bits(resumed))


def test_loading_copies_and_does_not_alias() -> None:
    case = CASES["AdamW loop"]
    params = parameters(case)
    optimizer = adapted(case, params)
    run_adapted(optimizer, params, range(3))
    state = optimizer.state_dict()
    twin = adapted(case, parameters(case))
    twin.load_state_dict(state)
    before = state["state"][0]["explore_exp_avg"].clone()
    run_adapted(twin, [p for g in twin.param_groups for p in g["params"]], range(3, 5))
    assert torch.equal(state["state"][0]["explore_exp_avg"], before)


@ALL
def test_the_buffer_is_a_state_that_the_base_never_sees(case: Case) -> None:
    params = parameters(case)
    optimizer = case.build(params)
    base: Any = type(optimizer).step
    views: list[set[str]] = []

    def spying(self: Any, *args: Any, **options: Any) -> Any:
        views.extend(set(entry) for entry in self.state.values())
        return base(self, *args, **options)

    watched = type("Watched", (type(optimizer),), {"step": spying})
    optimizer.__class__ = watched
    valleys.adapt(optimizer, ALPHA, BETA)
    run_adapted(optimizer, params, range(3))
    optimizer.load_state_dict(saved(optimizer.state_dict()))
    run_adapted(optimizer, params, range(3, 5))
    plain = case.build(parameters(case))
    run_adapted(plain, [p for g in plain.param_groups for p in g["params"]], range(5))
    plains = [set(entry) for entry in plain.state_dict()["state"].values()]
    assert all(view in (*plains, set()) for view in views)
    for param, index in zip(params, range(len(params)), strict=True):
        entry = plain.state_dict()["state"].get(index, {})
        assert set(optimizer.state[param]) == {*entry, "explore_exp_avg"}
        assert set(optimizer.state_dict()["state"][index]) == {*entry, "explore_exp_avg"}


def test_a_checkpoint_of_the_plain_optimizer_can_be_loaded() -> None:
    case = CASES["AdamW loop"]
    theirs, ours = parameters(case), parameters(case)
    plain, optimizer = case.build(theirs), adapted(case, ours)
    run_adapted(plain, theirs, range(5))
    run_adapted(optimizer, ours, range(5))
    with pytest.warns(UserWarning, match="explore_exp_avg"):
        optimizer.load_state_dict(saved(plain.state_dict()))
    assert optimizer.param_groups[0]["explore_alpha"] == ALPHA
    assert "explore_exp_avg" not in optimizer.state_dict()["state"][0]
    run_adapted(optimizer, ours, range(5, 7))


def test_a_plain_optimizer_can_load_an_adapted_checkpoint() -> None:
    case = CASES["AdamW loop"]
    params = parameters(case)
    optimizer, plain = adapted(case, params), case.build(parameters(case))
    run_adapted(optimizer, params, range(3))
    plain.load_state_dict(saved(optimizer.state_dict()))
    run_adapted(plain, [p for g in plain.param_groups for p in g["params"]], range(3, 5))


def test_a_bad_checkpoint_changes_nothing() -> None:
    case = CASES["AdamW loop"]
    params = parameters(case)
    optimizer = adapted(case, params)
    run_adapted(optimizer, params, range(3))
    before = copy.deepcopy(optimizer.state_dict())
    state = saved(optimizer.state_dict())
    with pytest.raises(ValueError, match="parameter group"):
        optimizer.load_state_dict({**state, "param_groups": state["param_groups"] * 2})
    state["param_groups"][0]["explore_beta"] = 0.0
    with pytest.raises(ValueError, match="explore_alpha"):
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    assert before["param_groups"] == after["param_groups"]
    assert torch.equal(before["state"][1]["explore_exp_avg"], after["state"][1]["explore_exp_avg"])


def buffer(optimizer: Any) -> Tensor:
    """The first parameter's buffer, without the hooks of ``state_dict``."""
    param = optimizer.param_groups[0]["params"][0]
    kept: Tensor = optimizer.state[param]["explore_exp_avg"]
    return kept


@ALL_AND_OURS
def test_state_dict_hooks_fire_once_and_see_everything(case: Case) -> None:
    params = parameters(case)
    optimizer = adapted(case, params)
    run_adapted(optimizer, params, range(2))
    events: list[str] = []
    before = buffer(optimizer).clone()

    def note(event: str, holds: bool) -> None:
        assert holds, event
        events.append(event)

    def in_dict(state: dict[str, Any]) -> bool:
        return "explore_exp_avg" in state["state"][0]

    optimizer.register_state_dict_pre_hook(lambda o: note("state pre", True))
    optimizer.register_state_dict_post_hook(lambda o, state: note("state post", in_dict(state)))
    optimizer.register_load_state_dict_pre_hook(lambda o, state: note("load pre", in_dict(state)))
    optimizer.register_load_state_dict_post_hook(lambda o: note("load post", torch.equal(buffer(o), before)))
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    assert events == ["state pre", "state post", "load pre", "load post"]


# --- step hooks -------------------------------------------------------------------------------------------------------


@ALL_AND_OURS
def test_step_hooks_fire_once(case: Case) -> None:
    case.build(parameters(case))  # the base's step has its hooks by now
    params = parameters(case)
    optimizer = adapted(case, params)
    events: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: events.append("pre"))
    optimizer.register_step_post_hook(lambda *_: events.append("post"))
    handles = [
        register_optimizer_step_pre_hook(lambda *_: events.append("global pre")),
        register_optimizer_step_post_hook(lambda *_: events.append("global post")),
    ]
    try:
        run_adapted(optimizer, params, range(1))
    finally:
        for handle in handles:
            handle.remove()
    assert events == ["global pre", "pre", "post", "global post"]


def test_hooks_registered_before_adapting_stay() -> None:
    case = CASES["AdamW loop"]
    params = parameters(case)
    optimizer = case.build(params)
    events: list[int] = []
    optimizer.register_step_post_hook(lambda *_: events.append(1))
    valleys.adapt(optimizer, ALPHA, BETA)
    run_adapted(optimizer, params, range(3))
    assert events == [1, 1, 1]


# --- schedulers -------------------------------------------------------------------------------------------------------

SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda k: 0.9**k),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda k: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 7], 0.5),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=8),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 10),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.02, step_size_up=3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.03, total_steps=20),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 3), lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 3), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.001, anneal_epochs=5),
}


def test_every_scheduler_of_torch_is_in_the_table() -> None:
    public = {name for name in lr_scheduler.__all__ if name != "LRScheduler"}
    assert public <= set(SCHEDULERS)


def advance(scheduler: Any, step: int) -> None:
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        scheduler.step(1.0 + step)
    else:
        scheduler.step()


def train(optimizer: Optimizer, params: list[torch.nn.Parameter], scheduler: Any, steps: range) -> list[float]:
    rates = []
    for step in steps:
        set_gradients(params, step)
        optimizer.step()
        advance(scheduler, step)
        rates.append(float(optimizer.param_groups[0]["lr"]))
    return rates


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("base", ["SGD loop", "AdamW foreach"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_schedulers_reach_the_adapted_optimizer(name: str, base: str, when: str) -> None:
    """Made before or after adapting, the same learning rates and, with warnings as errors, no complaint."""
    case = CASES[base]
    theirs = parameters(case)
    plain = case.build(theirs)
    expected = train(plain, theirs, SCHEDULERS[name](plain), range(12))
    assert len(set(expected)) > 1

    ours = parameters(case)
    optimizer = case.build(ours)
    if when == "before":
        scheduler = SCHEDULERS[name](optimizer)
        valleys.adapt(optimizer, ALPHA, BETA)
    else:
        valleys.adapt(optimizer, ALPHA, BETA)
        scheduler = SCHEDULERS[name](optimizer)
    assert train(optimizer, ours, scheduler, range(12)) == expected
    # E was not bypassed by the scheduler's patched step.
    assert all("explore_exp_avg" in optimizer.state[param] for param in ours)
    assert not same(bits(ours), bits(theirs))


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_schedules_survive_a_load(name: str, when: str) -> None:
    case = CASES["AdamW loop"]

    def build(params: list[torch.nn.Parameter]) -> tuple[Optimizer, Any]:
        optimizer = case.build(params)
        if when == "after":
            return valleys.adapt(optimizer, ALPHA, BETA), SCHEDULERS[name](optimizer)
        scheduler = SCHEDULERS[name](optimizer)
        return valleys.adapt(optimizer, ALPHA, BETA), scheduler

    params = parameters(case)
    optimizer, scheduler = build(params)
    train(optimizer, params, scheduler, range(6))
    checkpoint = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict(), bits(params)))
    expected = train(optimizer, params, scheduler, range(6, 12))

    resumed = [torch.nn.Parameter(value) for value in checkpoint[2]]
    again, schedule = build(resumed)
    again.load_state_dict(checkpoint[0])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The epoch parameter")
        schedule.load_state_dict(checkpoint[1])
    assert train(again, resumed, schedule, range(6, 12)) == expected
    assert same(bits(params), bits(resumed))


def test_a_scheduler_still_warns_when_it_is_called_first() -> None:
    """The flag that schedulers look at is kept, not just set."""
    params = [torch.nn.Parameter(torch.ones(2))]
    optimizer = torch.optim.SGD(params, lr=0.1)
    scheduler = lr_scheduler.StepLR(optimizer, 1)
    valleys.adapt(optimizer, ALPHA, BETA)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        scheduler.step()


def test_a_foreign_patch_of_step_is_refused() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    optimizer.step = lambda closure=None: None  # type: ignore[assignment, method-assign, misc]
    with pytest.raises(RuntimeError, match="adapt the optimizer first"):
        valleys.adapt(optimizer)
    assert type(optimizer) is torch.optim.SGD


# --- GradScaler -------------------------------------------------------------------------------------------------------


@ALL_AND_OURS
@pytest.mark.parametrize("unscale_first", [False, True])
def test_grad_scaler(case: Case, unscale_first: bool) -> None:
    """Scaled training equals unscaled training; a step with an infinite gradient changes nothing."""
    ours, theirs = parameters(case), parameters(case)
    optimizer, plain = adapted(case, ours), adapted(case, theirs)
    if not hasattr(case.build(parameters(case)), "_step_supports_amp_scaling") and case.amp:
        pytest.skip("this torch's own has no support for it")
    assert bool(getattr(optimizer, "_step_supports_amp_scaling", False)) == case.amp
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=4)
    # torch's fused SGD leaves its momentum uninitialised if the very first step overflows; that is not E's to mend.
    overflows = (3, 8) if case is CASES["SGD fused"] else (0, 5)
    for step in range(14):
        set_gradients(theirs, step)
        set_gradients(ours, step)
        scaler.scale(torch.ones(()))  # the scaler makes its scale at the first loss
        for param in ours:
            if param.grad is not None:
                param.grad *= scaler.get_scale()
        overflow = step in overflows
        if overflow:
            next(p.grad for p in ours if p.grad is not None).view(-1)[0] = torch.inf
            before = bits(ours), copy.deepcopy(optimizer.state_dict()["state"])
        if unscale_first:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        if overflow:
            assert same(bits(ours), before[0])
            for index, entry in optimizer.state_dict()["state"].items():
                old = before[1].get(index, {}).get("explore_exp_avg")
                buffer = entry.get("explore_exp_avg", torch.zeros(()))
                assert torch.equal(buffer, torch.zeros_like(buffer) if old is None else old)
        else:
            plain.step()
    close(ours, theirs, rtol=1e-7 if case.amp else 1e-12)


def test_scaled_gradients_with_a_group_that_is_off() -> None:
    """The fused base must not unscale twice, nor miss the group whose alpha is 0."""
    case = CASES["Adam fused"]
    ours, theirs = parameters(case), parameters(case)
    optimizer, unscaled = (
        adapted(case, [{"params": params[:1], "explore_alpha": 0.0}, {"params": params[1:]}])
        for params in (ours, theirs)
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    for step in range(5):
        set_gradients(ours, step, missing=False)
        scaler.scale(torch.ones(()))
        for param in ours:
            assert param.grad is not None
            param.grad *= 64.0
        scaler.step(optimizer)
        scaler.update()
    for step in range(5):
        set_gradients(theirs, step, missing=False)
        unscaled.step()
    close(ours, theirs, rtol=1e-12)


# --- refusals ---------------------------------------------------------------------------------------------------------


def one() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(2))]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: valleys.adapt(torch.optim.SGD(one(), lr=0.1)), "adapted already"),
        (lambda: valleys.EAdamW(one()), "adapted already"),
        (lambda: valleys.ALTO(one()), "E built in"),
        (lambda: torch.optim.LBFGS(one()), "several times per step"),
        (lambda: torch.optim.SparseAdam(one()), "sparse"),
        (lambda: torch.optim.AdamW, "build the optimizer first"),
        (lambda: "adamw", "torch.optim.Optimizer"),
    ],
)
def test_what_cannot_be_adapted_is_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        valleys.adapt(build())


@pytest.mark.parametrize(
    "cls",
    [valleys.ALTO, valleys.Lamb, valleys.ESGD, valleys.EAdam, valleys.EAdamW],
    ids=lambda cls: cls.__name__,
)
def test_sparse_gradients_are_refused_before_any_change(cls: Any) -> None:
    embedding = torch.nn.Embedding(5, 3, sparse=True)
    dense = torch.nn.Parameter(torch.ones(2))
    optimizer = cls([dense, embedding.weight], lr=0.1)
    embedding(torch.tensor([1, 2])).sum().backward()
    dense.grad = torch.ones(2)
    before = embedding.weight.detach().clone()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    assert torch.equal(dense.detach(), torch.ones(2))
    assert torch.equal(embedding.weight.detach(), before)
    assert not any(optimizer.state_dict()["state"].values())


def test_an_optimizer_that_evaluates_elsewhere_is_refused_at_the_step() -> None:
    class Sam(Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {"lr": 0.1})

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            (param,) = self.param_groups[0]["params"]
            param.add_(0.1)
            closure()

    (param,) = one()
    optimizer = valleys.adapt(Sam([param]))

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="cannot be adapted"):
        optimizer.step(closure)


def test_grad_is_put_back_when_the_base_fails() -> None:
    class Broken(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            raise FloatingPointError("no")

    (param,) = one()
    optimizer = valleys.adapt(Broken([param], lr=0.1))
    param.grad = grad = torch.ones(2)
    with pytest.raises(FloatingPointError):
        optimizer.step()
    assert param.grad is grad


@pytest.mark.parametrize("alpha", [-2.0, 2.0, float("nan"), float("inf")])
def test_bad_options_are_refused_and_nothing_is_touched(alpha: float) -> None:
    optimizer = torch.optim.SGD(one(), lr=0.1)
    with pytest.raises(ValueError, match="alpha"):
        valleys.adapt(optimizer, alpha, 0.5)
    optimizer.param_groups[0]["explore_alpha"] = alpha
    with pytest.raises(ValueError, match="explore_alpha"):
        valleys.adapt(optimizer, 0.0, 0.5)
    assert type(optimizer) is torch.optim.SGD
    assert "explore_alpha" not in optimizer.defaults


def test_a_bad_added_group_is_refused_and_not_added() -> None:
    optimizer = valleys.adapt(torch.optim.SGD(one(), lr=0.1))
    with pytest.raises(ValueError, match="explore_beta"):
        optimizer.add_param_group({"params": one(), "explore_beta": 1.0})
    assert len(optimizer.param_groups) == 1


def test_ready_made_classes_refuse_alpha_in_a_group() -> None:
    with pytest.raises(ValueError, match="explore_alpha"):
        valleys.EAdamW([{"params": one(), "alpha": 0.5}])


# --- others' machinery ------------------------------------------------------------------------------------------------


# In float64 NAdam does not resume exactly: torch casts its mu_product to float32.
RESUMABLE = [name for name in CASES if not name.startswith("NAdam")]


@pytest.mark.parametrize("name", RESUMABLE)
@pytest.mark.parametrize("first", [0, 2], ids=["fresh", "running"])
def test_distributed_checkpoint_changes_nothing(name: str, first: int) -> None:
    """torch.distributed.checkpoint steps a fresh optimizer with zero gradients; a later run must not notice."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    case = CASES[name]
    runs = []
    for asked in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2, bias=not case.matrices_only).double()
        optimizer = adapted(case, list(model.parameters()))
        for step in range(5):
            if asked and step == first:
                optimizer.zero_grad()
                state: Any = get_optimizer_state_dict(model, optimizer)
                assert "explore_exp_avg" in state["state"]["weight"]
                if first:
                    set_optimizer_state_dict(model, optimizer, state)
            set_gradients(list(model.parameters()), step, missing=False)
            optimizer.step()
        runs.append([p.detach().clone() for p in model.parameters()])
    assert same(*runs)


@pytest.mark.parametrize("name", RESUMABLE)
def test_distributed_checkpoint_loads_into_a_fresh_optimizer(name: str) -> None:
    """Which it steps first, too, to learn what to load."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    case = CASES[name]
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2, bias=not case.matrices_only).double()
    optimizer = adapted(case, list(model.parameters()))
    for step in range(3):
        set_gradients(list(model.parameters()), step, missing=False)
        optimizer.step()
    optimizer.zero_grad()
    again = copy.deepcopy(model)
    other = adapted(case, list(again.parameters()))
    checkpoint: Any = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
    set_optimizer_state_dict(again, other, checkpoint)
    for step in range(3, 6):
        for m, o in ((model, optimizer), (again, other)):
            set_gradients(list(m.parameters()), step, missing=False)
            o.step()
    assert same(list(model.parameters()), list(again.parameters()))
