"""The smallest difference that a task's test metric can show."""

from __future__ import annotations

import torch

from valleys.lab.problem.data import taken
from valleys.lab.problem.seeds import seeded
from valleys.lab.problem.task import Problem, Task

_EXAMPLES = 256


def resolution(problem: Problem) -> float:
    r"""Return one test example's worth of the metric, 0 for a continuous one.

    .. math:: (v_1 - v_0) / n_\text{test}

    for a metric that takes two values on single examples, such as right and wrong. The task's own ``resolution`` comes
    first. Else the metric is tried on single validation examples, with the outputs of an untrained model.

    Example:
        >>> from valleys.lab import tasks
        >>> round(resolution(tasks.load("digits")), 4), resolution(tasks.load("sine"))
        (0.2778, 0.0)
    """
    if problem.resolution is not None or not isinstance(problem, Task) or problem.finish is not None:
        return problem.resolution or 0.0
    device = torch.device("cpu")
    indices = torch.arange(min(_EXAMPLES, len(problem.validation)))
    values: set[float] = set()
    with seeded(device, 0), torch.no_grad():
        model = problem.build_model().eval()
        for inputs, targets in problem.validation.reader(device).read([indices]):
            for number in range(len(indices)):
                one = torch.tensor([number])
                value = problem.metric(model(taken(inputs, one)), taken(targets, one))
                values.add(float(value) if value.numel() == 1 else float("nan"))
                if len(values) > 2:
                    return 0.0
    return (max(values) - min(values)) / len(problem.test) if len(values) == 2 else 0.0
