"""Readers return the same arrays as the original libraries, as views of the file."""

import argparse
import io
import json
import mmap
import pathlib
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

from hyperseg_jax.errors import UserError
from hyperseg_jax.weights.tensor_file import TensorInfo, open_checkpoint, open_tensors

TYPES = {
    torch.float64: np.float64,
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.bfloat16: ml_dtypes.bfloat16,
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.int16: np.int16,
    torch.int8: np.int8,
    torch.uint8: np.uint8,
    torch.bool: np.bool_,
    torch.uint16: np.uint16,
    torch.uint32: np.uint32,
    torch.uint64: np.uint64,
    torch.float8_e4m3fn: ml_dtypes.float8_e4m3fn,
    torch.float8_e5m2: ml_dtypes.float8_e5m2,
}
MAPPINGS = ["zip", "stream", "safetensors", "pickle 4", "pickle 5"]  # pickle 2 of Python 3 stores bytes as text


def save_file(path, value, **options):
    torch.save(value, path, **options)
    return path


def is_mapped(array):
    """Returns whether the array is a view of a memory-mapped file."""
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array.obj if isinstance(array, memoryview) else array, mmap.mmap)


def assert_same(result, expected):
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    assert result.tobytes() == expected.tobytes()


@pytest.mark.parametrize("form", ["zip", "stream", "safetensors", "pickle 2", "pickle 4", "pickle 5"])
def test_every_format_gives_the_tensors_in_order(tmp_path, sample_files, state_dict, to_numpy, form):
    path = tmp_path / "weights.bin"  # the file name gives no format
    path.write_bytes(sample_files[form])
    expected = {name: to_numpy(t) for name, t in state_dict.items() if "pickle" not in form or t.dtype != torch.bfloat16}
    with open_tensors(path) as file:
        assert file.path == path
        assert file.ignored == {"zip": ("epoch",), "stream": ("epoch",), "safetensors": ()}.get(
            form, ("__author__", "matching_heuristics")
        )
        if form == "safetensors":  # its writer sorts by type
            assert sorted(file.tensors) == sorted(expected)
        else:
            assert list(file.tensors) == list(expected)
        for name, array in expected.items():
            assert file.tensors[name] == TensorInfo(array.shape, array.dtype)
            assert_same(file.read(name), array)
            with pytest.raises(ValueError, match="read-only"):
                file.read(name)[...] = 0
    with pytest.raises(ValueError, match="is closed"):
        file.read("a.weight")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_every_torch_type(tmp_path, kind, zipped):
    value = torch.arange(6).reshape(2, 3).to(kind)
    file = open_tensors(save_file(tmp_path / "x", {"x": value}, _use_new_zipfile_serialization=zipped))
    assert file.tensors["x"].dtype == TYPES[kind]
    assert_same(file.read("x"), np.arange(6).reshape(2, 3).astype(TYPES[kind]))


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_every_safetensors_type(tmp_path, kind):
    safetensors.torch.save_file({"x": torch.arange(6).reshape(2, 3).to(kind)}, tmp_path / "x", metadata={"format": "pt"})
    assert_same(open_tensors(tmp_path / "x").read("x"), np.arange(6).reshape(2, 3).astype(TYPES[kind]))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_torch_in_every_pickle_protocol(tmp_path, protocol, zipped):
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": zipped}
    file = open_tensors(save_file(tmp_path / "x", {"x": torch.ones(2, 3)}, **options))
    assert_same(file.read("x"), np.ones((2, 3), np.float32))


@pytest.mark.parametrize("zipped", [True, False])
def test_views_share_their_storage(tmp_path, zipped):
    base = torch.arange(60.0).reshape(3, 4, 5)
    values = {
        "base": base,
        "permuted": base.permute(2, 0, 1),
        "part": base[1:, ::2, 3],
        "row": base[2, 1][None].expand(1, -1),
        "parameter": torch.nn.Parameter(base),
        "tied": base,
    }
    file = open_tensors(save_file(tmp_path / "x", values, _use_new_zipfile_serialization=zipped))
    arrays = {name: file.read(name) for name in values}
    for name, value in values.items():
        assert_same(arrays[name], value.detach().numpy())
        assert np.shares_memory(arrays[name], arrays["base"])


