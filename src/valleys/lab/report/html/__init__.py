"""One self-contained HTML page of one comparison or several: no network, and readable without JavaScript."""

from __future__ import annotations

from valleys.lab.report.html.page import merge, render, write

__all__ = ["merge", "render", "write"]
