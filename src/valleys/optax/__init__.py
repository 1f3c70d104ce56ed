"""E and ALTO as optax gradient transformations.

``adapt`` is E, to be put before any optimizer by ``optax.chain``; ``alto`` and ``lamb`` are Alg. 2 and its base;
``esgd``, ``eadam`` and ``eadamw`` are ready-made; ``layerwise`` is the ratio of ``alto`` around any transformation.
Imports jax and optax, and is imported by nothing else in the package.
"""

try:
    import jax  # noqa: F401
    import optax  # noqa: F401
except ImportError as error:
    raise ImportError("valleys.optax needs jax and optax; install valleys[jax]") from error

from valleys.optax._chains import alto, eadam, eadamw, esgd, lamb
from valleys.optax._explore import AdaptState, adapt
from valleys.optax._layerwise import LayerwiseState, layerwise
from valleys.optax._moments import MomentsState

__all__ = [
    "AdaptState",
    "LayerwiseState",
    "MomentsState",
    "adapt",
    "alto",
    "eadam",
    "eadamw",
    "esgd",
    "lamb",
    "layerwise",
]
