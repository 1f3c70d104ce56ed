"""Shares of CIFAR: the paper's number of updates with fewer and smaller images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lab.tasks.cifar_data import in_memory, load, numbers, write_binary
from valleys.lab.tasks import cifar
from valleys.lab.tasks.data.cifar_files import CIFAR10


@pytest.mark.parametrize(("preset", "part"), [("tenth", 10), ("fortieth", 40)])
@pytest.mark.parametrize("ending", ["", "-16px"])
def test_a_share_has_the_paper_s_updates_and_a_quarter_of_the_batch_in_a_pass(
    preset: str, part: int, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar, "_TRAIN", 2000)
    monkeypatch.setattr(cifar, "_BATCH", 656)
    monkeypatch.setattr(cifar, "_SHARE_HELD_OUT", 30)
    write_binary(CIFAR10, tmp_path, per_file=400)
    whole, share = load(tmp_path), load(tmp_path, preset=preset + ending)
    (train, labels), (validation, _), (test, _) = in_memory(share)
    assert (len(train), len(validation), len(test)) == (2000 // part, 30, 20)
    assert labels.bincount().tolist() == [200 // part] * 10
    assert share.batch_size == round(656 / part)
    assert share.steps(share.batch_size, share.epochs) == 400 * (2000 // 656)
    assert share.micro_batch == -(-share.batch_size // 4)
    assert -(-share.batch_size // share.micro_batch) == 4
    assert share.variant == preset + ending
    side = 16 if ending else 32
    assert train.shape[1:] == validation.shape[1:] == test.shape[1:] == (3, side, side)
    assert share.augment is not None
    shifted = share.augment(torch.full((64, 3, side, side), 255, dtype=torch.uint8), torch.Generator().manual_seed(0))
    assert isinstance(shifted, Tensor)
    widths = {int((image[0, side // 2] == 0).sum()) for image in shifted}
    assert widths == set(range(side // 8 + 1))  # padded by an eighth of the side, as the paper's 4 of 32 pixels
    if not ending:
        assert set(numbers(train)) <= set(numbers(in_memory(whole)[0][0]))


def test_small_images_are_rounded_means_of_2x2_pixels() -> None:
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    blocks = images.double().reshape(2, 3, 16, 2, 16, 2).mean((3, 5))
    assert torch.equal(cifar._halved(images), blocks.round().to(torch.uint8))


def test_the_real_shares_are_those_of_the_documentation() -> None:
    sizes = {
        name: (cifar._TRAIN // share.part, round(cifar._BATCH / share.part)) for name, share in cifar._SHARES.items()
    }
    assert sizes["tenth"] == sizes["tenth-16px"] == (5000, 1638)
    assert sizes["fortieth"] == sizes["fortieth-16px"] == (1250, 410)
    assert all(400 * (images // batch) == 1200 for images, batch in sizes.values())
