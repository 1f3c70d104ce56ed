"""Images: augmentation is what it says, image by image, and random in nothing but its generator."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from valleys.lab.tasks.data.augmentation import (
    CentreCrop,
    Normalized,
    crop_and_flip,
    random_crop,
    random_flip,
    random_resized_crop,
    resized_crop_and_flip,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int, height: int, width: int) -> Tensor:
    """Images in which every pixel is different and none is 0, and no image is another's."""
    pixels = torch.arange(1, 1 + 2 * height * width, dtype=torch.float32).reshape(2, height, width)
    return pixels + 1000 * torch.arange(count).reshape(-1, 1, 1, 1)


def ramp(count: int, size: int) -> Tensor:
    """Images whose two channels are the pixels' horizontal and vertical coordinates, in shares of the image."""
    places = (torch.arange(size) + 0.5) / size
    return torch.stack([places.expand(size, size), places[:, None].expand(size, size)]).repeat(count, 1, 1, 1)


def test_normalized_bytes_have_the_stated_mean_and_deviation() -> None:
    layer = Normalized([0.25, 0.5], [0.5, 0.125])
    images = torch.randint(256, (3, 2, 4, 5), generator=seeded(), dtype=torch.uint8)
    expected = (images.double() / 255 - torch.tensor([0.25, 0.5])[:, None, None]) / torch.tensor([0.5, 0.125])[
        :, None, None
    ]
    assert layer(images).dtype == torch.float32
    torch.testing.assert_close(layer(images).double(), expected, rtol=0, atol=2e-6)
    assert torch.equal(layer(images.float()), layer(images))


def test_normalized_follows_the_models_type_and_the_images_layout_and_is_no_part_of_a_checkpoint() -> None:
    layer = Normalized([0.5], [0.25])
    assert not list(layer.parameters())
    assert not layer.state_dict()
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    assert layer.to(torch.bfloat16)(images).dtype == torch.bfloat16
    layout = torch.zeros(2, 3, 4, 5, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    three = Normalized([0.5] * 3, [0.25] * 3)
    assert three(layout).is_contiguous(memory_format=torch.channels_last)


def test_the_centre_is_cut_out_of_larger_images_in_either_mode_and_smaller_ones_pass() -> None:
    images = numbered(2, 9, 6)
    for layer in (CentreCrop(4).train(), CentreCrop(4).eval()):
        assert torch.equal(layer(images), images[:, :, 2:6, 1:5])
    assert torch.equal(CentreCrop(6)(images), images[:, :, 1:7])
    assert torch.equal(CentreCrop(9)(images), images)
    assert torch.equal(CentreCrop(10)(images), images)


def test_a_flip_mirrors_half_of_the_images_and_leaves_the_others() -> None:
    images = numbered(2000, 2, 3)
    flipped = random_flip(images, seeded())
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    same = (flipped == images).flatten(1).all(1)
    assert (mirrored ^ same).all()
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(2000))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_crop_is_a_slice_of_its_own_padded_image(dtype: torch.dtype) -> None:
    count, height, width, padding = 60, 6, 5, 2
    images = torch.randint(1, 256, (count, 3, height, width), generator=seeded(1)).to(dtype)
    cropped = random_crop(images, padding, seeded())
    assert cropped.shape == images.shape
    assert cropped.dtype == dtype
    assert cropped.is_contiguous()
    padded = torch.zeros(count, 3, height + 2 * padding, width + 2 * padding, dtype=dtype)
    padded[:, :, padding : padding + height, padding : padding + width] = images
    for image, whole in zip(cropped, padded, strict=True):
        places = [
            (top, left)
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
            if torch.equal(image, whole[:, top : top + height, left : left + width])
        ]
        assert len(places) == 1


def test_every_place_of_a_crop_is_equally_likely() -> None:
    count, padding = 25 * 400, 2
    image = torch.zeros(count, 1, 5, 5, dtype=torch.uint8)
    image[:, :, 2, 2] = 1  # it stays in sight wherever the window is
    spots = random_crop(image, padding, seeded()).flatten(1).int()
    assert (spots.sum(1) == 1).all()
    chi_squared = ((spots.sum(0) - 400.0) ** 2 / 400).sum().item()
    assert 8 < chi_squared < 51  # 24 degrees of freedom: 99.9 % lie between, and too even is wrong as well


def test_without_padding_a_crop_changes_nothing() -> None:
    images = numbered(3, 4, 4)
    assert torch.equal(random_crop(images, 0, seeded()), images)


