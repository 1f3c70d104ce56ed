"""Lists and completion import neither torch nor a library of the lab."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterable

import pytest
import typer.main

import valleys
import valleys.lab
from valleys._lazy import lazy_names
from valleys.cli.app import COMMANDS, app
from valleys.lab.tasks import bert, bilstm_ner, cifar, gpt2, reinforcement, shakespeare
from valleys.lab.tasks.data.cifar_files import CIFAR10, CIFAR100
from valleys.lab.tasks.data.pretrained import MODEL_FOLDER
from valleys.lab.tasks.table import ENTRIES

HEAVY = {"torch", "numpy", "scipy", "optuna", "matplotlib", "sklearn", "plotly", "pytorch_optimizer"}
WATCHED = f"""
import atexit, sys
atexit.register(lambda: sys.stderr.write(f"imported {{sorted({HEAVY} & set(sys.modules))}}"))
sys.argv[0] = "valleys"
"""
COMMAND = "from valleys.cli import main; main()"


def run(code: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WATCHED + code, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("--help", "Compare AdamW, LAMB and ALTO on digits and sine."),
        ("--version", valleys.__version__),
        ("tasks", "the paper's Fig. 8"),
        ("tasks --help", "List the tasks."),
        ("optimizers", "schedule-free-adamw"),
        ("optimizers alto --values lr=0.01 --steps 5", "valleys.ALTO("),
        ("optimizers --help", "valleys optimizers muon"),
        ("claims", "theorem-2"),
        ("claims theorem-2", "theorem-2"),
    ],
)
def test_what_is_listed_imports_neither_torch_nor_a_library_of_the_lab(words: str, shown: str) -> None:
    process = run(COMMAND, *words.split())
    assert (process.returncode, process.stderr) == (0, "imported []")
    assert shown in process.stdout


@pytest.mark.parametrize(
    ("words", "shown"), [("valleys ", "compare"), ("valleys cl", "claims"), ("valleys optimizers --st", "--steps")]
)
def test_completion_imports_neither(words: str, shown: str) -> None:
    count = str(len(words.split(" ")) - 1)
    process = run(COMMAND, _VALLEYS_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=count)
    assert (process.returncode, process.stderr) == (0, "imported []")
    assert shown in process.stdout.splitlines()


def test_a_command_that_trains_is_completed_as_well() -> None:
    process = run(COMMAND, _VALLEYS_COMPLETE="complete_bash", COMP_WORDS="valleys compare --tri", COMP_CWORD="2")
    assert process.stdout.split() == ["--trials"]
    assert "'torch'" in process.stderr, "or the tests here see nothing"


@pytest.mark.parametrize("package", ["valleys", "valleys.lab", "valleys.lab.tasks"])
def test_importing_a_package_imports_neither(package: str) -> None:
    assert run(f"import {package}").stderr == "imported []"


def test_the_list_of_commands_is_that_of_the_modules() -> None:
    group = typer.main.get_command(app)
    for name, summary in COMMANDS.items():
        command = group.commands[name]  # type: ignore[attr-defined]
        assert (command.name, command.help.split("\n\n")[0]) == (name, summary)
    assert {one.name for one in app.registered_commands} == set(COMMANDS)


@pytest.mark.parametrize("package", [valleys, valleys.lab])
def test_public_names_are_the_objects_of_their_modules(package: object) -> None:
    code = f"import {package.__name__} as package; [getattr(package, name) for name in package.__all__]"  # type: ignore[attr-defined]
    assert run(code).returncode == 0
    for name in package.__all__:  # type: ignore[attr-defined]
        value = getattr(package, name)
        assert name in dir(package)
        home = getattr(value, "__module__", None)
        assert home is None or getattr(sys.modules[home], name) is value
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'Altoo'"):  # type: ignore[attr-defined]
        package.Altoo  # type: ignore[attr-defined]  # noqa: B018


def test_names_come_in_any_order_of_imports() -> None:
    """A name that is a module's too is the object, whatever was imported before it."""
    code = "import valleys.lab.comparison; assert callable(valleys.lab.compare), valleys.lab.compare"
    assert run(code).returncode == 0
    code = "import valleys; assert valleys.blocks.__spec__ and valleys.alto.ALTO is valleys.ALTO"
    assert run(code).returncode == 0


def test_public_classes_pickle() -> None:
    for value in (valleys.ALTO, valleys.suggest, valleys.lab.Range(0.1, 1.0), valleys.lab.Schedule("cosine")):
        assert pickle.loads(pickle.dumps(value)) == value


def test_a_name_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    get, names = lazy_names("valleys.lab", {"errors": "LabError", "settings": ""})
    monkeypatch.delitem(vars(valleys.lab), "LabError", raising=False)
    assert "LabError" not in vars(valleys.lab)
    assert get("LabError") is vars(valleys.lab)["LabError"]
    assert get("settings").__name__ == "valleys.lab.settings"
    assert {"LabError", "settings", "errors"} <= set(names())


def test_the_presets_that_are_listed_are_those_of_the_tasks() -> None:
    listed: dict[str, Iterable[str]] = {
        "bert-imdb": bert._SIZES,
        "bert-mrpc": bert._SIZES,
        "bert-conll2003": bert._SIZES,
        "bilstm-ner": bilstm_ner._SIZES,
        "gpt2-345m": gpt2._SIZES,
        "shakespeare-gpt": shakespeare._SIZES,
        **dict.fromkeys(reinforcement._TASKS, reinforcement._SETTINGS),
        **{
            f"{kind}-{network}": ["paper", "smoke", *cifar._SHARES]
            for kind in ("cifar10", "cifar100")
            for network in cifar._NETWORKS
        },
    }
    for name, presets in listed.items():
        assert list(ENTRIES[name].presets) == list(presets)
    assert all(reinforcement._TASKS[name][0] in ENTRIES[name].what for name in reinforcement._TASKS)
    for kind in (CIFAR10, CIFAR100):
        entry = ENTRIES[f"{kind.name.lower().replace('-', '')}-vgg16"]
        assert kind.name in entry.what
        assert all(folder in entry.data for folder in kind.folders)
    assert repr(MODEL_FOLDER) in ENTRIES["bert-imdb"].data
