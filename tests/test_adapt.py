"""Adapted optimizers, over all of torch.optim: the gradient changes, everything else stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

import valleys
from optimizer_cases import CASES, Case, gradients, parameters, set_gradients
from valleys import reference

ALPHA, BETA = -5.0, 0.9
ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
SOME = pytest.mark.parametrize(
    "name", ["SGD plain loop", "AdamW foreach", "AdamW fused", "RMSprop loop", "Muon", "Lamb"]
)


def bits(params: list[torch.nn.Parameter]) -> list[Tensor]:
    return [p.detach().clone() for p in params]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def close(actual: list[torch.nn.Parameter], expected: list[torch.nn.Parameter], rtol: float = 1e-9) -> None:
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.detach(), e.detach(), rtol=rtol, atol=rtol)


def run_adapted(optimizer: Optimizer, params: list[torch.nn.Parameter], steps: range) -> None:
    for step in steps:
        set_gradients(params, step)
        optimizer.step()


def run_explicit(
    optimizer: Optimizer,
    params: list[torch.nn.Parameter],
    steps: int,
    explore: list[tuple[float, float]] | None = None,
) -> None:
    """The plain optimizer fed the paper's two-buffer gradients; ``explore`` has alpha and beta per parameter."""
    memory: list[Any] = [reference.TwoBuffer(torch.zeros_like(p), torch.zeros_like(p)) for p in params]
    explore = explore or [(ALPHA, BETA)] * len(params)
    for step in range(steps):
        for i, (param, grad) in enumerate(zip(params, gradients(params, step), strict=True)):
            param.grad = None
            if grad is not None:
                param.grad, memory[i] = reference.explore(grad, memory[i], *explore[i])
        optimizer.step()


@ALL
@pytest.mark.parametrize("inplace", [False, True])
def test_equals_the_base_fed_explicit_two_buffer_gradients(case: Case, inplace: bool) -> None:
    params, twins = parameters(case), parameters(case)
    run_adapted(valleys.adapt(case.build(params), ALPHA, BETA, inplace=inplace), params, range(50))
    run_explicit(case.build(twins), twins, 50)
    close(params, twins)
    assert not same(bits(params), bits(parameters(case)))


@ALL
def test_alpha_0_is_the_base_bit_for_bit(case: Case) -> None:
    params, twins = parameters(case, torch.float32), parameters(case, torch.float32)
    run_adapted(valleys.adapt(case.build(params), 0.0, BETA), params, range(20))
    run_adapted(case.build(twins), twins, range(20))
    assert same(bits(params), bits(twins))


@ALL
def test_groups_have_their_own_alpha_and_beta(case: Case) -> None:
    params, twins = parameters(case), parameters(case)
    explore = [(0.5, 0.01), (-50.0, 0.99), (0.0, 0.5)][: len(params)]
    groups = [
        {"params": [param], "explore_alpha": alpha, "explore_beta": beta}
        for param, (alpha, beta) in zip(params, explore, strict=True)
    ]
    groups[0].pop("explore_beta")
    explore[0] = (0.5, BETA)
    run_adapted(valleys.adapt(case.build(groups), ALPHA, BETA), params, range(30))
    run_explicit(case.build([{"params": [p]} for p in twins]), twins, 30, explore)
    close(params, twins)


def takes_groups_later(case: Case) -> bool:
    params = parameters(case)
    plain = case.build(params[:1])
    plain.add_param_group({"params": params[1:]})
    set_gradients(params, 0, missing=False)
    try:
        plain.step()
    except KeyError:
        return False
    return True


