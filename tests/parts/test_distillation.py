"""Snapshots and distillation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from anytask.core.rollback import rollback
from anytask.parts.distillation import Snapshot, kl_distillation


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_snapshot_is_frozen_and_apart():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)).train()
    teacher = Snapshot(net)
    x = torch.randn(8, 2, generator=generator())
    before = teacher(x).clone()
    net(x).sum().backward()
    with torch.no_grad():
        net[0].weight.add_(1.0)
    assert torch.equal(teacher(x), before) and not teacher(x).requires_grad
    assert all(p.grad is None and not p.requires_grad for p in teacher.module.parameters())


def test_a_snapshot_in_train_mode_moves_its_statistics_and_a_rollback_undoes_it():
    class Holder:
        def __init__(self):
            self.teacher = Snapshot(nn.BatchNorm1d(2), train_mode=True)

    holder, x = Holder(), torch.ones(4, 2)
    with pytest.raises(RuntimeError), rollback(holder):
        holder.teacher(x)
        assert holder.teacher.module.running_mean.abs().sum() > 0
        raise RuntimeError
    assert holder.teacher.module.running_mean.abs().sum() == 0


@settings(deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 5.0))
def test_kl_distillation_is_torchs_divergence_along_either_axis(seed, T):
    student = torch.randn(4, 3, generator=generator(seed), dtype=torch.float64)
    teacher = torch.randn(4, 3, generator=generator(seed + 1), dtype=torch.float64)
    for dim in (0, 1):
        log_p, q = (student / T).log_softmax(dim), (teacher / T).softmax(dim)
        wanted = nn.functional.kl_div(log_p, q, reduction="none").sum(dim)
        got = kl_distillation(student, teacher, T, dim=dim, reduction="none")
        torch.testing.assert_close(got, wanted)
        assert (got >= -1e-12).all()
        torch.testing.assert_close(kl_distillation(student, teacher, T, dim=dim, scale=True), T**2 * wanted.mean())
        torch.testing.assert_close(kl_distillation(student, teacher, T, dim=dim, reduction="sum"), wanted.sum())


def test_kl_distillation_refuses_bad_input():
    with pytest.raises(ValueError, match="one shape"):
        kl_distillation(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="above 0"):
        kl_distillation(torch.zeros(2), torch.zeros(2), 0.0)
