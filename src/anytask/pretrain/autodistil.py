"""AutoDistil: distil encoders that share weights, and cut out the best student for any budget (Xu et al., 2022).

For X in {queries, keys, values} of the last block, Rel_X = X X' / sqrt(d_r) of each of A_r relation heads. With
members s of a sub-space, slices of one SuperLM, each step minimises the sum over the largest, the smallest and two
random members of

    L(s) = sum_X mean over heads and tokens of KL(softmax Rel_X(teacher) || softmax Rel_X(s)).

Then every member is scored by L on texts that were held out, without any training, and the best one within a budget
is copied out.

Departures from the paper
-------------------------
* Costs are counted exactly; ``costs="published"`` has the released code's formulas, which price the projections of a
  block as if heads were of H/12. Either counts a multiplication with an addition as one.
* The student for a budget is the best over all sub-spaces: all are scored on the same texts against one teacher.
* The proxy search fine-tunes a SuperLM with the members of a step as in distillation; how the paper does it is not said
  in what we read.
* ``loss="mse"`` is the released code's; padding is masked on both axes of the scores there too.
* Sub-spaces may not exceed the teacher, whose slices they begin with, unless ``start="random"``.
* Arrays are read too, as rows of tokens; ``teacher=None`` is a small teacher that learns here to fill in masked tokens.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.core.checks import class_codes, require_finite
from anytask.core.errors import shown
from anytask.core.progress import Progress, heard, portion
from anytask.core.rng import derive, isolated
from anytask.core.settings import check_number, check_whole, choice, free, group, of_kind, real, whole
from anytask.core.training import train
from anytask.pretrain.base import PretrainEstimator
from anytask.pretrain.parts.budgets import best_within, front_of, plot_front
from anytask.pretrain.parts.encoders import EncoderEstimator, FineTuning, Head, SmallEncoder, encoder_field, pooled
from anytask.pretrain.parts.relations import projections, recorded, relation_loss
from anytask.pretrain.parts.sequences import Sequences, shuffled
from anytask.pretrain.parts.slices import (
    Members,
    Pattern,
    Shape,
    Space,
    flops,
    parameters,
    read_spaces,
    shape_of,
    smallest_first,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

__all__ = ["AutoDistil"]

#: The paper's sub-spaces, for a teacher of BERT-base's shape.
SPACES = (
    {"name": "base", "layers": [9, 10, 11, 12], "heads": [9, 10, 11, 12], "width": [544, 576, 608, 640],
     "ratio": [2.5, 3, 3.5, 4]},
    {"name": "small", "layers": [9, 10, 11, 12], "heads": [7, 8, 9, 10], "width": [256, 288, 320, 352],
     "ratio": [2.5, 3, 3.5, 4]},
    {"name": "tiny", "layers": [4, 5, 6, 7], "heads": [7, 8, 9, 10], "width": [128, 160, 192, 224],
     "ratio": [2, 2.5, 3, 3.5]},
)  # fmt: skip


class AutoDistil(EncoderEstimator, PretrainEstimator):
    """Distil one teacher into encoders that share weights; any budget's student is then a look-up.

    Sub-spaces of shapes (layers, heads, width, ratio of the feed-forward layers) each share the weights of their
    largest member, a SuperLM that learns to relate tokens as the teacher's last block does, from inputs without
    labels. Every member is scored without training, and :meth:`student` cuts out the best one for a budget: a plain
    encoder of transformers, to be fine-tuned on any task. Pick it where budgets change, or are not known yet; for one
    budget and one task, train the teacher on the task and distil its answers.

    Parameters
    ----------
    teacher : str, path, torch.nn.Module or None
        An encoder of transformers by name or folder, "minilm" for the packaged MiniLM; a module with a ``config``, and
        for texts a ``tokenizer``; None for a small one that learns here to fill in masked tokens of arrays.
    tokenizer : optional
        Of a module that reads texts.
    small : SmallEncoder
        The small one.
    spaces : sequence of mapping
        A "name", and values of "layers", "heads", "width" and "ratio" of each sub-space. Heads have the teacher's size.
    start : {"teacher", "random"}
        What SuperLMs begin with.
    relation_heads : int, optional
        A_r; the teacher's heads unless given.
    loss : {"kl", "mse"}
        Between the softmax of relations (paper), or the scores (released code).
    sampling : {"sandwich", "random"}
        Members of a step: the largest, the smallest and ``n_random``; or as many random ones.
    n_random : int
    epochs, batch_size, lr, weight_decay, warmup
        Passes over the inputs for each SuperLM, AdamW, and the share of the steps over which the rate rises.
    held_out : int
        Inputs that members are scored on, a fifth of all at most.
    budget : float, optional
        What a student may cost, where a call says nothing else; None: any.
    unit : {"parameters", "flops"}
        Of the budget; FLOPs for ``max_tokens`` tokens, or as many as arrays have.
    costs : {"exact", "published"}
    max_tokens : int
        Tokens of a text that are read.
    pooling : {"first", "mean"}
        How tokens become a vector: BERT's pooler on the first, or their mean.
    finetuning : FineTuning
    seed, device
        See :class:`~anytask.core.estimator.Estimator`.

    Attributes
    ----------
    supers_ : torch.nn.ModuleList
        The SuperLMs, in the order of ``spaces``; ``loss_`` and, after :meth:`proxy`, ``accuracy_`` score their members.
    classifier_ : torch.nn.Module
        What fine-tuning learned; ``classes_`` are its labels.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X = load_digits().images[:500]
    >>> model = AutoDistil.from_preset("small", epochs=4).fit(X)
    >>> small, large = model.student(6_000), model.student(20_000)
    >>> small.num_parameters() <= 6_000 < large.num_parameters() <= 20_000
    True
    >>> model.search(6_000)["loss"] > model.search(20_000)["loss"]
    True

    References
    ----------
    Xu, Mukherjee, Liu, Dey, Wang, Zhang, Awadallah, Gao, 2022, "Few-shot Task-agnostic Neural Architecture Search for
    Distilling Large Language Models", NeurIPS, arXiv:2201.12507.
    """

    takes: ClassVar[str] = "arrays"
    INFERENCE: ClassVar[tuple[str, ...]] = ("budget", "unit", "costs", "pooling", "finetuning")
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {
            "teacher": None, "epochs": 16, "batch_size": 32, "lr": 1e-3, "pooling": "mean",
            "finetuning": {"lr": 1e-3, "min_steps": 200},
            "spaces": (
                {"name": "base", "layers": [3, 4], "heads": [3, 4], "width": [40, 48], "ratio": [1.5, 2]},
                {"name": "tiny", "layers": [1, 2], "heads": [1, 2], "width": [16, 24], "ratio": [1, 1.5]},
            ),
        },
        "minilm": {
            "teacher": "minilm", "lr": 3e-4, "batch_size": 32, "max_tokens": 64, "pooling": "mean",
            "finetuning": {"lr": 1e-4, "min_steps": 100},
            "spaces": (
                {"name": "small", "layers": [3, 4], "heads": [8, 10, 12], "width": [192, 256], "ratio": [3, 4]},
                {"name": "tiny", "layers": [2, 3], "heads": [6, 8], "width": [96, 128], "ratio": [3, 4]},
            ),
        },
    }  # fmt: skip

    teacher: Any = encoder_field("bert-base-uncased", "whom students learn from; None: a small encoder of arrays")
    tokenizer: Any = of_kind(None, (Callable,), "a tokenizer", "of a teacher that is a module", optional=True)
    small: SmallEncoder = group(SmallEncoder, "the small teacher")
    spaces: Any = free(SPACES, "values of layers, heads, width and ratio of each sub-space", read_spaces)
    start: str = choice("teacher", ("teacher", "random"), "weights that SuperLMs begin with")
    relation_heads: int | None = whole(None, "A_r; None: as many as the teacher has heads", optional=True)
    loss: str = choice("kl", ("kl", "mse"), "between softmaxes of relations, or their scores")
    sampling: str = choice(
        "sandwich", ("sandwich", "random"), "members of a step: largest, smallest and random, or random"
    )
    n_random: int = whole(2, "random members of a step, beside the largest and the smallest", at_least=0)
    epochs: int = whole(15, "passes over the inputs for each SuperLM", at_least=0)
    batch_size: int = whole(128, "inputs of a mini-batch")
    lr: float = real(4e-5, "learning rate of AdamW", above=0)
    weight_decay: float = real(0.01, "of AdamW", at_least=0)
    warmup: float = real(0.1, "share of the steps over which the rate rises", at_least=0, below=1)
    held_out: int = whole(256, "inputs that members are scored on; a fifth of all at most")
    budget: float | None = real(None, "what a student may cost; None: any", above=0, optional=True)
    unit: str = choice("parameters", ("parameters", "flops"), "of the budget")
    costs: str = choice("exact", ("exact", "published"), "how they are counted")
    max_tokens: int = whole(128, "tokens of a text that are read", at_least=2)
    pooling: str = choice("first", ("first", "mean"), "how tokens become a vector: BERT's pooler, or their mean")
    finetuning: FineTuning = group(FineTuning, "how labels are learned")

    def _given(self) -> tuple[Any, Any]:
        return self.teacher, self.tokenizer

    def _build(self) -> None:
        self.teacher_ = self._made().requires_grad_(False)
        self.supers_ = nn.ModuleList(self._pattern.encoder(space.largest) for space in self._spaces.values()).eval()
        if hasattr(self, "classes_"):
            student = self._pattern.encoder(Shape(*self.shape_))
            self.classifier_ = Head(student, len(self.classes_), self.pooling).to(self._device).eval()

    @property
    def _spaces(self) -> dict[str, Space]:
        return read_spaces(self.spaces)

    @property
    def _pattern(self) -> Pattern:
        return Pattern(self.teacher_)

    @property
    def _positions(self) -> int:
        return self._pattern.sizes.positions

    @property
    def _heads(self) -> int:
        return int(self.relation_heads or self.teacher_.config.num_attention_heads)

    # -- distillation ---------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, *, unlabeled: Any = None, progress: Progress | None = None) -> Self:
        """Distil without labels; with labels, go on to fine-tune the student of ``budget`` on them.

        Parameters
        ----------
        X : sequence of str, or array of shape (n, ...)
            Texts where the teacher reads texts. Vectors are sequences of numbers, images sequences of rows.
        y : array of shape (n,), optional
            Labels; they leave :meth:`transform` as it is.
        unlabeled : as X, optional
            Further inputs, which are distilled on too.
        progress : callable, optional
            Told the finished share.

        Raises
        ------
        ValueError, TypeError
            For data that cannot be used, sub-spaces that exceed the teacher, and a budget that no member fits.
        """
        told, X_ = heard(progress), self._read(X)
        pool = self._joined(X_, unlabeled)
        if y is None:
            return super().fit(pool, progress=told)
        class_codes(y, len(X_))
        with self._refit():
            super().fit(pool, progress=portion(told, 0.0, 0.8))
            self.finetune(X, y, progress=portion(told, 0.8, 1.0))
        return self

    def _train(self, data: Any, progress: Progress) -> None:
        pattern, spaces = self._pattern, self._spaces
        sequences = self._sequences(data, pattern.sizes.positions)
        for name, space in spaces.items():
            pattern.check(name, space, self._heads, self.start == "teacher")
        if self.teacher is None:
            self.teacher_.requires_grad_(True)
            self.small.learn(self.teacher_, sequences, portion(progress, 0.0, 0.1))
            self.teacher_.requires_grad_(False)
        order = np.random.default_rng(derive(self.seed, "held out")).permutation(len(sequences))
        n = min(self.held_out, max(1, len(order) // 5))
        held, rest = sequences.part(order[:n]), sequences.part(order[n:] if len(order) > 1 else order)
        for place, space in enumerate(spaces.values()):
            if self.start == "teacher":
                self.supers_[place] = pattern.cut(space.largest)
            share = [0.1 + 0.8 * (place + i) / len(spaces) for i in (0, 1)]
            self._distil(self.supers_[place], self._sampler(space), rest, self.epochs, portion(progress, *share))
        self.loss_ = self._losses(held)
        progress(1.0)

    def _sampler(self, space: Space) -> Callable[[], list[Shape]]:
        """Return what draws the members of a step, each another one."""
        members = smallest_first(space.members, self._pattern.sizes)
        rng = np.random.default_rng(derive(self.seed, "members"))
        ends = list(dict.fromkeys([members[-1], members[0]])) if self.sampling == "sandwich" else []
        others = [one for one in members if one not in ends]
        n = min(self.n_random + (0 if ends else 2), len(others))

        def sample() -> list[Shape]:
            return [*ends, *(others[i] for i in rng.choice(len(others), size=n, replace=False))]

        return sample

    def _told(self, batch: Mapping[str, Tensor]) -> list[Tensor]:
        with torch.no_grad(), recorded(projections(self.teacher_)) as found:
            self.teacher_(**batch)
        return found

    def _distil(
        self, net: Any, sample: Callable[[], list[Shape]], data: Sequences, epochs: int, progress: Progress
    ) -> None:
        from transformers import get_linear_schedule_with_warmup

        steps, rows = epochs * math.ceil(len(data) / self.batch_size), shuffled(len(data), self.batch_size)
        optimizer = torch.optim.AdamW(net.parameters(), self.lr, weight_decay=self.weight_decay)

        members = Members(net, self._pattern.base)

        def losses(part: Tensor) -> Any:
            batch = data.batch(part, self._device)
            teacher, mask = self._told(batch), batch["attention_mask"].bool()
            for shape in sample():
                own, _ = members.run(shape, batch)
                yield relation_loss(own, teacher, self._heads, mask, self.loss)

        train(
            net, lambda step: next(rows), losses, steps=steps, optimizer=optimizer, stage="distillation",
            schedule=get_linear_schedule_with_warmup(optimizer, round(self.warmup * steps), steps), progress=progress,
        )  # fmt: skip

    # -- search ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _losses(self, data: Sequences) -> np.ndarray:
        batches = [(len(rows), batch, self._told(batch)) for rows, batch in data.batches(self.batch_size, self._device)]

        found = []
        for net, space in zip(self.supers_, self._spaces.values()):
            members = Members(net, self._pattern.base)
            for shape in space.members:
                total = 0.0
                for n, batch, teacher in batches:
                    own, _ = members.run(shape, batch)
                    mask = batch["attention_mask"].bool()
                    total += n * float(relation_loss(own, teacher, self._heads, mask, self.loss))
                found.append(require_finite(total / len(data), "a member's loss"))
        return np.array(found)

    def table(self) -> pd.DataFrame:
        """Return all members: sub-space, shape, parameters, FLOPs, held-out loss and, after a proxy, accuracy."""
        import pandas as pd

        self._check_fitted()
        self._check_settings()
        self._check_shape_kept()
        sizes, old = self._pattern.sizes, self.costs == "published"
        n = min(self.max_tokens, sizes.positions) if self._of_texts else sizes.positions
        rows = [
            (name, one.layers, one.heads, one.width, one.ratio, parameters(one, sizes, old), flops(one, sizes, n, old))
            for name, space in self._spaces.items()
            for one in space.members
        ]
        table = pd.DataFrame(rows, columns=["space", "layers", "heads", "width", "ratio", "parameters", "flops"])
        table["loss"] = self.loss_
        return table.assign(accuracy=self.accuracy_) if hasattr(self, "accuracy_") else table

    def search(self, budget: float | None = None, *, unit: str | None = None, by: str = "loss") -> dict[str, Any]:
        """Return the best member within a budget, as a row of :meth:`table`; nothing is trained.

        Parameters
        ----------
        budget : float, optional
            ``self.budget`` unless given.
        unit : {"parameters", "flops"}, optional
            ``self.unit`` unless given.
        by : {"loss", "accuracy"}
            The relation loss (agnostic), or the accuracy of :meth:`proxy`.

        Raises
        ------
        ValueError
            For a budget below the smallest member, which is named.
        """
        table, cost = self._scored(unit, by)
        budget = self.budget if budget is None else check_number(budget, "budget", above=0)
        row = best_within(table, budget, cost, "score")
        return {str(name): value for name, value in self.table().iloc[[row]].to_dict("records")[0].items()}

    def front(self, *, unit: str | None = None, by: str = "loss") -> pd.DataFrame:
        """Return the members than which none is both as cheap and better, the cheapest first."""
        table, cost = self._scored(unit, by)
        return front_of(table, cost, "score").drop(columns="score")

    def plot(self, *, unit: str | None = None, by: str = "loss") -> go.Figure:
        """Return all members as points, cost against loss (or error), with the line of :meth:`front`."""
        table, cost = self._scored(unit, by)
        table["shape"] = [f"L {r.layers}, A {r.heads}, H {r.width}, R {r.ratio:g}" for r in table.itertuples()]
        name = "held-out loss" if by == "loss" else "error of the proxy"
        table[name] = table["score"] if by == "loss" else 1 + table["score"]
        return plot_front(table, cost, name, "space", "shape")

    def _scored(self, unit: str | None, by: str) -> tuple[pd.DataFrame, str]:
        """Return the table with a score, lower is better, and the column of the cost."""
        if unit not in (None, "parameters", "flops"):
            raise ValueError(f"unit must be 'parameters' or 'flops', got {unit!r}")
        if by not in ("loss", "accuracy"):
            raise ValueError(f"by must be 'loss' or 'accuracy', got {by!r}")
        table = self.table()
        if by not in table:
            raise ValueError("no member has an accuracy yet: call proxy(X, y) first")
        return table.assign(score=table["loss"] if by == "loss" else -table["accuracy"]), unit or self.unit

    def proxy(self, X: Any, y: Any, *, progress: Progress | None = None) -> Self:
        """Score all members by a labelled task: fine-tune a copy of each SuperLM, and test its slices on a fifth of it.

        Parameters
        ----------
        X, y
            As in :meth:`finetune`; a large task.
        """
        data = self._asked(X)
        classes, codes = class_codes(y, len(data))
        order = np.random.default_rng(derive(self.seed, "proxy")).permutation(len(data))
        held, rest = np.split(order, [max(1, len(order) // 5)])
        if len(rest) < 1:
            raise ValueError("the proxy needs at least 2 labelled inputs, of which one is tested on")
        told, accuracy, target = heard(progress), [], torch.from_numpy(codes)
        for place, (net, space) in enumerate(zip(self.supers_, self._spaces.values())):
            share = portion(told, place / len(self.supers_), (place + 1) / len(self.supers_))
            with isolated(derive(self.seed, "proxy", place)):
                head = Head(copy.deepcopy(net), len(classes), self.pooling).to(self._device)
                self._tune_members(head, self._sampler(space), data.part(rest), target[rest], share)
            with torch.no_grad():
                for shape in space.members:
                    logits = data.part(held).encoded(self._member_head(head, shape), self._device)
                    accuracy.append(float((logits.argmax(1).cpu() == target[held]).double().mean()))
        self.accuracy_ = np.array(accuracy)
        return self

    def _tune_members(
        self, head: Head, sample: Callable[[], list[Shape]], data: Sequences, target: Tensor, progress: Progress
    ) -> None:
        def answers(batch: dict[str, Tensor]) -> Iterator[Tensor]:
            return (self._member_head(head, shape)(batch) for shape in sample())

        self.finetuning.learn(head, data, target, self._device, progress, answers)

    def _member_head(self, head: Head, shape: Shape) -> Callable[[dict[str, Tensor]], Tensor]:
        """Return what gives the logits of a member under a head of its SuperLM, sliced like it."""
        members = Members(head.encoder, self._pattern.base)

        def logits(batch: dict[str, Tensor]) -> Tensor:
            _, output = members.run(shape, batch)
            return F.linear(pooled(output, batch, self.pooling), head.out.weight[:, : shape.width], head.out.bias)

        return logits

    # -- students -------------------------------------------------------------------------------------------------

    def student(self, budget: float | None = None, *, unit: str | None = None, by: str = "loss") -> Any:
        """Return the best student within a budget, cut out without training.

        Returns
        -------
        transformers.PreTrainedModel
            In evaluation mode, with weights of its own: a ``BertModel`` where its heads have BERT's size, else a
            :class:`~anytask.models.slim_bert.SlimBertModel`, whose folders load once ``anytask.models.slim_bert`` is
            imported.
        """
        row = self.search(budget, unit=unit, by=by)
        net = self.supers_[list(self._spaces).index(row["space"])]
        return self._pattern.extract(net, Shape(row["layers"], row["heads"], row["width"], row["ratio"]))

    def refine(self, student: Any, X: Any, *, epochs: int | None = None, progress: Progress | None = None) -> Any:
        """Return a copy of a student that was distilled further on inputs without labels, alone.

        Parameters
        ----------
        student : transformers.PreTrainedModel
            What :meth:`student` returned.
        X : as in :meth:`fit`
        epochs : int, optional
            Passes over them, ``self.epochs`` unless given.
        """
        data, shape = self._asked(X), self._shape_of(student)
        own = copy.deepcopy(student).to(self._device)
        epochs = self.epochs if epochs is None else check_whole(epochs, "epochs", at_least=0)
        told = heard(progress)
        with isolated(derive(self.seed, "refine")):
            self._distil(own, lambda: [shape], data, epochs, told)
        told(1.0)
        return own.eval()

    def _shape_of(self, student: Any) -> Shape:
        """Return the shape of a student, or say that it is none of this teacher's."""
        if not isinstance(student, nn.Module) or not hasattr(getattr(student, "config", None), "num_hidden_layers"):
            raise TypeError(f"student must be what student() returns, got {shown(student)}")
        shape = shape_of(student)
        wanted = self._pattern.encoder(shape).state_dict()
        if {k: v.shape for k, v in student.state_dict().items()} != {k: v.shape for k, v in wanted.items()}:
            raise ValueError(
                "student has other weights than a student of this teacher: take one that student() returns"
            )
        return shape

    def export(self, folder: str | os.PathLike[str], budget: float | None = None, **how: Any) -> None:
        """Write the student of a budget into a folder of transformers, with the tokenizer of texts.

        Parameters
        ----------
        folder : path
        budget, **how
            As :meth:`student` takes them.
        """
        self.student(budget, **how).save_pretrained(folder)
        if self._of_texts:
            self._tokenizer.save_pretrained(folder)

    def _features(self, data: Any) -> Tensor:
        student = self.student()

        def encode(batch: dict[str, Tensor]) -> Tensor:
            return pooled(student(**batch), batch, self.pooling)

        return self._sequences(data, self._positions).encoded(encode, self._device)

    # -- fine-tuning ----------------------------------------------------------------------------------------------

    def finetune(self, X: Any, y: Any, *, student: Any = None, progress: Progress | None = None) -> Self:
        """Learn labels by a copy of a student, the one of ``budget`` unless given.

        Parameters
        ----------
        X : sequence of str, or array of shape (n, ...)
        y : array or tensor of shape (n,)
            Labels: integers or strings, of two classes at least.
        student : transformers.PreTrainedModel, optional
        progress : callable, optional
            Told the finished share.
        """
        data = self._asked(X)
        classes, codes = class_codes(y, len(data))
        with self._update(), isolated(derive(self.seed, "finetune")):
            own = self.student() if student is None else student
            self.shape_ = astuple(self._shape_of(own))
            self._learn(own, data, codes, classes, heard(progress))
        return self
