"""Instruments that show where a model lies in its loss landscape, and how it came there.

``Objective`` is the common input: a loss as a function of a model's parameters, on fixed batches. Curvature:
``eigenvalues``, ``trace``, ``density``, ``layerwise_curvature``, ``Curvature``. Sharpness: ``sharpness``,
``average_sharpness``, ``gap``. Slices: ``slice_1d``, ``slice_2d`` along ``random_direction``, ``pca_directions`` or
eigenvectors, ``interpolate`` between two solutions, and their pictures. Training: ``record`` attaches a recorder to any
loop. SciPy and matplotlib (the extra ``landscape``) are imported where they are needed.
"""

from __future__ import annotations

from valleys.landscape.curvature.density import Density, density
from valleys.landscape.curvature.hvp import Curvature
from valleys.landscape.curvature.layers import LayerCurvature, layerwise_curvature
from valleys.landscape.curvature.spectrum import Eigen, eigenvalues
from valleys.landscape.curvature.trace import Estimate, trace
from valleys.landscape.objective import Objective
from valleys.landscape.recorder.projection import Projection
from valleys.landscape.recorder.recorder import Recorder, record
from valleys.landscape.recorder.stages import stage, table_1
from valleys.landscape.sharpness.average import Averaged, average_sharpness
from valleys.landscape.sharpness.generalization import Gap, gap
from valleys.landscape.sharpness.worst_case import Sharpness, sharpness
from valleys.landscape.slices.directions import between, normalize, pca_directions, random_direction
from valleys.landscape.slices.interpolation import Path1D, interpolate
from valleys.landscape.slices.plots import contour, plot_1d, surface
from valleys.landscape.slices.slices import Slice, project, slice_1d, slice_2d

__all__ = [
    "Averaged",
    "Curvature",
    "Density",
    "Eigen",
    "Estimate",
    "Gap",
    "LayerCurvature",
    "Objective",
    "Path1D",
    "Projection",
    "Recorder",
    "Sharpness",
    "Slice",
    "average_sharpness",
    "between",
    "contour",
    "density",
    "eigenvalues",
    "gap",
    "interpolate",
    "layerwise_curvature",
    "normalize",
    "pca_directions",
    "plot_1d",
    "project",
    "random_direction",
    "record",
    "sharpness",
    "slice_1d",
    "slice_2d",
    "stage",
    "surface",
    "table_1",
    "trace",
]
