"""Tasks: splits that never overlap or move, data that is refused when it is damaged, targets one can believe in."""

from __future__ import annotations

import gzip
import math
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch

from valleys.lab import tasks
from valleys.lab.errors import LabError
from valleys.lab.tasks import fashion_mnist, sine
from valleys.lab.tasks.data.idx import read_idx
from valleys.lab.tasks.shared.metrics import accuracy
from valleys.lab.tasks.shared.splits import deal

TRAIN, TEST = 40, 10


def load(name: str, folder: Path | None = None) -> Any:
    """Some task; which of its fields there are is the test's concern."""
    return tasks.load(name, folder)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_fashion(folder: Path, compressed: bool = True, train: int = TRAIN) -> Path:
    """Every image's first pixel is its number, so that splits can be told apart."""
    folder.mkdir(exist_ok=True)
    for part, count, first in (("train", train, 0), ("t10k", TEST, 200)):
        images = np.zeros((count, 28, 28), dtype=np.uint8)
        images[:, 0, 0] = first + np.arange(count)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            content = idx(array)
            path = folder / (f"{name}.gz" if compressed else name)
            path.write_bytes(gzip.compress(content) if compressed else content)
    return folder


def numbers(images: torch.Tensor) -> list[int]:
    pixels = images[:, 0, 0, 0] * fashion_mnist._DEVIATION + fashion_mnist._MEAN
    return sorted((pixels * 255).round().int().tolist())


@pytest.fixture
def no_debian(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fashion_mnist, "_DEBIAN_FOLDER", tmp_path / "no such package")


@pytest.fixture
def no_openml(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: object, **__: object) -> None:
        raise AssertionError("asked OpenML")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)


@pytest.mark.parametrize("name", ["sine", "digits"])
def test_two_loads_give_the_same_splits_whatever_the_global_seed(name: str) -> None:
    torch.manual_seed(1)
    first = load(name)
    torch.manual_seed(2)
    second = load(name)
    for split in ("train", "validation", "test"):
        assert torch.equal(getattr(first, split).inputs, getattr(second, split).inputs)
        assert torch.equal(getattr(first, split).targets, getattr(second, split).targets)


def test_loading_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    tasks.load("sine")
    tasks.load("digits")
    assert torch.equal(torch.get_rng_state(), state)


def test_sine_is_a_sine_with_the_stated_noise_and_a_reachable_target() -> None:
    task = load("sine")
    assert [len(task.train), len(task.validation), len(task.test)] == [32768, 4096, 4096]
    assert task.schedule.kind == "constant"
    assert not task.maximize
    for split in (task.train, task.validation, task.test):
        assert split.inputs.abs().max() <= 10
        floor = task.metric(split.inputs.sin(), split.targets).item()
        assert floor == pytest.approx(sine._NOISE**2, rel=0.1)
        assert task.reached(floor)
    assert not task.reached(task.metric(torch.zeros(4096, 1), task.validation.targets).item())
    points = torch.cat([task.train.inputs, task.validation.inputs, task.test.inputs])
    assert len(points.unique()) > 0.95 * len(points)  # float32 has ties, copies of a split would have thousands


def test_digits_are_dealt_stratified_without_overlap_or_loss() -> None:
    from sklearn.datasets import load_digits

    task = load("digits")
    assert [len(task.train), len(task.validation), len(task.test)] == [1077, 360, 360]
    inputs = torch.cat([task.train.inputs, task.validation.inputs, task.test.inputs])
    pixels = torch.tensor(load_digits().data, dtype=torch.float32)
    images = sorted(map(tuple, ((inputs.flatten(1) + 1) * 8).tolist()))
    assert images == sorted(map(tuple, pixels.tolist()))
    for split in (task.validation, task.test):
        shares = split.targets.bincount(minlength=10)
        assert shares.min() >= 33
        assert shares.max() <= 39


def test_digits_keep_each_image_with_its_label() -> None:
    from sklearn.datasets import load_digits

    data = load_digits()
    labels = {tuple(image): label for image, label in zip(data.data.tolist(), data.target.tolist(), strict=True)}
    task = load("digits")
    for image, label in zip(((task.test.inputs.flatten(1) + 1) * 8).tolist(), task.test.targets.tolist(), strict=True):
        assert labels[tuple(image)] == label


@pytest.mark.parametrize("name", ["sine", "digits"])
def test_the_model_fits_its_data_and_its_initialisation_follows_the_seed(name: str) -> None:
    task = load(name)
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(torch.cat([p.flatten() for p in task.build_model().parameters()]))
    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])
    outputs = task.build_model()(task.validation.inputs)
    assert math.isfinite(task.loss(outputs, task.validation.targets).item())
    assert not task.reached(task.metric(outputs, task.validation.targets).item())


