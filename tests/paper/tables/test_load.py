"""The tables' files: what they may say, and what is refused."""

from __future__ import annotations

from importlib.resources import files

import pytest

from valleys.landscape.recorder import stages
from valleys.paper.tables.load import load_tables, parse_table
from valleys.paper.tables.numbers import TABLES, find

SHARED = """
settings:
  small: {task: sine, batch_size: 256}
notes: {length: 60 epochs.}
"""

TABLE = """
number: table-99
title: a title
unit: "%"
contrasts: {Adam: [LAMB]}
columns: [Adam, LAMB]
rows:
  first: {values: [1.5, 2], lr: [0.1, 0.2], setting: small}
  second: {values: {LAMB: 4.0}, lr: 0.3, setting: {task: sine, batch_size: 8}, cells: {LAMB: {betas: [0.5, 0.6]}}}
notes: [$length Ours.]
"""


def test_each_file_is_the_table_of_its_name_and_is_read_once() -> None:
    names = {file.name for file in files("valleys.paper.tables").joinpath("data").iterdir()}
    assert names == {f"{table.number}.yaml" for table in TABLES} | {"shared.yaml"}
    assert load_tables() is load_tables()


def test_a_small_table() -> None:
    table = parse_table("table-99.yaml", TABLE, SHARED)
    assert (table.number, table.contrasts, table.notes) == ("table-99", (("Adam", "LAMB"),), ("60 epochs. Ours.",))
    assert [(one.row, one.column, one.value) for one in table.cells] == [
        ("first", "Adam", 1.5),
        ("first", "LAMB", 2),
        ("second", "LAMB", 4.0),
    ]
    assert [one.setting.batch_size for one in table.cells if one.setting] == [256, 256, 8]
    methods = [one.method for one in table.cells]
    assert [dict(one.options)["lr"] for one in methods if one] == [0.1, 0.2, 0.3]
    assert [dict(one.options)["betas"] for one in methods if one] == [(0.9, 0.999), (0.9, 0.999), (0.5, 0.6)]


def test_table_1_is_the_one_that_the_recorder_checks() -> None:
    cells = find("table-1").cells
    *printed, implied = stages.QUANTITIES
    signs = {(quantity, stage): 1.0 if row[stage] == "+" else -1.0 for quantity, row in stages.PAPER.items()
             for stage in stages.STAGES}  # fmt: skip
    assert {(one.row, one.column): one.value for one in cells if one.row in printed} == {
        place: value for place, value in signs.items() if place[0] in printed
    }
    for one in cells[-4:]:
        assert (one.row, one.value) == (implied, None)
        assert one.says == f"implied: {signs[one.row, one.column]:.0f}"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("unit:", "units:", r"^table-99\.yaml: .*unexpected keyword argument 'units'"),
        ("title: a title\n", "", r"^table-99\.yaml: .*missing.*'title'"),
        ("columns: [Adam, LAMB]\n", "", r"^table-99\.yaml: columns missing"),
        ("lr: 0.3, ", "", r"^table-99\.yaml: row 'second': 'LAMB': lr: None is not a number"),
        ("lr: 0.3", "lr: 3e-1", r"row 'second': 'LAMB': lr: '3e-1' is not a number"),
        ("lr: 0.3", "lrs: 0.3", r"row 'second': 'LAMB': lr: None is not a number"),
        ("lr: 0.3", "lr: 0.3, says: x, colour: red", r"row 'second': 'LAMB': unknown option 'colour' of LAMB"),
        ("lr: 0.3", "lr: 0.3, measure: joy", r"row 'second': 'LAMB': measure 'joy'; choose one of test, seconds"),
        ("lr: 0.3", "lr: 0.3, measure: sign", r"row 'second': 'LAMB': a sign has no lr, betas"),
        ("[1.5, 2]", "[1.5, two]", r"row 'first': 'LAMB': value: 'two' is not a number"),
        ("[1.5, 2]", "[1.5]", r"row 'first': values: 1 entries for 2 columns"),
        ("{LAMB: 4.0}", "{SGD: 4.0}", r"row 'second': values: no column 'SGD'; there are Adam, LAMB"),
        ("{LAMB: {betas", "{Lamb: {betas", r"row 'second': cells: no column 'Lamb'"),
        ("setting: small", "setting: large", r"row 'first': 'Adam': shared.yaml has no setting 'large'"),
        ("batch_size: 8", "batch: 8", r"row 'second': 'LAMB': setting: .*unexpected keyword argument 'batch'"),
        ("batch_size: 8", "batch_size: 8, schedule: {kind: up}", r"'LAMB': setting: schedule 'up': choose one of"),
        ("columns: [Adam", "columns: [Adm", r"row 'first': 'Adm': unknown optimizer 'Adm'; choose one of sgd"),
        ("$length", "$size", r"^table-99\.yaml: notes: shared\.yaml has no note 'size'"),
        ("number: table-99", "number: table-99\nnumber: table-98", r"a key of number, number, .* stands twice"),
        ("second:", "2:", r"^table-99\.yaml: row 2: the label must be text"),
        ("rows:", "rows:\n  empty:", r"^table-99\.yaml: row 'empty': .*the row a mapping"),
        ("columns: [Adam", "columns: [[Adam", r"^table-99\.yaml: while parsing"),
    ],
)
def test_mistakes_are_refused_with_their_place(old: str, new: str, message: str) -> None:
    assert old in TABLE
    with pytest.raises(ValueError, match=message):
        parse_table("table-99.yaml", TABLE.replace(old, new), SHARED)


def test_an_optimizer_with_e_needs_a_strength() -> None:
    text = TABLE.replace("[Adam, LAMB]\nrows", "[ALTO, LAMB]\nrows").replace("setting: small", "level: 3")
    with pytest.raises(ValueError, match="row 'first': 'ALTO': ALTO needs alpha and beta, or a batch size"):
        parse_table("table-99.yaml", text)
