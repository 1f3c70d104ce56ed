"""Every command line that help and documentation show is one that the command understands."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer.main

from valleys.cli.app import app
from valleys.lab.config import ComparisonConfig
from valleys.lab.landscape import LandscapeConfig
from valleys.lab.suggestions.brief_run import BriefRunConfig
from valleys.paper.reproduce import ReproductionConfig

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


def examples_of(command: str) -> list[str]:
    """Command lines under the title of the help's examples."""
    lines = help_of(GROUP.commands[command], command).split("Examples:")[1].split("\n\n")[0].splitlines()
    return [line.strip() for line in lines if line.strip()]


@pytest.mark.parametrize("command", GROUP.commands)
def test_examples_of_the_help_are_understood(command: str) -> None:
    examples = examples_of(command)
    assert examples
    assert [parse(line) for line in examples] == [command] * len(examples)


def test_the_list_of_commands_cuts_nothing_off_and_the_manual_fits_the_terminal() -> None:
    text = help_of(GROUP, "valleys")
    for name, command in GROUP.commands.items():
        summary = command.help.splitlines()[0].removesuffix(".")
        assert re.search(rf"^  {name} +{re.escape(summary)}\.?$", text, flags=re.MULTILINE)
    for name in ("VALLEYS_CACHE_DIR", "CC", "VALLEYS_ISA", "OMP_NUM_THREADS", "WANDB_MODE", "0", "1", "2", "130"):
        assert f"    {name} " in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("command", "config"),
    [
        ("compare", ComparisonConfig),
        ("suggest", BriefRunConfig),
        ("landscape", LandscapeConfig),
        ("reproduce", ReproductionConfig),
    ],
)
def test_every_field_of_a_configuration_is_an_option_with_its_help(command: str, config: Any) -> None:
    text = " ".join(help_of(GROUP.commands[command], command).split())
    options = {name for parameter in GROUP.commands[command].params for name in parameter.opts}
    for entry in fields(config):
        assert (entry.metadata.get("flag") or f"--{entry.name.replace('_', '-')}") in options
        assert entry.metadata["text"] in text


def test_a_command_that_does_not_exist_would_be_noticed() -> None:
    with pytest.raises(Exception, match="--batchsize"):
        parse("valleys compare digits --out runs --batchsize 3")
    with pytest.raises(KeyError):
        parse("valleys compair digits")
