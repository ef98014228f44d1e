"""The data of model composition: a base model, fine-tuned versions of it, and labelled rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from anytask.core.errors import BadData, brief
from anytask.core.files import as_path
from anytask.core.rng import derive, isolated
from anytask.core.settings import choice, text, whole
from anytask.datasets.labelled import LabelledData, load_labelled
from anytask.models.build import build_backbone
from anytask.problems.options import Options, listed
from anytask.problems.training import Builtin, LoadedData

#: What makes a domain of images (n, side, side) in [0, 1].
DOMAINS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "rot90": lambda x: x.rot90(1, (1, 2)), "rot180": lambda x: x.rot90(2, (1, 2)), "inverted": lambda x: 1 - x,
    "flipped": lambda x: x.flip(2), "shifted": lambda x: x.roll(2, 2), "thresholded": lambda x: (x > 0.5).float(),
}  # fmt: skip
#: Built-in worlds, and the images of which they are made.
WORLDS = {"digits-domains": "digits-images", "mnist-domains": "mnist-5k"}
TASKS = ("few-labels", "addition", "negation", "test-time")


class CompositionOptions(Options):
    """What is to be composed, from what."""

    read_only: ClassVar[tuple[str, ...]] = ("target",)

    task: str = choice(
        "few-labels", TASKS, "a new domain with few labels; several domains at once; a domain to fail on; no labels"
    )
    shots: int = whole(1, "few-labels: labelled rows of each class")
    unseen: str = text("rot180+inverted", "built-in worlds: the domain that is adapted to or failed on")
    domains: tuple[str, ...] | None = listed("addition: the domains (default rot180,inverted,flipped,shifted)")
    hidden: int = whole(64, "built-in worlds: width of the network")
    rows: int = whole(1000, "built-in worlds: rows that models are trained on", at_least=20)
    steps: int = whole(150, "built-in worlds: steps of fine-tuning")
    network: str | None = text(None, "folders: a named network; a perceptron unless given", optional=True)
    target: str | None = text(None, "folders: column of the labels", optional=True)

    def _check_settings(self) -> None:
        for name in (*self.unseen.split("+"), *(self.domains or ())):
            if name not in DOMAINS:
                raise ValueError(f"there is no domain {name!r}; domains: {', '.join(DOMAINS)}, joined by +")


@dataclass(frozen=True)
class World:
    """What one seed shows.

    Attributes
    ----------
    pretrained : torch.nn.Module
    vectors : mapping of str to vector
    shown, tested : mapping of str to (X, y)
        By domain; one domain but for addition.
    fine : mapping of str to float
        Accuracy of the model that was fine-tuned for each domain, where there is one.
    control : ((X, y), (X, y)) or None
        Of the domain that the model was trained on, for learning and for the test.
    """

    pretrained: nn.Module
    vectors: Mapping[str, Any]
    shown: Mapping[str, tuple[Tensor, Tensor]]
    tested: Mapping[str, tuple[Tensor, Tensor]]
    fine: Mapping[str, float]
    control: tuple[Any, Any] | None = None


@dataclass(frozen=True)
class Bank:
    """A folder of checkpoints, with labelled rows."""

    name: str
    pretrained: nn.Module
    vectors: Mapping[str, Any]
    labelled: LabelledData

    @property
    def fingerprint(self) -> str:
        """Hash of all weights and rows."""
        states = [self.pretrained.state_dict(), *self.vectors.values()]
        digest = hashlib.sha256(self.labelled.fingerprint.encode())
        for state in states:
            for name, value in state.items():
                digest.update(name.encode() + value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:32]

    def shown(self, o: CompositionOptions, seed: int) -> World:
        """Return a few labelled rows of each class, and all others to test on."""
        y = torch.from_numpy(np.unique(self.labelled.y, return_inverse=True)[1])
        order = torch.from_numpy(np.random.default_rng(derive(seed, "rows")).permutation(len(y)))
        few = torch.cat([order[y[order] == c][: o.shots] for c in y.unique()])
        test = order[~torch.isin(order, few)]
        pairs = [(torch.as_tensor(np.asarray(self.labelled.X[rows.numpy()])), y[rows]) for rows in (few, test)]
        return World(self.pretrained, self.vectors, {"rows": pairs[0]}, {"rows": pairs[1]}, {})


@dataclass(frozen=True)
class CompositionData(LoadedData):
    """A world, or a folder, and the options."""

    def instance(self, seed: int) -> World:
        """Return what one seed shows."""
        o = self.options
        if isinstance(self.source, Bank):
            return self.source.shown(o, seed)
        X, y = _images(WORLDS[self.source.name])
        order = torch.from_numpy(np.random.default_rng(derive(seed, "domains")).permutation(len(X)))
        rest = order[o.rows :]
        val, test = rest.split([len(rest) * 3 // 8, len(rest) - len(rest) * 3 // 8])
        names = o.domains or ("rot180", "inverted", "flipped", "shifted") if o.task == "addition" else (o.unseen,)
        key = (WORLDS[self.source.name], o.hidden, o.rows, o.steps, seed)

        def of(name: str, rows: Tensor) -> tuple[Tensor, Tensor]:
            return changed(X[rows], name), y[rows]

        tested = {name: of(name, test) for name in names}
        fine = {name: accuracy(_trained(*key, name), *tested[name]) for name in names}
        if o.task in ("addition", "negation"):
            used: Any = names
            shown = {name: of(name, val) for name in names}
        else:
            used = [name for name in DOMAINS if name not in names]
            few = torch.cat([val[y[val] == c][: o.shots] for c in y.unique()])
            shown = {name: of(name, few) for name in names}
        control = (of("", val), of("", test)) if o.task == "negation" else None
        vectors = {name: _trained(*key, name) for name in used}
        return World(_trained(*key), vectors, shown, tested, fine, control)

    def facts(self) -> dict[str, Any]:
        """Return the vectors and the rows of a folder."""
        if not isinstance(self.source, Bank):
            return {}
        return {"vectors": list(self.source.vectors), "rows": len(self.source.labelled.y)}


def read(source: Any, options: CompositionOptions) -> CompositionData:
    """Return a built-in world, or a folder with ``base.safetensors``, other checkpoints and ``labelled.csv``."""
    if isinstance(source, str) and source in WORLDS:
        n = len(_images(WORLDS[source])[1])
        if options.rows > n - 200:
            raise BadData(f"{source}: rows={options.rows} leaves fewer than 200 of {n} to show and to test on")
        return CompositionData(Builtin(source), options)
    folder = as_path(source, "the source")
    rows, base = sorted(folder.glob("labelled.*")), folder / "base.safetensors"
    files = [file for file in sorted(folder.glob("*.safetensors")) if file != base]
    if not base.is_file() or not files or len(rows) != 1:
        raise BadData(
            f"{folder}: wanted are one of {', '.join(WORLDS)}, or a folder with base.safetensors, one or more other "
            "checkpoints *.safetensors, and a file labelled.csv, .parquet or .npz"
        )
    if options.task not in ("few-labels", "test-time"):
        raise BadData(f"{folder}: task={options.task} needs labelled rows of several tasks: use few-labels, test-time")
    labelled = load_labelled(rows[0], options.target)
    counts = np.unique(labelled.y, return_counts=True)[1]
    if counts.min() <= options.shots:
        raise BadData(f"{rows[0]}: a class has {counts.min()} rows, and shots={options.shots} leaves none to test on")
    from anytask.multitask import TaskVector
    from anytask.multitask.parts.task_vectors import aligned

    try:
        state = _checkpoint(base)
        hidden = [len(value) for value in state.values() if value.dim() == 2][:-1]
        pretrained = build_backbone(options.network, labelled.input_shape, len(counts), seed=0, hidden=hidden)
        pretrained.load_state_dict(state)
        vectors = {file.stem: TaskVector.between(pretrained, _checkpoint(file)) for file in files}
        aligned(pretrained, vectors)
    except (RuntimeError, ValueError) as error:
        raise error if isinstance(error, BadData) else BadData(f"{folder}: {brief(str(error), 300)}") from error
    return CompositionData(Bank(folder.name, pretrained.eval(), vectors, labelled), options)


def changed(X: Tensor, domain: str) -> Tensor:
    """Return images (n, side, side) as inputs (n, 1, side, side) of a domain: changes joined by +, none if empty."""
    for name in filter(None, domain.split("+")):
        X = DOMAINS[name](X)
    return X.unsqueeze(1)


@torch.no_grad()
def accuracy(model: nn.Module, X: Tensor, y: Tensor) -> float:
    """Return the share of right answers."""
    device = next(model.parameters()).device
    answers = torch.cat([model.eval()(part.to(device)).argmax(1).cpu() for part in X.split(512)])
    return float((answers == y).float().mean())


def _checkpoint(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except Exception as error:
        raise BadData(f"{file}: no safetensors file can be read there: {brief(str(error), 100)}") from error


@lru_cache(maxsize=2)
def _images(name: str) -> tuple[Tensor, Tensor]:
    """Return images (n, side, side) in [0, 1] and labels (n,)."""
    plain = load_labelled(name)
    images = torch.as_tensor(np.asarray(plain.X[np.arange(len(plain.y))]), dtype=torch.float32)[:, 0]
    return images / images.max(), torch.as_tensor(plain.y)


@lru_cache(maxsize=256)
def _trained(name: str, hidden: int, n: int, steps: int, seed: int, domain: str = "") -> nn.Module:
    """Return a model trained on n upright images, or a version of it whose encoder is fine-tuned for a domain."""
    from anytask.multitask.merging import FineTuned

    X, y = _images(name)
    rows = torch.from_numpy(np.random.default_rng(derive(seed, "domains")).permutation(len(X)))[:n]
    if domain:
        given, how = _trained(name, hidden, n, steps, seed), FineTuned(part="body", steps=steps, seed=seed)
    else:
        widths, how = [X[0].numel(), hidden, hidden, hidden], FineTuned(steps=250, seed=seed)
        with isolated(derive(seed, "network")):
            layers = [(nn.Linear(a, b), nn.LayerNorm(b), nn.GELU()) for a, b in pairwise(widths)]
            body = [layer for three in layers for layer in three]
            given = nn.Sequential(nn.Flatten(), *body, nn.Linear(hidden, 32), nn.Linear(32, 10))
    return how.set_params(device="cpu").compose(given, {}, changed(X[rows], domain), y[rows])
