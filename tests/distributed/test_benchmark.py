"""The distributed benchmark on tiny shapes and two ranks: what it counts is exact, and so is its cost model."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

TINY = [(6, 50), (50,), (3,), (1,), (5, 4, 3, 3)]


@pytest.fixture(autouse=True)
def benchmarks_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def load(name: str) -> Any:
    return importlib.import_module(name)


def load_script() -> Any:
    """By its path: ``distributed`` is the name of these tests' folder."""
    spec = importlib.util.spec_from_file_location("benchmark_of_distributed", BENCHMARKS / "distributed.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(markdown: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in markdown.splitlines()
        if line.startswith("| ") and not line.startswith("| ---")
    ]


def test_two_ranks_from_the_counts_to_the_report(tmp_path: Path) -> None:
    script, ranks = load_script(), load("distributed_ranks")
    plan = ranks.Plan({"tiny": TINY, script.STEPPED: TINY}, TINY, 2, (4, 400), 3)
    path = script.benchmark(plan, [2], {"command": "here"}, tmp_path, seconds=60.0)
    document = json.loads((tmp_path / "distributed.json").read_text(encoding="utf-8"))
    results = document["found"]["2"]
    layers = len(TINY)
    assert results["collectives"]["tiny"] == {
        "ALTO": [["allreduce_", 1, 32 * layers]],
        "ALTO, max_grad_norm": [["allreduce_", 2, 32 * layers + 8]],
        "Lamb": [["allreduce_", 1, 32 * layers]],
        "naive LAMB": [["all_reduce", 2 * layers, 2 * layers * 4]],
        "AdamW fused": [],
        "AdamW foreach": [],
    }
    assert 0 < results["difference"] < 1e-5  # the naive way is LAMB
    assert {name: len(times) for name, times in results["steps"].items()} == dict.fromkeys(ranks.CONTENDERS, 2)
    assert {size: len(times) for size, times in results["reductions"].items()} == {"4": 3, "400": 3}
    assert all(
        0 < time < 60 for times in (*results["steps"].values(), *results["reductions"].values()) for time in times
    )
    text = path.read_text(encoding="utf-8")
    rows = cells(text)
    counts = {row[3]: row[4:] for row in rows if row[0] == "tiny"}
    assert counts["ALTO"] == ["1 allreduce_", "160"]
    assert counts["naive LAMB"] == ["10 all_reduce", "40"]
    steps = {row[1]: row for row in rows if row[0] == "2" and len(row) == 9}
    assert set(steps) == set(ranks.CONTENDERS)
    assert steps["AdamW fused"][4] == "1.00"
    assert [steps[name][7] for name in ("ALTO", "naive LAMB", "AdamW fused")] == ["1", "10", "0"]
    costs = [row for row in rows if row[0] in ("8", "64", "512", "4,096") and len(row) == 8]
    assert len(costs) == 2 * 2 * 2 * 4  # constants x models x algorithms x ranks
    assert "NOT measured" in text
    assert "other processes" in text


@pytest.mark.parametrize(
    ("name", "parameters", "tensors", "units"),
    [("resnet50", 25_557_032, 161, 3 + 4 + 6 + 3 + 1), ("gpt2-345m", 354_823_168, 292, 24 + 1)],
)
def test_models_have_their_parameters(name: str, parameters: int, tensors: int, units: int) -> None:
    shapes, wrapped = load_script().MODELS[name]
    assert (sum(map(math.prod, shapes)), len(shapes), wrapped) == (parameters, tensors, units)


@pytest.mark.parametrize(
    ("ranks", "algorithm", "rounds", "share"),
    [
        (1, "ring", 0, 0.0),
        (2, "ring", 2, 1.0),
        (4, "ring", 6, 1.5),
        (8, "ring", 14, 1.75),
        (1, "tree", 0, 0.0),
        (2, "tree", 2, 2.0),
        (4, "tree", 4, 4.0),
        (6, "tree", 6, 6.0),
        (4096, "tree", 24, 24.0),
    ],
)
def test_an_all_reduce_costs_rounds_and_bytes(ranks: int, algorithm: str, rounds: int, share: float) -> None:
    cost = load("distributed_cost")
    latency, bandwidth = cost.Link("", alpha=1.0, beta=0.0), cost.Link("", alpha=0.0, beta=1.0)
    start = cost.Link("", alpha=0.0, beta=0.0, start=1.0)
    assert cost.all_reduce(latency, ranks, 1024, algorithm) == rounds
    assert cost.all_reduce(bandwidth, ranks, 1024, algorithm) == 1024 * share
    assert cost.all_reduce(start, ranks, 1024, algorithm) == 1


