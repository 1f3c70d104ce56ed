"""The documentation builds without a warning, leads nowhere wrong, and has every public name once."""

from __future__ import annotations

import ast
import html
import importlib
import os
import re
import shutil
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from chromium import BINARY, Tab, running

pytest.importorskip("sphinx", reason="the site wants pip install 'valleys[docs]'")

ROOT = Path(__file__).resolve().parents[1]
KINDS = {"py:class", "py:function", "py:data", "py:exception", "py:method", "py:property", "py:attribute"}
SOURCES = ("docs", "examples", "benchmarks/results")
# Links between the folders of a page, as Sphinx and Furo write them; the query names a version of a style.
LINK = re.compile(r'<[a-z]+\b[^>]*?\s(href|src)="([^"?]*)(?:\?[^"]*)?"')

# Without the objects in the lists of contents, whose links Sphinx makes itself: a sixth of the time.
QUICK = ("-D", "toc_object_entries=0")

pytestmark = pytest.mark.timeout(1200)  # the first test builds all pages


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkout = tmp_path_factory.mktemp("website")
    for name in SOURCES:
        shutil.copytree(ROOT / name, checkout / name)
    for path in [*ROOT.glob("*.md"), ROOT / "LICENSE"]:
        shutil.copy(path, checkout)
    for name in ("src", "benchmarks/evidence", "tests"):
        (checkout / name).symlink_to(ROOT / name)
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-W",
            "--keep-going",
            "-q",
            *QUICK,
            "-c",
            "docs",
            "-d",
            "build/doctrees",
            ".",
            "site",
        ],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, "")
    return checkout / "site"


@pytest.fixture(scope="module")
def documented(site: Path) -> dict[str, str]:
    """Names of the API pages and their kinds, from Sphinx's inventory; second names of the same thing are left out."""
    body = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    entries = [line.split(" ", 3) for line in zlib.decompress(body).decode().splitlines()]
    return {name: kind for name, kind, rank, _ in entries if kind in KINDS and rank != "-1"}


