"""Pictures: formats by name, size before memory, and one line for whatever a decoder raises."""

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
from PIL import Image, PngImagePlugin

import hyperseg_jax
from hyperseg_jax.datasets import files, labels
from hyperseg_jax.errors import UserError
from hyperseg_jax.predictors.model import read_image
from hyperseg_jax.untrusted import images, limits
from hyperseg_jax.untrusted.bad_file import BadFile

PACKAGE = pathlib.Path(hyperseg_jax.__file__).parent
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\n0 0 40 30 rectfill\nshowpage\n%%EOF\n"


def written(form, size=(12, 9), mode="RGB", **options):
    data = io.BytesIO()
    Image.new(mode, size, 7).save(data, form, **options)
    return data.getvalue()


def announced(width, height):
    """A png of a few bytes whose header promises this size."""
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", [*images.FORMATS, "MPO"])
def test_accepted_formats(tmp_path, form):
    path = tmp_path / "any.name"
    path.write_bytes(written(form))
    assert images.colours(path).shape == (9, 12, 3) and images.size(path) == (9, 12)
    assert files.read_image(path, (9, 12)).dtype == np.uint8


@pytest.mark.parametrize("form", ["PPM", "ICO", "PCX", "TGA", "SGI", "IM", "DDS", "EPS", "PDF"])
def test_other_formats_are_refused(tmp_path, form):
    path = tmp_path / "named.jpg"
    path.write_bytes(written(form))
    with pytest.raises(UserError, match=r"named\.jpg: cannot be read as an image \(it is none of JPEG, PNG"):
        files.read_image(path)


def test_postscript_starts_nothing(tmp_path, monkeypatch):
    """Pillow would start `gs` for it, here one that leaves a mark."""
    mark, program = tmp_path / "started", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    path = tmp_path / "eps_named.jpg"
    path.write_bytes(POSTSCRIPT)
    for read in (files.read_image, files.image_shape, lambda p: labels.read_labels(p, (30, 40))):
        with pytest.raises(UserError, match=r"it is none of (JPEG, )?PNG"):
            read(path)
    assert not mark.exists()


@pytest.mark.parametrize("data", [announced(13_000, 13_000), announced(60_000, 60_000)])
def test_the_size_is_told_before_memory_is_taken(tmp_path, monkeypatch, data):
    path = tmp_path / "bomb.png"
    path.write_bytes(data)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("was decoded"))
    with pytest.raises(UserError, match=r"bomb\.png: .*raise limits\.pixels"):
        files.read_image(path)


def test_a_larger_limit_is_obeyed_beyond_that_of_pillow(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    data = written("PNG", (40, 30))
    assert images.size(data) == (30, 40)
    with limits.applied(pixels=1199), pytest.raises(BadFile, match=r"is 40x30 pixels, and the limit is 1199; .*limits\.pixels"):
        images.colours(data)


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, AttributeError, MemoryError, struct.error, zlib.error])
def test_whatever_a_decoder_raises_is_one_line(tmp_path, monkeypatch, error):
    def fail(self):
        raise error("of a plug-in\n\x1b[31m")

    path = tmp_path / "a.png"
    path.write_bytes(written("PNG"))
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(UserError, match=rf"a\.png: cannot be read as an image .*{error.__name__}") as told:
        files.read_image(path)
    assert str(told.value).isprintable()


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "zero.jpg"):
        for read in (files.read_image, files.image_shape, lambda p: labels.read_labels(p, (3, 3)), files.read_json):
            with pytest.raises(UserError, match="is not a regular file"):
                read(tmp_path / name)


@pytest.mark.parametrize("progressive", [True, False])
def test_a_jpeg_of_scans_without_end(progressive):
    data = written("JPEG", progressive=progressive)
    assert images.colours(data).shape == (9, 12, 3)
    at = data.rindex(b"\xff\xda")
    with pytest.raises(BadFile, match="a JPEG of more than 200 scans"):
        images.colours(data[:at] + data[at:-2] * 300 + data[-2:])


