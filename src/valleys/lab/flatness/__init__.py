"""How flat the minima are that a comparison's optimizers found: measured of the finished runs, shown in its report."""

from __future__ import annotations

from valleys.lab.flatness.measure import MEASURES, measure
from valleys.lab.flatness.table import Contrast, Flatness, FlatRow, tabulate

__all__ = ["MEASURES", "Contrast", "FlatRow", "Flatness", "measure", "tabulate"]
