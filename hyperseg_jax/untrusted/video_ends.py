"""Tells whether a video file lacks its end. FFmpeg reads what is left of some containers without an error."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import Any, BinaryIO

MAX_PARTS = 200_000
"""Maximum number of chunks, boxes, tags or elements that are visited."""
TS_PACKET, TS_SYNC, TS_STRIDES = 188, 0x47, (188, 192, 204)
"""Bytes and first byte of a packet of MPEG-TS; distances of packets in files (192: m2ts with times, 204: with checksums)."""
TS_RUN = 5
"""Number of packets at the end of a file that show their distance."""
PS_START, PS_END, PS_PACK = b"\0\0\1", 0xB9, 0xBA
"""Start of all parts of an MPEG program stream; ids of its end and of the header of a pack. Ids of packets are larger."""
PACK, PACK_OF_MPEG_1 = 14, 12
"""Bytes of the header of a pack."""
MAX_PACKETS = 4_000_000
"""Maximum number of packets of a program stream that are visited; most have 2 kB."""
OGG_PAGE = 27 + 255 + 255 * 255
"""Maximum size of a page of Ogg in bytes."""
EBML, SEGMENT, CLUSTER, BLOCKS = 0x1A45DFA3, 0x18538067, 0x1F43B675, (0xA3, 0xA0)
"""Ids of Matroska."""
UNKNOWN = -1
MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
"""FFmpeg's name of the format."""
BOX = 8
"""Bytes of the header of an mp4 box."""
TAG, TAG_AFTER = 11, 4
"""Bytes of the header of an FLV tag, and of the size that follows each tag."""
SCRIPT, TAG_KINDS = 18, (8, 9, 18)
"""Kind of an FLV tag with metadata; all kinds."""
FILE_SIZE = b"\0\x08filesize\0"
"""Start of the field of FLV metadata with the size of the file: length of the name, name, type "number"."""
INDEX_TIMES, INDEX_PART, IS_INDEX = 12, 12, 2**31
"""Mp4 "sidx" boxes, after their header: offset of the first time, bytes of each part, and the bit of the size of a part that
tells that it begins with another index."""
INDEX = 2**20
"""Maximum bytes of such a box."""
OBJECT = 24
"""Bytes of the header of an ASF object: its id and its size."""
ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
"""Id of the ASF object that contains all frames."""


def count_missing_bytes(file: BinaryIO, container: str, frames: Iterable[Any] = ()) -> int:
    """Returns how many bytes the file lacks at least, according to its own headers; 0 if the headers do not state a length, or
    for a pipe. container: FFmpeg's name of the format. frames: PyAV's index of the frames; only mp4 and mov list them
    reliably. Moves the position of the file."""
    find_end = _ENDS.get(container)
    try:
        size = file.seek(0, os.SEEK_END)
        listed_end = max((frame.pos + frame.size for frame in frames), default=0) if container == MP4 else 0
        return max(0, listed_end - size, find_end(file, size) - size if find_end else 0)
    except (OSError, ValueError, OverflowError):
        return 0


def _find_avi_end(file: BinaryIO, size: int) -> int:
    """Returns the end of the last list of frames ("movi")."""
    at = end = 0
    for _ in range(MAX_PARTS):
        header = _read_at(file, at, 12)
        length = int.from_bytes(header[4:8], "little")
        if header[:4] == b"LIST" and header[8:] == b"movi":
            if length in (0, 2**32 - 1):  # was written as a stream
                break
            end = at + 8 + length
        at += 12 if header[:4] == b"RIFF" else 8 + length + length % 2
        if at >= size:
            break
    return end


def _find_matroska_end(file: BinaryIO, size: int) -> int:
    """Returns the end of the segment; if a stream was written, without its length, that of the last cluster or block."""
    at = end = 0
    for _ in range(MAX_PARTS):
        header = _read_at(file, at, 12)
        kind, after = _read_ebml_number(header, 0, marked=True)
        length, body = _read_ebml_number(header, after)
        if not after or not body or (at == 0 and kind != EBML):
            break
        at += body + max(length, 0)
        if length == UNKNOWN:  # continues with its parts
            continue
        if kind == SEGMENT:
            return at
        if kind == CLUSTER or kind in BLOCKS:
            end = at
    return end


def _read_ebml_number(data: bytes, at: int, *, marked: bool = False) -> tuple[int, int]:
    """Reads a number of EBML. Returns it (UNKNOWN for an unknown length) and the offset after it; (0, 0) if it is incomplete.
    marked: whether to keep the bit that marks its width, as in ids."""
    width = 9 - data[at].bit_length() if at < len(data) else 9
    if at + width > len(data) or width > 8:
        return 0, 0
    number, mark = int.from_bytes(data[at : at + width], "big"), 1 << 7 * width
    if not marked:
        number = UNKNOWN if number == 2 * mark - 1 else number - mark
    return number, at + width


def _find_ts_end(file: BinaryIO, size: int) -> int:
    """Returns the end of the last packet."""
    start = max(0, size - (TS_RUN + 1) * max(TS_STRIDES))
    tail = _read_at(file, start, size - start)
    for at in range(len(tail) - 1, -1, -1):
        for stride in TS_STRIDES:
            if all(k >= 0 and tail[k] == TS_SYNC for k in range(at, at - TS_RUN * stride, -stride)):
                return start + at + TS_PACKET
    return 0


