"""Are the kernels right on this device? Each against ``valleys.reference`` in float64; and the tests marked ``gpu``."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, AdamW, Optimizer

import valleys
from backends import symbols
from gpu_results import Results
from rivals import FUSED
from running import Graphed
from valleys import reference

__all__ = ["PRECISIONS", "Kernel", "compare", "counted", "kernels", "rounding", "run", "tests"]

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("tests/kernels/triton/test_cuda.py", "tests/lab/run/test_trainer.py", "tests/test_hyperparameters.py")
Shapes = list[tuple[int, ...]]
SHAPES: Shapes = [(4, 3), (5,), (), (1, 1), (300, 70), (3 * 2048 + 1,), (700, 1001)]
SMALL = SHAPES[:5]  # for the dry run
STEPS = 10


@dataclass(frozen=True)
class Precision:
    """Dtypes of a comparison, and the largest error allowed, relative to each tensor's largest element."""

    param: torch.dtype
    state: torch.dtype | None
    tolerance: float


PRECISIONS = {
    "float64": Precision(torch.float64, None, 1e-12),
    "float32": Precision(torch.float32, None, 2e-5),
    "float32, bfloat16 states": Precision(torch.float32, torch.bfloat16, 3e-2),
    "bfloat16": Precision(torch.bfloat16, None, 3e-2),
}


@dataclass(frozen=True)
class Kernel:
    """A way to compute a step.

    Args:
        name: unique.
        build: makes the optimizer of parameters, with states of a dtype.
        graphed: from its fourth step on as a CUDA graph.
    """

    name: str
    build: Callable[[list[Parameter], torch.dtype | None], Optimizer]
    graphed: bool = False


def kernels(device: str) -> list[Kernel]:
    """Every kernel for a device; the one that must be compiled for a minute comes last."""
    fused = FUSED[device]
    ways: dict[str, dict[str, Any]] = {
        "loop": {"foreach": False, "fused": False},
        "foreach": {"foreach": True, "fused": False},
        fused: {"fused": fused},
    }
    rows = [Kernel(f"ALTO {name}", _layerwise(valleys.ALTO, **way)) for name, way in ways.items()]
    rows += [Kernel(f"Lamb {name}", _layerwise(valleys.Lamb, **ways[name])) for name in ("foreach", fused)]
    rows += [
        Kernel(f"ALTO {fused}, no ratio", _layerwise(valleys.ALTO, **ways[fused], layer_adaptation=False)),
        Kernel(f"ALTO {fused}, clipped", _layerwise(valleys.ALTO, **ways[fused], max_grad_norm=0.5)),
        Kernel("ESGD foreach", _adapted(SGD, momentum=0.9, foreach=True)),
        Kernel("EAdamW foreach", _adapted(AdamW, foreach=True)),
        Kernel("EAdamW fused", _adapted(AdamW, fused=True)),
    ]
    if device == "cuda":
        on_device = {"capturable": True}
        rows += [
            Kernel("ALTO foreach, CUDA graph", _layerwise(valleys.ALTO, **ways["foreach"], **on_device), True),
            Kernel("ALTO triton, CUDA graph", _layerwise(valleys.ALTO, **ways[fused], **on_device), True),
            Kernel("EAdamW fused, CUDA graph", _adapted(AdamW, fused=True, **on_device), True),
        ]
    return [*rows, Kernel("ALTO compiled", _layerwise(valleys.ALTO, fused="compiled"))]


def run(results: Results, options: argparse.Namespace) -> None:
    """Compare every kernel in every precision, then run the tests."""
    device, shapes = ("cpu", SMALL) if options.dry_run else ("cuda", SHAPES)
    *rows, compiled = kernels(device)
    for row in rows:
        _compare_all(results, row, list(PRECISIONS), device, shapes)
    for name, kind in ROUNDED.items():
        results.measure(f"stochastic rounding, {name}", partial(rounding, device, kind))
    results.measure("tests marked gpu", lambda: tests(results.left()))
    _compare_all(results, compiled, ["float32"] if options.dry_run else list(PRECISIONS), device, shapes)


