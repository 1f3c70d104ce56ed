"""The benchmark's tables on a small problem: every row is there, and the text has the numbers of the JSON."""

import functools
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("analysis")
    monkeypatch.setattr(module, "HORIZONS", (10, 20))
    monkeypatch.setattr(module, "ROUNDS", (300, 600))
    monkeypatch.setattr(module, "VARIANTS", dict(list(module.VARIANTS.items())[1:2]))
    monkeypatch.setattr(module, "_variant", lambda *_: {"constant": (10.0, 5.0, 6.0), "cosine": (4.0, 3.0, 5.0)})
    # A target that is near: the shortest horizon is otherwise looked for among dozens.
    monkeypatch.setattr(module, "fewest_steps", functools.partial(module.fewest_steps, limit=200, target=0.3))
    monkeypatch.setattr(module, "shortest_horizon", functools.partial(module.shortest_horizon, target=0.3))
    return module


def test_every_table_is_written_with_the_numbers_that_were_found(small: Any, tmp_path: Path) -> None:
    small.main(["--out", str(tmp_path), "--budget", "0.02", "--batches", "1000", "100000"])
    text = (tmp_path / "README.md").read_text()
    numbers = json.loads((tmp_path / "analysis.json").read_text())
    assert numbers["batches"] == [1000, 100_000]
    for family in small.FAMILIES:
        steps = [f"{best['value']:.0f}" for best in numbers["constant"][family.name]]
        row = next(line for line in text.splitlines() if line.startswith(f"| {family.name} |"))
        assert [cell.split()[0] for cell in row.strip("| ").split(" | ")[1:]] == steps
    for schedule in small.DECAYS:
        assert set(numbers["decaying"][schedule]) == {family.name for family in small.DECAYED}
        section = text.split(f"### {schedule}\n")[1].split("###")[0]
        for name, row_ in numbers["decaying"][schedule].items():
            assert f"| {name} | " + " | ".join(str(cell["steps"]) for cell in row_) + " |" in section
    assert "| target 5% | 10.0 | 0.50 | 0.60 | 4.0 | 0.75 | 1.25 |" in text
    assert "39.8 | 0.02396 |" in text
    for word in ("exact", "noisy, fixed batch", "noisy, batch T", "quadratic", "linear", "rare"):
        assert f"\n| {word} | " in text
    assert {path.name for path in tmp_path.glob("*.png")} == {"steps.png", "region.png", "limits.png"}
    assert "commit" in text
    assert "processor time" in text
