"""A griffe extension: the Sphinx markup of the docstrings as Markdown for mkdocstrings, formulas as MathML."""

from __future__ import annotations

import re
from typing import Any

import griffe
from latex2mathml.converter import convert

__all__ = ["DocstringMarkup", "markdown"]

_ROLE = re.compile(r":(?:func|class|meth|data|mod|attr):`([^`]+)`")
_INLINE = re.compile(r":math:`([^`]+)`")
_BLOCK = re.compile(r"^( *)\.\. math::(.*)$")
_EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)
_RULE = re.compile(r"^ *=+( +=+)+ *$")


class DocstringMarkup(griffe.Extension):
    """Rewrites every docstring once a package is loaded, when its names can be resolved."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Rewrites a package's docstrings.

        Args:
            pkg: the package.
            kwargs: griffe's.
        """
        self._visit(pkg)

    def _visit(self, thing: griffe.Object) -> None:
        if thing.docstring is not None:
            thing.docstring.value = markdown(thing.docstring.value, lambda name: _path(thing, name))
        for member in thing.members.values():
            if not member.is_alias:
                self._visit(member)  # type: ignore[arg-type]


def markdown(text: str, resolve: Any = lambda name: None) -> str:
    """Sphinx markup as Markdown: roles, inline mathematics, mathematics in a block, simple tables.

    Args:
        text: a docstring.
        resolve: from a name to the path of what it means in the package, or None.

    Returns:
        The same text in Markdown.

    Example:
        >>> markdown("see :func:`valleys.adapt`")
        'see `valleys.adapt`'
    """
    text = "\n".join(_tables(_blocks(text.split("\n"))))
    text = _INLINE.sub(lambda found: _mathml(found[1], "inline"), text)
    # Griffe knows the plural as a section of doctests.
    text = _EXAMPLE.sub(r"\1Examples:", text)
    return _ROLE.sub(lambda found: _link(found[1], resolve), text)


def _blocks(lines: list[str]) -> list[str]:
    """``.. math::`` with what is indented below it."""
    output: list[str] = []
    at = 0
    while at < len(lines):
        match = _BLOCK.match(lines[at])
        if match is None:
            output.append(lines[at])
            at += 1
            continue
        indent, first = match[1], match[2].strip()
        content = [first] if first else []
        at += 1
        while at < len(lines) and (not lines[at].strip() or lines[at].startswith(f"{indent} ")):
            content.append(lines[at].strip())
            at += 1
        formula = " ".join(part for part in content if part)
        if "&" in formula or r"\\" in formula:
            formula = rf"\begin{{align*}} {formula} \end{{align*}}"
        output += ["", indent + _mathml(formula, "block"), ""]
    return output


def _mathml(formula: str, display: str) -> str:
    """Formula that browsers show without a script, in a form that Markdown leaves alone."""
    markup: str = convert(formula, display=display)
    return markup.replace("*", "&#42;").replace("_", "&#95;").replace("`", "&#96;")


def _tables(lines: list[str]) -> list[str]:
    """Simple tables between rules of ``=``; if a rule follows the first row, it is the head, else there is none."""
    output: list[str] = []
    at = 0
    while at < len(lines):
        if not _RULE.match(lines[at]):
            output.append(lines[at])
            at += 1
            continue
        rule = lines[at]
        indent = len(rule) - len(rule.lstrip())
        starts = [match.start() for match in re.finditer("=+", rule)]
        parts: list[list[list[str]]] = [[]]
        at += 1
        while at < len(lines) and lines[at].strip():
            if _RULE.match(lines[at]):
                parts.append([])
            else:
                ends = [*starts[1:], None]
                cells = [lines[at][a:b].strip() for a, b in zip(starts, ends, strict=True)]
                parts[-1].append(cells)
            at += 1
        head, *body = [row for part in parts for row in part]
        if len([part for part in parts if part]) == 1:
            head, body = [""] * len(starts), [head, *body]
        table = [head, ["---"] * len(starts), *body]
        output += ["", *(" " * indent + f"| {' | '.join(row)} |" for row in table), ""]
    return output


def _link(name: str, resolve: Any) -> str:
    path = resolve(name.removeprefix("~"))
    label = name.removeprefix("~").lstrip(".") if not name.startswith("~") else name.rpartition(".")[2]
    return f"`{label}`" if path is None else f"[`{label}`][{path}]"


def _path(thing: griffe.Object, name: str) -> str | None:
    """Target of a name: looked up from the object outwards, and from the package."""
    place: griffe.Object | None = thing
    if name.startswith("."):
        name = name.lstrip(".")
    while place is not None:
        for full in (f"{place.path}.{name}", name):
            try:
                entry: Any = thing.modules_collection[full]
                target = entry.final_target if entry.is_alias else entry
            except (KeyError, griffe.AliasResolutionError, griffe.CyclicAliasError):
                continue
            return None if _private(target.path) else str(target.path)
        place = place.parent  # type: ignore[assignment]
    return None


def _private(path: str) -> bool:
    return any(part.startswith("_") for part in path.split("."))