def _compare_all(results: Results, row: Kernel, precisions: list[str], device: str, shapes: Shapes) -> None:
    for name in precisions:
        results.measure(f"{row.name}, {name}", partial(compare, row, PRECISIONS[name], device, shapes))


def compare(kernel: Kernel, precision: Precision, device: str, shapes: Shapes = SHAPES) -> dict[str, Any]:
    """Return how far parameters and moments are from the reference after ten steps on the same gradients."""
    params = [Parameter(_randn(shape, i, precision.param).to(device)) for i, shape in enumerate(shapes)]
    thetas = [param.detach().to(torch.float64, copy=True) for param in params]
    for param in params:
        param.grad = torch.empty_like(param)
    optimizer = kernel.build(params, precision.state)
    group = optimizer.param_groups[0]
    memories: list[Any] = [reference.TwoBuffer(torch.zeros_like(t), torch.zeros_like(t)) for t in thetas]
    if not any(name in group for name in ("alpha", "explore_alpha")):
        memories = [None] * len(thetas)
    moments = [reference.zeros(theta) for theta in thetas]
    step: Callable[[], Any] = optimizer.step
    for k in range(STEPS):
        grads = [_randn(shape, 1000 * (k + 1) + i, precision.param).to(device) for i, shape in enumerate(shapes)]
        torch._foreach_copy_([param.grad for param in params], grads)
        if kernel.graphed and k == 3:
            step = Graphed(optimizer).replay
        step()
        exact = [grad.double() for grad in grads]
        if group.get("max_grad_norm") is not None:
            exact = reference.clip(exact, group["max_grad_norm"])
        for i, grad in enumerate(exact):
            thetas[i], memories[i], moments[i] = _reference(group, thetas[i], grad, memories[i], moments[i])
    errors = _errors([param.detach() for param in params], thetas)
    of_states = {}
    for name, expected in (("exp_avg", [m.m for m in moments]), ("exp_avg_sq", [m.v for m in moments])):
        if name in optimizer.state[params[0]]:
            of_states[name] = _largest(_errors([optimizer.state[param][name] for param in params], expected))
    return {
        "max_error": _largest(errors),
        "spread": {"smallest": min(errors), "median": statistics.median(errors)},
        "max_error_of_states": of_states,
        "tolerance": precision.tolerance,
        "passed": all(error <= precision.tolerance for error in (*errors, *of_states.values())),
        "n": {"tensors": len(params), "elements": sum(map(torch.numel, params)), "steps": STEPS},
    }


ROUNDED: dict[str, dict[str, Any]] = {
    "bfloat16 states": {"state_dtype": torch.bfloat16},
    "8-bit states": {"state_dtype": "8bit"},
    "8-bit states and error correction": {"state_dtype": "8bit", "error_correction": True},
}
"""Options of optimizers that round at random."""


def rounding(device: str, kind: dict[str, Any]) -> dict[str, Any]:
    """Compare bfloat16 parameters rounded stochastically, with compressed states: the same random bits everywhere.

    Arithmetic in another order carries a value over a rounding now and then; other bits would do so to half of them.
    """
    params: list[list[Parameter]] = []
    tensors: list[list[Tensor]] = []
    for way in ({"fused": FUSED[device]}, {"foreach": True, "fused": False}):
        params.append([Parameter(_randn(shape, i, torch.bfloat16).to(device)) for i, shape in enumerate(SHAPES)])
        optimizer = valleys.ALTO(params[-1], lr=0.02, **kind, **way)  # type: ignore[arg-type]
        for i, param in enumerate(params[-1]):
            param.grad = _randn(tuple(param.shape), 1000 + i, torch.bfloat16).to(device)
        optimizer.step()
        # A correction's unit is a 65,536th of the parameter: other rounding of the arithmetic changes one in twenty.
        states = [
            value
            for param in params[-1]
            for name, value in sorted(optimizer.state[param].items())
            if name != "correction"
        ]
        tensors.append([param.detach() for param in params[-1]] + [x for x in states if x.numel() > 1000])
    large = [float((a != b).double().mean()) for a, b in zip(*tensors, strict=True) if a.numel() > 1000]
    spread = {"smallest": min(large), "largest": max(large)}
    return {"differing": max(large), "spread": spread, "tolerance": 0.01, "passed": max(large) <= 0.01, "n": len(large)}


