"""Pictures of the landscape: every label can be read, and an optimizer looks the same in all."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.colors import to_hex

from valleys.lab.flatness import pictures
from valleys.lab.flatness.drawing import RADII, START
from valleys.palette import COLORS, MARKERS

NAMES = ["adamw", "lamb", "alto", "sgd", "a-long-name:Of$An$Optimizer"]


def document(spread: float = 1.0, names: list[str] = NAMES, start: bool = False) -> dict[str, Any]:
    """A landscape of minima that lie beside each other, the last one off the plane."""
    grid = torch.linspace(-5, 15, 9, dtype=torch.float64)
    losses = 1e-4 + grid**2 + grid[:, None] ** 2
    spanned = [names[0], names[1], START] if start else names[:3]
    t = torch.linspace(0, 1, 21).tolist()
    path = {"losses": [1.0 + 9 * u * (1 - u) for u in t], "barrier": 2.25, "at": 0.5}
    minima = [
        {"optimizer": name, "x": spread * number, "y": spread * (number % 2), "distance": 0.0, "training_loss": 1e-4}
        for number, name in enumerate(names)
    ]
    minima[-1]["distance"] = 0.0 if start else 2.5
    spectrum = {"eigenvalues": grid.tolist(), "density": (-(grid**2)).exp().tolist(), "smallest": -1.0, "largest": 9.0}
    curves = {kind: {"radii": list(radii), "rises": [radius**2 for radius in radii]} for kind, radii in RADII.items()}
    return {
        "title": "digits at batch 8",
        "optimizers": ["left-out", *names],
        "plane": {
            "spanned_by": spanned,
            "x": grid.tolist(),
            "y": grid.tolist(),
            "loss": losses.tolist(),
            "start": {"x": 6.0, "y": 5.0, "distance": 0.0},
        },
        "minima": minima,
        "barriers": [
            {"first": one, "second": other, "t": t, "training": path, "validation": path}
            for one, other in itertools.combinations(names, 2)
        ],
        "spectra": [{"optimizer": name, **spectrum} for name in names],
        "sharpness": [{"optimizer": name, **curves} for name in names],
    }


def figure(name: str, drawn: dict[str, Any]) -> Any:
    return pictures.PICTURES[name][0](drawn)


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.5, 2.0])
@pytest.mark.parametrize("start", [False, True])
def test_labels_of_minima_do_not_overlap(spread: float, start: bool) -> None:
    drawing = document(spread, NAMES[:2] if start else NAMES, start)
    axes = figure("surface", drawing).axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert [text.split(":")[0] for text in texts[: len(drawing["minima"])]] == [
        name.split(":")[0] for name in (minimum["optimizer"] for minimum in drawing["minima"])
    ]
    assert (START in texts) == start
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    frame = axes.get_window_extent()
    for box in boxes:
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1


def test_marks_stand_at_the_coordinates_and_what_is_off_the_plane_is_hollow() -> None:
    drawing = document()
    axes = figure("surface", drawing).axes[0]
    marks = [line for line in axes.lines if line.get_markeredgecolor() != "white"]
    for number, (mark, minimum) in enumerate(zip(marks, drawing["minima"], strict=True), 1):
        assert (*mark.get_xdata(), *mark.get_ydata()) == (minimum["x"], minimum["y"])
        assert mark.get_markeredgecolor() == COLORS[number % len(COLORS)], "the palette counts what is left out"
        assert mark.get_marker() == MARKERS[number % len(MARKERS)]
        assert (mark.get_markerfacecolor() == "none") == (minimum["distance"] > 0)
    assert "2.5 off the plane" in axes.texts[-1].get_text()
    assert axes.get_xlabel() == "distance from adamw towards lamb"
    assert axes.get_ylabel() == "distance across, towards alto"


def test_an_optimizer_has_one_colour_in_spectra_and_sharpness() -> None:
    drawing = document()
    panels = figure("spectra", drawing).axes
    assert [to_hex(axes.lines[0].get_color()).upper() for axes in panels] == [c.upper() for c in COLORS[1:6]]
    for axes in figure("sharpness", drawing).axes:
        assert [line.get_color() for line in axes.lines] == list(COLORS[1:6])
        assert axes.get_xscale() == axes.get_yscale() == "log"


@pytest.mark.parametrize("count", [2, 5])
def test_the_legend_of_the_barriers_names_each_pair_beside_the_panels(count: int) -> None:
    drawing = document(names=NAMES[:count], start=count == 2)
    drawing["barriers"][0]["validation"] = {**drawing["barriers"][0]["validation"], "barrier": 0.5}
    picture = figure("barriers", drawing)
    picture.draw_without_rendering()
    (legend,) = picture.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[0] == "adamw to lamb: 2.2 / 0.5"
    assert len(texts) == math.comb(count, 2) + 1
    box = legend.get_window_extent()
    for axes in picture.axes:
        assert not box.overlaps(axes.get_tightbbox())
    assert 0 <= box.y0 < box.y1 <= picture.bbox.y1
    assert len(picture.axes) == 2


def test_a_loss_that_overflows_leaves_a_gap(tmp_path: Path) -> None:
    drawing = document()
    drawing["plane"]["loss"][0][0] = math.inf
    path = drawing["barriers"][0]["training"]
    drawing["barriers"][0]["training"] = {**path, "losses": [1.0, math.nan, *path["losses"][2:]], "barrier": math.nan}
    pictures.write(drawing, tmp_path)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == [f"landscape-{name}.png" for name in ("barriers", "sharpness", "spectra", "surface")]
    assert set(pictures.paths(tmp_path)) == set(pictures.PICTURES)
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in files)