@pytest.mark.parametrize("block", [7, 2**20])
def test_what_only_looks_like_a_scan_is_none(monkeypatch, block):
    """A video behind a JPEG, and what its segments hold."""
    monkeypatch.setattr(images, "BLOCK", block)
    data, marks = written("JPEG"), b"\xff\xda" * 300
    note = b"\xff\xee" + struct.pack(">H", 2 + len(marks)) + marks
    for sound in (data + marks, data[:2] + note + data[2:], written("MPO") + marks):
        assert np.array_equal(images.colours(sound), images.colours(data))
    at = data.rindex(b"\xff\xda")
    with pytest.raises(BadFile, match="a JPEG of more than 200 scans"):
        images.colours(data[:-2] + note + b"\xff\xd0\xff\x01" + data[at:-2] * 200 + data[-2:])


@pytest.mark.parametrize("compression", ["raw", "packbits"])
def test_pixels_of_a_tiff_are_no_scans(compression):
    colour = np.full((40, 60, 3), (255, 218, 185), np.uint8)
    assert np.array_equal(images.colours(saved(colour, "TIFF", compression=compression)), colour)
    grey = np.full((40, 60), 0xDAFF, np.uint16)
    assert np.array_equal(images.numbers(saved(grey, "TIFF", compression=compression), labels.MODES, "label image"), grey)


