"""Pictures: formats by name, size before memory, and one line for whatever a decoder raises."""

import io
import os
import pathlib
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import hyperseg_jax
from hyperseg_jax.datasets import files, labels
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import limits, pictures
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


@pytest.mark.parametrize("form", [*pictures.FORMATS, "MPO"])
def test_accepted_formats(tmp_path, form):
    path = tmp_path / "any.name"
    path.write_bytes(written(form))
    assert pictures.colours(path).shape == (9, 12, 3) and pictures.size(path) == (9, 12)
    assert files.read_picture(path, (9, 12)).dtype == np.uint8


@pytest.mark.parametrize("form", ["PPM", "ICO", "PCX", "TGA", "SGI", "IM", "DDS", "EPS", "PDF"])
def test_other_formats_are_refused(tmp_path, form):
    path = tmp_path / "named.jpg"
    path.write_bytes(written(form))
    with pytest.raises(UserError, match=r"named\.jpg: cannot be read as a picture \(it is none of JPEG, PNG"):
        files.read_picture(path)


def test_postscript_starts_nothing(tmp_path, monkeypatch):
    """Pillow would start `gs` for it, here one that leaves a mark."""
    mark, program = tmp_path / "started", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    path = tmp_path / "eps_named.jpg"
    path.write_bytes(POSTSCRIPT)
    for read in (files.read_picture, files.picture_shape, lambda p: labels.read_labels(p, (30, 40))):
        with pytest.raises(UserError, match="it is none of JPEG, PNG"):
            read(path)
    assert not mark.exists()


@pytest.mark.parametrize("data", [announced(13_000, 13_000), announced(60_000, 60_000)])
def test_the_size_is_told_before_memory_is_taken(tmp_path, monkeypatch, data):
    path = tmp_path / "bomb.png"
    path.write_bytes(data)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("was decoded"))
    with pytest.raises(UserError, match=r"bomb\.png: .*raise limits\.pixels"):
        files.read_picture(path)


def test_a_larger_limit_is_obeyed_beyond_that_of_pillow(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    data = written("PNG", (40, 30))
    assert pictures.size(data) == (30, 40)
    with limits.applied(pixels=1199), pytest.raises(BadFile, match=r"is 40x30 pixels, and the limit is 1199; .*limits\.pixels"):
        pictures.colours(data)


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, AttributeError, MemoryError, struct.error, zlib.error])
def test_whatever_a_decoder_raises_is_one_line(tmp_path, monkeypatch, error):
    def fail(self):
        raise error("of a plug-in\n\x1b[31m")

    path = tmp_path / "a.png"
    path.write_bytes(written("PNG"))
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(UserError, match=rf"a\.png: cannot be read as a picture .*{error.__name__}") as told:
        files.read_picture(path)
    assert str(told.value).isprintable()


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "zero.jpg"):
        for read in (files.read_picture, files.picture_shape, lambda p: labels.read_labels(p, (3, 3)), files.read_json):
            with pytest.raises(UserError, match="is no regular file"):
                read(tmp_path / name)


def test_a_jpeg_of_scans_without_end(tmp_path):
    data = written("JPEG", progressive=True)
    assert pictures.colours(data).shape == (9, 12, 3)
    at = data.rindex(b"\xff\xda")
    with pytest.raises(BadFile, match="scans, where 200 are the most"):
        pictures.colours(data[:at] + data[at:-2] * 300 + data[-2:])


@pytest.mark.parametrize("form", [*pictures.FORMATS, "MPO"])
def test_cut_and_changed_files(form):
    """Pixels or one line."""
    data, rng = written(form, (24, 18)), np.random.default_rng(0)
    for k in range(60):
        changed = bytearray(data[: int(rng.integers(len(data)))] if k % 3 == 0 else data)
        for at in rng.integers(len(changed) or 1, size=3):
            if changed:
                changed[at] = rng.integers(256)
        with limits.applied(pixels=10_000):
            try:
                assert pictures.colours(bytes(changed)).ndim == 3
            except BadFile as error:
                assert "\n" not in str(error)


ONLY = {  # what opens files of others, and the one place of the project that calls it
    r"\bImage\.open\(": ["untrusted/pictures.py"],
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
