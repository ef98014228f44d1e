"""Uni-Perceiver v2: one set of weights for vision and vision-language tasks, by maximum likelihood (Li et al., 2022).

1. The image encoder gives global tokens (M' attention poolings and all cells of the tower's last map) and regional
   ones, ``q_sem + B(box) + M(mask)`` for each of the N best proposals; the text encoder gives the features of tokens.
2. One decoder g for all tasks is a transformer on [SPE] and these tokens, of an input or of a candidate answer alike.
   Its feed-forward networks are mixtures of experts, whose gates depend on the attributes of tokens (which task, which
   modality, input or answer) and on nothing else.
3. ``P(x, y) ~ exp(cos(g(f(x)), g(f(y))) / tau)``, tau learned: of [SPE] with class names or captions; of a place of
   a text with the words of a vocabulary; of a proposal with class names and a word for those that show nothing.
4. A step of training draws one task (unmixed sampling), and task-balanced gradient normalization makes the tasks' say
   equal (:class:`~anytask.multitask.parts.balanced_steps.BalancedAdamW`).

Departures from the paper
-------------------------
* The proposer is not trained: connected regions that stand out, or any function that gives boxes, masks, scores and, if
  it likes, features, such as a trained detector. MaskDINO's box and mask losses are not there; its assignment of
  proposals to true boxes is, by overlap, and unassigned proposals are answered with "background".
* Without features of the proposer, q_sem is the tower's mean over a crop of the proposal, blank outside of its mask.
* Words of captions are read by the text encoder one at a time, as candidates are: a text encoder that looks both ways
  would see the words to come. What came before reaches a place through the decoder's causal attention.
* Captions choose among the words of the training texts instead of sub-word tokens.
* Retrieval is routed to the experts of classification: a class name is a caption.
* Experts of one attribute are merged by joining them into one wider network, which is exact for any activation.
* Where the appendix has the values (M', N, rates, ratios), which was not seen, they are ours: tasks are drawn alike.
* All images are prepared and held in memory before training; captions are written without a cache of keys and values.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import softmax
from torch import Tensor
from torch.nn import functional as F

from anytask.core.checks import check_counts, require_finite
from anytask.core.errors import shown
from anytask.core.estimator import Estimator
from anytask.core.progress import Progress, heard
from anytask.core.rng import derive, isolated
from anytask.core.settings import check_number, choice, group, real, text, whole
from anytask.core.training import train
from anytask.models.towers import build_tower
from anytask.multitask.parts.balanced_steps import BalancedAdamW
from anytask.multitask.parts.sampling import TaskSampler, task_ratios
from anytask.multitask.uni_perceiver_v2.likelihood import Examples
from anytask.multitask.uni_perceiver_v2.perceiver import TAU, Decoder, ImageEncoder, ImageSettings, Perceiver
from anytask.multitask.uni_perceiver_v2.proposals import Proposals, Scenes, prepare, propose, region_features
from anytask.multitask.uni_perceiver_v2.tasks import BACKGROUND, END, read_images, read_tasks, read_texts, vocabulary_of
from anytask.parts.contrastive import cosine_scores

__all__ = ["BalancedAdamW", "ImageSettings", "Proposals", "TaskSampler", "UniPerceiverV2", "task_ratios"]

_BATCH = 256  # of inference


class UniPerceiverV2(Estimator):
    """Uni-Perceiver v2: classify, detect, caption and retrieve with one network that has no heads.

    Every task is a choice among candidates that the user names: class names, captions, words. A new set of candidates
    needs no new parameter. Pick it for several vision and language tasks on images of one kind, of which some are
    small; for one task alone a network of its own is simpler. Its steps help where tasks are rare or their losses
    differ in scale; where they are alike, ``balance="adamw"`` was as good.

    Parameters
    ----------
    image : ImageSettings or mapping
        The image encoder.
    text_encoder : str or None
        A text encoder of the Hugging Face hub, by name or folder; None for a small one that learns the words of the
        training texts.
    width, layers, heads, experts, top_k
        Of the decoder: its width, transformer layers, attention heads, experts of each layer, and how many of them a
        token goes through; one expert is a dense network.
    tau : float, default 0.1
        The temperature at the start of training.
    balance : {"tbgn", "adamw"}, default "tbgn"
        Task-balanced gradient normalization, or AdamW.
    sampling : {"unmixed", "mixed"}, default "unmixed"
        One task in each step, or a batch of all; the latter goes with AdamW alone.
    steps, batch_size, lr, weight_decay
        Of training; the rate rises over a tenth of the steps, and falls along a cosine.
    seed, device
        See :class:`~anytask.core.estimator.Estimator`.

    Attributes
    ----------
    kinds_ : dict of str to str
        The kind of each task that it was trained on.
    words_ : list of str
        What captions are written with.

    Examples
    --------
    Bright squares and bars, at the left or at the right:

    >>> rng = np.random.default_rng(0)
    >>> images, shapes = np.zeros((96, 16, 16)), rng.choice(["square", "bar"], 96)
    >>> sides = rng.choice(["left", "right"], 96)
    >>> for image, shape, side in zip(images, shapes, sides):
    ...     image[4:8 if shape == "square" else 14, (2 if side == "left" else 10):][:, :4] = 1
    >>> said = [f"a {shape} at the {side}" for shape, side in zip(shapes, sides)]
    >>> tasks = {
    ...     "shape": {"kind": "classification", "images": images[:64], "labels": shapes[:64]},
    ...     "words": {"kind": "caption", "images": images[:64], "texts": said[:64]},
    ... }
    >>> model = UniPerceiverV2.from_preset("small", steps=60).fit(tasks)
    >>> bool((model.classify(images[64:], ["bar", "square"]) == shapes[64:]).mean() > 0.8)
    True
    >>> model.caption(images[64:65]) == said[64:65]
    True

    References
    ----------
    Li, Zhu, Jiang, Zhu, Li, Yuan, Wang, Qiao, Wang, Wang, Dai, 2022, "Uni-Perceiver v2: A Generalist Model for
    Large-Scale Vision and Vision-Language Tasks", arXiv:2211.09808.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"steps": 1000, "batch_size": 32},
        "paper": {
            "width": 768, "layers": 6, "heads": 12, "text_encoder": "roberta-base", "lr": 1e-4, "steps": 100000,
            "image": {"tower": "microsoft/resnet-50", "image_size": 448, "crop_size": 112, "proposals": 100},
        },
    }  # fmt: skip

    image: ImageSettings = group(ImageSettings, "the image encoder")
    text_encoder: str | None = text(None, "a text encoder of the hub, by name or folder", optional=True)
    width: int = whole(64, "width of the decoder", at_least=4)
    layers: int = whole(2, "transformer layers of the decoder")
    heads: int = whole(4, "attention heads")
    experts: int = whole(8, "experts of each layer; 1 is a dense network")
    top_k: int = whole(2, "experts that a token goes through")
    tau: float = real(0.1, "temperature at the start", at_least=TAU)
    balance: str = choice("tbgn", ("tbgn", "adamw"), "task-balanced gradients, or AdamW")
    sampling: str = choice("unmixed", ("unmixed", "mixed"), "one task in each step, or a batch of all")
    lr: float = real(5e-4, "learning rate", above=0)
    steps: int = whole(2000, "steps of training")
    batch_size: int = whole(64, "examples in a step")
    weight_decay: float = real(0.01, "weight decay", at_least=0)

    def _check_settings(self) -> None:
        if self.width % (2 * self.heads):
            raise ValueError(f"width must be a multiple of twice heads, got {self.width} and {self.heads}")
        if self.top_k > self.experts:
            raise ValueError(f"top_k is {self.top_k}, and there are {self.experts} experts")
        if self.sampling == "mixed" and self.balance == "tbgn":
            raise ValueError("sampling='mixed' goes with balance='adamw': a balanced step is of one task")

    # -- training -------------------------------------------------------------------------------------------------

    def fit(self, tasks: Mapping[str, Mapping[str, Any]], *, progress: Progress | None = None) -> Self:
        """Learn all tasks.

        Parameters
        ----------
        tasks : mapping of str to mapping
            Each with a ``kind`` and its data:

            * ``classification``: ``images`` (n, channels, height, width) or (n, height, width), numbers in [0, 1] or
              integers to 255; ``labels`` (n,), class names;
            * ``detection``: ``images``; ``boxes``, for each image an array (k, 4) of left, top, right, bottom in
              [0, 1]; ``labels``, for each image its k class names;
            * ``caption``, ``retrieval``: ``images`` and ``texts``, one for each;
            * ``language``: ``texts`` alone.

            And, if wanted, ``ratio``, how often it is drawn (all alike unless given); ``omega``, its say in balanced
            steps; ``weight`` of its loss.
        progress : callable, optional
            Told the finished share, in [0, 1].

        Raises
        ------
        ValueError, TypeError
            For data that are none of this; the message names the task and the row.
        NotFinite
            If training made a NaN; the model is left as it was.
        """
        read, told = read_tasks(tasks), heard(progress)
        if self.batch_size < 2 and any(task.kind == "retrieval" for task in read):
            raise ValueError("batch_size=1 leaves nothing to choose from: retrieval chooses among a batch's texts")
        with self._refit():
            images = {id(task.images): self._sized(task.images) for task in read if task.images is not None}
            found = {place: self._propose(own) for place, own in images.items()}
            self.kinds_ = {task.name: task.kind for task in read}
            self.image_shape_ = next((tuple(one.shape[1:]) for one in images.values()), (1, 16, 16))
            self.region_features_ = region_features(chain.from_iterable(found.values()))
            self.vocabulary_, self.words_, self.longest_ = vocabulary_of(read)
            with isolated(derive(self.seed, "init")):
                self._build()
            for task in read:
                if task.kind in ("classification", "detection"):
                    self._apart(task.classes, f"labels of task {task.name!r}")
            scenes = {place: self._prepare(own, found[place]) for place, own in images.items()}
            data = {task.name: Examples(task, scenes.get(id(task.images)), self.words_) for task in read}
            with isolated(derive(self.seed, "train")):
                self._train(data, told)
            self._keep_shape()
        return self

    def _build(self) -> None:
        o = self.image
        tower, features = build_tower(o.tower, self.image_shape_, self.width, self.seed)
        self.frozen_ = tower.eval().requires_grad_(False).to(self._device) if o.freeze_tower else None
        kept = None if o.freeze_tower else tower
        image = ImageEncoder(o, kept, features, self.region_features_ or features, self.width)
        g = Decoder(self.width, self.layers, self.heads, self.experts, self.top_k)
        net = Perceiver(image, self.text_encoder, self.vocabulary_, g, self.heads, self.tau)
        self.net_ = net.to(self._device).eval()
        self._known: dict[tuple[str, str], Tensor] = {}  # representations of candidates

    def _train(self, data: Mapping[str, Examples], progress: Progress) -> None:
        given = {name: one.task.ratio or 1 / len(data) for name, one in data.items()}
        sampler, unmixed = TaskSampler(given, derive(self.seed, "tasks")), self.sampling == "unmixed"
        trained = [w for w in self.net_.parameters() if w.requires_grad]
        groups = [{"params": [w for w in trained if w.ndim > 1]}, {"params": [w for w in trained if w.ndim < 2]}]
        optimizer = BalancedAdamW(
            [groups[0], {**groups[1], "weight_decay": 0.0}], given, self.lr, weight_decay=self.weight_decay,
            omega={name: one.task.omega for name, one in data.items()}, normalize=self.balance == "tbgn",
            reweight=self.balance == "tbgn",
        )  # fmt: skip

        def draw(step: int) -> list[tuple[str, Tensor]]:
            optimizer.task = sampler.task(step)
            counts = {optimizer.task: self.batch_size} if unmixed else sampler.counts(step, self.batch_size)
            return [(name, torch.randperm(data[name].task.size)[:n]) for name, n in counts.items() if n]

        def losses(drawn: list[tuple[str, Tensor]]) -> Iterator[Tensor]:
            n = sum(len(rows) for _, rows in drawn)
            for name, rows in drawn:
                yield len(rows) / n * data[name].task.weight * data[name].loss(self.net_, rows, self._device)

        rising = max(1, self.steps // 10)

        def rate(step: int) -> float:
            falling = (step - rising) / max(1, self.steps - rising)
            return (step + 1) / rising if step < rising else 0.5 * (1 + np.cos(np.pi * falling))

        train(
            self.net_, draw, losses, steps=self.steps, optimizer=optimizer, progress=progress,
            schedule=torch.optim.lr_scheduler.LambdaLR(optimizer, rate),
            after_step=lambda step: self.net_.log_tau.data.clamp_(min=float(np.log(TAU))),
        )  # fmt: skip

    # -- answers --------------------------------------------------------------------------------------------------

    def similarity(self, images: ArrayLike | Tensor, texts: Sequence[str]) -> np.ndarray:
        """Return the cosine of each image with each text.

        Parameters
        ----------
        images : array or tensor of shape (n, channels, height, width) or (n, height, width)
            Of the kind that it was trained on.
        texts : sequence of m str

        Returns
        -------
        array of shape (n, m)
            Its softmax over the texts, divided by the temperature, is :meth:`predict_proba`.
        """
        kind = self._trained("classification", "retrieval")
        candidates = self._candidates(read_texts(texts, "texts"), kind)
        own = [self.net_.look(scenes, kind)[0] for scenes in self._scenes(images)]
        return _array(cosine_scores(torch.cat(own), candidates))

    def predict_proba(self, images: ArrayLike | Tensor, candidates: Sequence[str]) -> np.ndarray:
        """Return the probability (n, m) of each of m candidates for each of n images; rows sum to 1."""
        self._check_fitted()
        names = self._apart(read_texts(candidates, "candidates"), "candidates")
        return softmax(self.similarity(images, names) / max(self.net_.log_tau.exp().item(), TAU), axis=1)

    def classify(self, images: ArrayLike | Tensor, candidates: Sequence[str]) -> np.ndarray:
        """Return the most likely of some class names for each image, an array (n,) of str.

        Names need not be those of the training: words that were there may be put together anew.
        """
        self._check_fitted()
        names = self._apart(read_texts(candidates, "candidates"), "candidates")
        return np.array(names)[self.similarity(images, names).argmax(1)]

    def retrieve(self, images: ArrayLike | Tensor, captions: Sequence[str]) -> np.ndarray:
        """Return the places of the captions for each image, the most likely first: an int array (n, m).

        For images of a caption sort the columns of :meth:`similarity` instead.
        """
        return np.argsort(-self.similarity(images, captions), axis=1, kind="stable")

    def detect(
        self, images: ArrayLike | Tensor, class_names: Sequence[str], *, threshold: float = 0.5
    ) -> list[dict[str, Any]]:
        """Find the objects of some classes.

        Parameters
        ----------
        images : array or tensor of shape (n, channels, height, width) or (n, height, width)
        class_names : sequence of str
        threshold : float in [0, 1], default 0.5
            Least score: the proposal's own times the probability of its class, among the others and the background.

        Returns
        -------
        list of n dict
            ``boxes`` (k, 4): left, top, right, bottom in [0, 1]; ``labels`` (k,); ``scores`` (k,), falling; ``masks``
            (k, height, width), bool.
        """
        kind = self._trained("detection")
        check_number(threshold, "threshold", at_least=0, at_most=1)
        if not self.image.proposals:
            raise ValueError("image.proposals is 0: without proposals there is nothing to detect")
        names = read_texts(class_names, "class_names")
        if BACKGROUND in names:
            raise ValueError(f"{BACKGROUND!r} is the name of proposals that show nothing, and no class")
        self._apart([*names, BACKGROUND], "class_names")
        candidates, found = self._candidates([*names, BACKGROUND], kind), self._propose(self._images(images))
        answers = []
        for scenes, part in zip(self._scenes(images, found), _parts(found)):
            P = self.net_.logits(self.net_.look(scenes, kind)[1], candidates).softmax(2)[..., :-1]
            best = P.max(2)
            scores, places = _array(best.values * scenes.scores), best.indices.cpu().numpy()
            background = _array(1 - P.sum(2)) > _array(best.values)
            for row, one in enumerate(part):
                k = len(one.boxes)
                kept = np.flatnonzero((scores[row, :k] >= threshold) & ~background[row, :k])
                kept = kept[np.argsort(-scores[row, kept], kind="stable")]
                answers.append({
                    "boxes": one.boxes.numpy()[kept], "labels": np.array(names)[places[row, kept]],
                    "scores": scores[row, kept], "masks": one.masks.numpy()[kept] > 0.5,
                })  # fmt: skip
        return answers

    def caption(self, images: ArrayLike | Tensor, *, max_words: int | None = None) -> list[str]:
        """Write a caption for each image, each time with the most likely word.

        Parameters
        ----------
        images : array or tensor of shape (n, channels, height, width) or (n, height, width)
        max_words : int, optional
            The longest caption; that of the training unless given.
        """
        kind = self._trained("caption")
        if max_words is not None:
            check_counts(max_words=max_words)
        longest, end = max_words or self.longest_, self.words_.index(END)
        candidates, captions = self._candidates(self.words_, kind), []
        with torch.no_grad():
            table = self.net_.each_word(self.words_)
        for scenes in self._scenes(images):
            seen = self.net_.image(scenes)
            said = torch.full((len(seen[0]), 1), len(self.words_), device=self._device)
            over = torch.zeros(len(said), dtype=torch.bool, device=self._device)
            for _ in range(longest):
                last = self.net_.write(seen, table[said], kind)[:, -1]
                next_ = self.net_.logits(last, candidates).argmax(1).masked_fill(over, end)
                said, over = torch.cat([said, next_[:, None]], 1), over | (next_ == end)
                if over.all():
                    break
            captions += [" ".join(self.words_[i] for i in row if i != end) for row in said[:, 1:].tolist()]
        if empty := captions.count(""):
            warnings.warn(f"{empty} of {len(captions)} captions are empty: train for more steps", stacklevel=2)
        return captions

    # -- steps of them --------------------------------------------------------------------------------------------

    def _trained(self, *kinds: str) -> str:
        """Return a kind of task out of some that it was trained on."""
        self._check_fitted()
        self._check_settings()
        self._check_shape_kept()
        if not set(kinds) & set(self.kinds_.values()):
            raise ValueError(f"it was trained on {shown(self.kinds_)}, and on no task of {' or '.join(kinds)}")
        return kinds[0]

    def _apart(self, names: list[str], where: str) -> list[str]:
        """Return class names, or say which two are the same to the text encoder."""
        first: dict[Any, int] = {}
        for place, name in enumerate(names):
            if (other := first.setdefault(self.net_.text.key(name), place)) != place:
                raise ValueError(
                    f"{where} has {names[other]!r} and {name!r}, which are read alike: no answer tells them apart"
                )
        return names

    def _candidates(self, texts: Sequence[str], kind: str) -> Tensor:
        """Return the representations (m, width) of candidates, each computed once."""
        if new := [text for text in dict.fromkeys(texts) if (kind, text) not in self._known]:
            unknown = {word for text in new if text not in (BACKGROUND, END) for word in self.net_.text.unknown(text)}
            if unknown:
                warnings.warn(f"Not in the training texts, and read as unknown: {shown(sorted(unknown))}", stacklevel=4)
            with torch.no_grad():  # each alone: its last digits must not depend on the others
                found = [require_finite(self.net_.answers([text], kind)[0], f"the candidate {text!r}") for text in new]
            self._known |= {(kind, text): one for text, one in zip(new, found)}
        return torch.stack([self._known[kind, text] for text in texts])

    def _images(self, images: ArrayLike | Tensor) -> Tensor:
        """Return checked images, of the size that the tower takes."""
        pixels = read_images(images)
        if pixels.shape[1] != self.image_shape_[0]:
            raise ValueError(f"images have {pixels.shape[1]} channels, and it was trained on {self.image_shape_[0]}")
        return self._sized(pixels)

    def _sized(self, pixels: Tensor) -> Tensor:
        size = self.image.image_size
        return F.interpolate(pixels, [size, size], mode="bilinear", antialias=True) if size else pixels

    def _propose(self, images: Tensor) -> list[Proposals]:
        found = propose(self.image.proposer, images.cpu(), self.image.proposals)
        if hasattr(self, "region_features_") and (features := region_features(found)) not in (
            None,
            self.region_features_,
        ):
            raise ValueError(
                f"the proposer gave {self.region_features_} features in training, and gives {features} now"
            )
        return found

    def _prepare(self, images: Tensor, found: Sequence[Proposals]) -> Scenes:
        o = self.image
        return prepare(
            images.cpu(), found, o.proposals, o.crop_size, o.mask_size, self.region_features_, tower=self.frozen_
        )

    def _scenes(self, images: ArrayLike | Tensor, found: Sequence[Proposals] | None = None) -> Iterator[Scenes]:
        """Give images in batches, prepared and on the device."""
        pixels = self._images(images)
        found = self._propose(pixels) if found is None else found
        with torch.no_grad():
            for part, own in zip(pixels.split(_BATCH), _parts(found)):
                yield self._prepare(part, own).to(self._device)

    def _shaping(self) -> list[str]:
        return [name for name in self._param_names() if name != "device"]


def _parts(found: Sequence[Proposals]) -> Iterator[Sequence[Proposals]]:
    for start in range(0, len(found), _BATCH):
        yield found[start : start + _BATCH]


def _array(values: Tensor) -> np.ndarray:
    return require_finite(values.detach(), "an answer").cpu().numpy().astype(np.float64)
