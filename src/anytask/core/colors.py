"""One colour per entrant, the same in every figure of a report."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

#: Twelve colours that stay apart on white, for readers with colour-vision deficiencies as well as can be.
PALETTE = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
    "#7b4b94", "#8c510a", "#5b7f00", "#b2182b", "#4d4d4d", "#01665e",
)  # fmt: skip


def color_of(name: str, names: Sequence[str]) -> str:
    """Return the colour of ``name`` among ``names``, as ``#rrggbb``.

    Parameters
    ----------
    name : str
        The entrant.
    names : sequence of str
        All entrants of the report, in the report's order, so that every figure agrees.

    Raises
    ------
    ValueError
        If ``name`` is not among ``names``.

    Examples
    --------
    >>> color_of("tame", ["tame", "replay"]), color_of("replay", ["tame", "replay"])
    ('#0072b2', '#d55e00')
    """
    order = list(dict.fromkeys(names))
    if name not in order:
        raise ValueError(f"{name!r} is not one of {order}")
    place = order.index(name)
    if place < len(PALETTE):
        return PALETTE[place]
    # Beyond the palette: hues a golden angle apart never come back to one another.
    hue = (0.13 + 0.618034 * (place - len(PALETTE))) % 1.0
    red, green, blue = colorsys.hls_to_rgb(hue, 0.42, 0.55)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def translucent(color: str, alpha: float) -> str:
    """Return a ``#rrggbb`` colour as ``rgba(...)`` with this opacity, for bands and fills.

    Examples
    --------
    >>> translucent("#0072b2", 0.2)
    'rgba(0, 114, 178, 0.2)'
    """
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {alpha})"
