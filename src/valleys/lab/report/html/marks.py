"""The sample of an optimizer's line and mark beside its name, as SVG."""

from __future__ import annotations

from markupsafe import Markup

from valleys import palette

_SHAPES = (
    "M30 12A8 8 0 1 0 30 28A8 8 0 1 0 30 12Z",
    "M22 12H38V28H22Z",
    "M30 10L40 20L30 30L20 20Z",
    "M30 10L40 27H20Z",
    "M30 30L40 13H20Z",
    "M30 9L33 17L41 20L33 23L30 31L27 23L19 20L27 17Z",
)
"""Paths of the palette's markers about the point (30, 20)."""


def swatch(index: int) -> Markup:
    """Draw the sample of an optimizer by its number, hidden from screen readers: its name stands beside it."""
    color, dash = index % len(palette.COLORS), index % len(palette.DASHES)
    shape = _SHAPES[index % len(_SHAPES)]
    return Markup(  # noqa: S704 - made of constants
        f'<svg class="swatch c{color}" viewBox="0 8 60 24" aria-hidden="true"><path class="line d{dash}" d="M0 20H60"/>'
        f'<path class="mark" d="{shape}"/></svg>'
    )
