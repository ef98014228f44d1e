"""Tables of a NERO result, and the averages over samples and over elements that they are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from anytask.evaluate.nero.result import NeroResult


def summary_table(result: NeroResult, subset: Any = None, class_: Any = None) -> pd.DataFrame:
    """Return one row per model, reference and metric; see :meth:`NeroResult.summary`."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    weights, here = result.group.weights, result.group.identity
    for reference in result.references:
        for metric in result.metrics.values():
            curves = result.aggregate(metric.key, reference, subset=subset, class_=class_)
            values = result.values(metric.key, reference)
            _, std, worst, gap = along_orbits(values, weights, metric.higher_is_better)
            curve = along_orbits(curves[..., None], weights, metric.higher_is_better)
            for j, name in enumerate(result.models):
                chosen = result.rows(subset, class_, name)
                row: dict[str, Any] = {"model": name, "reference": reference, "metric": metric.key}
                row["identity"] = np.nan if here is None else curves[j, here]
                row |= {"mean": curve[0][j, 0], "worst": curve[2][j, 0], "gap": curve[3][j, 0]}
                for key, table in (("sample_std", std), ("sample_worst", worst), ("sample_gap", gap)):
                    row[key] = float(nanmean(table[j, chosen], axis=0))
                rows.append(row | _about_consensus(result, name, chosen))
    return pd.DataFrame(rows)


def sample_table(result: NeroResult, metric: str, reference: str, chosen: np.ndarray) -> pd.DataFrame:
    """Return one row per model and chosen sample; see :meth:`NeroResult.per_sample`."""
    import pandas as pd

    tables = along_orbits(
        result.values(metric, reference)[:, :, chosen], result.group.weights, result.metrics[metric].higher_is_better
    )
    frames = []
    for j, name in enumerate(result.models):
        mean, std, worst, gap = (table[j] for table in tables)
        frame = pd.DataFrame({"model": name, "sample": chosen, "mean": mean, "std": std, "worst": worst, "gap": gap})
        agreed = result.consensus.get(name)
        if agreed is not None:
            frame["residual"] = agreed.residual[chosen]
            frame["agreement"] = agreed.agreement[chosen]
            frame["coverage"] = agreed.coverage[chosen]
            classes = result.classes[name]
            if result.task == "classification" and classes is not None:
                frame["consensus"] = classes[np.nan_to_num(agreed.value[chosen]).argmax(axis=1)]
        frames.append(frame)
    return pd.concat(frames).set_index(["model", "sample"])


def _about_consensus(result: NeroResult, name: str, rows: np.ndarray) -> dict[str, float]:
    agreed, truth = result.consensus.get(name), result.truth(name)
    found = {"residual": np.nan, "agreement": np.nan, "coverage": np.nan, "consensus_correct": np.nan}
    if agreed is not None:
        for key in ("residual", "agreement", "coverage"):
            found[key] = float(nanmean(getattr(agreed, key)[rows], axis=0))
        if result.task == "classification" and truth is not None:
            mine = agreed.value[rows]
            good = np.isfinite(mine).all(axis=1)
            if good.any():
                found["consensus_correct"] = float((mine[good].argmax(axis=1) == truth[rows][good]).mean())
    return found | {"failed": float(len({f.sample for f in result.failures if f.model == name}))}


def nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean along an axis of what is finite; NaN where nothing is."""
    good = np.isfinite(values)
    count = good.sum(axis=axis)
    total = np.where(good, values, 0).sum(axis=axis, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def along_orbits(values: np.ndarray, weights: np.ndarray, higher: bool) -> tuple[np.ndarray, ...]:
    """Return mean, std, worst and gap over the elements of (models, m, n), NaN left out; each (models, n)."""
    good = np.isfinite(values)
    w = np.where(good, weights[None, :, None], 0.0)
    total = w.sum(axis=1)
    some = total > 0
    safe = np.where(some, total, 1.0)
    filled = np.where(good, values, 0.0).astype(np.float64)
    low = np.where(good, filled, np.inf).min(axis=1)
    high = np.where(good, filled, -np.inf).max(axis=1)
    above = np.where(good, filled - low[:, None], 0.0)  # from the lowest value up, so that a flat orbit is exactly flat
    mean = low + (w * above).sum(axis=1) / safe
    variance = (w * np.where(good, filled - mean[:, None], 0.0) ** 2).sum(axis=1) / safe
    worst = low if higher else high
    gap = np.where(some, high, 0) - np.where(some, low, 0)
    return tuple(np.where(some, t, np.nan) for t in (mean, np.sqrt(variance), worst, gap))
