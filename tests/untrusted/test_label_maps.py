"""Matrices of MATLAB files, as SciPy writes them, and damaged ones."""

import os
import tracemalloc

import numpy as np
import pytest
from scipy.io import savemat

from hyperseg_jax.untrusted import label_maps, limits
from hyperseg_jax.untrusted.bad_file import BadFile

LABELS = np.arange(35, dtype=np.uint16).reshape(5, 7) * 11


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "u4", "f8"])
def test_what_scipy_writes(tmp_path, compressed, dtype):
    wanted = (LABELS % 200).astype(dtype)
    content = {"other": np.ones((3, 3)), "text": "hello", "LabelMap": wanted, "cell": np.array([[1], ["a"]], object)}
    savemat(tmp_path / "a.mat", content, do_compression=compressed)
    found = label_maps.read(tmp_path / "a.mat", "LabelMap")
    assert np.array_equal(found, wanted) and found.dtype.kind in "ui"
    with pytest.raises(BadFile, match="has no Labels"):
        label_maps.read(tmp_path / "a.mat", "Labels")
    with limits.applied(pixels=34), pytest.raises(BadFile, match=r"is 7x5 pixels, and the limit is 34; .*limits\.pixels"):
        label_maps.read(tmp_path / "a.mat", "LabelMap")


@pytest.mark.parametrize("value", ["text", np.ones((2, 2, 2), np.uint8), np.ones((2, 2)) * 0.5, np.ones((2, 2)) * 1j, {"a": 1}])
def test_what_is_no_matrix_of_whole_numbers(tmp_path, value):
    savemat(tmp_path / "a.mat", {"LabelMap": value})
    with pytest.raises(BadFile, match=r"its LabelMap is no matrix of whole numbers|is damaged"):
        label_maps.read(tmp_path / "a.mat", "LabelMap")


def test_other_files(tmp_path):
    path = tmp_path / "a.mat"
    for data in (b"", b"x" * 500, b"\x89HDF\r\n\x1a\n" + bytes(500)):
        path.write_bytes(data)
        with pytest.raises(BadFile, match="is no MATLAB file of version 5"):
            label_maps.read(path, "LabelMap")
    savemat(path, {"LabelMap": LABELS}, format="4")
    with pytest.raises(BadFile, match="is no MATLAB file of version 5"):
        label_maps.read(path, "LabelMap")
    os.mkfifo(tmp_path / "pipe.mat")
    with pytest.raises(BadFile, match="is no regular file"):
        label_maps.read(tmp_path / "pipe.mat", "LabelMap")


@pytest.mark.parametrize("name", ["LabelMap", "Other"])
def test_a_bomb_is_not_unpacked(tmp_path, name):
    """A map of 256 million pixels in a quarter of a megabyte: its size is read before its numbers are unpacked."""
    savemat(tmp_path / "a.mat", {name: np.zeros((2**14, 2**14), np.uint8)}, do_compression=True)
    tracemalloc.start()
    try:
        with pytest.raises(BadFile, match="16384x16384 pixels, and the limit is" if name == "LabelMap" else "has no LabelMap"):
            label_maps.read(tmp_path / "a.mat", "LabelMap")
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compressed", [False, True])
def test_cut_and_changed_files(tmp_path, compressed):
    path, rng = tmp_path / "a.mat", np.random.default_rng(0)
    savemat(path, {"LabelMap": LABELS}, do_compression=compressed)
    data = path.read_bytes()
    for k in range(150):
        changed = bytearray(data[: int(rng.integers(len(data)))] if k % 4 == 0 else data)
        for at in rng.integers(120, 220, size=3):
            if at < len(changed):
                changed[at] = rng.integers(256)
        path.write_bytes(changed)
        try:
            assert label_maps.read(path, "LabelMap").ndim == 2
        except BadFile as error:
            assert "\n" not in str(error)
