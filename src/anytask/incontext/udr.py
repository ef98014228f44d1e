"""UDR: one dense retriever of demonstrations for many tasks, trained on what a frozen language model finds helpful."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from torch import Tensor, nn

from anytask.core.devices import resolve_device
from anytask.core.persistence import load_tree, save_tree
from anytask.core.rng import derive, isolated
from anytask.datasets.retrieval_tasks import RetrievalTask
from anytask.incontext.feedback import TABBED, Feedback, LMFeedback, ScoreTable
from anytask.incontext.listwise import CandidateDrawer, listwise_loss, task_probabilities
from anytask.incontext.pool import Retrieved
from anytask.lm.prompting import Demonstration, PromptTemplate
from anytask.lm.search import BM25Index, VectorIndex, as_vectors
from anytask.models.build import MLP
from anytask.models.loading import quiet_loading
from anytask.parts.contrastive import dot_scores, info_nce

__all__ = ["UDR"]

logger = logging.getLogger(__name__)


class TextEncoder(nn.Module):
    """A BERT-like Hugging Face encoder; the vector of a text is that of its first token."""

    def __init__(self, source: str | os.PathLike[str], max_length: int = 512) -> None:
        super().__init__()
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(source)
        with quiet_loading():
            self.encoder = AutoModel.from_pretrained(source)
        self.max_length = max_length

    def forward(self, texts: Sequence[str]) -> Tensor:  # n texts -> (n, width)
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        tokens = tokens.to(next(self.encoder.parameters()).device)
        return self.encoder(**tokens).last_hidden_state[:, 0]


class UDR(BaseEstimator):
    """Train one retriever for many tasks on a language model's ranking of demonstrations, and retrieve with it.

    Two encoders map (instruction, query) and (instruction, demonstration) to vectors whose inner product ranks the
    demonstrations of a task. Candidates of every training query are scored by how much they help a frozen language
    model with it; only their ranks are learned from, so tasks with different scales mix. Then the retriever mines
    better candidates, and a fresh one is trained on the longer lists.

    Pick it when prompts need demonstrations that a plain embedding does not find (what matters differs from task to
    task), and the language model can score some 50 demonstrations for every training example. New tasks need an
    instruction and examples, and no training: :meth:`add_task`.

    Parameters
    ----------
    encoder : None, str, path or callable, optional
        ``None``: two-layer perceptrons over fixed vectors (the tasks' own, or sentence embeddings of instruction, input
        and answer). A Hugging Face name or folder, such as the paper's ``"bert-base-uncased"``: two fine-tuned
        encoders of the texts, first token. A callable ``(n_features) -> nn.Module``: any network over the fixed
        vectors.
    embedder : anytask.lm.Embedder, optional
        Makes fixed vectors of texts; default: the packaged MiniLM.
    preset : {"paper", "small"}, default "paper"
        Fills in what is left at None: ``steps`` (None / 450), ``lr`` (1.3e-4 / 2e-3), ``warmup`` (2000 / 0),
        ``batch_size`` (128 / 32), ``accumulation`` (4 / 1).
    use_instruction : bool, default True
        False hides the instruction from the encoders.
    lambda_ : float, default 4
        Weight of the ranking loss beside the in-batch loss (the released code's). 0 leaves the in-batch loss alone.
    weights : {"paper", "official"}, default "paper"
        Weights of the pairs: from their ranks by the language model, or (the released code's) by the current scores.
    n_candidates, n_mined : int, default 50 and 50
        Candidates of a query at first and from each mining.
    initial : {"bm25", "vectors"}, default "bm25"
        Where the first candidates come from: answers that share words with the query's answer, or inputs whose vectors
        are most similar to the query's.
    n_random : int, default 0
        Random candidates that replace as many of the first ones.
    l, n_top : int, default 8 and 1
        Candidates drawn per query and step, and how many of them are from the best five. One is from the worst five.
    rounds : int, default 3
        Trainings; before each but the first, candidates are mined.
    epochs : int, default 10
        Length of a training in passes over all queries, where ``steps`` is None.
    steps : int, optional
        Length of a training in steps.
    restart : bool, default True
        Start every training from new encoders, as the paper does, or go on with those of the round before.
    alpha : float in [0, 1], default 0.5
        A task of relative size q is drawn in proportion to ``q**alpha``.
    lr, warmup, batch_size, accumulation : optional
        Adam's step size, its linear warm-up in steps, queries per batch, batches per step.
    clip : float, default 2.0
        Largest norm of the gradient.
    hidden, width : int, default 64 and 32
        Sizes of the default encoders.
    scores : path, optional
        File of the :class:`ScoreTable`, for scoring that can be resumed.
    seed : int, default 0
        Everything random follows from it.
    device : str, default "auto"
        Where the encoders live.

    Attributes
    ----------
    tasks_ : dict of str to RetrievalTask
        The tasks that can be retrieved from.
    history_ : list of dict
        For each round: steps, last losses, queries used, mean score of the five best candidates, and the mean norms of
        the encoders' vectors (inner products are not normalised, and may drift).
    n_feedback_ : int
        Scores asked of the language model by :meth:`fit` (those already in the table are not asked again).

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
    >>> udr = UDR(preset="small", initial="vectors", n_candidates=20, steps=60, rounds=1).fit([task], Same())
    >>> found = udr.retrieve("sign", vectors=[[1.0, 0, 0, 0, 0, 0]], k=8)[0]
    >>> {task.outputs[z] for z in found.indices}
    {'1'}

    References
    ----------
    Li, Lv, Yan, Lin, Zhu, Ni, Xie, Wang, Qiu, 2023, "Unified Demonstration Retriever for In-Context Learning", ACL,
    arXiv:2305.04320.

    Notes
    -----
    *Departures from the paper.* Fixed vectors under small perceptrons are the default encoders, so that a CPU suffices;
    name a BERT for the paper's. Equal BM25 scores (answers that are labels) come in random order instead of all from
    the top of the file. Where a query has fewer than five best, five worst and ``l`` others, the three groups shrink;
    queries with fewer than ``l`` candidates, or with equal scores only, are left out. After
    its warm-up the step size is constant.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"steps": None, "lr": 1.3e-4, "warmup": 2000, "batch_size": 128, "accumulation": 4},
        "small": {"steps": 450, "lr": 2e-3, "warmup": 0, "batch_size": 32, "accumulation": 1},
    }

    def __init__(
        self,
        encoder: None | str | os.PathLike[str] | Callable[[int], nn.Module] = None,
        embedder: Any = None,
        preset: str = "paper",
        use_instruction: bool = True,
        lambda_: float = 4.0,
        weights: Literal["paper", "official"] = "paper",
        n_candidates: int = 50,
        n_mined: int = 50,
        initial: Literal["bm25", "vectors"] = "bm25",
        n_random: int = 0,
        l: int = 8,  # noqa: E741
        n_top: int = 1,
        rounds: int = 3,
        epochs: int = 10,
        steps: int | None = None,
        restart: bool = True,
        alpha: float = 0.5,
        lr: float | None = None,
        warmup: int | None = None,
        batch_size: int | None = None,
        accumulation: int | None = None,
        clip: float = 2.0,
        hidden: int = 64,
        width: int = 32,
        scores: str | os.PathLike[str] | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.encoder = encoder
        self.embedder = embedder
        self.preset = preset
        self.use_instruction = use_instruction
        self.lambda_ = lambda_
        self.weights = weights
        self.n_candidates = n_candidates
        self.n_mined = n_mined
        self.initial = initial
        self.n_random = n_random
        self.l = l
        self.n_top = n_top
        self.rounds = rounds
        self.epochs = epochs
        self.steps = steps
        self.restart = restart
        self.alpha = alpha
        self.lr = lr
        self.warmup = warmup
        self.batch_size = batch_size
        self.accumulation = accumulation
        self.clip = clip
        self.hidden = hidden
        self.width = width
        self.scores = scores
        self.seed = seed
        self.device = device

    def _settings(self) -> SimpleNamespace:
        """The constructor's parameters, checked, with what was left at None filled in from the preset."""
        if self.preset not in self.PRESETS:
            raise ValueError(f"preset must be one of {sorted(self.PRESETS)}, got {self.preset!r}")
        preset = self.PRESETS[self.preset]
        s = SimpleNamespace(**{k: preset.get(k) if v is None else v for k, v in self.get_params(deep=False).items()})
        if s.weights not in ("paper", "official"):
            raise ValueError(f"weights must be 'paper' or 'official', got {s.weights!r}")
        if s.initial not in ("bm25", "vectors"):
            raise ValueError(f"initial must be 'bm25' or 'vectors', got {s.initial!r}")
        for name in (
            "n_candidates",
            "n_mined",
            "l",
            "n_top",
            "rounds",
            "epochs",
            "batch_size",
            "accumulation",
            "width",
        ):
            value = getattr(s, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        if s.l < s.n_top + 1:
            raise ValueError(f"l must be at least n_top + 1 = {s.n_top + 1} (one candidate is of the worst), got {s.l}")
        if s.n_top > 5:
            raise ValueError(f"n_top must be at most 5 (they are drawn from the best five), got {s.n_top}")
        if not 0 <= s.n_random <= s.n_candidates:
            raise ValueError(f"n_random must lie in [0, n_candidates={s.n_candidates}], got {s.n_random!r}")
        if s.lambda_ < 0 or not 0 <= s.alpha <= 1:
            raise ValueError(f"lambda_ must be at least 0 and alpha in [0, 1], got {s.lambda_!r} and {s.alpha!r}")
        return s

    # -- training ------------------------------------------------------------------------------------------------------

    def fit(self, tasks: Sequence[RetrievalTask], lm: Any, progress: Callable[[float], None] | None = None) -> Self:
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
        s = self._settings()
        tasks = list(tasks)
        names = [task.name for task in tasks]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"fit needs tasks with distinct names, got {names}")
        for task in tasks:
            if len(task) <= s.l:
                raise ValueError(
                    f"task {task.name!r} has {len(task)} examples; drawing {s.l} candidates needs {s.l + 1}"
                )
        feedback = lm if callable(lm) else LMFeedback(lm)
        share = (lambda x: None) if progress is None else progress
        queries, demos = zip(*(self._features(task) for task in tasks))
        widths = {(_width(q), _width(z)) for q, z in zip(queries, demos)}
        if len(widths) > 1:
            raise ValueError(
                f"the tasks' vectors differ in width (query, demonstration): {sorted(widths)}; pad them alike"
            )
        candidates = [self._initial(task) for task in tasks]
        table, history, asked, encoders = ScoreTable(s.scores), [], 0, None
        try:
            for task in tasks:
                table.open_task(task, getattr(feedback, "name", type(feedback).__name__))
            for round_ in range(s.rounds):
                lists = []
                for i, task in enumerate(tasks):
                    ranked, n = self._rank(task, candidates[i], feedback, table)
                    lists.append(ranked)
                    asked += n
                    share((round_ + 0.6 * (i + 1) / len(tasks)) / s.rounds)
                Eq, Ep, facts = self._train(round_, queries, demos, lists, encoders)
                encoders = None if s.restart else (Eq, Ep)
                history.append(facts)
                logger.info("round %d: %s", round_, facts)
                share((round_ + 1) / s.rounds)
                if round_ + 1 < s.rounds:
                    candidates = [
                        self._mine(_encode(Eq, q), _encode(Ep, z)) for q, z in zip(queries, demos, strict=True)
                    ]
        finally:
            table.close()
        indexes = {task.name: VectorIndex("inner").fit(_encode(Ep, z)) for task, z in zip(tasks, demos)}
        self._Eq, self._Ep, self._widths, self._indexes = Eq, Ep, widths.pop(), indexes
        self.tasks_, self.history_, self.n_feedback_ = {task.name: task for task in tasks}, history, asked
        return self

    def _initial(self, task: RetrievalTask) -> np.ndarray:
        # (n, L) indices of other examples of the task.
        s, n = self, len(task)
        rng = np.random.default_rng(derive(s.seed, "initial", task.name))
        L = min(s.n_candidates, n - 1)
        own = np.arange(n)
        if s.initial == "bm25":
            found = BM25Index(task.outputs).search(task.outputs, L, exclude=own, shuffle=rng)[1]
        else:
            found = VectorIndex("cosine").fit(self._inputs(task)).search(self._inputs(task), L, exclude=own)[1]
        if s.n_random:
            for i, row in enumerate(found):
                kept = row[: max(0, L - s.n_random)]
                others = np.setdiff1d(own, [*kept, i])
                found[i] = np.concatenate([kept, rng.choice(others, L - len(kept), replace=False)])
        return found

    def _rank(
        self, task: RetrievalTask, candidates: np.ndarray, feedback: Feedback, table: ScoreTable
    ) -> tuple[list[tuple[list[int], list[float]]], int]:
        # For every query all candidates scored so far, best first, with their scores; and how many were asked for now.
        out, asked = [], 0
        for x, row in enumerate(candidates.tolist()):
            known = table.read(task.name, x)
            new = [z for z in row if z not in known]
            if new:
                values = [float(value) for value in feedback(task, x, new)]
                if len(values) != len(new) or not np.isfinite(values).all():
                    raise ValueError(
                        f"feedback on query {x} of task {task.name!r} must be {len(new)} finite numbers, got {values}"
                    )
                table.write(task.name, x, dict(zip(new, values)))
                known.update(zip(new, values))
                asked += len(new)
            ordered = sorted(known, key=lambda z: (-known[z], z))
            out.append((ordered, [known[z] for z in ordered]))
        return out, asked

    def _mine(self, E_q: np.ndarray, E_z: np.ndarray) -> np.ndarray:
        n = len(E_q)
        return VectorIndex("inner").fit(E_z).search(E_q, min(self.n_mined, n - 1), exclude=np.arange(n))[1]

    def _train(
        self, round_: int, queries: Sequence[Any], demos: Sequence[Any], lists: list, start: Any
    ) -> tuple[Any, Any, dict]:
        s = self._settings()
        drawers = [CandidateDrawer(ranked, s.l, s.n_top) for ranked in lists]
        usable = [i for i, drawer in enumerate(drawers) if len(drawer.queries)]
        if not usable:
            raise ValueError("the feedback orders no query's candidates: all of their scores are equal")
        n_queries = sum(len(drawers[i].queries) for i in usable)
        steps = s.steps or max(1, round(s.epochs * n_queries / (s.batch_size * s.accumulation)))
        p = task_probabilities([len(drawers[i].queries) for i in usable], s.alpha)
        rng = np.random.default_rng(derive(s.seed, "train", round_))
        with isolated(derive(s.seed, "encoders", round_)):
            Eq, Ep = start or (self._fresh(_width(queries[0])), self._fresh(_width(demos[0])))
            Eq.train(), Ep.train()
            queries, demos = [_on(q, Eq) for q in queries], [_on(z, Ep) for z in demos]
            optimizer = torch.optim.Adam([*Eq.parameters(), *Ep.parameters()], lr=s.lr, eps=1e-8)
            for step in range(steps):
                for group in optimizer.param_groups:
                    group["lr"] = s.lr * min(1.0, (step + 1) / s.warmup) if s.warmup else s.lr
                optimizer.zero_grad()
                for _ in range(s.accumulation):
                    i = usable[int(rng.choice(len(usable), p=p))]
                    x, z = drawers[i].draw(s.batch_size, rng)  # (B,), (B, l) with the best first
                    q, d = Eq(_take(queries[i], x)), Ep(_take(demos[i], z.ravel()))  # (B, e), (B l, e)
                    own = torch.einsum("be,ble->bl", q, d.view(len(x), s.l, -1))
                    L_rank = listwise_loss(own, s.weights)
                    L_ib = info_nce(q, d, torch.arange(len(x), device=q.device) * s.l, scorer=dot_scores)
                    ((s.lambda_ * L_rank + L_ib) / s.accumulation).backward()
                nn.utils.clip_grad_norm_([*Eq.parameters(), *Ep.parameters()], s.clip)
                optimizer.step()
        facts = {
            "steps": steps, "L_rank": float(L_rank.detach()), "L_ib": float(L_ib.detach()), "queries": n_queries,
            "top5": [float(np.mean([np.mean(scores[:5]) for _, scores in ranked])) for ranked in lists],
            "query_norm": float(q.detach().norm(dim=1).mean()), "demo_norm": float(d.detach().norm(dim=1).mean()),
        }  # fmt: skip
        return Eq.eval(), Ep.eval(), facts

    # -- encoders ------------------------------------------------------------------------------------------------------

    def _fresh(self, n_features: int) -> nn.Module:
        device = resolve_device(self.device)
        if isinstance(self.encoder, (str, os.PathLike)):
            return TextEncoder(self.encoder).to(device)
        module = MLP((n_features,), self.width, (self.hidden,)) if self.encoder is None else self.encoder(n_features)
        return module.to(device)

    def _features(self, task: RetrievalTask) -> tuple[Any, Any]:
        """What the query encoder reads of every example, and what the demonstration encoder reads."""
        queries = self._query_features(task, task.inputs, task.vectors)
        if isinstance(self.encoder, (str, os.PathLike)):
            return queries, [f"{query}\t{y}" for query, y in zip(queries, task.outputs)]
        outputs = task.output_vectors
        if outputs is None and task.vectors is None:
            outputs = self._embed(task.outputs)
        return queries, queries if outputs is None else np.concatenate([queries, outputs], axis=1)

    def _query_features(self, task: RetrievalTask, inputs: Sequence[str], vectors: ArrayLike | None) -> Any:
        shown = self.use_instruction
        if isinstance(self.encoder, (str, os.PathLike)):
            return [f"{task.instruction} {x}" if shown and task.instruction else x for x in inputs]
        parts = [self._embed(inputs) if vectors is None else as_vectors(vectors, "vectors")]
        if shown:
            instruction = task.instruction_vector
            if instruction is None and task.vectors is None:
                instruction = self._embed([task.instruction])[0]
            if instruction is not None:
                parts.append(
                    np.broadcast_to(np.asarray(instruction, dtype=np.float32), (len(parts[0]), np.size(instruction)))
                )
        return np.concatenate(parts, axis=1)

    def _inputs(self, task: RetrievalTask) -> np.ndarray:
        return self._embed(task.inputs) if task.vectors is None else np.asarray(task.vectors)

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        if not hasattr(self, "_embedder"):
            from anytask.lm.embeddings import Embedder

            self._embedder = Embedder(device=self.device) if self.embedder is None else self.embedder
        return self._embedder.embed(list(texts))

    # -- use -----------------------------------------------------------------------------------------------------------

    def add_task(self, task: RetrievalTask) -> Self:
        """Index the examples of a task, seen in training or not; nothing is trained."""
        self._check_fitted()
        features = self._features(task)[1]
        if _width(features) != self._widths[1]:
            raise ValueError(
                f"task {task.name!r} gives vectors of width {_width(features)}, trained were {self._widths[1]}"
            )
        self._indexes[task.name] = VectorIndex("inner").fit(_encode(self._Ep, features))
        self.tasks_[task.name] = task
        return self

    def retrieve(
        self,
        task: str,
        inputs: Sequence[str] | None = None,
        k: int = 8,
        *,
        vectors: ArrayLike | None = None,
        exclude: Sequence[int] | None = None,
        template: PromptTemplate = TABBED,
        count_tokens: Callable[[str], int] | None = None,
        budget: int | None = None,
        reserve: int = 0,
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
        template, count_tokens, budget, reserve
            How the prompt is written, and its token budget (the paper: 1600 for generation), see
            :class:`~anytask.lm.prompting.PromptTemplate`.
        """
        self._check_fitted()
        if task not in self.tasks_:
            raise ValueError(f"unknown task {task!r}: call add_task first; there are {sorted(self.tasks_)}")
        known = self.tasks_[task]
        if (known.vectors is None) != (vectors is None) or (inputs is None and vectors is None):
            wanted = "inputs as texts" if known.vectors is None else "vectors"
            raise ValueError(f"queries of task {task!r} must be given as {wanted}, like its examples")
        if inputs is None:
            inputs = ["?"] * len(np.asarray(vectors))
        E_q = _encode(self._Eq, self._query_features(known, inputs, vectors))
        k = min(k, len(known) - (exclude is not None))
        similarities, indices = self._indexes[task].search(E_q, k, exclude=exclude)
        out = []
        for text, sims, found in zip(inputs, similarities[:, ::-1], indices[:, ::-1], strict=True):
            demos = [Demonstration(known.inputs[z], known.outputs[z], int(z)) for z in found]
            prompt = template.assemble(demos, text, count_tokens=count_tokens, budget=budget, reserve=reserve)
            used = list(prompt.demos_used)
            out.append(Retrieved(found[used], sims[used], prompt))
        return out

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write encoders and tasks to ``folder`` as safetensors + JSON."""
        self._check_fitted()
        folder = Path(folder)
        params = self.get_params(deep=False)
        again = [
            name for name in ("encoder", "embedder") if not isinstance(params[name], (str, os.PathLike, type(None)))
        ]
        paths = {
            name: str(params[name]) for name in ("encoder", "scores") if isinstance(params[name], (str, os.PathLike))
        }
        state = {}
        for name, module in (("query", self._Eq), ("demonstration", self._Ep)):
            if isinstance(module, TextEncoder):
                module.encoder.save_pretrained(folder / name)
                module.tokenizer.save_pretrained(folder / name)
            else:
                state[name] = dict(module.state_dict())
        save_tree(folder, {
            "class": "UDR", "params": {k: v for k, v in {**params, **paths}.items() if k not in again}, "again": again,
            "state": state, "widths": self._widths, "tasks": [dict(vars(task)) for task in self.tasks_.values()],
            "history": self.history_, "n_feedback": self.n_feedback_,
        })  # fmt: skip

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, device: str = "auto", **params: Any) -> Self:
        """Read what :meth:`save` wrote; an encoder or embedder given as an object has to be given again."""
        folder = Path(folder)
        tree = load_tree(folder)
        if tree.get("class") != "UDR":
            raise ValueError(f"{folder} holds a {tree.get('class')}, not a UDR")
        missing = [name for name in tree["again"] if name not in params]
        if missing:
            raise ValueError(f"{missing[0]} could not be saved: pass it again, load(folder, {missing[0]}=...)")
        udr = cls(**{**tree["params"], **params, "device": device})
        modules = []
        for name, width in zip(("query", "demonstration"), tree["widths"]):
            if name in tree["state"]:
                module = udr._fresh(width)
                module.load_state_dict(tree["state"][name])
            else:
                module = TextEncoder(folder / name).to(resolve_device(device))
            modules.append(module.eval())
        udr._Eq, udr._Ep = modules
        udr._widths, udr._indexes, udr.tasks_ = tree["widths"], {}, {}
        udr.history_, udr.n_feedback_ = tree["history"], tree["n_feedback"]
        for fields in tree["tasks"]:
            udr.add_task(RetrievalTask(**fields))
        return udr

    def _check_fitted(self) -> None:
        if not hasattr(self, "_Eq"):
            raise NotFittedError("this UDR is not trained yet: call fit first")


def _width(features: Any) -> int:
    return 0 if isinstance(features, list) else int(features.shape[1])  # texts have no width


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
