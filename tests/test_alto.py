"""ALTO and Lamb equal the reference on all elements, for every option, backend and dtype."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

import valleys
from backends import largest_error, symbols
from valleys import reference

SHAPES = [(4, 3), (5,), (), (0,), (2, 3, 2, 2), (1, 1)]
STEPS = 30

# Largest error relative to each tensor's largest element, after 30 steps against a float64 reference fed the same
# (rounded) gradients. States are float32 for the half types; what is left is the rounding of the parameter itself.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}

# The paper's Alg. 2, which every option set below is about unless it says otherwise.
ALL: dict[str, Any] = {"lr": 0.02, "layer_adaptation": True}
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "exploit": {"alpha": 0.5, "beta": 0.01},
    "strong": {"alpha": -90.0, "betas": (0.95, 0.999)},
    "alpha 0": {"alpha": 0.0},
    "no decay": {"weight_decay": 0.0},
    "much decay": {"weight_decay": 0.5},
    "large eps": {"eps": 0.1, "trust_eps": 0.2, "norm_eps": 0.3},
    "Alg. 1": {"bias_correction": False},
    "no ratio": {"layer_adaptation": False},
    "no ratio, no decay": {"layer_adaptation": False, "weight_decay": 0.0},
    "matrices": {"layer_adaptation": "matrices"},
    "matrices, much decay": {"layer_adaptation": "matrices", "weight_decay": 0.5, "capturable": True},
    "matrices, clipped": {"layer_adaptation": "matrices", "max_grad_norm": 0.5, "trust_clip": 2.0},
    "ratio at most 1": {"trust_clip": 1.0},
    "ratio bounded": {"trust_clip": (0.5, 0.7)},
    "clipped": {"max_grad_norm": 0.5},
    "clip too large to matter": {"max_grad_norm": 1e6},
    "in m": {"accelerate": ("momentum",)},
    "in v": {"accelerate": ("second_moment",)},
    "in neither": {"accelerate": ()},
    "maximize": {"maximize": True},
    "capturable": {"capturable": True},
    "tensor lr": {"lr": torch.tensor(0.02, dtype=torch.float64)},
    "tensor lr, capturable, no ratio": {
        "lr": torch.tensor(0.02, dtype=torch.float64),
        "capturable": True,
        "layer_adaptation": False,
    },
}
BACKENDS: dict[str, dict[str, Any]] = {
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
    "c": {"fused": "c"},
    "default": {},
}


def parameters(dtype: torch.dtype, seed: int = 0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in SHAPES]
    return [torch.nn.Parameter(value.to(dtype)) for value in values]


@functools.cache
def gradients(dtype: torch.dtype, step: int, zeros: bool = True) -> list[Tensor | None]:
    """A fixed sequence; some parameters have no gradient at some steps, some a zero one."""
    generator = torch.Generator().manual_seed(1000 + step)
    grads = [torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) for shape in SHAPES]
    grads = [grad * (not zeros or (step + index) % 7 != 6) for index, grad in enumerate(grads)]
    return [None if (step + index) % 5 == 3 else grad for index, grad in enumerate(grads)]


def by_reference(params: list[torch.nn.Parameter], group: dict[str, Any], explores: bool) -> list[Tensor]:
    """The same run by ``reference.alto`` with the paper's two buffers, in float64."""
    thetas = [p.detach().double() for p in params]
    memory: list[Any] = [
        reference.TwoBuffer(torch.zeros_like(t), torch.zeros_like(t)) if explores else None for t in thetas
    ]
    moments = [reference.zeros(theta) for theta in thetas]
    for step in range(STEPS):
        pairs = [(i, g.double()) for i, g in enumerate(gradients(params[0].dtype, step)) if g is not None]
        gs = [-g if group["maximize"] else g for _, g in pairs]
        if group["max_grad_norm"] is not None:
            gs = reference.clip(gs, group["max_grad_norm"])
        for (i, _), g in zip(pairs, gs, strict=True):
            thetas[i], memory[i], moments[i] = reference.alto(
                thetas[i], g, memory[i], moments[i], **symbols(group, params[i].dim())
            )
    return thetas


