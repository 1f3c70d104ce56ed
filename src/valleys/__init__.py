"""ALTO and the E adaptor for PyTorch optimizers (Zhao et al., NeurIPS 2025, arXiv 2510.27153).

``ALTO`` and ``Lamb`` are optimizers; ``adapt`` makes any torch optimizer explore, ``ESGD``, ``EAdam`` and ``EAdamW``
are ready-made; ``suggest`` is the paper's rule for alpha and beta; ``param_groups`` sorts a model's parameters and
``blocks`` says which of them hold several layers. The lab that compares optimizers fairly is ``valleys.lab``; the
mathematics in the paper's symbols is ``valleys.reference``.
"""

from valleys import blocks
from valleys.adaptor import ESGD, EAdam, EAdamW, adapt
from valleys.alto import ALTO, Lamb
from valleys.groups import param_groups
from valleys.hyperparameters import Suggestion, suggest

__all__ = ["ALTO", "ESGD", "EAdam", "EAdamW", "Lamb", "Suggestion", "adapt", "blocks", "param_groups", "suggest"]
__version__ = "0.1.0"
