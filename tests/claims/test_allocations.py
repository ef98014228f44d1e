"""What the claim of L1-A-MTRL is told or kept from."""

import numpy as np

from anytask.claims.multitask.allocations import Permuted, Told
from anytask.multitask import L1AMTRL
from anytask.problems.base import Entrant
from anytask.problems.source_selection import SourceSelection

OPTIONS = {"n_sources": 12, "features": 6, "rank": 2, "budget": 600, "tested": 200}


def bought(cls, **params):
    data = SourceSelection().load("random-sources", **OPTIONS)
    entrant = Entrant("x", f"{cls.__module__}:{cls.__name__}", {"n_components": 2, **params}, "ablation")
    return np.array(list(SourceSelection().run(entrant, data, 0).details["labels"].values()))


def test_who_is_told_the_heads_explores_nothing():
    counts, explored = bought(Told), bought(L1AMTRL)
    assert counts.sum() == explored.sum() == 600 and counts.min() == 4 and explored.min() == 25


def test_permuted_labels_are_as_many_as_the_lasso_gives_but_of_other_sources():
    right, wrong = (bought(cls, rounds=1) for cls in (L1AMTRL, Permuted))
    assert np.array_equal(np.sort(right), np.sort(wrong)) and not np.array_equal(right, wrong)
