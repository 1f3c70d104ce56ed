"""Every backend equals the reference at awkward sizes and layouts; which one is taken, and what happens without it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import valleys
from backends import BACKENDS, largest_error, problem, reference_run, run
from valleys.kernels import c, foreach

EACH = pytest.mark.parametrize("backend", BACKENDS)


# Around the blocks (4096) and batches (2^19) of the C kernel, and the pieces (2^18) of foreach.
AWKWARD = [(4095,), (4096,), (4097,), (1,), (3, 5), (2**18 + 1,), (2**19 - 4000,), (700, 1001), (2,), *[(7,)] * 20]


@EACH
@pytest.mark.parametrize("options", [{}, {"layer_adaptation": False}, {"max_grad_norm": 0.5}], ids=str)
def test_sizes_around_every_boundary(backend: str, options: dict[str, Any]) -> None:
    # A graph's compilation takes as long for each parameter, and a batch of small ones is the C kernel's.
    params, grads = problem(AWKWARD[:-19] if backend == "compiled" else AWKWARD, torch.float64)
    optimizer = valleys.ALTO(params, lr=0.02, **{"layer_adaptation": True, **options}, **BACKENDS[backend])
    expected = reference_run(params, grads, optimizer.param_groups[0])
    run(optimizer, params, grads)
    assert largest_error(params, expected) < 1e-12


@pytest.mark.parametrize("backend", ["foreach", "compiled", "c"])
def test_a_norm_of_millions_of_elements_in_float32(backend: str) -> None:
    """A layer of equal elements moves by lr each; sums of squares that lose digits show in the ratio."""
    params = [torch.nn.Parameter(torch.full((5_000_000,), 0.1))]
    params[0].grad = torch.full_like(params[0], 0.3)
    options: dict[str, Any] = {"weight_decay": 0.0, "trust_eps": 0.0, "norm_eps": 0.0, "layer_adaptation": True}
    valleys.Lamb(params, lr=0.5, **options, **BACKENDS[backend]).step()
    torch.testing.assert_close(params[0].detach(), torch.full_like(params[0], 0.05), rtol=2e-5, atol=0)


@EACH
@pytest.mark.parametrize("place", [0, 9_999])
def test_a_gradient_in_one_place_moves_the_layer(backend: str, place: int) -> None:
    """Only a layer whose gradient is zero everywhere has a ratio of at most 1."""
    params, grads = problem([(10_000,)], torch.float64)
    for (grad,) in grads:
        grad[:place] = 0
        grad[place + 1 :] = 0
    optimizer = valleys.ALTO(params, lr=0.02, layer_adaptation=True, **BACKENDS[backend])
    expected = reference_run(params, grads, optimizer.param_groups[0])
    run(optimizer, params, grads)
    assert largest_error(params, expected) < 1e-12


def test_foreach_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreach, "_CPU_PIECE", 7)
    params, grads = problem([(4, 3), (5,), (2,), (50,), (), (3,), (7,)], torch.float64, steps=10)
    optimizer = valleys.ALTO(params, lr=0.02, layer_adaptation=True, foreach=True, max_grad_norm=1.0)
    expected = reference_run(params, grads, optimizer.param_groups[0])
    run(optimizer, params, grads)
    assert largest_error(params, expected) < 1e-12


OTHERS: dict[str, Any] = {
    "alpha": 0.5,
    "beta": 0.01,
    "betas": (0.9, 0.99),
    "weight_decay": 0.0,
    "maximize": True,
    "trust_clip": (0.5, 0.7),
}


@pytest.mark.parametrize(
    ("dtype", "options"),
    [(torch.float64, {}), (torch.bfloat16, {}), (torch.float32, OTHERS), (torch.float16, OTHERS)],
    ids=["float64", "bfloat16", "float32, others", "float16, others"],
)
def test_compiled_equals_foreach(dtype: torch.dtype, options: dict[str, Any]) -> None:
    """Compare flags that make graphs of their own; the rest of foreach is compared with the reference in test_alto."""
    shapes: list[tuple[int, ...]] = [(4, 3), (0,), (2, 3, 30, 50), (8192,), (5000,)]
    (actual, grads), (expected, _) = problem(shapes, dtype, steps=8), problem(shapes, dtype)
    options = {"lr": 0.02, "layer_adaptation": True, "stochastic_rounding": False, **options}
    run(valleys.ALTO(actual, fused="compiled", **options), actual, grads)
    run(valleys.ALTO(expected, foreach=True, **options), expected, grads)
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=tolerance, atol=tolerance)


def test_compiled_never_recompiles() -> None:
    params, grads = problem([(4, 3), (5,), (3, 4099), (12297,)], torch.float32, steps=2)
    optimizer = valleys.ALTO(params, lr=torch.tensor(0.02), fused="compiled")
    run(optimizer, params, grads)
    try:
        torch.compiler.set_stance("fail_on_recompile")
        group = optimizer.param_groups[0]
        for factor in (0.9, 0.5):
            group["lr"] *= factor
            group["alpha"] *= factor
            group.update(beta=0.98, betas=(0.8 * factor, 0.95 * factor))
            group["weight_decay"] *= factor
            run(optimizer, params, grads)
        others, their_grads = problem([(100, 130), (11,), (4097,), (9000,), (2**16,)], torch.float32, steps=2)
        optimizer.add_param_group({"params": others})
        run(optimizer, params + others, [a + b for a, b in zip(grads, their_grads, strict=True)])
    finally:
        torch.compiler.set_stance("default")


def test_native_does_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("valleys.kernels.c.ALONE", 0)
    results = []
    threads = torch.get_num_threads()
    for count in (1, 2, 3):
        params, grads = problem(AWKWARD, torch.float32)
        try:
            torch.set_num_threads(count)
            run(valleys.ALTO(params, layer_adaptation=True, fused="c", max_grad_norm=1.0), params, grads)
        finally:
            torch.set_num_threads(threads)
        results.append(params)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_little_work_is_one_threads() -> None:
    from valleys.kernels import c

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        half = torch.empty(c.ALONE // 2)
        assert [c._threads(x) for x in ([half], [half, half[1:]], [half, half])] == [1, 1, 3]
    finally:
        torch.set_num_threads(threads)


def channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last)


def with_gaps(x: Tensor) -> Tensor:
    return torch.empty(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)[..., ::2].copy_(x)


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": channels_last,
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "gaps": with_gaps,
    "transposed with gaps": lambda x: with_gaps(x.transpose(0, 2)).transpose(0, 2),
}


@EACH
@pytest.mark.parametrize("param_layout", LAYOUTS)
@pytest.mark.parametrize("grad_layout", LAYOUTS)
def test_layouts(backend: str, param_layout: str, grad_layout: str) -> None:
    (plain, grads), (others, _) = problem([(4, 3, 2, 5), (2, 1, 3, 1)], torch.float64), problem([], torch.float64)
    others = [torch.nn.Parameter(LAYOUTS[param_layout](p.detach())) for p in plain]
    strides = [p.stride() for p in others]
    # ``with_gaps`` holds: Parameter(x) keeps the strides of x.
    expected, adapted = (
        valleys.ALTO(plain, lr=0.02, **BACKENDS[backend]),
        valleys.ALTO(others, lr=0.02, **BACKENDS[backend]),
    )
    for step in grads:
        for a, b, grad in zip(plain, others, step, strict=True):
            a.grad, b.grad = grad.clone(), LAYOUTS[grad_layout](grad)
        expected.step()
        adapted.step()
    for a, b, stride in zip(plain, others, strides, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-12, atol=0)
        assert b.stride() == stride


@pytest.mark.parametrize("param_layout", LAYOUTS)
@pytest.mark.parametrize("grad_layout", LAYOUTS)
@pytest.mark.parametrize("inplace", [False, True])
def test_layouts_of_e(param_layout: str, grad_layout: str, inplace: bool) -> None:
    plain, grads = problem([(4, 3, 2, 5), (2, 1, 3, 1)], torch.float64)
    others = [torch.nn.Parameter(LAYOUTS[param_layout](p.detach())) for p in plain]
    expected = valleys.adapt(torch.optim.SGD(plain, 0.1, momentum=0.9))
    adapted = valleys.adapt(torch.optim.SGD(others, 0.1, momentum=0.9), inplace=inplace)
    for step in grads:
        for a, b, grad in zip(plain, others, step, strict=True):
            a.grad, b.grad = grad.clone(), LAYOUTS[grad_layout](grad.clone())
        expected.step()
        adapted.step()
    for a, b in zip(plain, others, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("backend", ["c", "foreach"])
def test_a_model_that_changes_its_layout_in_mid_run(backend: str) -> None:
    """``model.to(memory_format=...)`` leaves the states behind; they follow at the next step."""
    (a,), grads = problem([(4, 3, 2, 5)], torch.float64, steps=4)
    b = torch.nn.Parameter(a.detach().clone())
    first, second = (valleys.ALTO([p], lr=0.02, **BACKENDS[backend]) for p in (a, b))
    for number, (grad,) in enumerate(grads):
        if number in (1, 3):  # there and back
            b.data = channels_last(b.data) if number == 1 else b.data.contiguous()
        a.grad, b.grad = grad.clone(), grad.clone().view_as(b)
        first.step()
        second.step()
    torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-12, atol=0)
    assert second.state[b]["exp_avg"].stride() == b.stride()


def test_the_default_is_native_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = c.alto_

    def counted(*args: Any) -> None:
        calls.append(1)
        original(*args)

    monkeypatch.setattr(c, "alto_", counted)
    params, grads = problem([(3,)], torch.float32, steps=1)
    for options, expected in (({}, 1), ({"fused": True}, 1), ({"fused": False}, 0), ({"foreach": False}, 0)):
        calls.clear()
        run(valleys.ALTO(params, **options), params, grads)  # type: ignore[arg-type]
        assert len(calls) == expected, options


def test_nan_and_infinity_stay_visible() -> None:
    for backend in BACKENDS.values():
        params, grads = problem([(5,), (4,)], torch.float32, steps=1)
        grads[0][0][2] = float("nan")
        run(valleys.ALTO(params, layer_adaptation=True, **backend), params, grads)
        assert params[0].isnan().all()  # the layer's norm is NaN
        assert params[1].isfinite().all()


@EACH
def test_autograd_notices_the_step(backend: str) -> None:
    param = torch.nn.Parameter(torch.ones(3))
    loss = (param**2).sum()
    param.grad = torch.ones(3)
    valleys.ALTO([param], **BACKENDS[backend]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [("no-such-compiler", "no C compiler"), ("false", "could not compile"), ("gcc '-O1", "no command line")],
)
def test_without_a_compiler(fresh_choice: Any, tmp_path: Path, compiler: str, reason: str) -> None:
    """fused=None falls back, aloud and once; fused=True raises before any work is done."""
    fresh_choice.setenv("CC", compiler)
    fresh_choice.setenv("VALLEYS_CACHE_DIR", str(tmp_path))
    params, grads = problem([(5,), (4, 3)], torch.float64)
    options: dict[str, Any] = {"lr": 0.02, "layer_adaptation": True}
    group = valleys.ALTO([torch.nn.Parameter(torch.ones(1))], **options).param_groups[0]
    expected = reference_run(params, grads, group)
    optimizer = valleys.ALTO(params, **options)
    with pytest.warns(UserWarning, match=f"falls back .*{reason}"):
        run(optimizer, params, grads[:1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(optimizer, params, grads[1:])
    assert largest_error(params, expected) < 1e-12
    with pytest.raises(RuntimeError, match=f"fused=True: .*{reason}"):
        valleys.ALTO(params, fused=True)


def test_a_parameter_subclass_is_updated_by_foreach(fresh_choice: Any) -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    param: Any = torch.nn.Parameter(TwoTensor(torch.ones(3), torch.ones(3)))
    param.grad = TwoTensor(torch.ones(3), 2 * torch.ones(3))
    with pytest.warns(UserWarning, match="plain tensors, not TwoTensor"):
        valleys.ALTO([param], lr=0.1, layer_adaptation=False).step()
    assert param.a.max() < 1
    assert param.b.max() < 1
    with pytest.raises(RuntimeError, match="plain tensors, not TwoTensor"):
        valleys.ALTO([param], fused=True)


def test_the_compiler_runs_once_per_machine(tmp_path: Path) -> None:
    """A second process finds the kernels on the disk; an unusable cache is replaced by a temporary one."""
    log = tmp_path / "log"
    compiler = tmp_path / "cc"
    compiler.write_text(f'#!/bin/sh\necho x >> {log}\nexec cc "$@"\n')
    compiler.chmod(0o755)
    script = textwrap.dedent("""
        import torch
        from valleys.kernels import c
        grad, memory = torch.ones(3), torch.zeros(3)
        c.explore_([grad], [memory], [grad], alpha=1.0, beta=0.5)  # no optimizer, with which torch imports its compiler
        assert grad.tolist() == [1.5] * 3
    """)
    blocked = tmp_path / "file"
    blocked.write_text("")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    counts = []
    for directory in (tmp_path / "cache", tmp_path / "cache", blocked / "below"):
        variables = {"CC": str(compiler), "VALLEYS_CACHE_DIR": str(directory), "TMPDIR": str(temporary)}
        environment = {**os.environ, **variables}
        subprocess.run([sys.executable, "-c", script], env=environment, check=True)
        counts.append(len(log.read_text().splitlines()))
    assert counts[0] == counts[1] > 0
    assert counts[2] == 2 * counts[0]
    assert not list(temporary.glob("valleys*"))


def test_the_step_under_torch_compile() -> None:
    """torch.compile of the user's own: foreach is traced, as in torch.optim."""
    (actual, grads), (expected, _) = problem([(4, 3), (5,)], torch.float32), problem([(4, 3), (5,)], torch.float32)
    compiled = valleys.ALTO(actual, lr=torch.tensor(0.02), capturable=True)
    plain = valleys.ALTO(expected, lr=torch.tensor(0.02), capturable=True)
    torch._dynamo.reset()  # what other tests compiled counts towards the limit of recompilations
    step = torch.compile(compiled.step)
    for grad in grads:
        for a, b, g in zip(actual, expected, grad, strict=True):
            a.grad, b.grad = g.clone(), g.clone()
        step()
        plain.step()
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-5, atol=1e-7)
