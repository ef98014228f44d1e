"""Files that are there whole or not at all, or can be read to an end, and temporary folders that no kill leaves."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anytask.core.errors import BadData, instance_of, one_line, shown

try:
    import fcntl
except ImportError:  # Windows, where a killed process leaves its folders
    fcntl = None  # type: ignore[assignment]

_LOCK = "in-use"


def as_path(value: Any, name: str = "path") -> Path:
    """Return what names a file or folder as a path, or say that it names none.

    Examples
    --------
    >>> as_path(3, "folder")
    Traceback (most recent call last):
        ...
    TypeError: folder must be the name of a file or folder, got 3
    """
    instance_of(name, str, os.PathLike, optional=False, wanted="the name of a file or folder")(value)
    path = Path(value)
    try:
        held = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        held = False
    if not held:
        raise ValueError(f"{name} holds a character that no name of a file has: {shown(value)}")
    return path


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
    path = as_path(path)
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
        status = os.stat(as_path(path))
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


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a place for a new file or folder, and put what was written there in the place of ``path``.

    On Linux that is one step: whenever a process is killed, ``path`` is the old one or the new one, whole. Elsewhere a
    folder takes two, and one killed between them leaves the old folder beside it, as ``<name>.old-<letters>``.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for text in ("old", "new"):
    ...         with replacing(Path(folder) / "model") as place:
    ...             place.mkdir()
    ...             _ = (place / "a.txt").write_text(text)
    ...     os.listdir(folder), (Path(folder) / "model" / "a.txt").read_text()
    (['model'], 'new')
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(f".{path.name}-", path.parent) as temporary:
        new = temporary / "new"
        yield new
        if not path.is_dir():
            os.replace(new, path)
        elif not _exchanged(new, path):
            aside = Path(tempfile.mkdtemp(prefix=f"{path.name}.old-", dir=path.parent))
            kept = aside / path.name
            try:
                os.replace(path, kept)
                os.replace(new, path)
            except BaseException:
                if kept.exists():
                    os.replace(kept, path)
                aside.rmdir()
                raise
            shutil.rmtree(aside, ignore_errors=True)


def _exchanged(a: Path, b: Path) -> bool:
    """Swap two folders in one step, where the system can."""
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return swap(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0
