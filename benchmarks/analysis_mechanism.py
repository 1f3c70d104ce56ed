"""Measurements for docs/mechanism.md: continuous time, -grad |grad f|^2 beside the gradient difference, E's memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from report import listing, table
from valleys import ALTO, ESGD
from valleys.landscape import Curvature, Objective, record
from valleys.landscape.recorder.stages import STAGES
from valleys.palette import COLORS
from valleys.paper.theory import continuous_limit, largest_stable_lr, nested_weights
from valleys.paper.walks.functions import FUNCTIONS, Function
from valleys.paper.walks.walk import walk

__all__ = ["Memory", "bands", "braking", "e_weights", "held", "proxy_errors", "report"]

CURVES: dict[str, tuple[str, tuple[float, ...], float, float]] = {
    "f1 from 3.3": ("f1", (3.3,), 0.2, 10.0),
    "f2 from 0.3, into the wide minimum": ("f2", (0.3,), 0.002, 0.4),
    "f2 from 0.65, into a narrow one": ("f2", (0.65,), 5e-5, 0.02),
    "Rosenbrock from (-1.2, 1)": ("rosenbrock", (-1.2, 1.0), 4e-4, 0.4),
}
"""Function, start, the largest learning rate, and the learning rate times the steps, by title."""
NETWORK = "digits network, full batch"
HALVINGS = 4

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD, lr 0.5": lambda params: SGD(params, lr=0.5),
    "SGD, lr 2 (too large: zigzag)": lambda params: SGD(params, lr=2.0),
    "SGD, momentum 0.99, lr 0.5": lambda params: SGD(params, lr=0.5, momentum=0.99),
    "ESGD, alpha -50, lr 0.1": lambda params: ESGD(params, lr=0.1, momentum=0.9, alpha=-50.0, beta=0.99),
    "ALTO, alpha -5, lr 0.01": lambda params: ALTO(params, lr=0.01),
    "ALTO, alpha -80, lr 0.03": lambda params: ALTO(params, lr=0.03, alpha=-80.0),
}
STEPS = 300
AGES = (0, 10, 30, 100, 200)
"""First ages of the bands of gradient differences; the oldest, which is the first gradient, is a band of its own."""


class Run(NamedTuple):
    """A network on scikit-learn's digits, with its loss over all examples."""

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    objective: Objective

    def backward(self, rows: Tensor | slice = slice(None)) -> None:
        """Leave the gradient of the loss over some examples in ``.grad``."""
        self.model.zero_grad()
        self.objective.loss(self.model(self.inputs[rows]), self.targets[rows]).backward()


class Memory(NamedTuple):
    """The part of ALTO's momentum that E made, and the gradient differences it holds.

    Args:
        part: the momentum less that of the same gradients without E, (n,).
        parts: what each step's difference adds by the optimizer's own weights, (steps, n), the first step first.
        momentum: the whole, (n,).
        weights: the optimizer's, the newest difference first.
    """

    part: Tensor
    parts: Tensor
    momentum: Tensor
    weights: Tensor

    @property
    def error(self) -> float:
        """Relative error of the sum of the parts."""
        return float((self.parts.sum(0) - self.part).norm() / self.part.norm())


def digits(seed: int = 0) -> Run:
    """Return 64 - 32 - 10 units with tanh, in float64, and all 1,797 images."""
    data = load_digits()
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).double()
    inputs, targets = torch.tensor(data.data / 16), torch.tensor(data.target)
    return Run(model, inputs, targets, Objective(model, nn.functional.cross_entropy, [(inputs, targets)]))


# --- the gradient difference as a proxy ------------------------------------------------------------------------------


def proxy_error(lr: float, differences: Tensor, products: Tensor) -> float:
    r"""Return the relative error of :math:`-2 H g_{k-1} \approx (2 / lr)(g_k - g_{k-1})` over a descent's steps."""
    return float((2 / lr * differences + 2 * products).norm() / (2 * products).norm())


