"""Counters and budgets under concurrency."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from anytask.lm.accounts import Accounts, Budget, Tally
from anytask.lm.protocol import BudgetExceeded


def test_counters_add_up_over_threads():
    accounts = Accounts()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: accounts.record("ab"[i % 2], calls=1, prompt_tokens=i), range(1000)))
    assert accounts.total == Tally(calls=1000, prompt_tokens=999 * 500)
    assert accounts["a"].calls == accounts.as_dict()["b"]["calls"] == 500


def test_a_budget_never_promises_more_than_it_has():
    budget = Budget(tokens=1000, calls=50)

    def spend(i: int) -> int:
        try:
            with budget.reserve(tokens=30) as settle:
                settle(tokens=30 if i % 2 else 10)
        except BudgetExceeded:
            return 0
        return 1

    with ThreadPoolExecutor(16) as pool:
        done = sum(pool.map(spend, range(500)))
    assert done == budget.used_calls <= 50
    assert budget.used_tokens <= 1000
    assert not any(budget._held.values())


def test_a_failed_call_gives_its_reservation_back():
    budget = Budget(tokens=50)
    with pytest.raises(RuntimeError), budget.reserve(tokens=50):
        raise RuntimeError
    with budget.reserve(tokens=50):
        pass


def test_money_and_seconds_are_limits_too():
    now = [0.0]
    budget = Budget(money=1.0, seconds=10, clock=lambda: now[0])
    with budget.reserve(0, money=0.6) as settle:
        settle(0, 0.6)
    with pytest.raises(BudgetExceeded, match=r"0\.4 of the budget's 1"), budget.reserve(0, money=0.6):
        pass
    now[0] = 10.0
    with pytest.raises(BudgetExceeded, match="10 seconds"), budget.reserve(0):
        pass
    with pytest.raises(ValueError, match="-1"):
        Budget(calls=-1)
