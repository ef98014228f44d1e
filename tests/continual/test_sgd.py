import torch
from torch import nn
from torch.nn.functional import mse_loss

from anytask.continual.parts.sgd import mode, sgd_step, train_on


class Recorder(nn.Module):
    """Remembers the rows of every mini-batch."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.batches = []

    def forward(self, x):
        self.batches.append(x.flatten().tolist())
        return x * self.scale


def test_every_pass_sees_every_row_once_and_the_last_may_stop_early():
    module = Recorder()
    x = torch.arange(10.0)[:, None]
    train_on(module, torch.optim.SGD(module.parameters(), 0.0), x, x, mse_loss, batch_size=4, steps=5, seed=0)
    assert [len(b) for b in module.batches] == [4, 4, 2, 4, 4]
    assert sorted(v for b in module.batches[:3] for v in b) == list(range(10))
    assert len({v for b in module.batches[3:] for v in b}) == 8


def test_a_single_row_uses_the_running_statistics_of_batch_norm():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    mean = module[1].running_mean.clone()
    sgd_step(module, torch.optim.SGD(module.parameters(), 0.1), lambda: module(torch.ones(1, 2)).sum(), 1)
    assert torch.equal(module[1].running_mean, mean)
    sgd_step(module, torch.optim.SGD(module.parameters(), 0.1), lambda: module(torch.ones(2, 2)).sum(), 2)
    assert not torch.equal(module[1].running_mean, mean)


def test_mode_is_put_back():
    module = nn.Dropout()
    with mode(module, training=False):
        assert not module.training
    assert module.training