def tests(seconds: float) -> dict[str, Any]:
    """Run the tests that are marked ``gpu`` in a process of their own, without plugins and conftest.

    Returns:
        How many passed, failed and were skipped, and the message of each that did not pass. A file that imports what
        is not installed is an error of that file alone.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder, "pytest.ini")
        settings.write_text("[pytest]\nmarkers = gpu: needs a CUDA device\n")
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-c", str(settings), "--rootdir", str(ROOT), "--noconftest"]
        command += ["-m", "gpu", "-q", "--import-mode=importlib", "--continue-on-collection-errors"]
        command += ["-p", "no:cacheprovider", f"--junitxml={report}", *TESTS]
        paths = [str(ROOT / "src"), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        output = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds)
        if not report.exists():
            raise RuntimeError(f"pytest ended with {output.returncode}: {output.stderr.strip().splitlines()[-1:]}")
        return counted(ElementTree.parse(report).getroot())


def counted(report: ElementTree.Element) -> dict[str, Any]:
    """Return the outcome of pytest's JUnit report; ``passed`` is None where no test ran."""
    counts = {"passed": 0, "failure": 0, "error": 0, "skipped": 0}
    messages = {}
    for case in report.iter("testcase"):
        bad = next((child for child in case if child.tag in counts), None)
        counts["passed" if bad is None else bad.tag] += 1
        if bad is not None:
            lines = (bad.get("message", "") + "\n" + (bad.text or "")).strip().splitlines()
            raised = [line for line in lines if line.startswith("E ")] or lines
            messages[f"{case.get('classname')}.{case.get('name')}"] = raised[0].replace(f"{ROOT}/", "")[:300]
    names = {"passed": "tests_passed", "failure": "tests_failed", "error": "files_failed", "skipped": "tests_skipped"}
    passed = counts["failure"] == 0 if counts["passed"] + counts["failure"] else None
    return {**{names[key]: n for key, n in counts.items()}, "not_passed": messages, "passed": passed}


def _layerwise(cls: Callable[..., Optimizer], **options: Any) -> Callable[[list[Parameter], Any], Optimizer]:
    common = {"lr": 0.02, "layer_adaptation": True, "stochastic_rounding": False}
    return lambda params, state: cls(params, **{**common, **options}, state_dtype=state)


def _adapted(cls: Callable[..., Optimizer], **options: Any) -> Callable[[list[Parameter], Any], Optimizer]:
    return lambda params, state: valleys.adapt(cls(params, lr=0.02, **options), -5.0, 0.99, state_dtype=state)


def _reference(group: dict[str, Any], theta: Tensor, grad: Tensor, memory: Any, moments: Any) -> tuple[Any, Any, Any]:
    """One step by the mathematics of the group's optimizer."""
    if "layer_adaptation" in group:
        return reference.alto(theta, grad, memory, moments, **symbols(group, theta.dim()))
    alpha, b1 = group["explore_alpha"], group["explore_beta"]
    if "betas" not in group:
        options = {"lr": group["lr"], "alpha": alpha, "b1": b1, "b2": group["momentum"]}
        theta, memory, m = reference.esgd(theta, grad, memory, moments.m, **options)
        return theta, memory, moments._replace(m=m)
    (b2, b3), lam = group["betas"], group["weight_decay"]
    theta = theta * (1 - group["lr"] * lam)
    options = {"lr": group["lr"], "alpha": alpha, "b1": b1, "b2": b2, "b3": b3, "eps": group["eps"]}
    return reference.eadam(theta, grad, memory, moments, **options)


def _errors(actual: list[Tensor], expected: list[Tensor]) -> list[float]:
    """Each tensor's largest difference, relative to its largest element."""
    pairs = zip(actual, expected, strict=True)
    return [float((a.double() - e).abs().max() / e.abs().max()) for a, e in pairs]


def _largest(errors: list[float]) -> float:
    """The largest, or NaN, which Python's ``max`` may pass over."""
    return float(torch.tensor(errors, dtype=torch.float64).max())


def _randn(shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)
