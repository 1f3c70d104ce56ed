"""ALTO and Lamb on DTensors of every placement equal the reference; what they send, what they refuse."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import valleys
from backends import BACKENDS, largest_error, symbols
from distributed.worlds import SINCE_2_13, spawn
from valleys import reference
from valleys.blocks import interleaved, sections, stacked

# Dimensions that no world divides, tensors of one element and of none.
SHAPES = [(7, 3), (1, 3), (3,), (7, 1), (5, 7, 2), (0, 3), (64, 130), (), (6, 12), (6, 12)]
BLOCKS = {8: sections([5, 3, 4], dim=1), 9: (stacked(3), interleaved([1, 2], dim=1))}
MESHES: list[tuple[int, ...]] = [(1,), (2,), (4,), (2, 2)]
EAGER = [name for name in BACKENDS if name != "compiled"]
ZERO, SOMETIMES, PLAIN = 3, 4, 1
STEPS = 8
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}


def mesh_of(shape: tuple[int, ...]) -> DeviceMesh:
    return init_device_mesh("cpu", shape, mesh_dim_names=("outer", "inner")[: len(shape)])


def some_placements(index: int, dims: int, of: int) -> list[Any]:
    """Another combination for each tensor: sharded along its dimensions, or replicated."""
    choices = [Shard(d) for d in range(min(dims, 2))] + [Replicate()]
    combinations = list(itertools.product(choices, repeat=of))
    return list(combinations[index % len(combinations)])


def layers(index: int, shape: tuple[int, ...]) -> list[tuple[Any, ...]]:
    """Index sets of the layers of a tensor, written out by hand."""
    if index == 8:
        return [(slice(None), slice(low, high)) for low, high in ((0, 5), (5, 8), (8, 12))]
    if index == 9:
        columns = ([0, 3, 6, 9], [1, 2, 4, 5, 7, 8, 10, 11])
        return [(slice(2 * row, 2 * row + 2), which) for row in range(3) for which in columns]
    return [(...,)]


def problem(dtype: torch.dtype, steps: int) -> tuple[list[Tensor], list[list[Tensor | None]]]:
    generator = torch.Generator().manual_seed(0)
    thetas = [torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) for shape in SHAPES]
    thetas[ZERO].zero_()
    grads: list[list[Tensor | None]] = []
    for step in range(steps):
        row: list[Any] = [torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) for shape in SHAPES]
        row[0] *= step % 5 > 0  # zero everywhere
        row[6][1:] = 0  # zero on most ranks
        if step % 3 == 0:
            row[SOMETIMES] = None
        grads.append(row)
    return thetas, grads


def expected(thetas: list[Tensor], grads: list[list[Tensor | None]], groups: list[dict[str, Any]]) -> list[Tensor]:
    """Run ``reference.alto`` on every layer by itself, in float64."""
    wholes = [theta.double().clone() for theta in thetas]
    options = [symbols(group, param.dim()) for group in groups for param in group["params"]]
    bound = groups[0]["max_grad_norm"]
    counts = [len(group["params"]) for group in groups]
    state: dict[Any, Any] = {}
    for step in grads:
        gs: list[Any] = [None if g is None else -g.double() if groups[0]["maximize"] else g.double() for g in step]
        if bound is not None:
            first = 0
            for count in counts:
                present = [i for i in range(first, first + count) if gs[i] is not None]
                clipped = reference.clip([gs[i] for i in present], bound)
                for i, g in zip(present, clipped, strict=True):
                    gs[i] = g
                first += count
        for i, g in enumerate(gs):
            if g is None or not g.numel():
                continue
            for where in layers(i, SHAPES[i]):
                theta, grad = wholes[i][where], g[where]
                zero = torch.zeros_like(theta)
                memory, moments = state.get((i, str(where)), (reference.TwoBuffer(zero, zero), reference.zeros(theta)))
                new, memory, moments = reference.alto(theta, grad, memory, moments, **options[i])
                wholes[i][where] = new
                state[i, str(where)] = memory, moments
    return wholes


def grouped(params: list[Any]) -> list[dict[str, Any]]:
    """Blocks by group; the second has no ratio; the others share one."""
    return [
        {"params": params[:6]},
        {"params": params[6:8], "layer_adaptation": False},
        {"params": [params[8]], "blocks": BLOCKS[8]},
        {"params": [params[9]], "blocks": BLOCKS[9]},
    ]


def run(
    mesh_shape: tuple[int, ...], backend: str, dtype: torch.dtype, options: dict[str, Any]
) -> tuple[list[Tensor], Any]:
    """Eight steps on this world; the parameters and what each step sent."""
    mesh = mesh_of(mesh_shape)
    thetas, grads = problem(dtype, STEPS)
    params: list[Any] = []
    for index, theta in enumerate(thetas):
        placed = theta.clone()
        if index != PLAIN:
            placed = distribute_tensor(placed, mesh, some_placements(index, theta.dim(), len(mesh_shape)))
        params.append(torch.nn.Parameter(placed))
    optimizer = valleys.ALTO(grouped(params), lr=0.05, **options, **BACKENDS[backend])
    calls = []
    for step in grads:
        for param, grad in zip(params, step, strict=True):
            param.grad = None if grad is None else grad.clone()
            if grad is not None and isinstance(param, DTensor):  # every rank has the whole: nothing is sent
                param.grad = distribute_tensor(grad.clone(), mesh, param.placements, src_data_rank=None)
        with CommDebugMode() as traffic:
            optimizer.step()
        calls.append(traffic.get_total_counts())
    return [p.full_tensor() if isinstance(p, DTensor) else p.detach() for p in params], calls


def cases(mesh_shapes: list[tuple[int, ...]], options: int) -> Iterator[tuple[tuple[int, ...], torch.dtype, str, int]]:
    """A mesh, a dtype, a backend and the number of the options: every two of them together, over all worlds."""
    for mesh_shape, (column, backend) in itertools.product(mesh_shapes, enumerate(EAGER)):
        row = MESHES.index(mesh_shape)
        yield mesh_shape, list(TOLERANCE)[(row + column) % 2], backend, (row + column) % options
    if (2,) in mesh_shapes:  # once, since compiling takes its time
        yield (2,), torch.float64, "compiled", 0


def several(mesh_shapes: list[tuple[int, ...]], each: list[dict[str, Any]]) -> Any:
    return {case: run(case[0], case[2], case[1], each[case[3]]) for case in cases(mesh_shapes, len(each))}


def test_every_two_of_meshes_dtypes_backends_and_options_meet() -> None:
    eager = [case for case in cases(MESHES, 3) if case[2] in EAGER]
    values = MESHES, list(TOLERANCE), EAGER, range(3)
    for one, other in itertools.combinations(range(4), 2):
        pairs = set(itertools.product(values[one], values[other]))
        assert {(case[one], case[other]) for case in eager} == pairs


@pytest.mark.parametrize(
    "mesh_shapes",
    [[(1,)], [(2,)], pytest.param([(4,), (2, 2)], marks=SINCE_2_13)],
    ids=["1 rank", "2 ranks", "4 ranks"],
)
def test_every_placement_equals_the_reference(mesh_shapes: list[tuple[int, ...]]) -> None:
    ranks = torch.Size(mesh_shapes[0]).numel()
    alg2: dict[str, Any] = {"layer_adaptation": True}
    each = [alg2, {**alg2, "max_grad_norm": 1.0, "trust_clip": (0.01, 5.0), "maximize": True}, {"weight_decay": 0.3}]
    wholes, starts = {}, {}
    for dtype, (number, options) in itertools.product(TOLERANCE, enumerate(each)):
        starts[dtype], grads = problem(dtype, STEPS)
        groups = valleys.ALTO(grouped(starts[dtype]), lr=0.05, **options).param_groups
        wholes[dtype, number] = expected(starts[dtype], grads, groups)
    for results in spawn(several, ranks, mesh_shapes, each, seconds=200):
        assert results.keys() == set(cases(mesh_shapes, len(each)))
        for (mesh_shape, dtype, backend, number), (params, calls) in results.items():
            shift = largest_error(params[:1], starts[dtype][:1])
            assert shift > 0.1, f"the parameters hardly moved ({shift})"
            error = largest_error(params, wholes[dtype, number])
            assert error < TOLERANCE[dtype], (mesh_shape, dtype, backend, each[number], error)
            all_reduces = 0 if ranks == 1 else 2 if "max_grad_norm" in each[number] else 1
            assert set(calls) == {all_reduces}, (mesh_shape, backend, each[number], calls)


def partial_gradients() -> tuple[float, float]:
    """A replicated parameter whose gradient is yet to be summed over the ranks, as tensor parallelism leaves it."""
    mesh = mesh_of((distributed.get_world_size(),))
    errors = []
    for make in (lambda p: valleys.ALTO(p, lr=0.1), lambda p: valleys.ESGD(p, lr=0.1)):
        replicated: Any = torch.nn.Parameter(distribute_tensor(torch.arange(6.0).view(2, 3), mesh, [Replicate()]))
        plain = torch.nn.Parameter(torch.arange(6.0).view(2, 3))
        a, b = make([replicated]), make([plain])
        for step in range(4):
            part = torch.full((2, 3), float(distributed.get_rank() + step))
            replicated.grad = DTensor.from_local(part, mesh, [Partial()])
            plain.grad = replicated.grad.full_tensor()
            original = replicated.grad
            a.step()
            b.step()
            assert replicated.grad is original, "the user's gradient was replaced"
        errors.append(largest_error([replicated.to_local()], [plain]))
    return errors[0], errors[1]


def replicas_and_shards_of_random_bits() -> None:
    """bfloat16 parameters and states: replicas draw the same bits, and rows of a matrix the whole matrix's."""
    mesh = mesh_of((2, 2))
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(7, 5, generator=generator).bfloat16()
    options: dict[str, Any] = {"lr": 0.05, "state_dtype": torch.bfloat16}
    whole: Any = torch.nn.Parameter(theta.clone())
    rows: Any = torch.nn.Parameter(distribute_tensor(theta.clone(), mesh, [Replicate(), Shard(0)]))
    columns: Any = torch.nn.Parameter(distribute_tensor(theta.clone(), mesh, [Shard(1), Replicate()]))
    adapted = [torch.nn.Parameter(p.detach().clone()) for p in (whole, rows)]
    optimizers: list[Any] = [valleys.ALTO([p], **options) for p in (whole, rows, columns)]
    for p in adapted:
        optimizers.append(valleys.adapt(torch.optim.SGD([p], lr=0.1), -5.0, 0.9, state_dtype=torch.bfloat16))
    for _ in range(10):
        grad = torch.randn(7, 5, generator=generator).bfloat16()
        for p, optimizer in zip([whole, rows, columns, *adapted], optimizers, strict=True):
            p.grad = distribute_tensor(grad.clone(), mesh, p.placements) if isinstance(p, DTensor) else grad.clone()
            optimizer.step()
    for name in ("explore_exp_avg", "exp_avg", "exp_avg_sq"):
        mine = optimizers[1].state[rows][name].full_tensor()
        assert torch.equal(mine, optimizers[0].state[whole][name]), name
    assert torch.equal(rows.full_tensor(), whole.detach())
    # SGD itself rounds bfloat16 by the place in a vector: E's buffers are compared.
    buffers = [optimizer.state_dict()["state"][0]["explore_exp_avg"] for optimizer in optimizers[3:]]
    assert torch.equal(buffers[1].full_tensor(), buffers[0])
    for p in (rows, columns):
        mine = p.to_local().clone()
        # The same shard on the ranks that hold replicas of it.
        dim = next(i for i, placement in enumerate(p.placements) if placement.is_replicate())
        replicas = [torch.empty_like(mine) for _ in range(mesh.size(dim))]
        distributed.all_gather(replicas, mine, group=mesh.get_group(dim))
        assert all(torch.equal(mine, other) for other in replicas)


