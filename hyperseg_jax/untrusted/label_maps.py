"""Reads an integer matrix from a MATLAB file (version 5, as in Pascal Context), and checks its size before it is unpacked.

Format: "MAT-File Format", mathworks.com. An element is a type and a length of 4 bytes each, followed by its data, padded to a
multiple of 8 bytes. If the length is at most 4, type and length share 4 bytes, followed by 4 bytes of data.
"""

from __future__ import annotations

import math
import pathlib
import struct
import zlib

import numpy as np

from hyperseg_jax.untrusted import limits, paths
from hyperseg_jax.untrusted.bad_file import BadFile

HEADER = 128
HDF5 = b"\x89HDF\r\n\x1a\n"
MATRIX, COMPRESSED = 14, 15
TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 9: "f8"}
CLASSES = (6, 8, 9, 10, 11, 12, 13)
"""Supported MATLAB classes: double, int8 to uint32. Not characters, cells, structures, objects or functions."""
LARGEST = 2**32 - 1
ELEMENTS = 1000
"""Maximum number of elements of a file that are searched for the matrix."""
NAMES = 4096
"""Maximum bytes of a matrix besides its numbers."""


def read_matrix(path: pathlib.Path, name: str) -> np.ndarray:
    """Reads the matrix with this name, integers [H, W]. Raises BadFile if there is none, or if it has more than limits.pixels
    elements; FileNotFoundError if there is no file."""
    limit = limits.current().pixels
    data = paths.read_file(path, 8 * limit + 2**20, "pixels")
    if data.startswith((b"MATLAB 7.3 MAT-file", HDF5)) or data[512 : 512 + len(HDF5)] == HDF5:
        raise BadFile("is a MATLAB file of version 7.3 (HDF5)", "save it in MATLAB with -v7")
    sign = {b"IM": "<", b"MI": ">"}.get(data[HEADER - 2 : HEADER])
    if sign is None:
        raise BadFile("is not a MATLAB file of version 5")
    try:
        at, elements, matrix = HEADER, 0, None
        while at + 8 <= len(data):
            kind, length = struct.unpack_from(f"{sign}II", data, at)
            content = data[at + 8 : at + 8 + length]
            if kind == COMPRESSED:
                kind, content = _decompress_element(content, sign, name, limit)
            if kind == MATRIX and _parse_name(content, sign) == name:
                if matrix is not None:
                    raise BadFile(f"has two matrices named {name}")
                matrix = _parse_matrix(content, sign, name, limit)
            at += 8 + length
            elements += 1
            if elements > ELEMENTS:
                raise BadFile(f"has more than {ELEMENTS} elements")
    except (struct.error, zlib.error, ValueError, IndexError, OverflowError) as error:
        raise BadFile(f"is damaged ({error})") from error
    if matrix is None:
        raise BadFile(f"has no {name}")
    return matrix


def _decompress_element(content: bytes, sign: str, name: str, limit: int) -> tuple[int, bytes]:
    """Returns the kind and content of a compressed element. It is only unpacked completely if it is the matrix with this name
    and has at most `limit` elements; otherwise only its beginning is returned."""
    decompressor = zlib.decompressobj()
    begin = decompressor.decompress(content, NAMES)
    kind, length = struct.unpack_from(f"{sign}II", begin)
    begin = begin[8:]
    if kind != MATRIX or _parse_name(begin, sign) != name:
        return kind, begin
    _parse_size(begin, sign, name, limit)
    full = begin + decompressor.decompress(decompressor.unconsumed_tail, max(1, min(length, 8 * limit + NAMES) - len(begin)))
    rest = decompressor.decompress(decompressor.unconsumed_tail, 8)  # the checksum is only verified after the last byte
    if len(rest) == 8 or not decompressor.eof:
        raise BadFile("is damaged (a compressed element has another length than stated)")
    return kind, full


def _parse_name(data: bytes, sign: str) -> str:
    """Returns the name of a matrix."""
    at = 0
    for _ in range(3):
        element, at = _parse_element(data, at, sign)
    return element.tobytes().decode(errors="replace")


def _parse_size(data: bytes, sign: str, name: str, limit: int) -> tuple[int, int, int]:
    """Returns (height, width) of an integer matrix, and the offset of the element after its name."""
    flags, at = _parse_element(data, 0, sign)
    sides, at = _parse_element(data, at, sign)
    _, at = _parse_element(data, at, sign)
    height, width, *rest = (int(side) for side in sides)
    if int(flags[0]) & 0xFF not in CLASSES or int(flags[0]) & 0x0800 or rest or min(height, width) < 0:
        raise BadFile(f"its {name} is not an integer matrix")
    if height * width > limit:
        raise BadFile(f"is {width}x{height} pixels, and the limit is {limit}", "if that is intended, raise limits.pixels")
    return height, width, at


def _parse_matrix(data: bytes, sign: str, name: str, limit: int) -> np.ndarray:
    """Returns the labels of an integer matrix, [H, W]. sign: "<" or ">", the byte order. limit: maximum number of elements."""
    height, width, at = _parse_size(data, sign, name, limit)
    numbers, _ = _parse_element(data, at, sign)
    if numbers.size != math.prod((height, width)):
        raise BadFile(f"its {name} is not an integer matrix")
    check_labels(numbers)
    return numbers.astype(np.int64 if numbers.dtype.kind == "f" else numbers.dtype).reshape(width, height).T


def check_labels(numbers: np.ndarray) -> None:
    """Raises BadFile unless all labels of a label map or image are integers from 0 to LARGEST."""
    valid = (numbers >= 0) & (numbers <= LARGEST)  # False for NaN
    if numbers.dtype.kind == "f":
        valid &= np.floor(numbers) == numbers
    if not valid.all():
        raise BadFile(f"has the label {numbers[~valid][0]:g}; labels must be integers from 0 to {LARGEST}", "correct it")


def _parse_element(data: bytes, at: int, sign: str) -> tuple[np.ndarray, int]:
    """Returns the numbers of an element, and the offset of the next element."""
    kind, length = struct.unpack_from(f"{sign}II", data, at)
    start = at + 8
    if kind >> 16:  # the short form
        kind, length, start = kind & 0xFFFF, kind >> 16, at + 4
    if kind not in TYPES or start + length > len(data):
        raise BadFile("is damaged (an element is cut off, or has an unknown type)")
    numbers = np.frombuffer(data, f"{sign}{TYPES[kind]}", length // int(TYPES[kind][1]), start)
    return numbers, max(start + length, at + 8) + (-length % 8 if start == at + 8 else 0)