def test_module_state_dict_with_metadata(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    file = open_tensors(save_file(tmp_path / "x", module.state_dict()))
    assert list(file.tensors) == list(module.state_dict())
    assert_same(file.read("1.num_batches_tracked"), np.array(0))


@pytest.mark.parametrize("key", ["model", "state_dict", "module", "anything"])
def test_nested_mappings(tmp_path, key):
    value = {"step": 7, key: {"x": torch.ones(2), "version": 1}, "optimizer": {"state": {0: {"exp": torch.ones(3)}}}}
    file = open_tensors(save_file(tmp_path / "x", value))
    assert list(file.tensors) == ["x"]
    assert sorted(file.ignored) == ["optimizer", "step", "version"]


def test_numbers_next_to_tensors_are_listed(tmp_path):
    value = {"x": torch.ones(2), "size": torch.ones(2, 3).shape, "type": torch.float16, "loss": np.float32(3), "none": None}
    assert open_tensors(save_file(tmp_path / "x", value)).ignored == ("size", "type", "loss", "none")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"model": {"x": torch.ones(2)}, "module": {"x": torch.ones(2)}}, "several models (model, module)"),
        ({"net": {"x": torch.ones(2)}, "ema": {"x": torch.ones(2)}}, "several models (net, ema)"),
        ({"x": torch.ones(2), "ema": {"x": torch.ones(2)}}, "tensors in ema"),
        ({"x": torch.ones(2), "rest": [torch.ones(2)]}, "tensors in rest"),
        ({0: torch.ones(2)}, "has a tensor with the name 0"),
        ({"epoch": 3}, "no tensors"),
        (torch.ones(2), "contains a Tensor"),
        ([torch.ones(2)], "contains a list"),
    ],
)
def test_ambiguous_mappings_are_refused(tmp_path, value, words):
    with pytest.raises(UserError) as error:
        open_tensors(save_file(tmp_path / "x", value))
    assert words in str(error.value)


def test_a_big_endian_archive(tmp_path, sample_files, state_dict, to_numpy):
    """As written by a big-endian machine: the elements of every storage are byte-swapped."""
    sizes = {}  # storage -> bytes per element, in the pickle's order
    for tensor in state_dict.values():
        sizes.setdefault(tensor.untyped_storage().data_ptr(), tensor.element_size())
    source = zipfile.ZipFile(io.BytesIO(sample_files["zip"]))
    with zipfile.ZipFile(tmp_path / "x", "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if "/data/" in name:
                size = list(sizes.values())[int(name.rsplit("/", 1)[1])]
                data = np.frombuffer(data, f"V{size}").view("u1").reshape(-1, size)[:, ::-1].tobytes()
            target.writestr(name, b"big" if name.endswith("/byteorder") else data)
    file = open_tensors(tmp_path / "x")
    for name, tensor in state_dict.items():
        assert_same(file.read(name), to_numpy(tensor))


def test_a_byte_order_with_another_checksum_is_refused(tmp_path, sample_files):
    source = zipfile.ZipFile(io.BytesIO(sample_files["zip"]))
    with zipfile.ZipFile(tmp_path / "x", "w") as target:
        for name in source.namelist():
            target.writestr(name, b"bog" if name.endswith("/byteorder") else source.read(name))
    data = (tmp_path / "x").read_bytes()
    assert data.count(b"bog") == 1
    (tmp_path / "x").write_bytes(data.replace(b"bog", b"big"))
    with pytest.raises(UserError, match=r"byteorder in its archive has a wrong checksum"):
        open_tensors(tmp_path / "x")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("old", [False, True])
def test_numpy_in_every_pickle_protocol(tmp_path, protocol, old):
    base = np.arange(24).reshape(2, 3, 4)
    kinds = ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", ">f4", ">i8")
    expected = {kind: base.astype(kind) for kind in kinds}
    expected |= {"fortran": np.asfortranarray(base), "axes": base.transpose(1, 0, 2), "cut": base[:, ::2], "empty": base[:0]}
    data = pickle.dumps({"model": {**expected, "number": np.float32(2.5)}, "__author__": "x"}, protocol)
    if old and protocol < 4:  # NumPy 1 named its module "core"
        data = data.replace(b"numpy._core.", b"numpy.core.")
    (tmp_path / "x.pkl").write_bytes(data)
    file = open_tensors(tmp_path / "x.pkl")
    assert file.ignored == ("__author__", "number")
    for name, array in expected.items():
        assert_same(file.read(name), np.asarray(array, array.dtype.newbyteorder("=")))


def test_a_pickle_of_python_2(tmp_path):
    """In Python 2, names and bytes have one type, with short and long opcodes."""
    arrays = {"short": np.arange(3, dtype="<f4"), "long": np.arange(300, dtype="<f4")}

    def string(raw):
        return b"U" + bytes([len(raw)]) + raw if len(raw) < 256 else b"T" + struct.pack("<I", len(raw)) + raw

    def array(value):
        dtype = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        head = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        return head + b"(K\x01M" + struct.pack("<H", value.size) + b"\x85" + dtype + b"\x89" + string(value.tobytes()) + b"tb"

    # Python 2 reduced OrderedDict to a list of pairs, stored as lists
    pairs = b"".join(b"]" + string(name.encode()) + b"a" + array(value) + b"a" for name, value in arrays.items())
    data = b"\x80\x02}U\x05modelccollections\nOrderedDict\n](" + pairs + b"e\x85Rs."
    (tmp_path / "x").write_bytes(data)
    file = open_tensors(tmp_path / "x")
    assert list(file.tensors) == list(arrays)
    for name, value in arrays.items():
        assert_same(file.read(name), value)


@pytest.mark.parametrize("form", MAPPINGS)
def test_reading_does_not_copy(tmp_path, sample_files, form):
    (tmp_path / "x").write_bytes(sample_files[form])
    with open_tensors(tmp_path / "x") as file:
        arrays = {name: file.read(name) for name in file.tensors if name != "c.empty"}
    assert all(is_mapped(array) for array in arrays.values())
    assert arrays["a.weight"].sum() == 276  # valid after closing


@pytest.mark.parametrize("form", ["zip", "stream", "safetensors", "pickle"])
def test_a_large_file_needs_little_memory(tmp_path, form):
    path, value = tmp_path / "x", {"x": torch.ones(2**22)}
    if form == "safetensors":
        safetensors.torch.save_file(value, path)
    elif form == "pickle":
        path.write_bytes(pickle.dumps({"model": {"x": value["x"].numpy()}}, 4))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=form == "zip")
    before = anonymous_memory()
    array = open_tensors(path).read("x")
    assert array.size == 2**22 and array[::1024].sum() == 2**12
    assert anonymous_memory() - before < 2**21  # the file has 2**24 bytes


