"""Decodes images from untrusted files, with an allowlist of formats and size checks before memory is allocated.

All images of the project are opened here.
"""

from __future__ import annotations

import io
import logging
import os
import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import IO, TypeVar

import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

from hyperseg_jax.untrusted import image_parts, libtiff, limits, paths
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.label_maps import check_labels
from hyperseg_jax.untrusted.mask_images import to_mask
from hyperseg_jax.untrusted.orientation import UPRIGHT, turn_upright
from hyperseg_jax.untrusted.printing import escaped, escaped_value

warnings.filterwarnings("ignore", module=r"PIL\b")  # problems of files are reported as one line, or not at all
logging.getLogger("PIL").setLevel(logging.CRITICAL)

T = TypeVar("T")
Take = Callable[[Image.Image, int], T]
"""Takes something from an opened image, given its EXIF orientation."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""The supported formats; JPEG includes MPO, of which the first picture is read. Their decoders start no programs and open no
other files. Animations and files of several pages are refused."""
LOSSLESS = tuple(name for name in FORMATS if name != "JPEG")
WIDE = ("I;16", "I;16L", "I;16B", "I;16N")
BYTES = 8
OTHER_BYTES: dict[str | None, int] = {"BMP": 2**20, "TIFF": 2**40, None: 2**27}
"""Maximum bytes per pixel, and bytes of everything else by format: metadata and other frames. Other pages of a TIFF are not
read."""
PASSES = 8
"""Maximum number of times that a pixel is decoded: once for each channel."""
GREY_STEPS = {"2": 85, "4": 17}
"""Factor by which Pillow multiplies grey values of fewer than 8 bits, by their bits."""
SCANS = 200
"""Maximum number of scans of a JPEG, plus four for each tile or strip of a TIFF; a small file with more could take hours."""
BLOCK = 2**20
WHITE_IS_ZERO, SIGNED = 0, 2
"""Values of the TIFF tags PhotometricInterpretation and SampleFormat."""
TIFF_OF_JPEGS = (6, 7)
"""TIFF compression types that contain JPEGs."""
SAVE_GREY = "save it with unsigned numbers of 8 or 16 bits, 0 as black"
STILL = "save one of them as an image, or all of them as a video or as a folder of frames"
TOO_LARGE = "if that is intended, raise limits.pixels"


def open_and_take(source: pathlib.Path | bytes, take: Take[T], formats: tuple[str, ...] = FORMATS, what: str = "an image") -> T:
    """Opens an image file or its bytes and returns take(image, EXIF orientation).

    formats: a subset of FORMATS. what: what the image is, for messages. Raises BadFile if it is not an image of these formats,
    is an animation or has several pages, has more than limits.pixels pixels, or if decoding or `take` raises an exception;
    FileNotFoundError if there is no file.
    """
    try:
        with _open_source(source) as content:
            return _check_and_take(content, take, formats)
    except (BadFile, FileNotFoundError):
        raise
    except Image.DecompressionBombError as error:
        raise BadFile(f"has more pixels than the limit of {limits.current().pixels}", TOO_LARGE) from error
    except Exception as error:  # decoders raise many types
        raise BadFile(f"cannot be read as {what} ({_describe_error(error, formats)})", image_parts.AGAIN) from error


def _check_and_take(content: IO[bytes], take: Take[T], formats: tuple[str, ...]) -> T:
    """Checks the size of the image before it is decoded, then returns take(image, EXIF orientation)."""
    limit = limits.current().pixels
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, limit)  # raises Pillow's own limit if ours is larger
    size = content.seek(0, os.SEEK_END)
    if size > limit * BYTES:
        raise BadFile(f"has {size} bytes, more than an image of {limit} pixels needs", TOO_LARGE)
    content.seek(0)
    content, orientation, is_movie = image_parts.without_metadata(content)
    with Image.open(content, formats=formats) as image:
        _check_size(image, size, limit)
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            _check_tiles(image, limit)
            _check_samples(image)
        _check_scans(image, content)
        if is_movie or (image.format in ("GIF", "WEBP") and getattr(image, "is_animated", False)):
            raise BadFile("has several frames", STILL)
        with libtiff.collect_errors() as errors:
            result = take(image, orientation)
        if errors:  # Pillow returns partial data of damaged files
            raise BadFile(f"is a damaged TIFF ({escaped(errors[0])})", image_parts.AGAIN)
        return result