def error_on_curve(function: Function, start: Sequence[float], lr: float, time: float) -> float:
    """Return the error along the walk of plain gradient descent for ``time / lr`` steps."""
    path = walk(function, lambda params: SGD(params, lr=lr), steps=round(time / lr), start=start).points
    gradients = function.gradient(path.requires_grad_())
    (products,) = torch.autograd.grad(gradients, path, gradients.detach())  # of the Hessian, which is symmetric
    return proxy_error(lr, gradients.detach().diff(dim=0), products[:-1])


def error_on_digits(lr: float, time: float) -> float:
    """Return the error along plain gradient descent of a network."""
    run = digits()
    curvature, optimizer = Curvature(run.objective), SGD(run.model.parameters(), lr=lr)
    gradients, products = [], []
    for _ in range(round(time / lr) + 1):
        run.backward()
        gradient = [p.grad for p in run.model.parameters() if p.grad is not None]
        gradients.append(run.objective.flatten(gradient))
        products.append(run.objective.flatten(curvature.matvec(gradient)))
        optimizer.step()
    return proxy_error(lr, torch.stack(gradients).diff(dim=0), torch.stack(products[:-1]))


def proxy_errors() -> Iterator[tuple[str, float, list[float]]]:
    """Yield title, largest learning rate and the errors at it, half of it, a quarter of it, ..."""
    halves = [0.5**n for n in range(HALVINGS)]
    for title, (name, start, lr, time) in CURVES.items():
        yield title, lr, [error_on_curve(FUNCTIONS[name], start, lr * half, time) for half in halves]
    yield NETWORK, 0.2, [error_on_digits(0.2 * half, 4.0) for half in halves]


# --- stages of a real run --------------------------------------------------------------------------------------------


def braking(make: Callable[[Any], Optimizer], steps: int) -> list[dict[str, Any]]:
    r"""Train on digits; return the recorder's rows with ``along``, :math:`\langle u_k, -2 H g \rangle` at theta_k."""
    run = digits()
    curvature, optimizer = Curvature(run.objective), make(run.model.parameters())
    recorder = record(optimizer, run.model, every=1, per_layer=False)
    along, old = [], run.objective.flatten(run.objective.parameters)
    for _ in range(steps + 1):
        run.backward()
        here = run.objective.flatten(run.objective.parameters)
        product = run.objective.flatten(curvature.matvec([p.grad for p in run.objective.parameters]))
        along.append(float((here - old) @ (-2 * product)))
        old = here
        optimizer.step()
    return [{**row, "along": value} for row, value in zip(recorder.rows[:steps], along[1:], strict=True)]


# --- what the momentum holds -----------------------------------------------------------------------------------------


def e_weights(steps: int, alpha: float, beta: float, betas: tuple[float, float]) -> Tensor:
    """Return the weights with which ALTO's momentum holds gradient differences, (steps,), the newest first.

    They are read from the optimizer: the gradient of element i jumps from 0 to 1 at step i, so that its differences are
    an indicator of that step; the momentum with E less that without, over alpha, is each element's weight.
    """
    momenta = []
    for strength in (alpha, 0.0):
        parameter = nn.Parameter(torch.ones(steps, dtype=torch.float64))
        optimizer = ALTO([parameter], lr=1e-2, betas=betas, alpha=strength, beta=beta)
        for step in range(steps):
            parameter.grad = (torch.arange(steps) <= step).double()
            optimizer.step()
        momenta.append(optimizer.state[parameter]["exp_avg"])
    return ((momenta[0] - momenta[1]) / alpha).flip(0)


