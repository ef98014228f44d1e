"""Labelled data, texts and episodes by name or by file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

__all__ = ["load"]


def load(source: Any, **options: Any) -> Any:
    """Load data by a built-in name, or from a file, a folder or arrays.

    Parameters
    ----------
    source : str, path or arrays
        ``"reviews"``, ``"customer-intents"``, ``"topics"``, and ``.jsonl`` and ``.tsv`` files are texts;
        ``"skills-jobs"`` is a graph; ``.hdf5`` files and folders with ``data/`` are episodes; everything else is
        labelled data: a name such as ``"digits"`` or ``"mnist-5k"``, a table, arrays, or a folder of images.
    **options
        For :func:`~anytask.datasets.text.load_text`, :func:`~anytask.datasets.episode_files.load_episodes` or
        :func:`~anytask.datasets.labelled.load_labelled`.

    Examples
    --------
    >>> load("iris").X.shape, len(load("reviews")), len(load("skills-jobs").skills)
    ((150, 4), 320, 114)
    """
    from anytask.datasets.text_sets import TEXT_SETS, skills_jobs

    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if str(source) == "skills-jobs":
            return skills_jobs(**options)
        if str(source) in TEXT_SETS or path.suffix.lower() in (".jsonl", ".ndjson", ".tsv"):
            from anytask.datasets.text import load_text

            return load_text(source, **options)
        if path.suffix.lower() in (".hdf5", ".h5") or (path / "data").is_dir():
            from anytask.datasets.episode_files import load_episodes

            return load_episodes(path, **options)
    from anytask.datasets.labelled import load_labelled

    return load_labelled(source, **options)
