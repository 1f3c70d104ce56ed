"""State dicts and distributed checkpoints of an adapted optimizer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import valleys
from engine.adapted import ALL, ALL_AND_OURS, adapted, saved
from optimizer_cases import CASES, Case, parameters, set_gradients
from test_adapt import ALPHA, BETA, bits, close, run_adapted, same

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
    base_params, params = parameters(case), parameters(case)
    plain, optimizer = case.build(base_params), adapted(case, params)
    run_adapted(plain, base_params, range(5))
    run_adapted(optimizer, params, range(5))
    with pytest.warns(UserWarning, match="explore_exp_avg"):
        optimizer.load_state_dict(saved(plain.state_dict()))
    assert optimizer.param_groups[0]["explore_alpha"] == ALPHA
    assert "explore_exp_avg" not in optimizer.state_dict()["state"][0]
    run_adapted(optimizer, params, range(5, 7))


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
    state: Tensor = optimizer.state[param]["explore_exp_avg"]
    return state


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
    for checkpoint in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2, bias=not case.matrices_only).double()
        optimizer = adapted(case, list(model.parameters()))
        for step in range(5):
            if checkpoint and step == first:
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
    """Load into a new optimizer, which torch.distributed.checkpoint steps first, to learn the names of its states."""
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
