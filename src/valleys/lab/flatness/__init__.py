"""Flatness of the minima at which a comparison's finished runs ended."""

from __future__ import annotations

from valleys.lab.flatness.measure import MEASURES, measure
from valleys.lab.flatness.table import Contrast, Flatness, FlatRow, tabulate

__all__ = ["MEASURES", "Contrast", "FlatRow", "Flatness", "measure", "tabulate"]
