"""Checks ArrayRecord shards before the array_record library reads them, which unpacks as much as a shard declares.

A shard is a file of chunks of records in Riegeli's format. Its last 64 KiB say where the footer is, and the footer where each
chunk is. https://github.com/google/riegeli/blob/master/doc/riegeli_records_file_format.md describes the chunks.
"""

from __future__ import annotations

import array
import os
import pathlib
import struct
from collections.abc import Callable
from typing import Any

from hyperseg_jax.untrusted import limits
from hyperseg_jax.untrusted.bad_file import BadFile

BLOCK, BLOCK_HEADER, CHUNK_HEADER = 2**16, 24, 40
SMALLEST_CHUNK = CHUNK_HEADER + 2
MAGIC = 0x71930E704FDAE05E
SIMPLE, UNCOMPRESSED, ZSTD = ord("r"), 0, ord("z")
LONGEST_NUMBER = 10
"""Maximum number of bytes of a number with continuation bits."""
LONGEST_ENTRY, LONGEST_METADATA = 3 * (1 + LONGEST_NUMBER), 2**16
"""Maximum number of bytes in the footer: of a chunk, and of what describes the shard."""
GROUP = 2**16
"""Maximum number of records in a chunk."""
AGAIN = "write it again"
_DAMAGED = "is not a complete ArrayRecord shard"


