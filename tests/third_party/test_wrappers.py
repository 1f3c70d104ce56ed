"""``adapt`` inside the wrappers of ``pytorch_optimizer``, which take an optimizer."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_optimizer as po
import torch
from torch import nn
from torch.optim import Optimizer

import valleys
from third_party.cases import Case
from third_party.runs import ALPHA, BETA, HALF, STEPS, assert_same_path, model_for, run_step, same, two_buffers

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning"),
    pytest.mark.filterwarnings("ignore:you need to install `transformers`:ImportWarning"),
]

Inner = Callable[[Any], Optimizer]

WRAPPERS: dict[str, Callable[[list[nn.Parameter], Inner], Any]] = {
    "FriendlySAM": lambda params, inner: po.FriendlySAM(params, lambda groups, **_: inner(groups)),
    "LookSAM": lambda params, inner: po.LookSAM(params, lambda groups, **_: inner(groups), k=3),
    "Lookahead": lambda params, inner: po.Lookahead(inner(params), k=3),
    "Magma": lambda params, inner: po.Magma(inner(params)),
    "OrthoGrad": lambda params, inner: po.OrthoGrad(inner(params)),
    "SAM": lambda params, inner: po.SAM(params, lambda groups, **_: inner(groups)),
    "ScheduleFreeWrapper": lambda params, inner: po.ScheduleFreeWrapper(inner(params)),
    "TRAC": lambda params, inner: po.TRAC(inner(params)),
}


def wrapped(name: str, model: nn.Module, *, adapted: bool) -> Any:
    """The wrapper around an AdamW: adapted, or with a hook that makes ``.grad`` the two-buffer gradient."""

    def inner(params: Any) -> Optimizer:
        optimizer = torch.optim.AdamW(params, lr=1e-2)
        if adapted:
            return valleys.adapt(optimizer, ALPHA, BETA)
        change = two_buffers()
        optimizer.register_step_pre_hook(lambda *_: change(model))
        return optimizer

    wrapper = WRAPPERS[name](list(model.parameters()), inner)
    if name == "ScheduleFreeWrapper":
        wrapper.train()
    return wrapper


def wrapper_step(name: str, model: nn.Module, optimizer: Any, number: int) -> None:
    run_step(model, optimizer, number, "twice" if "SAM" in name else "backward")


@pytest.mark.parametrize("name", WRAPPERS)
def test_adapts_inside_a_wrapper(name: str) -> None:
    models = []
    for adapted in (True, False):
        model = model_for(Case(), torch.float64)
        optimizer = wrapped(name, model, adapted=adapted)
        for number in range(STEPS):
            wrapper_step(name, model, optimizer, number)
        models.append(model)
    assert_same_path(*models)


def holder(name: str, wrapper: Any) -> Any:
    """Return the object that saves E's buffers: the wrapper, but for SAM, which leaves the inner optimizer out."""
    return wrapper.base_optimizer if name == "SAM" else wrapper


@pytest.mark.parametrize("name", WRAPPERS)
def test_resumes_inside_a_wrapper(name: str) -> None:
    model = model_for(Case(), torch.float32)
    optimizer = wrapped(name, model, adapted=True)
    for number in range(HALF):
        wrapper_step(name, model, optimizer, number)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": holder(name, optimizer).state_dict()}, file)
    for number in range(HALF, STEPS):
        wrapper_step(name, model, optimizer, number)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    fresh = model_for(Case(), torch.float32)
    successor = wrapped(name, fresh, adapted=True)
    fresh.load_state_dict(saved["model"])
    holder(name, successor).load_state_dict(saved["optimizer"])
    if name == "SAM":
        successor.param_groups = successor.base_optimizer.param_groups
        successor.state = successor.base_optimizer.state
    for number in range(HALF, STEPS):
        wrapper_step(name, fresh, successor, number)
    assert same(fresh, model)


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_themselves_are_refused(name: str) -> None:
    model = model_for(Case(), torch.float32)
    with pytest.raises(TypeError, match="adapt the inner one before wrapping it"):
        valleys.adapt(wrapped(name, model, adapted=False))
