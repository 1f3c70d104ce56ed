"""Masks, missing gradients, what is refused, and what is imported."""

from __future__ import annotations

import importlib
import inspect
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import valleys
import valleys.optax as vo
from valleys import reference

# Of numpy: an array of JAX would start its threads when pytest collects, and a process with threads must not fork.
PARAMS: dict[str, Any] = {
    "a": np.arange(1.0, 5.0, dtype=np.float32),
    "b": {"c": np.ones((2, 2), np.float32), "d": np.full(3, 2.0, np.float32)},
}
TWO: Any = (0.9, 0.9)
THREE: Any = (0.99, 0.9, 0.99)
WORD: Any = "momentum"
AFTER: Any = "after_momentum"
GRADS = jax.tree.map(lambda x: x[..., ::-1] - 1.5, PARAMS)


def updates_of(transform: Any, params: Any = PARAMS, grads: Any = GRADS) -> Any:
    state = transform.init(params)
    for _ in range(2):
        updates, state = transform.update(grads, state, params)
    return updates


def test_masked_adapt_leaves_the_rest_alone_and_keeps_nothing_for_it() -> None:
    transform = optax.masked(vo.adapt(-50.0), {"a": True, "b": False})
    state = transform.init(PARAMS)
    assert len(jax.tree.leaves(state.inner_state.s)) == 1
    updates = updates_of(transform)
    assert np.array_equal(updates["a"], updates_of(vo.adapt(-50.0))["a"])
    assert updates["b"]["c"] is GRADS["b"]["c"]


def test_alto_inside_masked_and_partition() -> None:
    whole = updates_of(vo.alto(0.1, mask=lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree)))
    labels = {"a": "alto", "b": {"c": "alto", "d": "sgd"}}
    parts = optax.partition(
        {"alto": vo.alto(0.1, mask=lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree)), "sgd": optax.sgd(1.0)},
        labels,
    )
    updates = updates_of(parts)
    assert np.array_equal(updates["a"], whole["a"])
    assert np.array_equal(updates["b"]["c"], whole["b"]["c"])
    assert np.array_equal(updates["b"]["d"], -GRADS["b"]["d"])


@pytest.mark.parametrize(
    "mask",
    [
        {"a": True, "b": False},
        {"a": True, "b": {"c": False, "d": False}},
        lambda params: jax.tree.map(lambda x: x.shape == (4,), params),
    ],
)
def test_layer_mask_may_be_a_prefix_a_tree_or_a_function(mask: Any) -> None:
    with_ratio, without = (updates_of(vo.alto(0.1, layer_adaptation=on)) for on in (True, False))
    updates = updates_of(vo.alto(0.1, layer_adaptation=True, layer_mask=mask))
    assert np.array_equal(updates["a"], with_ratio["a"])
    assert np.array_equal(updates["b"]["c"], without["b"]["c"])
    assert not np.allclose(with_ratio["b"]["d"], without["b"]["d"])


@pytest.mark.parametrize("make", [vo.alto, vo.lamb])
def test_vectors_get_neither_ratio_nor_decay_unless_a_mask_says_so(make: Any) -> None:
    """The default is two masks on Alg. 2; each may be replaced alone."""

    def matrices(params: Any) -> Any:
        return jax.tree.map(lambda x: x.ndim > 1, params)

    def updates(**options: Any) -> Any:
        return updates_of(make(0.1, weight_decay=0.3, **options))

    plain, default = updates(layer_adaptation=True), updates()
    same(default, updates(layer_adaptation=True, mask=matrices, layer_mask=matrices))
    same(updates(mask=True), updates(layer_adaptation=True, layer_mask=matrices))
    same(updates(layer_mask=True), updates(layer_adaptation=True, mask=matrices))
    same(updates(mask=True, layer_mask=True), plain)
    assert np.array_equal(default["b"]["c"], plain["b"]["c"])
    for name in ("a", "d"):
        vectors = [{**tree, **tree["b"]}[name] for tree in (default, plain, updates(layer_adaptation=False))]
        assert not any(np.allclose(vectors[0], other) for other in vectors[1:])


