from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import nn

from valleys.lab import LabError, tasks
from valleys.lab.optimizers.spec import Plan
from valleys.lab.tasks.reinforcement import COLLECT
from valleys.paper.reproduce import SHARES
from valleys.paper.tables.methods import MAKERS, method, spec
from valleys.paper.tables.model import Cell, Method, Setting, Table
from valleys.paper.tables.numbers import TABLES, columns, find, rows

CELLS = [(table, cell) for table in TABLES for cell in table.cells]

# Copied from the notes of the paper, by hand and apart from the package's own data. Columns are optimizers.
COPIED = {
    "table-3": """
        row | SGD | Adam | AdamW | LAMB | AdaBelief | ALTO
        CIFAR-10, 128 | 91.85 | 89.88 | 90.54 | 90.89 | 91.12 | 91.24
        CIFAR-10, 16384 | 80.86 | 87.34 | 82.29 | 83.56 | 88.03 | 88.83
        CIFAR-100, 128 | 64.93 | 64.35 | 64.62 | 61.29 | 64.44 | 65.74
        CIFAR-100, 16384 | 44.20 | 54.91 | 52.95 | 56.06 | 52.94 | 57.78
        ImageNet, 256 | 70.64 | 65.06 | 69.64 | 69.17 | 70.12 | 69.95
        ImageNet, 4086 | 49.35 | 54.96 | 68.40 | 70.34 | 70.18 | 70.83
    """,
    "table-4": """
        row | Adam | AdamW | AdaBelief | LAMB | ALTO
        1K | 73.08 | 75.65 | 73.32 | 77.06 | 77.22
        2K | 73.08 | 74.93 | 73.48 | 77.11 | 77.25
        4K | 73.32 | 74.65 | 73.41 | 76.92 | 77.35
        8K | 73.11 | 74.40 | 73.14 | 76.89 | 77.10
        16K | 73.09 | 74.10 | 73.00 | 76.66 | 76.87
        32K | 72.50 | 73.57 | 72.89 | 76.42 | 76.70
    """,
    "table-5a": """
        row | ALTO | LAMB
        200 | 66.9 | 67.3
        500 | 63.35 | 63.3
        1K | 59.79 | 59.82
        2K | 70.43 | 70.24
        5K | 67.55 | 67.05
        10K | 64.51 | 62.92
        15K | 64.38 | 62.64
        25K | 59.19 | 57.79
        30K | 58.69 | 58.16
        40K | 58.72 | 57.11
        50K | 49.69 | 39.91
    """,
    "table-5b": """
        row | ALTO | LAMB
        20% | 137 | 196
        30% | 203 | 277
        40% | 334 | 409
        50% | 483 | 582
        60% | 608 | 865
    """,
    "table-5c": """
        row | ALTO | LAMB | AdamW | Adam | Lion | AdaBelief
        perplexity | 78.37 | 83.13 | 86.51 | 87.74 | 110.54 | 182.8
    """,
    "table-6": """
        row | ALTO above LAMB
        32 | 43
        512 | 3.7
        1024 | 2.0
    """,
    "table-7": """
        row | ALTO | without a in m | without a in v | without bias correction | without layerwise | without a
        CIFAR-10, 16384 | 88.83 | 87.06 | 87.08 | 87.51 | 86.22 | 88.11
    """,
    "table-8": """
        row | ESGD | EAdam
        CIFAR-10, 128 | 91.83 | 90.12
        CIFAR-100, 128 | 65.01 | 65.24
        ImageNet, 256 | 70.59 | 65.31
    """,
    "table-9": """
        row | ALTO | AdaBelief | LAMB | Adam | AdamW
        CoNLL-2003, F1 | 90.59 | 90.38 | 90.05 | 89.50 | 89.46
        IMDB, accuracy | 93.10 | 92.82 | 92.07 | 92.97 | 92.98
        MRPC, accuracy | 81.39 | 79.53 | 80.98 | 79.76 | 80.86
    """,
    "table-10": """
        row | Adan
        CIFAR-10, 128 | 90.62
        CIFAR-10, 16384 | 76.42
        CIFAR-100, 128 | 62.27
        CIFAR-100, 16384 | 47.96
        ImageNet, 256 | 69.36
        ImageNet, 4086 | 67.66
    """,
    "table-15": """
        row | ALTO | LAMB | AdaBelief | SGD | Adam | AdamW
        CIFAR-10, VGG-16 | 90.92 | 90.63 | 87.87 | 86.56 | 85.01 | 83.33
        CIFAR-10, DenseNet-169 | 86.19 | 85.77 | 76.88 | 65.44 | 81.89 | 81.55
        CIFAR-100, VGG-16 | 63.15 | 60.44 | 59.44 | 55.46 | 40.44 | 37.62
        CIFAR-100, DenseNet-169 | 54.24 | 53.75 | 43.41 | 41.75 | 48.41 | 48.58
    """,
    "table-20": """
        row | ALTO | LAMB | AdamW | AdaBelief | Adam
        full batch | 57.27 | 52.20 | 15.89 | 13.98 | 9.66
    """,
}