def two_meshes() -> Any:
    """A parameter on all ranks and one on half of them each: one all-reduce for each mesh."""
    mesh = mesh_of((2, 2))
    params: list[Any] = [
        torch.nn.Parameter(distribute_tensor(torch.ones(8, 8), mesh, [Shard(0), Shard(1)])),
        torch.nn.Parameter(distribute_tensor(torch.ones(8, 8), mesh["inner"], [Shard(0)])),
    ]
    optimizer = valleys.Lamb(params)
    for p in params:
        p.grad = torch.ones_like(p)
    with CommDebugMode() as traffic:
        optimizer.step()
    return traffic.get_total_counts(), largest_error([params[0].full_tensor()], [params[1].full_tensor()])


def gradient_missing_on_one_rank() -> str:
    mesh = mesh_of((distributed.get_world_size(),))
    param = torch.nn.Parameter(distribute_tensor(torch.ones(8, 2), mesh, [Shard(0)]))
    optimizer = valleys.Lamb([param])
    if distributed.get_rank() > 0:
        param.grad = torch.ones_like(param)
    try:
        optimizer.step()
    except RuntimeError as error:
        return str(error)
    return ""


def loaded_from_elsewhere() -> None:
    """A plain optimizer's state dict into a sharded one, and back."""
    mesh = mesh_of((distributed.get_world_size(),))
    theta = torch.arange(14.0).view(7, 2)
    plain = torch.nn.Parameter(theta.clone())
    sharded = torch.nn.Parameter(distribute_tensor(theta.clone(), mesh, [Shard(0)]))
    for cls in (valleys.ALTO, valleys.Lamb, valleys.EAdamW):
        for first, second in ((plain, sharded), (sharded, plain)):
            a, b = cls([first], lr=0.1), cls([second], lr=0.1)
            first.grad = torch.ones_like(first)
            a.step()
            if cls is not valleys.EAdamW or first is plain:
                b.load_state_dict(a.state_dict())
            if cls is valleys.EAdamW:
                continue  # its base's moments are the base's to place
            for name, value in b.state[second].items():
                assert isinstance(value, DTensor) == (second is sharded and name != "step"), name
            second.grad = torch.ones_like(second)
            b.step()


