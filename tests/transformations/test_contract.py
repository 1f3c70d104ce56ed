"""Optax's contract of every optimizer (the pattern of its own tests), required of ours."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import valleys.optax as vo
from transformations.cases import COMPILER, FACTORIES

NAMES = list(FACTORIES)


def make(name: str, **changes: Any) -> Any:
    factory, options = FACTORIES[name]
    return factory(**{**options, **changes})


def parabola(dtype: Any) -> tuple[Any, Any, Any]:
    final = jnp.array([1.0, -1.0, 1.0], dtype)
    return jnp.array([-1.0, 10.0, 1.0], dtype), final, lambda x: jnp.sum(jnp.square(x - final))


def rosenbrock(dtype: Any) -> tuple[Any, Any, Any]:
    final = jnp.array([1.0, 1.0], dtype)
    return jnp.zeros(2, dtype), final, lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def mixed(dtype: Any) -> tuple[Any, Any, Any]:
    final = (jnp.array([1.0, -1.0, 2.0], dtype), jnp.array([[1.0, 0.0], [-1.0, 1.0]], dtype))

    def loss(params: Any) -> Any:
        return sum(jnp.sum(jnp.square(x - y)) for x, y in zip(params, final, strict=True))

    return jax.tree.map(jnp.zeros_like, final), final, loss


def step_of(transform: Any, loss: Any) -> Any:
    def step(params: Any, state: Any, **extra: Any) -> Any:
        updates, state = transform.update(jax.grad(loss)(params), state, params, **extra)
        return optax.apply_updates(params, updates), state

    return step


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", [parabola, rosenbrock, mixed])
def test_converges(name: str, target: Any) -> None:
    start, final, loss = target(jnp.float32)
    transform = make(name)
    step = step_of(transform, loss)

    @functools.partial(jax.jit, compiler_options=COMPILER)
    def train(carry: Any) -> Any:
        return jax.lax.scan(lambda carry, _: (step(*carry), None), carry, length=20_000)[0]

    params, _ = train((start, transform.init(start)))
    for value, expected in zip(jax.tree.leaves(params), jax.tree.leaves(final), strict=True):
        np.testing.assert_allclose(value, expected, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_keeps_dtypes_and_shapes(name: str, dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        start, _, loss = parabola(dtype)
        transform = make(name)
        state = transform.init(start)
        params, new = jax.eval_shape(step_of(transform, loss), start, state)
        updates, _ = jax.eval_shape(transform.update, start, state, start)
        assert (params.dtype, updates.dtype) == (dtype, dtype)
        types = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (state, new)]
        assert types[0] == types[1]


def test_traces_once_takes_extra_arguments_and_donates() -> None:
    start, _, loss = rosenbrock(jnp.float32)
    for name in NAMES:
        transform, traces = make(name), 0

        @functools.partial(jax.jit, donate_argnums=(0, 1), compiler_options=COMPILER)
        def step(params: Any, state: Any, value: Any, transform: Any = transform) -> Any:
            nonlocal traces
            traces += 1
            return step_of(transform, loss)(params, state, value=value, unknown=None)

        params, state = jnp.array(start), jax.tree.map(jnp.array, transform.init(start))
        for k in range(4):
            before = (params, state)
            params, state = step(params, state, float(k))
        assert traces == 1, name
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before)), name
        assert np.all(np.isfinite(params))


@pytest.mark.parametrize("name", NAMES)
def test_injected_hyperparameters(name: str) -> None:
    factory, options = FACTORIES[name]
    params = [-jnp.ones((2, 3)), jnp.ones((2, 5, 2))]
    grads = jax.tree.map(jnp.negative, params)
    injected = optax.inject_hyperparams(factory)(**options)
    plain = make(name)
    results = []
    for transform in (plain, injected):
        state = transform.init(params)
        update = jax.jit(transform.update, compiler_options=COMPILER)
        for _ in range(2):
            updates, state = update(grads, state, params)
        results.append((updates, getattr(state, "inner_state", state)))
    for own, reference in zip(jax.tree.leaves(results[0]), jax.tree.leaves(results[1]), strict=True):
        np.testing.assert_allclose(own, reference, rtol=2e-5)  # 1 - 0.999 in float32


def test_injected_alpha_changes_without_recompiling_and_zero_is_exact() -> None:
    transform = optax.inject_hyperparams(vo.adapt)(alpha=-5.0, beta=0.99)
    grad = jnp.array([1.0, -0.0, 3e-39, jnp.inf])
    state = transform.init(grad)
    update = jax.jit(transform.update)
    for alpha in (-5.0, 0.5, 0.0):
        state.hyperparams["alpha"] = jnp.asarray(alpha)
        explored, state = update(grad, state)
        s = state.inner_state.s
        if alpha == 0.0:
            assert np.array_equal(np.asarray(explored).view(np.uint32), np.asarray(grad).view(np.uint32))
    assert update._cache_size() == 1
    np.testing.assert_allclose(s[0], 1 - 0.99**3, rtol=1e-4)


def test_static_zero_is_exact_and_keeps_nothing() -> None:
    transform = vo.adapt(0.0)
    grad = jnp.array([1.0, -0.0, jnp.nan, jnp.inf])
    state = transform.init(grad)
    assert jax.tree.leaves(state) == []
    assert np.asarray(transform.update(grad, state)[0]).tobytes() == np.asarray(grad).tobytes()


def test_alpha_schedule_begins_at_step_zero() -> None:
    transform = vo.adapt(lambda k: jnp.where(k == 0, 0.0, 0.5), 0.5)
    grads = [jnp.array([1.0]), jnp.array([2.0])]
    state = transform.init(grads[0])
    first, state = transform.update(grads[0], state)
    second, state = transform.update(grads[1], state)
    assert (first.item(), second.item(), state.s.item(), int(state.count)) == (1.0, 2 + 0.25 * (2 - 0.5), 1.25, 2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_accumulation_waits(name: str, dtype: Any) -> None:
    params = jnp.array([1.0, 2.0], dtype)
    transform = optax.MultiSteps(make(name), every_k_schedule=4)
    shapes = jax.eval_shape(transform.update, params, transform.init(params), params)
    assert shapes[0].dtype == dtype
    updates, _ = transform.update(params, transform.init(params), params)
    assert np.array_equal(updates, jnp.zeros_like(params))


def test_vmap_equals_one_by_one() -> None:
    rng = np.random.default_rng(0)
    params, grads = (jnp.asarray(rng.standard_normal((3, 4, 2)), jnp.float32) for _ in range(2))
    transform = vo.alto(0.1, alpha=-50.0)

    def two_steps(params: Any, grad: Any) -> Any:
        state = transform.init(params)
        for _ in range(2):
            updates, state = transform.update(grad, state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    together = jax.jit(jax.vmap(two_steps), compiler_options=COMPILER)(params, grads)
    singly = jax.jit(two_steps, compiler_options=COMPILER)
    for i in range(3):
        alone = singly(params[i], grads[i])
        for own, reference in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(own[i], reference, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_states_are_found_like_parameters(name: str) -> None:
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones(4)}
    transform = make(name)
    state = optax.tree.map_params(
        transform, lambda value: value + 1, transform.init(params), transform_non_params=lambda value: value
    )
    ones = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim > 0]
    assert ones
    assert all(np.array_equal(leaf, jnp.ones_like(leaf)) for leaf in ones)


def test_state_dtype_is_kept() -> None:
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones(4, jnp.bfloat16)}
    for transform in (vo.alto(0.1, state_dtype="bfloat16"), vo.alto(0.1, state_dtype=jnp.bfloat16)):
        state = transform.init(params)
        _, new = jax.eval_shape(transform.update, params, state, params)
        for tree in (state, new):
            value = {key: {leaf.dtype.name for leaf in jax.tree.leaves(optax.tree.get(tree, key))} for key in "s"}
            value.update(
                {key: {x.dtype.name for x in jax.tree.leaves(optax.tree.get(tree, key))} for key in ("mu", "nu")}
            )
            assert value == {"s": {"bfloat16"}, "mu": {"bfloat16"}, "nu": {"float32"}}
    with pytest.raises(ValueError, match="complex"):
        vo.adapt(state_dtype="float32").init(jnp.ones(2, jnp.complex64))
