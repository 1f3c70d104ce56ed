"""CIFAR: both of its forms, damage that is refused, splits that never overlap, presets that are what they say."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lab.tasks.cifar_data import examples, in_memory, load, numbers, parts, write_binary, write_pickles
from valleys.lab.errors import LabError
from valleys.lab.problem.schedules import Schedule
from valleys.lab.tasks import cifar
from valleys.lab.tasks.data.augmentation import Normalized, crop_and_flip
from valleys.lab.tasks.data.cifar_files import CIFAR10, CIFAR100, Cifar, read_cifar
from valleys.lab.tasks.table import ENTRIES

KINDS = pytest.mark.parametrize("kind", [CIFAR10, CIFAR100], ids=["cifar10", "cifar100"])


def python2(pixels: np.ndarray, labels: list[int], key: str) -> bytes:
    """Pickle as Python 2's cPickle wrote it: byte strings, and numpy under its name of then."""

    def text(word: str) -> bytes:
        return b"U" + bytes([len(word)]) + word.encode()

    rows, columns = (b"J" + struct.pack("<i", length) for length in pixels.shape)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text("b") + b"tR"
        b"(K\x01(" + rows + columns + b"tcnumpy\ndtype\n(" + text("u1") + b"K\x00K\x01tR(K\x03" + text("|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + b"T" + struct.pack("<i", pixels.size) + pixels.tobytes() + b"tb"
    )  # fmt: skip
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text("data") + array + text(key) + numbers + b"u."


@KINDS
@pytest.mark.parametrize("protocol", [None, 2, 3, 4])
def test_both_forms_hold_the_same_images_and_classes(kind: Cifar, protocol: int | None, tmp_path: Path) -> None:
    if protocol is None:
        write_binary(kind, tmp_path)
    else:
        write_pickles(kind, tmp_path, protocol=protocol)
    images, labels, test_images, test_labels = read_cifar(kind, tmp_path)
    count = 40 * len(kind.train)
    assert images.shape == (count, 3, 32, 32)
    assert images.dtype == test_images.dtype == torch.uint8
    assert numbers(images) == list(range(count))
    assert labels.tolist() == [i % kind.classes for i in range(count)]
    assert numbers(test_images) == list(range(60_000, 60_020))
    assert test_labels.tolist() == [i % kind.classes for i in range(60_000, 60_020)]
    pixels = examples(40, 0, kind.classes)[0]  # planes of red, green and blue, row by row
    assert images[7, 2, 5, 9] == pixels[7, 2 * 1024 + 5 * 32 + 9]


@KINDS
def test_pickles_of_python_2_are_read(kind: Cifar, tmp_path: Path) -> None:
    for name, (pixels, labels) in parts(kind, 3, 2).items():
        (tmp_path / name).write_bytes(python2(pixels, labels, kind.key))
    images, labels_read, *_ = read_cifar(kind, tmp_path)
    assert numbers(images) == list(range(3 * len(kind.train)))
    assert labels_read.tolist() == [i % kind.classes for i in range(len(images))]


@KINDS
def test_the_folder_or_its_parent_may_be_named(kind: Cifar, tmp_path: Path) -> None:
    write_pickles(kind, tmp_path / kind.folders[1], per_file=2)
    assert len(read_cifar(kind, tmp_path)[0]) == 2 * len(kind.train)
    write_binary(kind, tmp_path / kind.folders[0], per_file=3)
    assert len(read_cifar(kind, tmp_path)[0]) == 3 * len(kind.train)
    assert len(read_cifar(kind, tmp_path / kind.folders[1])[0]) == 2 * len(kind.train)


def test_missing_data_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"nowhere' does not exist; name the folder that holds cifar-10-batches-bin or"):
        read_cifar(CIFAR10, tmp_path / "nowhere")
    with pytest.raises(LabError, match=r"has no CIFAR-10; name the folder that holds cifar-10-batches-bin \(binary\)"):
        read_cifar(CIFAR10, tmp_path)
    with pytest.raises(LabError, match="CIFAR-100 is read from a folder, and none is named: unpack cifar-100-binary"):
        ENTRIES["cifar100-vgg16"].load(None, "paper")
    write_binary(CIFAR10, tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    (tmp_path / "test_batch.bin").unlink()
    with pytest.raises(LabError, match=r"incomplete: .* lacks data_batch_3.bin, test_batch.bin; unpack"):
        read_cifar(CIFAR10, tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it holds 0 bytes, no multiple of the 3073 of an image"),
        (bytes(3073 + 3072), "it holds 6145 bytes, no multiple of the 3073"),
        (bytes([10]) + bytes(3072), "it holds the label 10, CIFAR-10 has 0 to 9"),
    ],
)
def test_damaged_binary_files_are_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    (write_binary(CIFAR10, tmp_path) / "data_batch_2.bin").write_bytes(content)
    with pytest.raises(LabError, match=f"data_batch_2.bin is not a sound file of CIFAR-10: {reason}.* unpack"):
        read_cifar(CIFAR10, tmp_path)


