"""The source is as docs/architecture.md says: its folders, short files and functions, imports without cycles.

The direction of imports is checked by ``make lint``; see ``[tool.importlinter]`` in pyproject.toml.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import re
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
PACKAGE = SOURCE / "valleys"

FILE_LINES = 400
FUNCTION_LINES = 60  # the docstring is not counted
MODULES = 13  # of a folder, beside __init__.py
PARAMETERS = 8  # of a function of the lab, without self
EQUAL_LINES = 10
PUBLIC_NAMES = 383
SOURCE_LINES = 35680

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
IMPORTS = (ast.Import, ast.ImportFrom)

Graph = dict[str, set[str]]


class Facts(NamedTuple):
    """A file in numbers and names: its syntax tree is too large to be kept."""

    lines: list[str]
    lengths: dict[str, int]  # of functions, without their docstrings
    parameters: dict[str, int]
    public: list[str]
    imports: set[str]  # modules, or names in them
    not_code: set[int]  # lines of docstrings, imports and signatures


@functools.cache
def _facts(path: Path) -> Facts:
    text = path.read_text(encoding="utf-8")
    facts = Facts(text.splitlines(), {}, {}, [], set(), set())
    waiting: list[tuple[ast.AST, ast.AST | None]] = [(ast.parse(text), None)]
    while waiting:
        node, parent = waiting.pop()
        if isinstance(node, FUNCTIONS):
            place, docstring = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node.body[0]
            facts.lengths[place] = len(_lines(node)) - _is_docstring(docstring) * len(_lines(docstring))
            facts.parameters[place] = _parameters(node, isinstance(parent, ast.ClassDef))
            facts.not_code.update(range(node.lineno, docstring.lineno))
        elif isinstance(node, IMPORTS):
            facts.not_code.update(_lines(node))
            facts.imports.update(_imported(node))
        elif isinstance(node, ast.Expr) and _is_docstring(node):
            facts.not_code.update(_lines(node))
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            facts.public.extend(ast.literal_eval(node.value))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += [(child, node) for child in node.orelse]
        else:
            waiting += [(child, node) for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)]
    return facts


def _imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0, f"line {node.lineno}: a relative import"
    return [f"{node.module}.{alias.name}" for alias in node.names]


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef, is_method: bool) -> int:
    arguments, static = node.args, "staticmethod" in map(ast.unparse, node.decorator_list)
    variable = [argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None]
    return len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *variable]) - (is_method and not static)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _lines(node: ast.stmt) -> range:
    assert node.end_lineno is not None
    return range(node.lineno, node.end_lineno + 1)


def _above(limit: int, numbers: Mapping[str, int]) -> str:
    """One line for each number above the limit."""
    return "\n".join(f"{name}: {number}, at most {limit}" for name, number in numbers.items() if number > limit)


def _files(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


def _name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_names_every_folder_and_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    lines = re.findall(r"^(src/valleys(?:/\w+)*)(?: +(\w.*))?$", text, flags=re.MULTILINE)
    page = [f"{folder}/{module}.py" for folder, modules in lines for module in ["__init__", *modules.split()]]
    disk = {path.relative_to(ROOT).as_posix() for path in _files(PACKAGE)}
    assert len(page) == len(set(page)), "a folder or a module stands twice"
    missing, extra = sorted(disk - set(page)), sorted(set(page) - disk)
    assert not missing + extra, f"the page lacks {missing} and has {extra}, which the disk has not"


@pytest.mark.parametrize("name", ["architecture", "glossary"])
def test_the_page_points_to_files_that_exist(name: str) -> None:
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"`([\w./]+(?:/\w+|\.(?:c|py|toml)))`", text))
    assert paths
    offenders = [path for path in sorted(paths) if not (PACKAGE / path).exists() and not (ROOT / path).exists()]
    assert not offenders, offenders


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_no_file_is_long() -> None:
    kinds = {".c", ".css", ".j2", ".js", ".py"}
    files = [path for folder in (PACKAGE, ROOT / "tests") for path in folder.rglob("*") if path.suffix in kinds]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    offenders = _above(FILE_LINES, lengths)
    assert not offenders, offenders


def test_no_function_is_long() -> None:
    files = _files(PACKAGE, ROOT / "tests")
    offenders = _above(FUNCTION_LINES, {place: n for path in files for place, n in _facts(path).lengths.items()})
    assert not offenders, offenders


def test_no_folder_is_crowded() -> None:
    folders = [path.parent for path in PACKAGE.rglob("__init__.py")]
    counts = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) - 1 for folder in folders}
    offenders = _above(MODULES, counts)
    assert not offenders, offenders


def test_no_function_of_the_lab_has_many_parameters() -> None:
    files = _files(PACKAGE / "lab")
    offenders = _above(PARAMETERS, {place: n for path in files for place, n in _facts(path).parameters.items()})
    assert not offenders, offenders


def test_public_names_are_few() -> None:
    top = PACKAGE / "__init__.py"
    assert sum(len(_facts(path).public) for path in _files(PACKAGE) if path != top) <= PUBLIC_NAMES


def test_the_source_is_short() -> None:
    assert sum(len(_facts(path).lines) for path in _files(PACKAGE)) <= SOURCE_LINES


def test_no_code_stands_twice() -> None:
    places: dict[int, list[str]] = defaultdict(list)
    for path in _files(PACKAGE):
        facts = _facts(path)
        stripped = [(number, line.strip()) for number, line in enumerate(facts.lines, 1)]
        code = [(n, line) for n, line in stripped if n not in facts.not_code and line and not line.startswith("#")]
        for first in range(len(code) - EQUAL_LINES + 1):
            block = code[first : first + EQUAL_LINES]
            places[hash(tuple(line for _, line in block))].append(f"{path.relative_to(ROOT)}:{block[0][0]}")
    offenders = "\n".join(" and ".join(pair) for pair in places.values() if len(pair) > 1)
    assert not offenders, offenders


# --- imports ---------------------------------------------------------------------------------------------------------


@functools.cache
def _imports() -> Graph:
    """The modules of the package that each one imports, at its top or in a function; for type checkers alone: none."""
    modules = {_name(path): path for path in _files(PACKAGE)}
    graph = {}
    for name, path in modules.items():
        imported = {entry if entry in modules else entry.rpartition(".")[0] for entry in _facts(path).imports}
        graph[name] = imported & modules.keys() - {name}
    return graph


def _cycle(graph: Graph) -> str:
    """A path that ends where it began; empty if there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return " -> ".join(reversed(error.args[1]))
    return ""


