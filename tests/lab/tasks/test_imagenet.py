"""ImageNet's layout: images decoded as documented, splits by class, damage named by path, small models that train."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from valleys.lab.errors import LabError
from valleys.lab.problem.schedules import Schedule
from valleys.lab.problem.task import Stream, Task
from valleys.lab.tasks import imagenet
from valleys.lab.tasks.data.image_folder import Images, held_out, list_images
from valleys.lab.tasks.table import ENTRIES

CPU = torch.device("cpu")
CLASSES = ["n01", "n02", "n03"]
COLOURS = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]


def write(folder: Path, train: int = 6, val: int = 2) -> Path:
    """Images of one colour per class."""
    for part, count in (("train", train), ("val", val)):
        for name, colour in zip(CLASSES, COLOURS, strict=True):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (70 + i, 66), colour).save(folder / part / name / f"{name}_{i}.JPEG", quality=95)
    return folder


def load(folder: Path, name: str = "imagenet-resnet34", preset: str = "smoke") -> Task:
    task = ENTRIES[name].load(folder, preset)
    assert isinstance(task, Task)
    return task


def files(stream: object) -> list[str]:
    assert isinstance(stream, Stream)
    assert isinstance(stream.dataset, Images)
    return list(stream.dataset.files)


def test_an_image_is_scaled_by_its_shorter_side_and_its_middle_is_kept(tmp_path: Path) -> None:
    for name, (width, height) in (("wide", (160, 80)), ("high", (80, 160))):
        along = np.linspace(0, 255, 160).round().astype(np.uint8)
        pixels = np.broadcast_to(along[None, :, None] if width > height else along[:, None, None], (height, width, 3))
        (tmp_path / "c").mkdir(exist_ok=True)
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / "c" / f"{name}.png")
    _, images = list_images(tmp_path, 40)
    assert list(images.files) == ["c/high.png", "c/wide.png"]
    expected = torch.linspace(0, 255, 160).reshape(80, 2).mean(1)[20:60]  # half the size, and its middle
    for (image, _), across in zip((images[0], images[1]), (2, 1), strict=True):
        assert image.shape == (3, 40, 40)
        assert image.dtype == torch.uint8
        assert image.is_contiguous()
        torch.testing.assert_close(image.float().mean((0, across)), expected, atol=1.0, rtol=0)


def test_scaling_down_filters_against_aliasing(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    stripes = np.zeros((256, 256), dtype=np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "c" / "stripes.png")
    image, _ = list_images(tmp_path, 32)[1][0]
    assert image.shape == (3, 32, 32)
    assert (image[..., 4:-4].float() - 127.5).abs().max() < 8


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_images_of_any_kind_become_three_channels(mode: str, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    path = tmp_path / "c" / f"image.{'jpg' if mode == 'CMYK' else 'png'}"
    Image.new("RGB", (9, 8), (204, 204, 204)).convert(mode).save(path)
    image, target = list_images(tmp_path, 8)[1][0]
    assert image.shape == (3, 8, 8)
    assert (image.float() - 204).abs().max() < 4  # 204 is in the palette
    assert target == 0


def test_classes_are_numbered_by_name_and_other_files_are_ignored(tmp_path: Path) -> None:
    write(tmp_path, train=3, val=1)
    (tmp_path / "train" / "README.txt").write_text("not a class")
    (tmp_path / "train" / "n02" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / "n02" / "._n02_0.JPEG").write_text("what macOS leaves behind")
    (tmp_path / "train" / ".cache").mkdir()
    names, images = list_images(tmp_path / "train", 16)
    assert names == CLASSES
    assert list(images.targets) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert list(images.files) == [f"{name}/{name}_{i}.JPEG" for name in CLASSES for i in range(3)]


@pytest.mark.parametrize(("count", "taken"), [(2, 1), (6, 1), (10, 2), (49, 9), (50, 10), (300, 10)])
def test_ten_images_of_every_class_are_held_out_but_no_more_than_a_fifth(count: int, taken: int) -> None:
    targets = [0] * count + [1] * 732
    images = Images("folder", [f"{target}/{i}" for i, target in enumerate(targets)], targets, 8)
    rest, validation = held_out(images, seed=3)
    assert [list(validation.targets).count(target) for target in (0, 1)] == [taken, 10]
    assert sorted([*rest.files, *validation.files]) == sorted(images.files)
    for part in (rest, validation):
        assert all(file.startswith(f"{target}/") for file, target in zip(part.files, part.targets, strict=True))
    assert held_out(images, seed=3)[1].files == validation.files
    assert held_out(images, seed=4)[1].files != validation.files


def test_splits_do_not_overlap_and_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path)
    state = torch.get_rng_state()
    task = load(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(task.train), len(task.validation), len(task.test)] == [15, 3, 6]
    assert not set(files(task.train)) & set(files(task.validation))
    assert files(load(tmp_path, preset="paper").validation) == files(task.validation)


@pytest.mark.parametrize("name", ["imagenet-resnet34", "imagenet-resnet50"])
def test_a_folder_streams_through_augmentation_and_network(name: str, tmp_path: Path) -> None:
    task = load(write(tmp_path), name)
    torch.manual_seed(0)
    model = task.build_model()
    ((inputs, targets),) = task.train.reader(CPU).read([torch.tensor([0, 7, 14, 3])])
    assert isinstance(inputs, Tensor)
    assert isinstance(targets, Tensor)
    assert inputs.shape == (4, 3, 64, 64)
    assert inputs.dtype == torch.uint8
    assert targets.tolist() == [0, 1, 2, 0]
    assert inputs.float().mean((2, 3)).argmax(1).tolist() == targets.tolist()
    assert task.augment is not None
    pixels = task.augment(inputs, torch.Generator().manual_seed(0))
    assert isinstance(pixels, Tensor)
    assert pixels.shape == (4, 3, 56, 56)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(5):
        loss = task.loss(model(pixels), targets)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert losses[-1] < losses[0]
    model.eval()
    assert torch.equal(model(inputs), model(inputs[:, :, 4:60, 4:60]))
    assert model(inputs).shape == (4, 3)


def test_presets_are_what_they_say(tmp_path: Path) -> None:
    write(tmp_path)
    small = load(tmp_path, "imagenet-resnet34", "paper")
    large = load(tmp_path, "imagenet-resnet50", "paper")
    smoke = load(tmp_path)
    with torch.device("meta"):
        counts = [sum(param.numel() for param in task.build_model().parameters()) for task in (small, large, smoke)]
    assert counts == [21_797_672 - 997 * 513, 25_557_032 - 997 * 2049, 335_659]
    assert small.schedule == Schedule("step", drops=3)
    assert large.schedule == Schedule("polynomial", warm_up=0.625 / 90)
    assert large.schedule.warm_up_steps(90 * 1252) == 782  # 0.625 epochs of 1,252 steps
    assert smoke.schedule == Schedule("cosine")
    assert [task.epochs for task in (small, large, smoke)] == [90, 90, 5]
    assert [task.batch_size for task in (small, large, smoke)] == [256, 1024, 32]
    assert [task.target for task in (small, large, smoke)] == [69, 75, 50]
    assert [task.variant for task in (small, large, smoke)] == [
        "paper, 3 classes",
        "paper, 3 classes",
        "smoke, 3 classes",
    ]
    assert large.augment is not None
    pixels = large.augment(torch.zeros(1, 3, 256, 256, dtype=torch.uint8), torch.Generator())
    assert isinstance(pixels, Tensor)
    assert pixels.shape == (1, 3, 224, 224)
    for task, size in ((large, 256), (smoke, 64)):
        assert isinstance(task.test, Stream)
        assert task.test.dataset[0][0].shape == (3, size, size)
    assert isinstance(small.train, Stream)
    assert 1 <= small.train.workers <= 16
    for network in ("resnet34", "resnet50"):
        entry = ENTRIES[f"imagenet-{network}"]
        assert (entry.presets, entry.reads_folder) == (("paper", "smoke"), True)


def test_the_variant_of_a_thousand_classes_is_the_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "_CLASSES", 3)
    assert load(write(tmp_path)).variant == "smoke"


def test_the_evaluated_square_is_the_middle_224_pixels(tmp_path: Path) -> None:
    model = load(write(tmp_path), preset="paper").build_model()
    assert isinstance(model, nn.Sequential)
    images = torch.randint(256, (1, 3, 256, 256), dtype=torch.uint8)
    assert torch.equal(model[0](images), images[:, :, 16:240, 16:240])


def test_folders_that_are_not_laid_out_so_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="ImageNet is read from a folder, and none is named"):
        ENTRIES["imagenet-resnet34"].load(None, "paper")
    with pytest.raises(LabError, match=r"there is no folder .*train; the data folder must hold train/CLASS/IMAGE"):
        load(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(LabError, match="train is empty: it must have one folder per class"):
        load(tmp_path)
    (tmp_path / "train" / "n01").mkdir()
    with pytest.raises(LabError, match=r"train/n01 has no image \(.bmp, .* .webp\); add some or remove the folder"):
        load(tmp_path)


def test_val_must_have_the_classes_of_train(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "val" / "n02").rename(tmp_path / "val" / "n99")
    with pytest.raises(LabError, match="not have the same classes: only train has n02; only val has n99"):
        load(tmp_path)
    for i in range(5):
        (tmp_path / "val" / "n01").rename(tmp_path / "val" / "n03b") if i == 0 else None
        (tmp_path / "val" / f"n5{i}").mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / "val" / f"n5{i}" / "x.png")
    with pytest.raises(LabError, match="only train has n01, n02; only val has n03b, n50, n51 and 4 more"):
        load(tmp_path)


def test_a_class_with_a_single_image_is_refused(tmp_path: Path) -> None:
    write(tmp_path, train=2)
    (tmp_path / "train" / "n02" / "n02_1.JPEG").unlink()
    with pytest.raises(LabError, match=r"train/n02/n02_0.JPEG is the only image of its class; .* at least 2"):
        load(tmp_path)


@pytest.mark.parametrize("damage", ["cut off", "text", "empty"])
def test_a_broken_image_is_named_by_its_path(damage: str, tmp_path: Path) -> None:
    write(tmp_path, train=2, val=1)
    path = tmp_path / "val" / "n03" / "n03_0.JPEG"
    content = {"cut off": path.read_bytes()[:400], "text": b"not an image", "empty": b""}[damage]
    path.write_bytes(content)
    task = load(tmp_path)
    with pytest.raises(LabError, match=r"val/n03/n03_0.JPEG is no image that can be decoded .*; replace or remove it"):
        list(task.test.reader(CPU).read([torch.arange(3)]))


def test_streams_are_repeatable(tmp_path: Path) -> None:
    task = load(write(tmp_path))
    first, second = (list(task.train.reader(CPU).read([torch.arange(15)])) for _ in "ab")
    for (images, targets), (others, same) in zip(first, second, strict=True):
        torch.testing.assert_close((images, targets), (others, same), rtol=0, atol=0)


@pytest.mark.parametrize(("value", "byte"), [(0, 0), (255, 1), (257, 1), (32896, 128), (65278, 254), (65535, 255)])
def test_grey_of_16_bits_is_scaled_to_8(tmp_path: Path, value: int, byte: int) -> None:
    (tmp_path / "c").mkdir()
    Image.fromarray(np.full((9, 8), value, dtype=np.uint16)).save(tmp_path / "c" / "x.png")
    image, _ = list_images(tmp_path, 8)[1][0]
    assert torch.equal(image, torch.full((3, 8, 8), byte, dtype=torch.uint8))


@pytest.mark.parametrize("name", ["x.bmp", "x.webp", "x.WEBP", "x.JPG", "x.png"])
def test_kinds_that_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "c").mkdir()
    Image.new("RGB", (9, 8), (200, 100, 50)).save(tmp_path / "c" / name)
    (tmp_path / "c" / f"._{name}").write_bytes(b"what macOS leaves behind")
    _, images = list_images(tmp_path, 8)
    assert list(images.files) == [f"c/{name}"]
    assert (images[0][0].float().mean((1, 2)) - torch.tensor([200.0, 100.0, 50.0])).abs().max() < 4


@pytest.mark.parametrize("name", ["x.tif", "x.TIFF", "x.gif", "x.heic", "x.avif", "x.ppm"])
def test_other_kinds_are_not_left_out_in_silence(tmp_path: Path, name: str) -> None:
    write(tmp_path, train=2, val=1)
    (tmp_path / "train" / "n02" / name).touch()
    with pytest.raises(LabError, match=f"train/n02/{name} cannot be read; convert it to one of .bmp, .jpeg"):
        load(tmp_path)


@pytest.mark.parametrize("kind", ["EPS", "GIF", "TIFF", "PPM"])
def test_the_content_decides_the_kind_and_no_program_is_started(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import EpsImagePlugin

    def starts(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", starts)
    (tmp_path / "c").mkdir()
    Image.new("RGB", (9, 8)).save(tmp_path / "c" / "x.jpg", kind)
    with pytest.raises(LabError, match=r"x.jpg is no image that can be decoded \(cannot identify image file"):
        list_images(tmp_path, 8)[1][0]
    Image.new("RGB", (9, 8)).save(tmp_path / "c" / "x.jpg", "PNG")  # as one of ImageNet's is
    assert list_images(tmp_path, 8)[1][0][0].shape == (3, 8, 8)


def test_a_palette_with_transparency_is_no_reason_to_warn(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    Image.new("RGB", (9, 8)).convert("P").save(tmp_path / "c" / "x.png", transparency=b"\0\x10")
    assert list_images(tmp_path, 8)[1][0][0].shape == (3, 8, 8)
