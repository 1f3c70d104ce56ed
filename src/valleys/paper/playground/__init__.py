"""One self-contained page: drag alpha, beta1 and lr, and watch an optimizer beside its plain twin."""

from __future__ import annotations

from valleys.paper.playground.page import render, write

__all__ = ["render", "write"]
