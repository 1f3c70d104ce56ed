"""The evidence: committed pages say what the committed numbers say, and the flatness benchmark counts right."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def test_the_overview_is_made_of_the_committed_reports(load: Any) -> None:
    comparisons = load("comparisons")
    assert (comparisons.RESULTS / "README.md").read_text() == comparisons.overview()
    assert all((comparisons.RESULTS / name / "report.json").exists() for name in comparisons.STUDIES)


def test_the_page_on_e_quotes_the_verdicts_of_the_comparisons(load: Any) -> None:
    comparisons = load("comparisons")
    text = " ".join((ROOT / "docs/when-e-matters.md").read_text().split())
    for name in comparisons.STUDIES:
        document = json.loads((comparisons.RESULTS / name / "report.json").read_text())
        assert f'"{document["verdicts"][0]["sentence"]}."' in text


def test_the_page_on_choosing_quotes_what_adamw_s_learning_rate_did() -> None:
    report = json.loads((ROOT / "benchmarks/results/comparisons/fashion-16384-short/report.json").read_text())
    runs = [(n, run) for n, entry in enumerate(report["rounds"]) for run in entry["runs"] if run["phase"] == "tuning"]
    adamw, adapted = (
        {(n, str(run["hyperparameters"])): run["validation"] for n, run in runs if run["optimizer"] == name}
        for name in ("adamw", "eadamw")
    )
    text = " ".join((ROOT / "docs/choosing.md").read_text().split())
    assert f"The {len(adamw)} points" in text
    assert f"from {min(adamw.values()):.1f} % to {max(adamw.values()):.1f} % on Fashion-MNIST" in text
    assert f"never more than {max(abs(adapted[key] - adamw[key]) for key in adamw):.1f} points away" in text


def test_the_page_of_the_headline_is_made_of_the_committed_runs(load: Any) -> None:
    headline = load("headline")
    assert (headline.RESULTS / "README.md").read_text() == headline.overview()
    for database in headline.RESULTS.rglob("comparison.db"):
        assert headline.finished(database)
        assert b'"/' not in database.read_bytes(), "a path of the machine that made it"


@pytest.mark.parametrize("page", ["README.md", "docs/reproduction.md"])
def test_pages_quote_the_sentence_of_the_headline(page: str) -> None:
    folder = ROOT / "benchmarks/results/headline"
    text = " ".join((ROOT / page).read_text().split())
    assert f'"{json.loads((folder / "fortieth/attribution.json").read_text())["sentence"]}."' in text
    if page.startswith("docs"):
        starts = ("| from ", "| ALTO - ", "| without a - ")
        arms = [line for line in (folder / "README.md").read_text().splitlines() if line.startswith(starts)]
        assert len(arms) == 4 + 5
        assert all(line in (ROOT / page).read_text() for line in arms)


def test_the_readme_quotes_the_tenth() -> None:
    document = json.loads((ROOT / "benchmarks/results/headline/tenth/reproduce.json").read_text())
    differences = {(order["first"], order["second"]): order["ours"] for order in document["orders"]}
    text = " ".join((ROOT / "README.md").read_text().split())
    for second, name, form in (
        ("LAMB", "LAMB", "95 % interval {}, which excludes +5.27"),
        ("without a", "ALTO without E", "{}"),
    ):
        difference = differences["ALTO", second]
        low, high = difference["mean"] - difference["half_width"], difference["mean"] + difference["half_width"]
        assert f"ALTO - {name} is {difference['mean']:.2f}" in text
        assert f"({form.format(f'{low:+.2f} to {high:+.2f}')})" in text
        assert high < 5.27 or second != "LAMB"
    assert "On a tenth, where all arms leave them out, 4 seeds" in text
    assert document["seeds"] == 4


def test_the_arms_of_the_headline_are_the_papers(load: Any) -> None:
    headline = load("headline")
    recipes = {
        r["name"]: r["settings"]
        for r in json.loads((headline.RESULTS / "fortieth/attribution.json").read_text())["recipes"]
    }
    settings = {arm: recipes[headline._recipe(switches)] for arm, switches in headline.ARMS.items()}
    columns = ("beta3", "bias_correction", "E")
    assert {arm: tuple(of[name] for name in columns) for arm, of in settings.items()} == {
        "LAMB": (0.999, True, "off"),
        "ALTO without E and bias correction": (0.99, False, "off"),
        "ALTO without E": (0.99, True, "off"),
        "ALTO": (0.99, True, [-5.0, 0.99]),
    }
    assert all(of["norms_and_biases"] == "excluded" for of in settings.values())


def test_the_runs_of_the_headline_go_on_elsewhere(load: Any, tmp_path: Path) -> None:
    committed, runs = load("headline").RESULTS / "fortieth", load("finished_runs")
    runs.restore(committed, tmp_path)
    assert runs.finished(tmp_path / "comparison.db") == runs.finished(committed / "comparison.db")
    (tmp_path / "attribution.json").write_text('{"command": "valleys attribute --data /secret/data"}')
    runs.keep(tmp_path, tmp_path / "kept", {"/secret/data": "FOLDER"})
    assert "FOLDER" in (tmp_path / "kept" / "attribution.json").read_text()
    assert runs.finished(tmp_path / "kept" / "comparison.db") == runs.finished(tmp_path / "comparison.db")


def test_the_page_on_e_quotes_the_measured_numbers() -> None:
    page = (ROOT / "docs/when-e-matters.md").read_text()
    lines = (ROOT / "benchmarks/results/when-e-matters.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("|")]
    for base, place in (("AdamW", 0), ("LAMB", 1)):
        for title in ("large-batch rule", "c -0.5, memory 100", "small-batch rule"):
            medians = sorted(row[6] for row in rows if row[1:3] == [base, title])
            quoted = next(line for line in page.splitlines() if line.startswith(f"| {title}")).strip("| ").split(" | ")
            assert quoted[1 + place] == f"{medians[0]} to {medians[-1]}"
    tables = {row[0]: row[1:] for row in rows if row[0].startswith(("ALTO", "LAMB,", "AdamW", "EAdamW"))}
    quotes = {
        cells[0]: cells[1:] for line in page.splitlines() if (cells := line.strip("| ").split(" | "))[0] in tables
    }
    assert len(quotes) == 8
    for title, cells in quotes.items():
        assert cells == tables[title][-len(cells) :]


def test_the_page_on_8_bits_is_made_of_the_committed_numbers(load: Any) -> None:
    benchmark, report = load("eight_bit"), load("eight_bit_report")
    assert (report.RESULTS / "README.md").read_text() == report.overview(benchmark.PROBLEMS)
    for name, problem in benchmark.PROBLEMS.items():
        numbers = json.loads((report.RESULTS / name / "numbers.json").read_text())
        assert list(numbers["test"]) == list(benchmark.ARMS)
        shape = {(len(rounds), *map(len, rounds)) for rounds in numbers["test"].values()}
        assert shape == {(benchmark.ROUNDS, *[problem.seeds] * benchmark.ROUNDS)}
        assert numbers["share"] > 0.95, "most of what is compared must be in 8 bits"
    assert not any("/work" in path.read_text() for path in report.RESULTS.rglob("*.*"))


def test_the_docs_quote_what_8_bits_cost(load: Any) -> None:
    page, results = (ROOT / "docs/precision.md").read_text(), load("eight_bit_report").RESULTS
    section = (results / "README.md").read_text().partition("## Differences")[2].partition("## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 3 * len(load("eight_bit").PROBLEMS)
    assert "\n".join(rows) in page
    ends = {name: _eight_bit(load, name, "test") for name in ("digits", "fashion-mnist", "shakespeare-gpt")}
    text = " ".join(page.split())
    assert f"{100 * (ends['shakespeare-gpt'].high - 1):.2f} % of the bits per character" in text
    assert f"{-ends['fashion-mnist'].low:.2f} points on Fashion-MNIST and {-ends['digits'].low:.1f} points" in text
    for name in load("eight_bit").PROBLEMS:
        assert _eight_bit(load, name, "training_loss").better is None
    loss = _eight_bit(load, "fashion-mnist", "training_loss", "8bit-nearest")
    ratio, low, high = (f"{100 * (value - 1):.1f}" for value in (loss.difference, loss.low, loss.high))
    nearest = text.partition("**Rounded to nearest**")[2]
    assert (loss.better, f"{ratio} % higher ({low} to {high} %)" in nearest) == ("float32", True)
    sentence = page.partition("**Rounding is stochastic**")[2].partition("**Checkpoints**")[0]
    for case in json.loads((results / "rounding.json").read_text()):
        assert f"{case['nearest']:.2f} times" in sentence
        assert f"{case['steps']:,}" in sentence
        assert f"{case['stochastic']:.2f}" == "1.00"


def _eight_bit(load: Any, name: str, what: str, arm: str = "8bit") -> Any:
    """Return the verdict on states in 8 bits, rounded stochastically, against float32."""
    report = load("eight_bit_report")
    verdicts = report.verdicts(json.loads((report.RESULTS / name / "numbers.json").read_text()), what)
    return next(verdict for verdict in verdicts if verdict.first == arm)


def test_the_arms_differ_in_their_states_alone(load: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A whole run of the benchmark, two rounds of two epochs."""
    benchmark, report = load("eight_bit"), load("eight_bit_report")
    problem = benchmark.Problem(benchmark.PROBLEMS["digits"].load, 512, 2, 1, {})
    monkeypatch.setattr(benchmark, "PROBLEMS", {"short": problem})
    monkeypatch.setattr(benchmark, "ROUNDS", 2)
    monkeypatch.setattr(benchmark, "TRIALS", 2)
    for module in (benchmark, report):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    task, path = benchmark.run("short", tmp_path, tmp_path / "runs")
    benchmark.keep("short", task, path, {str(tmp_path): "FOLDER"})
    numbers = json.loads((tmp_path / "results/short/numbers.json").read_text())
    sizes = {arm: size / numbers["parameters"] for arm, size in numbers["state_bytes"].items()}
    assert sizes["float32"] == pytest.approx(12, abs=0.1)
    assert sizes["bfloat16"] == pytest.approx(6, abs=0.1)
    assert sizes["8bit"] == pytest.approx(3.25, abs=0.1)
    assert sizes["8bit-nearest"] == pytest.approx(3.25, abs=0.1)
    assert {
        run["hyperparameters"]["lr"] for entry in json.loads(path.read_text())["rounds"] for run in entry["runs"]
    } == {numbers["lr"]}
    assert len({tuple(map(tuple, losses)) for losses in numbers["training_loss"].values()}) == 4
    page = (tmp_path / "results/README.md").read_text()
    assert "| short | 8bit-nearest |" in page
    assert str(tmp_path) not in page + (tmp_path / "results/short/report.md").read_text()


PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "benchmarks/results/README.md",
    ROOT / "benchmarks/results/withdrawn.md",
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_repeats_what_was_withdrawn(page: Path) -> None:
    text = " ".join(page.read_text().split())
    claim = (
        r"won 1\b|lost (15|fifteen)|seldom (helps|does)|once in forty|hardly ever|won one|of (40|forty) (pairs|compar)"
    )
    assert not re.search(claim, text, flags=re.IGNORECASE)


def test_whoever_finds_the_withdrawn_comparison_is_told_so() -> None:
    assert (ROOT / "benchmarks/results/withdrawn.md").read_text().startswith("# Withdrawn: a confounded comparison\n")
    for page in ("README.md", "docs/index.md", "docs/faq.md", "docs/how-it-works.md", "docs/reproduction.md"):
        text = " ".join((ROOT / page).read_text().split())
        assert "confounded" in text
        assert "withdraw" in text


def test_kept_reports_name_no_folder_of_the_machine(load: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    comparisons = load("comparisons")
    monkeypatch.setattr(comparisons, "RESULTS", tmp_path / "results")
    markdown, document = tmp_path / "report.md", tmp_path / "report.json"
    markdown.write_text("# x\n\n![curves](curves.png)\n\nrun `--data /data/images --out /my/runs/x`\n")
    document.write_text('{"command": "--data /data/images --out /my/runs/x"}')
    comparisons.keep("x", markdown, document, {"/my/runs": "runs/x", "/data/images": "FOLDER"})
    assert (tmp_path / "results/x/report.md").read_text() == "# x\n\nrun `--data FOLDER --out runs/x/x`\n"
    assert json.loads((tmp_path / "results/x/report.json").read_text())["command"] == "--data FOLDER --out runs/x/x"


def invented(e: tuple[float, float], seed: int) -> dict[str, Any]:
    """Runs of which alpha -5 is twice as flat as alpha 0 and drifts three times as far, seed by seed."""
    flat, far = {-5.0: (0.5, 3.0)}.get(e[0], (1.0, 1.0))
    size = 1 + seed % 5
    return {
        "alpha": e[0],
        "beta1": e[1],
        "seed": seed,
        "lr": 0.01,
        "diverged": False,
        "steps": 100,
        "train_loss": 0.1,
        "test": 90.0 if e[0] == 0 else 89.0 + 0.1 * size,
        "tops": [[50, 100.0, 0.1], [100, 8.0 * flat * size, 0.1]],
        "drift": 2.0 * far * size,
        "window_drift": 0.1,
    }


@pytest.fixture
def panel(load: Any, tmp_path: Path) -> Any:
    flatness = load("flatness")
    case = flatness.Case("a panel", None, 128, None, (0.003, 0.01), flatness.LARGE_SET, 64, 1)
    folder = tmp_path / "runs" / "panel"
    folder.mkdir(parents=True)
    for rate, validation in ((0.003, 80.0), (0.01, 90.0)):
        (folder / f"tune-{rate:g}.json").write_text(
            json.dumps({"lr": rate, "validation": validation, "diverged": False})
        )
    for e in case.es:
        for seed in flatness.SEEDS:
            (folder / f"{e[0]:g}-{e[1]:g}-{seed}.json").write_text(json.dumps(invented(e, seed)))
    return flatness, case, folder


def test_flatness_compares_the_last_eigenvalue_seed_by_seed(panel: Any) -> None:
    flatness, case, folder = panel
    tabulated, _ = flatness.flatness(case, folder)
    ratios = {(c.first, c.measure): c.ratio for c in tabulated.contrasts}
    flat, far = ratios["alpha -5", "top"], ratios["alpha -5", "drift"]
    assert flat.estimate == pytest.approx(0.5)
    assert far.estimate == pytest.approx(3.0)
    assert flat.high < 1 < far.low
    same = ratios["alpha -50", "top"]
    assert same.estimate == pytest.approx(1.0)
    assert [flatness._says(*pair) for pair in ((0.4, 0.6), (2.0, 4.0), (0.9, 1.1))] == [
        "smaller",
        "larger",
        "no measurable difference",
    ]


def test_flatness_chooses_the_rate_without_e_and_leaves_diverged_runs_out(panel: Any) -> None:
    flatness, case, folder = panel
    assert flatness.chosen_rate(case, folder) == 0.01
    (folder / "tune-0.01.json").write_text(json.dumps({"lr": 0.01, "validation": 99.0, "diverged": True}))
    assert flatness.chosen_rate(case, folder) == 0.003
    lost = folder / "-5-0.99-1000.json"
    lost.write_text(json.dumps({**invented((-5.0, 0.99), 1000), "diverged": True}))
    tabulated, _found = flatness.flatness(case, folder)
    assert {row.optimizer: row.units for row in tabulated.rows}["alpha -5"] == 4
    lost.unlink()
    assert flatness.flatness(case, folder) is None
    (folder / "tune-0.003.json").unlink()
    assert flatness.chosen_rate(case, folder) is None


def test_flatness_writes_tables_and_says_what_is_missing(
    panel: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flatness, case, folder = panel
    monkeypatch.setattr(flatness, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    flatness.write({"panel": case, "other": case}, folder.parent, {"command": "x"})
    text = (tmp_path / "results" / "README.md").read_text()
    assert "## other\n\nNot finished." in text
    lines = {tuple(line.strip("| ").split(" | ")[:3]): line for line in text.splitlines() if line.startswith("| alpha")}
    assert lines["alpha -5", "top eigenvalue", "0.5"].endswith("| smaller |")
    assert lines["alpha -5", "drift", "3"].endswith("| larger |")
    assert len(json.loads((tmp_path / "results" / "panel.json").read_text())) == 20
