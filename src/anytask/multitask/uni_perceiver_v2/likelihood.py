"""The losses: negative log-likelihoods of answers among the candidates of a task."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anytask.multitask.uni_perceiver_v2.perceiver import Perceiver
from anytask.multitask.uni_perceiver_v2.proposals import Scenes, matched
from anytask.multitask.uni_perceiver_v2.tasks import END, Task, words
from anytask.parts.contrastive import contrastive_loss, label_target


class Examples:
    """The examples of a task with their answers as places among the candidates.

    Parameters
    ----------
    task : Task
    scenes : Scenes or None
        Its images.
    vocabulary : sequence of str
        The words of captions, :data:`~anytask.multitask.uni_perceiver_v2.tasks.END` among them.
    """

    def __init__(self, task: Task, scenes: Scenes | None, vocabulary: Sequence[str]) -> None:
        self.task, self.scenes, self.vocabulary = task, scenes, list(vocabulary)
        self.classes = task.classes if task.kind in ("classification", "detection") else sorted(set(task.texts))
        place = {name: i for i, name in enumerate(self.vocabulary if self.written else self.classes)}
        if self.written:
            lists = [[*(place[word] for word in words(text)), place[END]] for text in task.texts]
            rows = [torch.tensor(one) for one in lists]
            self.answer = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
        elif task.kind == "detection":
            self.answer = torch.tensor(np.stack([self._shown(row, place) for row in range(task.size)]))
            found, n = int((self.answer < len(self.classes) - 1).sum()), sum(map(len, task.labels))
            if 2 * found < n:
                warnings.warn(f"Proposals cover {found} of the {n} boxes of task {task.name!r}", stacklevel=3)
        else:
            self.answer = torch.tensor([place[text] for text in task.texts])

    @property
    def written(self) -> bool:
        """Whether answers are texts, word by word."""
        return self.task.kind in ("caption", "language")

    def _shown(self, row: int, place: dict[str, int]) -> np.ndarray:
        """Return the class of each of an image's N proposals; the last one, background, where none is assigned."""
        assert self.scenes is not None
        there = self.scenes.scores[row] >= 0
        answer = np.full(len(there), len(self.classes) - 1)
        truth = matched(self.scenes.boxes[row][there], self.task.boxes[row])
        for i in np.flatnonzero(truth >= 0):  # those that are there come first
            answer[i] = place[self.task.labels[row][truth[i]]]
        return answer

    def loss(self, net: Perceiver, rows: Tensor, device: torch.device) -> Tensor:
        """Return the mean negative log-likelihood of the answers of some rows."""
        kind, answer = self.task.kind, self.answer[rows].to(device)
        scenes = None if self.scenes is None else self.scenes[rows].to(device)
        if self.written:
            answer = answer[:, : int((answer >= 0).sum(1).max())]  # (n, length)
            table = net.each_word(self.vocabulary)
            before = torch.cat([torch.full_like(answer[:, :1], len(self.vocabulary)), answer[:, :-1].clamp(min=0)], 1)
            out = net.write(None if scenes is None else net.image(scenes), table[before], kind)
            S, answer = net.logits(out[answer >= 0], net.answers(self.vocabulary, kind)), answer[answer >= 0]
        elif kind == "detection":
            assert scenes is not None
            shown = scenes.scores >= 0
            if not shown.any():
                return 0 * net.log_tau
            S, answer = net.logits(net.look(scenes, kind)[1][shown], net.answers(self.classes, kind)), answer[shown]
        else:
            assert scenes is not None
            candidates = self.classes
            if kind == "retrieval":  # those of the batch; equal texts are one
                places, answer = answer.unique(return_inverse=True)
                candidates = [self.classes[place] for place in places.tolist()]
            S = net.logits(net.look(scenes, kind)[0], net.answers(candidates, kind))
            return contrastive_loss(
                S, label_target(answer, torch.arange(len(candidates), device=device)), symmetric=kind == "retrieval"
            )
        return contrastive_loss(S, F.one_hot(answer, S.shape[1]))
