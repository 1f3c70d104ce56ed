"""The landscape on the page: a surface to turn with the minima on it, barriers, spectra, sharpness."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from lab.report.pages import Reader, finals, results
from valleys.lab.report import additions, html
from valleys.lab.report import document as report
from valleys.lab.report.html import terrain
from valleys.lab.report.summary import summarize

INDEX = {"sgd": 0, "<b>alto": 1}


def landscape(**changes: Any) -> dict[str, Any]:
    names = list(INDEX)
    curve = {"losses": [1.0, 1.5, 0.5], "barrier": 0.75, "at": 0.5}
    return {
        "plane": {"spanned_by": [*names, "initial weights"], "x": [-1.0, 0.0, 1.0], "y": [0.0, 1.0],
                  "loss": [[1.0, 0.5, None], [2.0, 1.5, 3.0]]},
        "minima": [
            {"optimizer": name, "round": 1, "seed": 5000, "trial": 1, "x": float(k), "y": 0.0, "distance": 0.4 * k,
             "training_loss": 0.5 + k, "validation_loss": 0.6 + k, "plane_loss": 0.5 + k}
            for k, name in enumerate(names)
        ],
        "barriers": [{"first": names[0], "second": names[1], "distance": 1.0, "t": [0.0, 0.5, 1.0], "training": curve,
                      "validation": {**curve, "barrier": 0.25}}],
        "spectra": [{"optimizer": name, "eigenvalues": [0.0, 1.0, 2.0], "density": [1.0, 1e-9, None],
                     "smallest": 0.0, "largest": 2.0} for name in names],
        "sharpness": [{"optimizer": name, "l2": {"radii": [0.1, 1.0], "rises": [0.01, 2.0]},
                       "adaptive": {"radii": [0.5, 2.0], "rises": [0.02, 3.0]}} for name in names],
        "title": "fake at batch 16", "examples": {"training": 24, "validation": 8}, "optimizers": names,
        "notes": [], "left_out": {},
        **changes,
    }  # fmt: skip


def test_plotly_knows_every_property_and_the_numbers_are_those_of_the_landscape() -> None:
    drawing = landscape()
    pictures = terrain.figures(drawing, INDEX)
    assert list(pictures) == ["surface", "barriers", "spectra", "sharpness"]
    for picture in pictures.values():
        go.Figure(data=picture["data"], layout=picture["layout"])
        for control in picture["controls"]:
            for choice in control["choices"]:
                assert all(len(values) == len(picture["data"]) for values in choice["data"].values())
    surface, first, second = pictures["surface"]["data"]
    assert (surface["x"], surface["y"], surface["z"]) == (
        *(drawing["plane"][key] for key in "xy"),
        drawing["plane"]["loss"],
    )
    assert (first["x"], first["z"], second["x"], second["z"]) == ([0.0], [0.5], [1.0], [1.5])
    names = pictures["surface"]["layout"]["scene"]["annotations"]
    assert [(name["text"], name["x"], name["z"]) for name in names][1] == ("&lt;b&gt;alto", 1.0, 1.5)
    assert "off the plane" not in first["hovertemplate"]
    assert "0.4 off the plane" in second["hovertemplate"]
    training, validation = pictures["barriers"]["controls"][0]["choices"]
    assert training["data"]["name"][0].endswith("barrier 0.75")
    assert validation["data"]["name"][0].endswith("barrier 0.25")
    assert pictures["spectra"]["data"][0]["y"] == [1.0, None, None]  # far below the largest is nothing
    balls = pictures["sharpness"]["controls"][0]["choices"]
    assert [choice["data"]["x"][0] for choice in balls] == [[0.1, 1.0], [0.5, 2.0]]


@pytest.mark.parametrize(("largest", "kind"), [(3.0, "linear"), (5000.0, "log")])
def test_a_wide_surface_has_a_logarithmic_height(largest: float, kind: str) -> None:
    drawing = landscape()
    drawing["plane"]["loss"][1][2] = largest
    scene = terrain.figures(drawing, INDEX)["surface"]["layout"]["scene"]
    assert scene["zaxis"]["type"] == kind
    assert scene["annotations"][1]["z"] == (math.log10(1.5) if kind == "log" else 1.5), "Plotly wants the logarithm"


@pytest.mark.parametrize("seed", [5000, 1])
def test_the_page_has_the_landscape_while_its_runs_are_selected(seed: int, tmp_path: Path) -> None:
    contents = results({name: finals(name, 91.0, 92.5) for name in INDEX})
    drawing = landscape()
    for entry in drawing["minima"]:
        entry["seed"] = seed
    (tmp_path / additions.DRAWING).write_text(json.dumps(drawing))
    report.write(contents, summarize(contents), tmp_path, "valleys compare fake")
    headings = [text for tag, text in Reader((tmp_path / "report.html").read_text()).texts if tag == "h3"]
    assert ("The landscape between the minima" in headings) == (seed == 5000)
    assert "landscape" not in json.loads((tmp_path / "report.json").read_text())


def test_without_one_the_page_has_no_landscape() -> None:
    contents = results({"sgd": finals("sgd", 91.0, 92.5)})
    text = html.render([report.to_json(contents, summarize(contents), "valleys compare fake")])
    assert "The landscape between the minima" not in text
