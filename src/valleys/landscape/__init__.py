"""Instruments that show where a model lies in its loss landscape, and how it came there.

``Objective`` is the common input: a loss as a function of a model's parameters, on fixed batches. Curvature:
``eigenvalues``, ``trace``, ``density``, ``Curvature``. Sharpness: ``sharpness``, ``average_sharpness``, ``gap``.
Slices: ``slice_1d``, ``slice_2d`` along ``random_direction``, ``pca_directions`` or eigenvectors, ``interpolate``
between two solutions, and their pictures. Training: ``record`` attaches a recorder to any loop. Test functions:
``FUNCTIONS``, ``walk``. SciPy and matplotlib (the extra ``landscape``) are imported where they are needed.
"""

from __future__ import annotations

from valleys.landscape.density import Density, density
from valleys.landscape.directions import between, normalize, pca_directions, random_direction
from valleys.landscape.functions import FUNCTIONS, Function
from valleys.landscape.hvp import Curvature
from valleys.landscape.interpolation import Path1D, interpolate
from valleys.landscape.objective import Objective
from valleys.landscape.plots import contour, plot_1d, surface
from valleys.landscape.projection import Projection
from valleys.landscape.sharpness import Averaged, Gap, Sharpness, average_sharpness, gap, sharpness
from valleys.landscape.slices import Slice, project, slice_1d, slice_2d
from valleys.landscape.spectrum import Eigen, eigenvalues
from valleys.landscape.stages import stage, table_1
from valleys.landscape.trace import Estimate, trace
from valleys.landscape.trajectory import Recorder, record
from valleys.landscape.walks import Walk, walk, walks

__all__ = [
    "FUNCTIONS",
    "Averaged",
    "Curvature",
    "Density",
    "Eigen",
    "Estimate",
    "Function",
    "Gap",
    "Objective",
    "Path1D",
    "Projection",
    "Recorder",
    "Sharpness",
    "Slice",
    "Walk",
    "average_sharpness",
    "between",
    "contour",
    "density",
    "eigenvalues",
    "gap",
    "interpolate",
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
    "walk",
    "walks",
]