def run(optimizer: torch.optim.Optimizer, params: list[torch.nn.Parameter], steps: range, zeros: bool = True) -> None:
    for step in steps:
        for param, grad in zip(params, gradients(params[0].dtype, step, zeros), strict=True):
            param.grad = grad
        optimizer.step()


@functools.cache
def expected(cls: Any, options: str, dtype: torch.dtype) -> list[Tensor]:
    """Parameters after the reference's steps, the same for all backends."""
    params = parameters(dtype)
    group = cls(params, **{**ALL, **OPTIONS[options]}).param_groups[0]
    return by_reference(params, group, explores=cls is valleys.ALTO)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("options", "backend"),
    [
        (options, backend)
        for options in OPTIONS
        for backend in BACKENDS
        # The default is one of the others; here it must be chosen at all.
        if backend != "default" or options in ("defaults", "capturable", "tensor lr")
    ],
)
def test_alto_equals_the_reference(options: str, backend: str, dtype: torch.dtype) -> None:
    params = parameters(dtype)
    optimizer = valleys.ALTO(params, **{**ALL, **OPTIONS[options], **BACKENDS[backend]})
    run(optimizer, params, range(STEPS))
    assert largest_error(params, expected(valleys.ALTO, options, dtype)) < TOLERANCE[dtype]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [name for name, o in OPTIONS.items() if not {"alpha", "accelerate"} & set(o)])
def test_lamb_equals_the_reference(options: str, backend: str) -> None:
    params = parameters(torch.float64)
    optimizer = valleys.Lamb(params, **{**ALL, **OPTIONS[options], **BACKENDS[backend]})
    run(optimizer, params, range(STEPS))
    assert largest_error(params, expected(valleys.Lamb, options, torch.float64)) < TOLERANCE[torch.float64]


@pytest.mark.parametrize("backend", BACKENDS)
def test_lamb_is_alto_at_alpha_0_bit_for_bit(backend: str) -> None:
    params, twins = parameters(torch.float32), parameters(torch.float32)
    options = {**ALL, "weight_decay": 0.1, **BACKENDS[backend]}
    run(valleys.ALTO(params, alpha=0.0, betas=(0.9, 0.999), **options), params, range(STEPS))
    run(valleys.Lamb(twins, betas=(0.9, 0.999), **options), twins, range(STEPS))
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))


def test_adapted_lamb_is_alto() -> None:
    """No gradient is zero here: Lamb sees E's gradient there, ALTO looks at the user's."""
    params, twins = parameters(torch.float64), parameters(torch.float64)
    run(valleys.ALTO(params, betas=(0.9, 0.999), weight_decay=0.01, **ALL), params, range(STEPS), False)
    run(valleys.adapt(valleys.Lamb(twins, **ALL), -5.0, 0.99), twins, range(STEPS), False)
    assert largest_error(params, [p.detach() for p in twins]) < 1e-12


def test_every_option_is_per_group() -> None:
    """One optimizer with a group per option set equals one optimizer each."""
    names = [name for name in OPTIONS if name != "defaults"]
    together = {name: parameters(torch.float64) for name in names}
    optimizer = valleys.ALTO([{"params": together[name], **OPTIONS[name]} for name in names], **ALL)
    run(optimizer, [p for name in names for p in together[name]], range(0))
    alone = {name: parameters(torch.float64) for name in names}
    singles = {name: valleys.ALTO([{"params": alone[name], **OPTIONS[name]}], **ALL) for name in names}
    for step in range(10):
        for name in names:
            for param, grad in zip(together[name], gradients(torch.float64, step), strict=True):
                param.grad = grad
            run(singles[name], alone[name], range(step, step + 1))
        optimizer.step()
    for name in names:
        assert all(torch.equal(a, b) for a, b in zip(together[name], alone[name], strict=True)), name


