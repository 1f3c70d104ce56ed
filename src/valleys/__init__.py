"""ALTO and the E adaptor for PyTorch optimizers (Zhao et al., NeurIPS 2025, arXiv 2510.27153).

``ALTO`` and ``Lamb`` are optimizers; ``adapt`` makes any torch optimizer explore, ``ESGD``, ``EAdam`` and ``EAdamW``
are ready-made; ``suggest`` is the paper's rule for alpha and beta, ``AlphaSchedule`` changes alpha during training;
``param_groups`` sorts a model's parameters and ``blocks`` says which of them hold several layers; ``release_gradients``
puts the step into backward. The lab that compares optimizers fairly is ``valleys.lab``; the mathematics in the paper's
symbols is ``valleys.reference``.
"""

from typing import TYPE_CHECKING

from valleys._lazy import lazy_names

if TYPE_CHECKING:
    from valleys import blocks
    from valleys.adaptor import ESGD, EAdam, EAdamW, adapt
    from valleys.alpha_schedule import AlphaSchedule
    from valleys.alto import ALTO, Lamb
    from valleys.groups import param_groups
    from valleys.hyperparameters import Suggestion, suggest
    from valleys.release import release_gradients

__all__ = [
    "ALTO",
    "ESGD",
    "AlphaSchedule",
    "EAdam",
    "EAdamW",
    "Lamb",
    "Suggestion",
    "adapt",
    "blocks",
    "param_groups",
    "release_gradients",
    "suggest",
]
__version__ = "0.1.0"

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "adaptor": "ESGD EAdam EAdamW adapt",
            "alpha_schedule": "AlphaSchedule",
            "alto": "ALTO Lamb",
            "blocks": "",
            "groups": "param_groups",
            "hyperparameters": "Suggestion suggest",
            "release": "release_gradients",
        },
    )
