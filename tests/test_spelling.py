"""One spelling of E in every optimizer: ``betas`` are the moments', ``alpha`` and ``beta`` are E's."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np
import pytest
import torch

import valleys
from public_optimizers import feed, parameters, snapshot, train

E = (valleys.ALTO, valleys.ESGD, valleys.EAdam, valleys.EAdamW, valleys.adapt)


@pytest.mark.parametrize("function", E, ids=lambda f: f.__name__)
def test_alpha_and_beta_have_one_name_and_one_default(function: Any) -> None:
    options = inspect.signature(function).parameters
    assert (options["alpha"].default, options["beta"].default) == (-5.0, 0.99)
    assert "beta1" not in options


@pytest.mark.parametrize("cls", [valleys.ALTO, valleys.Lamb])
def test_every_option_is_in_the_signature_alone(cls: Any) -> None:
    """A group has the constructor's options under their names and defaults, and what it remembers of its own decay."""
    names = inspect.signature(cls).parameters
    (group,) = cls(parameters((3,))).param_groups
    assert set(group) == {*names, "decay_vectors"}
    for name, option in names.items():
        assert name == "params" or group[name] == option.default, name
    assert group["layer_adaptation"] == "matrices"


def test_what_suggest_returns_goes_on_into_each() -> None:
    rule = valleys.suggest(8192)
    assert rule == {"alpha": -5.0, "beta": 0.99}
    rule["alpha"] = 7.0  # the caller's own
    assert valleys.suggest(8192)["alpha"] == -5.0
    params = parameters((3,))
    valleys.ALTO([{"params": params}], 1e-2, **valleys.suggest(8192))
    for cls in (valleys.ESGD, valleys.EAdam, valleys.EAdamW):
        cls(params, 1e-2, **valleys.suggest(128))
    valleys.adapt(torch.optim.RMSprop(params), **valleys.suggest(128))


@pytest.mark.parametrize(
    "betas", [(0.9, 0.99), [0.9, 0.99], np.array([0.9, 0.99]), torch.tensor([0.9, 0.99])], ids=type
)
@pytest.mark.parametrize("cls", [valleys.ALTO, valleys.Lamb])
def test_betas_are_any_sequence_of_two_numbers(cls: Any, betas: Any) -> None:
    optimizer = cls([{"params": parameters((3,)), "betas": betas}], betas=betas)
    group = optimizer.param_groups[0]
    assert group["betas"] == pytest.approx((0.9, 0.99))
    assert all(type(beta) is float for beta in (*group["betas"], *optimizer.defaults["betas"]))


@pytest.mark.parametrize("betas", [(0.99, 0.9, 0.99), (0.9,), 0.9, None, "ab"])
@pytest.mark.parametrize("cls", [valleys.ALTO, valleys.Lamb])
def test_other_betas_are_refused(cls: Any, betas: Any) -> None:
    with pytest.raises(ValueError, match="betas"):
        cls(parameters((3,)), betas=betas)


