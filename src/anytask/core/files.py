"""Files that are there whole or not at all, and that can be read to an end."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from anytask.core.errors import BadData, one_line


def write_whole(path: str | os.PathLike[str], data: str | bytes) -> None:
    """Write ``data`` to ``path`` in one step: whatever happens, the file is the old one or the new one.

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
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
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


def require_regular(path: str | os.PathLike[str]) -> int:
    """Return the size of a file in bytes; refuse a named pipe or a device, of which reading may never end.

    Raises
    ------
    BadData
        If it is no regular file, or nothing is there.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise BadData(f"{path}: cannot be read ({one_line(error)})") from error
    if not stat.S_ISREG(status.st_mode):
        raise BadData(f"{path}: not a regular file")
    return status.st_size