IMAGES = np.zeros((2, 3072), dtype=np.uint8)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "it has no entry 'data' and no 'labels'"),
        ({b"data": IMAGES}, "it has no entry 'labels'"),
        ({b"data": IMAGES.astype(np.float32), b"labels": [0, 1]}, "its images are no array of uint8 of shape"),
        ({b"data": IMAGES.astype(np.int8), b"labels": [0, 1]}, "its images are no array of uint8 of shape"),
        ({b"data": IMAGES[:, :3000], b"labels": [0, 1]}, "its images are no array of uint8 of shape"),
        ({b"data": IMAGES[0], b"labels": [0, 1]}, "its images are no array of uint8 of shape"),
        ({b"data": IMAGES[:0], b"labels": []}, "its images are no array of uint8 of shape"),
        ({b"data": b"abc", b"labels": [0, 1]}, "its images are no array of uint8 of shape"),
        ({b"data": IMAGES, b"labels": [0, 1, 2]}, "it holds 2 images but 3 labels"),
        ({b"data": IMAGES, b"labels": [0, -1]}, "it holds the label -1"),
        ({b"data": IMAGES, b"labels": [0, 2**70]}, "it holds the label 1180591620717411303424"),
        ({b"data": IMAGES, b"labels": [0, True]}, "its labels are not a list of integers"),
        ({b"data": IMAGES, b"labels": 5}, "its labels are not a list of integers"),
    ],
)
def test_pickles_of_something_else_are_refused(content: object, reason: str, tmp_path: Path) -> None:
    (write_pickles(CIFAR10, tmp_path) / "test_batch").write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(LabError, match=f"test_batch is not a sound file of CIFAR-10: {reason}"):
        read_cifar(CIFAR10, tmp_path)


def test_a_pickle_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = write_pickles(CIFAR10, tmp_path) / "data_batch_5"
    whole = path.read_bytes()
    for length in (0, 1, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(LabError, match="data_batch_5 is not a sound file of CIFAR-10: it cannot be unpickled"):
            read_cifar(CIFAR10, tmp_path)


class _Touches:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "code",
    [
        b"cbuiltins\neval\n(U\x011tR.",
        b"cos\nsystem\n(U\x04truetR.",
        b"c__builtin__\ngetattr\n.",
        b"cnumpy\nload\n.",
        b"cnumpy.core.multiarray\nndarray\n.",
        b"cnumpy.testing\n_reconstruct\n.",
        b"c_codecs\ndecode\n.",
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.",
        b"\x80\x04\x8c\x05numpy\x8c\x0cf2py.compile\x93.",
    ],
)
def test_a_pickle_that_wants_anything_but_arrays_is_refused(code: bytes, tmp_path: Path) -> None:
    (write_pickles(CIFAR10, tmp_path) / "data_batch_1").write_bytes(code)
    with pytest.raises(LabError, match=r"data_batch_1 .*cannot be unpickled \(it wants .*which is no part of CIFAR"):
        read_cifar(CIFAR10, tmp_path)


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    content = pickle.dumps({b"data": _Touches(victim), b"labels": [0]}, protocol=4)
    (write_pickles(CIFAR10, tmp_path) / "data_batch_1").write_bytes(content)
    with pytest.raises(LabError, match="cannot be unpickled"):
        read_cifar(CIFAR10, tmp_path)
    assert not victim.exists()


def test_a_tenth_of_each_class_validates_and_nothing_overlaps_or_is_lost(tmp_path: Path) -> None:
    write_binary(CIFAR10, tmp_path, per_file=100)
    task = load(tmp_path)
    (train, train_labels), (validation, labels), (test, test_labels) = in_memory(task)
    assert [len(train), len(validation), len(test)] == [450, 50, 20]
    assert train.dtype == torch.uint8
    assert sorted(numbers(train) + numbers(validation)) == list(range(500))
    assert numbers(test) == list(range(60_000, 60_020))
    assert labels.bincount().tolist() == [5] * 10
    for images, classes in ((train, train_labels), (validation, labels), (test, test_labels)):
        assert [number % 10 for number in numbers(images)] == classes.tolist()


