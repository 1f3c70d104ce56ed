"""``load_state_dict`` is all or nothing: an error, or the promised warning, comes before the first change."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import damage
import valleys
from optimizer_cases import CASES, Case, set_gradients
from optimizer_cases import parameters as case_parameters
from public_optimizers import PUBLIC, Build, available, feed, parameters, snapshot, train


@pytest.fixture(params=PUBLIC)
def build(request: pytest.FixtureRequest) -> Iterator[Any]:
    with available(request.param) as function:
        yield function


def pair(build: Build) -> tuple[Any, Any, list[torch.nn.Parameter]]:
    """A state dict of three steps, and an optimizer after two others."""
    sources, params = parameters((3,), (4, 6)), parameters((3,), (4, 6), seed=1)
    source, optimizer = build(sources), build(params)
    train(source, sources, 3)
    train(optimizer, params, 2)
    return copy.deepcopy(source.state_dict()), optimizer, params


def assert_refused(optimizer: Any, state: Any, message: str) -> None:
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    assert damage.same(before, snapshot(optimizer))


@pytest.mark.parametrize("name", damage.NAMES)
def test_random_damage_ends_well(name: str) -> None:
    """``python tests/damage.py 1000`` has more of it, and a table."""
    results = [damage.outcome(name, seed) for seed in range(60)]
    assert not [result for result in results if result[0].startswith("FAULT")]
    assert sum(result[0] == "refused" for result in results) > 30


def test_every_key_of_every_entry(build: Build) -> None:
    """One at a time: missing, None, text, and of another shape; a missing buffer of E is warned about."""
    state, optimizer, _ = pair(build)
    layerwise = isinstance(optimizer, (valleys.ALTO, valleys.Lamb))
    for number, entry in state["state"].items():
        for key in entry:
            optional = key in ("rounding_step", "explore_step") or (key == "explore_exp_avg" and not layerwise)
            for value in (None, "text", torch.ones(7, 7, 7)):
                bad = copy.deepcopy(state)
                bad["state"][number][key] = value
                if key == "momentum_buffer" and value is None:
                    continue  # torch's own way to say that there is none yet
                assert_refused(optimizer, bad, f"state '{key}' of parameter {number} of its group")
            bad = copy.deepcopy(state)
            del bad["state"][number][key]
            if not optional:
                assert_refused(optimizer, bad, f"the state dict has no '{key}' for parameter {number} of its group")
    optimizer.load_state_dict(state)


def test_a_number_listed_twice_is_refused(build: Build) -> None:
    """Two parameters would get the states of one."""
    state, optimizer, _ = pair(build)
    state["param_groups"][0]["params"] = [1, 1]
    del state["state"][0]
    assert_refused(optimizer, state, "the state dict lists parameter 1 2 times")


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("ESGD", "dampening", (0.9,)),  # which a second step is the first to use
        ("ESGD", "momentum", "much"),
        ("EAdam", "betas", (0.9, 1.5)),
        ("EAdamW", "weight_decay", True),
        ("adapt(RMSprop)", "alpha", None),
        ("EAdamW in one pass", "lr", "fast"),
    ],
)
def test_options_that_torch_would_only_miss_at_a_step_are_refused(name: str, option: str, value: Any) -> None:
    state, optimizer, _ = pair(PUBLIC[name])
    state["param_groups"][0][option] = value
    assert_refused(optimizer, state, "the options of a saved group do not fit")


@pytest.mark.parametrize("bad", [float("nan"), -1, -1.0, 2.5, float("inf")])
def test_a_count_that_is_none_is_refused(build: Build, bad: float) -> None:
    state, optimizer, _ = pair(build)
    if "step" not in state["state"][0]:
        pytest.skip("counts no steps")
    for value in (bad, torch.tensor(float(bad))):
        state["state"][1]["step"] = value
        assert_refused(optimizer, state, "'step' of parameter 1 of its group must be a whole number of at least 0")


@pytest.mark.parametrize("convert", [int, float, lambda step: torch.tensor(int(step)), lambda step: step.view(1)])
def test_a_step_of_an_old_checkpoint_is_converted(build: Build, convert: Any) -> None:
    state, optimizer, params = pair(build)
    old = copy.deepcopy(state)
    for entry in old["state"].values():
        if "step" in entry:
            entry["step"] = convert(entry["step"])
    runs = []
    start = [param.detach().clone() for param in params]
    for one in (state, old):
        for param, value in zip(params, start, strict=True):
            param.data.copy_(value)
        optimizer.load_state_dict(one)
        feed(params, 9)
        optimizer.step()
        assert all(isinstance(entry.get("step", torch.ones(())), Tensor) for entry in optimizer.state.values())
        runs.append([param.detach().clone() for param in params])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_states_of_another_kind_of_optimizer_are_refused(build: Build) -> None:
    _, optimizer, _ = pair(build)
    foreign = torch.optim.Rprop(parameters((3,), (4, 6)))
    train(foreign, foreign.param_groups[0]["params"], 1)
    saved = foreign.state_dict()
    saved["param_groups"] = copy.deepcopy(optimizer.state_dict()["param_groups"])
    if isinstance(optimizer, torch.optim.SGD) and not optimizer.param_groups[0]["momentum"]:
        return  # it keeps no state, and ignores that of others
    assert_refused(optimizer, saved, "the state dict has no '.*' for parameter 0 of its group but .*'prev'")
    assert_refused(optimizer, foreign.state_dict(), "no '|has no ")


@pytest.mark.parametrize(
    "name", [name for name in PUBLIC if not name.startswith(("ALTO", "Lamb")) and name != "adapt(SGD)"]
)
def test_a_buffer_of_e_that_one_parameter_lacks_is_told(name: str) -> None:
    state, optimizer, params = pair(PUBLIC[name])
    del state["state"][1]["explore_exp_avg"]
    with pytest.warns(UserWarning, match=re.escape("no 'explore_exp_avg' for the parameters [1]")):
        optimizer.load_state_dict(state)
    feed(params, 5)
    optimizer.step()


def test_a_warning_that_is_an_error_leaves_the_optimizer_as_it_was() -> None:
    """Warnings are raised as errors in many test suites, this one included."""
    state, optimizer, _ = pair(PUBLIC["EAdamW"])
    for entry in state["state"].values():
        del entry["explore_exp_avg"]
    before = snapshot(optimizer)
    with pytest.raises(UserWarning, match="its memory starts empty"):
        optimizer.load_state_dict(state)
    assert damage.same(before, snapshot(optimizer))


def test_what_a_hook_of_the_user_raises_leaves_the_optimizer_as_it_was(build: Build) -> None:
    state, optimizer, _ = pair(build)

    def failing(_: Any) -> None:
        raise OSError("no such file")

    handle = optimizer.register_load_state_dict_post_hook(failing)
    before = snapshot(optimizer)
    with pytest.raises(OSError, match="no such file"):
        optimizer.load_state_dict(state)
    assert damage.same(before, snapshot(optimizer))
    handle.remove()
    optimizer.load_state_dict(state)


@pytest.mark.parametrize("name", [name for name in CASES if "Lamb" not in name])
def test_what_torchs_own_optimizers_save_is_never_refused(name: str) -> None:
    """The states are learned from a small tensor: no rule of that may be too strict for a real checkpoint."""
    case: Case = CASES[name]
    params = case_parameters(case)
    frozen = case.build(params)
    valleys.adapt(frozen, -5.0, 0.9)
    for step in range(4):
        set_gradients(params, step)
        params[-1].grad = None  # never stepped: no states
        frozen.step()
        fresh_params = case_parameters(case)
        fresh = valleys.adapt(case.build(fresh_params), -5.0, 0.9)
        fresh.load_state_dict(copy.deepcopy(frozen.state_dict()))
        if name != "SGD fused":  # torch's own wants a momentum of every parameter or of none
            set_gradients(fresh_params, step)
            fresh.step()
    plain_params = case_parameters(case)
    plain = case.build(plain_params)
    set_gradients(plain_params, 0)
    plain.step()
    if plain.state_dict()["state"]:
        with pytest.warns(UserWarning, match="starts empty"):
            frozen.load_state_dict(plain.state_dict())
