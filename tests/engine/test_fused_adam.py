"""E and Adam in one pass: equal to E before the plain optimizer, and only where it may be."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import valleys
from valleys._engine.adapted import fused_adam

ADAMW, ADAM = torch.optim.AdamW, torch.optim.Adam


def parameters(dtype: torch.dtype = torch.float64) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (5,), (), (0,), (2, 3, 2, 2), (5000,)]
    return [torch.nn.Parameter(torch.randn(s, dtype=dtype, generator=generator)) for s in shapes]


def feed(params: list[torch.nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for i, param in enumerate(params):
        grad = torch.randn(param.shape, dtype=param.dtype, generator=generator)
        param.grad = None if (step + i) % 5 == 3 else grad


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return for each step True if E and the base made it in one pass."""
    from valleys._engine.adapted import adapted_class

    results: list[bool] = []

    def spy(optimizer: Any, memory: Any) -> bool:
        results.append(fused_adam.step_jointly(optimizer, memory))
        return results[-1]

    monkeypatch.setattr(adapted_class, "step_jointly", spy)
    return results


JOINT: dict[str, tuple[Any, dict[str, Any]]] = {
    "AdamW": (ADAMW, {}),
    "AdamW, much decay": (ADAMW, {"weight_decay": 0.5, "betas": (0.8, 0.95), "eps": 1e-3}),
    "AdamW, tensor lr": (ADAMW, {"lr": torch.tensor(0.02, dtype=torch.float64)}),
    "Adam": (ADAM, {}),
}


@pytest.mark.parametrize("name", JOINT)
@pytest.mark.parametrize(("alpha", "beta"), [(-5.0, 0.99), (0.5, 0.01), (-90.0, 0.99)])
def test_joint_equals_the_plain_optimizer_fed_by_e(name: str, alpha: float, beta: float, made: list[bool]) -> None:
    cls, options = JOINT[name]
    options = {"lr": 0.02, **options}
    params, twins = parameters(), parameters()
    joint = valleys.adapt(cls(params, fused=True, **options), alpha, beta)
    apart = valleys.adapt(cls(twins, foreach=False, **options), alpha, beta)
    for step in range(30):
        feed(params, step)
        feed(twins, step)
        joint.step()
        apart.step()
    assert made == [True, False] * 30
    for a, b in zip(params, twins, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-11, atol=1e-12)
    one, other = joint.state_dict()["state"], apart.state_dict()["state"]
    assert one.keys() == other.keys()
    for index in one:
        assert one[index].keys() == other[index].keys()
        for key in one[index]:
            torch.testing.assert_close(one[index][key].double(), other[index][key].double(), rtol=1e-11, atol=1e-12)


