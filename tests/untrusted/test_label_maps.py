"""Label maps in MATLAB files, as written by SciPy, and damaged ones."""

import os
import struct
import tracemalloc

import fuzz
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from hyperseg_jax.datasets.labels import read_label_image
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import label_maps, limits
from hyperseg_jax.untrusted.bad_file import BadFile

LABELS = np.arange(35, dtype=np.uint16).reshape(5, 7) * 11


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "u4", "f8"])
def test_files_of_scipy(tmp_path, compressed, dtype):
    expected = (LABELS % 200).astype(dtype)
    content = {"other": np.ones((3, 3)), "text": "hello", "LabelMap": expected, "cell": np.array([[1], ["a"]], object)}
    savemat(tmp_path / "a.mat", content, do_compression=compressed)
    result = label_maps.read_matrix(tmp_path / "a.mat", "LabelMap")
    assert np.array_equal(result, expected) and result.dtype.kind in "ui"
    with pytest.raises(BadFile, match="has no Labels"):
        label_maps.read_matrix(tmp_path / "a.mat", "Labels")
    with (
        limits.temporary_limits(pixels=34),
        pytest.raises(BadFile, match=r"is 7x5 pixels, and the limit is 34; .*limits\.pixels"),
    ):
        label_maps.read_matrix(tmp_path / "a.mat", "LabelMap")


@pytest.mark.parametrize("value", ["text", np.ones((2, 2, 2), np.uint8), np.ones((2, 2)) * 1j, {"a": 1}])
def test_other_matrices_are_refused(tmp_path, value):
    savemat(tmp_path / "a.mat", {"LabelMap": value})
    with pytest.raises(BadFile, match=r"its LabelMap is not an integer matrix|is damaged"):
        label_maps.read_matrix(tmp_path / "a.mat", "LabelMap")


@pytest.mark.parametrize("value", [0.5, 1e300, -1.0, np.nan, np.inf, 2.0**32])
@pytest.mark.parametrize("compressed", [False, True])
def test_invalid_labels(tmp_path, value, compressed):
    labels = LABELS.astype(float)
    labels[2, 3] = value
    savemat(tmp_path / "a.mat", {"LabelMap": labels}, do_compression=compressed)
    with pytest.raises(BadFile, match=r"has the label [^ ]+; labels must be integers from 0 to 4294967295"):
        label_maps.read_matrix(tmp_path / "a.mat", "LabelMap")


def test_huge_sides(tmp_path):
    """Matrix sides stored as doubles."""
    savemat(tmp_path / "a.mat", {"LabelMap": np.zeros((2, 2), np.uint8)})
    data = (tmp_path / "a.mat").read_bytes()
    sides = struct.pack("<IIii", 5, 8, 2, 2)
    assert data.count(sides) == 1
    (tmp_path / "a.mat").write_bytes(data.replace(sides, struct.pack("<IId", 9, 8, np.inf)))
    with pytest.raises(BadFile, match="is damaged"):
        label_maps.read_matrix(tmp_path / "a.mat", "LabelMap")


