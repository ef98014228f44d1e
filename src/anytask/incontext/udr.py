"""UDR: one dense retriever of demonstrations for many tasks, trained on what a frozen language model finds helpful.

Two encoders map (instruction, query) and (instruction, demonstration) to vectors whose inner product ranks the
demonstrations of a task. Candidates of every training query are scored by how much they help a frozen language model
with it; only their ranks are learned from, so tasks with different scales mix. Then the retriever mines better
candidates, and a fresh one is trained on the longer lists.

Departures from the paper: fixed vectors under small perceptrons are the default encoders, so that a CPU suffices; name
a BERT for the paper's. Equal BM25 scores (answers that are labels) come in random order instead of all from the top of
the file. Where a query has fewer than five best, five worst and ``l`` others, the three groups shrink; queries with
fewer than ``l`` candidates, or with equal scores only, are left out. After its warm-up the step size is constant.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from anytask.core.checks import check_counts
from anytask.core.errors import instance_of, shown
from anytask.core.estimator import Estimator
from anytask.core.progress import Progress, portion
from anytask.core.rng import derive, isolated
from anytask.core.settings import Settings, choice, flag, group, of_kind, path, real, whole
from anytask.core.training import train
from anytask.datasets.retrieval_tasks import RetrievalTask
from anytask.incontext.base import check_queries
from anytask.incontext.feedback import TABBED, Feedback, LMFeedback, ScoreTable
from anytask.incontext.listwise import CandidateDrawer, listwise_loss, task_probabilities
from anytask.incontext.pool import Retrieved, embed, embedder_field
from anytask.lm.bm25 import BM25Index
from anytask.lm.prompting import Demonstration, PromptTemplate
from anytask.lm.search import VectorIndex, as_vectors
from anytask.models.build import MLP
from anytask.models.loading import load_pretrained, pack_pretrained, unpack_pretrained
from anytask.parts.contrastive import dot_scores, info_nce

__all__ = ["UDR"]

logger = logging.getLogger(__name__)


class TextEncoder(nn.Module):
    """A BERT-like Hugging Face encoder; the vector of a text is that of its first token."""

    def __init__(self, encoder: nn.Module, tokenizer: Any, max_length: int = 512) -> None:
        super().__init__()
        self.encoder, self.tokenizer, self.max_length = encoder, tokenizer, max_length

    @classmethod
    def read(cls, source: str | os.PathLike[str]) -> Self:
        """Read a name or folder of Hugging Face."""
        from transformers import AutoModel, AutoTokenizer

        return cls(load_pretrained(AutoModel, source), load_pretrained(AutoTokenizer, source))

    def forward(self, texts: Sequence[str]) -> Tensor:  # n texts -> (n, width)
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        tokens = tokens.to(next(self.encoder.parameters()).device)
        return self.encoder(**tokens).last_hidden_state[:, 0]


class Candidates(Settings):
    """Which demonstrations are scored for a training query, and which of them a step learns from."""

    initial: str = choice("bm25", ("bm25", "vectors"), "where the first come from: words of the answer, or vectors")
    n_first: int = whole(50, "candidates of a query at first")
    n_mined: int = whole(50, "candidates from each mining")
    n_random: int = whole(0, "random ones that replace as many of the first", at_least=0)
    l: int = whole(8, "candidates drawn per query and step", at_least=2)  # noqa: E741
    n_top: int = whole(1, "how many of them are from the best five", at_most=5)

    def _check_settings(self) -> None:
        if self.l <= self.n_top:
            raise ValueError(f"l must exceed n_top={self.n_top}, since one candidate is of the worst, got {self.l}")
        if self.n_random > self.n_first:
            raise ValueError(f"n_random must lie in [0, n_first={self.n_first}], got {self.n_random!r}")


class UDR(Estimator):
    """Train one retriever for many tasks on a language model's ranking of demonstrations, and retrieve with it.

    Pick it when prompts need demonstrations that a plain embedding does not find (what matters differs from task to
    task), and the language model can score some 50 demonstrations for every training example. New tasks need no
    training: :meth:`add_task`.

    Parameters
    ----------
    encoder : str, path or callable, default "mlp"
        Two-layer perceptrons over fixed vectors (the tasks' own, or sentence embeddings); a Hugging Face name or
        folder, such as the paper's ``"bert-base-uncased"``, to fine-tune; or ``(n_features) -> nn.Module``.
    embedder : str, path or anytask.lm.Embedder, default "minilm"
        Makes fixed vectors of texts.
    use_instruction, lambda_ : bool and float, default True and 4
        Whether encoders see the instruction; the weight of the ranking loss beside the in-batch loss.
    weights : {"paper", "official"}, default "paper"
        Weights of the pairs: from their ranks by the language model, or (the released code's) by the current scores.
    candidates : Candidates or mapping
        Where the first come from, how many are scored, mined and random; ``l`` (8) drawn per query and step.
    rounds, epochs, steps : int, default 3, 10 and None
        Trainings, between which candidates are mined; their length in passes over all queries, or in steps.
    restart : bool, default True
        Start every training from new encoders, as the paper does, or go on with those of the round before.
    alpha : float in [0, 1], default 0.5
        A task of relative size q is drawn in proportion to ``q**alpha``.
    lr, warmup, batch_size, accumulation : defaults 1.3e-4, 2000, 128, 4
        Adam's step size, its warm-up in steps, queries per batch, batches per step; ``small`` is for perceptrons.
    max_grad_norm, hidden, width, seed, device : default 2.0, 64, 32, 0 and "auto"
    scores : path, optional
        File of the :class:`ScoreTable`, for scoring that can be resumed.

    Attributes
    ----------
    tasks_ : dict of str to RetrievalTask
        The tasks that can be retrieved from.
    history_ : list of dict
        For each round: steps, last losses, queries used, mean score of the five best candidates, and the mean norms.
    n_feedback_ : int
        Scores asked of the language model by :meth:`fit`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(80, 6)), rng.integers(2, size=80)
    >>> X[:, 0] = 2 * y - 1 + 0.3 * rng.normal(size=80)  # one of six features matters
    >>> task = RetrievalTask("sign", ["?"] * 80, y.astype(str), vectors=X)
    >>> class Same:
    ...     name = "same label"
    ...     def __call__(self, task, query, demos):
    ...         return [float(task.outputs[z] == task.outputs[query]) + 0.01 * (z % 7) for z in demos]
    >>> udr = UDR.from_preset("small", candidates={"initial": "vectors", "n_first": 20}, steps=60, rounds=1)
    >>> udr = udr.fit([task], Same())
    >>> found = udr.retrieve("sign", vectors=[[1.0, 0, 0, 0, 0, 0]], k=8)[0]
    >>> {task.outputs[z] for z in found.indices}
    {'1'}

    References
    ----------
    Li et al., 2023, "Unified Demonstration Retriever for In-Context Learning", ACL, arXiv:2305.04320.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"steps": 450, "lr": 2e-3, "warmup": 0, "batch_size": 32, "accumulation": 1},
    }

    encoder: Any = of_kind(
        "mlp", (str, os.PathLike, Callable), "a name, a folder or a callable", "maps inputs to vectors"
    )
    embedder: Any = embedder_field()
    use_instruction: bool = flag(True, "show the instruction to the encoders")
    lambda_: float = real(4.0, "weight of the ranking loss", at_least=0)
    weights: str = choice("paper", ("paper", "official"), "weights of the pairs in the ranking loss")
    candidates: Candidates = group(Candidates, "which demonstrations are scored and learned from")
    rounds: int = whole(3, "trainings; before each but the first, candidates are mined")
    epochs: int = whole(10, "passes over all queries in a training, where steps is None")
    steps: int | None = whole(None, "steps of a training, None: as many as epochs say", optional=True)
    restart: bool = flag(True, "start every training from new encoders")
    alpha: float = real(0.5, "a task of relative size q is drawn in proportion to q**alpha", at_least=0, at_most=1)
    lr: float = real(1.3e-4, "Adam's step size", above=0)
    warmup: int = whole(2000, "steps of linear warm-up", at_least=0)
    batch_size: int = whole(128, "queries in a batch")
    accumulation: int = whole(4, "batches in a step")
    max_grad_norm: float = real(2.0, "largest norm of the gradient", above=0)
    hidden: int = whole(64, "hidden width of the perceptrons")
    width: int = whole(32, "output width of the perceptrons")
    scores: str | os.PathLike[str] | None = path(None, "file of the score table, None: in memory", optional=True)

    # -- training ------------------------------------------------------------------------------------------------------

    def fit(self, tasks: Sequence[RetrievalTask], lm: Any, progress: Progress | None = None) -> Self:
        """Train on ``tasks`` with the feedback of ``lm``.

        Parameters
        ----------
        tasks : sequence of RetrievalTask
            With distinct names.
        lm : anytask.lm.ScoringModel or Feedback
            A frozen language model, wrapped in :class:`LMFeedback`, or any callable ``(task, query, demos) -> scores``.
        progress : callable, optional
            Called with the finished share in [0, 1].

        Raises
        ------
        ValueError
            For repeated names, tasks with fewer than ``l + 1`` examples, or feedback that orders no query's candidates.
        """
        c, tasks = self.candidates, list(tasks) if isinstance(tasks, Iterable) else [tasks]
        if not all(isinstance(task, RetrievalTask) for task in tasks):
            raise TypeError("tasks must be a sequence of RetrievalTask, such as [RetrievalTask(name, inputs, outputs)]")
        names = [task.name for task in tasks]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"fit needs tasks with distinct names, got {names}")
        if small := [task for task in tasks if len(task) <= c.l]:
            n = len(small[0])
            raise ValueError(f"task {small[0].name!r} has {n} examples; drawing {c.l} candidates needs {c.l + 1}")
        with self._refit():
            self._fit(tasks, lm if callable(lm) else LMFeedback(lm), portion(progress, 0.0, 1.0))
        return self

    def _fit(self, tasks: list[RetrievalTask], feedback: Feedback, share: Progress) -> None:
        queries, demos = zip(*(self._features(task) for task in tasks))
        widths = {(_width(q), _width(z)) for q, z in zip(queries, demos)}
        if len(widths) > 1:
            raise ValueError(f"the tasks' vectors (query, demonstration) differ in width: {sorted(widths)}")
        candidates = [self._initial(task) for task in tasks]  # (n, c) each: all that were met so far
        history, asked, coders = [], 0, None
        with closing(ScoreTable(self.scores)) as table:
            if self.scores is not None:
                for task in tasks:
                    table.open_task(task, feedback)
            for round_ in range(self.rounds):
                if coders is not None:
                    E = [[_encode(one, of) for of in features] for one, features in zip(coders, (queries, demos))]
                    mined = [_others(E_q, E_z, self.candidates.n_mined, "inner") for E_q, E_z in zip(*E)]
                    candidates = [np.hstack(both) for both in zip(candidates, mined)]
                lists = []
                for i, task in enumerate(tasks):
                    part = [(round_ + 0.8 * (i + done) / len(tasks)) / self.rounds for done in (0, 1)]
                    ranked, n = self._rank(task, candidates[i], feedback, table, portion(share, *part))
                    lists.append(ranked)
                    asked += n
                coders, facts = self._train(round_, queries, demos, lists, None if self.restart else coders)
                history.append(facts)
                logger.info("round %d: %s", round_, facts)
                share((round_ + 1) / self.rounds)
        assert coders is not None
        (self.query_encoder_, self.demo_encoder_), self.widths_ = coders, widths.pop()
        self.history_, self.n_feedback_ = history, asked
        self.tasks_: dict[str, RetrievalTask] = {}
        self._indexes: dict[str, VectorIndex] = {}
        for task, z in zip(tasks, demos):
            self._store(task, z)

    def _initial(self, task: RetrievalTask) -> np.ndarray:
        # (n, L) indices of other examples of the task.
        c, n = self.candidates, len(task)
        rng = np.random.default_rng(derive(self.seed, "initial", task.name))
        L = min(c.n_first, n - 1)
        own = np.arange(n)
        if c.initial == "bm25":
            found = BM25Index(task.outputs).search(task.outputs, L, exclude=own, shuffle=rng)[1]
        else:
            found = _others(self._inputs(task), self._inputs(task), L, "cosine")
        if c.n_random:
            for i, row in enumerate(found):
                kept = row[: max(0, L - c.n_random)]
                others = np.setdiff1d(own, [*kept, i])
                found[i] = np.concatenate([kept, rng.choice(others, L - len(kept), replace=False)])
        return found

    def _rank(
        self, task: RetrievalTask, candidates: np.ndarray, feedback: Feedback, table: ScoreTable, tell: Progress
    ) -> tuple[list[tuple[list[int], list[float]]], int]:
        # For every query its candidates, best first, with their scores; and how many were asked for now. The table
        # spares questions; what else it holds, from other fits, plays no part.
        out, asked = [], 0
        for x, row in enumerate(candidates.tolist()):
            known = {z: score for z, score in table.read(task.name, x).items() if z in row}
            new = [z for z in dict.fromkeys(row) if z not in known]
            if new:
                values = [float(value) for value in feedback(task, x, new)]
                if len(values) != len(new) or not np.isfinite(values).all():
                    what = f"feedback on query {x} of task {task.name!r}"
                    raise ValueError(f"{what} must be {len(new)} finite numbers, got {values}")
                fresh = dict(zip(new, values))
                table.write(task.name, x, fresh)
                known |= fresh
                asked += len(new)
            ordered = sorted(known, key=lambda z: (-known[z], z))
            out.append((ordered, [known[z] for z in ordered]))
            tell((x + 1) / len(candidates))
        return out, asked

    def _train(
        self, round_: int, queries: Sequence[Any], demos: Sequence[Any], lists: list, start: Any
    ) -> tuple[tuple[nn.Module, nn.Module], dict]:
        c = self.candidates
        drawers = [CandidateDrawer(ranked, c.l, c.n_top) for ranked in lists]
        usable = [i for i, drawer in enumerate(drawers) if len(drawer.queries)]
        if not usable:
            raise ValueError("the feedback orders no query's candidates: all of their scores are equal")
        n_queries = sum(len(drawers[i].queries) for i in usable)
        steps = self.steps or max(1, round(self.epochs * n_queries / (self.batch_size * self.accumulation)))
        p = task_probabilities([len(drawers[i].queries) for i in usable], self.alpha)
        rng = np.random.default_rng(derive(self.seed, "train", round_))
        last: dict[str, Tensor] = {}

        def draw(step: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
            drawn = []
            for _ in range(self.accumulation):
                i = usable[int(rng.choice(len(usable), p=p))]
                drawn.append((i, *drawers[i].draw(self.batch_size, rng)))  # (B,), (B, l) with the best first
            return drawn

        def losses(drawn: list[tuple[int, np.ndarray, np.ndarray]]) -> Iterator[Tensor]:
            for i, x, z in drawn:
                q, d = Eq(_take(queries[i], x)), Ep(_take(demos[i], z.ravel()))  # (B, e), (B l, e)
                own = torch.einsum("be,ble->bl", q, d.view(len(x), c.l, -1))
                L_rank = listwise_loss(own, self.weights)  # type: ignore[arg-type]
                L_ib = info_nce(q, d, torch.arange(len(x), device=q.device) * c.l, scorer=dot_scores)
                last.update(L_rank=L_rank, L_ib=L_ib, query_norm=q.norm(dim=1).mean(), demo_norm=d.norm(dim=1).mean())
                yield (self.lambda_ * L_rank + L_ib) / self.accumulation

        with isolated(derive(self.seed, "encoders", round_)):
            Eq, Ep = start or (self._fresh(_width(queries[0])), self._fresh(_width(demos[0])))
            queries, demos = [_on(q, Eq) for q in queries], [_on(z, Ep) for z in demos]
            both = nn.ModuleList([Eq, Ep])
            optimizer = torch.optim.Adam(both.parameters(), lr=self.lr, eps=1e-8)
            warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, self.warmup)))
            train(
                both, draw, losses, steps=steps, optimizer=optimizer, schedule=warm,
                max_grad_norm=self.max_grad_norm, stage=f"round {round_}",
            )  # fmt: skip
        facts = {
            "steps": steps, "queries": n_queries, **{name: float(value.detach()) for name, value in last.items()},
            "top5": [float(np.mean([np.mean(scores[:5]) for _, scores in ranked])) for ranked in lists],
        }  # fmt: skip
        return (Eq, Ep), facts

    # -- encoders ------------------------------------------------------------------------------------------------------

    @property
    def _reads_texts(self) -> bool:
        return isinstance(self.encoder, (str, os.PathLike)) and self.encoder != "mlp"

    def _fresh(self, n_features: int) -> nn.Module:
        if self._reads_texts:
            return TextEncoder.read(self.encoder).to(self._device)
        made = MLP((n_features,), self.width, (self.hidden,)) if self.encoder == "mlp" else self.encoder(n_features)
        return made.to(self._device)

    def _features(self, task: RetrievalTask) -> tuple[Any, Any]:
        """What the query encoder reads of every example, and what the demonstration encoder reads."""
        queries = self._query_features(task, task.inputs, task.vectors)
        if self._reads_texts:
            return queries, [f"{query}\t{y}" for query, y in zip(queries, task.outputs)]
        outputs = task.output_vectors
        if outputs is None and task.vectors is None:
            outputs = self._embed(task.outputs)
        return queries, queries if outputs is None else np.concatenate([queries, outputs], axis=1)

    def _query_features(self, task: RetrievalTask, inputs: Sequence[str], vectors: ArrayLike | None) -> Any:
        shown = self.use_instruction
        if self._reads_texts:
            return [f"{task.instruction} {x}" if shown and task.instruction else x for x in inputs]
        parts = [self._embed(inputs) if vectors is None else as_vectors(vectors, "vectors")]
        if shown:
            instruction = task.instruction_vector
            if instruction is None and task.vectors is None:
                instruction = self._embed([task.instruction])[0]
            if instruction is not None:
                parts.append(np.tile(np.asarray(instruction, dtype=np.float32), (len(parts[0]), 1)))
        return np.concatenate(parts, axis=1)

    def _inputs(self, task: RetrievalTask) -> np.ndarray:
        return self._embed(task.inputs) if task.vectors is None else np.asarray(task.vectors)

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        return embed(self.embedder, texts, self.device)

    # -- use -----------------------------------------------------------------------------------------------------------

    def add_task(self, task: RetrievalTask) -> Self:
        """Index the examples of a task, seen in training or not; nothing is trained."""
        instance_of("task", RetrievalTask, optional=False)(task)
        self._check_fitted()
        features = self._features(task)[1]
        if (width := _width(features)) != self.widths_[1]:
            raise ValueError(f"task {task.name!r} gives vectors of width {width}, trained were {self.widths_[1]}")
        self._store(task, features)
        return self

    def _store(self, task: RetrievalTask, features: Any) -> None:
        self._indexes[task.name] = VectorIndex(metric="inner").fit(_encode(self.demo_encoder_, features))
        self.tasks_[task.name] = task

    def retrieve(
        self,
        task: str,
        inputs: Sequence[str] | None = None,
        k: int = 8,
        *,
        vectors: ArrayLike | None = None,
        exclude: Sequence[int] | None = None,
        template: PromptTemplate = TABBED,
        **room: Any,
    ) -> list[Retrieved]:
        """Return the demonstrations of each query, the most similar last, and the prompt made of them.

        Parameters
        ----------
        task : str
            Name of a task in :attr:`tasks_`.
        inputs : sequence of str, optional
            The queries; may be left out where ``vectors`` stand for them.
        k : int, default 8
            How many to retrieve (the paper's, for classification); capped at the size of the task.
        vectors : array of shape (n, d), optional
            Vectors of the queries, for tasks that were given as vectors.
        exclude : sequence of int, optional
            One example per query that must not be retrieved: the query itself, for queries of the training split.
        template : PromptTemplate, default "{input}\\t{output}" joined by newlines
            How the prompt is written.
        **room
            Its token budget (the paper: 1600 for generation): ``count_tokens``, ``budget`` and ``reserve`` of
            :meth:`~anytask.lm.prompting.PromptTemplate.assemble`.
        """
        self._check_fitted()
        check_counts(k=k)
        instance_of("template", PromptTemplate, optional=False)(template)
        if not isinstance(task, str) or task not in self.tasks_:
            raise ValueError(f"unknown task {shown(task)}: call add_task first; there are {sorted(self.tasks_)}")
        known = self.tasks_[task]
        if (known.vectors is None) != (vectors is None) or (inputs is None and vectors is None):
            wanted = "inputs as texts" if known.vectors is None else "vectors"
            raise ValueError(f"queries of task {task!r} must be given as {wanted}, like its examples")
        if vectors is not None:
            vectors = as_vectors(vectors, "queries")
        inputs = ["?"] * len(vectors) if inputs is None else check_queries(inputs, "inputs")  # type: ignore[arg-type]
        if vectors is not None and len(vectors) != len(inputs):
            raise ValueError(f"there are {len(inputs)} inputs and {len(vectors)} vectors: they must match")
        E_q = _encode(self.query_encoder_, self._query_features(known, inputs, vectors))
        k = min(k, len(known) - (exclude is not None))
        similarities, indices = self._indexes[task].search(E_q, k, exclude=exclude)
        out = []
        for text, sims, found in zip(inputs, similarities[:, ::-1], indices[:, ::-1], strict=True):
            demos = [Demonstration(known.inputs[z], known.outputs[z], int(z)) for z in found]
            prompt = template.assemble(demos, text, **room)
            used = list(prompt.demos_used)
            out.append(Retrieved(found[used], sims[used], prompt))
        return out

    def _state(self) -> Any:
        modules = [self.query_encoder_, self.demo_encoder_]
        texts = isinstance(self.query_encoder_, TextEncoder)
        return {
            "encoders": [pack_pretrained(m.encoder, m.tokenizer) if texts else m.state_dict() for m in modules],
            "widths": self.widths_, "tasks": [dict(vars(task)) for task in self.tasks_.values()],
            "history": self.history_, "n_feedback": self.n_feedback_,
        }  # fmt: skip

    def _load_state(self, state: Any) -> None:
        modules: list[nn.Module] = []
        for saved, width in zip(state["encoders"], state["widths"], strict=True):
            if self._reads_texts:
                from transformers import AutoModel

                modules.append(TextEncoder(*unpack_pretrained(saved, AutoModel)).to(self._device))
            else:
                with isolated(self.seed):
                    modules.append(self._fresh(width))
                modules[-1].load_state_dict(saved)
        self.query_encoder_, self.demo_encoder_ = (module.eval() for module in modules)
        self.widths_, self._indexes, self.tasks_ = state["widths"], {}, {}
        self.history_, self.n_feedback_ = state["history"], state["n_feedback"]
        for fields in state["tasks"]:
            self.add_task(RetrievalTask(**fields))


def _width(features: Any) -> int:
    return 0 if isinstance(features, list) else int(features.shape[1])  # texts have no width


def _others(queries: np.ndarray, vectors: np.ndarray, k: int, metric: str) -> np.ndarray:
    """The places of the ``k`` vectors nearest to each query, its own left out."""
    n = len(vectors)
    return VectorIndex(metric=metric).fit(vectors).search(queries, min(k, n - 1), exclude=np.arange(n))[1]


def _on(features: Any, module: nn.Module) -> Any:
    # Vectors go to the module's device; texts stay lists, and are tokenised batch by batch.
    if isinstance(features, list):
        return features
    return torch.as_tensor(features, dtype=torch.float32, device=next(module.parameters()).device)


def _take(features: Any, rows: np.ndarray) -> Any:
    return [features[i] for i in rows] if isinstance(features, list) else features[torch.from_numpy(rows)]


@torch.no_grad()
def _encode(module: nn.Module, features: Any, batch_size: int = 256) -> np.ndarray:
    parts = [module(_on(features[i : i + batch_size], module)) for i in range(0, len(features), batch_size)]
    return torch.cat(parts).float().cpu().numpy()