def public_names(package: Path) -> set[str]:
    """The place of each public name: where users import it from, else the module that defines it."""
    own, homes = set(), {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        module = ".".join(part for part in parts if part != "__init__")
        if "._" in module:
            continue
        body = ast.parse(path.read_text()).body
        body += [line for node in body if isinstance(node, ast.If) for line in node.body]  # if TYPE_CHECKING
        imports = {a.asname or a.name: i.module or "" for i in body if isinstance(i, ast.ImportFrom) for a in i.names}
        for node in body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                for name in ast.literal_eval(node.value):
                    home = imports.get(name, "")
                    if not home.startswith(package.name) or "._" in home:
                        own.add(f"{module}.{name}")
                    elif module == package.name and home != package.name:
                        homes[f"{home}.{name}"] = f"{module}.{name}"
    return own - homes.keys() | set(homes.values())


def broken_links(site: Path) -> Iterator[tuple[str, str]]:
    """Pairs of page and target: links, pictures and anchors that do not exist, or pictures of another host."""
    pages = {page.resolve(): page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    anchors = {page: set(re.findall(r'\s(?:id|name)="([^"]+)"', text)) for page, text in pages.items()}
    for page, text in pages.items():
        for attribute, raw in LINK.findall(text):
            target, anchor = urldefrag(unquote(html.unescape(raw)))
            outside = re.match(r"[a-z]+:|//", target)
            file = (page.parent / target).resolve() if target else page
            missing = not file.is_file() or (anchor and file in anchors and anchor not in anchors[file])
            if (attribute == "src" and not target.startswith("data:")) if outside else missing:
                yield str(page.relative_to(site.resolve())), raw


def test_every_public_name_is_documented_once(site: Path, documented: dict[str, str]) -> None:
    names = public_names(ROOT / "src" / "valleys")
    assert len(names) > 250
    assert {name for name in documented if name.rpartition(".")[0] not in documented} == names
    pages = [page.read_text() for page in site.rglob("*.html")]
    ids = Counter(name for page in pages for name in re.findall(r'<dt class="sig[^>]*\sid="([^"]+)', page))
    assert not [name for name, times in ids.items() if times > 1]


def test_every_public_method_is_documented(documented: dict[str, str]) -> None:
    lacking = []
    for name, kind in documented.items():
        if kind in ("py:class", "py:exception"):
            module, _, cls = name.rpartition(".")
            for member, value in vars(getattr(importlib.import_module(module), cls)).items():
                code = getattr(value, "fget", None) or getattr(value, "__func__", value)
                if not member.startswith("_") and getattr(code, "__name__", "_")[0] != "_" and callable(code):
                    lacking += [f"{name}.{member}"] * (f"{name}.{member}" not in documented)
    assert lacking == []
    assert "valleys.ALTO.trust_ratios" in documented


def test_no_link_is_broken(site: Path) -> None:
    assert list(broken_links(site)) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<h1 id="top">a</h1><a href="b.html#x">b</a><a href="#top">here</a><a href="https://example.org">out</a>'
        '<a href="b.html#gone">b</a><a href="c.html">c</a><a href="#bottom">d</a><img alt="" src="https://x.org/y.png">'
    )
    (tmp_path / "b.html").write_text('<p id="x"></p><link href="a.html?v=1"><link href="s.css?v=1">')
    assert sorted(broken_links(tmp_path)) == [
        ("a.html", "#bottom"),
        ("a.html", "b.html#gone"),
        ("a.html", "c.html"),
        ("a.html", "https://x.org/y.png"),
        ("b.html", "s.css"),
    ]


def test_every_page_is_in_the_menu(site: Path) -> None:
    menu = (site / "docs" / "index.html").read_text()
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks" / "results").rglob("*.md")]:
        pages = page.relative_to(ROOT).with_suffix(".html")
        assert (site / pages).exists()
        link = os.path.relpath(pages, "docs") if page.name != "index.md" else "#"
        assert f'href="{link}"' in menu, f"{pages} is not in docs/toctree.txt"


def test_links_to_programs_and_modules_lead_to_their_pages(site: Path) -> None:
    trainers = (site / "docs" / "trainers.html").read_text()
    assert 'href="examples.html#example-fsdp2"' in trainers
    assert 'href="examples.html#example-trainers"' in trainers
    assert 'href="api/optimizers.html#module-valleys.reference"' in (site / "docs" / "playground.html").read_text()


def test_every_example_is_there_whole(site: Path) -> None:
    text = (site / "docs" / "examples.html").read_text()
    programs = sorted((ROOT / "examples").rglob("*.py"))
    assert len(programs) > 9
    for program in programs:
        section = re.search(rf'id="example-{program.stem.replace("_", "-")}".*?<pre>(.*?)</pre>', text, flags=re.S)
        assert section is not None, program
        assert html.unescape(re.sub("<[^>]+>", "", section[1])).strip() == program.read_text().strip()


def test_formulas_and_links_between_docstrings_are_rendered(site: Path) -> None:
    pages = {page.name: page.read_text() for page in (site / "docs" / "api").glob("*.html")}
    text = pages["optimizers.html"]
    assert text.count('display="block"') > 3
    assert 'href="#valleys.param_groups"' in text
    assert "&gt;&gt;&gt;" in text
    for name, page in pages.items():
        assert not re.search(r":(func|class|math|meth|mod|data):`|\.\. math::", page), name
        assert not re.findall(r"<m[a-z]+[^>]*>[^<]*(?:&amp;|\\)[^<]*</m", page), name


def test_it_needs_nothing_from_another_host(site: Path) -> None:
    loaded = r'<(?:script|img|iframe)[^>]*\ssrc="([^"]+)"|<link[^>]*rel="stylesheet"[^>]*href="([^"]+)"'
    for page in site.rglob("*.html"):
        for pair in re.findall(loaded, page.read_text()):
            assert not [part for part in pair if part.startswith(("http", "//"))], page


@pytest.mark.skipif(BINARY is None, reason="needs Chromium")
def test_pages_work_without_a_server(site: Path, tmp_path: Path) -> None:
    with running(tmp_path) as browser:
        start = Tab(browser, site / "index.html")
        start.page.wait_for_url("**/docs/index.html")
        tab = Tab(browser, site / "docs" / "playground.html")
        frame = tab.page.frame_locator("iframe.playground")
        frame.locator("#summary").wait_for(state="attached")
        assert frame.locator("#presets button").count() > 3
        assert tab.complaints() == []
        assert not [url for url in tab.requests() if not url.startswith(("file:", "data:"))]