def _open_source(source: pathlib.Path | bytes) -> IO[bytes]:
    return io.BytesIO(source) if isinstance(source, bytes) else paths.open_file(source)


def _check_size(image: Image.Image, size: int, limit: int) -> None:
    """Checks the number of pixels, that of the bytes of the file, and how often each pixel is decoded."""
    pixels, shape = image.width * image.height, f"{image.width}x{image.height} pixels"
    if pixels > limit:
        raise BadFile(f"is {shape}, and the limit is {limit}", TOO_LARGE)
    if size > pixels * BYTES + OTHER_BYTES.get(image.format, OTHER_BYTES[None]):
        raise BadFile(f"has {size} bytes, more than {shape} need", image_parts.SAVE)
    areas = (tile.extents or (0, 0, 0, 0) for tile in getattr(image, "tile", ()))
    if sum((right - left) * (bottom - top) for left, top, right, bottom in areas) > pixels * PASSES:
        raise BadFile("decodes its pixels too often", "save it again, or remove it")


def _check_tiles(image: TiffImagePlugin.TiffImageFile, limit: int) -> None:
    """Checks the size of a tile, which is decoded completely even if it is larger than the image."""
    width, height = (image.tag_v2.get(tag, 1) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH))
    if not isinstance(width, int) or not isinstance(height, int) or width * height > limit:
        raise BadFile(
            f"has tiles of {escaped_value(width)}x{escaped_value(height)} pixels, and the limit is {limit}", TOO_LARGE
        )


def _check_samples(image: TiffImagePlugin.TiffImageFile) -> None:
    """Refuses numbers of a TIFF that Pillow would convert to other numbers: 12 bits, signed with 8 bits, inverted with 16."""
    tags = image.tag_v2
    bits, signs = (tags.get(tag, ()) for tag in (TiffImagePlugin.BITSPERSAMPLE, TiffImagePlugin.SAMPLEFORMAT))
    is_inverted = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == WHITE_IS_ZERO
    if 12 in bits or (8 in bits and SIGNED in signs) or (16 in bits and is_inverted):
        raise BadFile("is a TIFF with numbers of 12 bits, signed numbers, or inverted 16 bits", SAVE_GREY)


def _check_scans(image: Image.Image, content: IO[bytes]) -> None:
    """Checks the number of scans of a JPEG, or of a TIFF that contains JPEGs."""
    position, scans, limit = content.tell(), 0, SCANS
    if image.format == "JPEG":
        scans = _count_scans(content, limit)
    elif isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(TiffImagePlugin.COMPRESSION) in TIFF_OF_JPEGS:
        limit += 4 * _count_tiles(image)
        scans = _count_scan_markers(content)
    content.seek(position)
    if scans > limit:
        raise BadFile(f"has more than {limit} JPEG scans", "save it again as a baseline JPEG, or remove it")


def _count_tiles(image: TiffImagePlugin.TiffImageFile) -> int:
    """Counts the tiles or strips of a TIFF, each of which is a separate JPEG."""
    tags = (image.tag_v2.get(tag, ()) for tag in (TiffImagePlugin.TILEOFFSETS, TiffImagePlugin.STRIPOFFSETS))
    return sum(len(offsets) if isinstance(offsets, tuple) else 1 for offsets in tags)


def _count_scans(content: IO[bytes], limit: int) -> int:
    """Counts the scans of a JPEG as its decoder finds them, up to a number above `limit`. Data after the end marker, such as a
    video, and data in segments, such as a thumbnail, are not counted."""
    position = scans = 0
    while True:
        content.seek(position)
        block, at = content.read(BLOCK), 0
        while match := image_parts.SEGMENT.search(
            block, at, len(block) - 2
        ):  # the length of the segment must be in the block too
            at, kind = match.end(), block[match.end() - 1]
            scans += kind == image_parts.SCAN
            if kind == image_parts.END or scans > limit:
                return scans
            at += int.from_bytes(block[at : at + 2])
        if len(block) < BLOCK:
            return scans
        position += max(at, BLOCK - 3)


def _count_scan_markers(content: IO[bytes]) -> int:
    """Counts the scan markers anywhere in a file."""
    content.seek(0)
    markers, last = 0, b""
    while block := content.read(BLOCK):
        markers += (last + block).count(bytes((0xFF, image_parts.SCAN)))
        last = block[-1:]
    return markers


