"""Which rows are trained on and which tested: by class, in the order of time, or by whole groups."""

from __future__ import annotations

import numpy as np

from anytask.core.errors import BadData
from anytask.core.rng import derive
from anytask.datasets.labelled import LabelledData


def check_groups(labelled: LabelledData) -> None:
    """Raise a :class:`BadData` unless every class has one group to train on and one to test on, if any."""
    strata = labelled.strata
    for label in np.unique(strata).tolist() if labelled.group is not None else ():
        if len(np.unique(labelled.group[strata == label])) < 2:  # type: ignore[index]
            raise BadData(
                f"{labelled.name}: all rows of class {label!r} are of one group: 2 are needed to train and test"
            )


def split_rows(
    y: np.ndarray, domains: np.ndarray | None, test_size: float, max_per_class: int | None, seed: int, *,
    ordered: bool = False, groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return (training rows, test rows): of each class (of each domain) at least one each, disjoint, by seed.

    A class with a single row in a domain is trained on and not tested there. With ``ordered`` the last rows of each
    class are tested on. With ``groups`` no group is trained and tested on; a class of which all groups were drawn for
    testing is not tested there.
    """
    rng = np.random.default_rng(derive(seed, "task-stream", "split"))
    codes = np.unique(y, return_inverse=True)[1]
    if domains is not None:
        codes = codes + (codes.max() + 1) * np.unique(domains, return_inverse=True)[1]
    by_code = np.argsort(codes, kind="stable")
    held_out = np.zeros(len(y), dtype=bool) if groups is None else _drawn_groups(codes, groups, test_size, seed)
    train, test = [], []
    for rows in np.split(by_code, np.flatnonzero(np.diff(codes[by_code])) + 1):
        chosen = (rows[::-1] if ordered else rng.permutation(rows))[:max_per_class]
        if groups is None:
            n_test = min(max(1, round(test_size * len(chosen))), len(chosen) - 1)
            held_out[chosen[:n_test]] = True
        test.append(chosen[held_out[chosen]])
        train.append(chosen[~held_out[chosen]])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))


def _drawn_groups(codes: np.ndarray, groups: np.ndarray, test_size: float, seed: int) -> np.ndarray:
    """Return which rows are of groups drawn for testing: about ``test_size`` of each class, never all of its groups."""
    names, group = np.unique(groups, return_inverse=True)
    sizes = np.zeros((len(names), codes.max() + 1), dtype=int)  # rows of each class in each group
    np.add.at(sizes, (group, codes), 1)
    drawn = np.zeros(len(names), dtype=bool)
    order = np.random.default_rng(derive(seed, "task-stream", "groups")).permutation(len(names))
    total = sizes.sum(axis=0)
    for enough, least in ((np.all, test_size * total), (np.any, np.minimum(1, total))):  # then classes not yet tested
        for i in order[~drawn[order]]:
            own, tested = sizes[i] > 0, sizes[drawn].sum(axis=0)
            left = (sizes[~drawn][:, own] > 0).sum(axis=0)
            drawn[i] = left.min() > 1 and enough(tested[own] < least[own])
    return drawn[group]
