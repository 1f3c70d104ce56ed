"""The documentation site builds strictly, leads nowhere wrong, and leaves no public name out."""

from __future__ import annotations

import html
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("zensical", reason="the site wants pip install 'valleys[docs]'")
import griffe

ROOT = Path(__file__).parents[1]


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"website_{name}", ROOT / "website" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


website, docstrings = load("build"), load("docstrings")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("website")
    assert website.build(out) == []
    return out / "site"


def test_it_builds_strictly_and_every_public_name_has_its_place(site: Path) -> None:
    text = "".join(page.read_text() for page in (site / "api").glob("*.html"))
    anchors = set(re.findall(r'id="(valleys[^"]*)"', text))
    package = griffe.load("valleys", search_paths=[ROOT / "src"])
    assert isinstance(package, griffe.Module)
    paths = {path for module in website._modules(package) for path, _ in website._own(module)}
    assert len(paths) > 300
    assert paths - anchors == set()


def test_every_page_of_the_documentation_is_on_the_site_and_in_its_menu(site: Path) -> None:
    menu = (site / "index.html").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        path = page.relative_to(ROOT / "docs").with_suffix(".html")
        assert (site / path).exists()
        assert path.name in menu, f"{path} is not in website/zensical.toml"


def test_formulas_and_links_between_docstrings_are_rendered(site: Path) -> None:
    text = (site / "api" / "optimizers.html").read_text()
    assert text.count('display="block"') > 5
    assert not re.findall(r"<m[a-z]+[^>]*>[^<]*(?:&amp;|\\\\)[^<]*</m", text)
    assert ".. math::" not in text
    assert not re.search(r":(func|class|math|meth|mod|data):", text)
    assert 'href="#valleys.groups.param_groups"' in text
    assert "&gt;&gt;&gt;" in text
    # A Returns of two lines is one thing.
    assert re.search(r"g is zero or infinite,\s+without limits", (site / "api" / "statistics.html").read_text())


def test_it_needs_nothing_from_another_host(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|iframe)[^>]*\ssrc="([^"]+)"|<link[^>]*rel="stylesheet"[^>]*href="([^"]+)"',
            page.read_text(),
        )
        assert not [part for pair in loaded for part in pair if part.startswith(("http", "//"))], page


def test_results_that_the_pages_quote_are_there(site: Path) -> None:
    assert (site / "results" / "comparisons" / "README.html").exists() or (
        site / "results" / "comparisons" / "index.html"
    ).exists()
    assert (site / "results" / "analysis" / "limits.png").exists()


def test_every_example_is_there_whole(site: Path) -> None:
    text = (site / "examples.html").read_text()
    programs = sorted((ROOT / "examples").rglob("*.py"))
    assert len(programs) == len(website._examples()) > 9
    for program in programs:
        section = re.search(rf'id="{program.stem}".*?<pre>(.*?)</pre>', text, flags=re.S)
        assert section is not None
        content = html.unescape(re.sub("<[^>]+>", "", section[1]))
        assert content.strip() == program.read_text().strip()
    assert 'href="examples.html#fsdp2"' in (site / "trainers.html").read_text()


def test_a_name_without_a_docstring_is_found(tmp_path: Path) -> None:
    package = tmp_path / "bare"
    package.mkdir()
    (package / "__init__.py").write_text(
        '"""A package."""\n__all__ = ["A", "B", "f"]\nB = 1\n"""A constant."""\n\n\ndef f(): ...\n\n\n'
        'class A:\n    """A class."""\n\n    def told(self):\n        """A method."""\n\n    def bare(self): ...\n'
    )
    (package / "other.py").write_text("x = 1\n")
    (package / "_private.py").write_text("x = 1\n")
    loaded = griffe.load("bare", search_paths=[tmp_path])
    assert isinstance(loaded, griffe.Module)
    assert sorted(website.undocumented(loaded)) == ["bare.A.bare", "bare.f", "bare.other"]


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<h1 id="top">a</h1><a href="b.html#there">b</a><a href="#top">here</a><a href="https://example.org">out</a>'
        '<a href="b.html#gone">b</a><a href="c.html">c</a><a href="#bottom">d</a><img alt="" src="https://x.org/y.png">'
    )
    (tmp_path / "b.html").write_text('<p id="there"></p>')
    assert sorted(website.broken_links(tmp_path)) == [
        ("a.html", "#bottom"),
        ("a.html", "b.html#gone"),
        ("a.html", "c.html"),
        ("a.html", "https://x.org/y.png"),
    ]


def test_markup_of_docstrings_becomes_markdown() -> None:
    text = docstrings.markdown(
        "One.\n\n.. math::\n    a &= b \\\\\n    c &= d\n\nof :math:`x_1`\n\n"
        "    == ===\n    a  b c\n    == ===\n    1  2\n    == ===\n"
    )
    assert "<mtable" in text
    assert "<mi>&" not in text  # the columns' marks are no symbols
    assert "<mtable" in docstrings.markdown(".. math:: a &= b")
    assert 'display="inline"' in text
    assert "    | a | b c |\n    | --- | --- |\n    | 1 | 2 |" in text
    assert docstrings.markdown("see :func:`f`", {"f": "p.f"}.get) == "see [`f`][p.f]"
    assert docstrings.markdown("see :mod:`~a.f`", {"a.f": None}.get) == "see `f`"


def test_links_out_of_the_documentation_lead_to_what_the_site_has(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    page = docs / "landscape" / "walks.md"
    text = (
        "[t](../../benchmarks/results/walks/README.md#a) ![p](../images/walks/f1.png) "
        "[c](../../src/valleys/alto.py) [e](../../examples/my_task.py) [h](https://a.b) "
        "[all](../../examples/trainers) [u](../../tests/test_alto.py)"
    )
    assert website._rewritten(text, page, docs) == (
        "[t](../results/walks/README.md#a) ![p](../images/walks/f1.png) [c](../api/optimizers.md) "
        "[e](../examples.md#my_task) [h](https://a.b) [all](../examples.md) u"
    )
