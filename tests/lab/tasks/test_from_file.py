"""A task of the user's own: what it may be, and how its mistakes are told."""

from __future__ import annotations

import json
import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from valleys.lab import LabError, compare
from valleys.lab.optimizers.resolve import resolve
from valleys.lab.problem.loop import Loop
from valleys.lab.problem.task import Task
from valleys.lab.tasks import from_file

FILE = """\
import torch
from torch import nn
from valleys.lab import Split, Task

def points(count, seed):
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return Split(x, x.sum(1, keepdim=True))

task = Task(
    name="mine",
    train=points(64, 0),
    validation=points(16, 1),
    test=points(16, 2),
    build_model=lambda: nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)),
    loss=nn.functional.mse_loss,
    metric=nn.functional.mse_loss,
    metric_name="squared error",
    maximize=False,
    target=0.1,
    epochs=2,
)

def made():
    return task

number = 3
"""


LOSS, METRIC = "loss=nn.functional.mse_loss", "metric=nn.functional.mse_loss"


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Remove the modules and paths that the import of a user's file leaves behind."""
    modules, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("my_"):
            del sys.modules[name]


def written(tmp_path: Path, old: str = "", new: str = "") -> Path:
    assert old in FILE
    path = tmp_path / "my_task.py"
    path.write_text(FILE.replace(old, new))
    return path


def told(path: Path, name: str = "task") -> str:
    with pytest.raises(LabError) as caught:
        from_file.load(f"{path}:{name}")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["task", "made"])
def test_a_file_compares_like_a_task_of_the_lab(tmp_path: Path, name: str) -> None:
    path = written(tmp_path)
    comparison = compare(
        f"{path}:{name}", optimizers=["sgd", "alto"], batch_size=16, trials=1, seeds=2, out=tmp_path / "out"
    )
    assert comparison.task == "mine"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["configuration"]["variant"].startswith("my_task.py@")
    assert f"valleys compare {path}:{name} --optimizers sgd,alto" in report["command"]


def test_a_changed_file_is_another_comparison(tmp_path: Path) -> None:
    path = written(tmp_path)
    compare(f"{path}:task", optimizers=["sgd"], batch_size=16, trials=1, seeds=1, out=tmp_path / "out")
    written(tmp_path, "nn.Linear(2, 8)", "nn.Linear(2, 8, bias=False)")
    with pytest.raises(LabError, match=r"variant my_task.py@\w+ there, my_task.py@\w+ now"):
        compare(f"{path}:task", optimizers=["sgd"], batch_size=16, trials=1, seeds=1, out=tmp_path / "out")


def test_modules_beside_the_file_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "my_parts.py").write_text("EPOCHS = 7\n")
    path = written(tmp_path, "epochs=2", "epochs=__import__('my_parts').EPOCHS")
    assert from_file.load(f"{path}:task").epochs == 7


def test_a_loop_is_a_task_too(tmp_path: Path) -> None:
    path = tmp_path / "my_loop.py"
    path.write_text(
        "from valleys.lab import Loop\n"
        "loop = Loop(name='l', metric_name='m', maximize=True, target=1.0, epochs=1, run=print, steps=max)\n"
    )
    assert isinstance(from_file.load(f"{path}:loop"), Loop)


@pytest.mark.parametrize(
    ("old", "new", "line", "named"),
    [
        ("import torch\n", "import torchh\n", 1, "ModuleNotFoundError: No module named 'torchh'"),
        ("def made():", "def made(:", 23, "SyntaxError"),
        ("points(64, 0)", "points(64)", 11, "TypeError: points() missing 1 required positional argument: 'seed'"),
        ("nn.Linear(2, 8)", "nn.Linear(2, 8, nonsense=1)", 14, "TypeError"),
        ("lambda: nn.Sequential(", "lambda: nn.Sequential(nn.Linear(3, 2), ", None, "mat1 and mat2 shapes"),
        (LOSS, "loss=lambda o, t: o / 'x'", 15, "TypeError: unsupported operand"),
        ("maximize=False", "maximise=False", 9, "unexpected keyword argument 'maximise'"),
    ],
)
def test_an_error_in_the_file_is_told_with_its_line(
    tmp_path: Path, old: str, new: str, line: int | None, named: str
) -> None:
    path = written(tmp_path, old, new)
    message = told(path)
    if line is None:  # torch raises it, called by the lab: no line of the file is on the way
        assert message.startswith(f"{path}: mine fails on examples of its train split: RuntimeError: ")
    else:
        assert message.startswith(f"{path}, line {line}: ")
    assert named in message