def test_splits_are_the_same_on_every_call_whatever_the_preset(tmp_path: Path) -> None:
    write_binary(CIFAR10, tmp_path)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = in_memory(load(tmp_path))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    for name, preset in (("cifar10-resnet20", "paper"), ("cifar10-vgg16", "smoke"), ("cifar10-resnet8", "standard")):
        for (images, targets), (others, same) in zip(first, in_memory(load(tmp_path, name, preset)), strict=True):
            assert torch.equal(images, others)
            assert torch.equal(targets, same)


def test_smoke_takes_fewer_images_evenly_from_the_same_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "_SMOKE_TRAIN", 60)
    monkeypatch.setattr(cifar, "_SMOKE_HELD_OUT", 15)
    write_binary(CIFAR10, tmp_path, per_file=100, tests=40)
    whole, some = in_memory(load(tmp_path)), in_memory(load(tmp_path, preset="smoke"))
    assert [len(targets) for _, targets in some] == [60, 15, 15]
    for (images, _), (fewer, targets) in zip(whole, some, strict=True):
        assert set(numbers(fewer)) < set(numbers(images))
        assert len(set(numbers(fewer))) == len(fewer)
        counts = targets.bincount(minlength=10)
        assert counts.max() - counts.min() <= 1
        assert [number % 10 for number in numbers(fewer)] == targets.tolist()


def test_smoke_is_as_large_as_documented() -> None:
    assert (cifar._SMOKE_TRAIN, cifar._SMOKE_HELD_OUT) == (4_000, 1_000)


def test_a_single_image_is_too_few(tmp_path: Path) -> None:
    write_binary(CIFAR100, tmp_path, per_file=1)
    with pytest.raises(LabError, match="has 1 training image of CIFAR-100; it needs at least 2"):
        load(tmp_path, "cifar100-resnet20")


PRESETS = [
    # name, preset, target, epochs, schedule, parameters
    ("cifar10-resnet20", "paper", 88, 200, Schedule("step"), 269_722),
    ("cifar10-resnet18", "paper", 88, 200, Schedule("step"), 11_173_962),
    ("cifar10-vgg16", "paper", 88, 200, Schedule("step"), 33_726_378),
    ("cifar10-densenet169", "paper", 85, 200, Schedule("step"), 7_259_786),
    ("cifar100-resnet20", "paper", 55, 200, Schedule("step"), 275_572),
    ("cifar100-resnet18", "paper", 55, 200, Schedule("step"), 11_220_132),
    ("cifar100-vgg16", "paper", 55, 200, Schedule("step"), 34_095_108),
    ("cifar100-densenet169", "paper", 53, 200, Schedule("step"), 7_271_396),
    ("cifar10-resnet20", "smoke", 30, 5, Schedule("cosine"), 75_290),
    ("cifar10-resnet18", "smoke", 30, 5, Schedule("cosine"), 176_402),
    ("cifar100-vgg16", "smoke", 3, 5, Schedule("cosine"), 270_248),
    ("cifar100-densenet169", "smoke", 3, 5, Schedule("cosine"), 32_228),
    ("cifar10-resnet20", "tenth", 60, 400, Schedule("step"), 269_722),
    ("cifar10-resnet20", "fortieth-16px", 40, 400, Schedule("step"), 269_722),
    ("cifar100-resnet20", "tenth-16px", 20, 400, Schedule("step"), 275_572),
    ("cifar100-vgg16", "fortieth", 10, 400, Schedule("step"), 34_095_108),
    ("cifar10-resnet8", "standard", 70, 10, Schedule("cosine"), 75_290),
    ("cifar10-resnet8", "half", 50, 5, Schedule("cosine"), 19_218),
]


def test_every_task_and_preset_is_known() -> None:
    entries = {name: entry for name, entry in ENTRIES.items() if name.startswith("cifar")}
    assert {(name, preset) for name, entry in entries.items() for preset in entry.presets} == {
        *((f"{data}-{network}", preset)
          for data in ("cifar10", "cifar100")
          for network in ("resnet20", "resnet18", "vgg16", "densenet169")
          for preset in ("paper", "smoke", "tenth", "fortieth", "tenth-16px", "fortieth-16px")),
        ("cifar10-resnet8", "standard"),
        ("cifar10-resnet8", "half"),
    }  # fmt: skip
    assert all(entry.presets[0] in ("paper", "standard") for entry in entries.values())
    assert all(entry.reads_folder and entry.data and entry.what for entry in entries.values())
    assert "ResNet-18" in ENTRIES["cifar100-resnet18"].what