def _find_ps_end(file: BinaryIO, size: int) -> int:
    """Returns the end of the last packet of a program stream; of what precedes the first byte that is no packet, if any."""
    at = 0
    for _ in range(MAX_PACKETS):
        header = _read_at(file, at, PACK)
        if len(header) <= len(PS_START) or header[: len(PS_START)] != PS_START or header[3] < PS_END:
            break
        if header[3] == PS_END:
            at += 4
        elif header[3] != PS_PACK:
            at += 6 + int.from_bytes(header[4:6], "big")
        elif len(header) == PACK and header[4] & 0xC0 == 0x40:  # of MPEG-2, with up to 7 bytes of stuffing
            at += PACK + (header[-1] & 7)
        else:
            at += PACK_OF_MPEG_1
    return at


def _find_ogg_end(file: BinaryIO, size: int) -> int:
    """Returns the end of the last page."""
    start = max(0, size - 2 * OGG_PAGE)
    tail = _read_at(file, start, size - start)
    end = at = tail.find(b"OggS")
    while at >= 0 and tail[at : at + 4] == b"OggS":
        lengths = tail[at + 27 : at + 27 + tail[at + 26]] if at + 26 < len(tail) else b""
        end = at = at + 27 + len(lengths) + sum(lengths)
    return start + end


def _find_mp4_end(file: BinaryIO, size: int) -> int:
    """Returns the end of the last box of a fragmented file, or of what its index lists, whichever is later; 0 for other files,
    which list their frames."""
    at = end = listed = 0
    is_fragmented = False
    for _ in range(MAX_PARTS):
        header = _read_at(file, at, 16)
        if 0 < len(header) < BOX:
            end = at + BOX
        length, kind, start = int.from_bytes(header[:4], "big"), header[4:8], BOX
        if length == 1:
            length, start = int.from_bytes(header[8:], "big"), 2 * BOX
        if len(header) < BOX or length < BOX:
            break
        if kind == b"sidx":  # precedes its fragments, of which all may be missing
            body = _read_at(file, at + start, min(max(0, length - start), INDEX))
            is_fragmented, listed = True, max(listed, at + length + _read_index_sizes(body))
        at += length
        if kind == b"moof":  # is followed by its samples
            is_fragmented, end = True, at + BOX
        if kind == b"mdat":
            end = at
    return max(end, listed) if is_fragmented else 0


def _read_index_sizes(body: bytes) -> int:
    """Returns the distance from the end of a "sidx" box to the end of what it lists; 0 if the box is incomplete. body: the box
    without its header."""
    width = 8 if body[:1] == b"\1" else 4  # of the times and offsets in this version
    at = INDEX_TIMES + 2 * width  # of the number of parts, after reserved bytes
    offset, count = int.from_bytes(body[at - width : at], "big"), int.from_bytes(body[at + 2 : at + 4], "big")
    parts = body[at + 4 :][: INDEX_PART * count]
    sizes = [int.from_bytes(parts[k : k + 4], "big") & ~IS_INDEX for k in range(0, len(parts), INDEX_PART)]
    return offset + sum(sizes) if len(parts) == INDEX_PART * count else 0


def _find_flv_end(file: BinaryIO, size: int) -> int:
    """Returns the end of the last tag, or of the file by its metadata, whichever is later."""
    at = end = int.from_bytes(_read_at(file, 5, 4), "big") + TAG_AFTER
    for number in range(MAX_PARTS):
        header = _read_at(file, at, TAG)
        if 0 < len(header) < TAG:
            end = max(end, at + TAG)
        if len(header) < TAG or header[0] & 0x1F not in TAG_KINDS:
            break
        length = int.from_bytes(header[1:4], "big")
        if number == 0 and header[0] == SCRIPT:
            end = _read_flv_size(_read_at(file, at + TAG, length))
        at += TAG + length
        end = max(end, at)
        at += TAG_AFTER
    return end


def _read_flv_size(metadata: bytes) -> int:
    """Returns the size of the file by its metadata; 0 if it is not there or not valid."""
    at = metadata.find(FILE_SIZE)
    number = metadata[at + len(FILE_SIZE) :][:8] if at >= 0 else b""
    (value,) = struct.unpack(">d", number) if len(number) == 8 else (0.0,)
    return int(value) if 0 < value < 2**62 else 0


def _find_asf_end(file: BinaryIO, size: int) -> int:
    """Returns the end of the object with the frames; a stream declares a size of 0 or only that of its header."""
    at = 0
    for _ in range(MAX_PARTS):
        header = _read_at(file, at, OBJECT)
        length = int.from_bytes(header[16:], "little")
        if len(header) < OBJECT or length < OBJECT:
            break
        at += length
        if header[:16] == ASF_DATA:
            return at
    return 0


def _read_at(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)


_ENDS = {
    "avi": _find_avi_end,
    "matroska,webm": _find_matroska_end,
    "mpegts": _find_ts_end,
    "mpeg": _find_ps_end,
    "ogg": _find_ogg_end,
    MP4: _find_mp4_end,
    "flv": _find_flv_end,
    "asf": _find_asf_end,
}