def test_an_error_while_training_is_told_with_its_line(tmp_path: Path) -> None:
    path = written(
        tmp_path, "loss=nn.functional.mse_loss", "loss=lambda o, t: (o - t).square().mean() * [1.0][len(t) // 17]"
    )
    with pytest.raises(LabError, match=r"my_task.py, line 15: IndexError") as caught:
        # On the few examples of the check, and in batches of 16, nothing is wrong.
        compare(f"{path}:task", optimizers=["torch.optim:SGD"], batch_size=17, trials=1, seeds=1, out=tmp_path / "out")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (
            "loss=nn.functional.mse_loss",
            "loss=lambda o, t: (o - t).square().sum()",
            "the loss of mine must be the mean",
        ),
        (
            "metric=nn.functional.mse_loss",
            "metric=lambda o, t: (o - t).square().sum()",
            "the metric of mine must be the mean",
        ),
        (
            "loss=nn.functional.mse_loss",
            "loss=lambda o, t: (o - t).square()",
            "one number, got a tensor of shape (6, 1)",
        ),
        (LOSS, "loss=lambda o, t: 1.0", "one number, got a float"),
        (LOSS, "loss=lambda o, t: (o - t).mean().log() * torch.nan", "is nan at the start"),
        (LOSS, "loss=lambda o, t: t.mean()", "has no gradient"),
        (
            "metric=nn.functional.mse_loss",
            "metric=lambda o, t: 1.0",
            "the metric of mine must return a tensor, got a float",
        ),
        ("points(16, 2)", "Split(torch.zeros(3), torch.zeros(4))", "as many targets as inputs"),
    ],
)
def test_a_task_that_would_waste_its_runs_is_refused_before_them(
    tmp_path: Path, old: str, new: str, named: str
) -> None:
    assert named in told(written(tmp_path, old, new))


def test_names_and_files_that_lead_nowhere(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert "did you mean task?" in told(path, "tasks")
    assert "number is a int; it must be a valleys.lab.Task or a Loop" in told(path, "number")
    assert "there is no file" in told(tmp_path / "no.py")
    assert "not of the form FILE.py:NAME" in told(path, "a b")
    with pytest.raises(LabError, match="leave data folder and preset out"):
        compare(f"{path}:task", optimizers=["sgd"], batch_size=16, out=tmp_path / "out", preset="smoke")


def test_the_check_leaves_the_callers_generator_alone(tmp_path: Path) -> None:
    import torch

    path = written(tmp_path)
    state = torch.get_rng_state()
    task = from_file.load(f"{path}:task")
    assert isinstance(task, Task)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("content", [b"task = 3\0\n", "task = 3\n".encode("utf-16"), b"# coding: nowhere\ntask = 3\n"])
def test_a_file_that_python_cannot_decode_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "undecodable_task.py").write_bytes(content)
    with pytest.raises(LabError, match=r"undecodable_task.py(, line 1: SyntaxError|: ValueError: source code)"):
        from_file.load(f"{tmp_path / 'undecodable_task.py'}:task")


# --- what a file may do ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["copy", "random", "statistics", "torch", "valleys", "a b"])
def test_a_file_takes_no_module_s_place(tmp_path: Path, name: str) -> None:
    before = {module: sys.modules.get(module) for module in (name, "copy", "random", "statistics", "torch", "valleys")}
    (tmp_path / "my_parts.py").write_text("EPOCHS = 7\n")
    (tmp_path / "colorsys.py").write_text("raise RuntimeError('not the library')\n")
    sys.modules.pop("colorsys", None)
    path = tmp_path / f"{name}.py"
    path.write_text(FILE.replace("epochs=2", "epochs=__import__('my_parts').EPOCHS"))
    task = from_file.load(f"{path}:task")
    assert task.epochs == 7
    assert {module: sys.modules.get(module) for module in before} == before
    assert not str(__import__("colorsys").__file__).startswith(str(tmp_path))


