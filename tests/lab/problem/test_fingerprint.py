"""The fingerprint of a problem notices what would mix two problems, and forgives the last digits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from valleys.lab.problem.data import Split, Stream
from valleys.lab.problem.fingerprint import changes, fingerprint
from valleys.lab.problem.task import Task

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(300, 3, 8, 8, generator=GENERATOR)
CLASSES = torch.randint(10, (300,), generator=GENERATOR)


def task(images: Tensor = IMAGES, classes: Tensor = CLASSES, **changed: Any) -> Task:
    parts = [Split(images[a:b], classes[a:b]) for a, b in ((0, 200), (200, 250), (250, 300))]
    fields: dict[str, Any] = {
        "train": parts[0],
        "validation": parts[1],
        "test": parts[2],
        "build_model": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 10)),
        "loss": nn.functional.cross_entropy,
        **changed,
    }
    return Task(
        name="toy",
        metric=nn.functional.cross_entropy,
        metric_name="loss",
        maximize=False,
        target=1.0,
        epochs=1,
        **fields,
    )


def entries(problem: Task) -> Any:
    """As a storage gives them back."""
    return json.loads(json.dumps(fingerprint(problem, is_object=True)))


DATA = ["training data", "validation data", "test data"]


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        (lambda: task(), []),
        (lambda: task(IMAGES * (1 + 1e-6)), []),
        (lambda: task(IMAGES + 1e-5 * torch.randn(IMAGES.shape)), []),
        (lambda: task(IMAGES.flip(3)), [*DATA, "loss of six examples"]),
        (lambda: task(IMAGES.transpose(2, 3)), [*DATA, "loss of six examples"]),
        (lambda: task(IMAGES * 2 - 1), [*DATA, "loss of six examples"]),
        (lambda: task(classes=(CLASSES + 1) % 10), [*DATA, "loss of six examples"]),
        (lambda: task(IMAGES.flip(0), CLASSES.flip(0)), [*DATA, "loss of six examples"]),
        (lambda: task(test=Split(IMAGES[249:299], CLASSES[249:299])), ["test data"]),
        (lambda: task(train=Split(IMAGES[:199], CLASSES[:199])), ["training data"]),
        (lambda: task(loss=lambda a, b: nn.functional.cross_entropy(a, b, reduction="sum")), ["loss of six examples"]),
        (
            lambda: task(build_model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 10, bias=False))),
            ["initial weights at seed 0", "loss of six examples"],
        ),
    ],
)  # fmt: skip
def test_what_changes_is_named(changed: Callable[[], Task], names: list[str]) -> None:
    assert changes(entries(task()), entries(changed())) == names


def test_tokens_dictionaries_pixels_and_streams_have_fingerprints() -> None:
    tokens = torch.randint(1000, (200, 16), generator=GENERATOR)
    mask = torch.ones(200, 16, dtype=torch.bool)

    def of(ids: Tensor) -> Any:
        return entries(task(train=Split({"ids": ids, "mask": mask}, ids[:, 0]), build_model=Ids, loss=first))

    altered = tokens.clone()
    altered[-1, -1] += 1
    assert changes(of(tokens), of(tokens)) == []
    assert changes(of(tokens), of(altered)) == ["training data"]
    pixels = (255 * IMAGES).to(torch.uint8)
    near = (pixels.int() + torch.randint(-1, 2, pixels.shape)).clamp(0, 255).to(torch.uint8)
    assert changes(data_of(pixels), data_of(near)) == [], "another decoder"
    assert changes(data_of(pixels), data_of(255 - pixels)) == ["training data"]


def data_of(pixels: Tensor) -> Any:
    stream = Stream(torch.utils.data.TensorDataset(pixels[:200], CLASSES[:200]), workers=2)
    return json.loads(json.dumps(fingerprint(task(train=stream))))


class Ids(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.scale * inputs["ids"].sum(1)


def first(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.float().mean() * 0


def test_an_object_that_is_no_task_has_none() -> None:
    data = fingerprint(task())
    assert list(data) == DATA, "of a task by name"


SOURCES = {
    "task.py": "import helper\nfrom package import part\nfrom missing import nothing\nimport torch\n",
    "helper.py": "from deeper import x\n",
    "deeper.py": "x = 1\n",
    "package/__init__.py": "from .inner import y\n",
    "package/part.py": "z = 3\n",
    "package/inner.py": "y = 2\n",
    "other.py": "import task\n",
    "missing.txt": "",
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_change_of_an_imported_file_is_noticed(name: str, tmp_path: Path) -> None:
    for path, text in SOURCES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    before = fingerprint(task(), tmp_path / "task.py")
    with (tmp_path / name).open("a") as file:
        file.write("# changed\n")
    expected = [name] if name not in ("other.py", "missing.txt") else []
    assert changes(before, fingerprint(task(), tmp_path / "task.py")) == expected


def test_an_optimizer_of_one_s_own_has_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "fingerprinted.py").write_text("def sgd(): ...\n")
    names = ["fingerprinted:sgd", "torch.optim:Adam", "adamw"]
    before = fingerprint(task(), optimizers=names)
    assert [name for name in before if "optimizer" in name] == ["fingerprinted.py of optimizer fingerprinted:sgd"]
    (tmp_path / "fingerprinted.py").write_text("def sgd(): return 1\n")
    assert changes(before, fingerprint(task(), optimizers=names)) == ["fingerprinted.py of optimizer fingerprinted:sgd"]


def test_numbers_that_are_not_finite_are_compared_as_such() -> None:
    broken = replace(task(), train=Split(IMAGES[:200] / 0, CLASSES[:200]))
    assert changes(entries(broken), entries(broken)) == []
    assert "training data" in changes(entries(task()), entries(broken))
