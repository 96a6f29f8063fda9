"""Images out of files that are not trusted. All of the project are opened here: formats by name, size before memory."""

from __future__ import annotations

import io
import logging
import os
import pathlib
import re
import warnings
from collections.abc import Callable, Sequence
from typing import IO, TypeVar

import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

from hyperseg_jax.untrusted import libtiff, limits, paths
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.label_maps import check_labels
from hyperseg_jax.untrusted.printing import shown, shown_value

warnings.filterwarnings("ignore", module=r"PIL\b")  # files are told of in one line, or not at all
logging.getLogger("PIL").setLevel(logging.CRITICAL)

T = TypeVar("T")

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""What is read, with JPEG also MPO; none of them starts a program or opens another file. Of several frames, the first."""
WIDE = ("I;16", "I;16L", "I;16B", "I;16N")
BYTES = 8
"""Of a pixel at most; a file larger than limits.pixels of these is no image."""
SCANS = 200
"""Of a JPEG at most, beside four for each part of a TIFF; a small file could ask for hours of work with more."""
BLOCK = 2**20
SCAN, END = 0xDA, 0xD9
SEGMENT = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
"""The end of a JPEG, or the mark of a segment that begins with its length. Others stand alone."""
TIFF_OF_JPEGS = (6, 7)
"""Kinds of compression."""
AGAIN = "download it again or remove it"
TOO_LARGE = "if that is right, raise limits.pixels"


def read(
    source: pathlib.Path | bytes, take: Callable[[Image.Image], T], formats: tuple[str, ...] = FORMATS, what: str = "an image"
) -> T:
    """take(image) of a file or its content. formats: some of FORMATS. what: it is, for the message.

    BadFile where it is no image of these formats, has more than limits.pixels, or where decoding fails in any way, a
    complaint of `take` among them; FileNotFoundError where there is no file.
    """
    try:
        with _content(source) as content:
            return _take(content, take, formats)
    except (BadFile, FileNotFoundError):
        raise
    except Image.DecompressionBombError as error:
        raise BadFile(f"has more pixels than the limit, {limits.in_force().pixels}", TOO_LARGE) from error
    except Exception as error:  # decoders raise of every kind
        raise BadFile(f"cannot be read as {what} ({_said(error, formats)})", AGAIN) from error


def _take(content: IO[bytes], take: Callable[[Image.Image], T], formats: tuple[str, ...]) -> T:
    most = limits.in_force().pixels
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, most)  # Pillow's own limit, for a larger one of ours
    size = content.seek(0, os.SEEK_END)
    if size > most * BYTES:
        raise BadFile(f"has {size} bytes, more than {most} pixels take", TOO_LARGE)
    content.seek(0)
    with Image.open(content, formats=formats) as image:
        if image.width * image.height > most:
            raise BadFile(f"is {image.width}x{image.height} pixels, and the limit is {most}", TOO_LARGE)
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            _check_tiles(image, most)
        _check_scans(image, content)
        with libtiff.listening() as complaints:
            taken = take(image)
        if complaints:  # Pillow goes on with what it has
            raise BadFile(f"is a damaged TIFF ({shown(complaints[0])})", AGAIN)
        return taken


def _content(source: pathlib.Path | bytes) -> IO[bytes]:
    return io.BytesIO(source) if isinstance(source, bytes) else paths.open_file(source)


def _check_tiles(image: TiffImagePlugin.TiffImageFile, most: int) -> None:
    """A tile is decoded whole, however little of it the image has."""
    width, height = (image.tag_v2.get(tag, 1) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH))
    if not isinstance(width, int) or not isinstance(height, int) or width * height > most:
        raise BadFile(f"has tiles of {shown_value(width)}x{shown_value(height)} pixels, and the limit is {most}", TOO_LARGE)


def _check_scans(image: Image.Image, content: IO[bytes]) -> None:
    """Of a JPEG, and of a TIFF that holds JPEGs."""
    here, found, most = content.tell(), 0, SCANS
    if image.format in ("JPEG", "MPO"):
        found = _scans(content, most)
    elif isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(TiffImagePlugin.COMPRESSION) in TIFF_OF_JPEGS:
        most += 4 * _parts(image)
        found = _marks_of_scans(content)
    content.seek(here)
    if found > most:
        raise BadFile(f"is a JPEG of more than {most} scans, which are the most that is read", AGAIN)


def _parts(image: TiffImagePlugin.TiffImageFile) -> int:
    """The tiles or strips, each a JPEG of its own."""
    places = (image.tag_v2.get(tag, ()) for tag in (TiffImagePlugin.TILEOFFSETS, TiffImagePlugin.STRIPOFFSETS))
    return sum(len(found) if isinstance(found, tuple) else 1 for found in places)


def _scans(content: IO[bytes], most: int) -> int:
    """The scans of a JPEG, as its decoder finds them, or some number above `most`. What lies behind its end, such as a video,
    and what its segments hold, such as a thumbnail, are none of it."""
    place = scans = 0
    while True:
        content.seek(place)
        block, at = content.read(BLOCK), 0
        while found := SEGMENT.search(block, at, len(block) - 2):  # so that its length is in the block as well
            at, kind = found.end(), block[found.end() - 1]
            scans += kind == SCAN
            if kind == END or scans > most:
                return scans
            at += int.from_bytes(block[at : at + 2])
        if len(block) < BLOCK:
            return scans
        place += max(at, BLOCK - 3)


def _marks_of_scans(content: IO[bytes]) -> int:
    """How often the mark of a scan stands anywhere in a file."""
    content.seek(0)
    marks, last = 0, b""
    while block := content.read(BLOCK):
        marks += (last + block).count(bytes((0xFF, SCAN)))
        last = block[-1:]
    return marks


def _said(error: Exception, formats: tuple[str, ...]) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return f"it is none of {', '.join(formats)}, or damaged"
    if isinstance(error, OSError | SyntaxError | ValueError) and str(error):
        return shown(str(error))
    return shown(f"{type(error).__name__}: {error}")


def size(source: pathlib.Path | bytes) -> tuple[int, int]:
    """(height, width) out of a file's first bytes."""
    return read(source, lambda image: (image.height, image.width))


def colours(source: pathlib.Path | bytes, formats: tuple[str, ...] = FORMATS) -> np.ndarray:
    """uint8 [H, W, 3]."""
    return read(source, rgb, formats)


def rgb(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3]; of 16 bits, the upper 8. ValueError where numbers of no known range stand for colours."""
    image.load()  # NumPy takes an AttributeError in it for an image without pixels
    if image.mode in WIDE:  # Pillow takes the upper 8 bits of colours itself, and would clip grey values
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its mode {image.mode} has one 32-bit number a pixel, which is no colour; save it with 8 or 16 bits a colour"
        )
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def numbers(source: pathlib.Path | bytes, modes: Sequence[str], what: str) -> np.ndarray:
    """One number a pixel, [H, W]: those of a palette, grey values. modes: of Pillow, that are accepted. what: it is. BadFile
    as of `read`, and for a number below 0."""

    def take(image: Image.Image) -> np.ndarray:
        if image.mode not in modes:
            raise ValueError(f"it has colours (mode {image.mode}) where one number a pixel belongs")
        image.load()
        found = np.array(image)
        if found.dtype.kind == "i":
            check_labels(found)
        return found

    return read(source, take, tuple(name for name in FORMATS if name != "JPEG"), f"a {what}")  # which changes numbers