def test_deal_gives_every_index_once_and_every_class_its_share() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    piles = deal(labels, 10, seed=4)
    assert torch.cat(piles).sort().values.tolist() == list(range(100))
    assert all(labels[pile].bincount().tolist() == [5, 3, 2] for pile in piles)
    assert not torch.equal(piles[0], deal(labels, 10, seed=5)[0])


def test_accuracy_of_a_broken_network_is_no_number() -> None:
    outputs, targets = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.zeros(3, dtype=torch.int64)
    assert accuracy(outputs, targets).item() == pytest.approx(200 / 3)
    assert math.isnan(accuracy(torch.full((3, 2), math.nan), targets).item())
    assert math.isnan(accuracy(outputs.clone().fill_(math.inf), targets).item())


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.usefixtures("no_debian", "no_openml")
def test_fashion_mnist_from_a_folder(tmp_path: Path, compressed: bool) -> None:
    task = load("fashion-mnist", write_fashion(tmp_path / "data", compressed))
    assert task.train.inputs.shape == (36, 1, 28, 28)
    assert task.validation.inputs.shape == (4, 1, 28, 28)
    assert sorted(numbers(task.train.inputs) + numbers(task.validation.inputs)) == list(range(TRAIN))
    assert numbers(task.test.inputs) == list(range(200, 200 + TEST))
    pixels = (task.train.inputs[:, 0, 0, 0] * fashion_mnist._DEVIATION + fashion_mnist._MEAN) * 255
    assert torch.equal(pixels.round().long() % 10, task.train.targets)
    assert task.build_model()(task.train.inputs).shape == (36, 10)


@pytest.mark.usefixtures("no_openml")
def test_fashion_mnist_from_debians_package_when_no_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "_DEBIAN_FOLDER", write_fashion(tmp_path / "package"))
    assert len(load("fashion-mnist").test) == TEST


@pytest.mark.usefixtures("no_openml")
def test_a_named_folder_without_the_files_never_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "_DEBIAN_FOLDER", write_fashion(tmp_path / "package"))
    folder = write_fashion(tmp_path / "mine")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(LabError, match=r"mine' lacks t10k-labels-idx1-ubyte \("):
        tasks.load("fashion-mnist", folder)
    with pytest.raises(LabError, match="does not exist"):
        tasks.load("fashion-mnist", tmp_path / "nowhere")


@pytest.mark.usefixtures("no_debian")
def test_fashion_mnist_from_openml(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fetch(name: str, **options: object) -> SimpleNamespace:
        calls.append((name, options))
        pixels = np.zeros((70_000, 784), dtype=np.uint8)
        pixels[60_000:, 0] = 255
        return SimpleNamespace(data=pixels, target=(np.arange(70_000) % 10).astype(str).astype(object))

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    task = load("fashion-mnist")
    assert [len(task.train), len(task.validation), len(task.test)] == [54_000, 6_000, 10_000]
    assert set(numbers(task.train.inputs)) == {0}
    assert set(numbers(task.test.inputs)) == {255}
    assert task.test.targets[:3].tolist() == [0, 1, 2]
    (name, options), *more = calls
    assert not more
    assert (name, options["version"], options["as_frame"]) == ("Fashion-MNIST", 1, False)
    assert "data_home" not in options


@pytest.mark.usefixtures("no_debian")
@pytest.mark.parametrize(
    "failure", [URLError("no network"), ValueError("bad checksum"), ImportError("no sklearn"), EOFError("cut off")]
)
def test_without_any_data_one_line_names_all_three_ways(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def fetch(*_: object, **__: object) -> None:
        warnings.warn("A network error occurred while downloading. Retrying...", stacklevel=1)
        raise failure

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    with pytest.raises(LabError) as caught:
        tasks.load("fashion-mnist")
    for way in ("folder", "dataset-fashion-mnist", "OpenML"):
        assert way in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("no_debian")
def test_openml_of_another_shape_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sklearn.datasets.fetch_openml",
        lambda *_, **__: SimpleNamespace(data=np.zeros((7, 784)), target=np.zeros(7).astype(str)),
    )
    with pytest.raises(LabError, match=r"\(7, 784\) instead of \(70000, 784\)"):
        tasks.load("fashion-mnist")


@pytest.mark.usefixtures("no_debian")
@pytest.mark.parametrize(("pixel", "label"), [(256, "3"), (-1, "3"), (math.nan, "3"), (0, "10"), (0, "-1"), (0, "")])
def test_openml_with_numbers_out_of_range_is_refused(monkeypatch: pytest.MonkeyPatch, pixel: float, label: str) -> None:
    data, target = np.zeros((70_000, 784), dtype=np.float32), np.full(70_000, "3", dtype=object)
    data[-1, -1], target[-1] = pixel, label
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda *_, **__: SimpleNamespace(data=data, target=target))
    with pytest.raises(LabError, match="other pixels than 0 to 255 or labels than 0 to 9"):
        tasks.load("fashion-mnist")


