"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` to ``path`` in one step: whatever happens, the file is the old one or the new one.

    Raises
    ------
    OSError
        If it cannot be written; nothing is left behind.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_whole(Path(folder) / "a.txt", "new")
    ...     os.listdir(folder)
    ['a.txt']
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)  # as an ordinary new file; mkstemp makes it private
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def cache_folder(*names: str) -> Path:
    """Return a folder below the user's cache, made where it is not there.

    ``$ANYTASK_CACHE`` names the cache; else it is ``anytask`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    Raises
    ------
    OSError
        If the folder cannot be made.
    """
    given = os.environ.get("ANYTASK_CACHE")
    above = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = (Path(given) if given else Path(above) / "anytask").expanduser().joinpath(*names)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