def _siblings() -> dict[str, Graph]:
    """For each folder the imports between its children, be they modules or folders with all that is in them."""
    graphs: dict[str, Graph] = defaultdict(lambda: defaultdict(set))
    for importer, imported in _imports().items():
        for module in imported:
            first, second = importer.split("."), module.split(".")
            depth = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
            if depth is not None:  # else one is the package of the other
                graphs[".".join(first[:depth])][first[depth]].add(second[depth])
    return graphs


def test_imports_are_found_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    file = tmp_path / "file.py"
    file.write_text(
        "import a.b\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import e\nelse:\n    import f\n"
        "class C:\n    def m(self, x):\n        with x:\n            from g import h, i\n"
    )
    facts = _facts(file)
    assert facts.imports == {"a.b", "typing.TYPE_CHECKING", "f", "g.h", "g.i"}
    assert facts.parameters == {"file.py:8 m": 1}
    assert facts.lengths == {"file.py:8 m": 3}


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert _cycle(_imports()) == ""


def test_no_two_siblings_import_each_other() -> None:
    cycles = {folder: _cycle(graph) for folder, graph in _siblings().items()}
    offenders = "\n".join(f"{folder}: {cycle}" for folder, cycle in cycles.items() if cycle)
    assert not offenders, offenders


def test_a_cycle_is_a_path_that_ends_where_it_began() -> None:
    assert _cycle({"a": {"b"}, "b": {"c"}}) == ""
    assert _cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) in ("b -> c -> b", "c -> b -> c")