def cell(number: str, row: str, column: str) -> Cell:
    (match,) = [c for c in find(number).cells if (c.row, c.column) == (row, column)]
    return match


def options(of: Method | None) -> dict[str, object]:
    assert of is not None
    return dict(of.options)


def at(number: str, row: str, column: str) -> Setting:
    setting = cell(number, row, column).setting
    assert setting is not None
    return setting


@pytest.mark.parametrize("number", COPIED)
def test_the_numbers_are_the_papers(number: str) -> None:
    titles, *lines = [[word.strip() for word in line.split("|")] for line in COPIED[number].strip().splitlines()]
    for label, *values in lines:
        for column, value in zip(titles[1:], values, strict=True):
            assert cell(number, label, column).value == float(value), (label, column)
    assert list(dict.fromkeys(line[0] for line in lines)) == [r for r in find(number).rows if r != "ms per step"]


def test_the_numbers_that_stand_alone() -> None:
    assert cell("table-5c", "ms per step", "ALTO").value == 332
    assert cell("table-5c", "ms per step", "Lion").value == 253
    assert cell("table-7", "CIFAR-10, 16384", "without a, bias correction").value == 84.91
    assert cell("table-7", "CIFAR-10, 16384", "without all").value == 77.55
    assert cell("appendix-a", "32768 / 256", "Adam").value == 100
    assert cell("table-5b", "20%", "ALTO / LAMB").value == pytest.approx(0.69898, abs=1e-5)
    assert cell("table-5c", "ms per step", "ALTO / Lion").value == pytest.approx(1.31225, abs=1e-5)


def test_table_10_is_table_3_with_one_more_column() -> None:
    for one in find("table-3").cells:
        assert cell("table-10", one.row, one.column) == one
    for label in find("table-8").rows:
        for column in ("SGD", "Adam"):
            assert cell("table-8", label, column) == cell("table-3", label, column)


def test_the_headline_s_arms_are_those_of_tables_3_and_7() -> None:
    label = "CIFAR-10, 16384"
    assert [one.column for one in find("headline").cells] == ["LAMB", "without a, bias correction", "without a", "ALTO"]
    for one in find("headline").cells:
        assert one == cell("table-3" if one.column == "LAMB" else "table-7", label, one.column)


def test_every_table_and_figure_has_a_number_of_its_own() -> None:
    names = Counter(name for table in TABLES for name in (table.number, *table.aliases))
    assert set(names.values()) == {1}
    tables = {f"table-{n}" for n in ("1", "3", "4", "5a", "5b", "5c", "6", "7", "8", "9", "10", "11", "15", "16", "18")}
    others = {"table-20", "table-35", "figure-1", "figure-3", "figure-8", "figure-ppo", "appendix-a"}
    assert set(names) == tables | others | {"headline"}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.number)
def test_labels_are_unique_values_finite_and_orders_are_of_columns(table: Table) -> None:
    assert set(Counter((one.row, one.column) for one in table.cells).values()) == {1}
    assert all(one.value is None or math.isfinite(one.value) for one in table.cells)
    assert {name for pair in table.contrasts for name in pair} <= set(table.columns)
    assert all(one.value is not None or one.says for one in table.cells)  # a figure says something
    assert all(
        one.blank or one.method is not None or one.measure == "sign" for one in table.cells
    )  # nothing is left out without a reason


def test_tasks_exist_and_take_what_is_asked_of_them() -> None:
    entries = tasks.entries()
    for table, one in CELLS:
        for setting, _ in one.runs():
            entry = entries[setting.task]
            assert {*entry.presets} - {*SHARES} in ({"paper", "smoke"}, {"standard"}), table.number
            assert not setting.folder or entry.reads_folder
            assert setting.gpu == (entry.presets[0] == "paper" and not setting.task.startswith("ppo"))
            assert setting.smoke_epochs is None or entry.presets == ("standard",)
            assert not setting.task.startswith("ppo") or COLLECT % 64 == 0


def test_one_comparison_has_no_two_optimizers_of_one_name() -> None:
    methods: dict[tuple[Setting, str], Method] = {}
    for table, one in CELLS:
        for setting, entry in one.runs():
            assert methods.setdefault((setting, entry.name), entry) == entry, (table.number, one.row, one.column)


