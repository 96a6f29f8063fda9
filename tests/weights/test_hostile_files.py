"""Malformed archives, headers and folders raise a UserError that names file and error, in bounded memory."""

import io
import json
import os
import pathlib
import re
import struct
import warnings
import zipfile

import pytest
import safetensors.torch
import torch
from hostile import assert_refused, legacy_torch_file, pickle_str, pickle_tensor, torch_zip

from hyperseg_jax.errors import UserError
from hyperseg_jax.weights.tensor_file import open_checkpoint, open_tensors

pytestmark = pytest.mark.usefixtures("limited_memory")


# Archives


def rezip(data, change):
    """Rewrites the archive after change({name: bytes})."""
    source, file = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as target:
        warnings.simplefilter("ignore")  # duplicate names
        for entry, content, options in change({name: source.read(name) for name in source.namelist()}):
            target.writestr(entry, content, **options)
    return file.getvalue()


def add_entry(entry, content=b"x", **options):
    return lambda data: rezip(data, lambda old: [*((k, v, {}) for k, v in old.items()), (entry, content, options)])


def patch_field(pattern, at, fmt, value, which=0):
    """Returns a function that overwrites a field of a record of the archive."""

    def change(data):
        offset = [match.start() for match in re.finditer(re.escape(pattern), data)][which] + at
        return data[:offset] + struct.pack(fmt, value) + data[offset + struct.calcsize(fmt) :]

    return change