@pytest.mark.parametrize(
    "compression", ["packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "lzma", "zstd", "group3", "group4", "tiff_ccitt"]
)
def test_libtiff_prints_nothing_of_a_damaged_tiff(capfd, compression):
    """And what Pillow would take in spite of a complaint, such as the rest of a fax, is refused."""
    mode, random = ("1" if compression.startswith(("g", "tiff_c")) else "RGB"), np.random.default_rng(5)
    colours = random.integers(0, 2 if mode == "1" else 256, (40, 50, len(mode))).astype(np.uint8).squeeze() * (
        255 if mode == "1" else 1
    )
    data, said = io.BytesIO(), []
    Image.fromarray(colours).convert(mode).save(data, "TIFF", compression=compression)
    assert images.colours(data.getvalue()).shape == (40, 50, 3)
    for _ in range(60):
        bad = bytearray(data.getvalue())
        bad[random.integers(8, len(bad))] = random.integers(256)
        bad = bad[: random.integers(8, len(bad))] if random.random() < 0.3 else bad
        try:
            images.colours(bytes(bad))
        except BadFile as error:
            said.append(str(error))
    assert said and capfd.readouterr() == ("", "")
    assert compression not in ("group4", "tiff_ccitt") or any("is a damaged TIFF (" in line for line in said)


def tiled(side, compression, data):
    """A TIFF of 1 x 1 pixel in a tile of side x side."""
    fields = [(256, 1), (257, 1), (258, 8), (259, compression), (262, 1), (277, 1), (322, side), (323, side), (325, len(data))]
    fields = sorted([*fields, (324, 8 + 2 + 12 * (len(fields) + 1) + 4)])
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + bytes(4) + data


def test_a_tile_counts_like_an_image():
    assert images.colours(tiled(64, 8, zlib.compress(bytes(64 * 64)))).shape == (1, 1, 3)
    with pytest.raises(BadFile, match=r"has tiles of 46336x46336 pixels, and the limit is .*raise limits\.pixels"):
        images.colours(tiled(46336, 8, zlib.compress(bytes(100))))


def test_a_jpeg_inside_a_tiff_has_scans_as_well():
    data = written("TIFF", (64, 64), compression="jpeg")
    assert images.colours(data).shape == (64, 64, 3)
    with pytest.raises(BadFile, match="a JPEG of more than 204 scans"):
        images.colours(data + b"\xff\xda" * 300)


STEPS = (np.arange(108, dtype=np.uint16).reshape(9, 12) * 607) & 0xFFFF


def saved(array, form="PNG", **options):
    data = io.BytesIO()
    Image.fromarray(array).save(data, form, **options)
    return data.getvalue()


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bits_are_scaled_in_images_and_kept_in_labels(form):
    data = saved(STEPS, form)
    assert np.array_equal(images.colours(data), np.repeat((STEPS // 256).astype(np.uint8)[..., None], 3, axis=2))
    assert np.array_equal(images.numbers(data, labels.MODES, "label image"), STEPS)
    grey = np.arange(108, dtype=np.uint8).reshape(9, 12)
    assert np.array_equal(images.colours(saved(grey.astype(np.uint16) * 257, form)), images.colours(saved(grey, form)))
    assert np.array_equal(read_image(Image.open(io.BytesIO(data))), images.colours(data))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_numbers_of_no_range_are_no_colours(tmp_path, dtype):
    path = tmp_path / "a.tif"
    path.write_bytes(saved(STEPS.astype(dtype), "TIFF"))
    with pytest.raises(UserError, match=r"a\.tif: .*has one 32-bit number per pixel, not a colour; save it with 8 or 16"):
        files.read_image(path)
    with pytest.raises(UserError, match="has one 32-bit number per pixel, not a colour"):
        read_image(Image.open(path))


NOISY = """
import pathlib, sys, warnings
from hyperseg_jax.untrusted import images
for path in sys.argv[1:]:
    try:
        images.colours(pathlib.Path(path).read_bytes())
    except Exception as error:
        print(error)
from PIL import Image, TiffImagePlugin
TiffImagePlugin.logger.error("of a file")
warnings.warn_explicit("of a file", UserWarning, "x.py", 1, module="PIL.Image")
warnings.warn("of the user")
"""


def test_nothing_is_said_beside_the_line(tmp_path):
    """Pillow warns of large sizes, damaged notes and transparency."""
    exif = Image.Exif()
    exif[0x010E] = "a text" * 50
    contents = {
        "large.png": announced(10_000, 10_000),
        "exif.tif": written("TIFF", exif=exif)[:-40],
        "palette.png": written("PNG", mode="P", transparency=b"\0\1\2"),
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    shown = subprocess.run(
        [sys.executable, "-W", "default", "-c", NOISY, *(str(tmp_path / name) for name in contents)],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
        timeout=60,
    )
    assert "limits.pixels" in shown.stdout and shown.stderr.count("Warning") == 1 and "of the user" in shown.stderr


def holds(data):
    """Pixels or one line."""
    with limits.applied(pixels=10_000):
        found = fuzz.kept_promise(lambda: images.colours(data))
    assert isinstance(found, BadFile) or (found.ndim == 3 and found.dtype == np.uint8)


def damaged():
    """Bytes of damaged images of all formats."""
    sound = [written(form, (24, 18)) for form in (*images.FORMATS, "MPO")]
    return st.one_of([fuzz.damaged_bytes(data) for data in [*sound, written("JPEG", progressive=True), saved(STEPS)]])


def test_damaged_images():
    fuzz.tried(holds, damaged(), examples=300)


@pytest.mark.slow
def test_damaged_images_for_long(tried_long):
    tried_long(holds, damaged())


ONLY = {  # what opens files of others, and the one place of the project that calls it
    r"\bImage\.open\(": ["untrusted/images.py"],
    r"\bav\.open\(": ["untrusted/videos.py"],
    r"\burl_to_fs\(|fsspec\.(open|filesystem)\(": ["untrusted/stores.py"],
    r"\bloadmat\(": [],
    r"builder_from_directory|FeatureConnector": [],
}


@pytest.mark.parametrize("call", ONLY)
def test_files_of_others_are_opened_in_one_place(call):
    folders = (PACKAGE, PACKAGE.parent / "benchmarks", PACKAGE.parent / "launch")
    found = [path for folder in folders for path in folder.rglob("*.py") if re.search(call, path.read_text())]
    assert [str(path.relative_to(PACKAGE)) for path in found] == ONLY[call]