def held(batch: int, steps: int, *, alpha: float = -5.0, beta: float = 0.99, beta2: float = 0.9) -> Memory:
    """Train on digits by ALTO; return what its momentum holds of each step's gradient difference at the end."""
    run = digits()
    parameters, betas = list(run.objective.parameters), (beta2, 0.99)
    optimizer = ALTO(parameters, lr=1e-2, betas=betas, alpha=alpha, beta=beta)
    gradients = []
    for _ in range(steps):
        run.backward(torch.randperm(len(run.inputs))[:batch])
        gradients.append([p.grad.clone() for p in parameters if p.grad is not None])
        optimizer.step()
    copies = [nn.Parameter(p.detach().clone()) for p in parameters]
    plain = ALTO(copies, lr=1e-2, betas=betas, alpha=0.0, beta=beta)
    for gradient in gradients:  # of the real run: what the copies do meanwhile does not matter to their momentum
        for copy, part in zip(copies, gradient, strict=True):
            copy.grad = part
        plain.step()
    momentum, without = (
        run.objective.flatten([o.state[p]["exp_avg"] for p in params])
        for o, params in ((optimizer, parameters), (plain, copies))
    )
    flat = torch.stack([run.objective.flatten(gradient) for gradient in gradients])
    differences = flat.diff(dim=0, prepend=torch.zeros_like(flat[:1]))
    weights = e_weights(steps, alpha, beta, betas)
    return Memory(momentum - without, alpha * weights.flip(0)[:, None] * differences, momentum, weights)


def bands(memory: Memory) -> list[tuple[str, float, float, float]]:
    """Return ages, share of the weights, of the parts' lengths, and of the whole part (the projection), by band."""
    steps, lengths = len(memory.weights), memory.parts.norm(dim=1).flip(0)
    shares = (memory.parts @ memory.part / memory.part.square().sum()).flip(0)
    edges = [*(age for age in AGES if age < steps - 1), steps - 1, steps]
    rows = []
    for low, high in itertools.pairwise(edges):
        title = f"{low} to {high - 1}" if high < steps else f"{low}: the first gradient"
        columns = (memory.weights / memory.weights.sum(), lengths / lengths.sum(), shares)
        weight, length, share = (float(column[low:high].sum()) for column in columns)
        rows.append((title, weight, length, share))
    return rows


# --- the report ------------------------------------------------------------------------------------------------------