CENTRAL, LOCAL, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"
ARCHIVES = {
    "up": (add_entry("../evil"), "../evil"),
    "up from inside": (add_entry("x/../../evil"), "x/../../evil"),
    "absolute": (add_entry("/etc/passwd"), "/etc/passwd"),
    "of Windows": (add_entry("x/..\\evil"), "evil"),
    "of a drive": (add_entry("C:/evil"), "C:/evil"),
    "compressed bomb": (add_entry("x/data/9", b"\0" * 2**22, compress_type=zipfile.ZIP_DEFLATED), "x/data/9"),
    "compressed pickle": (
        lambda data: rezip(data, lambda old: [(k, v, {"compress_type": zipfile.ZIP_BZIP2}) for k, v in old.items()]),
        "x/data.pkl",
    ),
    "twice": (add_entry("x/data.pkl", b"\x80\x02}."), "x/data.pkl twice"),
    "two pickles": (add_entry("y/data.pkl", b"\x80\x02}."), "no data.pkl"),
    "no pickle": (lambda data: data.replace(b"x/data.pkl", b"x/data.abc"), "no data.pkl"),
    "byte order": (lambda data: data.replace(b"little", b"middle"), "byteorder in its archive has a wrong checksum"),
    "size": (patch_field(CENTRAL, 20, "<Q", 2**31 * (2**32 + 1), 3), "longer"),
    "size in part": (patch_field(CENTRAL, 24, "<L", 7), "compressed"),
    "sizes elsewhere": (patch_field(CENTRAL, 20, "<Q", 2**64 - 1), "zip64"),
    "overlap": (patch_field(CENTRAL, 20, "<Q", 60 * (2**32 + 1), 2), "overlaps"),
    "place": (patch_field(CENTRAL, 42, "<L", 3), "x/data.pkl at the offset"),
    "place far off": (patch_field(CENTRAL, 42, "<L", 2**31), "x/data.pkl at the offset"),
    "another's place": (patch_field(CENTRAL, 42, "<L", 0, 1), "x/byteorder at the offset"),
    "encrypted": (patch_field(CENTRAL, 8, "<H", 1), "encrypted"),
    "on another disk": (patch_field(CENTRAL, 34, "<H", 1), "another part"),
    "name beyond": (patch_field(CENTRAL, 28, "<H", 60_000), "cut off"),
    "name not UTF-8": (lambda data: data.replace(b"x/version", b"x/vers\xff\xfe\xfd"), "UTF-8"),
    "no directory": (patch_field(CENTRAL, 0, "<L", 0), "entry of its directory"),
    "count": (patch_field(END, 8, "<L", 9 * (2**16 + 1)), "should have 9"),
    "directory's size": (patch_field(END, 12, "<L", 1), "directory"),
    "directory's place": (patch_field(END, 16, "<L", 1), "directory"),
    "comment": (patch_field(END, 20, "<H", 1), "directory"),
    "bytes behind": (lambda data: data + b"\0", "cut off"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives(tmp_path, case):
    change, words = ARCHIVES[case]
    good = torch_zip(b"}" + pickle_str("w") + pickle_tensor() + b"s.", **{"data/0": bytes(24)})
    path = tmp_path / "x"
    path.write_bytes(good)
    assert list(open_tensors(path).tensors) == ["w"]
    path.write_bytes(change(good))
    assert_refused(path, words)


STREAMS = {
    "a list of what is no key": ({"keys": b"]K\x07a"}, "lists storages"),
    "an unknown key": ({"keys": b"]" + pickle_str("7") + b"a"}, "lists storages"),
    "keys that are a dict": ({"keys": b"}"}, "lists storages"),
    "no storages": ({"keys": b"]" + pickle_str("0") + b"a"}, "cut off in storage 0"),
    "a huge storage": ({"keys": b"]" + pickle_str("0") + b"a", "storages": b"\xff" * 8}, "cut off in storage 0"),
    "bytes behind": ({"keys": b"]" + pickle_str("0") + b"a", "storages": struct.pack("<Q", 6) + bytes(25)}, "1 bytes after"),
    "a short storage": (
        {"keys": b"]" + pickle_str("0") + b"a", "storages": struct.pack("<Q", 5) + bytes(20)},
        "20 bytes, not 24",
    ),
    "unlisted": ({}, "0 is not in the file"),
}


@pytest.mark.parametrize("case", STREAMS)
def test_streams(tmp_path, case):
    parts, words = STREAMS[case]
    path = tmp_path / "x"
    path.write_bytes(legacy_torch_file(b"}" + pickle_str("w") + pickle_tensor().replace(b"tQ", b"NtQ") + b"s.", **parts))
    assert_refused(path, words)


# safetensors


def safetensors_file(entries, body=bytes(24)):
    raw = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(raw)) + raw + body


def header_entry(shape=(2, 3), offsets=(0, 24), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HEADERS = {
    "overlap": (safetensors_file({"a": header_entry(), "b": header_entry((2,), (4, 12))}), "b overlaps"),
    "the same place": (safetensors_file({"a": header_entry(), "b": header_entry()}), "b overlaps"),
    "hole": (safetensors_file({"a": header_entry((2,), (0, 8)), "b": header_entry((2,), (16, 24))}), "b has a gap"),
    "hole at the start": (safetensors_file({"a": header_entry((5,), (4, 24))}), "a has a gap"),
    "bytes left over": (safetensors_file({"a": header_entry()}, bytes(25)), "24 bytes in total, but the file has 25"),
    "bytes lacking": (safetensors_file({"a": header_entry()}, bytes(23)), "24 bytes in total, but the file has 23"),
    "beyond": (safetensors_file({"a": header_entry((7,), (0, 28))}), "28 bytes in total"),
    "negative": (safetensors_file({"a": header_entry((2, 3), (-24, 0))}), "a needs"),
    "backwards": (safetensors_file({"a": header_entry((2, 3), (24, 0))}), "a needs"),
    "shape": (safetensors_file({"a": header_entry((2, 4))}), "a needs 32 bytes"),
    "huge shape": (safetensors_file({"a": header_entry((2**40, 2**40))}), "a: has an invalid shape"),
    "overflowing shape": (safetensors_file({"a": header_entry((2**63, 2, 0), (0, 0))}, b""), "a: has an invalid shape"),
    "negative shape": (safetensors_file({"a": header_entry((-2, -3))}), "a: has an invalid shape"),
    "shape of bools": (safetensors_file({"a": header_entry((True, 6))}), "a: has an invalid shape"),
    "shape of floats": (safetensors_file({"a": header_entry((2.0, 3))}), "a: has an invalid shape"),
    "many dimensions": (safetensors_file({"a": header_entry((1,) * 65, (0, 4))}, bytes(4)), "a: has 65 dimensions"),
    "offsets of floats": (safetensors_file({"a": header_entry(offsets=(0.0, 24.0))}), "a in its header"),
    "three offsets": (safetensors_file({"a": header_entry(offsets=(0, 24, 48))}), "a in its header"),
    "type": (safetensors_file({"a": header_entry(dtype="O")}), "dtype O"),
    "type that is a list": (safetensors_file({"a": header_entry(dtype=["F32"])}), "not a string"),
    "lacking field": (safetensors_file({"a": {"dtype": "F32", "shape": []}}), "a in its header"),
    "unknown field": (safetensors_file({"a": {**header_entry(), "run": "os.system"}}), "a in its header"),
    "no entry": (safetensors_file({"a": 3}), "a in its header"),
    "a list": (struct.pack("<Q", 3) + b"[1]", "not a weight file"),
    "name twice": (safetensors_file(b'{"w": 1, "w": 2}'), "the key 'w' twice"),
    "field twice": (safetensors_file(b'{"w": {"dtype": "F32", "dtype": "F16"}}'), "the key 'dtype' twice"),
    "metadata": (safetensors_file({"__metadata__": {"x": 3}, "a": header_entry()}), "__metadata__"),
    "metadata that is a list": (safetensors_file({"__metadata__": [], "a": header_entry()}), "__metadata__"),
    "no json": (safetensors_file(b"{'w': 1}"), "not readable JSON"),
    "not UTF-8": (safetensors_file(b'{"\xff": 1}'), "not readable JSON"),
    "deep json": (safetensors_file(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"), "its header nests deeper than 100"),
    "long number": (safetensors_file(b'{"a": ' + b"9" * 100_000 + b"}"), "not readable JSON"),
    "many parts": (safetensors_file(b'{"a": [' + b"[]," * 2_600_000 + b"[]]}"), "parts"),
    "header beyond the file": (struct.pack("<Q", 2**20) + b'{"a": 1}', "header should have 1048576"),
    "header beyond any": (struct.pack("<Q", 2**39) + b'{"a": 1}', "header should have"),
    "a name with newlines": (safetensors_file({"a\nb": 3}), r"a\nb"),
    "a good entry of such a name": (
        safetensors_file({"a\x1b[2J": header_entry()}),
        r"tensor name with control characters, a\x1b[2J",
    ),
    "a long name": (safetensors_file({"a" * 100_000: 3}), "aaa ... aaa"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_of_safetensors(tmp_path, case):
    data, words = HEADERS[case]
    path = tmp_path / "x"
    path.write_bytes(data)
    assert len(assert_refused(path, words)) < 1000


# Files and folders


@pytest.mark.parametrize("form", ["zip", "stream", "safetensors", "pickle 2", "pickle 4", "pickle 5"])
def test_truncated_files(tmp_path, sample_files, form):
    data, path = sample_files[form], tmp_path / "x"
    for size in {*range(0, len(data), max(1, len(data) // 97)), *range(len(data) - 40, len(data))}:
        path.write_bytes(data[:size])
        assert_refused(path)


@pytest.mark.parametrize("form", ["stream", "safetensors", "pickle 2", "pickle 4", "pickle 5"])
def test_trailing_bytes_are_refused(tmp_path, sample_files, form):
    (tmp_path / "x").write_bytes(sample_files[form] + b"\x80\x02")
    assert_refused(tmp_path / "x", "in total, but the file has" if form == "safetensors" else "has 2 bytes after")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "not a weight file"),
        (b"\x93NUMPY\x01\x00", "not a weight file"),
        (b"import os; os.system('x')\n", "not a weight file"),
        (b"cos\nsystem\n(S'ls'\ntR.", "not a weight file"),
    ],
)
def test_other_files(tmp_path, data, words):
    (tmp_path / "x").write_bytes(data)
    assert_refused(tmp_path / "x", words)


def test_special_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert_refused(tmp_path / "pipe", "no such file")
    assert_refused(tmp_path / "none", "no such file")
    assert_refused(tmp_path, "no such file")
    assert_refused(tmp_path / ("long" * 100), "cannot be read")
    assert_refused(tmp_path / ("long" * 100), "cannot be read", opens=open_checkpoint)
    assert_refused(pathlib.Path("/dev/zero"), "no such file")


@pytest.fixture
def folder(tmp_path):
    safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "outside.safetensors")
    inside = tmp_path / "model"
    inside.mkdir()
    safetensors.torch.save_file({"w": torch.ones(2)}, inside / "1.safetensors")
    safetensors.torch.save_file({"v": torch.ones(2)}, inside / "2.safetensors")
    (inside / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    (inside / "circle.safetensors").symlink_to(inside / "circle.safetensors")
    (inside / "dir").mkdir()
    return inside


VALID = {"w": "1.safetensors", "v": "2.safetensors"}
INDICES = {
    "up": ({**VALID, "w": "../outside.safetensors"}, "../outside.safetensors"),
    "absolute": ({"w": "/etc/passwd"}, "/etc/passwd"),
    "of Windows": ({"w": "..\\outside.safetensors"}, "outside.safetensors"),
    "a link out": ({"w": "link.safetensors"}, "link.safetensors is a link out"),
    "a circle": ({"w": "circle.safetensors"}, "circle.safetensors"),
    "the folder": ({"w": "."}, "not a file of this folder"),
    "its parent": ({"w": ".."}, "not a file of this folder"),
    "nothing": ({"w": ""}, "not a file of this folder"),
    "a folder": ({"w": "dir"}, "dir: no such file"),
    "a zero byte": ({"w": "1.safetensors\0"}, "not a file of this folder"),
    "a missing file": ({**VALID, "u": "3.safetensors"}, "lacks 3.safetensors"),
    "a missing tensor": ({**VALID, "u": "1.safetensors"}, "1.safetensors lacks u"),
    "a tensor too many": ({"w": "1.safetensors", "u": "2.safetensors"}, "2.safetensors has v"),
    "the wrong shard": ({"w": "2.safetensors", "v": "1.safetensors"}, "which its index does not list there"),
    "a number": ({"w": 3}, "weight_map"),
    "a list": (["1.safetensors"], "weight_map"),
    "empty": ({}, "weight_map"),
}


@pytest.mark.parametrize("case", INDICES)
def test_indices(folder, case):
    where, words = INDICES[case]
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": VALID}))
    assert list(open_checkpoint(folder).tensors) == ["w", "v"]
    index.write_text(json.dumps({"weight_map": where}))
    with pytest.raises(UserError) as error:
        open_checkpoint(folder)
    assert words in str(error.value) and str(folder) in str(error.value)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b'{"weight_map": {"w": "1", "w": "2"}}', b'{"weight_map": 3}', b'{"weight_map":' + b"[" * 10**5]
)
def test_invalid_indices(folder, data):
    (folder / "model.safetensors.index.json").write_bytes(data)
    with pytest.raises(UserError, match=re.escape(str(folder))):
        open_checkpoint(folder)


def test_duplicate_names_in_two_files(folder):
    torch.save({"w": torch.ones(1)}, folder / "pytorch_model-1.bin")
    torch.save({"w": torch.ones(1)}, folder / "pytorch_model-2.bin")
    assert_refused(folder, "w is in both pytorch_model-1.bin and pytorch_model-2.bin", opens=open_checkpoint)


def test_names_of_shards_are_escaped(folder):
    name = "a\nerror fake\x1b[31m.safetensors"
    safetensors.torch.save_file({"w": torch.ones(2), "x": torch.ones(2)}, folder / name)
    for weight_map in ({"w": name}, {"w": name, "x": name, "y": name}):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(UserError, match=r"a\\nerror fake") as error:
            open_checkpoint(folder)
        assert str(error.value).isprintable()


def test_an_index_linked_outside_the_folder(folder):
    (folder / "model.safetensors.index.json").symlink_to("/etc/passwd")
    assert_refused(folder, "model.safetensors.index.json is a link out", opens=open_checkpoint)


def test_oversized_indices_are_not_read(folder):
    with (folder / "model.safetensors.index.json").open("w") as index:
        index.truncate(2**34)
    assert_refused(folder, "has 17179869184 bytes, and the limit is", opens=open_checkpoint)
