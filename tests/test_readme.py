"""The README's and the documentation's Python runs as written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    *(
        f"docs/{name}.md"
        for name in (
            "index",
            "how-it-works",
            "choosing",
            "migration",
            "optax",
            "trainers",
            "lab",
            "analysis",
            "playground",
        )
    ),
]
PAGES += [f"docs/landscape/{path.name}" for path in sorted((ROOT / "docs/landscape").glob("*.md"))]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.S)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"MyOptimizer": type("MyOptimizer", (), {})}
    found = blocks(page)
    assert found
    for block in found:
        exec(compile(block, page, "exec"), names)


def test_the_example_in_the_documentation_is_the_file_that_runs() -> None:
    assert (ROOT / "examples" / "my_task.py").read_text() in blocks("docs/lab.md")


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 120


@pytest.mark.parametrize(
    "page", ["README.md", *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        # The site has the benchmarks' results beside its pages; tests/test_website.py follows its links.
        if not target.startswith(("http", "results/")):
            assert (path.parent / target).exists(), target
