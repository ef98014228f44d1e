"""Stages of a long training on disk: what is finished is not repeated, what was cut off goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anytask.core.persistence import load_tree, save_tree

if TYPE_CHECKING:
    from anytask.datasets.episodes import Episodes


class StageRecord:
    """One stage's folder inside a checkpoint; without a checkpoint it does nothing.

    Parameters
    ----------
    checkpoint : path or None
    number : int
        Which stage of the training this is.
    name : str
    fingerprint : str
        What the stage depends on: its data and settings.
    every : int
        Save each time this many steps were done.

    Raises
    ------
    ValueError
        If the folder holds a stage of another name or of other data.
    """

    def __init__(
        self, checkpoint: str | os.PathLike[str] | None, number: int, name: str, fingerprint: str, every: int
    ) -> None:
        if every < 1:
            raise ValueError(f"checkpoint_every must be at least 1, got {every}")
        self.folder = None if checkpoint is None else Path(checkpoint) / f"{number:02d}-{name}"
        self.name, self.fingerprint, self.every = name, fingerprint, every
        self.finished, self.partial = None, None
        if checkpoint is None or self.folder is None:
            return
        for other in Path(checkpoint).glob(f"{number:02d}-*"):
            if other != self.folder:
                raise ValueError(f"{checkpoint}: stage {number} is {other.name[3:]!r} there, and {name!r} here")
        if (self.folder / "state.json").is_file():
            saved = load_tree(self.folder)
            if saved["fingerprint"] != fingerprint:
                raise ValueError(f"{self.folder} was made with other data or settings; choose a new checkpoint folder")
            key = "finished" if saved["finished"] else "partial"
            setattr(self, key, saved["state"])

    finished: dict[str, Any] | None
    partial: dict[str, Any] | None

    def due(self, step: int) -> bool:
        """Whether to save after ``step`` steps."""
        return self.folder is not None and step % self.every == 0

    def save(self, state: dict[str, Any], finished: bool = False) -> None:
        """Write the stage's state."""
        if self.folder is not None:
            save_tree(self.folder, {"fingerprint": self.fingerprint, "finished": finished, "state": state})


def kept(make: Callable[[], Episodes], path: Path | None) -> Episodes:
    """Return the episodes in the file ``path``; where there is none, those of ``make()``, which are put there."""
    from anytask.datasets.episode_files import load_episodes, save_episodes

    if path is not None and path.is_file():
        return load_episodes(path)
    episodes = make()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_episodes(path, episodes)
    return episodes