def matrices(dtype: torch.dtype) -> list[torch.nn.Parameter]:
    """Blocks that end with a row and before, more than one chunk of a kernel, and what stays exact in 8 bits."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(70, 64), (9, 1000), (3, 5, 4096), (5,), (2, 3)]
    return [torch.nn.Parameter(torch.randn(s, dtype=dtype, generator=generator)) for s in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("state_dtype", ["8bit", torch.bfloat16, torch.float32])
def test_a_rounded_buffer_is_that_of_two_passes(dtype: torch.dtype, state_dtype: Any, made: list[bool]) -> None:
    """E's codes and bits are the same; the moments and parameters differ from torch's by rounding."""
    params, twins = matrices(dtype), matrices(dtype)
    options: dict[str, Any] = {"state_dtype": state_dtype, "seed": 7}
    joint = valleys.adapt(ADAMW(params, lr=0.02, weight_decay=0.1, fused=True), -5.0, 0.9, **options)
    apart = valleys.adapt(ADAMW(twins, lr=0.02, weight_decay=0.1, foreach=False), -5.0, 0.9, **options)
    for step in range(6):
        feed(params, step)
        feed(twins, step)
        joint.step()
        apart.step()
    assert made == [True, False] * 6
    near: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 2e-6}
    for a, b in zip(params, twins, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), **near)
        one, other = joint.state[a], apart.state[b]
        assert one.keys() == other.keys()
        assert ("explore_exp_avg_code" in one) == (state_dtype == "8bit" and a.numel() > 4096)
        for key in one:
            if key.startswith("explore"):
                assert torch.equal(one[key], other[key]), key
            else:
                torch.testing.assert_close(one[key], other[key], check_dtype=False, **near)


@pytest.mark.parametrize("state_dtype", ["8bit", torch.bfloat16])
def test_one_thread_and_several_make_the_same_step(state_dtype: Any) -> None:
    results = []
    for threads in (1, 3):
        params, before = matrices(torch.float32), torch.get_num_threads()
        optimizer = valleys.EAdamW(params, lr=0.02, fused=True, state_dtype=state_dtype)
        torch.set_num_threads(threads)
        try:
            for step in range(2):
                feed(params, step)
                optimizer.step()
        finally:
            torch.set_num_threads(before)
        results.append(params)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("after", [None, torch.bfloat16, "8bit"])
@pytest.mark.parametrize("before", ["8bit", torch.bfloat16, torch.float32])
def test_the_form_of_the_buffer_may_change(before: Any, after: Any, made: list[bool]) -> None:
    """E keeps its memory: one pass and two take it over alike."""
    params, twins = matrices(torch.float32), matrices(torch.float32)
    joint = valleys.adapt(ADAMW(params, lr=0.02, fused=True), -5.0, 0.9, state_dtype=before)
    apart = valleys.adapt(ADAMW(twins, lr=0.02, foreach=False), -5.0, 0.9, state_dtype=before)
    for step in range(4):
        for optimizer, values in ((joint, params), (apart, twins)):
            optimizer.param_groups[0]["explore_state_dtype"] = before if step < 2 else after
            feed(values, step)
            optimizer.step()
    assert made == [True, False] * 4
    for a, b in zip(params, twins, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=2e-5, atol=2e-6)
        stored = [{k: v for k, v in x.items() if k.startswith("explore")} for x in (joint.state[a], apart.state[b])]
        assert stored[0].keys() == stored[1].keys()
        assert all(torch.equal(v, stored[1][k]) or v.is_floating_point() for k, v in stored[0].items())


def test_a_rounded_buffer_of_other_strides_takes_two_passes(made: list[bool]) -> None:
    params = matrices(torch.float32)
    params[0] = torch.nn.Parameter(params[0].detach().t())
    optimizer = valleys.EAdamW(params, fused=True, state_dtype="8bit")
    feed(params, 1)
    optimizer.step()
    assert made == [False]


APART: dict[str, Any] = {
    "not fused": lambda p: valleys.adapt(ADAMW(p)),
    "L2 decay": lambda p: valleys.adapt(ADAM(p, fused=True, weight_decay=0.1)),
    "maximize": lambda p: valleys.adapt(ADAMW(p, fused=True, maximize=True)),  # the base turns E's gradient
    "amsgrad": lambda p: valleys.adapt(ADAMW(p, fused=True, amsgrad=True)),
    "inplace": lambda p: valleys.adapt(ADAMW(p, fused=True), inplace=True),
    "bfloat16 buffer, gradients not to be copied": lambda p: valleys.adapt(
        ADAMW(p, fused=True), state_dtype=torch.bfloat16, inplace=True
    ),
    "alpha 0 in a group": lambda p: valleys.adapt(
        ADAMW([{"params": p[:2]}, {"params": p[2:], "explore_alpha": 0.0}], fused=True)
    ),
    "another optimizer": lambda p: valleys.adapt(torch.optim.SGD(p, 0.1, fused=True)),
    "a subclass": lambda p: valleys.adapt(type("Mine", (ADAMW,), {})(p, fused=True)),
}


@pytest.mark.parametrize("name", APART)
def test_what_one_pass_cannot_do_is_left_to_the_base(name: str, made: list[bool]) -> None:
    params = parameters()
    optimizer = APART[name](params)
    feed(params, 0)
    optimizer.step()
    assert made == [False]


def test_half_precision_is_left_to_the_base(made: list[bool]) -> None:
    params = parameters(torch.bfloat16)
    optimizer = valleys.EAdamW(params, fused=True)
    feed(params, 0)
    optimizer.step()
    assert made == [False]


def test_a_joint_run_goes_on_apart_and_back(made: list[bool]) -> None:
    """The state is the base's own: a checkpoint moves between the two ways."""
    params, twins = parameters(), parameters()
    joint = valleys.EAdamW(params, lr=0.02, fused=True)
    apart = valleys.EAdamW(twins, lr=0.02)
    for step in range(5):
        feed(params, step)
        joint.step()
    with torch.no_grad():
        for a, b in zip(params, twins, strict=True):
            b.copy_(a)
    state = copy.deepcopy(joint.state_dict())
    for group in state["param_groups"]:
        group["fused"] = None
    apart.load_state_dict(state)
    for step in range(5, 10):
        feed(params, step)
        feed(twins, step)
        joint.step()
        apart.step()
    assert made == [True] * 5 + [True, False] * 5
    for a, b in zip(params, twins, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-11, atol=1e-12)


def test_the_closure_hooks_and_grad_survive(made: list[bool]) -> None:
    params = parameters()
    optimizer = valleys.EAdamW(params, fused=True)
    fired: list[int] = []
    optimizer.register_step_post_hook(lambda *_: fired.append(1))
    grads: list[Tensor | None] = []

    def closure() -> float:
        assert torch.is_grad_enabled()
        feed(params, 1)
        grads.extend(None if p.grad is None else p.grad.clone() for p in params)
        return 3.0

    assert optimizer.step(closure) == 3.0
    assert made == [True]
    assert fired == [1]
    for param, grad in zip(params, grads, strict=True):
        assert (param.grad is None) == (grad is None)
        assert grad is None or param.grad is None or torch.equal(param.grad, grad)


def test_bad_alpha_is_noticed_before_anything_moves() -> None:
    params = parameters()
    optimizer = valleys.EAdamW(params, fused=True)
    optimizer.param_groups[0]["explore_alpha"] = -500.0
    feed(params, 0)
    with pytest.raises(ValueError, match="explore_alpha"):
        optimizer.step()
    assert not optimizer.state
