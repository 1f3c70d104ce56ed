"""The README's and the documentation's Python runs as written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from valleys.lab.optimizers.recipe_files import recipes

ROOT = Path(__file__).parent.parent
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *(str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs").rglob("*.md")))]
ELSEWHERE = ["docs/trainers.md", "docs/distributed.md"]
"""Their blocks want trainers and ranks: tests/integrations/test_page.py."""


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.S)


PAGES = [page for page in DOCUMENTS if blocks(page) and page not in ELSEWHERE]


def theirs() -> None:
    """Leaves a checkpoint of the authors' ALTO for the model of the migration page in the working directory."""
    from ALTO import ALTO

    shapes = [(16, 8), (16,), (16,), (16,), (1, 16), (1,)]
    parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
    optimizer = ALTO(parameters, 0.01, (0.99, 0.9, 0.99), -5)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    torch.save({"optimizer": optimizer.state_dict()}, "theirs.pt")


def test_there_are_pages_to_run_and_no_block_is_left_out() -> None:
    assert len(PAGES) > 12
    for page in DOCUMENTS:
        kinds = re.findall(r"^```(.+)$", (ROOT / page).read_text(), flags=re.M)
        assert set(kinds) <= {"python", "yaml", "{eval-rst}", "{raw} html"}, (
            f"{page}: a block that is meant to run is called python"
        )


@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # What a page may take for granted: an optimizer and a model of the reader's own.
    names: dict[str, object] = {"MyOptimizer": type("MyOptimizer", (), {}), "model": torch.nn.Linear(4, 2)}
    if page == "docs/optax.md":
        pytest.importorskip("jax", reason="pip install 'valleys[jax]'")
    if page == "docs/migration.md":
        theirs()
    for block in blocks(page):
        exec(compile(block, page, "exec"), names)


def test_the_example_in_the_documentation_is_the_file_that_runs() -> None:
    assert (ROOT / "examples" / "my_task.py").read_text() in blocks("docs/lab.md")


def test_the_recipes_of_the_documentation_are_understood(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/lab.md").read_text(), flags=re.S)
    (tmp_path / "mine.yaml").write_text(text)
    table = recipes(1024, tmp_path / "mine.yaml")
    assert {"mine", "momentum-only", "nesterov", "plain"} <= table.keys()
    assert table["plain"].optimizer == "torch.optim.SGD"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 120


@pytest.mark.parametrize("page", DOCUMENTS)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target
