"""The flatness of one trained model, in numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from valleys.lab.data import Batch, Split, Stream
from valleys.lab.task import Task
from valleys.landscape.objective import Objective

__all__ = ["ADAPTIVE_RHO", "CHUNK", "EXAMPLES", "MEASURES", "RHO", "SIGMA", "measure"]

EXAMPLES, CHUNK = 1024, 256
RHO, ADAPTIVE_RHO, SIGMA = 0.05, 0.5, 0.05
_MATVECS, _PAIRS, _STEPS = 50, 20, 20

MEASURES = {
    "top_eigenvalue": "top Hessian eigenvalue",
    "trace": "Hessian trace",
    "sharpness": f"sharpness (l2, {RHO:g})",
    "adaptive_sharpness": f"adaptive sharpness ({ADAPTIVE_RHO:g})",
    "average_sharpness": f"average adaptive sharpness ({SIGMA:g})",
    "gap": "test minus train loss",
    "drift": "distance from the start",
}
"""What is measured, with its name in tables. Of all but the last two, smaller is flatter."""


def measure(
    task: Task,
    model: nn.Module,
    start: nn.Module,
    *,
    examples: int = EXAMPLES,
    device: torch.device | str = "cpu",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    r"""Measure where a trained model lies.

    .. math:: \lambda_{\max}(H),\; \operatorname{tr} H,\; \max_{|\delta| \le \rho} L(\theta + \delta) - L(\theta),\;
        \operatorname{E}_\delta L(\theta + \delta) - L(\theta),\; L_\text{test} - L_\text{train},\; |\theta - \theta_0|

    L is the task's own loss over evenly spaced training examples, without augmentation, the model in evaluation mode
    (no dropout, running statistics) and in its own precision; so all models of a task are measured on the same function
    of their parameters. The sharpness found by ascent is a lower bound. Adaptive measures do not change when a ReLU
    network is rescaled without computing anything else; the others do.

    Args:
        task: what was learnt.
        model: the trained model, put into evaluation mode here and left where it was.
        start: the same model before its training.
        examples: training examples of the loss, at least 1; at most those of the split.
        device: where to.
        seed: of what is random about the measures: the same points for all models.
        progress: called with (measures made, measures in all).

    Returns:
        The values by the names of ``MEASURES``, with ``top_eigenvalue_error`` (the residual, which bounds the distance
        to an exact eigenvalue), ``trace_error`` and ``average_sharpness_error`` (standard errors), and the two losses.

    Source: Hochreiter & Schmidhuber 1997 and Keskar et al. 2017 (flatness); Foret et al. 2021, Kwon et al. 2021,
    Andriushchenko et al. 2023 (sharpness); the choice of sizes is ours.
    """
    from valleys.landscape.sharpness import average_sharpness, sharpness
    from valleys.landscape.spectrum import eigenvalues
    from valleys.landscape.trace import trace

    device = torch.device(device)
    training = model.training
    model.eval()
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(MEASURES))

    try:
        objective = Objective(model, task.loss, _Spaced(task.train, examples, device))
        eigen = eigenvalues(objective, 1, seed=seed)
        found = {"top_eigenvalue": float(eigen.values[0]), "top_eigenvalue_error": float(eigen.residuals[0])}
        step()
        traced = trace(objective, matvecs=_MATVECS, seed=seed)
        found |= {"trace": traced.value, "trace_error": traced.standard_error}
        step()
        found["sharpness"] = sharpness(objective, RHO, steps=_STEPS, seed=seed).value
        step()
        found["adaptive_sharpness"] = sharpness(objective, ADAPTIVE_RHO, adaptive=True, steps=_STEPS, seed=seed).value
        step()
        averaged = average_sharpness(objective, SIGMA, adaptive=True, samples=_PAIRS, seed=seed)
        found |= {"average_sharpness": averaged.value, "average_sharpness_error": averaged.standard_error}
        step()
        test = Objective(model, task.loss, _Spaced(task.test, len(task.test), device), check=False)
        found["train_loss"], found["test_loss"] = objective.value(), test.value()
        found["gap"] = found["test_loss"] - found["train_loss"]
        step()
        found["drift"] = _distance(model, start)
        step()
    finally:
        model.train(training)
    return found


@dataclass(frozen=True)
class _Spaced:
    """Evenly spaced examples of a split, read anew each time, so that a large split need not fit into memory."""

    split: Split | Stream
    examples: int
    device: torch.device

    def __iter__(self) -> Iterator[tuple[Batch, Batch]]:
        size = min(self.examples, len(self.split))
        chosen = (torch.arange(size) * len(self.split)) // size
        return self.split.reader(self.device).read(chosen.split(CHUNK))


def _distance(model: nn.Module, start: nn.Module) -> float:
    total = torch.zeros((), dtype=torch.float64)
    ends: dict[str, Tensor] = dict(model.named_parameters())
    for name, begin in start.named_parameters():
        if ends[name].requires_grad:
            total += (ends[name].detach().double() - begin.detach().to(ends[name].device).double()).square().sum().cpu()
    return float(total.sqrt())