def test_cifars_augmentation_moves_by_up_to_four_pixels_and_flips() -> None:
    image = torch.zeros(4000, 1, 20, 20, dtype=torch.uint8)
    image[:, :, 8, 6] = 2
    where = crop_and_flip(image, seeded()).flatten(1).argmax(1)
    assert set((where // 20).tolist()) == set(range(4, 13))
    assert set((where % 20).tolist()) == {*range(2, 11), *range(9, 18)}


def rectangles(count: int, seed: int = 0, size: int = 64) -> tuple[Tensor, Tensor]:
    """Left, right, top and bottom edges of resized crops, in shares of the image, as the ramps show them."""
    crops = random_resized_crop(ramp(count, 128), size, seeded(seed)).double()
    horizontal, vertical = crops[:, 0, size // 2], crops[:, 1, :, size // 2]
    edges = []
    for line in (horizontal, vertical):
        inner = slice(size // 8, size - size // 8)  # away from the border, where a line that is clamped would be flat
        slope = (line[:, inner].diff(dim=1)).mean(1)
        middle = line[:, inner].mean(1)
        edges.append(torch.stack([middle - slope * size / 2, middle + slope * size / 2]))
    return edges[0], edges[1]


def test_a_resized_crop_is_a_rectangle_within_the_image_of_the_stated_area_and_shape() -> None:
    horizontal, vertical = rectangles(3000)
    for edges in (horizontal, vertical):
        assert edges.min() > -1e-4
        assert edges.max() < 1 + 1e-4
    width, height = horizontal[1] - horizontal[0], vertical[1] - vertical[0]
    area, ratio = width * height, width / height
    assert area.min() > 0.08 - 1e-3
    assert area.max() < 1 + 1e-3
    assert area.min() < 0.1
    assert area.max() > 0.9
    assert ratio.min() > 3 / 4 - 1e-3
    assert ratio.max() < 4 / 3 + 1e-3
    small = area < 0.5  # where every shape fits, so that nothing was drawn again
    assert area[small].mean().item() == pytest.approx(0.29, abs=0.01)
    assert ratio[small].log().mean().item() == pytest.approx(0, abs=0.015)
    assert ratio[small].log().std().item() == pytest.approx(2 * math.log(4 / 3) / math.sqrt(12), rel=0.05)


def test_a_resized_crop_lies_anywhere() -> None:
    horizontal, vertical = rectangles(3000)
    places = []
    for edges in (horizontal, vertical):
        room = 1 - (edges[1] - edges[0])
        rows = room > 0.05
        places.append(torch.where(rows, edges[0] / room, 0.5))
        place = places[-1][rows]
        assert place.mean().item() == pytest.approx(0.5, abs=0.025)
        assert place.std().item() == pytest.approx(1 / math.sqrt(12), rel=0.05)
    assert torch.corrcoef(torch.stack(places))[0, 1].abs() < 0.08


def test_a_resized_crop_draws_again_and_at_last_takes_the_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    from valleys.lab.tasks.data import augmentation as images

    monkeypatch.setattr(images, "_AREA", (0.99, 1.0))  # fits only where the shape is nearly square
    horizontal, vertical = rectangles(300)
    width = horizontal[1] - horizontal[0]
    whole = ((width - 1).abs() < 1e-3) & ((vertical[1] - vertical[0] - 1).abs() < 1e-3)
    assert 0 < whole.float().mean() < 1
    monkeypatch.setattr(images, "_RATIO", (1.2, 1.3))  # never
    horizontal, vertical = rectangles(20)
    torch.testing.assert_close(
        horizontal, torch.tensor([[0.0], [1.0]], dtype=torch.float64).expand(2, 20), atol=1e-4, rtol=0
    )


def test_a_resized_crop_of_bytes_is_that_of_floats_rounded() -> None:
    images = torch.randint(256, (20, 3, 32, 32), generator=seeded(), dtype=torch.uint8)
    crops = random_resized_crop(images, 24, seeded())
    assert crops.dtype == torch.uint8
    assert crops.shape == (20, 3, 24, 24)
    floats = random_resized_crop(images.float(), 24, seeded())
    assert torch.equal(crops, floats.round().to(torch.uint8))
    white = torch.full((20, 3, 8, 8), 255, dtype=torch.uint8)
    assert (random_resized_crop(white, 24, seeded()) == 255).all()  # nothing black comes in from outside


def test_imagenets_augmentation_flips_as_well() -> None:
    crops = resized_crop_and_flip(ramp(400, 64), seeded(), size=16)
    rising = crops[:, 0, 8, -1] > crops[:, 0, 8, 0]
    assert rising.float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert (crops[:, 1, -1, 8] > crops[:, 1, 0, 8]).all()
    assert resized_crop_and_flip(ramp(1, 256), seeded()).shape == (1, 2, 224, 224)


@pytest.mark.parametrize(
    "augment", [crop_and_flip, lambda images, generator: resized_crop_and_flip(images, generator, size=12)]
)
def test_the_generator_is_all_that_is_random(augment: Callable[[Tensor, torch.Generator], Tensor]) -> None:
    images = torch.randint(256, (32, 3, 16, 16), generator=seeded(), dtype=torch.uint8)
    before, state = images.clone(), torch.get_rng_state()
    generator = seeded(5)
    first = augment(images, generator)
    torch.rand(7)
    assert torch.equal(augment(images, seeded(5)), first)
    assert not torch.equal(augment(images, generator), first)
    assert torch.equal(images, before)
    torch.rand(7)
    torch.set_rng_state(state)
    augment(images, seeded(6))
    assert torch.equal(torch.get_rng_state(), state)