@pytest.mark.parametrize(("name", "preset", "target", "epochs", "schedule", "count"), PRESETS)
def test_a_preset_is_what_it_says(
    name: str, preset: str, target: float, epochs: int, schedule: Schedule, count: int, tmp_path: Path
) -> None:
    kind = CIFAR10 if name.startswith("cifar10-") else CIFAR100
    write_binary(kind, tmp_path)
    task = load(tmp_path, name, preset)
    with torch.device("meta"):
        model = task.build_model()
    assert sum(param.numel() for param in model.parameters()) == count
    assert (task.name, task.target, task.epochs, task.schedule) == (name, target, epochs, schedule)
    batch_size = {"tenth": 1638, "fortieth": 410}.get(preset.removesuffix("-16px"), 128)
    assert (task.batch_size, task.metric_name, task.maximize) == (batch_size, "accuracy %", True)
    assert (task.augment is crop_and_flip) == (not preset.endswith("-16px"))
    parts = [] if preset == "standard" else [preset]
    assert task.variant == ", ".join([*parts, f"{40 * len(kind.train)} + 20 images"])


def test_the_variant_of_the_original_data_is_the_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "_TRAIN", 200)
    write_binary(CIFAR10, tmp_path)
    assert load(tmp_path).variant == "paper"
    assert load(tmp_path, preset="smoke").variant == "smoke"
    assert load(tmp_path, "cifar10-resnet8", "standard").variant == ""


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "vgg16", "densenet169"])
def test_bytes_go_in_and_the_loss_falls(name: str, tmp_path: Path) -> None:
    write_binary(CIFAR10, tmp_path)
    task = load(tmp_path, f"cifar10-{name}", "smoke")
    torch.manual_seed(0)
    model = task.build_model()
    assert isinstance(next(iter(model.children())), Normalized)
    assert task.augment is not None
    inputs, targets = next(task.train.reader(torch.device("cpu")).read([torch.arange(16)]))
    pixels = task.augment(inputs, torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(6):
        loss = task.loss(model(pixels), targets)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert losses[-1] < losses[0]
    assert 0 <= task.metric(model(pixels), targets).item() <= 100


def test_the_networks_input_has_about_zero_mean_and_unit_deviation(tmp_path: Path) -> None:
    write_binary(CIFAR10, tmp_path)
    model = load(tmp_path).build_model()
    assert isinstance(model, nn.Sequential)
    grey = torch.tensor([0.4914, 0.4822, 0.4465])[:, None, None].mul(255).round().to(torch.uint8).expand(1, 3, 2, 2)
    assert model[0](grey).abs().max() < 0.01
    assert cifar._PIXELS[CIFAR10] != cifar._PIXELS[CIFAR100]


def test_the_first_line_of_an_error_names_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    def fails(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    write_binary(CIFAR10, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_bytes", fails)
        with pytest.raises(LabError, match=r"cannot read .*data_batch_1.bin: Permission denied"):
            read_cifar(CIFAR10, tmp_path)


@KINDS
def test_transposed_arrays_are_read(kind: Cifar, tmp_path: Path) -> None:
    write_pickles(kind, tmp_path, per_file=3)
    pixels, labels = examples(3, 0, kind.classes)
    content = {b"data": np.asfortranarray(pixels), kind.key.encode(): labels}
    (tmp_path / kind.train[0]).write_bytes(pickle.dumps(content, protocol=2))
    images, *_ = read_cifar(kind, tmp_path)
    assert np.array_equal(images[:3].flatten(1).numpy(), pixels)


@pytest.mark.parametrize("state", [b"N", b"]", b"(K\x01K\x02K\x03K\x04K\x05t", b"}", b"(K\x01)NK\x00U\x01xt"])
def test_a_damaged_state_of_an_array_is_refused(state: bytes, tmp_path: Path) -> None:
    """Numpy itself crashes on some."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR" + state + b"b"
    content = b"\x80\x02}(U\x04data" + array + b"U\x06labels](K\x01eu."
    (write_pickles(CIFAR10, tmp_path) / "test_batch").write_bytes(content)
    with pytest.raises(LabError, match="test_batch is not a sound file of CIFAR-10: its images are no array of uint8"):
        read_cifar(CIFAR10, tmp_path)
