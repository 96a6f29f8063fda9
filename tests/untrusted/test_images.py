"""Images: allowed formats, size checks before allocation, and one-line errors for decoder exceptions."""

import io
import os
import pathlib
import re
import struct
import subprocess
import sys
import zlib

import fuzz
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

import hyperseg_jax
from hyperseg_jax.datasets import files, labels
from hyperseg_jax.errors import UserError
from hyperseg_jax.predictors.model import read_image
from hyperseg_jax.untrusted import images, limits
from hyperseg_jax.untrusted.bad_file import BadFile

PACKAGE = pathlib.Path(hyperseg_jax.__file__).parent
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\n0 0 40 30 rectfill\nshowpage\n%%EOF\n"


def encode(form, size=(12, 9), mode="RGB", **options):
    data = io.BytesIO()
    Image.new(mode, size, 7).save(data, form, **options)
    return data.getvalue()


def make_header(width, height):
    """Returns a png of a few bytes whose header declares this size."""
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", [*images.FORMATS, "MPO"])
def test_accepted_formats(tmp_path, form):
    path = tmp_path / "any.name"
    path.write_bytes(encode(form))
    assert images.read_rgb(path).shape == (9, 12, 3) and images.read_size(path) == (9, 12)
    assert files.read_image(path, (9, 12)).dtype == np.uint8


@pytest.mark.parametrize("form", ["PPM", "ICO", "PCX", "TGA", "SGI", "IM", "DDS", "EPS", "PDF"])
def test_other_formats_are_refused(tmp_path, form):
    path = tmp_path / "named.jpg"
    path.write_bytes(encode(form))
    with pytest.raises(UserError, match=r"named\.jpg: cannot be read as an image \(it is none of JPEG, PNG"):
        files.read_image(path)


def test_postscript_starts_no_program(tmp_path, monkeypatch):
    """Pillow would start `gs` for it, here a fake one that creates a file."""
    mark, program = tmp_path / "started", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    path = tmp_path / "eps_named.jpg"
    path.write_bytes(POSTSCRIPT)
    for read in (files.read_image, files.read_image_size, lambda p: labels.read_label_image(p, (30, 40))):
        with pytest.raises(UserError, match=r"it is none of (JPEG, )?PNG"):
            read(path)
    assert not mark.exists()


@pytest.mark.parametrize("data", [make_header(13_000, 13_000), make_header(60_000, 60_000)])
def test_sizes_are_checked_before_allocation(tmp_path, monkeypatch, data):
    path = tmp_path / "bomb.png"
    path.write_bytes(data)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("was decoded"))
    with pytest.raises(UserError, match=r"bomb\.png: .*raise limits\.pixels"):
        files.read_image(path)


def test_limits_above_pillows(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    data = encode("PNG", (40, 30))
    assert images.read_size(data) == (30, 40)
    with (
        limits.temporary_limits(pixels=1199),
        pytest.raises(BadFile, match=r"is 40x30 pixels, and the limit is 1199; .*limits\.pixels"),
    ):
        images.read_rgb(data)


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, AttributeError, MemoryError, struct.error, zlib.error])
def test_decoder_exceptions_are_one_line(tmp_path, monkeypatch, error):
    def fail(self):
        raise error("of a plug-in\n\x1b[31m")

    path = tmp_path / "a.png"
    path.write_bytes(encode("PNG"))
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(UserError, match=rf"a\.png: cannot be read as an image .*{error.__name__}") as excinfo:
        files.read_image(path)
    assert str(excinfo.value).isprintable()


def test_special_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "zero.jpg"):
        for read in (files.read_image, files.read_image_size, lambda p: labels.read_label_image(p, (3, 3)), files.read_json):
            with pytest.raises(UserError, match="is not a regular file"):
                read(tmp_path / name)


@pytest.mark.parametrize("progressive", [True, False])
def test_jpeg_with_too_many_scans(progressive):
    data = encode("JPEG", progressive=progressive)
    assert images.read_rgb(data).shape == (9, 12, 3)
    at = data.rindex(b"\xff\xda")
    with pytest.raises(BadFile, match="more than 200 JPEG scans"):
        images.read_rgb(data[:at] + data[at:-2] * 300 + data[-2:])


