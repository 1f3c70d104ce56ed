"""The look of a series in every plot: Okabe and Ito's colours, with a dash and a marker beside each."""

from __future__ import annotations

BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)

COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
"""Okabe and Ito's palette, which colour-blind readers can tell apart; the lightest yellow left out."""

DASHES = ("-", "--", "-.", ":")
"""Line styles of matplotlib; four and seven share no factor, so that each pair is met before one comes again."""

MARKERS = ("o", "s", "D", "^", "v", "*")
"""Markers of matplotlib."""
