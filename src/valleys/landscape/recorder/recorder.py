"""A recorder that one line attaches to any training loop: how far, how fast, along which slope and curvature."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from contextlib import AbstractContextManager
from pathlib import Path as FilePath
from types import TracebackType
from typing import Any

from torch import nn
from torch.optim import Optimizer

from valleys.landscape.recorder.positions import Path, Positions
from valleys.landscape.recorder.projection import Projection
from valleys.landscape.recorder.rows import COLUMNS, LAYER_COLUMNS, layer_rows, total_row
from valleys.landscape.recorder.steps import Steps, refuse_shards

__all__ = ["Recorder", "record"]

EXACT_LIMIT = 10_000_000  # parameters up to which positions are kept whole by default
_DIMENSION = 4096  # of the projection beyond it
_EVERY, _PROJECTED_EVERY = 50, 100  # default steps from one row to the next; projecting costs more than keeping

_log = logging.getLogger(__name__)


def record(
    optimizer: Optimizer,
    model: nn.Module | None = None,
    *,
    every: int | None = None,
    window: int = 10,
    projection: int | None = None,
    per_layer: bool = True,
    path: int | None = None,
    seed: int = 0,
) -> Recorder:
    r"""Attach a recorder to a training loop: from now on the optimizer's steps are measured.

    .. math:: u_k = \theta_k - \theta_{k-1}, \qquad g_k = \text{the gradient at } \theta_k,

    with :math:`\theta_0` the parameters now. At every ``every``-th step k the recorder notes

    ============================ ==========================================================================
    ``step``, ``lr``             k; the first group's learning rate in the step to :math:`\theta_k`
    ``drift``                    :math:`|\theta_k - \theta_0|`
    ``window_drift``             :math:`|\theta_k - \theta_{k-w}|`, w = ``window``; None while k < w
    ``parameter_norm``           :math:`|\theta_k|`
    ``update_norm``              :math:`|u_k|`
    ``gradient_norm_before``     :math:`|g_{k-1}|`, of the gradient that made the step
    ``gradient_norm``            :math:`|g_k|`
    ``gradient_difference_norm`` :math:`|g_k - g_{k-1}|`
    ``slope_before``, ``slope``  :math:`\langle u_k, g_{k-1} \rangle`, :math:`\langle u_k, g_k \rangle`
    ``inner``, ``cosine``        :math:`\langle u_k, g_k - g_{k-1} \rangle`, and over both lengths
    ``stage``                    of the four in the paper's Table 1, see :func:`valleys.landscape.recorder.stages.stage`
    ============================ ==========================================================================

    and for each parameter tensor the same lengths, :math:`|u_k| / |\theta_{k-1}|`, and with ALTO or Lamb the trust
    ratio that the step used. What needs :math:`g_k` is None until the next step brings it.

    The gradient is what ``step`` finds: of that step's batch, unscaled, clipped if the loop clips; with a closure, what
    its first evaluation leaves; with ``maximize``, its negative; 0 for a parameter without one. So :math:`g_k` and
    :math:`g_{k-1}` are of different batches, and their noise is in ``inner``: see docs/landscape/trajectory.md.

    Nothing of the training changes. A step that a GradScaler skips is none. Tensors are read in three of ``every``
    steps, and in no other. Positions are kept whole for up to 10,000,000 parameters, beyond that as ``projection``
    random numbers (the log says so), which only the two drifts are computed from.

    Args:
        optimizer: any ``torch.optim.Optimizer``, ours and adapted ones too. Attach after the last of its wrappers.
        model: gives its parameters' names to the layers. Default: None, ``group.number``, or the optimizer's own names.
        every: steps from one row to the next, at least 1. Default: None, 50, or 100 where positions are projected: both
            cost below 5 % of a step even where steps are cheap; 1 shows every step and costs fifty times that.
        window: w, at least 1; above ``every`` it takes a copy of the parameters (or a projection) for each ``every``.
            Default: 10.
        projection: numbers per position, at least 32; 0 keeps positions whole. Default: None, by the number of
            parameters: 0 up to 10,000,000, else 4096.
        per_layer: keep each tensor's numbers too. Default: True.
        path: keep the positions of the recorded steps, at most so many (at least 2): beyond that every second goes, and
            from then on every second comes. Default: None, none.
        seed: of the projection, in [0, 2^32). Default: 0.

    Returns:
        The recorder, attached. As a context manager it detaches itself at the end.

    Raises:
        TypeError: not a torch optimizer, or a wrapper without step hooks of its own.
        ValueError: a number out of range; sharded parameters.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> recorder = record(optimizer, every=1)
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     model(torch.ones(4, 2)).square().mean().backward()
        ...     optimizer.step()
        >>> [row["step"] for row in recorder.rows], recorder.rows[0]["stage"]
        ([1, 2, 3], '2-3')

    Source: Zhao et al. 2025 (arXiv 2510.27153), Table 1 and Fig. 3; the measurement: ours.
    """
    _check(optimizer, 1 if every is None else every, window, projection, path)
    if projection is None:
        count = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
        projection = 0 if count <= EXACT_LIMIT else _DIMENSION
        if projection:
            _log.warning(
                f"{count:,} parameters: positions are projected to {projection} numbers, so drift and window drift "
                f"have a standard error of {100 / math.sqrt(2 * projection):.1f} %; projection=0 keeps them whole"
            )
    if every is None:
        every = _PROJECTED_EVERY if projection else _EVERY
    settings = {"every": every, "window": window, "projection": projection, "seed": seed if projection else None}
    return Recorder(optimizer, model, {**settings, "per_layer": per_layer, "path": path})


class Recorder(AbstractContextManager["Recorder"]):
    """Recorder of an optimizer's steps, attached by :func:`record`."""

    def __init__(self, optimizer: Optimizer, model: nn.Module | None, settings: dict[str, Any]) -> None:
        self.every, self.window, self.per_layer = settings["every"], settings["window"], settings["per_layer"]
        self.projection = Projection(settings["projection"], settings["seed"]) if settings["projection"] else None
        self._settings = settings
        self._positions = Positions(self.every, self.window, self.projection, settings["path"])
        self._steps = Steps(optimizer, model, self.every, self.per_layer, self._positions)

    @property
    def step(self) -> int:
        """Steps made since the recorder was attached; those of a loaded state count."""
        return self._steps.count

    @property
    def exact(self) -> bool:
        """True if positions are kept whole."""
        return self.projection is None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per recorded step; see :func:`record`."""
        return [total_row(row) for row in self._steps.rows]

    @property
    def layers(self) -> list[dict[str, Any]]:
        """One dictionary per recorded step and parameter; empty without ``per_layer``."""
        return [line for row in self._steps.rows for line in layer_rows(row, self._steps.names)]

    def table(self, layers: bool = False) -> dict[str, list[Any]]:
        """The rows as columns.

        Args:
            layers: those of the parameters instead.

        Returns:
            A list for each column, as ``pandas.DataFrame`` or a plot takes them.
        """
        lines = self.layers if layers else self.rows
        return {name: [line[name] for line in lines] for name in (LAYER_COLUMNS if layers else COLUMNS)}

    def to_csv(self, path: str | FilePath, layers: bool = False) -> None:
        """Writes the rows as CSV, empty where there is no value.

        Args:
            path: the file.
            layers: the rows of the parameters instead.
        """
        text = io.StringIO()
        writer = csv.DictWriter(text, LAYER_COLUMNS if layers else COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.layers if layers else self.rows)
        FilePath(path).write_text(text.getvalue(), encoding="utf-8")

    def to_json(self, path: str | FilePath) -> None:
        """Writes how it was recorded, the rows, and those of the parameters, as JSON; NaN and infinity become null.

        Args:
            path: the file.
        """
        document = {"settings": dict(self._settings), "rows": self.rows, "layers": self.layers}
        finite = json.loads(json.dumps(document), parse_constant=lambda _: None)  # JSON knows neither infinity nor NaN
        FilePath(path).write_text(json.dumps(finite, indent=1) + "\n", encoding="utf-8")

    def path(self) -> Path:
        """The positions kept, the first at the start.

        Raises:
            ValueError: the recorder keeps none.
        """
        if self._positions.limit is None:
            raise ValueError("path: this recorder keeps no positions; record(..., path=200) keeps 200 at most")
        return self._positions.path()

    def memory(self) -> int:
        """Bytes that the recorder's tensors hold now."""
        return sum(x.numel() * x.element_size() for x in [*self._positions.tensors(), *self._steps.tensors()])

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs: plain data, and tensors that are not written to again."""
        return {
            "settings": dict(self._settings),
            "steps": self._steps.state_dict(),
            "positions": self._positions.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where another recorder was saved; together with model and optimizer, as if it had never stopped.

        Args:
            state: what :meth:`state_dict` returned.

        Raises:
            ValueError: it was recorded in another way, or for other parameters.
        """
        for name, value in state["settings"].items():
            present = self._settings[name]
            if present != value:
                raise ValueError(
                    f"{name}={present!r}: the state was recorded with {value!r}; attach with that to go on with it"
                )
        self._positions.load_state_dict(state["positions"])
        self._steps.load_state_dict(state["steps"])

    def remove(self) -> None:
        """Detaches: the optimizer is as it was. The rows stay; a last one without its next gradient stays so."""
        self._steps.remove()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        how = "exact" if self.exact else f"projected to {self._settings['projection']} numbers"
        return (
            f"Recorder(step={self.step}, rows={len(self._steps.rows)}, every={self.every}, window={self.window}, {how})"
        )


def _check(optimizer: object, every: int, window: int, projection: int | None, path: int | None) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer: a torch.optim.Optimizer is recorded, not {type(optimizer).__name__}")
    if not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        raise TypeError(
            f"optimizer: {type(optimizer).__name__} wraps another one and has no step hooks; record the one it wraps, "
            "usually its .optimizer"
        )
    for name, value, least, remedy in (
        ("every", every, 1, "1 records every step"),
        ("window", window, 1, "10 is the paper's"),
        ("projection", 32 if projection is None or projection == 0 else projection, 32, "0 keeps positions whole"),
        ("path", 2 if path is None else path, 2, "None keeps no positions"),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} {value!r}: choose an integer of at least {least}; {remedy}")
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            refuse_shards(parameter)