@pytest.mark.parametrize("block", [7, 2**20])
def test_only_real_scans_are_counted(monkeypatch, block):
    """Data after a JPEG and inside its segments is not counted as scans."""
    monkeypatch.setattr(images, "BLOCK", block)
    data, marks = encode("JPEG"), b"\xff\xda" * 300
    note = b"\xff\xee" + struct.pack(">H", 2 + len(marks)) + marks
    for sound in (data + marks, data[:2] + note + data[2:], encode("MPO") + marks):
        assert np.array_equal(images.read_rgb(sound), images.read_rgb(data))
    at = data.rindex(b"\xff\xda")
    with pytest.raises(BadFile, match="more than 200 JPEG scans"):
        images.read_rgb(data[:-2] + note + b"\xff\xd0\xff\x01" + data[at:-2] * 200 + data[-2:])


@pytest.mark.parametrize("compression", ["raw", "packbits"])
def test_tiff_pixels_are_not_counted_as_scans(compression):
    colour = np.full((40, 60, 3), (255, 218, 185), np.uint8)
    assert np.array_equal(images.read_rgb(encode_array(colour, "TIFF", compression=compression)), colour)
    grey = np.full((40, 60), 0xDAFF, np.uint16)
    assert np.array_equal(
        images.read_numbers(encode_array(grey, "TIFF", compression=compression), labels.MODES, "label image"), grey
    )