@pytest.mark.parametrize(
    ("file", "array", "message"),
    [
        ("train-images-idx3-ubyte.gz", np.zeros((TRAIN, 14, 14)), "14 x 14"),
        ("train-labels-idx1-ubyte.gz", np.zeros(TRAIN - 1), "40 images but .* 39 labels"),
        ("t10k-labels-idx1-ubyte.gz", np.full(TEST, 10), "the label 10"),
        ("t10k-images-idx3-ubyte.gz", np.zeros(TEST), "begins with 00000801, not with 00000803"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(
    tmp_path: Path, file: str, array: np.ndarray, message: str
) -> None:
    folder = write_fashion(tmp_path)
    (folder / file).write_bytes(gzip.compress(idx(array.astype(np.uint8))))
    with pytest.raises(LabError, match=message) as caught:
        tasks.load("fashion-mnist", folder)
    assert file in str(caught.value)


def test_one_image_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="at least 2"):
        tasks.load("fashion-mnist", write_fashion(tmp_path, train=1))


SOUND = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
COMPRESSED = gzip.compress(SOUND, mtime=0)
DAMAGE = {
    "nothing": (b"", "holds 0 bytes"),
    "header cut off": (SOUND[:15], "15 bytes, fewer than the 16"),
    "one byte short": (SOUND[:-1], "announces 2 x 3 x 4 bytes, 23 follow"),
    "one byte too many": (SOUND + b"\0", "more follow"),
    "floats": (SOUND[:2] + b"\x0d" + SOUND[3:], "begins with 00000d03"),
    "a huge announcement": (SOUND[:4] + b"\xff" * 12 + SOUND[16:], "4294967295 x"),
    "no images": (idx(np.zeros((0, 28, 28), dtype=np.uint8)), "it is empty"),
    "a web page": (b"<!DOCTYPE html><html>", "begins with 3c21444f"),
    "gzip cut off": (COMPRESSED[:-12], "cut off or corrupt"),
    "gzip's checksum": (COMPRESSED[:-8] + b"\0\0\0\0" + COMPRESSED[-4:], "cut off or corrupt"),
    "gzip's stream": (COMPRESSED[:12] + b"\xff\xff\xff" + COMPRESSED[15:], "cut off or corrupt"),
    "gzip of too little": (gzip.compress(SOUND[:-3]), "21 follow"),
}


@pytest.mark.parametrize("content", [SOUND, COMPRESSED])
def test_idx_reads_plain_and_compressed_whatever_the_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "images.dat"
    path.write_bytes(content)
    assert torch.equal(read_idx(path, 3), torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize(("content", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_idx_refuses_damage_naming_the_file_and_what_is_wrong(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(LabError, match=message) as caught:
        read_idx(path, 3)
    assert str(path) in str(caught.value)


def test_idx_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"cannot read .*nowhere: No such file"):
        read_idx(tmp_path / "nowhere", 1)


def test_unknown_tasks_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(LabError, match=r"unknown task 'fashion_mnist'; did you mean fashion-mnist.*digits.*sine"):
        tasks.load("fashion_mnist")
    with pytest.raises(LabError, match=r"unknown task 'imagenet'; did you mean imagenet-resnet"):
        tasks.load("imagenet")


def test_a_folder_for_a_task_that_reads_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="sine reads no files"):
        tasks.load("sine", tmp_path)


def test_every_task_says_what_it_is_in_one_line_each() -> None:
    for name, entry in tasks.entries().items():
        for text in (name, entry.what, entry.data, entry.needs):
            assert "\n" not in text
        assert entry.what
        assert entry.data
        assert entry.presets
        assert len(set(entry.presets)) == len(entry.presets)
    assert list(tasks.entries()) == sorted(tasks.entries())
    assert {tasks.load(name).name for name in ("sine", "digits")} == {"sine", "digits"}


def test_listing_the_tasks_imports_nothing_heavy() -> None:
    code = (
        "import sys; from valleys.lab import tasks; tasks.entries(); heavy = {'transformers', 'datasets', 'tokenizers',"
        "'stable_baselines3', 'gymnasium', 'sklearn', 'PIL'}; print(heavy & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"set()\n"


def test_unknown_presets_are_refused_with_the_choices() -> None:
    with pytest.raises(LabError, match=r"unknown preset of fashion-mnist 'smoke'\. Choices: standard, half"):
        tasks.load("fashion-mnist", preset="smoke")
