"""What do the pictures of dynamics have in common?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mechtest.discovery.figures import plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BLUE", "GREY", "ORANGE", "named_axes"]

BLUE, ORANGE, GREY = "#2b6cb0", "#c05621", "#6b7280"


def named_axes(axes: Axes, title: str, x: str, y: str) -> Axes:
    """Write names on plain axes, and return them."""
    axes.set_title(title, loc="left", fontsize=9)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    return plain_axes(axes, 7.5, length=2)