def test_negative_labels(tmp_path):
    savemat(tmp_path / "a.mat", {"LabelMap": -LABELS.astype(np.int16)})
    with pytest.raises(UserError, match=r"a\.mat: has the label -77; labels"):
        read_label_image(tmp_path / "a.mat", LABELS.shape)
    Image.fromarray(-LABELS.astype(np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a\.tif: has the label -11; labels"):
        read_label_image(tmp_path / "a.tif", LABELS.shape)


def test_version_7_3(tmp_path):
    """HDF5 with and without MATLAB's header."""
    path, hdf5 = tmp_path / "a.mat", b"\x89HDF\r\n\x1a\n" + bytes(500)
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    for data in (header.ljust(512, b"\0") + hdf5, header[:124].replace(b"7.3", b"9.0").ljust(512, b"\0") + hdf5, hdf5):
        path.write_bytes(data)
        with pytest.raises(BadFile, match=r"is a MATLAB file of version 7\.3 \(HDF5\); save it in MATLAB with -v7"):
            label_maps.read_matrix(path, "LabelMap")


def test_other_files(tmp_path):
    path = tmp_path / "a.mat"
    for data in (b"", b"x" * 500):
        path.write_bytes(data)
        with pytest.raises(BadFile, match="is not a MATLAB file of version 5"):
            label_maps.read_matrix(path, "LabelMap")
    savemat(path, {"LabelMap": LABELS}, format="4")
    with pytest.raises(BadFile, match="is not a MATLAB file of version 5"):
        label_maps.read_matrix(path, "LabelMap")
    os.mkfifo(tmp_path / "pipe.mat")
    with pytest.raises(BadFile, match="is not a regular file"):
        label_maps.read_matrix(tmp_path / "pipe.mat", "LabelMap")


@pytest.mark.parametrize("name", ["LabelMap", "Other"])
def test_bombs_are_not_unpacked(tmp_path, name):
    """A map of 256 million pixels in a quarter of a megabyte: the size is checked before decompression."""
    savemat(tmp_path / "a.mat", {name: np.zeros((2**14, 2**14), np.uint8)}, do_compression=True)
    tracemalloc.start()
    try:
        with pytest.raises(BadFile, match="16384x16384 pixels, and the limit is" if name == "LabelMap" else "has no LabelMap"):
            label_maps.read_matrix(tmp_path / "a.mat", "LabelMap")
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_a_changed_byte_of_a_compressed_map(tmp_path):
    """The checksum detects any changed byte."""
    savemat(tmp_path / "a.mat", {"LabelMap": LABELS}, do_compression=True)
    data = (tmp_path / "a.mat").read_bytes()
    for at in range(136, len(data)):
        (tmp_path / "a.mat").write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        with pytest.raises(BadFile):
            label_maps.read_matrix(tmp_path / "a.mat", "LabelMap")


def test_many_small_elements_are_skipped(tmp_path):
    savemat(tmp_path / "a.mat", {"LabelMap": LABELS})
    data = (tmp_path / "a.mat").read_bytes()
    (tmp_path / "a.mat").write_bytes(data[:128] + bytes(8 * 1001) + data[128:])
    with pytest.raises(BadFile, match="has more than 1000 elements"):
        label_maps.read_matrix(tmp_path / "a.mat", "LabelMap")
    (tmp_path / "a.mat").write_bytes(data[:128] + bytes(8 * 900) + data[128:])
    assert np.array_equal(label_maps.read_matrix(tmp_path / "a.mat", "LabelMap"), LABELS)


def make_property(path):
    """Returns the property of damaged maps: a label map or a one-line error."""

    def check_map(data):
        path.write_bytes(data)
        with limits.temporary_limits(pixels=10**6):
            result = fuzz.check_call(lambda: label_maps.read_matrix(path, "LabelMap"))
        assert isinstance(result, BadFile) or (result.ndim == 2 and not (result < 0).any())

    return check_map


def damaged_maps(folder):
    """Returns strategies for damaged maps, some damaged only after the header."""
    kinds = []
    for compressed in (False, True):
        savemat(folder / "sound.mat", {"LabelMap": LABELS}, do_compression=compressed)
        data = (folder / "sound.mat").read_bytes()
        kinds += [fuzz.damaged_bytes(data), fuzz.damaged_bytes(data[120:]).map(lambda rest, head=data[:120]: head + rest)]
    return st.one_of(kinds)


def test_damaged_maps(tmp_path):
    fuzz.run_property(make_property(tmp_path / "a.mat"), damaged_maps(tmp_path), examples=150)


@pytest.mark.slow
def test_damaged_maps_for_long(tmp_path, run_property_long):
    run_property_long(make_property(tmp_path / "a.mat"), damaged_maps(tmp_path))


@pytest.mark.parametrize("compressed", [False, True])
def test_duplicate_matrix_names_are_refused(tmp_path, compressed):
    savemat(tmp_path / "a.mat", {"LabelMap": LABELS}, do_compression=compressed)
    data = (tmp_path / "a.mat").read_bytes()
    (tmp_path / "a.mat").write_bytes(data + data[128:])
    with pytest.raises(BadFile, match="has two matrices named LabelMap"):
        label_maps.read_matrix(tmp_path / "a.mat", "LabelMap")