def anonymous_memory():
    """Returns the bytes of this process that are not backed by files."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def test_readers_need_no_framework():
    code = "import sys, hyperseg_jax.weights.tensor_file; print([name for name in ('torch', 'jax') if name in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


@pytest.fixture
def folder(tmp_path):
    """A model in two shards with an index, next to the same in PyTorch files."""
    shards = {"model-1.safetensors": {"a": torch.ones(2), "b": torch.zeros(3)}, "model-2.safetensors": {"c": torch.ones(1)}}
    for name, tensors in shards.items():
        safetensors.torch.save_file(tensors, tmp_path / name)
    index = {name: shard for shard, tensors in shards.items() for name in tensors}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 24}, "weight_map": index}))
    torch.save({"other": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    return tmp_path


def test_shards(folder):
    with open_checkpoint(folder) as file:
        assert file.path == folder
        assert {name: info.shape for name, info in file.tensors.items()} == {"a": (2,), "b": (3,), "c": (1,)}
        assert_same(file.read("b"), np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="is closed"):
        file.read("b")


def test_a_single_file(folder):
    assert list(open_checkpoint(folder / "model-2.safetensors").tensors) == ["c"]


def test_file_selection_in_a_folder(folder):
    def read_names():
        return sorted(open_checkpoint(folder).tensors)

    index = folder / "model.safetensors.index.json"
    index.rename(folder / "pytorch_model.bin.index.json")
    assert read_names() == ["a", "b", "c"]
    (folder / "model-1.safetensors").rename(folder / "model.safetensors")
    assert read_names() == ["a", "b"]
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin.index.json").unlink()
    assert read_names() == ["other"]
    torch.save({"more": torch.ones(1)}, folder / "pytorch_model-2.bin")
    assert read_names() == ["more", "other"]
    for path in folder.glob("pytorch_model*"):
        path.unlink()
    with pytest.raises(UserError, match="no weights here"):
        read_names()
    torch.save({"old": torch.ones(1)}, folder / "adapter_model.bin")
    assert read_names() == ["old"]
    safetensors.torch.save_file({"new": torch.ones(1)}, folder / "adapter_model.safetensors")
    assert read_names() == ["new"]


def test_hub_cache_folders(folder, tmp_path):
    """snapshots/<commit>/ contains links into blobs/."""
    snapshot, blobs = tmp_path / "models--x" / "snapshots" / "0abc", tmp_path / "models--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.glob("model*.*"))):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert sorted(open_checkpoint(snapshot).tensors) == ["a", "b", "c"]
    shard = next(path for path in snapshot.iterdir() if path.suffix == ".safetensors")
    shutil.copy(shard, tmp_path / "outside")
    shard.unlink()
    shard.symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="is a link out"):
        open_checkpoint(snapshot)


def test_settings_of_a_run_are_dropped(tmp_path):
    """fairseq saves an argparse.Namespace beside the model, as old as the file: in both formats of torch.save."""
    settings = argparse.Namespace(arch="segofa_base", nested=argparse.Namespace(x=(1, None)), table=torch.ones(2))
    content = {"args": None, "cfg": {"model": settings}, "model": {"w": torch.arange(3.0)}, "optimizer_history": [settings]}
    for new in (True, False):
        with open_tensors(save_file(tmp_path / "a.pt", content, _use_new_zipfile_serialization=new)) as file:
            assert list(file.tensors) == ["w"] and set(file.ignored) == {"args", "cfg", "optimizer_history"}
            np.testing.assert_array_equal(file.read("w"), [0, 1, 2])
