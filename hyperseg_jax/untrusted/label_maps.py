"""One matrix of whole numbers out of a MATLAB file (version 5, as Pascal Context comes), read as data with its size first.

The format: "MAT-File Format", mathworks.com. An element is a type and a length, 4 bytes each, and as many bytes, filled to a
multiple of 8; where the length is 4 or less, both are in 4 bytes and the content in the next 4.
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
"""Of MATLAB: double, int8 to uint32. Not characters, cells, structures, objects or functions."""
LARGEST = 2**32 - 1
ELEMENTS = 1000
"""Of a file, that are looked at for the one of the wanted name."""
NAMES = 4096
"""Bytes of a matrix besides its numbers."""


def read(path: pathlib.Path, name: str) -> np.ndarray:
    """The matrix of that name, integers [H, W]. BadFile where there is none, or one of more than limits.pixels;
    FileNotFoundError where there is no file."""
    most = limits.in_force().pixels
    data = paths.read_file(path, 8 * most + 2**20, "pixels")
    if data.startswith((b"MATLAB 7.3 MAT-file", HDF5)) or data[512 : 512 + len(HDF5)] == HDF5:
        raise BadFile("is a MATLAB file of version 7.3 (HDF5)", "save it in MATLAB with -v7")
    sign = {b"IM": "<", b"MI": ">"}.get(data[HEADER - 2 : HEADER])
    if sign is None:
        raise BadFile("is no MATLAB file of version 5")
    try:
        at, elements, found = HEADER, 0, None
        while at + 8 <= len(data):
            kind, length = struct.unpack_from(f"{sign}II", data, at)
            content = data[at + 8 : at + 8 + length]
            if kind == COMPRESSED:
                kind, content = _unpacked(content, sign, name, most)
            if kind == MATRIX and _called(content, sign) == name:
                if found is not None:
                    raise BadFile(f"has two matrices named {name}")
                found = _matrix(content, sign, name, most)
            at += 8 + length
            elements += 1
            if elements > ELEMENTS:
                raise BadFile(f"has more than {ELEMENTS} elements")
    except (struct.error, zlib.error, ValueError, IndexError, OverflowError) as error:
        raise BadFile(f"is damaged ({error})") from error
    if found is None:
        raise BadFile(f"has no {name}")
    return found


def _unpacked(content: bytes, sign: str, name: str, most: int) -> tuple[int, bytes]:
    """The kind and content of a compressed element. It is unpacked as a whole only where it is the matrix of that name and of
    at most limits.pixels; else its beginning is given."""
    unpacking = zlib.decompressobj()
    begin = unpacking.decompress(content, NAMES)
    kind, length = struct.unpack_from(f"{sign}II", begin)
    begin = begin[8:]
    if kind != MATRIX or _called(begin, sign) != name:
        return kind, begin
    _size(begin, sign, name, most)
    whole = begin + unpacking.decompress(unpacking.unconsumed_tail, max(1, min(length, 8 * most + NAMES) - len(begin)))
    beyond = unpacking.decompress(unpacking.unconsumed_tail, 8)  # the checksum is looked at behind the last byte
    if len(beyond) == 8 or not unpacking.eof:
        raise BadFile("is damaged (a compressed element does not end where it says)")
    return kind, whole


def _called(data: bytes, sign: str) -> str:
    """The name of a matrix."""
    at = 0
    for _ in range(3):
        element, at = _element(data, at, sign)
    return element.tobytes().decode(errors="replace")


def _size(data: bytes, sign: str, name: str, most: int) -> tuple[int, int, int]:
    """(height, width) of a matrix of whole numbers, and where what follows its name begins."""
    flags, at = _element(data, 0, sign)
    sides, at = _element(data, at, sign)
    _, at = _element(data, at, sign)
    height, width, *rest = (int(side) for side in sides)
    if int(flags[0]) & 0xFF not in CLASSES or int(flags[0]) & 0x0800 or rest or min(height, width) < 0:
        raise BadFile(f"its {name} is no matrix of whole numbers")
    if height * width > most:
        raise BadFile(f"is {width}x{height} pixels, and the limit is {most}", "if that is right, raise limits.pixels")
    return height, width, at


def _matrix(data: bytes, sign: str, name: str, most: int) -> np.ndarray:
    height, width, at = _size(data, sign, name, most)
    numbers, _ = _element(data, at, sign)
    if numbers.size != math.prod((height, width)):
        raise BadFile(f"its {name} is no matrix of whole numbers")
    check_labels(numbers)
    return numbers.astype(np.int64 if numbers.dtype.kind == "f" else numbers.dtype).reshape(width, height).T


def check_labels(numbers: np.ndarray) -> None:
    """BadFile where a number of a label map or image is no whole number from 0 to LARGEST."""
    whole = (numbers >= 0) & (numbers <= LARGEST)  # NaN is neither
    if numbers.dtype.kind == "f":
        whole &= np.floor(numbers) == numbers
    if not whole.all():
        raise BadFile(
            f"has the number {numbers[~whole][0]:g} where a label is a whole number from 0 to {LARGEST}", "correct it"
        )


def _element(data: bytes, at: int, sign: str) -> tuple[np.ndarray, int]:
    """The numbers of an element, and where the next one begins."""
    kind, length = struct.unpack_from(f"{sign}II", data, at)
    start = at + 8
    if kind >> 16:  # of the short form
        kind, length, start = kind & 0xFFFF, kind >> 16, at + 4
    if kind not in TYPES or start + length > len(data):
        raise BadFile("is damaged (an element is cut, or of an unknown type)")
    found = np.frombuffer(data, f"{sign}{TYPES[kind]}", length // int(TYPES[kind][1]), start)
    return found, max(start + length, at + 8) + (-length % 8 if start == at + 8 else 0)
