"""A training on disk: what is finished is not repeated, and what was cut off goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from anytask.core.checks import check_counts
from anytask.core.estimator import Estimator, class_name, param_to_json
from anytask.core.files import as_path
from anytask.core.persistence import load_tree, save_tree
from anytask.core.progress import Progress


class Checkpoint:
    """The folder of one training; without a folder it does nothing.

    Parameters
    ----------
    folder : path or None
    training : mapping
        What tells this training from others (class, parameters, data), as JSON and arrays.
    every : int
        Steps between two saves.
    device : torch.device
        Where tensors that are read are placed.

    Attributes
    ----------
    found : dict or None
        What an earlier run of the same training left: what it gave to :meth:`save`.

    Raises
    ------
    ValueError
        If the folder holds another training or a model without one.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> Checkpoint(folder, {"data": "a"}).save(count=3)
    >>> Checkpoint(folder, {"data": "a"}).found["count"]
    3
    >>> Checkpoint(folder, {"data": "b"})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: the checkpoint in ... belongs to another training: its data differs
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        training: Mapping[str, Any],
        every: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        check_counts(checkpoint_every=every)
        self.folder = None if folder is None else as_path(folder, "checkpoint")
        self.training, self.every = dict(training), every
        self.found: dict[str, Any] | None = None
        if self.folder is None or not (self.folder / "state.json").is_file():
            return
        self.found = load_tree(self.folder, device)
        if "checkpoint" not in self.found:
            raise ValueError(f"{folder} holds a saved model and no checkpoint: load it, and train on")
        for name, value in self.training.items():
            if _text(self.found.get(name)) != _text(value):
                raise ValueError(f"the checkpoint in {folder} belongs to another training: its {name} differs")

    def save(self, **state: Any) -> None:
        """Write the state of the training; complete, or not at all."""
        if self.folder is not None:
            save_tree(self.folder, {**self.training, "checkpoint": True, **state})

    def due(self, step: int, last: bool = False) -> bool:
        """Whether to save after ``step`` steps."""
        return self.folder is not None and (last or step % self.every == 0)

    def resume(self, moving: Mapping[str, Any]) -> int:
        """Put ``moving`` into the state that :meth:`steps` or :meth:`keep` saved; return the steps done, or 0."""
        if self.found is None:
            return 0
        for name, thing in moving.items():
            thing.load_state_dict(self.found["moving"][name])
        return int(self.found["step"])

    def keep(self, step: int, moving: Mapping[str, Any], **more: Any) -> None:
        """Save what moves (modules, optimizers, anything with a ``state_dict``) after ``step`` steps."""
        self.save(step=step, moving={name: thing.state_dict() for name, thing in moving.items()}, **more)

    def steps(self, total: int, moving: Mapping[str, Any], progress: Progress) -> Iterator[int]:
        """Yield the steps that are still to do, save what moves every so often, and tell the progress."""
        for step in range(self.resume(moving), total):
            yield step
            if self.due(step + 1) and step + 1 < total:
                self.keep(step + 1, moving)
            progress((step + 1) / total)


def training_of(model: Estimator, *, leave_out: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """Return what tells a model's training from others: class, settings (but for the device), and ``more``."""
    names = [name for name in model._param_names() if name not in ("device", *leave_out)]
    params = {name: param_to_json(getattr(model, name)) for name in names}
    return {"class": class_name(type(model)), "params": params, **more}


def _text(value: Any) -> str:
    # A list and a tuple of the same values are the same.
    return json.dumps(value, sort_keys=True, default=lambda v: v.tolist())
