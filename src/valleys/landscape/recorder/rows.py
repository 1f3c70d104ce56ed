"""Rows of a recorder: sums on the device until they are read, then numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from valleys.landscape.recorder.stages import stage

_DRIFTS = ("drift", "window_drift")
_GRADIENTS = ("gradient_norm", "gradient_difference_norm")
_NORMS = (*_DRIFTS, "parameter_norm", "update_norm", "gradient_norm_before", *_GRADIENTS)
_STEPS = ("parameter_norm", "update_norm", "relative_update", "trust_ratio")
COLUMNS = ("step", "lr", *_NORMS, "slope_before", "slope", "inner", "cosine", "stage")
LAYER_COLUMNS = ("step", "layer", "lr", *_STEPS, *_DRIFTS, *_GRADIENTS, "inner", "cosine")
_SQUARES = ("drift", "_norm", "_norm_before")  # endings of what is kept as squares, which add up over the layers


class Row:
    """One recorded step, with each parameter's learning rate, and its sums or only those over all parameters."""

    def __init__(self, step: int, lrs: Sequence[float], keep_layers: bool) -> None:
        self.step, self.lrs, self.keep_layers = step, list(lrs), keep_layers
        self.totals: dict[str, float] = {}
        self.layers: dict[str, Tensor] = {}
        self._waiting: list[tuple[list[str], Tensor, bool]] = []

    def put(self, names: Sequence[str], sums: Tensor, layered: bool = True) -> None:
        """Take sums without reading them: named rows, with a column per parameter or, not ``layered``, one for all."""
        if not self.keep_layers:
            sums = sums.sum(1, keepdim=True)
        self._waiting.append((list(names), sums, layered and self.keep_layers))

    def fetch(self) -> None:
        """Read the sums, for which a device must catch up."""
        for names, sums, layered in self._waiting:
            here = sums.cpu().double()
            for name, values in zip(names, here, strict=True):
                if name != "trust_ratio":
                    self.totals[name] = float(values.sum())
                if layered:
                    self.layers[name] = values.clone()
        self._waiting.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the row as plain data, for :meth:`from_state`."""
        self.fetch()
        return {"step": self.step, "lrs": self.lrs, "totals": dict(self.totals), "layers": dict(self.layers)}

    @classmethod
    def from_state(cls, state: dict[str, Any], keep_layers: bool) -> Row:
        """Return a saved row."""
        row = cls(state["step"], state["lrs"], keep_layers)
        row.totals, row.layers = dict(state["totals"]), dict(state["layers"])
        return row


def total_row(row: Row) -> dict[str, Any]:
    """Return a row's columns over all parameters; None for what is not known (yet)."""
    row.fetch()
    values = _values(row.totals)
    slope, inner = values.get("slope"), values.get("inner")
    values["stage"] = None if slope is None or inner is None else stage(slope, inner)
    return {"step": row.step, "lr": row.lrs[0], **{name: values.get(name) for name in COLUMNS[2:]}}


def layer_rows(row: Row, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row's columns for each parameter."""
    row.fetch()
    result = []
    count = max((len(values) for values in row.layers.values()), default=0)
    columns = {name: values.tolist() for name, values in row.layers.items()}
    for number in range(count):
        values = _values({name: column[number] for name, column in columns.items()})
        cells = {name: values.get(name) for name in LAYER_COLUMNS[3:]}
        result.append({"step": row.step, "layer": names[number], "lr": row.lrs[number], **cells})
    return result


def _values(sums: dict[str, float]) -> dict[str, Any]:
    """From sums of squares to norms, and what follows from several of them."""
    values: dict[str, Any] = {name: math.sqrt(x) if name.endswith(_SQUARES) else x for name, x in sums.items()}
    if "inner" in values:
        # Of the three the only one that two others make without cancellation.
        values["slope"] = values["slope_before"] + values["inner"]
    if math.isnan(values.get("trust_ratio", 0.0)):
        values["trust_ratio"] = None
    values["relative_update"] = _ratio(values.get("update_norm"), values.get("parameter_norm_before"))
    update, difference = values.get("update_norm"), values.get("gradient_difference_norm")
    lengths = None if update is None or difference is None else update * difference
    values["cosine"] = _ratio(values.get("inner"), lengths)
    return values


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None or b == 0 else a / b
