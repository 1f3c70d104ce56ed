"""Builds the documentation site, strictly: ``python website/build.py`` writes it to ``build/site``.

The pages of ``docs``, the measured results they link to, and an API page per package, made from the modules. A broken
link, a public name without a docstring, or a warning of the site's generator ends the build.
"""

from __future__ import annotations

import argparse
import html
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urldefrag

import griffe

__all__ = ["broken_links", "build", "main", "public_modules", "stage", "undocumented"]

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples" / "trainers"

SUBJECTS = {
    "optimizers": (
        "Optimizers",
        ["adaptor", "alto", "alpha_schedule", "groups", "blocks", "hyperparameters", "release", "reference"],
    ),
    "kernels": ("Kernels", ["kernels"]),
    "optax": ("optax", ["optax"]),
    "landscape": ("Landscape", ["landscape"]),
    "paper": ("The paper", ["paper"]),
    "comparisons": ("Lab: comparisons", ["lab"]),
    "statistics": ("Lab: statistics", ["lab.statistics"]),
    "tasks": ("Lab: tasks and networks", ["lab.tasks"]),
    "reports": ("Lab: reports", ["lab.report", "lab.flatness"]),
    "command": ("Command and integrations", ["cli", "doctor", "integrations"]),
}
"""API pages: file, title, and the modules or packages on it; a longer name takes its part out of a shorter one."""


def main() -> None:
    """Builds and says where the site is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="folder of the staged pages and of the site")
    problems = build(parser.parse_args().out)
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    sys.exit(1 if problems else 0)


def build(out: Path) -> list[str]:
    """Stages the pages, makes the site, and looks for what is wrong with it.

    Args:
        out: folder; what an earlier build left there is replaced.

    Returns:
        One line for each problem; empty if the site is as it should be.
    """
    package = griffe.load("valleys", search_paths=[ROOT / "src"], resolve_aliases=True)
    assert isinstance(package, griffe.Module)
    problems = [f"{path}: a public name without a docstring" for path in undocumented(package)]
    stage(out, public_modules(package))
    process = subprocess.run(  # noqa: S603
        [Path(sys.executable).with_name("zensical"), "build", "--clean", "--strict"],
        cwd=out,
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode != 0:
        return [*problems, re.sub(r"\x1b\[[0-9;]*m", "", process.stdout + process.stderr)]
    return problems + [f"{page}: leads nowhere: {link}" for page, link in broken_links(out / "site")]


def stage(out: Path, modules: list[str]) -> None:
    """Lays out what the generator reads.

    Args:
        out: folder.
        modules: public modules; each gets its place on an API page.
    """
    for name in ("docs", "site"):
        shutil.rmtree(out / name, ignore_errors=True)
    shutil.copytree(ROOT / "docs", out / "docs")
    for name in ("src", "website"):
        (out / name).unlink(missing_ok=True)
        (out / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "website" / "zensical.toml", out / "zensical.toml")
    shutil.copy(ROOT / "website" / "site.css", out / "docs" / "site.css")
    shutil.copy(ROOT / "CHANGELOG.md", out / "docs" / "changelog.md")
    for source in (ROOT / "benchmarks" / "results").rglob("*"):
        if source.suffix in (".md", ".png"):
            copy = out / "docs" / "results" / source.relative_to(ROOT / "benchmarks" / "results")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)
    programs = (f"## {p.name} {{ #{p.stem} }}\n\n```python\n{p.read_text(encoding='utf-8')}```\n" for p in _examples())
    text = "# Examples\n\nWhole programs, which the tests run as they are.\n\n" + "\n".join(programs)
    (out / "docs" / "examples.md").write_text(text, encoding="utf-8")
    for page in (out / "docs").rglob("*.md"):
        page.write_text(_rewritten(page.read_text(encoding="utf-8"), page, out / "docs"), encoding="utf-8")
    for name, (title, members) in SUBJECTS.items():
        own = sorted((module for module in modules if _subject(module) == name), key=lambda m: _place(m, members))
        blocks = [f"::: {module}" for module in own]
        if blocks:
            text = f"# {title}\n\n" + "\n\n".join(blocks) + "\n"
            (out / "docs" / "api").mkdir(exist_ok=True)
            (out / "docs" / "api" / f"{name}.md").write_text(text, encoding="utf-8")


def public_modules(package: griffe.Module) -> list[str]:
    """The paths of all modules that define public names of their own.

    Args:
        package: with its modules.
    """
    return [module.path for module in _modules(package) if any(True for _ in _own(module))]


def undocumented(package: griffe.Module) -> list[str]:
    """The paths of public modules, names and methods without a docstring; a module without ``__all__`` is internal.

    Args:
        package: with its modules.
    """
    lacking = []
    for module in _modules(package):
        if module.docstring is None:
            lacking.append(module.path)
        for path, thing in _own(module):
            members = thing.members.values() if thing.is_class else ()
            methods = [m for m in members if not m.is_alias and m.is_function and not m.name.startswith("_")]
            lacking += [path] * (thing.docstring is None)
            lacking += [f"{path}.{method.name}" for method in methods if method.docstring is None]
    return lacking


def broken_links(site: Path) -> Iterator[tuple[str, str]]:
    """Links, pictures and anchors of the built pages that do not exist, or are on another host's pictures or scripts.

    Args:
        site: folder of the pages.

    Returns:
        Pairs of page and target.
    """
    pages = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    anchors = {page: set(re.findall(r'\sid="([^"]+)"', text)) for page, text in pages.items()}
    for page, text in pages.items():
        name = str(page.relative_to(site))
        for attribute, raw in re.findall(r'<[a-z]+\b[^>]*?\s(href|src)="([^"]*)"', text):
            target, anchor = urldefrag(unquote(html.unescape(raw)))
            if re.match(r"[a-z]+:|//", target):
                if attribute == "src":
                    yield name, raw
                continue
            base = site if target.startswith("/") else page.parent
            file = (base / target.lstrip("/")).resolve() if target else page
            file = file / "index.html" if file.is_dir() else file
            missing = not file.exists() or (anchor and file in anchors and html.unescape(anchor) not in anchors[file])
            # The page of a missing page has no place of its own.
            if missing and name != "404.html":
                yield name, raw


def _modules(package: griffe.Module) -> Iterator[griffe.Module]:
    yield package
    for name, module in package.modules.items():
        if not name.startswith("_") and not module.is_alias:
            yield from _modules(module)


def _own(module: griffe.Module) -> Iterator[tuple[str, griffe.Object]]:
    """The public names that a module defines, or hands on from a private module; not those that another page has.

    Returns:
        Pairs of the public path and the thing.
    """
    for export in module.exports or ():
        thing = module.members.get(str(export))
        if thing is not None and thing.is_alias:
            path = thing.target_path  # type: ignore[union-attr]
            inside = path.startswith("valleys.") and any(part.startswith("_") for part in path.split("."))
            thing = thing.final_target if inside else None  # type: ignore[union-attr]
        if thing is not None and not thing.is_module:
            yield f"{module.path}.{export}", thing  # type: ignore[misc]


def _subject(module: str) -> str | None:
    name = module.removeprefix("valleys").lstrip(".")
    matches = {
        len(member): subject
        for subject, (_, members) in SUBJECTS.items()
        for member in members
        if name == member or name.startswith(f"{member}.")
    }
    return matches[max(matches)] if matches else None


def _place(module: str, members: list[str]) -> tuple[int, str]:
    """In the order of the subject's members, and by name within one."""
    name = module.removeprefix("valleys.")
    return next((i for i, member in enumerate(members) if name == member or name.startswith(f"{member}.")), -1), name