@pytest.mark.filterwarnings("ignore:lr = 0.0003 is low for ALTO")  # the paper's own
def test_every_optimizer_steps() -> None:
    methods = {entry for _, one in CELLS for _, entry in one.runs()} | {
        entry for entry in (find("table-6").cells[0].method,) if entry is not None
    }
    assert {entry.kind for entry in methods} == set(MAKERS)
    for entry in methods:
        model = nn.Linear(2, 3)
        optimizer = spec(entry).build(model, {}, Plan(8, 10))
        before = model.weight.detach().clone()
        model(torch.ones(4, 2)).square().sum().backward()
        optimizer.step()
        assert not torch.equal(model.weight, before), entry
        for name, value in entry.options:
            group = optimizer.param_groups[0]
            assert group.get(name, group.get(f"explore_{name}")) == value, (entry, name)


def test_the_rates_of_table_3() -> None:
    rates = {
        ("CIFAR-10, 128", "SGD"): 0.05,
        ("CIFAR-10, 128", "Adam"): 0.01,
        ("CIFAR-10, 16384", "SGD"): 0.1,
        ("CIFAR-10, 16384", "ALTO"): 0.05,
        ("CIFAR-100, 16384", "SGD"): 0.1,
        ("CIFAR-100, 16384", "LAMB"): 0.01,
    }
    for (label, column), lr in rates.items():
        assert options(cell("table-3", label, column).method)["lr"] == lr
    for label, beta1, alpha in (("CIFAR-10, 128", 0.1, 0.5), ("CIFAR-10, 16384", 0.99, -5.0)):
        of = options(cell("table-3", label, "ALTO").method)
        assert (of["beta"], of["betas"], of["alpha"], of["weight_decay"]) == (beta1, (0.9, 0.99), alpha, 1e-4)
    imagenet = {options(one.method)["lr"] for one in find("table-3").cells if one.row.startswith("ImageNet")}
    assert imagenet <= {1e-3, 5e-3, 1e-2, 1e-1}
    assert all(one.method.ours for one in find("table-3").cells if one.row.startswith("ImageNet") and one.method)


def test_lengths_and_schedules() -> None:
    small, large = at("table-3", "CIFAR-10, 128", "SGD"), at("table-3", "CIFAR-100, 16384", "SGD")
    assert (small.batch_size, small.epochs, large.batch_size, large.epochs) == (128, 200, 16384, 400)
    assert small.schedule is not None
    assert (small.schedule.kind, small.schedule.gamma, small.schedule.drops) == ("step", 0.1, 4)
    imagenet = at("table-3", "ImageNet, 4086", "ALTO")
    assert (imagenet.batch_size, imagenet.epochs) == (4086, 90)
    assert imagenet.schedule is not None
    assert imagenet.schedule.drops == 3
    for label, batch_size, warm_up, lr in (("1K", 1024, 0.625, 4 / 2**2.5 / 100), ("32K", 32768, 20, 0.04)):
        setting = at("table-4", label, "LAMB")
        assert setting.batch_size == batch_size
        assert setting.schedule is not None
        assert setting.schedule.warm_up == pytest.approx(warm_up / 90)
        assert options(cell("table-4", label, "ALTO").method)["lr"] == pytest.approx(lr)
    assert at("table-5c", "perplexity", "ALTO").clip == 1.0


def test_vgg_over_batches() -> None:
    for label, lr, alpha in (("500", 0.001, 0.5), ("1K", 0.001, -5.0), ("2K", 0.01, -5.0), ("50K", 0.01, -5.0)):
        of = options(cell("table-16", label, "ALTO").method)
        assert (of["lr"], of["alpha"], of["beta"], of["betas"]) == (lr, alpha, 0.999, (0.9, 0.99))
        assert options(cell("table-16", label, "LAMB").method)["lr"] == lr


def test_figure_8_and_the_ablation_are_built_as_the_paper_says() -> None:
    f1, f2 = (options(cell("figure-8", label, "ALTO").method) for label in ("f1", "f2"))
    assert (f1["beta"], f1["betas"], f1["alpha"], f1["layer_adaptation"]) == (0.99, (0.95, 0.99), -80.0, True)
    assert (f2["beta"], f2["betas"], f2["alpha"], f2["layer_adaptation"]) == (0.99, (0.9, 0.99), -90.0, True)
    adams = [options(cell("figure-8", label, "Adam").method)["betas"] for label in ("f1", "f2")]
    assert adams == [(0.95, 0.999), (0.9999, 0.999)]
    without = options(cell("table-7", "CIFAR-10, 16384", "without a in m").method)
    assert (without["accelerate"], without["lr"]) == (("second_moment",), 0.05)
    last = options(cell("table-7", "CIFAR-10, 16384", "without all").method)
    assert (last["accelerate"], last["bias_correction"], last["layer_adaptation"]) == ((), False, False)