@ALL
def test_add_param_group_in_mid_training(case: Case) -> None:
    if not takes_groups_later(case):
        pytest.skip("this torch's own has no state for a group that is added, without E either")
    params, twins = parameters(case), parameters(case)
    adapted, plain = valleys.adapt(case.build(params[:1]), ALPHA, BETA), case.build(twins[:1])
    memory: list[Any] = [reference.TwoBuffer(torch.zeros_like(p), torch.zeros_like(p)) for p in twins]
    explore = [(ALPHA, BETA), (0.5, BETA), (0.5, BETA)]
    for step in range(20):
        if step == 8:
            adapted.add_param_group({"params": params[1:], "explore_alpha": 0.5})
            plain.add_param_group({"params": twins[1:]})
        active = 1 if step < 8 else len(params)
        for i in range(active):
            grad = gradients(params, step, missing=False)[i]
            assert grad is not None
            params[i].grad = grad.clone()
            twins[i].grad, memory[i] = reference.explore(grad, memory[i], *explore[i])
        adapted.step()
        plain.step()
    close(params, twins)


@ALL
def test_complex_parameters(case: Case) -> None:
    if not case.complex:
        params = parameters(case, torch.complex128)
        with pytest.raises((RuntimeError, ValueError)):  # the base itself refuses
            run_adapted(case.build(params), params, range(1))
        return
    own, twins = parameters(case, torch.complex128), parameters(case, torch.complex128)
    run_adapted(valleys.adapt(case.build(own), ALPHA, BETA), own, range(30))
    run_explicit(case.build(twins), twins, 30)
    close(own, twins)


@ALL
def test_maximize(case: Case) -> None:
    if not case.maximize:
        with pytest.raises(TypeError, match="maximize"):
            case.build(parameters(case), maximize=True)
        return
    params, twins = parameters(case), parameters(case)
    run_adapted(valleys.adapt(case.build(params, maximize=True), ALPHA, BETA), params, range(30))
    run_explicit(case.build(twins, maximize=True), twins, 30)
    close(params, twins)


@ALL
def test_tensor_lr(case: Case) -> None:
    lr = torch.tensor(0.03, dtype=torch.float64)
    if not case.tensor_lr:
        with pytest.raises(ValueError, match="lr as a Tensor"):
            case.build(parameters(case), lr=lr)
        return
    params, twins = parameters(case), parameters(case)
    run_adapted(valleys.adapt(case.build(params, lr=lr.clone()), ALPHA, BETA), params, range(10))
    run_explicit(case.build(twins, lr=lr.clone()), twins, 10)
    close(params, twins)


@ALL
def test_grad_is_left_as_found(case: Case) -> None:
    params = parameters(case)
    optimizer = valleys.adapt(case.build(params), ALPHA, BETA)
    for step in range(3):
        set_gradients(params, step, missing=False)
        before = [p.grad for p in params]
        copies = [g.clone() for g in before if g is not None]
        optimizer.step()
        assert all(p.grad is g for p, g in zip(params, before, strict=True))
        assert same([p.grad for p in params if p.grad is not None], copies)


@ALL
def test_inplace_leaves_the_adapted_gradient(case: Case) -> None:
    params = parameters(case)
    optimizer = valleys.adapt(case.build(params), ALPHA, BETA, inplace=True)
    set_gradients(params, 0, missing=False)
    before = [p.grad for p in params]
    expected = [(1 + ALPHA * (1 - BETA)) * g for g in gradients(params, 0, missing=False) if g is not None]
    optimizer.step()
    for param, grad, value in zip(params, before, expected, strict=True):
        assert param.grad is grad
        torch.testing.assert_close(param.grad, value, rtol=1e-12, atol=0)


@ALL
def test_closure(case: Case) -> None:
    """The closure runs once, with gradients enabled, before adapting; its loss is returned."""
    own, twins = parameters(case), parameters(case)
    adapted, plain = (
        valleys.adapt(case.build(own), ALPHA, BETA),
        valleys.adapt(case.build(twins), ALPHA, BETA),
    )
    calls = []

    def loss_of(params: list[torch.nn.Parameter]) -> Tensor:
        return sum(((p - 1) ** 2 * (i + 1)).sum() for i, p in enumerate(params))  # type: ignore[return-value]

    def closure() -> Any:
        calls.append(torch.is_grad_enabled())
        adapted.zero_grad()
        loss = loss_of(own)
        loss.backward()
        return loss

    for _ in range(10):
        plain.zero_grad()
        expected = loss_of(twins)
        expected.backward()
        plain.step()
        with torch.no_grad():
            assert adapted.step(closure) == expected
    assert calls == [True] * 10
    assert same(bits(own), bits(twins))


