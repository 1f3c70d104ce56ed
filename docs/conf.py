"""Configuration of Sphinx, which makes the site of these pages: ``make docs``.

The source folder is the repository, not ``docs``: so pages, measured results and pictures stand in the site where they
stand in the repository, and the same relative link works in both.
"""

from __future__ import annotations

import importlib.util
import re
from types import FunctionType
from typing import TYPE_CHECKING

from docutils.nodes import Element, SkipNode
from latex2mathml.converter import convert

import valleys
from valleys.paper import playground

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator

project, author, release = "valleys", "the valleys contributors", valleys.__version__
copyright = author  # noqa: A001
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "benchmarks/results/**"]
exclude_patterns = [".*", "build", "dist", "runs", "src", "tests"]
html_static_path = ["_static"]
highlight_language = "text"
nitpicky = True
# Types of Python and of other packages, whose documentation is on other hosts.
nitpick_ignore_regex = [("py:.*", r"(torch|collections\.abc|numpy|pathlib|markupsafe|optuna|jax|optax|matplotlib)\..*")]
# Names that a module imports for type checkers alone; type variables; and classes that a signature names, of which
# users get instances but make none: these are in no ``__all__``.
nitpick_ignore = [
    ("py:class", name)
    for name in (
        *("Tensor", "nn.Module", "Optimizer", "LRScheduler", "Path", "Floats", "Attribution", "Table"),
        *("valleys.reference.T", "valleys.adaptor.OptimizerT", "valleys.lab.run.config.Self"),
        "valleys.lab.flatness.drawing.Minimum",
        "valleys.lab.report.summary.Row",
        "valleys.lab.report.table.Table",
        "valleys.lab.run.checkpoint.Checkpoint",
        "valleys.lab.tasks.data.cifar_files.Cifar",
        "valleys.landscape.curvature.hvp.SymmetricOperator",
        "valleys.landscape.recorder.positions.Path",
        "valleys.paper.results.Reproduction",
        "valleys.paper.theory.stability.Widest",
        "valleys.paper.walks.walkers.Family",
        "valleys.paper.walks.walkers.Preset",
    )
]

myst_heading_anchors = 6  # the anchors that GitHub makes, for links

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_mock_imports = [name for name in ("jax", "optax", "timm") if importlib.util.find_spec(name) is None]
autodoc_preserve_defaults = True
toc_object_entries_show_parents = "hide"
maximum_signature_line_length = 90
napoleon_custom_sections = ["Source"]
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"valleys {release}"
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = html_show_sourcelink = False

linkcheck_timeout, linkcheck_retries = 20, 2


def link_to_site(app: Sphinx, docname: str, source: list[str]) -> None:
    """Lead links to programs and modules in the repository to their place on the site."""
    text = re.sub(r"\]\((?:\.\./)+examples/(?:trainers/)?(\w+)(?:\.py)?\)", r"](#example-\1)", source[0])
    source[0] = re.sub(r"\]\((?:\.\./)+src/([\w/]+)(?:\.py)?\)", lambda m: f"](#{m[1].replace('/', '.')})", text)


def write_inline(self: HTML5Translator, node: Element) -> None:
    """Write a formula as MathML, which browsers show without scripts or fonts of another host."""
    self.body.append(convert(node.astext()))
    raise SkipNode


def write_block(self: HTML5Translator, node: Element) -> None:
    """Write a displayed formula, aligned at ``&`` if it has several lines."""
    text = " ".join(node.astext().split())  # Sphinx puts an empty line after the directive's own line
    if "&" in text or r"\\" in text:
        text = rf"\begin{{align*}} {text} \end{{align*}}"
    self.body.append(f'<div class="math">{convert(text, display="block")}</div>')
    raise SkipNode


def skip_documented(app: Sphinx, what: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """Leave out what has its place elsewhere: each name is where users import it from, and nowhere else."""
    if what == "class":  # a private function under a public name does what the base class documents
        return True if getattr(member, "__name__", "").startswith("_") else None
    home = member.__module__ if isinstance(member, type | FunctionType) else ""
    if what != "module" or not home.startswith("valleys.") or "._" in home:
        return None
    place = "valleys" if getattr(valleys, name, None) is member else home
    return None if place == app.env.temp_data.get("autodoc:module") else True


def add_heading(app: Sphinx, what: str, name: str, member: object, options: object, lines: list[str]) -> None:
    """Put a module's name above its docstring, which has no heading in Sphinx."""
    if what == "module":
        lines[:0] = [f".. rubric:: {name}", "   :heading-level: 2", ""]


def write_pages(app: Sphinx, error: Exception | None) -> None:
    """Write the playground beside the page that shows it, and an entrance to the site."""
    if error is None and app.builder.format == "html":
        playground.write(app.outdir / "docs" / "playground-frame.html")
        entrance = '<!DOCTYPE html><title>valleys</title><meta http-equiv="refresh" content="0; url=docs/index.html">'
        (app.outdir / "index.html").write_text(f'{entrance}<a href="docs/index.html">valleys</a>\n', encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Register what this file adds to Sphinx."""
    app.add_html_math_renderer("mathml", (write_inline, None), (write_block, None))
    app.connect("source-read", link_to_site)
    app.connect("autodoc-skip-member", skip_documented)
    app.connect("autodoc-process-docstring", add_heading)
    app.connect("build-finished", write_pages)