@pytest.mark.parametrize(("ours", "torchs"), [(vo.alto, valleys.ALTO), (vo.lamb, valleys.Lamb)])
def test_defaults_are_those_of_torch(ours: Any, torchs: Any) -> None:
    options, others = (inspect.signature(function).parameters for function in (ours, torchs))
    shared = [name for name in options if name in others]
    assert "layer_adaptation" in shared
    assert [options[name].default for name in shared] == [others[name].default for name in shared]


def same(ours: Any, theirs: Any) -> None:
    assert all(map(np.array_equal, jax.tree.leaves(ours), jax.tree.leaves(theirs)))


@pytest.mark.parametrize("transform", [vo.adapt(-50.0), vo.alto(0.1), vo.eadam(0.1)])
def test_none_leaves_of_the_parameters(transform: Any) -> None:
    params, grads = {"a": PARAMS["a"], "n": None}, {"a": GRADS["a"], "n": None}
    updates = updates_of(transform, params, grads)
    assert updates["n"] is None
    assert np.array_equal(updates["a"], updates_of(transform, {"a": PARAMS["a"]}, {"a": GRADS["a"]})["a"])


ALL = vo.alto(0.1, layer_adaptation=True)


@pytest.mark.parametrize("transform", [vo.adapt(-50.0), vo.alto(0.1), ALL, vo.alto(0.1, mask={"a": True, "b": False})])
def test_a_missing_gradient_moves_no_buffer(transform: Any) -> None:
    state = transform.init(PARAMS)
    _, state = transform.update(GRADS, state, PARAMS)
    updates, new = transform.update({"a": GRADS["a"], "b": {"c": None, "d": None}}, state, PARAMS)
    assert updates["b"] == {"c": None, "d": None}
    before, after = (optax.tree.get(tree, "s") for tree in (state, new))
    assert np.array_equal(before["b"]["c"], after["b"]["c"])
    assert not np.array_equal(before["a"], after["a"])


def test_arrays_in_place_of_numbers() -> None:
    options: dict[str, Any] = {"eps": 1e-5, "weight_decay": 0.1, "trust_eps": 0.1, "norm_eps": 0.2, "trust_clip": 0.5}
    expected = updates_of(vo.alto(0.1, (0.0, 0.5), 5.0, 0.9, **options))
    betas = (jnp.asarray(0.0), jnp.asarray(0.5))
    arrays = {name: jnp.asarray(value) for name, value in options.items()}
    updates = updates_of(vo.alto(jnp.asarray(0.1), betas, jnp.asarray(5.0), jnp.asarray(0.9), **arrays))
    injected = updates_of(optax.inject_hyperparams(vo.alto)(0.1, (0.0, 0.5), 5.0, 0.9, **options))
    for tree in (updates, injected):
        for own, result in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(own, result, rtol=1e-5)


def test_layerwise_around_any_transformation_is_the_reference() -> None:
    transform = vo.layerwise(optax.scale(3.0), trust_eps=0.1, norm_eps=0.2, trust_clip=(0.1, 1.9))
    value = transform.update(GRADS, transform.init(PARAMS), PARAMS)[0]
    for name in ("c", "d"):
        theta, g = (torch.tensor(np.asarray(tree["b"][name])) for tree in (PARAMS, GRADS))
        ratio = reference.trust_ratio(theta, 3 * g, g, eps2=0.1, eps3=0.2, clip=(0.1, 1.9))
        np.testing.assert_allclose(value["b"][name], ratio * 3 * g, rtol=1e-6)