def test_the_old_spelling_is_told_the_new_one() -> None:
    with pytest.raises(ValueError, match=r"betas=\(0.9, 0.99\), beta=0.95"):
        valleys.ALTO(parameters((3,)), betas=(0.95, 0.9, 0.99))  # type: ignore[arg-type]
    params = parameters((3,))
    optimizer = valleys.ALTO(params)
    train(optimizer, params, 1)
    old = copy.deepcopy(optimizer.state_dict())
    old["param_groups"][0]["betas"] = (0.95, 0.9, 0.99)
    del old["param_groups"][0]["beta"]
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"betas=\(0.9, 0.99\), beta=0.95"):
        optimizer.load_state_dict(old)
    assert torch.equal(before[0][0], params[0])


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_lamb_has_no_e(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0.5 has no effect on Lamb"):
        valleys.Lamb([{"params": parameters((3,)), name: 0.5}])


@pytest.mark.parametrize("make", [torch.optim.lr_scheduler.OneCycleLR, torch.optim.lr_scheduler.CyclicLR])
def test_schedulers_cycle_the_momentum_and_not_the_memory_of_e(make: Any) -> None:
    params = parameters((3,))
    optimizer = valleys.ALTO(params)
    if make is torch.optim.lr_scheduler.OneCycleLR:
        scheduler = make(optimizer, 0.1, total_steps=10)
    else:
        scheduler = make(optimizer, 0.001, 0.1, step_size_up=3)
    momenta = set()
    for step in range(8):
        feed(params, step)
        optimizer.step()
        scheduler.step()
        group = optimizer.param_groups[0]
        momenta.add(group["betas"][0])
        assert (group["alpha"], group["beta"], group["betas"][1]) == (-5.0, 0.99, 0.99)
    assert len(momenta) > 3


# --- checkpoints of optimizers without E ------------------------------------------------------------------------------

BASES = {
    "Lamb": lambda params: valleys.Lamb(params, lr=0.5),
    "AdamW": lambda params: torch.optim.AdamW(params, lr=3e-4),
    "Adam": lambda params: torch.optim.Adam(params, lr=3e-4),
}


@pytest.mark.parametrize("base", BASES)
def test_alto_takes_the_moments_and_keeps_its_options(base: str) -> None:
    twins, params = parameters((3,), (4, 6)), parameters((3,), (4, 6))
    old = BASES[base](twins)
    train(old, twins, 3)
    optimizer = valleys.ALTO(params, lr=0.02, alpha=0.5, beta=0.5)
    with pytest.warns(UserWarning, match="the memory of E starts empty, and the options stay") as messages:
        optimizer.load_state_dict(copy.deepcopy(old.state_dict()))
    assert len(messages) == 1
    group = optimizer.param_groups[0]
    assert (group["lr"], group["alpha"], group["beta"]) == (0.02, 0.5, 0.5)
    assert "amsgrad" not in group
    for param, other in zip(params, twins, strict=True):
        state = optimizer.state[param]
        assert torch.equal(state["exp_avg"], old.state[other]["exp_avg"])
        assert torch.equal(state["exp_avg_sq"], old.state[other]["exp_avg_sq"])
        assert int(state["step"]) == 3
        assert not state["explore_exp_avg"].any()
    train(optimizer, params, 2)


def test_names_tell_where_groups_differ() -> None:
    twins, params = parameters((3,), (3,), (3,)), parameters((3,), (3,), (3,))
    names = ("a", "b", "c")
    old = torch.optim.AdamW(list(zip(names, twins, strict=True)))
    train(old, twins, 2)
    last, first = [("c", params[2])], list(zip(names, params, strict=True))[:2]
    groups = [{"params": last, "weight_decay": 0.0}, {"params": first}]
    optimizer = valleys.ALTO(groups)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="starts empty"):
        optimizer.load_state_dict(old.state_dict())
    for param, other in zip(params, twins, strict=True):
        assert torch.equal(optimizer.state[param]["exp_avg"], old.state[other]["exp_avg"])
    nameless = valleys.ALTO([{"params": [params[2]]}, {"params": params[:2]}])
    with pytest.raises(ValueError, match="make both with named parameters"):
        nameless.load_state_dict(old.state_dict())
    assert not nameless.state


def test_a_damaged_one_changes_nothing() -> None:
    twins, params = parameters((3,), (4, 6)), parameters((3,), (4, 6))
    old = torch.optim.AdamW(twins)
    train(old, twins, 2)
    optimizer = valleys.ALTO(params)
    train(optimizer, params, 1)
    before = snapshot(optimizer)
    changes: list[dict[str, Any]] = [{"exp_avg": torch.zeros(7)}, {"exp_avg_sq": None}, {"step": float("nan")}]
    for change in changes:
        state = copy.deepcopy(old.state_dict())
        state["state"][1].update(change)
        with pytest.raises(ValueError, match="parameter 1"):
            optimizer.load_state_dict(state)
        after = snapshot(optimizer)
        assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
        assert torch.equal(before[1][1]["exp_avg"], after[1][1]["exp_avg"])
    with pytest.raises(UserWarning, match="starts empty"):  # warnings are errors here
        optimizer.load_state_dict(old.state_dict())
    assert torch.equal(before[1][1]["exp_avg"], optimizer.state[params[1]]["exp_avg"])
