"""The paper's results (Zhao et al. 2025, arXiv 2510.27153) as data, and the experiments that repeat them."""

from __future__ import annotations

from valleys.lab.paper.model import Cell, Method, Setting, Table
from valleys.lab.paper.numbers import TABLES, find
from valleys.lab.paper.reproduce import PRESETS, reproduce
from valleys.lab.paper.results import Contrast, Outcome, Reproduction

__all__ = [
    "PRESETS",
    "TABLES",
    "Cell",
    "Contrast",
    "Method",
    "Outcome",
    "Reproduction",
    "Setting",
    "Table",
    "find",
    "reproduce",
]