def test_layerwise_norms_of_half_precision_are_float32() -> None:
    params = jnp.full(1000, 300.0, jnp.float16)  # squares overflow float16
    transform = vo.layerwise(optax.identity(), trust_eps=0.0, norm_eps=0.0)
    updates, _ = transform.update(jnp.full(1000, 2.0, jnp.float16), transform.init(params), params)
    assert updates.dtype == jnp.float16
    assert np.array_equal(updates, params)


def test_a_nan_spoils_its_layer_alone() -> None:
    grads = {**GRADS, "a": jnp.asarray(GRADS["a"]).at[0].set(jnp.nan)}
    updates = updates_of(vo.alto(0.1, layer_adaptation=True), grads=grads)
    assert np.all(np.isnan(updates["a"]))
    assert np.all(np.isfinite(updates["b"]["c"]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: vo.adapt(-5.0, 0.5), r"\|alpha\| \* \(1 - beta\) = 2.5, which must be below 1; use \|alpha\| < 2"),
        (lambda: vo.adapt(0.5, 1.0), r"beta must be a number in \[0, 1\), got 1.0"),
        (lambda: vo.adapt(float("nan")), "alpha must be a number"),
        (lambda: vo.adapt(np.float32(-500.0), np.float64(0.99)), "must be below 1"),
        (lambda: vo.adapt(lambda k: k, 2.0), "beta must be a number"),
        (lambda: vo.adapt(jnp.asarray(1.0), 2.0), "beta must be a number"),
        (lambda: vo.adapt(np.inf, jnp.asarray(0.9)), "alpha must be a number"),
        (lambda: vo.adapt(0.5, lambda k: k), "beta must be a number, got <function"),
        (lambda: vo.adapt(state_dtype="float16"), "state_dtype must be None or out of"),
        (lambda: vo.adapt(state_dtype=jnp.ones(())), 'static_args="state_dtype"'),
        (lambda: vo.alto(-1.0), r"learning_rate must be a number in \[0, inf\)"),
        (lambda: vo.alto(0.1, betas=THREE), r"betas=\(0.9, 0.99\), beta=0.99"),
        (lambda: vo.alto(0.1, beta=0.1), "beta = 0.1 give"),
        (lambda: vo.alto(0.1, betas=(0.9, 1.0)), r"betas\[1\] must be a number in \[0, 1\)"),
        (lambda: vo.alto(0.1, eps=-1.0), "eps must be a number"),
        (lambda: vo.alto(0.1, eps=lambda k: k), "weight_decay may be schedules"),
        (lambda: vo.alto(0.1, weight_decay=-1.0), "weight_decay must be a number"),
        (lambda: vo.alto(0.1, trust_eps=-1.0), "trust_eps must be a number"),
        (lambda: vo.alto(0.1, norm_eps=-1.0), "norm_eps must be a number"),
        (lambda: vo.alto(0.1, trust_clip=(2.0, 1.0)), "upper bound"),
        (lambda: vo.alto(0.1, trust_clip=(1.0, 2.0, 3.0)), "trust_clip must be None"),
        (lambda: vo.alto(0.1, accelerate=WORD), "accelerate must be a tuple"),
        (lambda: vo.alto(0.1, accelerate=AFTER), "is for valleys.ALTO alone"),
        (lambda: vo.alto(0.1, layer_adaptation=False, layer_mask={"a": True}), "layer_mask has no effect"),
        (lambda: vo.alto(0.1, layer_adaptation="vectors"), "must be 'matrices', True or False, got 'vectors'; 'matr"),
        (lambda: vo.lamb(0.1, layer_adaptation="all"), "layer_adaptation must be"),
        (lambda: vo.lamb(0.1, betas=THREE), "betas must be 2 numbers"),
        (lambda: vo.lamb(0.1, betas=(0.99, -0.9)), r"betas\[1\] must be a number"),
        (lambda: vo.esgd(0.1, alpha=-5.0, beta=0.5), "must be below 1"),
        (lambda: vo.layerwise(optax.identity(), axis_name=lambda: "x"), "axis_name must be"),
        (lambda: vo.alto(0.1).update(GRADS, vo.alto(0.1).init(PARAMS)), "needs the parameters"),
    ],
)
def test_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("alpha", [-100.0, 100.0])
def test_the_message_is_that_of_the_torch_side(alpha: float) -> None:
    messages = []
    for build in (
        lambda: vo.adapt(alpha, 0.99),
        lambda: valleys.adapt(torch.optim.SGD([torch.ones(1)], lr=1.0), alpha, 0.99),
    ):
        with pytest.raises(ValueError, match="must be below 1") as error:
            build()
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_without_optax_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optax", None)
    monkeypatch.delitem(sys.modules, "valleys.optax")
    with pytest.raises(ImportError, match=r"install valleys\[jax\]"):
        importlib.import_module("valleys.optax")


