"""aTLAS: task vectors combined by learned coefficients, one for each vector and each block of parameters.

With the pre-trained weights ``theta_0`` in m blocks (each tensor is one) and vectors ``tau_i = theta_i - theta_0``, the
composed weights are ``theta^j = theta_0^j + sum_i lambda_ij tau_i^j``. AdamW learns the ``lambda_ij`` from 0 on, and
nothing else: heads, buffers and the vectors stay. The gradient by ``lambda_ij`` is the inner product of the loss's
gradient by block j with ``tau_i^j``, which is taken block by block, so that no copy of the vectors is held.

Departures from the paper
-------------------------
* The model stays in evaluation mode throughout: no dropout, running statistics as pre-trained. Networks with batch
  normalization may re-estimate them afterwards, with ``torch.optim.swa_utils.update_bn``.
* Blocks that no vector changes, such as a frozen head, have no coefficient.
* Partitions split all tensors, each by its own draw. The released code leaves all but matrices as pre-trained, and has
  one mask for tensors of equal shape: ``partition={"matrices_only": True, "share_masks": True}``.
* The released code marks trusted samples of the last class alone, and its sharpening cancels; here all classes have
  trusted samples, at least one each, and ``adaptation.temperature`` sharpens.
* Model selection is what the caller gives as ``validation``; few-label scripts of the paper select on a labelled
  validation set, without one the last coefficients are kept.
* In negation the accuracies are those on the data given, where no validation data are.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, TypeAlias

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.core.errors import instance_of, shown
from anytask.core.estimator import Estimator
from anytask.core.progress import Progress, heard, portion
from anytask.core.rng import derive, isolated
from anytask.core.settings import Settings, choice, flag, group, real, texts, whole
from anytask.core.training import train
from anytask.multitask.atlas.composition import Composition, Map, Scaled, pair_of, rows_of, same, stored, trusted
from anytask.multitask.parts.task_vectors import TaskVector, aligned, named

__all__ = ["ATLAS", "TaskVector"]

Pair: TypeAlias = tuple[Any, Any]


class PartitionSettings(Settings):
    """More coefficients for each block (aTLAS x K).

    Parameters
    ----------
    n_groups : int
        K: each tensor is split at random into so many groups of equal size, with a coefficient each.
    matrices_only : bool
        Leave biases and all else that is no matrix as pre-trained, as the released code does.
    share_masks : bool
        Split tensors of equal shape alike, as the released code does.
    """

    n_groups: int = whole(1, "K: groups with a coefficient each, into which a tensor is split")
    matrices_only: bool = flag(False, "leave all but matrices as pre-trained")
    share_masks: bool = flag(False, "split tensors of equal shape alike")


class AdaptationSettings(Settings):
    """Learning without labels.

    Parameters
    ----------
    objective : {"ufm", "entropy"}
        Pseudo-labels, of which the surest of each class are trusted, or low entropy of the answers.
    threshold, temperature : float
        How sure an answer must be to be a pseudo-label, and what sharpens it (1: nothing).
    noise : float
        Where no ``augment`` is given: noise on inputs for the strong view, in their standard deviations.
    """

    objective: str = choice("ufm", ("ufm", "entropy"), "pseudo-labels, or low entropy")
    threshold: float = real(0.99, "how sure an answer must be to be a pseudo-label", at_least=0, below=1)
    temperature: float = real(1.0, "below 1: sharper pseudo-labels", above=0)
    noise: float = real(0.1, "noise of the strong view, in standard deviations of the inputs", at_least=0)


class ATLAS(Estimator):
    """Anisotropic scaling of task vectors (Zhang et al., 2024).

    Combines a pre-trained classifier and fine-tuned versions of it into a new one. Pick it when there is a bank of
    checkpoints or LoRA adapters of one model and a few labels, or none, of what you want: so few numbers are learned
    that one label for each class does, for far more than merging by formulas gives. Compare full fine-tuning: on small
    digits it was ahead with one label already, and level with ten groups in each block. Every method returns a copy of
    the model, with the same forward pass; inputs are whatever the model takes, and labels are places among its logits.

    Parameters
    ----------
    lr, weight_decay, epochs, batch_size, max_grad_norm
        Of AdamW with a cosine schedule. The decay pulls to the pre-trained model. The rate ``"auto"`` is the paper's .1
        for few labels, and .01 in :meth:`negate` and :meth:`adapt`. For all but few labels the paper has .001, on
        thousands of rows: the preset ``many``.
    min_batches : int, default 10
        Least number of batches in an epoch; rows come again.
    scaling : {"block", "vector"}
        A coefficient for each block of each vector, or for each vector.
    partition : :class:`PartitionSettings`
    budget : int or None
        How many vectors take part, None for all; for ``selection="block"`` in each block.
    selection : {"block", "vector", "random"}
        Those with the largest gradient by their coefficients at the start, or at random.
    penalty, norm : float
        Weight of the mean over the blocks of the p-norm of their coefficients, and p.
    keep : float, default 0.95
        Share of the control task's accuracy that negation may not fall below.
    adaptation : :class:`AdaptationSettings`
    linearized : bool
        Change the model's first-order expansion at the pre-trained weights instead.
    exclude : sequence of str
        Patterns of parameters that stay as pre-trained, such as ``head.*``.
    storage : {"given", "float16", "bfloat16"}
        Type in which vectors are held in training; small or large values stay as given for float16.
    autocast : bool
        Run the model in bfloat16.
    seed, device
        See :class:`~anytask.core.estimator.Estimator`.

    Attributes
    ----------
    coef_ : Tensor of shape (n_vectors, n_blocks, n_groups)
        The coefficients.
    vectors_, blocks_ : list of str
        Names of the vectors and of the blocks.
    n_coefficients_ : int
        How many numbers were learned.
    losses_ : list of float

    Examples
    --------
    >>> net = nn.Linear(2, 2, bias=False)
    >>> _ = nn.init.zeros_(net.weight)
    >>> left, right = (TaskVector(weight=torch.tensor(w)) for w in ([[9.0, 0], [-9, 0]], [[0, 9.0], [0, -9]]))
    >>> X, y = torch.tensor([[1.0, -3.0], [-3.0, 1.0]]), [0, 1]  # the first number decides
    >>> atlas = ATLAS(epochs=20)
    >>> atlas.compose(net, [left, right], X, y)(X).argmax(1).tolist()
    [0, 1]
    >>> bool(atlas.coef_[0, 0] > atlas.coef_[1, 0])
    True

    References
    ----------
    Zhang, Albert, Rodriguez-Opazo, van den Hengel, Abbasnejad, 2024, "Knowledge Composition using Task Vectors with
    Learned Anisotropic Scaling", NeurIPS, arXiv:2407.02880.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small": {}, "many": {"lr": 1e-3, "epochs": 20}}

    lr: float | str = real("auto", "of AdamW; 'auto': 0.1, or 0.01 in negate and adapt", words=("auto",), above=0)
    weight_decay: float = real(0.1, "pull to the pre-trained model", at_least=0)
    epochs: int = whole(10, "passes over the rows")
    batch_size: int = whole(128, "rows of a batch", at_least=2)
    min_batches: int = whole(10, "least number of batches in an epoch")
    max_grad_norm: float = real(1.0, "norm to which gradients are clipped", above=0)
    scaling: str = choice("block", ("block", "vector"), "a coefficient for each block, or each vector")
    partition: PartitionSettings = group(PartitionSettings, "more coefficients for each block")
    budget: int | None = whole(None, "how many vectors take part; None for all", optional=True)
    selection: str = choice("block", ("block", "vector", "random"), "how they are chosen")
    penalty: float = real(0.0, "weight of the coefficients' norm", at_least=0)
    norm: float = real(1.0, "which norm", at_least=1)
    keep: float = real(0.95, "share of the control accuracy that negation keeps", at_least=0, at_most=1)
    adaptation: AdaptationSettings = group(AdaptationSettings, "learning without labels")
    linearized: bool = flag(False, "change the model's first-order expansion")
    exclude: Sequence[str] = texts((), "patterns of parameters that stay as pre-trained")
    storage: str = choice("given", ("given", "float16", "bfloat16"), "type in which vectors are held")
    autocast: bool = flag(False, "run the model in bfloat16")

    coef_: Tensor
    vectors_: list[str]
    blocks_: list[str]
    n_coefficients_: int
    losses_: list[float]

    def _check_settings(self) -> None:
        if self.scaling == "vector" and self.budget is not None and self.selection == "block":
            raise ValueError("scaling='vector' has no coefficient of a block: choose selection='vector' or 'random'")

    def _shaping(self) -> list[str]:
        return ["linearized", "seed", "partition.n_groups", "partition.matrices_only", "partition.share_masks"]

    # -- uses -----------------------------------------------------------------------------------------------------

    def compose(
        self, pretrained: nn.Module, vectors: Any, X: ArrayLike | Tensor, y: ArrayLike | Tensor, *,
        validation: Pair | None = None, augment: Map | None = None, progress: Progress | None = None,
    ) -> nn.Module:  # fmt: skip
        """Return the model composed for a task of which a few labels are known.

        Parameters
        ----------
        pretrained : torch.nn.Module
            Maps inputs (n, ...) to logits (n, n_classes); left as it is.
        vectors : sequence, or mapping of names
            Of :class:`TaskVector` (changes of weights), or of fine-tuned modules or their state dicts.
        X, y : array or tensor of shape (n, ...), and integers (n,)
        validation : (X, y), optional
            The coefficients that are most accurate on these are kept.
        augment : callable, optional
            Changes a batch of inputs in training.
        progress : callable, optional
            Told the finished share.

        Raises
        ------
        ValueError, TypeError
            For vectors that do not fit the model, inputs that it does not take, and labels that are no places.
        NotFinite
            If training made a NaN or infinite number; the fitted state is left as it was.
        """
        told = None if validation is None else {"X": validation}
        return self._supervised(pretrained, vectors, {"X": (X, y)}, told, None, augment, progress)

    def add(
        self, pretrained: nn.Module, vectors: Any, data: Mapping[str, Pair], *,
        validation: Mapping[str, Pair] | None = None, heads: Mapping[str, nn.Module] | None = None,
        augment: Map | None = None, progress: Progress | None = None,
    ) -> nn.Module:  # fmt: skip
        """Return one model for several data sets: task addition.

        The coefficients with the best mean of normalised accuracies are kept: the accuracy on a data set over that of
        the model fine-tuned for it, where a vector has its name.

        Parameters
        ----------
        pretrained, vectors, augment, progress
            See :meth:`compose`.
        data : mapping of str to (X, y)
            A batch has as many rows of each.
        validation : mapping of str to (X, y), optional
            What selects; the data themselves unless given.
        heads : mapping of str to torch.nn.Module, optional
            The head of each data set, where the model gives features.
        """
        if not isinstance(data, Mapping) or not data:
            raise TypeError(f"data must be a mapping of names to (X, y), got {shown(data)}")
        for name, other in (("validation", validation), ("heads", heads)):
            instance_of(name, Mapping, wanted="a mapping with the names of data")(other)
            if other is not None and set(other) != set(data):
                raise ValueError(
                    f"{name} must have the names of data, {', '.join(map(str, data))}; got {', '.join(map(str, other))}"
                )
        for name, head in (heads or {}).items():
            instance_of(f"the head of {name}", nn.Module, optional=False, wanted="a torch.nn.Module")(head)
        return self._supervised(pretrained, vectors, data, validation or data, heads, augment, progress)

    def negate(
        self, pretrained: nn.Module, vectors: Any, X: ArrayLike | Tensor, y: ArrayLike | Tensor, *, control: Pair,
        validation: Pair | None = None, control_validation: Pair | None = None, progress: Progress | None = None,
    ) -> nn.Module:  # fmt: skip
        """Return the model that fails on one task and keeps another: task negation.

        After each epoch the coefficients are accepted if accuracy on the task fell and that on the control task is at
        least ``keep`` of the pre-trained model's; the training ends where it is not.

        Parameters
        ----------
        pretrained, vectors, progress
            See :meth:`compose`; mostly the vector of the task, alone.
        X, y
            Of the task to fail on.
        control : (X, y)
            Of the task to keep.
        validation, control_validation : (X, y), optional
            What accuracies are measured on; the data themselves unless given.
        """
        with self._refit(), isolated(derive(self.seed, "negate")):
            c = self._start(pretrained, vectors)
            target, kept = c.read(X, y), c.read(*pair_of(control, "control"), "control")
            pairs = {"validation": validation, "control_validation": control_validation}
            measured = [
                own if pair is None else c.read(*pair_of(pair, name), name)
                for own, (name, pair) in zip((target, kept), pairs.items())
            ]
            draws = [rows_of(len(pair[1]), self.batch_size // 2) for pair in (target, kept)]
            n = self._n_batches([target, kept])

            def losses(rows: list[Tensor]) -> Tensor:
                theta = c.theta()
                fails, holds = (c.loss(theta, *pair, own) for pair, own in zip((target, kept), rows))
                return holds - fails + self._penalty(c)

            step = self._steps(c, lambda _: [next(draw) for draw in draws], losses, n, 0.01)
            accepted, (best, floor) = c.lambda_.detach().clone(), [c.accuracy(*pair) for pair in measured]
            floor, told, self.losses_ = self.keep * floor, heard(progress), []
            for epoch in range(self.epochs):
                self.losses_ += step(n, progress=portion(told, epoch / self.epochs, (epoch + 1) / self.epochs))
                own, held = (c.accuracy(*pair) for pair in measured)
                if held < floor:
                    break
                if own < best:
                    accepted, best = c.lambda_.detach().clone(), own
            c.lambda_.data.copy_(accepted)
            if not accepted.any():
                warnings.warn(
                    "No coefficients made the task fail and kept the control task: the pre-trained model is returned. "
                    "Try another lr.",
                    stacklevel=2,
                )
            told(1.0)
            return self._finish(c, pretrained)

    def adapt(
        self, pretrained: nn.Module, vectors: Any, X: ArrayLike | Tensor, *, augment: Map | None = None,
        progress: Progress | None = None,
    ) -> nn.Module:  # fmt: skip
        """Return the model adapted to unlabelled inputs, such as those that it is to be tested on.

        Parameters
        ----------
        pretrained, vectors, progress
            See :meth:`compose`.
        X : array or tensor of shape (n, ...)
        augment : callable, optional
            Makes the strong view of a batch; noise unless given.
        """
        instance_of("augment", Callable, wanted="a callable that changes inputs")(augment)
        with self._refit(), isolated(derive(self.seed, "adapt")):
            c, s = self._start(pretrained, vectors), self.adaptation
            x = c.read(X)[0]
            n, size = self._n_batches([(x, x)]), self.batch_size
            if s.objective == "entropy":
                draws = [rows_of(len(x), size)]
                step = self._steps(c, lambda _: next(draws[0]), partial(self._entropy, c, x), n, 0.01)
            else:
                strong = augment or self._noise(x)
                places, labels = trusted(c.probabilities(x))  # (k C,)
                if len(x) <= int(labels.max()):
                    warnings.warn(
                        f"{len(x)} inputs are fewer than the {int(labels.max()) + 1} classes, and some are trusted to "
                        "be of several: adaptation.objective='entropy' trusts none", stacklevel=2,
                    )  # fmt: skip
                free = torch.ones(len(x), dtype=torch.bool)
                free[places] = False
                rest = free.nonzero()[:, 0] if free.any() else places
                draws = [rows_of(len(rest), size - size // 4), rows_of(len(places), max(1, size // 4))]

                def draw(_: int) -> tuple[Tensor, Tensor, Tensor]:
                    untrusted, sure = (next(one) for one in draws)
                    return x[rest[untrusted]], x[places[sure]], labels[sure]

                step = self._steps(c, draw, partial(self._pseudo_labels, c, strong), n, 0.01)
            self.losses_ = step(n * self.epochs, progress=progress)
            return self._finish(c, pretrained)

    def materialise(self, pretrained: nn.Module, vectors: Any) -> nn.Module:
        """Return the composed model again, from the same model and vectors: after :meth:`load`, say.

        Parameters
        ----------
        pretrained, vectors
            As they were given; of a mapping, vectors are found by their names.

        Raises
        ------
        ValueError
            If vectors or blocks are not those of the coefficients.
        """
        self._check_fitted()
        self._check_shape_kept()
        given = named(_module(pretrained), vectors)
        if missing := [name for name in self.vectors_ if name not in given]:
            raise ValueError(
                f"the coefficients are of vectors {self.vectors_}; {missing[0]!r} is not among those given"
            )
        blocks = aligned(pretrained, {name: given[name] for name in self.vectors_}, self.exclude)
        if missing := [name for name in self.blocks_ if name not in blocks]:
            raise ValueError(f"the vectors do not change {missing[0]!r}, and the coefficients have that block")
        with isolated(derive(self.seed, "materialise")):
            c = self._composition(pretrained, self.vectors_, {name: blocks[name] for name in self.blocks_})
            c.lambda_ = nn.Parameter(self.coef_.to(c.lambda_))
            return c.materialised(pretrained)

    def cost(self) -> dict[str, int]:
        """Return how many coefficients are learned and stored; the model and the vectors are the caller's."""
        self._check_fitted()
        return {"trainable_parameters": self.n_coefficients_, "stored_parameters": self.coef_.numel()}

    # -- the steps ------------------------------------------------------------------------------------------------

    def _start(self, pretrained: nn.Module, vectors: Any) -> Composition:
        given = named(_module(pretrained), vectors)
        if self.budget is not None and self.budget > len(given):
            raise ValueError(f"budget={self.budget} is more than the {len(given)} vectors")
        blocks = aligned(pretrained, given, self.exclude)
        if self.partition.n_groups > 1 and self.partition.matrices_only:
            shapes = {name: next(v.shape for v in values if v is not None) for name, values in blocks.items()}
            blocks = {name: values for name, values in blocks.items() if len(shapes[name]) == 2}
            if not blocks:
                raise ValueError("the vectors change no matrix: matrices_only leaves nothing to compose")
        return self._composition(pretrained, list(given), blocks)

    def _composition(self, pretrained: nn.Module, names: list[str], blocks: Mapping[str, list[Any]]) -> Composition:
        model = copy.deepcopy(pretrained).to(self._device).requires_grad_(False).eval()
        theta_0, p = dict(model.named_parameters()), self.partition
        held = []
        for name, taus in blocks.items():
            groups = None
            if p.n_groups > 1:
                shape = theta_0[name].shape
                with isolated(derive(self.seed, "mask", tuple(shape) if p.share_masks else name)):
                    groups = (torch.randperm(shape.numel()) % p.n_groups).view(shape).to(self._device)
            own = [stored(tau, theta_0[name], self.storage) for tau in taus]
            held.append(Scaled(own, groups, p.n_groups, theta_0[name]))
        found = dict(zip(blocks, held))
        return Composition(model, names, found, self.scaling == "block", self.linearized, self.autocast)

    def _supervised(
        self, pretrained: nn.Module, vectors: Any, data: Mapping[str, Pair], validation: Mapping[str, Pair] | None,
        heads: Mapping[str, nn.Module] | None, augment: Map | None, progress: Progress | None,
    ) -> nn.Module:  # fmt: skip
        instance_of("augment", Callable, wanted="a callable that changes inputs")(augment)
        with self._refit(), isolated(derive(self.seed, "compose")):
            c = self._start(pretrained, vectors)
            frozen = {
                name: copy.deepcopy(heads[name]).to(self._device).requires_grad_(False).eval() if heads else same
                for name in data
            }

            def read(pairs: Mapping[str, Pair], what: str = "") -> dict[str, tuple[Tensor, Tensor]]:
                return {n: c.read(*pair_of(p, f"{what}{n}"), f"{what}{n}", frozen[n]) for n, p in pairs.items()}

            sets = read(data)
            for name, (_, places) in sets.items():
                if len(places.unique()) < 2:
                    warnings.warn(f"All labels of {name} are {int(places[0])}: that answer is learned", stacklevel=3)
            held = sets if validation is data else read(validation or {}, "validation ")
            n = self._n_batches(list(sets.values()))
            draws = {name: rows_of(len(pair[1]), max(1, self.batch_size // len(sets))) for name, pair in sets.items()}

            def losses(rows: Mapping[str, Tensor]) -> Tensor:
                theta = c.theta()
                each = [c.loss(theta, *sets[n], rows[n], frozen[n], augment or same) for n in sets]
                return torch.stack(each).sum() + self._penalty(c)

            best = {name: c.alone(name, *pair, frozen[name]) for name, pair in held.items()}

            def score() -> float:
                return sum(c.accuracy(*pair, frozen[name]) / best[name] for name, pair in held.items()) / len(held)

            step = self._steps(c, lambda _: {name: next(draw) for name, draw in draws.items()}, losses, n, 0.1)
            select = {"select": score, "select_every": n} if held else {}
            self.losses_ = step(n * self.epochs, progress=progress, **select)
            return self._finish(c, pretrained)

    def _n_batches(self, sets: list[tuple[Tensor, Tensor]]) -> int:
        share = max(1, self.batch_size // len(sets))
        return max(self.min_batches, min(-(-len(pair[1]) // share) for pair in sets))

    def _steps(self, c: Composition, draw: Any, losses: Any, n: int, lr: float) -> Callable[..., list[float]]:
        """Choose among the vectors where there is a budget, and return what makes steps of AdamW."""
        if self.budget is not None and self.budget < len(c.names):
            if self.selection == "random":
                first = torch.randperm(len(c.names))[: self.budget].sort().values
            else:
                for step in range(n):
                    losses(draw(step)).backward()
                sizes = c.lambda_.grad.abs().sum(2)  # type: ignore[union-attr] # (n, m)
                sizes = sizes if self.selection == "block" else sizes.sum(1, keepdim=True)
                first = sizes.topk(self.budget, dim=0).indices.cpu()  # (b, m) or (b, 1)
            c.choose(first.view(self.budget, -1).expand(-1, len(c.blocks)))
        rate = lr if isinstance(self.lr, str) else self.lr
        adamw = torch.optim.AdamW(c.parameters(), lr=rate, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adamw, n * self.epochs)
        return lambda steps, **more: train(
            c, draw, losses, steps=steps, optimizer=adamw, schedule=schedule, max_grad_norm=self.max_grad_norm,
            stage="the coefficients", **more,
        )  # fmt: skip

    def _penalty(self, c: Composition) -> Any:
        return self.penalty * c.lambda_.norm(self.norm, dim=0).mean() if self.penalty else 0.0

    def _entropy(self, c: Composition, x: Tensor, rows: Tensor) -> Tensor:
        log_p = c.logits(c.theta(), x[rows]).log_softmax(1)
        return -(log_p.exp() * log_p).sum(1).mean() + self._penalty(c)

    def _pseudo_labels(self, c: Composition, strong: Map, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Unsupervised FixMatch: the mean cross-entropy of strong views, over sure and over trusted rows."""
        untrusted, trusted, labels = batch
        theta, s = c.theta(), self.adaptation
        with torch.no_grad():
            p = c.logits({name: value.detach() for name, value in theta.items()}, untrusted).softmax(1)  # weak view
            target = (p.log() / s.temperature).softmax(1)
            w = torch.cat([(p.amax(1) > s.threshold).to(p), torch.ones(len(labels)).to(p)])
        target = torch.cat([target, F.one_hot(labels, p.shape[1]).to(p)])
        log_p = c.logits(theta, strong(torch.cat([untrusted, trusted]))).log_softmax(1)
        return -(w * (target * log_p).sum(1)).sum() / w.sum() + self._penalty(c)

    def _noise(self, x: Tensor) -> Map:
        s = self.adaptation
        deviation = float(x.std()) if x.is_floating_point() and len(x) > 1 else 0.0
        if s.noise * deviation == 0 and s.temperature >= 1:
            raise ValueError(
                "both views of an input are the same, and nothing is to be learned from that: give augment=, or set "
                "adaptation.temperature below 1"
            )
        return lambda batch: batch + s.noise * deviation * torch.randn_like(batch) if deviation else batch

    def _finish(self, c: Composition, pretrained: nn.Module) -> nn.Module:
        self.coef_, self.vectors_, self.blocks_ = c.coefficients(), c.names, list(c.blocks)
        self.n_coefficients_ = c.lambda_.numel()
        self._keep_shape()
        return c.materialised(pretrained)


def _module(pretrained: Any) -> nn.Module:
    instance_of("pretrained", nn.Module, optional=False, wanted="a torch.nn.Module")(pretrained)
    return pretrained
