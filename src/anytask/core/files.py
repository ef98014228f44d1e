"""Files that are there whole or not at all, or can be read to an end, and temporary folders that no kill leaves."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from anytask.core.errors import BadData, one_line

try:
    import fcntl
except ImportError:  # Windows, where a killed process leaves its folders
    fcntl = None  # type: ignore[assignment]

_LOCK = "in-use"


def write_whole(path: str | os.PathLike[str], data: str | bytes) -> None:
    """Write ``data`` to ``path`` in one step: whatever happens, the file is the old one or the new one.

    Raises
    ------
    OSError
        If it cannot be written, naming the file; nothing is left behind.

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
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(f"{path} cannot be written: {error.strerror or error}") from error
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


@contextlib.contextmanager
def scratch_folder(prefix: str, parent: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """Make a temporary folder, and first remove those of this user and prefix whose process was killed.

    Each holds a locked file, and the system frees the lock of a process that ends, however it ends.

    Parameters
    ----------
    prefix : str
        What the folder's name begins with.
    parent : path, optional
        Where it is made; default: where temporary files belong.

    Examples
    --------
    >>> with scratch_folder("anytask-") as folder:
    ...     folder.is_dir()
    True
    >>> folder.exists()
    False
    """
    parent = Path(tempfile.gettempdir() if parent is None else parent)
    if fcntl is not None:
        for lock in parent.glob(f"{glob.escape(prefix)}*/{_LOCK}"):
            _remove_if_free(lock)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        with (folder / f"{_LOCK}.new").open("w") as held:
            if fcntl is not None:
                fcntl.flock(held, fcntl.LOCK_EX)
                (folder / f"{_LOCK}.new").rename(folder / _LOCK)  # only now may others look at it
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_if_free(lock: Path) -> None:
    with contextlib.suppress(OSError):  # in use, another user's, or just gone
        if lock.parent.lstat().st_uid == os.getuid() and not lock.parent.is_symlink():
            with lock.open("a") as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent)
