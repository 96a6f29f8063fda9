"""Bounds what the index of a checkpoint's arrays unpacks to, before TensorStore reads it. The index is a B+tree of keys and
values (TensorStore's OCDBT format): its nodes are compressed, keys share prefixes, and keys may share values and nodes."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from hyperseg_jax.untrusted import stores, strict_json
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.checkpoints import LARGEST, AnyPath, is_remote
from hyperseg_jax.untrusted.printing import escaped

FILE = "manifest.ocdbt"
MANIFEST, NODE = 0x0CDB3A2A, 0x0CDB20DE
"""The first four bytes of the manifest and of a node."""
UNPACKED = 2**27
"""Maximum bytes of the unpacked nodes and keys, in addition to those of the arrays, which may be in the nodes."""
ENTRY = 64
"""Bytes that each entry of a node needs besides its key and value."""
NODES, ENTRIES = 10_000, 2**20
"""Maximum number of nodes, and of entries of a node. A node of Orbax has up to 100 MB."""
DATA_FILE = re.compile(r"(ocdbt\.process_\w{1,64}/)?d/[0-9a-f]{1,64}", re.ASCII)
PIECE = 2**20
"""Bytes that are unpacked at once."""
Place = tuple[str, int, int]
"""File, offset and length of a node."""


def check_index(folder: AnyPath, expected: int, stored: int) -> None:
    """Raises BadFile if the index of a part is damaged or unpacks to far more than `expected` bytes, the size of its arrays, or
    if the values of its keys, where each key counts, have more than `stored` bytes. OSError."""
    read = stores.read_contents if is_remote(folder) else strict_json.read_bytes
    index = _Index(expected + UNPACKED)
    places, values, visited = [_find_root(index, read(folder / FILE, LARGEST))], 0, 0
    while places:
        visited += 1
        children, size = _read_node(index, _read_bytes(folder, places.pop()))
        places += children
        values += size
        if visited + len(places) > NODES:
            raise BadFile(f"its index has more than {NODES} nodes")
        if values > stored:
            raise BadFile("its index has far more bytes of values than its arrays")


def _read_bytes(folder: AnyPath, place: Place) -> bytes:
    name, offset, length = place
    if not DATA_FILE.fullmatch(name) or length > LARGEST or offset >= 2**62:
        raise BadFile(f"its index has a node at {offset} of {escaped(name)}, with {length} bytes")
    with (folder / name).open("rb") as file:
        file.seek(offset)
        data: bytes = file.read(length)
    return data


class _Index:
    """room: bytes that may still be unpacked."""

    def __init__(self, room: int) -> None:
        self.room = room

    def charge(self, count: int) -> None:
        """Counts unpacked bytes. Raises BadFile if there are too many."""
        self.room -= count
        if self.room < 0:
            raise BadFile("its index unpacks to far more bytes than its arrays")

    def unpack(self, data: bytes, magic: int) -> _Fields:
        """Returns the body of the manifest or of a node."""
        header = int.from_bytes(data[:4], "big"), int.from_bytes(data[4:12], "little")
        if len(data) < 18 or header != (magic, len(data)):
            raise BadFile("its index is damaged")
        fields = _Fields(data[12:-4])  # without the checksum
        version, compression = fields.numbers(2).tolist()
        if version or compression > 1:
            raise BadFile("its index has an unsupported version")
        body = fields.take(len(fields.data) - fields.at)
        if compression:
            return _Fields(self._decompress(body))
        self.charge(len(body))
        return _Fields(body)

    def _decompress(self, data: bytes) -> bytes:
        import pyarrow

        pieces = []
        try:
            with pyarrow.CompressedInputStream(pyarrow.BufferReader(data), "zstd") as stream:
                while piece := stream.read(PIECE):
                    self.charge(len(piece))
                    pieces.append(piece)
        except (OSError, pyarrow.ArrowException) as error:
            raise BadFile("its index is damaged") from error
        return b"".join(pieces)


class _Fields:
    """Reads the fields of an unpacked body. Raises BadFile where it ends too early."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise BadFile("its index is damaged")
        self.at += count
        return self.data[self.at - count : self.at]

    def numbers(self, count: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """Reads integers of seven bits per byte, the lowest first; the highest bit says whether another byte follows."""
        window = np.frombuffer(self.data[self.at : self.at + 10 * count], np.uint8)
        ends = np.flatnonzero(window < 128)[:count]
        starts = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
        width = int((ends - starts).max(initial=0)) + 1
        if len(ends) < count or width > 10:
            raise BadFile("its index is damaged")
        values = np.zeros(count, np.uint64)
        for k in range(width):
            inside = starts + k <= ends
            values[inside] |= (window[(starts + k)[inside]] & np.uint8(127)).astype(np.uint64) << np.uint64(7 * k)
        self.at += int(ends[-1]) + 1 if count else 0
        return values

    def count(self) -> int:
        """Reads the number of entries that follow."""
        count = int(self.numbers(1)[0])
        if count > ENTRIES:
            raise BadFile(f"its index has more than {ENTRIES} entries in a node")
        return count


def _sum(values: np.ndarray[Any, np.dtype[np.uint64]]) -> int:
    if (values >= 2**40).any():
        raise BadFile("its index is damaged")
    return int(values.sum())


def _read_texts(index: _Index, fields: _Fields, count: int) -> tuple[list[int], list[int]]:
    """Reads and counts the lengths of texts: of the part that each has in common with the one before it, and of the rest."""
    shared, rest = fields.numbers(max(count - 1, 0)), fields.numbers(count)
    index.charge(_sum(shared) + _sum(rest))
    return [0, *shared.tolist()][:count], rest.tolist()


def _read_files(index: _Index, fields: _Fields) -> list[str]:
    """Reads the table of data files: their names below the folder of the part."""
    shared, rest = _read_texts(index, fields, count := fields.count())
    fields.numbers(count)  # the lengths of their folders
    names, name = [], b""
    for common, more in zip(shared, rest, strict=True):
        name = name[:common] + fields.take(more)
        names.append(name.decode("ascii", "replace"))
    return names


def _read_places(fields: _Fields, files: list[str], count: int) -> list[Place]:
    """Reads places of nodes."""
    numbers = [fields.numbers(count).tolist() for _ in range(3)]
    if max(numbers[0], default=0) >= len(files):
        raise BadFile("its index is damaged")
    return [(files[file], offset, length) for file, offset, length in zip(*numbers, strict=True)]


def _find_root(index: _Index, data: bytes) -> Place:
    """Returns the place of the root of the newest version."""
    fields = index.unpack(data, MANIFEST)
    fields.take(16)  # an id
    kind, *_ = fields.numbers(3).tolist()
    fields.take(1)
    if fields.numbers(1)[0] == 1:
        fields.take(4)  # the level of compression of new nodes
    if kind:
        raise BadFile("its index has several manifests, which is not supported")
    files, count = _read_files(index, fields), fields.count()
    fields.numbers(count)  # of the versions
    fields.take(count)  # the heights of their roots
    if not count:
        raise BadFile("its index is empty")
    return _read_places(fields, files, count)[-1]


def _read_node(index: _Index, data: bytes) -> tuple[list[Place], int]:
    """Returns the places of the children of a node, and the bytes of all values of a leaf."""
    fields = index.unpack(data, NODE)
    (height,) = fields.take(1)
    files, count = _read_files(index, fields), fields.count()
    index.charge(ENTRY * count)
    _, rest = _read_texts(index, fields, count)
    if height:
        fields.numbers(count)  # the lengths of the prefixes of subtrees
    fields.take(sum(rest))
    if height:
        return _read_places(fields, files, count), 0
    return [], _sum(fields.numbers(count))
