"""Label images and grey images have the numbers of the file, or are refused."""

import struct
import zlib

import numpy as np
import pytest

from hyperseg_jax.datasets.labels import MODES
from hyperseg_jax.untrusted import images
from hyperseg_jax.untrusted.bad_file import BadFile


def make_png(bits, row, width, kind=0):
    chunk = lambda name, body: struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    head = struct.pack(">IIBBBBB", width, 2, bits, kind, 0, 0, 0)
    pixels = zlib.compress((b"\0" + row) * 2)
    palette = chunk(b"PLTE", bytes(48)) if kind == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def make_tiff(bits, row, width, *, photometric=1, form=1):
    fields = {256: width, 257: 2, 258: bits, 259: 1, 262: photometric, 277: 1, 278: 2, 279: 2 * len(row), 339: form}
    entries = sorted([*fields.items(), (273, 8 + 2 + 12 * (len(fields) + 1) + 4)])
    table = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + row * 2


HALVES, PAIRS = bytes([0x12, 0x3F]), bytes([0b00011011])  # 1, 2, 3, 15 and 0, 1, 2, 3
WORDS = struct.pack("<3H", 1, 300, 65535)


@pytest.mark.parametrize(
    ("data", "numbers"),
    [
        (make_png(4, HALVES, 4), [1, 2, 3, 15]),
        (make_png(2, PAIRS, 4), [0, 1, 2, 3]),
        (make_png(1, PAIRS, 8), [0, 0, 0, 1, 1, 0, 1, 1]),
        (make_png(4, HALVES, 4, kind=3), [1, 2, 3, 15]),
        (make_png(8, HALVES, 2), [0x12, 0x3F]),
        (make_png(16, HALVES, 1), [0x123F]),
        (make_tiff(4, HALVES, 4), [1, 2, 3, 15]),
        (make_tiff(2, PAIRS, 4), [0, 1, 2, 3]),
        (make_tiff(1, PAIRS, 8), [0, 0, 0, 1, 1, 0, 1, 1]),
        (make_tiff(1, PAIRS, 8, photometric=0), [1, 1, 1, 0, 0, 1, 0, 0]),
        (make_tiff(8, HALVES, 2), [0x12, 0x3F]),
        (make_tiff(16, WORDS, 3), [1, 300, 65535]),
        (make_tiff(16, WORDS[:4], 2, form=2), [1, 300]),
    ],
)
def test_numbers_are_those_of_the_file(data, numbers):
    assert images.read_numbers(data, MODES, "label image").astype(int).tolist() == [numbers] * 2


@pytest.mark.parametrize(
    "data",
    [
        make_tiff(12, bytes(6), 4),
        make_tiff(8, b"\xff", 1, form=2),
        make_tiff(16, WORDS, 3, photometric=0),
    ],
)
def test_numbers_that_would_change_are_refused(data):
    for read in (images.read_rgb, lambda file: images.read_numbers(file, MODES, "label image")):
        with pytest.raises(
            BadFile, match="is a TIFF with numbers of 12 bits, signed numbers, or inverted 16 bits; save it with"
        ):
            read(data)


def test_inverted_greys():
    """They are colours, but not labels."""
    data = make_tiff(8, b"\0\xfa", 2, photometric=0)
    assert np.array_equal(images.read_rgb(data)[0, :, 0], [255, 5])
    with pytest.raises(BadFile, match="is a TIFF with inverted numbers; save it with unsigned numbers of 8 or 16 bits, 0 as"):
        images.read_numbers(data, MODES, "label image")
