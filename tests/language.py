"""Check of the words: ``python tests/language.py`` prints the docstrings and variables that break the rules.

A docstring opens with an imperative or a noun of the field, no question word. A local or global variable is a noun, no
bare participle. Attributes, fields and parameters are interfaces and are not checked; `left`, `read` and `lost` are
terms (a side, bytes, a round).
"""

from __future__ import annotations

import ast
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "benchmarks", "docs", "examples", "tests")

QUESTIONS = {"How", "What", "When", "Where", "Whether", "Which", "Who", "Why"}
PARTICIPLES = {
    "asked",
    "begun",
    "built",
    "chosen",
    "done",
    "drawn",
    "found",
    "given",
    "gone",
    "heard",
    "held",
    "kept",
    "known",
    "made",
    "meant",
    "named",
    "ours",
    "said",
    "seen",
    "sent",
    "shown",
    "taken",
    "theirs",
    "there",
    "told",
    "tried",
    "wanted",
    "written",
}


def offences(text: str) -> Iterator[tuple[int, str]]:
    """Line and message of each docstring and variable of a program that breaks a rule."""
    waiting: list[tuple[ast.AST, bool]] = [(ast.parse(text), False)]
    while waiting:
        node, in_class = waiting.pop()
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            texts = [(getattr(node, "lineno", 1), ast.get_docstring(node) or "")]
            for before, after in itertools.pairwise(node.body):  # a constant's docstring is the statement behind it
                if isinstance(before, (ast.Assign, ast.AnnAssign)) and isinstance(after, ast.Expr):
                    texts.append((after.lineno, str(getattr(after.value, "value", ""))))
            for line, text in texts:
                if (opening := text.partition(" ")[0].strip(".,:;?")) in QUESTIONS:
                    yield line, f"the docstring opens with {opening}: use an imperative or a noun"
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and not in_class and node.id in PARTICIPLES:
            yield node.lineno, f"the variable {node.id} is no noun: name what it holds"
        elif isinstance(node, ast.ExceptHandler) and node.name in PARTICIPLES:
            yield node.lineno, f"the variable {node.name} is no noun: name what it holds"
        # Of a class, the body alone assigns fields: a comprehension or a method in it has variables of its own.
        inside = in_class and isinstance(node, (ast.AnnAssign, ast.Assign, ast.Tuple))
        fields = inside or isinstance(node, ast.ClassDef)
        waiting += [(child, fields) for child in ast.iter_child_nodes(node)]


def main() -> int:
    """Print the offences of all folders and return the exit code."""
    lines = [
        f"{path.relative_to(ROOT)}:{line}: {message}\n"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, message in sorted(offences(path.read_text(encoding="utf-8")))
    ]
    sys.stdout.writelines(lines)
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