def _rewritten(text: str, page: Path, docs: Path) -> str:
    """Links out of ``docs``, which readers of the repository follow, to the place that the site has for them."""

    def target(found: re.Match[str]) -> str:
        raw, _, anchor = found[2].partition("#")
        if not raw or re.match(r"[a-z]+:", raw):
            return found[0]
        # Where the page and what it links to are in the repository.
        here = page.relative_to(docs)
        home = ROOT / "benchmarks" / here if here.parts[0] == "results" else ROOT / "docs" / here
        goal = (home.parent / raw).resolve()
        for folder, place in ((ROOT / "docs", docs), (ROOT / "benchmarks" / "results", docs / "results")):
            if goal.is_relative_to(folder):
                new = place / goal.relative_to(folder)
                new = new / "README.md" if new.is_dir() else new
                return f"{found[1]}({_relative(new, page)}{'#' + anchor if anchor else ''})"
        if goal.is_relative_to(ROOT / "src"):
            module = ".".join(goal.relative_to(ROOT / "src").with_suffix("").parts)
            return f"{found[1]}({_relative(docs / 'api' / f'{_subject(module)}.md', page)})"
        if goal == EXAMPLES or goal in _examples():
            anchor = f"#{goal.stem}" if goal in _examples() else ""
            return f"{found[1]}({_relative(docs / 'examples.md', page)}{anchor})"
        # Tests and code of benchmarks are in the repository only.
        return found[1][1:-1] if found[1].startswith("[") else found[0]

    return re.sub(r"(!?\[[^\]]*\])\(([^)\s]+)\)", target, text)


def _examples() -> list[Path]:
    """Programs of the examples page; what the trainers' share comes before them."""
    shared = EXAMPLES / "digits.py"
    return [*sorted(EXAMPLES.parent.glob("*.py")), shared, *sorted(p for p in EXAMPLES.glob("*.py") if p != shared)]


def _relative(goal: Path, page: Path) -> str:
    ups = 0
    folder = page.parent
    while not goal.is_relative_to(folder):
        folder, ups = folder.parent, ups + 1
    return "/".join([*[".."] * ups, goal.relative_to(folder).as_posix()])


if __name__ == "__main__":
    main()
