"""The check of docstrings and variables finds what it should, and nothing that is an interface."""

from __future__ import annotations

import pytest

import language
from language import offences

FRAMES = ['"""{}"""', 'class C:\n    """{}"""', 'async def f():\n    """{}"""', 'def f():\n  "{}"']


@pytest.mark.parametrize("opening", ["What", "How", "Whether", "Where", "Who", "Why", "Which", "When"])
@pytest.mark.parametrize("frame", FRAMES)
def test_a_docstring_that_opens_with_a_question_is_an_offence(frame: str, opening: str) -> None:
    (offence,) = offences(frame.format(f"{opening} it is."))
    assert offence[0] == 1
    assert opening in offence[1]
    assert not list(offences(frame.format(f"Somewhat. {opening} it is.")))


@pytest.mark.parametrize(
    "program",
    [
        "found = 1",
        "a, (*found, b) = f()",
        "found: int = 1",
        "found += 1",
        "if found := f(): pass",
        "for found in x: pass",
        "[found for found in x]",
        "with f() as found: pass",
        "try: f()\nexcept ValueError as found: pass",
        "def f():\n    found = 1",
        "class C:\n    def m(self):\n        found = 1",
        "class C:\n    x = [1 for found in y]",
    ],
)
def test_a_variable_that_is_a_participle_is_an_offence(program: str) -> None:
    (offence,) = offences(program)
    assert offence[0] == next(i for i, line in enumerate(program.splitlines(), 1) if "found" in line)
    assert "found" in offence[1]


@pytest.mark.parametrize(
    "program",
    [
        "def found(found): return f(found=found)",
        "lambda found: found",
        "class C:\n    found: int = 1\n    held = 2\n    told, kept = 1, 2",
        "self.found = x.found",
        "left, right = x",
        "founder = found_rows = 1",
        "'''Why'''.strip()\nx = 'found'",
    ],
)
def test_interfaces_terms_and_strings_are_none(program: str) -> None:
    assert not list(offences(program))


def test_the_files_of_all_folders_are_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(language, "offences", lambda text: iter([(3, "no noun")]))
    assert language.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert "src/valleys/alto.py:3: no noun" in lines
    assert {line.partition("/")[0] for line in lines} == {"src", "benchmarks", "docs", "examples", "tests"}


def test_the_docstring_of_a_constant_is_checked() -> None:
    program = 'SIZE = 3\n"""What it weighs."""\nNAME = 4\n"""Name of it."""\nprint("What")\n'
    assert list(language.offences(program)) == [(2, "the docstring opens with What: use an imperative or a noun")]