def test_two_files_of_one_name_are_two_modules_and_their_classes_can_be_pickled(tmp_path: Path) -> None:
    tasks = []
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "my_task.py"
        path.write_text(FILE + f"class Own:\n    folder = {folder!r}\n\ndef own():\n    return Own()\n")
        task = from_file.load(f"{path}:task")
        assert isinstance(task, Task)
        tasks.append(task)
    modules = [sys.modules[task.build_model.__module__] for task in tasks]
    assert modules[0] is not modules[1]
    for module, folder in zip(modules, ("one", "other"), strict=True):
        assert pickle.loads(pickle.dumps(module.own())).folder == folder


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("number = 3", "import sys\nsys.exit()", "line 27: SystemExit"),
        ("number = 3", "raise SystemExit(0)", "line 26: SystemExit: 0"),
        ("    return task", "    exit(3)", "line 24: SystemExit: 3"),
        ("target=0.1", "target=float('nan')", "line 9: task 'mine': target must be a finite number"),
        ("maximize=False", "maximize='yes'", "line 9: task 'mine': maximize must be True or False, not 'yes'"),
        ("test=points(16, 2)", "test=points(0, 2)", "line 9: task 'mine': test holds no example"),
        ("lambda: nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))", "lambda m=nn.Linear(2, 1): m", "again"),
        (METRIC, "metric=lambda o, t: print", "the metric of mine must return a tensor"),
        (LOSS, "loss=lambda o, t: [][len(o)]", "line 15: IndexError: list index out of range"),
    ],
)
def test_what_would_fail_after_the_runs_is_refused_before_them(tmp_path: Path, old: str, new: str, named: str) -> None:
    assert named in told(written(tmp_path, old, new), "made" if old == "    return task" else "task")


def test_an_error_of_a_worker_that_reads_ahead_is_told_with_its_line(tmp_path: Path) -> None:
    stream = (
        "Stream(Rows(), workers=1)\n\nclass Rows:\n    def __len__(self):\n        return 16\n\n"
        "    def __getitem__(self, number):\n        raise ValueError('row')\n"
    )
    text = FILE.replace("import Split, Task", "import Split, Stream, Task").replace("points(16, 2)", "read()")
    path = tmp_path / "my_task.py"
    path.write_text(text.replace("task = Task(", f"def read():\n    return {stream}\n\ntask = Task("))
    line = path.read_text().splitlines().index("        raise ValueError('row')") + 1
    assert told(path) == f"{path}, line {line}: ValueError: row"


OPTIMIZER = """
import torch

class Own(torch.optim.SGD):
    steps = 0

    def step(self, closure=None):
        self.steps += 1
        if self.steps == {step}:
            return [][1]
        return super().step(closure)
"""


@pytest.mark.parametrize("step", [1, 15, 16], ids=["first", "in training", "late"])
def test_an_error_of_an_own_optimizer_is_one_line_like_that_of_a_task(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_optimizer.py").write_text(OPTIMIZER.format(step=step))
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, "epochs=2", "epochs=10")
    with pytest.raises(LabError) as caught:
        compare(f"{path}:task", optimizers=["my_optimizer:Own"], batch_size=16, trials=1, out=tmp_path / "out")
    assert str(caught.value).startswith("my_optimizer:Own cannot train mine: IndexError: list index out of range; ")
    assert str(caught.value).endswith("(it failed in my_optimizer.py, line 10)")
    assert (tmp_path / "out").exists() == (step > 12)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("import torchh\n", "my_broken.py, line 1: ModuleNotFoundError: No module named 'torchh'"),
        ("def f(:\n", "my_broken.py, line 1: SyntaxError"),
        ("1 / 0\n", "my_broken.py, line 1: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit()\n", "my_broken.py, line 2: SystemExit"),
    ],
)
def test_a_broken_module_of_an_optimizer_is_one_line(
    text: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_broken.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LabError, match=re.escape(named)) as caught:
        resolve("my_broken:Own")
    assert "\n" not in str(caught.value)