@pytest.mark.parametrize(
    "compression", ["packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "lzma", "zstd", "group3", "group4", "tiff_ccitt"]
)
def test_damaged_tiffs_print_nothing(capfd, compression):
    """Files that Pillow would accept despite libtiff errors, such as a truncated fax, are refused."""
    mode, random = ("1" if compression.startswith(("g", "tiff_c")) else "RGB"), np.random.default_rng(5)
    colours = random.integers(0, 2 if mode == "1" else 256, (40, 50, len(mode))).astype(np.uint8).squeeze() * (
        255 if mode == "1" else 1
    )
    data, messages = io.BytesIO(), []
    Image.fromarray(colours).convert(mode).save(data, "TIFF", compression=compression)
    assert images.read_rgb(data.getvalue()).shape == (40, 50, 3)
    for _ in range(60):
        bad = bytearray(data.getvalue())
        bad[random.integers(8, len(bad))] = random.integers(256)
        bad = bad[: random.integers(8, len(bad))] if random.random() < 0.3 else bad
        try:
            images.read_rgb(bytes(bad))
        except BadFile as error:
            messages.append(str(error))
    assert messages and capfd.readouterr() == ("", "")
    assert compression not in ("group4", "tiff_ccitt") or any("is a damaged TIFF (" in line for line in messages)


def make_tiled_tiff(side, compression, data):
    """Returns a TIFF of 1 x 1 pixel in a tile of side x side."""
    fields = [(256, 1), (257, 1), (258, 8), (259, compression), (262, 1), (277, 1), (322, side), (323, side), (325, len(data))]
    fields = sorted([*fields, (324, 8 + 2 + 12 * (len(fields) + 1) + 4)])
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + bytes(4) + data


def test_tiles_are_limited_like_images():
    assert images.read_rgb(make_tiled_tiff(64, 8, zlib.compress(bytes(64 * 64)))).shape == (1, 1, 3)
    with pytest.raises(BadFile, match=r"has tiles of 46336x46336 pixels, and the limit is .*raise limits\.pixels"):
        images.read_rgb(make_tiled_tiff(46336, 8, zlib.compress(bytes(100))))


def test_scans_of_jpeg_compressed_tiffs():
    data = encode("TIFF", (64, 64), compression="jpeg")
    assert images.read_rgb(data).shape == (64, 64, 3)
    with pytest.raises(BadFile, match="more than 204 JPEG scans"):
        images.read_rgb(data + b"\xff\xda" * 300)


STEPS = (np.arange(108, dtype=np.uint16).reshape(9, 12) * 607) & 0xFFFF


def encode_array(array, form="PNG", **options):
    data = io.BytesIO()
    Image.fromarray(array).save(data, form, **options)
    return data.getvalue()


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_images_and_labels(form):
    data = encode_array(STEPS, form)
    assert np.array_equal(images.read_rgb(data), np.repeat((STEPS // 256).astype(np.uint8)[..., None], 3, axis=2))
    assert np.array_equal(images.read_numbers(data, labels.MODES, "label image"), STEPS)
    grey = np.arange(108, dtype=np.uint8).reshape(9, 12)
    assert np.array_equal(
        images.read_rgb(encode_array(grey.astype(np.uint16) * 257, form)), images.read_rgb(encode_array(grey, form))
    )
    assert np.array_equal(read_image(Image.open(io.BytesIO(data))), images.read_rgb(data))


def test_opened_images_are_as_their_files():
    """Upright, unless they have been turned already, and on white."""
    tags = Image.Exif()
    tags[0x0112] = 6
    pixels = (np.arange(60) * 4).astype(np.uint8).reshape(5, 3, 4)
    stored = Image.fromarray(pixels, "RGBA")
    for form in ("PNG", "TIFF"):
        data = io.BytesIO()
        stored.save(data, form, exif=tags)
        shown = images.read_rgb(data.getvalue())
        assert shown.shape == (3, 5, 3) and np.array_equal(read_image(Image.open(data)), shown)
        assert np.array_equal(read_image(ImageOps.exif_transpose(Image.open(data))), shown)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_images_without_a_value_range_are_refused(tmp_path, dtype):
    path = tmp_path / "a.tif"
    path.write_bytes(encode_array(STEPS.astype(dtype), "TIFF"))
    with pytest.raises(UserError, match=r"a\.tif: .*has one 32-bit number per pixel, not a colour; save it with 8 or 16"):
        files.read_image(path)
    with pytest.raises(UserError, match="has one 32-bit number per pixel, not a colour"):
        read_image(Image.open(path))


NOISY = """
import pathlib, sys, warnings
from hyperseg_jax.untrusted import images
for path in sys.argv[1:]:
    try:
        images.read_rgb(pathlib.Path(path).read_bytes())
    except Exception as error:
        print(error)
from PIL import Image, TiffImagePlugin
TiffImagePlugin.logger.error("of a file")
warnings.warn_explicit("of a file", UserWarning, "x.py", 1, module="PIL.Image")
warnings.warn("of the user")
"""


def test_no_warnings_are_printed(tmp_path):
    """Pillow warns about large sizes, damaged metadata and transparency."""
    exif = Image.Exif()
    exif[0x010E] = "a text" * 50
    contents = {
        "large.png": make_header(10_000, 10_000),
        "exif.tif": encode("TIFF", exif=exif)[:-40],
        "palette.png": encode("PNG", mode="P", transparency=b"\0\1\2"),
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    output = subprocess.run(
        [sys.executable, "-W", "default", "-c", NOISY, *(str(tmp_path / name) for name in contents)],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
        timeout=60,
    )
    assert "limits.pixels" in output.stdout and output.stderr.count("Warning") == 1 and "of the user" in output.stderr


def check_image(data):
    """Asserts pixels or a one-line error."""
    with limits.temporary_limits(pixels=10_000):
        result = fuzz.check_call(lambda: images.read_rgb(data))
    assert isinstance(result, BadFile) or (result.ndim == 3 and result.dtype == np.uint8)


def damaged_images():
    """Returns strategies for damaged images of all formats."""
    sound = [encode(form, (24, 18)) for form in (*images.FORMATS, "MPO")]
    return st.one_of([fuzz.damaged_bytes(data) for data in [*sound, encode("JPEG", progressive=True), encode_array(STEPS)]])


def test_damaged_images():
    fuzz.run_property(check_image, damaged_images(), examples=300)


@pytest.mark.slow
def test_damaged_images_for_long(run_property_long):
    run_property_long(check_image, damaged_images())


ONLY = {  # what opens files of others, and the one place of the project that calls it
    r"\bImage\.open\(": ["untrusted/images.py"],
    r"\bav\.open\(": ["untrusted/videos.py"],
    r"\burl_to_fs\(|fsspec\.(open|filesystem)\(": ["untrusted/stores.py"],
    r"\bloadmat\(": [],
    r"builder_from_directory|FeatureConnector": [],
}


@pytest.mark.parametrize("call", ONLY)
def test_untrusted_files_are_opened_in_one_place(call):
    folders = (PACKAGE, PACKAGE.parent / "benchmarks", PACKAGE.parent / "launch")
    result = [path for folder in folders for path in folder.rglob("*.py") if re.search(call, path.read_text())]
    assert [str(path.relative_to(PACKAGE)) for path in result] == ONLY[call]
