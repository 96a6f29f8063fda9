"""Pickles that lie or try to run something get a UserError that names file and fault; nothing runs, memory stays bounded."""

import pickle
import struct

import numpy as np
import pytest
from hostile import COMMAND, DICT, MARKER, archive, call, lone_pickle, name, number, refused, sizes, stream, tensor, text

from hyperseg_jax.untrusted import pickle_machine
from hyperseg_jax.weights.tensor_file import open_tensors

pytestmark = pytest.mark.usefixtures("little_memory")

ASKS = {  # value -> the name that the message has
    "reduce": (call("os", "system"), "os.system"),
    "posix": (call("posix", "system"), "posix.system"),
    "nt": (call("nt", "system"), "nt.system"),
    "eval": (call("builtins", "eval", f"open({str(MARKER)!r}, 'w')"), "builtins.eval"),
    "exec": (call("__builtin__", "exec"), "__builtin__.exec"),
    "getattr": (name("builtins", "getattr") + name("torch", "Size") + text("__init__") + b"\x86R", "builtins.getattr"),
    "import": (call("builtins", "__import__", "os"), "builtins.__import__"),
    "open": (call("io", "open", "/etc/passwd"), "io.open"),
    "popen": (call("subprocess", "Popen"), "subprocess.Popen"),
    "only named": (name("os", "system"), "os.system"),
    "in a list in a tuple": (b"]" + call("os", "system") + b"a\x85", "os.system"),
    "as an argument of a good one": (DICT + call("os", "system") + b"\x85R", "os.system"),
    "as hooks": (name("torch._utils", "_rebuild_parameter") + b"(N\x88" + call("os", "system") + b"tR", "os.system"),
    "memoised strings": (
        b"(" + text("system") + b"q\x00" + text("os") + b"q\x01h\x01h\x00\x93" + text(COMMAND) + b"\x85Rt",
        "os.system",
    ),
    "dotted": (text("torch._utils") + text("_rebuild_tensor_v2.__globals__") + b"\x93", "_rebuild_tensor_v2.__globals__"),
    "inst": (b"(" + text(COMMAND) + b"ios\nsystem\n", "os.system"),
    "obj": (b"(" + name("os", "system") + text(COMMAND) + b"o", "os.system"),
    "newobj": (name("subprocess", "Popen") + text(COMMAND) + b"\x85\x81", "subprocess.Popen"),
    "setstate": (DICT + b")R}" + text("__setstate__") + name("os", "system") + b"sb", "os.system"),
    "torch's own way out": (name("torch.storage", "_load_from_bytes") + b"C\x01.\x85R", "torch.storage._load_from_bytes"),
    "torch.load": (call("torch", "load", "other.pt"), "torch.load"),
    "a whole module": (name("torch.nn.modules.linear", "Linear") + b")\x81", "torch.nn.modules.linear.Linear"),
    "sets": (name("builtins", "set") + b"]\x85R", "builtins.set"),
    "an array of objects": (name("numpy", "dtype") + text("O8") + b"\x89\x88\x87R", "NumPy type O8"),
    "a structured array": (name("numpy", "dtype") + text("V8") + b"\x89\x88\x87R", "NumPy type V8"),
    "fields": (name("numpy", "dtype") + text("f4") + b"\x85R(K\x03" + text("|") + b"N" + text("a") + b"\x85}tb", "structured"),
    "another class as ndarray": (
        name("numpy.core.multiarray", "_reconstruct") + DICT + b"K\x00\x85C\x01b\x87R",
        "not an ndarray",
    ),
    "another codec": (name("_codecs", "encode") + text("bzip") + text("bz2_codec") + b"\x86R", "_codecs.encode"),
    "bytes of a number": (name("builtins", "bytes") + number(2**40) + b"\x85R", "bytes(...)"),
    "a text called": (text("os.system") + text(COMMAND) + b"\x85R", "calls a str"),
    "a storage called": (name("torch", "FloatStorage") + text(COMMAND) + b"\x85R", "calls a StorageKind"),
    "a state for a function": (name("_codecs", "encode") + b"}b", "the state of _codecs.encode"),
    "a state for a text": (text("x") + b"}b", "the state of a str"),
    "inst of a good name": (b"(icollections\nOrderedDict\n", "INST"),
    "obj of a good name": (b"(" + DICT + b"o", "OBJ"),
    "newobj of a good name": (DICT + b")\x81", "NEWOBJ"),
    "newobj_ex": (DICT + b")}\x92", "NEWOBJ_EX"),
    "ext1": (b"\x82\x01", "EXT1"),
    "ext2": (b"\x83\x01\x00", "EXT2"),
    "ext4": (b"\x84\x01\x00\x00\x00", "EXT4"),
    "reference out of it": (text("x") + b"Q", "refers to"),
    "persistent text": (b"P1\n", "PERSID"),
    "dup": (b"N2", "DUP"),
    "empty set": (b"\x8f", "EMPTY_SET"),
    "out-of-band buffer": (b"\x97", "NEXT_BUFFER"),
    "unknown operation": (b"\xff", "0xff"),
    "a list as a name": (b"}]Ns", "a list as a name"),
    "a tuple as a name": (b"}" + b")" + b"\x85" * 10_000 + b"Ns", "a tuple as a name"),
    "a name twice": (b"}(" + (text("weight") + b"N") * 2 + b"u", "weight twice"),
    "a name without a value": (b"}(" + text("x") + b"u", "without a value"),
    "items for a text": (text("x") + text("x") + b"Ns", "not a dict"),
    "append to a tuple": (b")Na", "not a list"),
    "recall of nothing": (b"h\x07", "memo 7"),
    "no mark": (b"t", "never began"),
    "open mark": (b"(N", "its pickle"),
    "huge bytes": (b"\x8e" + b"\xff" * 8, "its pickle needs"),
    "huge bytearray": (b"\x96" + struct.pack("<Q", 2**50), "its pickle needs"),
    "huge text": (b"\x8d" + struct.pack("<Q", 2**50), "its pickle needs"),
    "huge text of 32 bits": (b"X\xff\xff\xff\xff", "its pickle needs"),
    "huge integer": (b"\x8b\xff\xff\xff\x7f", "integer of 2147483647 bytes"),
    "negative integer size": (b"\x8b\xff\xff\xff\xff", "integer of"),
    "long integer": (b"\x8a\xff" + b"\x01" * 255, "integer of 255 bytes"),
    "huge frame": (b"\x95" + b"\xff" * 8, "frame"),
    "protocol 9": (b"\x80\x09", "protocol"),
    "text that is none": (b"X\x02\x00\x00\x00\xff\xff", "UTF-8"),
    "endless name": (b"c" + b"a" * 5000, "invalid or too long"),
    "a name with controls": (b"cos\x1b[2J\nsystem\n", "os\\x1b[2J.system"),
}
CONTAINERS = (lone_pickle, archive, stream)
TORCH_ONLY = {"as hooks", "a storage called"}  # they begin with a good name of torch's


