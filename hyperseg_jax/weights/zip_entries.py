"""Finds the byte ranges of the entries of a zip archive without compression. Nothing is unpacked.

Format: PKWARE's APPNOTE, sections 4.3 (records) and 4.5.3 (64-bit sizes).
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from hyperseg_jax.untrusted.bad_file import CONVERT, DISTRUST, BadFile
from hyperseg_jax.untrusted.printing import escaped

END = struct.Struct("<4s4H2LH")  # end of central directory record
END64_LOCATOR = struct.Struct("<4sLQL")
END64 = struct.Struct("<4sQ2H2L4Q")
CENTRAL = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
AGAIN = "get another copy of it, or save it again with checksums"
ENCRYPTED, FULL = 0x1, 0xFFFFFFFF


class Entry(NamedTuple):
    """The bytes of a zip entry, and their checksum according to the archive."""

    data: memoryview
    crc: int

    def checked(self, name: str) -> memoryview:
        """Returns the bytes. Raises BadFile if their checksum is wrong."""
        if zlib.crc32(self.data) != self.crc:
            raise BadFile(f"{escaped(name)} in its archive has a wrong checksum", AGAIN)
        return self.data


def read_zip_entries(data: memoryview) -> dict[str, Entry]:
    """Returns {name: entry} in the order of the archive. Raises BadFile for entries that are compressed, overlap, or are out of
    bounds."""
    count, begin, end = _find_directory(data)
    entries: dict[str, Entry] = {}
    spans = []
    for name, header, size, crc in _read_directory(data, begin, end):
        if name in entries:
            raise BadFile(f"its archive has {escaped(name)} twice", DISTRUST)
        start = _find_data(data, name, header, begin)
        if size > begin - start:
            raise BadFile(f"{escaped(name)} in its archive is longer than the archive")
        entries[name] = Entry(data[start : start + size], crc)
        spans.append((header, start + size, name))
    if len(entries) != count:
        raise BadFile(f"its archive should have {count} entries, but has {len(entries)}")
    spans.sort()
    for (_, before, _), (after, _, name) in itertools.pairwise(spans):
        if after < before:
            raise BadFile(f"{escaped(name)} in its archive overlaps another entry", DISTRUST)
    return entries


def _unpack_record(record: struct.Struct, data: memoryview, at: int, signature: bytes, what: str) -> tuple[int, ...]:
    """Reads a record and returns its fields after the signature."""
    if at < 0 or at > len(data) - record.size:
        raise BadFile(f"its archive lacks {what}")
    values = record.unpack_from(data, at)
    if values[0] != signature:
        raise BadFile(f"its archive lacks {what}")
    return values[1:]


def _find_directory(data: memoryview) -> tuple[int, int, int]:
    """Returns (number of entries, begin and end of the central directory) from the end record of the archive."""
    at = len(data) - END.size
    disk, first_disk, here, count, size, begin, comment = _unpack_record(
        END, data, at, b"PK\x05\x06", "its end record; it may be cut off"
    )
    locator = at - END64_LOCATOR.size
    if locator >= 0 and data[locator : locator + 4] == b"PK\x06\x07":  # PyTorch always writes both ends
        _, at, _ = _unpack_record(END64_LOCATOR, data, locator, b"PK\x06\x07", "its zip64 locator")
        _, _, _, disk, first_disk, here, count, size, begin = _unpack_record(
            END64, data, at, b"PK\x06\x06", "its zip64 end record"
        )
    if disk or first_disk or here != count or comment or begin + size != at:
        raise BadFile("its zip directory is inconsistent (wrong offset, several disks, or an archive comment)")
    return count, begin, at


def _read_directory(data: memoryview, at: int, end: int) -> Iterator[tuple[str, int, int, int]]:
    """Yields (name, offset of the local header, size, checksum) of each entry in the central directory."""
    data = data[:end]
    while at < end:
        (_, _, flags, method, _, _, crc, packed, size, name_size, extra_size, comment_size, disk, _, _, place) = _unpack_record(
            CENTRAL, data, at, b"PK\x01\x02", "an entry of its directory"
        )
        at += CENTRAL.size
        if name_size + extra_size + comment_size > end - at:
            raise BadFile("the directory of its archive is cut off")
        name = _decode_name(bytes(data[at : at + name_size]))
        wide = _parse_zip64_sizes(bytes(data[at + name_size : at + name_size + extra_size]))
        fields = [size, packed, place]
        if fields.count(FULL) > len(wide):
            raise BadFile(f"{escaped(name)} in its archive lacks its zip64 sizes")
        size, packed, place = (wide.pop(0) if field == FULL else field for field in fields)
        if method or packed != size or flags & ENCRYPTED:
            raise BadFile(f"{escaped(name)} in its archive is compressed or encrypted, which PyTorch never does", CONVERT)
        if disk:
            raise BadFile(f"{escaped(name)} is in another part of a split archive", CONVERT)
        yield name, place, size, crc
        at += name_size + extra_size + comment_size


def _decode_name(raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadFile("a name in its archive is not UTF-8") from error
    if "\\" in name or "\0" in name or ":" in name or name.startswith("/") or ".." in name.split("/"):
        raise BadFile(f"{escaped(name)} in its archive is a path out of its folder", DISTRUST)
    return name


def _parse_zip64_sizes(extra: bytes) -> list[int]:
    """Returns the zip64 sizes among the extra fields of an entry."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        field = extra[at + 4 : at + 4 + size]
        if kind == 1:
            return [value for (value,) in struct.iter_unpack("<Q", field[: len(field) // 8 * 8])]
        at += 4 + size
    return []


def _find_data(data: memoryview, name: str, place: int, end: int) -> int:
    """Returns the offset of the data of an entry, which follow its local header at `place`. end: upper bound of all entries."""
    what = f"{escaped(name)} at the offset in its directory"
    name_size, extra_size = _unpack_record(LOCAL, data[:end], place, b"PK\x03\x04", what)[-2:]
    start = place + LOCAL.size + name_size + extra_size
    if start > end or bytes(data[place + LOCAL.size : place + LOCAL.size + name_size]) != name.encode("utf-8"):
        raise BadFile(f"its archive lacks {what}")
    return start