def test_public_names() -> None:
    assert all(hasattr(vo, name) and getattr(vo, name).__doc__ for name in vo.__all__)
    assert vo.adapt(**valleys.suggest(16384)) is not None
    assert optax.__name__ == "optax"


@jax.tree_util.register_pytree_node_class
class Module:
    """A pytree that can be called, as the modules of JAX's libraries are."""

    def __init__(self, a: Any, b: Any) -> None:
        self.a, self.b = a, b

    def __call__(self, x: Any) -> Any:
        raise AssertionError("a mask was called as if it were a network")

    def tree_flatten(self) -> tuple[tuple[Any, Any], None]:
        return (self.a, self.b), None

    @classmethod
    def tree_unflatten(cls, _: None, children: tuple[Any, Any]) -> Module:
        return cls(*children)


@jax.tree_util.register_pytree_node_class
class Rule(Module):
    """A function of the parameters with an array of its own: a pytree, and no mask."""

    def __call__(self, params: Any) -> Any:
        return jax.tree.map(lambda x: x.ndim == int(self.a), params)


MAKES: dict[str, Any] = {
    "layer_mask of alto": lambda mask: vo.alto(0.1, layer_adaptation=True, layer_mask=mask),
    "mask of alto": lambda mask: vo.alto(0.1, weight_decay=0.3, layer_adaptation=True, mask=mask),
    "layer_mask of lamb": lambda mask: vo.lamb(0.1, layer_adaptation=True, layer_mask=mask),
    "mask of layerwise": lambda mask: vo.layerwise(optax.sgd(0.1), mask=mask),
    "mask of eadamw": lambda mask: vo.eadamw(0.1, weight_decay=0.3, mask=mask),
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES.keys())
def test_a_mask_that_is_a_module_is_not_called(make: Any) -> None:
    params, grads = Module(PARAMS["b"]["c"], PARAMS["a"]), Module(GRADS["b"]["c"], GRADS["a"])

    def updates(mask: Any) -> Any:
        return updates_of(make(mask), params, grads)

    first = updates(lambda tree: jax.tree.map(lambda x: x.ndim == 2, tree))
    for true, false in ((True, False), (np.True_, np.False_), (np.array(True), np.array(False))):
        same(updates(Module(true, false)), first)
    for mask in (Module(False, True), Module(True, True)):
        assert not all(map(np.array_equal, jax.tree.leaves(updates(mask)), jax.tree.leaves(first)))


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES.keys())
def test_a_mask_that_is_a_function_is_called_though_it_be_a_pytree(make: Any) -> None:
    def of_dimension(dimension: Any, params: Any) -> Any:
        return jax.tree.map(lambda x: x.ndim == int(dimension) + 1, params)

    first = updates_of(make(lambda params: jax.tree.map(lambda x: x.ndim == 2, params)))
    for mask in (
        jax.tree_util.Partial(of_dimension, True),
        jax.tree_util.Partial(of_dimension, 1),
        jax.tree_util.Partial(lambda params: of_dimension(1, params)),
        Rule(np.array(2), None),
    ):
        same(updates_of(make(mask)), first)