@pytest.mark.parametrize(("ranks", "algorithm", "rounds"), [(8, "ring", 7), (8, "tree", 3), (6, "tree", 3)])
def test_a_gather_costs_rounds_and_bytes(ranks: int, algorithm: str, rounds: int) -> None:
    cost = load("distributed_cost")
    latency, bandwidth = cost.Link("", alpha=1.0, beta=0.0), cost.Link("", alpha=0.0, beta=1.0)
    assert cost.gather(latency, ranks, 1200, algorithm) == rounds
    assert cost.gather(bandwidth, ranks, 1200, algorithm) == 1200 / ranks * (ranks - 1)


def test_a_step_costs_one_all_reduce_the_naive_way_two_per_layer() -> None:
    cost = load("distributed_cost")
    model = cost.Model("some", layers=7, parameters=1000, units=4)
    link = cost.Link("some", alpha=3.0, beta=0.5, start=10.0)
    alto, naive, fsdp = cost.step_cost(model, link, 8, "ring")
    assert alto == 10 + 14 * 3 + 1.75 * (7 * 4 * 8) * 0.5
    assert naive == 2 * 7 * (10 + 14 * 3 + 1.75 * 4 * 0.5)
    assert fsdp == 2 * 4 * (10 + 7 * 3) + 2 * 7 / 8 * 2000 * 0.5


def test_the_slower_the_network_the_nearer_our_share_to_one_unit_of_fully_shard() -> None:
    cost = load("distributed_cost")
    model = cost.Model("some", layers=100, parameters=10_000_000, units=20)
    shares = []
    for alpha in (1e-6, 1e-4, 1e-2, 1.0):
        alto, _, fsdp = cost.step_cost(model, cost.Link("", alpha, beta=1e-11), 64, "ring")
        shares.append(alto / fsdp)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1 / 20, rel=1e-3)


def test_a_line_through_the_medians_gives_back_the_ring() -> None:
    script, cost = load_script(), load("distributed_cost")
    link = cost.Link("some", alpha=2e-4, beta=3e-9)
    for ranks in (2, 4):
        times = {size: [cost.all_reduce(link, ranks, 8 * size, "ring")] * 3 for size in (4, 64, 1000, 30_000)}
        results = script.fit(ranks, times)
        assert (results.alpha, results.beta) == (pytest.approx(2e-4), pytest.approx(3e-9))


def test_tables_tell_the_assumed_from_the_measured() -> None:
    cost = load("distributed_cost")
    model = cost.Model("some", layers=161, parameters=25_557_032, units=17)
    measured = cells(cost.cost_table(model, (8, 64), cost.Link("gloo", 1e-4, 5e-10)))
    assumed = cells(cost.cost_table(model, (8, 64)))
    assert [row[:3] for row in measured[1:]] == [
        [ranks, "gloo", algorithm] for ranks in ("8", "64") for algorithm in ("ring", "tree")
    ]
    assert [row[1] for row in assumed[1:]] == ["NVLink", "NVLink", "InfiniBand", "InfiniBand"]
    assert measured[1][3] == cost.show(14 * 1e-4 + 1.75 * 32 * 161 * 5e-10) == "1.4 ms"
    assert all(" to " in row[3] for row in assumed[1:])


@pytest.mark.parametrize("name", ["distributed_cost", "shapes", "script"])
def test_examples_in_the_docs(name: str) -> None:
    module = load_script() if name == "script" else load(name)
    results = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert results.attempted > 0
    assert results.failed == 0


def test_the_command_line_explains_itself() -> None:
    text = load_script().parser().format_help()
    assert "--shrink" in text
    assert "--ranks" in text
