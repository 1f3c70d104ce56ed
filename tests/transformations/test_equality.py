"""``valleys.optax`` does what the torch side does, on the same gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import valleys
import valleys.optax as vo
from transformations.cases import CASES, COMPILER, FEW, FLOAT32, STEPS, gradients, parameters


@pytest.fixture
def x64() -> Iterator[None]:
    """float64 in jax, for one test."""
    with jax.enable_x64(True):
        yield


def run(transform: Any, params: Any, grads: Any) -> tuple[Any, Any]:
    """All steps in one ``scan``; parameters and state after the last."""

    def step(carry: Any, grad: Any) -> tuple[Any, None]:
        params, state = carry
        updates, state = transform.update(grad, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = jax.tree.map(jnp.asarray, params)
    carry = (params, transform.init(params))
    steps = jax.jit(lambda carry, grads: jax.lax.scan(step, carry, grads)[0], compiler_options=COMPILER)
    result: tuple[Any, Any] = steps(carry, grads)
    return result


def run_torch(
    build: Any, params: Any, grads: Any, before: Callable[[Any, int], None] = lambda optimizer, step: None
) -> tuple[dict[str, Any], Any]:
    """The same steps in torch; parameters as arrays, and the optimizer with its parameters."""
    tensors = {name: torch.nn.Parameter(torch.from_numpy(np.array(value))) for name, value in params.items()}
    optimizer = build(tensors)
    for k in range(len(grads["matrix"])):
        for name, tensor in tensors.items():
            tensor.grad = torch.from_numpy(np.array(grads[name][k]))
        before(optimizer, k)
        optimizer.step()
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}, (optimizer, tensors)


def few(tree: dict[str, Any]) -> dict[str, Any]:
    return {name: tree[name] for name in FEW}


def check(ours: Any, theirs: dict[str, Any], tolerance: float) -> None:
    assert set(ours) == set(theirs)
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("name", CASES)
def test_float64(name: str, x64: None) -> None:
    params, grads = parameters(), gradients()
    check(
        run(CASES[name].ours(), params, grads)[0],
        run_torch(CASES[name].torch, params, grads)[0],
        1e-12,
    )


@pytest.mark.parametrize("name", FLOAT32)
def test_float32(name: str) -> None:
    params, grads = parameters(np.float32), gradients(np.float32)
    result = run(CASES[name].ours(), params, grads)[0]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(result)} == {"float32"}
    # optax.adam takes 1 - b^k in float32, which is off by up to 6e-5 for b = 0.999: as far is it from torch's Adam.
    check(result, run_torch(CASES[name].torch, params, grads)[0], 1e-5 if "adam" in name else 1e-6)


@pytest.mark.parametrize("name", ["alto, masks", "esgd"])
def test_complex(name: str, x64: None) -> None:
    params, grads = parameters(np.complex128), gradients(np.complex128)
    check(
        run(CASES[name].ours(), params, grads)[0],
        run_torch(CASES[name].torch, params, grads)[0],
        1e-12,
    )


def test_states_are_those_of_torch(x64: None) -> None:
    params, grads = parameters(), gradients()
    _, state = run(CASES["alto"].ours(), params, grads)
    _, (optimizer, tensors) = run_torch(CASES["alto"].torch, params, grads)
    keys = {"s": "explore_exp_avg", "mu": "exp_avg", "nu": "exp_avg_sq"}
    for key, torch_name in keys.items():
        state_leaf = optax.tree.get(state, key)
        check(
            state_leaf, {name: optimizer.state[tensor][torch_name].numpy() for name, tensor in tensors.items()}, 1e-12
        )
    assert int(optax.tree.get(state, "explore").count) == STEPS


def test_bfloat16_parameters_have_float32_states_and_arithmetic() -> None:
    grads = {name: jnp.asarray(value, jnp.bfloat16) for name, value in gradients().items()}
    params = {name: jnp.asarray(value, jnp.bfloat16) for name, value in parameters().items()}
    # Gradients as float32, so that the updates are float32 and the parameter alone is rounded.
    result, state = run(vo.alto(0.02), params, jax.tree.map(lambda g: g.astype(jnp.float32), grads))

    def build(tensors: dict[str, Any]) -> Any:
        for tensor in tensors.values():
            tensor.data = tensor.data.bfloat16()
        return valleys.ALTO(tensors.values(), lr=0.02, fused=False, stochastic_rounding=False)

    tensors = {name: torch.nn.Parameter(torch.from_numpy(np.array(p, np.float32))) for name, p in params.items()}
    optimizer = build(tensors)
    for k in range(STEPS):
        for name, tensor in tensors.items():
            tensor.grad = torch.from_numpy(np.array(grads[name][k], np.float32)).bfloat16()
        optimizer.step()
    for name, tensor in tensors.items():
        # Both round the same numbers, but for the last bits, once a step.
        np.testing.assert_allclose(np.array(result[name], np.float32), tensor.detach().float(), rtol=2**-7)
    for ours_name, torch_name in {"s": "explore_exp_avg", "mu": "exp_avg", "nu": "exp_avg_sq"}.items():
        entry = optax.tree.get(state, ours_name)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(entry)} == {"float32"}
        check(entry, {name: optimizer.state[tensor][torch_name].numpy() for name, tensor in tensors.items()}, 1e-6)


def test_multi_steps_equals_torch_on_mean_gradients(x64: None) -> None:
    params, grads = few(parameters()), few(gradients())
    result, _ = run(
        optax.MultiSteps(vo.alto(0.02), 3, accumulator_dtype=jnp.float64).gradient_transformation(), params, grads
    )
    mean = {name: value.reshape(STEPS // 3, 3, *value.shape[1:]).mean(1) for name, value in grads.items()}
    check(result, run_torch(CASES["alto, matrices"].torch, params, mean)[0], 1e-12)


def test_schedules_of_lr_alpha_and_decay_equal_torch(x64: None) -> None:
    def lr(k: Any) -> Any:
        return 0.02 / (1 + k)

    def alpha(k: Any) -> Any:
        return -50.0 + k

    def decay(k: Any) -> Any:
        return 0.01 * (k + 1)

    def before(optimizer: Any, k: int) -> None:
        optimizer.param_groups[0].update(lr=lr(k), alpha=alpha(k), weight_decay=decay(k))

    params, grads = few(parameters()), few(gradients())
    result, _ = run(vo.alto(lr, alpha=alpha, weight_decay=decay), params, grads)
    check(result, run_torch(CASES["alto, matrices"].torch, params, grads, before)[0], 1e-12)


@pytest.mark.parametrize("name", ["alto", "eadamw"])
def test_schedules_of_alpha_equal_alpha_schedule(x64: None, name: str) -> None:
    params, grads = few(parameters()), few(gradients())
    start, length = -50.0, STEPS - 10
    pairs: list[tuple[Callable[[Any], Any], dict[str, Any]]] = [
        (lambda k: start / jnp.sqrt(k + 1), {"schedule": "sqrt"}),
        (optax.linear_schedule(start, 30.0, length), {"schedule": "linear", "end": 30.0, "total_steps": length}),
        (optax.cosine_decay_schedule(start, length), {"schedule": "cosine", "total_steps": length}),
        (lambda k: start * jnp.cos(k), {"schedule": np.cos}),
    ]
    for alpha, options in pairs:

        def build(tensors: Any, options: dict[str, Any] = options) -> torch.optim.Optimizer:
            if name == "alto":
                base: torch.optim.Optimizer = valleys.ALTO(tensors.values(), lr=0.02, alpha=start, fused=False)
            else:
                base = valleys.EAdamW(tensors.values(), lr=0.02, alpha=start, weight_decay=1e-4)
            return valleys.AlphaSchedule(base, **options, automatic=True).optimizer

        def wide(k: Any, alpha: Callable[[Any], Any] = alpha) -> Any:
            return alpha(k.astype(jnp.float64))  # of an int32 jax makes float32

        result, _ = run(getattr(vo, name)(0.02, alpha=wide), params, grads)
        check(result, run_torch(build, params, grads)[0], 1e-12)


def test_clipping_before_alto_equals_max_grad_norm(x64: None) -> None:
    params, grads = few(parameters()), few(gradients())
    result, _ = run(optax.chain(optax.clip_by_global_norm(0.5), vo.alto(0.02)), params, grads)
    reference, _ = run_torch(lambda p: valleys.ALTO(p.values(), lr=0.02, fused=False, max_grad_norm=0.5), params, grads)
    check(result, reference, 1e-6)  # torch divides by the norm + 1e-6


def test_lamb_is_optax_lamb_on_moving_tensors(x64: None) -> None:
    params, grads = few(parameters()), few(gradients())
    del params["idle"], grads["idle"]
    options: dict[str, Any] = {"eps": 1e-6, "weight_decay": 0.1, "trust_eps": 0.0, "norm_eps": 0.0}
    result, _ = run(vo.lamb(0.02, layer_adaptation=True, **options), params, grads)
    reference, _ = run(optax.lamb(0.02, 0.9, 0.999, 1e-6, weight_decay=0.1), params, grads)
    for name in params:
        np.testing.assert_allclose(result[name], reference[name], rtol=1e-11, atol=1e-12)


def test_two_buffers_of_the_paper(x64: None) -> None:
    grads = gradients()["matrix"]
    transform, alpha, beta = vo.adapt(-70.0, 0.99), -70.0, 0.99
    state = transform.init(jnp.asarray(grads[0]))
    update = jax.jit(transform.update)
    a = previous = np.zeros_like(grads[0])
    for g in grads:
        a, previous = beta * a + (1 - beta) * (g - previous), g
        explored, state = update(jnp.asarray(g), state)
        np.testing.assert_allclose(explored, g + alpha * a, rtol=1e-12, atol=1e-13)


def test_the_first_step_in_float32_is_a_sign() -> None:
    # 1 - b^k cancels there if it is taken as it is written.
    transform = vo.alto(1.0, (0.999, 0.9999), eps=0.0, weight_decay=0.0, layer_adaptation=False)
    grad = jnp.array([0.3, -2.0], jnp.float32)
    updates, _ = transform.update(grad, transform.init(grad), grad)
    np.testing.assert_allclose(updates, [-1.0, 1.0], rtol=1e-6)
