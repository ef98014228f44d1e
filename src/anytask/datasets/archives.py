"""Archives and images whose declared size is known, and fits into memory, before any of it is unpacked.

A file of two megabytes can hold seven gigabytes: of zeros in a compressed array, of one text that a dictionary repeats,
of pixels in one color. What a file declares is compared with :func:`anytask.core.memory.max_bytes` first.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from anytask.core.errors import BadData, one_line
from anytask.core.files import require_regular
from anytask.core.memory import require_room

#: What may be decoded; Pillow reads others too, some of them with programs of their own.
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4}


class Header(NamedTuple):
    """What an array in the .npy format declares; its values start ``start`` bytes after its first one."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    start: int

    @property
    def nbytes(self) -> int:
        """Bytes of all values in the file."""
        return self.dtype.itemsize * math.prod(self.shape)

    @property
    def room(self) -> int:
        """Bytes of all values in memory, and of a copy in single precision."""
        return self.nbytes + 4 * math.prod(self.shape)

    @classmethod
    def read(cls, file: IO[bytes]) -> Header:
        """Read the header with which a file starts."""
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return cls(*read(file), file.tell())


class Npz:
    """An open .npz file.

    Attributes
    ----------
    arrays : dict of str to zipfile.ZipInfo
        Its arrays by name.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self._archive = path, archive
        found = {info.filename: info for info in archive.infolist()}
        self.arrays = {name.removesuffix(".npy"): info for name, info in found.items() if name.endswith(".npy")}

    def header(self, name: str) -> Header:
        """Return what an array declares, once the archive says the same."""
        with self._archive.open(self.arrays[name]) as file:
            header = Header.read(file)
        held = self.arrays[name].file_size - header.start
        if header.nbytes != held and not header.dtype.hasobject:
            raise BadData(
                f"{self.path}: the array {name!r} holds {held} bytes, and its header says {header.dtype} of shape "
                f"{header.shape}"
            )
        return header

    def read(self, *names: str) -> list[np.ndarray]:
        """Return arrays, if all of them together fit into memory."""
        require_room(self.path, sum(self.header(name).room for name in names))
        out = []
        for name in names:
            with self._archive.open(self.arrays[name]) as file:
                out.append(np.lib.format.read_array(file, allow_pickle=False))
        return out

    def offset(self, name: str) -> int | None:
        """Return where the array starts in the file, its checksum compared; None if it is compressed."""
        info = self.arrays[name]
        if info.compress_type != zipfile.ZIP_STORED:
            return None
        try:
            with self._archive.open(info) as file:
                while file.read(1 << 24):
                    pass
        except zipfile.BadZipFile as error:
            raise BadData(f"{self.path}: the array {name!r} is damaged (its checksum is wrong)") from error
        with open(self.path, "rb") as raw:
            # An entry's local header is 30 bytes, a name and an extra field whose lengths stand at bytes 26 to 29.
            raw.seek(info.header_offset + 26)
            lengths = np.frombuffer(raw.read(4), "<u2")
        return info.header_offset + 30 + int(lengths.sum())


@contextmanager
def opened_npz(path: Path) -> Iterator[Npz]:
    """Open a .npz file for reading.

    Raises
    ------
    BadData
        If it is no such file, an array of it is damaged, or what is read declares more than fits into memory.
    """
    require_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            yield Npz(path, archive)
    except BadData:
        raise
    except Exception as error:
        why = one_line(error) if zipfile.is_zipfile(path) else "np.savez writes one"
        raise BadData(f"{path}: not a readable .npz file ({why})") from error


@contextmanager
def opened_parquet(path: Path) -> Iterator[Any]:
    """Open a .parquet file, a :class:`pyarrow.parquet.ParquetFile`, whose columns as declared fit into memory."""
    import pyarrow.parquet as pq

    require_regular(path)
    try:
        file = pq.ParquetFile(path)
    except Exception as error:
        raise BadData(f"{path}: not a readable .parquet file ({one_line(error)})") from error
    with file:
        require_room(path, _declared(file))
        yield file


def parquet_batches(path: Path, file: Any, columns: list[str] | None = None) -> Iterator[Any]:
    """Give the record batches of an open file, as long as all of them together fit into memory.

    No file declares how long its texts are written out. They are read as dictionaries first, which hold once what a
    million rows repeat; those that are stored as what differs from the text before are read in short batches.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    texts = [i for i in range(len(file.schema)) if file.schema.column(i).physical_type == "BYTE_ARRAY"]
    delta = {"DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"}
    differences = {i for i in texts for group in groups if delta & set(group.column(i).encodings)}
    packed = [file.schema.column(i).path for i in texts if i not in differences]
    total = 0
    with pq.ParquetFile(path, metadata=file.metadata, read_dictionary=packed) as again:
        for batch in again.iter_batches(columns=columns, batch_size=1 << (10 if differences else 16)):
            total += sum(map(_written_out, batch.columns))
            require_room(path, total)
            fields = [file.schema_arrow.field(name) for name in batch.schema.names]
            arrays = [column.cast(field.type) for column, field in zip(batch.columns, fields)]
            yield pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


@contextmanager
def opened_image(source: str | os.PathLike[str] | BinaryIO, where: object, pixel_bytes: int = 16) -> Iterator[Any]:
    """Open an image, a :class:`PIL.Image.Image`, whose pixels fit into memory.

    Parameters
    ----------
    source : path or binary file
    where : object
        Its place, for messages.
    pixel_bytes : int, default 16
        What is kept per pixel: four float32 channels, or those of all images of this size.

    Raises
    ------
    BadData
        If it is too large, or cannot be decoded, in the block too.
    """
    if isinstance(source, (str, os.PathLike)):
        require_regular(source)
    try:
        with Image.open(source, formats=IMAGE_FORMATS) as image:
            width, height = image.size
            require_room(f"{where}: an image of {height}x{width} pixels", pixel_bytes * width * height)
            yield image
    except BadData:
        raise
    except Exception as error:
        raise BadData(f"{where}: not a readable image ({one_line(error)})") from error


def _declared(file: Any) -> int:
    """Return the bytes of all columns: of numbers from their count, of texts as the file keeps them."""
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    total = 0
    for i in range(len(file.schema)):
        leaf = file.schema.column(i)
        width = _WIDTHS.get(leaf.physical_type, 8) if not leaf.length else leaf.length
        chunks = [group.column(i) for group in groups]
        total += sum(max(chunk.num_values * width, chunk.total_uncompressed_size) for chunk in chunks)
    return total


def _written_out(array: Any) -> int:
    """Return the bytes of an Arrow array without its dictionaries."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type):
        return pc.sum(pc.binary_length(array.dictionary).take(array.indices)).as_py() or 0
    if pa.types.is_struct(array.type):
        return sum(map(_written_out, array.flatten()))
    if pa.types.is_map(array.type):
        return _written_out(array.keys) + _written_out(array.items)
    return _written_out(array.flatten()) if pa.types.is_nested(array.type) else array.nbytes