@ALL
def test_float16_and_bfloat16_keep_a_float32_buffer(case: Case) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        params = parameters(case, dtype)
        optimizer = valleys.adapt(case.build(params), ALPHA, BETA)
        run_adapted(optimizer, params, range(2))
        state = optimizer.state_dict()["state"]
        assert all(entry["explore_exp_avg"].dtype == torch.float32 for entry in state.values())


@SOME
def test_alpha_and_beta_may_change_during_training(name: str) -> None:
    case = CASES[name]
    params, twins = parameters(case), parameters(case)
    optimizer, plain = valleys.adapt(case.build(params), 0.0, BETA), case.build(twins)
    buffers = [torch.zeros_like(p) for p in twins]
    for step, (alpha, beta) in enumerate([(0.0, 0.9), (-5.0, 0.9), (-5.0, 0.99), (0.0, 0.9), (0.5, 0.9)]):
        optimizer.param_groups[0].update(explore_alpha=alpha, explore_beta=beta)
        set_gradients(params, step, missing=False)
        optimizer.step()
        for param, buffer, grad in zip(twins, buffers, gradients(twins, step, missing=False), strict=True):
            assert grad is not None
            param.grad = grad + alpha * (1 - beta) * (grad - buffer)
            if step > 0:  # no buffer is kept before E is first switched on; afterwards it goes on
                buffer.lerp_(grad, 1 - beta)
        plain.step()
    close(params, twins)


def test_an_option_changed_out_of_range_raises_at_the_step() -> None:
    param = torch.nn.Parameter(torch.ones(2))
    optimizer = valleys.adapt(torch.optim.SGD([param], lr=0.1))
    optimizer.param_groups[0]["explore_beta"] = 0.5
    param.grad = torch.ones(2)
    with pytest.raises(ValueError, match="explore_alpha"):
        optimizer.step()
    assert torch.equal(param.detach(), torch.ones(2))


def test_ready_made_classes_are_the_adapted_ones() -> None:
    params = [torch.nn.Parameter(torch.ones(3))]
    for base, ready_made in (
        (torch.optim.SGD, valleys.ESGD),
        (torch.optim.Adam, valleys.EAdam),
        (torch.optim.AdamW, valleys.EAdamW),
    ):
        assert type(valleys.adapt(base(params, lr=0.1))) is ready_made
        twin = ready_made(params, lr=0.1)  # type: ignore[operator]
        assert isinstance(twin, base)
        assert (twin.defaults["explore_alpha"], twin.defaults["explore_beta"]) == (-5.0, 0.99)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_esgd_and_eadam_equal_algorithms_3_and_4(dtype: torch.dtype) -> None:
    start = torch.randn(7, dtype=dtype, generator=torch.Generator().manual_seed(0))
    sgd, adam = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    esgd = valleys.ESGD([sgd], lr=0.01, momentum=0.8, alpha=ALPHA, beta=BETA)
    eadam = valleys.EAdam([adam], lr=0.01, betas=(0.8, 0.95), alpha=ALPHA, beta=BETA)
    zero = torch.zeros(7, dtype=dtype)
    theta3, memory3, m = start, reference.TwoBuffer(zero, zero), zero
    theta4, memory4, moments = start, reference.TwoBuffer(zero, zero), reference.zeros(zero)
    for step in range(50):
        g = torch.randn(7, dtype=dtype, generator=torch.Generator().manual_seed(step))
        sgd.grad, adam.grad = g.clone(), g.clone()
        esgd.step()
        eadam.step()
        theta3, memory3, m = reference.esgd(theta3, g, memory3, m, lr=0.01, alpha=ALPHA, b1=BETA, b2=0.8)  # type: ignore[assignment]
        theta4, memory4, moments = reference.eadam(  # type: ignore[assignment]
            theta4, g, memory4, moments, lr=0.01, alpha=ALPHA, b1=BETA, b2=0.8, b3=0.95, eps=1e-8
        )
    rtol = 1e-9 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(sgd.detach(), theta3, rtol=rtol, atol=rtol)
    torch.testing.assert_close(adam.detach(), theta4, rtol=rtol, atol=rtol)


