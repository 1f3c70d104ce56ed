"""Every command line that help and documentation show is one that the command understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from valleys.cli.commands import app
from valleys.cli.usage import CODES, ENVIRONMENT, USAGE

ROOT = Path(__file__).parents[2]
GROUP: Any = typer.main.get_command(app)  # Typer brings its own click
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def shown(page: Path) -> list[str]:
    """Lines of code that call the command, without comments; a synopsis with brackets is none."""
    fences = re.findall(r"```[a-z]*\n(.*?)```", page.read_text(), flags=re.DOTALL)
    lines = [line.split("  #")[0].strip() for fence in fences for line in fence.splitlines()]
    return [line for line in lines if re.search(r"(^|-m |--no-python )valleys [a-z-]", line) and "[" not in line]


FOUND = [(page.name, line) for page in PAGES for line in shown(page)]


def parse(line: str) -> str:
    words = shlex.split(line)
    name, *rest = words[words.index("valleys") + 1 :]
    command = GROUP.commands[name]
    command.make_context(name, rest, resilient_parsing=False).close()
    return name


def test_there_is_documentation_to_check() -> None:
    assert len(FOUND) > 15


@pytest.mark.parametrize(("page", "line"), FOUND, ids=[f"{page}: {line}" for page, line in FOUND])
def test_documented_commands_are_understood(page: str, line: str) -> None:
    parse(line)


def help_of(command: Any, name: str) -> str:
    text: str = command.get_help(command.context_class(command, info_name=name, terminal_width=80))
    return text


@pytest.mark.parametrize("command", USAGE)
def test_examples_and_files_of_the_help_are_understood_and_shown(command: str) -> None:
    text = help_of(GROUP.commands[command], command)
    assert USAGE[command].examples
    for line in USAGE[command].examples:
        assert parse(line) == command
        assert f"    {line}\n" in f"{text}\n"
    for name, _ in USAGE[command].files:
        assert f"    {name} " in text
    for note in USAGE[command].notes:
        assert " ".join(note.split()) in " ".join(text.split())


def test_the_list_of_commands_cuts_nothing_off_and_the_manual_fits_the_terminal() -> None:
    text = help_of(GROUP, "valleys")
    for command, usage in USAGE.items():
        assert re.search(rf"^  {command} +{re.escape(usage.short)}$", text, flags=re.MULTILINE)
    for name in (*ENVIRONMENT, *map(str, CODES)):
        assert f"    {name} " in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_command_that_does_not_exist_would_be_noticed() -> None:
    with pytest.raises(Exception, match="--batchsize"):
        parse("valleys compare digits --out runs --batchsize 3")
    with pytest.raises(KeyError):
        parse("valleys compair digits")


def test_every_command_has_its_usage() -> None:
    assert list(GROUP.commands) == list(USAGE)
