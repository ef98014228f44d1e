"""Tables of candidates with costs and scores: the best one within a budget, the Pareto front, and its picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def best_within(table: pd.DataFrame, budget: float | None, cost: str, score: str) -> int:
    """Return the row of the lowest score, the cheapest of equals, that costs at most ``budget``.

    Parameters
    ----------
    table : pandas.DataFrame
    budget : float or None
        None for any cost.
    cost, score : str
        Columns.

    Raises
    ------
    ValueError
        For a budget below the smallest cost, which is named.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"parameters": [10, 20, 30], "loss": [0.5, 0.2, 0.3]})
    >>> best_within(table, 30, "parameters", "loss"), front_of(table, "parameters", "loss").index.tolist()
    (1, [0, 1])
    >>> best_within(table, 5, "parameters", "loss")
    Traceback (most recent call last):
        ...
    ValueError: nothing has a budget of 5 parameters: the smallest has 10
    """
    within = table if budget is None else table[table[cost] <= budget]
    if not len(within):
        raise ValueError(f"nothing has a budget of {budget:,.0f} {cost}: the smallest has {table[cost].min():,.0f}")
    return int(within.sort_values([score, cost], kind="stable").index[0])


def front_of(table: pd.DataFrame, cost: str, score: str) -> pd.DataFrame:
    """Return the rows than which none is both as cheap and of a lower score, the cheapest first."""
    ordered = table.sort_values([cost, score], kind="stable")
    return ordered[ordered[score] < ordered[score].cummin().shift(fill_value=np.inf)]


def plot_front(table: pd.DataFrame, cost: str, score: str, by: str, said: str) -> go.Figure:
    """Return costs against scores: points in the color of their column ``by``, and the line of the front."""
    import plotly.graph_objects as go

    best = front_of(table, cost, score)
    points = [
        go.Scatter(x=part[cost], y=part[score], text=part[said], name=str(name), mode="markers")
        for name, part in table.groupby(by, sort=False)
    ]
    line = go.Scatter(x=best[cost], y=best[score], name="best for a budget", line={"shape": "hv", "color": "black"})
    return go.Figure([*points, line]).update_xaxes(title=cost).update_yaxes(title=score)