def test_a_vector_gets_its_ratio_in_figure_8() -> None:
    walker = nn.Module()
    walker.point = nn.Parameter(torch.tensor([2.0]))
    method = cell("figure-8", "f1", "ALTO").method
    assert method is not None
    optimizer = spec(method).build(walker, {}, Plan(1, 1))
    walker.point.grad = torch.tensor([1.0])
    optimizer.step()
    assert walker.point.item() == pytest.approx(2.0 - 2.0 * 0.003, rel=1e-4)  # a step as long as lr times the vector


def test_the_rule_turns_at_a_thousand() -> None:
    assert options(method("ALTO", 0.1, 999))["alpha"] == 0.5
    assert options(method("ALTO", 0.1, 1000))["alpha"] == -5.0
    assert options(method("ALTO", 0.1, 1000))["beta"] == 0.99


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("valleys.paper.tables.methods.find_spec", lambda name: None)
    with pytest.raises(LabError, match=r"Adan needs the package pytorch_optimizer; pip install"):
        spec(method("Adan", 0.1))


@pytest.mark.parametrize("text", ["table-3", "Table 3", "3", " TABLE_3 ", "table 3"])
def test_a_table_is_found_by_its_number(text: str) -> None:
    assert find(text).number == "table-3"


@pytest.mark.parametrize(
    ("text", "number"),
    [("table-18", "table-5b"), ("35", "table-5c"), ("fig 8", "figure-8"), ("Appendix A", "appendix-a")],
)
def test_aliases_and_figures_are_found(text: str, number: str) -> None:
    assert find(text).number == number


def test_an_unknown_table_is_refused_with_the_choices() -> None:
    with pytest.raises(LabError, match=r"unknown table or figure 'table-99'.*table-3.*valleys reproduce list"):
        find("table-99")


@pytest.mark.parametrize(
    ("number", "text", "labels"),
    [
        ("table-3", "CIFAR-10", ["CIFAR-10, 128", "CIFAR-10, 16384"]),  # not CIFAR-100
        ("table-3", "cifar-10,  128", ["CIFAR-10, 128"]),
        ("table-3", "ImageNet, CIFAR-10, 16384", ["CIFAR-10, 16384", "ImageNet, 256", "ImageNet, 4086"]),
        ("table-3", "imagenet, 2", ["ImageNet, 256"]),
        ("table-3", "CIFAR-100,", ["CIFAR-100, 128", "CIFAR-100, 16384"]),
        ("table-4", "1k,32K", ["1K", "32K"]),
        ("table-1", "-g_k", ["-g_k"]),
        ("table-1", "<theta_k - theta_{k-1}, g_k - g_{k-1}>", ["<theta_k - theta_{k-1}, g_k - g_{k-1}>"]),
        ("figure-3", "AdamW", [f"AdamW, 128: {what}" for what in ("top eigenvalue", "drift", "test accuracy %")]),
        ("appendix-a", "32768", ["32768"]),  # though another begins so
    ],
)
def test_rows_are_named_by_the_words_that_they_begin_with(number: str, text: str, labels: list[str]) -> None:
    assert rows(find(number), text) == labels


def test_columns_are_named_as_rows_are() -> None:
    assert columns(find("table-3"), "alto, lamb") == ["LAMB", "ALTO"]
    assert columns(find("table-5b"), "ALTO") == ["ALTO"]
    assert columns(find("table-7"), "without a, bias correction") == ["without a, bias correction"]
    assert len(columns(find("table-7"), "without")) == 7
    with pytest.raises(LabError, match=r"--columns 'Ada' is the beginning of 3 columns of table-3; choose from: SGD;"):
        columns(find("table-3"), "ALTO, Ada")


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.number)
def test_every_label_names_its_own_row_or_column_alone(table: Table) -> None:
    assert [rows(table, label) for label in table.rows] == [[label] for label in table.rows]
    assert [columns(table, label) for label in table.columns] == [[label] for label in table.columns]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MNIST", r"--only 'MNIST' is no row of table-3; choose from: CIFAR-10, 128;"),
        ("CIFAR-10, 128, 129", r"--only '129' is no row of table-3"),
        ("cifar-1", r"'cifar-1' is the beginning of 4 rows of table-3"),
        (",", r"--only ',' is no row of table-3"),
    ],
)
def test_what_names_no_row_is_refused_with_the_choices(text: str, message: str) -> None:
    with pytest.raises(LabError, match=message):
        rows(find("table-3"), text)
