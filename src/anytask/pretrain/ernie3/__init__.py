"""ERNIE 3.0: one trunk that understands and generates text, pretrained on documents and facts (Sun et al., 2021).

All tasks share the trunk U; a branch that sees the whole text and one that sees no token ahead share nothing else:

    h = branch(narrow(U(x; mask, memory)); mask, memory),   loss of a step = sum over its tasks of mean cross-entropies.

The mask of generation holds in the trunk too: in the branch alone, the trunk would tell it the tokens ahead.

Departures from the paper
-------------------------
* The 10B model and its corpus are not public: nothing here is compatible with its weights, and small published encoders
  of that name are another thing.
* Norms stand before attention; word heads share the trunk's embeddings, and score the words of the corpus alone.
* There is no embedding of the task. Units are masked, replaced or kept as wholes, so that none tells of itself.
* A trunk out of transformers has no memory, and absolute places: the branch that generates remembers alone.
* Facts are learned from every sentence that holds a fact's head and tail: distant supervision, with its noise.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.core.checks import check_counts, check_labels, check_same_length, most_probable, require_finite
from anytask.core.errors import check_word
from anytask.core.progress import Progress, heard
from anytask.core.rng import derive, isolated
from anytask.core.settings import Settings, choice, flag, group, path, real, texts, whole
from anytask.core.training import train
from anytask.datasets.corpora import TextCorpus
from anytask.lm.protocol import check_texts
from anytask.pretrain.base import PretrainEstimator
from anytask.pretrain.ernie3.network import EncoderTrunk, Memory, Network, Sizes, Trunk, encoder_of
from anytask.pretrain.ernie3.tasks import TASKS, Sampler, Streams, Texts, orders
from anytask.pretrain.ernie3.words import IGNORED, Words, encoder_and_tokenizer, word_tokenizer

__all__ = ["ERNIE3"]

#: What is trained in fine-tuning: the trunk, the branch and a head; the latter two; or the head.
MODES = ("all", "module_only", "head_only")


class FineTuning(Settings):
    """How labels, or further documents, are learned.

    Parameters
    ----------
    epochs, min_steps
        Passes, and the least number of steps: few labels are few steps otherwise.
    batch_size, lr
        Texts of a mini-batch, rate of AdamW, which falls linearly.
    """

    epochs: int = whole(10, "passes over the texts")
    min_steps: int = whole(200, "least number of steps")
    batch_size: int = whole(16, "texts of a mini-batch")
    lr: float = real(1e-3, "learning rate", above=0)


class Pace(NamedTuple):
    """What a step of progressive training has."""

    length: int
    batch_size: int
    lr: float
    dropout: float


class ERNIE3(PretrainEstimator):
    """Pretrain one text model that understands and generates, on documents, and on facts that their sentences state.

    Pick it where there is a corpus and a graph of what its entities have to do with each other. Inputs are texts, or a
    :class:`~anytask.datasets.corpora.TextCorpus` with spans of phrases and entities and with triples. In texts, [MASK]
    stands for a word that is asked for, and [SEP] between two parts.

    Parameters
    ----------
    trunk : str or path, optional
        An encoder of transformers and its tokenizer, by name or folder, or "minilm"; words and a trunk of its own
        unless given.
    sizes : Sizes
    tasks : sequence of str, optional
        Out of "knowledge-masking", "documents", "reordering", "distance" and "facts"; all that the corpus allows unless
        given.
    schedule : {"joint", "continual"}
        All tasks from the first step, or one after another, with those before.
    whole_units, mask_rate
        Whether phrases and entities are masked as wholes; share of the tokens that is masked.
    segments : int, default 3
        m, the most parts of a text that are put back in order.
    vocabulary, length
        Most words of a vocabulary of its own; tokens of a segment.
    steps, batch_size, lr, weight_decay, dropout
        Of AdamW; texts of each task in a step.
    warmup, first
        Share of the steps over which length, batch size, rate and dropout rise, and the share of the first two with
        which they begin.
    finetuning : FineTuning
    pool, features
        Which token's vector a text has: the first, the mean, or that of its first [MASK] (the first token of texts
        without one); of the branch or of the trunk.
    seed, device
        See :class:`~anytask.core.estimator.Estimator`.

    Attributes
    ----------
    net_ : Network
    tasks_ : list of str
    losses_ : dict of str to array
        Loss of each task at its steps.
    n_facts_ : int
        Pairs of a triple and a sentence.
    classes_ : array
        After :meth:`finetune`; ``n_trained_`` counts what it trained.

    Examples
    --------
    Sentences, and facts of some of them, teach which verb states what:

    >>> from anytask.datasets.fact_texts import fact_texts
    >>> world = fact_texts(0, relations=2, verbs=3, fillers=2, documents=100, sentences=2, tested=60)
    >>> model = ERNIE3.from_preset("small", steps=200, length=16, sizes={"layers": 1}, tasks=["documents", "facts"])
    >>> model = model.fit(world.corpus)
    >>> answers = model.score(world.test_questions, world.relations).argmax(1)
    >>> bool(np.mean([world.relations[a] == label for a, label in zip(answers, world.test_labels)]) > 0.8)
    True

    References
    ----------
    Sun, Wang, Feng et al., 2021, "ERNIE 3.0: Large-scale Knowledge Enhanced Pre-training for Language Understanding and
    Generation", arXiv:2107.02137.
    """

    takes: ClassVar[str] = "texts"
    INFERENCE: ClassVar[tuple[str, ...]] = ("pool", "features", "finetuning")
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {
            "sizes": {"layers": 2, "width": 48, "branch_width": 24, "memory": 16}, "length": 32, "steps": 350,
            "batch_size": 24, "lr": 5e-3, "dropout": 0.0,
        },
        "paper": {
            "sizes": {"layers": 48, "width": 4096, "heads": 64, "branch_layers": 12, "branch_width": 768,
                      "branch_heads": 12, "memory": 128},
            "length": 512, "lr": 1e-4, "vocabulary": 40_000, "steps": 1_000_000, "warmup": 0.01,
        },
    }  # fmt: skip

    trunk: Any = path(
        None, "an encoder of transformers, by name or folder, or 'minilm'; none: words and its own", optional=True
    )
    sizes: Sizes = group(Sizes, "the network")
    tasks: Sequence[str] | None = texts(
        None, "what is learned; none: all that the corpus allows", options=TASKS, at_least=1, distinct=True,
        optional=True,
    )  # fmt: skip
    schedule: str = choice("joint", ("joint", "continual"), "all tasks at once, or one more after another")
    whole_units: bool = flag(True, "mask phrases and entities as wholes")
    mask_rate: float = real(0.15, "share of the tokens that is masked", above=0, below=1)
    segments: int = whole(3, "most parts of a text that are put back in order", at_most=6)
    vocabulary: int = whole(20_000, "most words of a vocabulary of its own", at_least=8)
    length: int = whole(128, "tokens of a segment", at_least=8)
    steps: int = whole(2_000, "steps of pretraining; 0: none", at_least=0)
    batch_size: int = whole(32, "texts of each task in a step")
    lr: float = real(5e-4, "learning rate", above=0)
    weight_decay: float = real(0.01, "of matrices", at_least=0)
    dropout: float = real(0.1, "at the end of the rise", at_least=0, below=1)
    warmup: float = real(0.1, "share of the steps over which training becomes as large as it is", at_least=0, at_most=1)
    first: float = real(0.5, "share of length and batch size with which it begins", above=0, at_most=1)
    finetuning: FineTuning = group(FineTuning, "how labels are learned")
    pool: str = choice("first", ("first", "mean", "mask"), "the token whose vector a text has")
    features: str = choice("branch", ("branch", "trunk"), "where vectors are taken")

    # -- what is learned from -------------------------------------------------------------------------------------

    def _read(self, X: Any) -> TextCorpus:
        return X if isinstance(X, TextCorpus) else TextCorpus.of(check_texts(X, "X"), name="X")

    def _check_alike(self, data: Any) -> None:
        """Take every text."""

    def _note(self, data: TextCorpus) -> None:
        self.encoder_config_ = None
        if self.trunk is None:
            said = (*data.documents, *(part for triple in data.triples for part in triple))
            self.tokenizer_, self.specials_ = word_tokenizer(said, self.vocabulary)
        else:
            self._encoder, self.tokenizer_, self.specials_ = encoder_and_tokenizer(self.trunk)
            self.encoder_config_ = self._encoder.config.to_json_string()
            if self.length > (most := getattr(self._encoder.config, "max_position_embeddings", self.length)):
                raise ValueError(f"length must be at most the {most} places of the trunk, got {self.length}")
        words = Words(self.tokenizer_, self.specials_, (), self._device)
        corpus = Texts.of(data, words)
        lacking = {task: lacks for task in TASKS if (lacks := corpus.allow(task))}
        if wrong := [task for task in self.tasks or () if task in lacking]:
            raise ValueError(f"the task {wrong[0]!r} needs {lacking[wrong[0]]}, and X has none")
        self.tasks_ = [task for task in self.tasks or TASKS if task not in lacking]
        self.n_facts_ = len(corpus.facts)
        found = {token for document in corpus.documents for sentence in document for token in sentence.ids}
        found |= {token for fact in corpus.facts for part in (*fact[:3], fact.sentence.ids) for token in part}
        self.known_ = sorted((found - set(words.special)) | {words.special.sep})
        self._corpus = corpus

    def _build(self) -> None:
        self._words = Words(self.tokenizer_, self.specials_, self.known_, self._device)
        if self.encoder_config_ is None:
            trunk: Any = Trunk(self.sizes, self._words.size)
        else:
            trunk = EncoderTrunk(self.__dict__.pop("_encoder", None) or encoder_of(self.encoder_config_))
        net = Network(trunk, self.sizes, self.known_, self._words.special.sep, len(orders(self.segments)))
        self.net_ = net.to(self._device).eval()
        if hasattr(self, "classes_"):
            self.tuned_ = self._classifier()
        if hasattr(self, "wrote_"):
            self.writer_ = copy.deepcopy(self.net_)

    # -- pretraining ----------------------------------------------------------------------------------------------

    def pace(self, step: int) -> Pace:
        """Return the length, the batch size, the rate and the dropout of a step, counted from 1."""
        rise = round(self.warmup * self.steps)
        risen = min(1.0, step / rise) if rise else 1.0
        share = self.first + (1 - self.first) * risen
        left = (self.steps - step + 1) / (self.steps - rise + 1) if step > rise else risen
        length, n = max(8, round(share * self.length)), max(1, round(share * self.batch_size))
        return Pace(length, n, self.lr * left, self.dropout * risen)

    def _train(self, data: TextCorpus, progress: Progress) -> None:
        corpus: Texts = self.__dict__.pop("_corpus")
        how = (self.mask_rate, self.segments, self.whole_units, derive(self.seed, "tasks"))
        sampler = Sampler(corpus, self._words, *how)
        streams = self._streams(corpus)
        logged: dict[str, list[float]] = {task: [] for task in self.tasks_}
        memory: Memory | None = None

        def draw(step: int) -> tuple[Pace, list[str]]:
            pace, last = self.pace(step), len(self.tasks_)
            if self.schedule == "continual":
                last = 1 + (step - 1) * last // self.steps
            for module in self.net_.modules():
                if isinstance(module, nn.Dropout):
                    module.p = pace.dropout
            return pace, self.tasks_[:last]

        def losses(batch: tuple[Pace, list[str]]) -> Iterator[Tensor]:
            nonlocal memory
            pace, tasks = batch
            drawn = {t: sampler.batch(t, pace.batch_size, pace.length) for t in tasks if t != "documents"}
            if drawn:  # one pass for all tasks that understand
                ids, valid = self._words.padded([row for one in drawn.values() for row in one.rows])
                h = self.net_(ids, valid).branch.split([len(one.rows) for one in drawn.values()])
                found = {task: self._loss(task, part, one.targets) for (task, one), part in zip(drawn.items(), h)}
                for task, loss in found.items():
                    logged[task].append(float(loss.detach()))
                yield torch.stack(list(found.values())).sum()
            if "documents" in tasks:
                loss, memory = self._continued(self.net_, streams, pace, memory)
                logged["documents"].append(float(loss.detach()))
                yield loss

        self._learn(self.net_, draw, losses, self.steps, lambda step: self.pace(step).lr, "pretraining", progress)
        self.losses_ = {task: np.array(values, dtype=np.float32) for task, values in logged.items()}

    def _loss(self, task: str, h: Tensor, targets: list[Any]) -> Tensor:
        if task in ("reordering", "distance"):
            head = self.net_.order if task == "reordering" else self.net_.distance
            return F.cross_entropy(head(h[:, 0]), torch.tensor(targets, device=h.device))
        return self._word_loss(self.net_, h, targets, "understand")

    def _word_loss(self, net: Network, h: Tensor, targets: list[Any], branch: str) -> Tensor:
        """Return the mean loss of the tokens that are predicted, 0 where there are none."""
        wanted = self._words.targets(targets, h.shape[1])
        there = wanted >= 0
        loss = F.cross_entropy(net.logits(h[there], branch), wanted[there], reduction="sum")
        return loss / there.sum().clamp(min=1)

    def _continued(
        self, net: Network, streams: Streams, pace: Pace, memory: Memory | None
    ) -> tuple[Tensor, Memory | None]:
        """Return the loss of the next segments of documents, and the memory after them."""
        rows, targets, fresh = streams.next(pace.batch_size, pace.length)
        ids, valid = self._words.padded(rows)
        read = net(ids, valid, "generate", memory and memory.of(torch.tensor(fresh, device=ids.device)))
        return self._word_loss(net, read.branch, targets, "generate"), read.memory

    def _streams(self, corpus: Texts) -> Streams:
        rows = [[token for sentence in document for token in sentence.ids] for document in corpus.documents]
        special = self._words.special
        return Streams([[special.cls, *row, special.sep] for row in rows], derive(self.seed, "documents"))

    def _learn(
        self, net: nn.Module, draw: Any, losses: Any, steps: int, rate: Callable[[int], float], stage: str,
        progress: Progress,
    ) -> None:  # fmt: skip
        trained = [weight for weight in net.parameters() if weight.requires_grad]
        matrices, rest = ([w for w in trained if (w.ndim > 1) is large] for large in (True, False))
        optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": self.weight_decay}, {"params": rest, "weight_decay": 0.0}], lr=1.0
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: rate(done + 1))
        train(net, draw, losses, steps=steps, optimizer=optimizer, schedule=schedule, max_grad_norm=1.0, stage=stage,
              progress=progress)  # fmt: skip
        progress(1.0)

    # -- features -------------------------------------------------------------------------------------------------

    def _rows(self, given: Sequence[str]) -> list[list[int]]:
        """Return texts as rows of tokens; a warning tells of those that are cut."""
        rows, most, special = [self._words.encode(text) for text in given], self.length - 2, self._words.special
        if long := sum(len(row) > most for row in rows):
            warnings.warn(f"{long} texts are longer than {most} tokens, and were cut", stacklevel=4)
        return [[special.cls, *row[:most], special.sep] for row in rows]

    def _pooled(self, net: Network, rows: Sequence[Sequence[int]], where: str) -> Tensor:
        """Return a vector for each row, (n, d)."""
        ids, valid = self._words.padded(rows)
        read = net(ids, valid)
        h = read.branch if where == "branch" else read.trunk
        if self.pool == "mean":
            return (h * valid[:, :, None]).sum(1) / valid.sum(1, keepdim=True)
        first = (ids == self._words.special.mask).int().argmax(1) * (self.pool == "mask")  # 0 where there is none
        return h[torch.arange(len(h), device=h.device), first]

    def _in_parts(self, net: Any, given: Sequence[str], where: str) -> Tensor:
        rows = self._rows(given)
        return torch.cat([self._pooled(net, rows[i : i + 64], where) for i in range(0, len(rows), 64)])

    def _features(self, data: TextCorpus) -> Tensor:
        return self._in_parts(self.net_, data.documents, self.features)

    # -- fine-tuning ----------------------------------------------------------------------------------------------

    def _classifier(self) -> nn.ModuleDict:
        head = nn.Linear(self.sizes.branch_width, len(self.classes_))
        nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
        return nn.ModuleDict({"net": copy.deepcopy(self.net_), "head": head}).to(self._device).eval()

    def finetune(self, X: Any, y: Any = None, *, mode: str = "all", progress: Progress | None = None) -> Self:
        """Learn labels of texts, which :meth:`predict` answers; or, without labels, to go on writing as texts do.

        Features stay as they are: a copy of the pretrained network is trained.

        Parameters
        ----------
        X : sequence of str, or TextCorpus
        y : sequence of labels, optional
            Integers or strings, of two classes at least.
        mode : {"all", "module_only", "head_only"}
            What is trained: the trunk, the branch and the head; the branch and the head; or the head.
        progress : callable, optional
            Told the finished share.

        Raises
        ------
        ValueError
            For data that cannot be used, and one class alone.
        sklearn.exceptions.NotFittedError
            Before :meth:`fit`.
        """
        self._check_fitted()
        check_word(mode, MODES, "mode")
        data, told, how = self._read(X), heard(progress), self.finetuning
        if y is not None:
            labels = check_labels(y)
            check_same_length(data.documents, labels)
            classes, codes = np.unique(labels, return_inverse=True)
            if len(classes) < 2:
                raise ValueError(f"y has one class only ({classes.tolist()[0]!r}): at least 2 are needed")
        with self._update(), isolated(derive(self.seed, "fine-tuning")):
            branch = "generate" if y is None else "understand"
            if y is not None:
                self.classes_ = classes
            tuned = self._classifier() if y is not None else nn.ModuleDict({"net": copy.deepcopy(self.net_)})
            net: Any = tuned["net"]
            head = [net.words[branch] if y is None else tuned["head"]]
            branches = [net.narrow[branch], net.branch[branch]]
            kept = {"all": [net.trunk, *branches, *head], "module_only": [*branches, *head], "head_only": head}[mode]
            tuned.requires_grad_(False)
            for part in kept:
                part.requires_grad_(True)
            self.n_trained_ = sum(weight.numel() for weight in tuned.parameters() if weight.requires_grad)
            n, rng = len(data), np.random.default_rng(derive(self.seed, "fine-tuning"))
            steps = max(how.min_steps, how.epochs * -(-n // how.batch_size))
            pace, memory = Pace(self.length, how.batch_size, how.lr, 0.0), None
            streams = self._streams(Texts.of(data, self._words)) if y is None else None
            rows = [] if y is None else self._rows(data.documents)

            def losses(chosen: np.ndarray) -> Tensor:
                nonlocal memory
                if streams is not None:
                    loss, memory = self._continued(net, streams, pace, memory)
                    return loss
                scores = tuned["head"](self._pooled(net, [rows[i] for i in chosen], "branch"))
                return F.cross_entropy(scores, torch.from_numpy(codes[chosen]).to(self._device))

            def draw(step: int) -> np.ndarray:
                return rng.choice(n, min(n, how.batch_size), replace=False)

            self._learn(tuned, draw, losses, steps, lambda s: how.lr * (steps - s + 1) / steps, "fine-tuning", told)
            tuned.requires_grad_(True)
            if y is None:
                self.writer_, self.wrote_ = net, True
            else:
                self.tuned_ = tuned
        return self

    def predict_proba(self, X: Any) -> Any:
        """Return class probabilities, shape (n, n_classes), columns in the order of ``classes_``."""
        self._check_fitted()
        if not hasattr(self, "tuned_"):
            raise ValueError("this ERNIE3 has learned no labels yet: call finetune(X, y) first")

        def scores(data: TextCorpus) -> Tensor:
            return self.tuned_["head"](self._in_parts(self.tuned_["net"], data.documents, "branch")).double().softmax(1)

        return self._encoded(X, scores)

    def predict(self, X: Any) -> Any:
        """Return the most probable label of each text, shape (n,)."""
        return most_probable(self.predict_proba(X), self.classes_)

    # -- prompts --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def score(self, prompts: Any, options: Any, *, by: str = "cloze") -> np.ndarray:
        """Return how well each option fits a prompt's [MASK], as mean log-probability of a token, shape (n, k).

        Parameters
        ----------
        prompts : sequence of str
            Each with [MASK] in it.
        options : sequence of str
        by : {"cloze", "perplexity"}
            Score the tokens of the option at so many masks, or all tokens of the filled prompt as generated text.

        Raises
        ------
        ValueError
            For a prompt without [MASK], and an option with a word that the corpus did not have.
        """
        self._check_fitted()
        check_word(by, ("cloze", "perplexity"), "by")
        prompts, options = check_texts(prompts, "prompts"), check_texts(options, "options")
        if wrong := [place for place, prompt in enumerate(prompts) if "[MASK]" not in prompt]:
            raise ValueError(f"prompts[{wrong[0]}] has no [MASK]: {prompts[wrong[0]]!r}")
        found = np.empty((len(prompts), len(options)))
        for k, option in enumerate(options):
            if by == "perplexity":
                found[:, k] = -np.log(self.perplexity([prompt.replace("[MASK]", option) for prompt in prompts]))
                continue
            tokens = self._words.encode(option)
            if not tokens or not set(tokens) <= set(self.known_):
                raise ValueError(f"options[{k}] {option!r} has a word that the corpus did not have")
            rows = self._rows([prompt.replace("[MASK]", " [MASK]" * len(tokens), 1) for prompt in prompts])
            mask, t = self._words.special.mask, len(tokens)
            starts = [row.index(mask) if mask in row else len(row) for row in rows]
            if any(row[a : a + t] != [mask] * t for row, a in zip(rows, starts)):
                raise ValueError(f"a prompt's [MASK] is behind the {self.length} tokens that are read")
            for at in range(0, len(rows), 64):
                ids, valid = self._words.padded(rows[at : at + 64])
                wanted = self._words.targets([[IGNORED] * a + tokens for a in starts[at : at + 64]], ids.shape[1])
                there, h = wanted >= 0, self.net_(ids, valid).branch
                scores = self.net_.logits(h[there], "understand").log_softmax(1).gather(1, wanted[there][:, None])
                found[at : at + 64, k] = scores.view(len(ids), t).mean(1).cpu()
        return require_finite(found, "a score")

    @torch.no_grad()
    def perplexity(self, X: Any) -> np.ndarray:
        """Return the perplexity of each text of any length under the branch that generates, shape (n,)."""
        self._check_fitted()
        found = []
        for text in self._read(X).documents:
            h, wanted = self._written(text, end=True)
            loss = F.cross_entropy(self._writer.logits(h[wanted >= 0], "generate"), wanted[wanted >= 0])
            found.append(float(loss.exp()))
        return require_finite(np.array(found), "a perplexity")

    @torch.no_grad()
    def generate(self, prompts: Any, *, n_tokens: int = 20, temperature: float = 0.0) -> list[str]:
        """Return how texts go on, until they end or have ``n_tokens`` more.

        Parameters
        ----------
        prompts : sequence of str
        n_tokens : int
        temperature : float
            0 for the most probable token at each step.
        """
        self._check_fitted()
        check_counts(n_tokens=n_tokens)
        if not 0 <= temperature < np.inf:
            raise ValueError(f"temperature must be a number of at least 0, got {temperature!r}")
        rng, found = torch.Generator().manual_seed(derive(self.seed, "generate")), []
        for prompt in check_texts(prompts, "prompts"):
            written: list[int] = []
            while len(written) < n_tokens:
                h, _ = self._written(prompt, written)
                scores = self._writer.logits(h[-1], "generate").cpu()
                drawn = (
                    (scores / temperature).softmax(0).multinomial(1, generator=rng) if temperature else scores.argmax()
                )
                if (token := self.known_[int(drawn)]) == self._words.special.sep:
                    break
                written.append(token)
            found.append(self._words.tokenizer.decode(written))
        return found

    @property
    def _writer(self) -> Network:
        return getattr(self, "writer_", self.net_)

    def _written(self, text: str, more: Sequence[int] = (), end: bool = False) -> tuple[Tensor, Tensor]:
        """Return vectors of the tokens of a text, read segment by segment, and the tokens after them as places."""
        special, parts = self._words.special, []
        memory: Memory | None = None
        row = [special.cls, *self._words.encode(text), *more]
        for place in range(0, len(row), self.length):
            read = self._writer(*self._words.padded([row[place : place + self.length]]), "generate", memory)
            parts.append(read.branch[0])
            memory = read.memory
        return torch.cat(parts), self._words.targets([[*row[1:], special.sep if end else IGNORED]], len(row))[0]
