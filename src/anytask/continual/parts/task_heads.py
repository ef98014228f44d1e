"""A frozen encoder with a head for each task: what its learners share, whatever they add to the encoder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from anytask.continual.base import ContinualClassifier
from anytask.continual.parts.growing import GrowingHead
from anytask.continual.parts.sgd import tune
from anytask.core.rng import derive
from anytask.models.build import tried
from anytask.models.loading import load_pretrained


class TaskHeads(ContinualClassifier):
    """Base of the learners that open a head, and an optimizer, for every task, and never touch those of another.

    A class belongs to one task. A system writes :meth:`_observe`, which trains on a mini-batch by :meth:`_step`, its
    :meth:`_rate`, and :meth:`_fresh_optimizer`; its :meth:`_build` makes the frozen ``network_``, whose features are
    ``_width`` wide, then calls this one's. What a task has besides its head is added in :meth:`_add_task`.
    """

    needs: ClassVar[str] = "boundary"
    sees: ClassVar[str] = "test"
    #: What lets the classes of ended tasks come back, as errors say it.
    lifted_by: ClassVar[str] = ""

    backbone: Any
    network_: Any
    _width: int
    _axes: tuple[int, ...] = ()  # that the network takes before those of an input

    # -- construction ---------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self.codes_: list[list[int]] = []  # the codes of each task's outputs, in the order of their coming
        self.open_ = False  # whether the last task is under way
        self.task_: object = None
        self.steps_ = 0  # of that task

    def _build(self) -> None:
        tried(self.network_, (*self._axes, *self.input_shape_))
        self.network_ = self.network_.to(self._device)
        self.heads_ = nn.ModuleList()
        for codes in self.codes_:
            self._add_task().grow(len(codes))
        self.optimizer_ = self._fresh_optimizer() if self.open_ else None

    def _pretrained(self) -> Any:
        """Return the backbone, read by transformers where it is a folder or a name."""
        if not isinstance(self.backbone, str):
            return self.backbone
        from transformers import AutoModel

        return load_pretrained(AutoModel, self.backbone)

    def _add_task(self) -> GrowingHead:
        head = GrowingHead(self._width, derive(self.seed, "head", len(self.heads_))).to(self._device)
        self.heads_.append(head)
        return head

    def _fresh_optimizer(self) -> torch.optim.Optimizer:
        """Return the optimizer of the task under way."""
        raise NotImplementedError

    # -- training -------------------------------------------------------------------------------------------------

    def _learn(self, X: Tensor, y: Tensor, task: object) -> None:
        if task is not None and self.open_ and task != self.task_:
            self._end_task()
        if not self.open_:
            self.codes_.append([])
            self._add_task()
            self.open_, self.steps_ = True, 0
            self.optimizer_ = self._fresh_optimizer()
        self.task_ = task
        with torch.enable_grad():
            for rows in self._minibatches(len(X)):
                self._observe(X[rows], y[rows])

    def _observe(self, x: Tensor, y: Tensor) -> None:
        """Train on a mini-batch of the task under way."""
        raise NotImplementedError

    def _meet(self, shown: Iterable[int]) -> tuple[GrowingHead, list[int]]:
        """Give the head of the task a row for each label that is new; return it with the codes of its rows."""
        head, codes = cast(GrowingHead, self.heads_[-1]), self.codes_[-1]
        new = [code for code in dict.fromkeys(shown) if code not in codes]
        old = {code for task in self.codes_[:-1] for code in task}
        if not self._repeatable() and (back := old.intersection(new)):
            labels = [self.labels_[code] for code in sorted(back)]
            raise ValueError(f"classes {labels} belong to a task that has ended: {self._once()}")
        codes += new
        head.grow(len(codes), self.optimizer_)
        return head, codes

    def _targets(self, y: Tensor) -> tuple[GrowingHead, Tensor]:
        """Return the head of the task, and which of its rows labels (n,) stand for."""
        head, codes = self._meet(y.tolist())
        return head, torch.tensor([codes.index(code) for code in y.tolist()], device=y.device)

    def _step(self, loss: Tensor) -> None:
        optimizer = cast(torch.optim.Optimizer, self.optimizer_)
        tune(optimizer, lr=self._rate())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        self.steps_ += 1

    def _rate(self) -> float:
        """Return the learning rate after ``steps_`` steps of the task."""
        raise NotImplementedError

    def end_task(self) -> Self:
        """Close the task under way: what it learned stays as it is."""
        if self.__sklearn_is_fitted__() and self.open_:
            with self._ending(), torch.enable_grad():
                self._end_task()
        return self

    def _end_task(self) -> None:
        self.open_, self.optimizer_ = False, None

    # -- classes that come back -----------------------------------------------------------------------------------

    def _repeatable(self) -> bool:
        return False

    def _once(self) -> str:
        return f"{type(self).__name__} learns each class in one task{self.lifted_by}"

    def refuses(self, stream: Any) -> str | None:
        """Return why it cannot learn from a stream with these facts, or None if it can."""
        again = stream.repeats and not self._repeatable()
        return f"classes come back in later tasks, and {self._once()}" if again else None