def test_differentiable_base_is_followed_by_autograd() -> None:
    start = torch.tensor([1.0, -2.0], dtype=torch.float64)

    def trained(grad: Tensor) -> Tensor:
        param = start.clone().requires_grad_().clone()
        optimizer = valleys.adapt(torch.optim.Adam([param], lr=0.1, differentiable=True), ALPHA, BETA)
        for k in range(4):
            param.grad = grad * (k + 1) ** 2
            optimizer.step()
        return param

    grad = torch.tensor([0.3, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(trained, (grad,))


def test_shards_are_adapted_where_they_lie(tmp_path: Path) -> None:
    """E is elementwise: DTensors take the fast kernels, without a warning, and equal plain tensors."""
    from torch import distributed
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import Shard, distribute_tensor

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = DeviceMesh("cpu", [0])
        plain = [torch.nn.Parameter(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))]
        sharded = [torch.nn.Parameter(distribute_tensor(p.detach().clone(), mesh, [Shard(0)])) for p in plain]
        optimizers = [valleys.adapt(torch.optim.AdamW(p, lr=0.1, foreach=True)) for p in (plain, sharded)]
        for step in range(5):
            grad = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
            plain[0].grad, sharded[0].grad = grad, distribute_tensor(grad.clone(), mesh, [Shard(0)])
            for optimizer in optimizers:
                optimizer.step()
            assert type(sharded[0].grad) is type(sharded[0].data)
        whole: Any = sharded[0].detach()
        assert torch.equal(plain[0].detach(), whole.full_tensor())
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_without_memory_e_makes_nesterovs_momentum_of_the_heavy_ball(momentum: float) -> None:
    params = [torch.randn(7, dtype=torch.float64).requires_grad_() for _ in range(2)]
    params[1].data.copy_(params[0].data)
    nesterov = torch.optim.SGD([params[0]], lr=0.1, momentum=momentum, nesterov=momentum > 0)
    adapted = valleys.ESGD([params[1]], lr=0.1, momentum=momentum, alpha=momentum, beta=0.0)
    for _ in range(50):
        params[0].grad = torch.randn(7, dtype=torch.float64)
        params[1].grad = params[0].grad.clone()
        nesterov.step()
        adapted.step()
        torch.testing.assert_close(*params, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1e9}, r"^alpha = 1000000000\.0 and beta = 0\.99 give"),
        ({"beta": 1.5}, r"^beta must be a number in \[0, 1\), got 1\.5"),
        ({"state_dtype": torch.int8}, "^state_dtype must be None or out of"),
        ({"seed": -1}, "^seed "),
    ],
)
@pytest.mark.parametrize("build", [valleys.ESGD, valleys.EAdam, valleys.EAdamW, "adapt"])
def test_options_of_e_out_of_range_are_named(build: Any, options: dict[str, Any], message: str) -> None:
    params = [torch.nn.Parameter(torch.ones(2))]
    base = torch.optim.SGD(params, lr=0.1)
    with pytest.raises(ValueError, match=message):
        valleys.adapt(base, **options) if build == "adapt" else build(params, **options)
    assert type(base) is torch.optim.SGD
