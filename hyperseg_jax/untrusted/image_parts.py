"""Checks the parts of an image file, and removes those that no pixel depends on, such as EXIF data. The orientation that they
give and the number of frames are kept.

Pillow keeps Python objects for each part and unpacks some of them, so that a small file could need much memory or time.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.orientation import PREFIX, UPRIGHT, parse_orientation
from hyperseg_jax.untrusted.printing import escaped

PARTS = 2**16
"""Maximum number of segments, chunks, blocks or tags before the pixels of an image."""
VALUES = 2**20
"""Maximum number of values of all tags of a TIFF, besides bytes and texts. Tiles of 16 x 16 pixels of the largest image need
half of it."""
AGAIN = "download it again or remove it"
SAVE = "save it again without its metadata, or remove it"
SEGMENT = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
"""The end marker of a JPEG, or the marker of a segment that begins with its length. Other markers have no length."""
START, END, EXIF, SCAN = 0xD8, 0xD9, 0xE1, 0xDA
LONGEST_EXIF = 2**16
"""Bytes of a chunk of a WebP that are searched for its orientation."""
STANDALONE = (0x01, *range(0xD0, 0xD8))
"""Markers of a JPEG without a segment, which its decoder skips."""
MARKER = re.compile(rb"\xff+[^\x00\xff]")
"""The beginning of a segment: any number of fill bytes, and its marker."""
SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""The first marker after the compressed data of a scan, which contains 0xFF only before 0 and in restart markers."""
UNUSED = (*range(0xE1, 0xEE), 0xEF, 0xFE)
"""Markers of comments and application data of a JPEG, except JFIF and Adobe, which tell how colours are stored."""
PNG = b"\x89PNG\r\n\x1a\n"
GIF_BLOCK = re.compile(b"[!,;]")
GIF_CONTROL = 0xF9
"""Kind of the extension of a GIF that has the transparent colour."""
TAG_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value of a TIFF tag by type; other types are bytes and texts."""
DIRECTORIES = (34665, 34853, 40965)
"""Tags with the offset of another list of tags, which Pillow reads."""
SUBFILE, REDUCED = 254, 5
"""The tag of a TIFF page with its role, and the bits of a page that is a smaller copy or a mask of another one."""


class Parts(NamedTuple):
    """An image file without its metadata. orientation: EXIF, for JPEG, PNG and WebP; Pillow applies that of a TIFF. is_movie:
    whether it has several frames or pages, for PNG and TIFF; Pillow knows it of the others."""

    content: IO[bytes]
    orientation: int = UPRIGHT
    is_movie: bool = False


def without_metadata(content: IO[bytes]) -> Parts:
    """Returns the image file without its metadata, or the same file if its format is not JPEG, PNG or GIF. Raises BadFile if it
    has too many parts, or if a checksum of a PNG is wrong."""
    begin = content.read(16)
    content.seek(0)
    if begin.startswith(b"\xff\xd8\xff"):
        return _shorten_jpeg(content.read())
    if begin.startswith(PNG):
        return _shorten_png(content.read())
    if begin.startswith((b"GIF87a", b"GIF89a")):
        return Parts(io.BytesIO(_shorten_gif(content.read())))
    orientation, is_movie = UPRIGHT, False
    if begin.startswith(b"RIFF"):
        orientation = _check_webp(content)
    elif begin.startswith((b"II", b"MM")):
        _check_tags(content, begin)
        is_movie = _has_pages(content, begin)
    content.seek(0)
    return Parts(content, orientation, is_movie)


def _shorten_jpeg(data: bytes) -> Parts:
    """Returns a JPEG without the comments and application data before its first scan. Raises BadFile if there are other bytes
    between its segments: its decoder would skip them, and a scan whose marker is damaged."""
    at, view = 2, memoryview(data)
    kept, first_scan, exif = [view[:at]], -1, b""
    for _ in range(PARTS):
        marker = MARKER.match(data, at)
        if marker is None:
            raise BadFile(f"cannot be read as an image (no segment of the JPEG begins at byte {at})", AGAIN)
        kind, after = data[marker.end() - 1], marker.end()
        if kind in STANDALONE:
            at = after
            continue
        if kind == SCAN and first_scan < 0:
            first_scan = after - 2
        if kind == END:
            return _join([*kept, view[after - 2 if first_scan < 0 else first_scan :]], exif)
        length = int.from_bytes(data[after : after + 2])
        at = after + length
        if length < 2 or at > len(data) or kind < 0xC0 or kind == START:
            raise BadFile(f"cannot be read as an image (the segment of the JPEG at byte {after - 2} is not valid)", AGAIN)
        if kind == EXIF and data.startswith(PREFIX, after + 2):
            exif = exif or data[after + 2 : at]
        if kind not in UNUSED and first_scan < 0:
            kept.append(view[after - 2 : at])
        if kind == SCAN:
            end = SCAN_END.search(data, at)
            if end is None:  # without an end marker; the decoder finds out whether pixels are missing
                return _join([*kept, view[first_scan:]], exif)
            at = end.start()
    raise BadFile(f"has more than {PARTS} segments", SAVE)


def _join(pieces: list[memoryview], exif: bytes, is_movie: bool = False) -> Parts:
    return Parts(io.BytesIO(b"".join(pieces)), parse_orientation(exif), is_movie)


def _shorten_png(data: bytes) -> Parts:
    """Returns a PNG without its ancillary chunks except transparency. Raises BadFile if the checksum of any chunk is wrong."""
    at, view = len(PNG), memoryview(data)
    kept, exif, is_movie = [view[:at]], b"", False
    for _ in range(PARTS):
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        end = at + 8 + length
        if end + 4 > len(data):
            raise BadFile("is a PNG without its end", AGAIN)
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(data[end : end + 4]):
            raise BadFile(f"is a damaged PNG (the checksum of a chunk {escaped(kind.decode('latin-1'))} is wrong)", AGAIN)
        if kind[:1].isupper() or kind == b"tRNS":
            kept.append(view[at : end + 4])
        if kind == b"eXIf":
            exif = data[at + 8 : end]
        if kind == b"acTL":
            is_movie = int.from_bytes(data[at + 8 : at + 12]) > 1
        if kind == b"IEND":
            return _join(kept, exif, is_movie)
        at = end + 4
    raise BadFile(f"has more than {PARTS} chunks", SAVE)


def _shorten_gif(data: bytes) -> bytes:
    """Returns a GIF without comments and application data before its first image. Raises BadFile if there are other bytes
    between its blocks: Pillow would skip them, and an image whose first byte is damaged."""
    flags, view = data[10] if len(data) > 10 else 0, memoryview(data)
    at, blocks = 13 + (6 << (flags & 7) if flags & 0x80 else 0), 0
    kept = [view[:at]]
    while at < len(data):
        match = GIF_BLOCK.match(data, at)
        if match is None:
            raise BadFile(f"cannot be read as an image (no block of the GIF begins at byte {at})", AGAIN)
        if match[0] != b"!":
            kept.append(view[match.start() :])
            break
        at = match.end() + 1
        while at < len(data) and data[at]:
            at += 1 + data[at]
            blocks += 1
            if blocks > PARTS:
                raise BadFile(f"has more than {PARTS} blocks before its pixels", SAVE)
        at += 1
        if data[match.end() : match.end() + 1] == bytes([GIF_CONTROL]):
            kept.append(view[match.start() : at])
    return b"".join(kept)


def _check_webp(content: IO[bytes]) -> int:
    """Returns the orientation of a WebP. Raises BadFile if it has too many chunks."""
    at, exif = 12, b""
    for _ in range(PARTS):
        content.seek(at)
        header = content.read(8)
        if len(header) < 8:
            return parse_orientation(exif)
        if header[:4] == b"EXIF":
            exif = content.read(min(int.from_bytes(header[4:], "little"), LONGEST_EXIF))
        at += 8 + int.from_bytes(header[4:], "little")
        at += at % 2
    raise BadFile(f"has more than {PARTS} chunks", SAVE)


class _Tags(NamedTuple):
    """How the lists of tags of a TIFF are stored: as "<" or ">", with 32 or 64 bits."""

    order: str
    first: struct.Struct
    head: struct.Struct
    entry: struct.Struct
    offset: struct.Struct

    @classmethod
    def of(cls, begin: bytes) -> _Tags:
        """begin: the first bytes of the file."""
        order, is_big = ("<" if begin[:1] == b"I" else ">"), begin[2:4] in (b"+\0", b"\0+")
        forms = ("8xQ", "Q", "HHQ8s", "Q") if is_big else ("4xL", "H", "HHL4s", "L")
        return cls(order, *(struct.Struct(order + form) for form in forms))

    def number(self, value: bytes) -> int:
        return int.from_bytes(value, "little" if self.order == "<" else "big")

    def read_count(self, content: IO[bytes], offset: int) -> int:
        """Returns the number of tags of the list at this offset, and goes to the first of them."""
        content.seek(offset)
        return self.head.unpack(content.read(self.head.size).ljust(self.head.size, b"\0"))[0]

    def read_entries(self, content: IO[bytes], count: int) -> Iterator[tuple[int, int, int, bytes]]:
        """Returns the tags from here on: number, type, count of values, and their first bytes."""
        entries = content.read(count * self.entry.size)
        return self.entry.iter_unpack(entries[: len(entries) // self.entry.size * self.entry.size])


def _check_tags(content: IO[bytes], begin: bytes) -> None:
    """Raises BadFile if the tags of a TIFF need more memory than the file is long, or have too many values."""
    form = _Tags.of(begin)
    size = content.seek(0, io.SEEK_END)
    pending, seen, tags, values, total = [*form.first.unpack_from(begin.ljust(16, b"\0"))], set[int](), 0, 0, 0
    while pending:
        if (offset := pending.pop()) in seen or offset >= size:
            continue
        seen.add(offset)
        tags += (count := form.read_count(content, offset))
        if tags > PARTS:
            raise BadFile(f"has more than {PARTS} tags", SAVE)
        for tag, kind, number, value in form.read_entries(content, count):
            length = number * TAG_BYTES.get(kind, 1)
            total += length if length > len(value) else 0
            values += number if kind in TAG_BYTES else 0
            if tag in DIRECTORIES and length <= len(value):
                pending.append(form.number(value[:length]))
    if total > size or values > VALUES:
        raise BadFile(f"has tags of {total} bytes with {values} numbers, more than a TIFF of {size} bytes needs", SAVE)


def _has_pages(content: IO[bytes], begin: bytes) -> bool:
    """Returns whether a TIFF has another page that is not a smaller copy or a mask of the first one."""
    form = _Tags.of(begin)
    size = content.seek(0, io.SEEK_END)
    (offset,) = form.first.unpack_from(begin.ljust(16, b"\0"))
    seen, tags = set[int](), 0
    while 0 < offset < size and offset not in seen:
        tags += (count := form.read_count(content, offset))
        if tags > PARTS:
            raise BadFile(f"has more than {PARTS} tags", SAVE)
        values = [(kind, value) for tag, kind, _, value in form.read_entries(content, count) if tag == SUBFILE]
        if seen and not any(form.number(value[: TAG_BYTES.get(kind, 1)]) & REDUCED for kind, value in values):
            return True
        seen.add(offset)
        (offset,) = form.offset.unpack(content.read(form.offset.size).ljust(form.offset.size, b"\0"))
    return False
