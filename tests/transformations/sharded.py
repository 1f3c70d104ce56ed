"""Run by ``test_sharded.py`` in a process of its own, where the CPU is four devices: prints what it found as JSON."""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import valleys  # noqa: F401

IMPORTED = sorted({"jax", "optax"} & sys.modules.keys())

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from jax.sharding import AxisType, NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

import valleys.optax as vo  # noqa: E402

SPECS = {"rows": P("x"), "columns": P(None, "x"), "both": P("x", "y"), "whole": P(), "zero": P("y")}
SHAPES = {"rows": (4, 3), "columns": (3, 4), "both": (2, 4), "whole": (5,), "zero": (4,)}
STEPS = 5
OPTIONS: dict[str, Any] = {"learning_rate": 0.1, "alpha": -70.0, "weight_decay": 0.1, "trust_clip": 20.0}


def trees() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rng = np.random.default_rng(0)
    params = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    params["zero"][:] = 0
    grads = [{name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()} for _ in range(5)]
    for grad in grads[2:]:
        # One device's part of it is zero, and that is no reason for the exception of zero gradients.
        grad["rows"][:2] = 0
        grad["columns"][:] = 0
    return params, grads


def train(step: Any, params: Any, state: Any, grads: Any) -> Any:
    for grad in grads:
        params, state = step(params, state, grad)
    return params, state


def step_of(transform: Any) -> Any:
    def step(params: Any, state: Any, grad: Any) -> Any:
        updates, state = transform.update(grad, state, params)
        return optax.apply_updates(params, updates), state

    return step


def error(tree: Any, wanted: Any) -> float:
    return max(float(np.max(np.abs(np.asarray(tree[name]) - wanted[name]))) for name in wanted)


def main() -> None:
    warnings.simplefilter("error")
    params, grads = trees()
    transform = vo.alto(**OPTIONS)
    expected, _ = train(jax.jit(step_of(transform)), params, transform.init(jax.tree.map(jnp.asarray, params)), grads)
    expected = jax.tree.map(np.asarray, expected)

    def put(tree: Any, mesh: Any) -> Any:
        return {name: jax.device_put(value, NamedSharding(mesh, SPECS[name])) for name, value in tree.items()}

    results: dict[str, Any] = {"devices": jax.device_count(), "valleys imports": IMPORTED}

    for kind in (AxisType.Explicit, AxisType.Auto):
        mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(kind, kind))
        placed, steps = put(params, mesh), [put(grad, mesh) for grad in grads]
        whole = NamedSharding(mesh, P())
        # Counts begin on one device and would be moved, with a second compilation, after the first step.
        state = jax.tree.map(lambda x, to=whole: jax.device_put(x, to) if x.ndim == 0 else x, transform.init(placed))
        step = jax.jit(step_of(transform))
        new, new_state = train(step, placed, state, steps)
        trees_of_states = [optax.tree.get(tree, key) for tree in (state, new_state) for key in ("s", "mu", "nu")]
        same = all(
            tree[name].sharding.is_equivalent_to(placed[name].sharding, tree[name].ndim)
            for tree in (new, *trees_of_states)
            for name in SHAPES
        )
        results[f"jit, {kind.name}"] = [error(new, expected), step._cache_size(), same]

    specs = optax.tree.map_params(transform, lambda _, spec: spec, state, SPECS, transform_non_params=lambda _: P())
    for axes, check in ((("x", "y"), True), (("x", "y"), False), (None, False)):
        mapped = jax.shard_map(
            step_of(vo.alto(**OPTIONS, axis_name=axes)),
            mesh=mesh,
            in_specs=(SPECS, specs, SPECS),
            out_specs=(SPECS, specs),
            check_vma=check,
        )
        new, _ = train(jax.jit(mapped), placed, state, steps)
        results[f"shard_map over {axes}, check_vma={check}"] = error(new, expected)

    def everywhere(tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 4), tree)

    replicas = everywhere(params)
    states = everywhere(transform.init(jax.tree.map(jnp.asarray, params)))
    new, _ = train(jax.pmap(step_of(transform)), replicas, states, [everywhere(grad) for grad in grads])
    results["pmap"] = max(error(jax.tree.map(lambda x, i=i: x[i], new), expected) for i in range(4))
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main()