def on_several_ranks() -> Any:
    missing = gradient_missing_on_one_rank()
    loaded_from_elsewhere()
    return missing, partial_gradients()


def on_four_ranks() -> Any:
    replicas_and_shards_of_random_bits()
    return two_meshes()


def test_partial_gradients_missing_ones_and_foreign_states() -> None:
    for missing, errors in spawn(on_several_ranks, 2):
        assert "gradient on some ranks" in missing
        assert max(errors) < 1e-6


def test_replicas_random_bits_and_two_meshes() -> None:
    for calls, error in spawn(on_four_ranks, 4):
        assert calls == 2
        assert error < 1e-6


def refusals() -> dict[str, str]:
    mesh = mesh_of((1,))
    results = {}

    def attempt(name: str, make: Any) -> None:
        try:
            make()
        except RuntimeError as error:
            results[name] = str(error)

    sharded = torch.nn.Parameter(distribute_tensor(torch.ones(64, 64), mesh, [Shard(0)]))
    partial = torch.nn.Parameter(DTensor.from_local(torch.ones(4), mesh, [Partial()]))
    attempt("differentiable", lambda: valleys.ALTO([sharded], differentiable=True))
    attempt("partial", lambda: valleys.Lamb([partial]))
    # Accelerate shards after the optimizer was made, and puts the shards into its groups.
    optimizer = valleys.ALTO([torch.nn.Parameter(torch.ones(64, 64))], differentiable=True)
    optimizer.param_groups[0]["params"] = [sharded]
    sharded.grad = torch.ones_like(sharded)
    attempt("differentiable later", optimizer.step)
    assert not optimizer.state
    return results


