"""A failed block leaves the object as it was, down to the identity of what it holds."""

from collections import deque

import numpy as np
import pytest
import torch

from anytask.core.rollback import rollback


class Learner:
    def __init__(self):
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)
        self.window = deque([1.0, 2.0], maxlen=2)
        self.names = {"a": [1]}
        self.members = {1}
        self.array = np.arange(3.0)
        self.rng = np.random.default_rng(0)
        self.torch_rng = torch.Generator().manual_seed(0)
        self.nested = (self.names, [torch.zeros(2)])

    def step(self):
        loss = self.net(torch.randn(4, 3, generator=self.torch_rng)).square().sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.window.append(self.rng.random())
        self.names["a"].append(2)
        self.names["b"] = [3]
        self.members.add(7)
        self.array += 1
        self.nested[1][0] += 1
        self.new = "attribute"
        return loss.item()


def test_everything_is_put_back_in_place():
    learner = Learner()
    learner.step()
    weights = learner.net[0].weight
    names, array = learner.names, learner.array
    before = [t.clone() for t in learner.net.state_dict().values()]
    with pytest.raises(KeyboardInterrupt), rollback(learner):
        learner.step()
        raise KeyboardInterrupt
    assert learner.net[0].weight is weights and learner.names is names and learner.array is array
    assert all(torch.equal(a, b) for a, b in zip(learner.net.state_dict().values(), before))
    assert learner.names == {"a": [1, 2], "b": [3]}
    assert learner.members == {1, 7} and len(learner.window) == 2 and learner.window.maxlen == 2
    assert array.tolist() == [1, 2, 3] and learner.nested[1][0].tolist() == [1, 1]


def test_the_future_is_what_it_would_have_been():
    plain, failed = Learner(), Learner()
    failed.net.load_state_dict(plain.net.state_dict())
    with pytest.raises(RuntimeError), rollback(failed):
        failed.step()
        raise RuntimeError
    assert not hasattr(failed, "new")
    assert failed.optimizer.state == {}
    assert [plain.step() for _ in range(3)] == [failed.step() for _ in range(3)]


def test_a_clean_block_keeps_its_changes():
    learner = Learner()
    with rollback(learner):
        learner.step()
    assert learner.members == {1, 7}


def test_what_is_skipped_is_not_looked_into():
    learner = Learner()
    with pytest.raises(RuntimeError), rollback(learner, skip=frozenset({"array"})):
        learner.array += 1
        learner.members.add(3)
        raise RuntimeError
    assert learner.array.tolist() == [1, 2, 3]
    assert learner.members == {1}


def test_an_object_with_its_own_undo():
    class Journal:
        def __init__(self):
            self.log = []

        def __snapshot__(self):
            length = len(self.log)
            return lambda: self.log.__delitem__(slice(length, None))

    class Holder:
        journal = None

    holder = Holder()
    holder.journal = Journal()
    holder.journal.log.append("kept")
    with pytest.raises(RuntimeError), rollback(holder):
        holder.journal.log.append("lost")
        raise RuntimeError
    assert holder.journal.log == ["kept"]
