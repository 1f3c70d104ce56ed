"""Largest eigenvalue and trace of each layer's block of the Hessian, or of the Gauss-Newton matrix."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from valleys.landscape.curvature.hvp import Curvature
from valleys.landscape.curvature.spectrum import eigenvalues
from valleys.landscape.curvature.trace import trace
from valleys.landscape.objective import Objective
from valleys.landscape.progress import Progress, reporter

__all__ = ["LayerCurvature", "layerwise_curvature"]


@dataclass(frozen=True)
class LayerCurvature:
    """Name and size of a parameter, with the numbers of its diagonal block.

    Args:
        name, numel: of the parameter in the model.
        eigenvalue, residual: the block's largest, and the distance within which an exact one lies.
        trace, trace_error: the block's, and its standard error, 0 where it is exact.
    """

    name: str
    numel: int
    eigenvalue: float
    residual: float
    trace: float
    trace_error: float


def layerwise_curvature(
    objective: Objective,
    *,
    kind: str = "hessian",
    matvecs: int = 30,
    seed: int = 0,
    progress: Progress | bool | None = None,
) -> tuple[LayerCurvature, ...]:
    r"""Largest eigenvalue and trace of every diagonal block, one for each parameter of the objective.

    .. math:: H_{ll} = \nabla^2_{\theta_l} L(\theta), \qquad \lambda_{\max}(H_{ll}), \quad \mathrm{tr}\,H_{ll}

    The traces add up to the whole matrix's; its largest eigenvalue is no smaller than any block's. Costs, for each
    parameter, the products of ``eigenvalues`` and ``matvecs`` more.

    Args:
        objective: the loss as a function of the parameters.
        kind: ``hessian`` or ``ggn``.
        matvecs: products for each trace by Hutchinson's method, 2 or more; a block of no more rows is built whole.
        seed: of the random vectors.
        progress: a function of the layers measured and to measure, or True for a counter on a terminal.

    Returns:
        A row for each parameter, in the objective's order.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(1, 1)  # loss (3 w + b)^2
        >>> objective = Objective(model, torch.nn.functional.mse_loss, [(torch.full((1, 1), 3.0), torch.zeros(1, 1))])
        >>> [(row.name, row.eigenvalue, row.trace) for row in layerwise_curvature(objective)]
        [('weight', 18.0, 18.0), ('bias', 2.0, 2.0)]

    Source: Dong et al. 2019, HAWQ, arXiv 1905.03696 (eigenvalues); Dong et al. 2020, HAWQ-V2, arXiv 1911.03852 (trace).
    """
    names = {id(parameter): name for name, parameter in objective.model.named_parameters()}
    report = reporter(progress, "layerwise curvature", "layers")
    rows = []
    for number, parameter in enumerate(objective.parameters):
        part = copy.copy(objective)  # the same batches and loss
        part.parameters = (parameter,)
        block = Curvature(part, kind)
        top = eigenvalues(block, seed=seed)
        if block.numel <= matvecs:
            total, error = float(block.dense().trace()), 0.0
        else:
            estimate = trace(block, matvecs=matvecs, seed=seed)
            total, error = estimate.value, estimate.standard_error
        name = names.get(id(parameter), f"parameters[{number}]")
        rows.append(LayerCurvature(name, block.numel, float(top.values), float(top.residuals), total, error))
        report(number + 1, len(objective.parameters))
    return tuple(rows)