def test_what_cannot_be_is_refused_at_once() -> None:
    (results,) = spawn(refusals, 1)
    assert set(results) == {"differentiable", "partial", "differentiable later"}
    for name, message in results.items():
        assert re.search("DTensor|Partial", message), (name, message)


def in_the_interpreter() -> float:
    """Triton's kernels on shards and blocks, against foreach."""
    mesh = mesh_of((2,))
    generator = torch.Generator().manual_seed(0)
    results: list[list[Any]] = []
    for backend in ("triton", False):
        generator.manual_seed(0)
        theta = torch.randn(6, 12, generator=generator)
        params: list[Any] = [torch.nn.Parameter(distribute_tensor(theta.clone(), mesh, [Shard(d)])) for d in (0, 1)]
        groups = [{"params": [p], "blocks": BLOCKS[9]} for p in params]
        optimizer = valleys.ALTO(groups, lr=0.05, fused=backend, foreach=None if backend else True, max_grad_norm=3.0)
        for _ in range(3):
            grad = torch.randn(6, 12, generator=generator)
            for p in params:
                p.grad = distribute_tensor(grad.clone(), mesh, p.placements)
            optimizer.step()
        results.append([p.full_tensor() for p in params])
    return largest_error(*results)


def test_triton_on_shards() -> None:
    pytest.importorskip("triton")
    # Triton asks for the interpreter when it is imported, which torch may have done here.
    program = "from distributed import test_placements as t; print(max(t.spawn(t.in_the_interpreter, 2)))"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert float(process.stdout.split()[-1]) < 1e-6  # gloo may have spoken before