@pytest.mark.parametrize("cls", [valleys.ALTO, valleys.Lamb])
def test_complex_parameters_are_pairs_of_real_ones(cls: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, 3, dtype=torch.complex128, generator=generator)
    complex_, real = torch.nn.Parameter(start.clone()), torch.nn.Parameter(torch.view_as_real(start).clone())
    optimizers = cls([complex_], lr=0.02), cls([real], lr=0.02)
    for _ in range(10):
        complex_.grad = torch.randn(4, 3, dtype=torch.complex128, generator=generator)
        real.grad = torch.view_as_real(complex_.grad).clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(torch.view_as_real(complex_.detach()), real.detach(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norms_accumulate_in_float32(dtype: torch.dtype) -> None:
    """A sum of 100,000 squares overflows float16 and stalls in bfloat16; the ratio shows it."""
    param = torch.nn.Parameter(torch.full((100_000,), 1.0, dtype=dtype))
    param.grad = torch.full_like(param, 1.0)
    valleys.Lamb([param], lr=0.25, weight_decay=0.0, layer_adaptation=True, stochastic_rounding=False).step()
    # ratio = |theta| / |r| = 1, so every element moves by lr.
    assert torch.equal(param.detach(), torch.full_like(param, 0.75))


def test_grad_is_left_as_found() -> None:
    params = parameters(torch.float32)
    optimizer = valleys.ALTO(params, max_grad_norm=0.1, maximize=True, foreach=True)
    grads = gradients(torch.float32, 0)
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    copies = [None if g is None else g.clone() for g in grads]
    optimizer.step()
    for param, grad, copy in zip(params, grads, copies, strict=True):
        assert param.grad is grad
        assert grad is None or copy is None or torch.equal(grad, copy)


def test_a_tensor_lr_is_read_at_each_step() -> None:
    lr = torch.tensor(0.5, dtype=torch.float64)
    param = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = valleys.Lamb([param], lr=lr, weight_decay=0.0, layer_adaptation=True, trust_eps=0.0, norm_eps=0.0)
    param.grad = torch.ones_like(param)
    optimizer.step()
    assert param.item() == pytest.approx(1.0, rel=1e-5)
    lr.fill_(0.0)
    optimizer.step()
    assert param.item() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("layer_adaptation", ["matrices", True])
@pytest.mark.parametrize("shape", [(3,), (1, 3)])
def test_differentiable_equals_the_loop_and_autograd_sees_it(shape: tuple[int, ...], layer_adaptation: Any) -> None:
    start = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64).view(shape)

    def trained(grad: Tensor, lr: Tensor, differentiable: bool) -> Tensor:
        param = start.clone().requires_grad_()
        if differentiable:
            param = param.clone()
        options: dict[str, Any] = {"layer_adaptation": layer_adaptation, "differentiable": differentiable}
        optimizer = valleys.ALTO([param], lr=lr, **options)
        for k in range(3):
            param.grad = grad * (k + 1)
            optimizer.step()
        return param

    grad = torch.tensor([0.3, 1.0, -2.0], dtype=torch.float64).view(shape).requires_grad_()
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(trained(grad, lr, True), trained(grad.detach(), lr.detach(), False), rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(lambda g, x: trained(g, x, True), (grad, lr))


def test_hazard_zero_initialised_tensors() -> None:
    """With the paper's phi alone a zero tensor stays at eps3; here its first step is Adam's."""
    param = torch.nn.Parameter(torch.zeros(10))
    param.grad = torch.ones(10)
    valleys.ALTO([param], lr=0.01, alpha=0.0, layer_adaptation=True).step()
    torch.testing.assert_close(param.detach(), torch.full((10,), -0.01), rtol=1e-4, atol=0)


@pytest.mark.parametrize("used_before", [0, 20])
def test_hazard_unused_expert(used_before: int) -> None:
    """A tensor whose gradient is zero decays like AdamW's, by lr * weight_decay, not by lr."""
    param = torch.nn.Parameter(torch.ones(10, dtype=torch.float64))
    optimizer = valleys.ALTO([param], lr=0.01, weight_decay=1e-4, layer_adaptation=True)
    for _ in range(used_before):
        param.grad = torch.randn(10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        optimizer.step()
    param.grad = torch.zeros(10, dtype=torch.float64)
    for _ in range(3000):  # until the momentum, which E's memory of 0.99 feeds, has died away
        optimizer.step()
    before = param.detach().norm().item()
    for _ in range(100):
        optimizer.step()
    assert param.detach().norm().item() / before == pytest.approx(1 - 100 * 0.01 * 1e-4, rel=1e-6)