def _describe_error(error: Exception, formats: tuple[str, ...]) -> str:
    """Describes an exception of Pillow for a message."""
    if isinstance(error, Image.UnidentifiedImageError):
        return f"it is none of {', '.join(formats)}, or damaged"
    if isinstance(error, OSError | SyntaxError | ValueError) and str(error):
        return escaped(str(error))
    return escaped(f"{type(error).__name__}: {error}")


def read_size(source: pathlib.Path | bytes) -> tuple[int, int]:
    """Returns (height, width) from the header of an image file, as it is to be shown."""
    return open_and_take(source, lambda image, turn: (image.width, image.height) if turn >= 5 else (image.height, image.width))


def read_orientation(source: pathlib.Path | bytes) -> int:
    """Returns the EXIF orientation of an image file."""
    return open_and_take(source, lambda _, orientation: orientation)


def read_rgb(source: pathlib.Path | bytes, formats: tuple[str, ...] = FORMATS) -> np.ndarray:
    """Reads an image as RGB, uint8 [H, W, 3], upright and on white."""
    return open_and_take(source, to_rgb, formats)


def read_colours(source: pathlib.Path | bytes) -> np.ndarray:
    """Reads an image whose colours are numbers, uint8 [H, W, 3], upright. Its transparency is ignored."""

    def take(image: Image.Image, orientation: int) -> np.ndarray:
        if image.mode in (*WIDE, "I", "F"):
            raise ValueError(f"it has no colours of 8 bits (mode {image.mode}), which are expected as numbers")
        return turn_upright(np.asarray(image.convert("RGB")), orientation)

    return open_and_take(source, take, LOSSLESS)


def read_mask(source: pathlib.Path | bytes, what: str = "mask") -> tuple[np.ndarray, bool]:
    """Reads a black and white image as bool [H, W], upright; and whether it had other values (mask_images). what: what the
    image is, for messages."""

    def take(image: Image.Image, orientation: int) -> tuple[np.ndarray, bool]:
        mask, is_grey = to_mask(image)
        return turn_upright(mask, orientation), is_grey

    return open_and_take(source, take, what=f"a {what}")


def to_rgb(image: Image.Image, orientation: int = UPRIGHT) -> np.ndarray:
    """Converts an image to uint8 [H, W, 3], turned by its EXIF orientation. Transparent pixels are shown on white, and 16-bit
    images keep the upper 8 bits. Raises ValueError for 32-bit images, whose value range is unknown."""
    image.load()  # otherwise NumPy treats an AttributeError during loading as an image without pixels
    if image.mode in WIDE:  # Pillow keeps the upper 8 bits of colours, but would clip grey values
        numbers = np.asarray(image)
        grey = np.where(numbers == image.info.get("transparency", -1), 255, numbers >> 8).astype(np.uint8)
        return turn_upright(np.repeat(grey[..., None], 3, axis=2), orientation)
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its mode {image.mode} has one 32-bit number per pixel, not a colour; save it with 8 or 16 bits per channel"
        )
    if image.has_transparency_data:
        shown = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), shown)
    return turn_upright(np.asarray(image if image.mode == "RGB" else image.convert("RGB")), orientation)


def read_numbers(source: pathlib.Path | bytes, modes: Sequence[str], what: str) -> np.ndarray:
    """Reads an image with one number per pixel, [H, W], upright: the palette indices or grey values of the file. In a TIFF with
    one bit per pixel, white is 1.

    modes: accepted modes of Pillow. what: what the image is, for messages. Raises BadFile as `open_and_take`, and for negative
    or inverted numbers.
    """

    def take(image: Image.Image, orientation: int) -> np.ndarray:
        if image.mode not in modes:
            raise ValueError(f"it has colours (mode {image.mode}), expected one number per pixel")
        factor = _grey_step(image)
        image.load()
        array = np.array(image)
        if array.dtype.kind == "i":
            check_labels(array)
        return turn_upright(array if factor == 1 else array // factor, orientation)

    return open_and_take(source, take, LOSSLESS, f"a {what}")


def _grey_step(image: Image.Image) -> int:
    """Returns the factor by which Pillow multiplies the grey values of a file, before the image is loaded. Raises BadFile if it
    inverts them."""
    bits = ""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = str(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))[0])
        if image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == WHITE_IS_ZERO and bits != "1":
            raise BadFile("is a TIFF with inverted numbers", SAVE_GREY)
    elif isinstance(image, PngImagePlugin.PngImageFile):
        bits = str(image.tile[0].args).partition(";")[2]  # "L;4"
    return GREY_STEPS.get(bits, 1) if image.mode == "L" else 1