class CheckedShard:
    """The chunks of a shard. records: the number of its records."""

    def __init__(self, path: pathlib.Path, *, compressed: bool) -> None:
        """Reads the footer. compressed: whether the shard may be compressed with zstd. Raises BadFile, OSError."""
        self._compressed = compressed
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._end = os.fstat(self._file).st_size - BLOCK
        self._read_footer()

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # at exit, the names of modules may be None
        if hasattr(self, "_file"):
            close(self._file)

    def check(self, record: int) -> None:
        """Checks the chunk of a record before the library unpacks it. Raises BadFile, also if it is larger than
        limits.record_bytes."""
        number = record // self._group
        start, end = self._offsets[number], self._offsets[number + 1]
        self._check_chunk(start, end, self._counts[number], limits.current().record_bytes)
        if self._read_bytes(start, CHUNK_HEADER + 1)[-1] not in (UNCOMPRESSED, ZSTD if self._compressed else UNCOMPRESSED):
            raise self._compression_error()

    def _read_footer(self) -> None:
        if self._end < BLOCK or self._end % BLOCK:
            raise BadFile(_DAMAGED, AGAIN)
        most = self._end // SMALLEST_CHUNK
        postscript = _parse_message(self._read_records(self._end, self._end + BLOCK, 3, BLOCK)[0])
        start = postscript.get(1)
        if postscript.get(2) != MAGIC or not isinstance(start, int) or not 0 < start < self._end:
            raise BadFile(_DAMAGED, AGAIN)
        described, *entries = self._read_records(start, self._end, most + 1, LONGEST_METADATA + most * LONGEST_ENTRY)
        metadata = _parse_message(described).get(1)
        try:
            chunks = [_parse_message(entry) for entry in entries]
            self._offsets = array.array("Q", [*(chunk[1] for chunk in chunks), start])
            self._counts = array.array("Q", [chunk[3] for chunk in chunks])
        except (KeyError, TypeError, OverflowError) as error:
            raise BadFile(_DAMAGED, AGAIN) from error
        self.records, self._group = sum(self._counts), self._counts[0] if self._counts else 1
        if not isinstance(metadata, bytes) or [_parse_message(metadata).get(k, 0) for k in (2, 3)] != [
            len(chunks),
            self.records,
        ]:
            raise BadFile(_DAMAGED, AGAIN)
        is_sorted = all(one < other for one, other in zip(self._offsets, self._offsets[1:], strict=False))
        full, last = self._counts[:-1], self._counts[-1:]
        if not is_sorted or any(count != self._group for count in full) or any(not 0 < count <= self._group for count in last):
            raise BadFile(_DAMAGED, AGAIN)
        if self._group > GROUP:
            raise BadFile(f"has {self._group} records in a chunk", f"{AGAIN} with the option group_size:1")

    def _read_records(self, start: int, end: int, most: int, longest: int) -> list[bytes]:
        """Returns the records of the chunk from `start` to `end`. most: their maximum number. longest: the maximum number of
        bytes after decompression."""
        size = self._check_chunk(start, end, None, longest)
        data = self._read_bytes(start, CHUNK_HEADER + size)[CHUNK_HEADER:]
        length, at = _parse_varint(data, 1)
        packed = self._decompress(data[at : at + length], data[0], most * LONGEST_NUMBER)
        values = self._decompress(data[at + length :], data[0], longest)
        records, begin, at = [], 0, 0
        while at < len(packed):
            length, at = _parse_varint(packed, at)
            records.append(values[begin : begin + length])
            begin += length
        if not records or begin != len(values):
            raise BadFile(_DAMAGED, AGAIN)
        return records

    def _check_chunk(self, start: int, end: int, records: int | None, longest: int) -> int:
        """Checks the header of a chunk that ends at or before `end`, and returns the number of bytes of its content in the
        file. records: the expected number of records; None: any."""
        _, size, _, kind, unpacked = struct.unpack("<5Q", self._read_bytes(start, CHUNK_HEADER))
        if kind & 255 != SIMPLE:
            raise BadFile("has chunks of an unsupported kind", f"{AGAIN} without the option transpose")
        if records is not None and max(size, unpacked) > longest:
            why = f"has {max(size, unpacked)} bytes in a record, and the limit is {longest}"
            raise BadFile(why, "if that is intended, raise limits.record_bytes")
        space = end - start - CHUNK_HEADER - size  # the library reads it as well
        if records not in (None, kind >> 8) or unpacked > longest or size < 2 or not 0 <= space <= size // 1000 + 4 * BLOCK:
            raise BadFile(_DAMAGED, AGAIN)
        return size

    def _read_bytes(self, start: int, count: int) -> bytes:
        """Reads `count` bytes of a chunk from offset `start`; skips the block headers in between."""
        raw = os.pread(self._file, count + (count // (BLOCK - BLOCK_HEADER) + 2) * BLOCK_HEADER, start)
        parts, at = [], 0
        while count:
            at += max(0, BLOCK_HEADER - (start + at) % BLOCK)
            part = raw[at : at + min(count, BLOCK - (start + at) % BLOCK)]
            if not part:
                raise BadFile(_DAMAGED, AGAIN)
            parts.append(part)
            at, count = at + len(part), count - len(part)
        return b"".join(parts)

    def _decompress(self, data: bytes, compression: int, longest: int) -> bytes:
        """Returns uncompressed data. Raises BadFile if it has more than `longest` bytes."""
        if compression == UNCOMPRESSED:
            return data
        if compression != ZSTD or not self._compressed:
            raise self._compression_error()
        import pyarrow

        size, at = _parse_varint(data, 0)
        try:
            if size <= longest:
                return pyarrow.decompress(data[at:], decompressed_size=size, codec="zstd", asbytes=True) if size else b""
        except OSError:
            pass
        raise BadFile(_DAMAGED, AGAIN)

    def _compression_error(self) -> BadFile:
        """Returns the BadFile for an unsupported compression."""
        allowed = "without compression or with zstd" if self._compressed else "without compression"
        return BadFile("is compressed in a way that is not supported", f"{AGAIN} {allowed}")


def _parse_varint(data: bytes, at: int) -> tuple[int, int]:
    """Parses the varint (base 128, as in protocol buffers) at offset `at`. Returns the number and the offset after it."""
    value = 0
    for k, byte in enumerate(data[at : at + LONGEST_NUMBER]):
        value |= (byte & 127) << 7 * k
        if byte < 128:
            return value, at + k + 1
    raise BadFile(_DAMAGED, AGAIN)


def _parse_message(message: bytes) -> dict[int, Any]:
    """Parses a protocol buffer message. Returns {field number: integer or bytes}."""
    fields: dict[int, Any] = {}
    at = 0
    while at < len(message):
        tag, at = _parse_varint(message, at)
        value, at = _parse_varint(message, at)
        if tag & 7 == 2:
            fields[tag >> 3], at = message[at : at + value], at + value
        elif tag & 7 == 0:
            fields[tag >> 3] = value
        else:
            raise BadFile(_DAMAGED, AGAIN)
    return fields