@pytest.mark.parametrize(
    ("case", "container"),
    [(case, container) for case in ASKS for container in CONTAINERS if container is not lone_pickle or case not in TORCH_ONLY],
)
@pytest.mark.parametrize("nested", [False, True])
def test_what_pickles_ask_for(tmp_path, case, container, nested):
    body, word = ASKS[case]
    path = tmp_path / "model.pkl"
    body = b"}" + text("model") + b"}" + text("w") + body + b"ss." if nested else body + b"."
    path.write_bytes(container(body))
    refused(path, word)


def test_the_first_of_them_is_live(tmp_path, monkeypatch):
    """Python's own unpickler runs it, so the tests above would see a marker."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(lone_pickle(ASKS["reduce"][0] + b"."))
    assert MARKER.exists()


def test_the_message_tells_what_to_do(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(lone_pickle(ASKS["reduce"][0] + b"."))
    assert refused(path) == (
        f"{path}: asks for os.system, which weights never need; "
        "the file may be malicious, so do not load it with other tools; ask its authors for safetensors"
    )


REFERENCES = {
    "a text": text("storage"),
    "a number": b"K\x01",
    "none": b"N",
    "an empty tuple": b")",
    "a module": b"(" + text("module") + name("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x01t",
    "too few": b"(" + text("storage") + name("torch", "FloatStorage") + b"t",
    "a kind that is a text": b"(" + text("storage") + text("torch.FloatStorage") + text("0") + text("cpu") + b"K\x01Nt",
    "a key that is a number": b"(" + text("storage") + name("torch", "FloatStorage") + b"K\x00" + text("cpu") + b"K\x01Nt",
    "a negative size": b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + number(-4) + b"Nt",
}


@pytest.mark.parametrize("case", REFERENCES)
@pytest.mark.parametrize("container", [archive, stream])
def test_references_out_of_pickles(tmp_path, container, case):
    path = tmp_path / "x"
    for body in (REFERENCES[case], REFERENCES[case].replace(b"Nt", b"t")):
        path.write_bytes(container(body + b"Q."))
        refused(path, "refers to")


BOMBS = {
    "operations": (b"N(t" * 100_000, "200000 operations"),
    "marks": (b"(" * 300_000 + b".", "200000 operations"),
    "containers": (b"(" + b"}" * 250_000 + b"t.", "200000 operations"),
    "nesting": (b"]" * 90_000 + b"a" * 89_999 + b".", "contains a list"),
    "tuples": (b")" + b"\x85" * 190_000 + b".", "contains a tuple"),
    "a dict in itself": (b"}q\x00" + text("model") + b"h\x00s.", "no tensors"),
    "one text encoded often": (
        b"("
        + text("x" * 2**20)
        + b"q\x00"
        + name("_codecs", "encode")
        + b"q\x01"
        + text("latin1")
        + b"q\x02"
        + b"h\x01h\x00h\x02\x86R" * 30_000
        + b"t.",
        "unpacks to more",
    ),
    "one list made a dict often": (
        b"(]("
        + b"".join(b"(" + number(i) + b"Nt" for i in range(30_000))
        + b"eq\x00"
        + DICT
        + b"q\x01"
        + b"h\x01h\x00\x85R" * 20_000
        + b"t.",
        "unpacks to more",
    ),
    "a memo far off": (b"}r\xff\xff\xff\xff.", "no tensors"),
    "tuples doubled": (b")" + b"q\x00h\x00\x86" * 60_000 + b".", "contains a tuple"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_stay_small(tmp_path, case, monkeypatch):
    monkeypatch.setattr(pickle_machine, "OPERATIONS", 200_000)  # a tenth, for the time it takes
    body, word = BOMBS[case]
    path = tmp_path / "x"
    path.write_bytes(lone_pickle(body))
    refused(path, word)


# Tensors that reach out of their storage


TENSORS = {
    "beyond": ({"shape": (3, 3)}, "exceeds its storage"),
    "huge": ({"shape": (2**31, 2**31)}, "invalid or too large"),
    "overflowing": ({"shape": (2**62, 4), "strides": (0, 0)}, "invalid or too large"),
    "overflowing to nothing": ({"shape": (2**32, 2**32, 0), "strides": (0, 0, 0)}, "invalid or too large"),
    "blown up by stride 0": ({"shape": (1000, 1000), "strides": (0, 0)}, "exceeds its storage"),
    "offset": ({"offset": 1}, "exceeds its storage"),
    "huge offset": ({"offset": 2**100}, "exceeds its storage"),
    "negative offset": ({"offset": -1}, "without offset"),
    "stride": ({"strides": (4, 1)}, "exceeds its storage"),
    "huge stride": ({"strides": (2**62, 1)}, "exceeds its storage"),
    "negative stride": ({"strides": (-3, 1), "offset": 3}, "strides"),
    "negative size": ({"shape": (-2, 3)}, "whose shape"),
    "fewer strides": ({"strides": (3,)}, "strides"),
    "many dimensions": ({"shape": (1,) * 65, "strides": (1,) * 65}, "65 dimensions"),
    "a storage of other size": ({"count": 5}, "24 bytes, not 20"),
    "a storage of another type": ({"kind": "DoubleStorage"}, "24 bytes, not 48"),
    "no storage": ({"key": "1"}, "1 is not in the file"),
    "a storage outside": ({"key": "../../etc/passwd"}, "../../etc/passwd is not in the file"),
    "metadata": ({"extra": b"}" + text("conj") + b"\x88s"}, "metadata"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_stay_in_their_storage(tmp_path, case):
    changes, words = TENSORS[case]
    path = tmp_path / "x"
    for fields, fails in (({}, False), (changes, True)):
        path.write_bytes(archive(b"}" + text("w") + tensor(**fields) + b"s.", **{"data/0": np.arange(6, dtype="f4").tobytes()}))
        if fails:
            refused(path, words)
        else:
            assert open_tensors(path).read("w").tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("shape", "raw"), [((2, 3), 20), ((2, 2), 24), ((2**31, 2**31), 24), ((-1, -6), 24), ((2**32, 2**32, 0), 0), ((1,) * 65, 4)]
)
def test_arrays_have_their_bytes(tmp_path, shape, raw):
    dtype = name("numpy", "dtype") + text("f4") + b"\x85R"
    array = (
        name("numpy.core.multiarray", "_reconstruct")
        + name("numpy", "ndarray")
        + b"K\x00\x85C\x01b\x87R"
        + b"(K\x01"
        + sizes(*shape)
        + dtype
        + b"\x89C"
        + bytes([raw])
        + b"\0" * raw
        + b"tb"
    )
    path = tmp_path / "x"
    path.write_bytes(lone_pickle(b"}" + text("w") + array + b"s."))
    refused(path, "shape" if len(shape) < 65 else "dimensions")


@pytest.mark.parametrize("flag", [b"K\x00", b"K\x01", b"N", text("F")])
def test_the_order_of_axes_is_a_boolean(tmp_path, flag):
    """NumPy would read 1 as Fortran's order; it writes True and False alone."""
    dtype = name("numpy", "dtype") + text("u1") + b"\x85R"
    new = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
    path = tmp_path / "x"
    path.write_bytes(lone_pickle(b"}" + text("w") + new + b"(K\x01" + sizes(2, 2) + dtype + flag + b"C\x04\0\1\2\3tb" + b"s."))
    refused(path, "axis order is not told by True or False")


def test_booleans_are_0_or_1(tmp_path):
    path = tmp_path / "x"
    body = b"}" + text("w") + tensor(kind="BoolStorage") + b"s."
    path.write_bytes(archive(body, **{"data/0": bytes([0, 1, 255, 0, 1, 1])}))
    refused(path, "w is a boolean array")
