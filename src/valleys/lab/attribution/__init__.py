"""Attribution of the difference between two recipes to the switches in which they differ."""

from __future__ import annotations

from valleys.lab.attribution.attribute import Attribution, attribute
from valleys.lab.attribution.config import AttributionConfig
from valleys.lab.optimizers.recipes import Recipe

__all__ = ["Attribution", "AttributionConfig", "Recipe", "attribute"]