def report(out: Path, origin: dict[str, str]) -> None:
    """Measure all, and write ``mechanism.md`` and ``memory.png``."""
    full, batches = held(1797, STEPS), held(256, STEPS)
    parts = [
        "# What the mathematics promises, measured",
        listing(origin),
        "## Continuous time: largest stable lr in steps over that in continuous time",
        _limit_table(),
        "## -2 H g against (2 / lr)(g_k - g_{k-1}): relative error along gradient descent",
        _error_table(),
        "## Stages of real runs",
        _stage_table(),
        "## What the momentum holds",
        _weights_table(),
        *_memory_tables({"all 1,797 examples a step": full, "256 examples a step": batches}),
        "![weights and contributions](memory.png)",
    ]
    (out / "mechanism.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    memory_figure(full).savefig(out / "memory.png", dpi=110)


def _limit_table() -> str:
    ks, rows = (0.1, 0.01, 0.001, 0.0001), []
    for c in (-0.95, -1.05, -1.5):
        for title, beta2 in (("none", None), ("1 - beta2 = 1 - beta1", lambda k: 1 - k)):
            if c >= -1 and beta2 is None:
                continue
            cells = []
            for k in ks:
                second = None if beta2 is None else beta2(k)
                steps = float(largest_stable_lr(c / k, 1 - k, second or 0.0))
                cells.append(f"{steps / float(continuous_limit(c / k, 1 - k, second)):.4f}")
            rows.append([f"{c:g}", title, *cells])
    return table(["c", "momentum", *(f"1 - beta1 = {k:g}" for k in ks)], rows)


def _error_table() -> str:
    rows = [
        [title, f"{lr:g}", *(f"{error:.4f}" for error in errors), f"{errors[-2] / errors[-1]:.2f}"]
        for title, lr, errors in proxy_errors()
    ]
    lrs = ["lr", *(f"lr / {2**n}" for n in range(1, HALVINGS))]
    return table(["curve", "lr", *(f"error at {lr}" for lr in lrs), "last ratio"], rows)


def _stage_table() -> str:
    rows = []
    for name, make in OPTIMIZERS.items():
        stages = braking(make, STEPS)
        cells = []
        for stage in STAGES:
            inside = [row for row in stages if row["stage"] == stage]
            share = np.mean([row["along"] < 0 for row in inside]) if inside else 0.0
            cells.append(f"{len(inside)}" + (f", {100 * share:.0f}%" if inside else ""))
        agree = np.mean([(row["along"] > 0) == (row["inner"] > 0) for row in stages])
        rows.append([name, *cells, f"{100 * agree:.0f}%"])
    note = (
        f"{STEPS} steps on all digits: steps in the stage, and of these <u, -2 H g> negative. The table of signs says "
    )
    note += "100%, 0%, 100%, 0%.\n\n"
    return note + table(["optimizer", *STAGES, "signs of both inner products equal"], rows)


def _weights_table() -> str:
    rows, ages = [], (0, 1, 10, 100, STEPS - 1)
    for beta, beta2, alpha in ((0.99, 0.9, -5.0), (0.9, 0.9, -1.0), (0.5, 0.9, -1.0)):
        weights = e_weights(STEPS, alpha, beta, (beta2, 0.99))
        theory = torch.tensor(nested_weights([beta, beta2], STEPS))
        error = float((weights - theory).abs().max() / theory.max())
        rows.append([f"{beta:g}, {beta2:g}", *(f"{float(weights[age]):.5f}" for age in ages),
                     str(int(weights.round(decimals=9).argmax())), f"{error:.1e}"])  # fmt: skip
    header = ["beta1, beta2", *(f"age {age}" for age in ages), "age of the largest"]
    return "Weights in ALTO's momentum.\n\n" + table([*header, "largest difference to theory, relative"], rows)


def _memory_tables(memories: dict[str, Memory]) -> Iterator[str]:
    for title, memory in memories.items():
        rows = [[ages, *(f"{100 * value:.1f}%" for value in values)] for ages, *values in bands(memory)]
        size = float(memory.part.norm() / memory.momentum.norm())
        yield (
            f"Step {STEPS} of ALTO at its defaults, {title}: E's part of the momentum is {size:.3f} of its length, and "
            f"the sum over the gradient differences has a relative error of {memory.error:.1e}."
        )
        yield table(["age of the difference", "share of the weights", "of the lengths", "of E's part (net)"], rows)


def memory_figure(memory: Memory) -> Any:
    """Draw the optimizer's weights on those of the theory, and which steps E's part of the momentum comes from."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    ages = np.arange(120)
    for color, (beta, beta2, alpha) in zip(
        COLORS, ((0.99, 0.9, -5.0), (0.9, 0.9, -1.0), (0.5, 0.9, -1.0)), strict=False
    ):
        left.plot(ages, nested_weights([beta, beta2], 120), color=color, linewidth=1)
        weights = e_weights(120, alpha, beta, (beta2, 0.99))
        left.plot(ages[::4], weights[::4], "o", markersize=3, color=color, label=f"beta1 = {beta:g}, beta2 = {beta2:g}")
    left.set_xlabel("age of the gradient difference, steps")
    left.set_ylabel("weight in the momentum")
    left.set_title("Dots: read from ALTO; lines: theory", fontsize=10)
    left.legend(frameon=False)
    steps = np.arange(1, len(memory.weights) + 1)
    lengths = memory.parts.norm(dim=1)
    right.plot(steps, memory.weights.flip(0) / memory.weights.sum(), color=COLORS[0], linewidth=1.3, label="weight")
    right.plot(
        steps, lengths / lengths.sum(), color=COLORS[1], linewidth=1.3, label="weight x length of the difference"
    )
    right.set_xlabel("step of the gradient difference")
    right.set_ylabel("share")
    right.set_yscale("log")
    right.set_ylim(1e-4, 1)
    right.set_title(f"Held at step {len(steps)} (digits, full batch, beta1 = 0.99)", fontsize=10)
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
