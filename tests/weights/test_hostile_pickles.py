"""Malformed or malicious pickles raise a UserError that names file and error; nothing runs, memory is bounded."""

import pickle
import struct

import numpy as np
import pytest
from hostile import (
    COMMAND,
    DICT,
    MARKER,
    assert_refused,
    legacy_torch_file,
    lone_pickle,
    pickle_call,
    pickle_global,
    pickle_int,
    pickle_ints,
    pickle_str,
    pickle_tensor,
    torch_zip,
)

from hyperseg_jax.untrusted import pickle_machine
from hyperseg_jax.weights.tensor_file import open_tensors

pytestmark = pytest.mark.usefixtures("limited_memory")

SETTINGS = pickle_global("argparse", "Namespace")
GLOBALS = {  # pickle -> the name in the message
    "reduce": (pickle_call("os", "system"), "os.system"),
    "posix": (pickle_call("posix", "system"), "posix.system"),
    "nt": (pickle_call("nt", "system"), "nt.system"),
    "eval": (pickle_call("builtins", "eval", f"open({str(MARKER)!r}, 'w')"), "builtins.eval"),
    "exec": (pickle_call("__builtin__", "exec"), "__builtin__.exec"),
    "getattr": (
        pickle_global("builtins", "getattr") + pickle_global("torch", "Size") + pickle_str("__init__") + b"\x86R",
        "builtins.getattr",
    ),
    "import": (pickle_call("builtins", "__import__", "os"), "builtins.__import__"),
    "open": (pickle_call("io", "open", "/etc/passwd"), "io.open"),
    "popen": (pickle_call("subprocess", "Popen"), "subprocess.Popen"),
    "only named": (pickle_global("os", "system"), "os.system"),
    "in a list in a tuple": (b"]" + pickle_call("os", "system") + b"a\x85", "os.system"),
    "as an argument of a good one": (DICT + pickle_call("os", "system") + b"\x85R", "os.system"),
    "as hooks": (
        pickle_global("torch._utils", "_rebuild_parameter") + b"(N\x88" + pickle_call("os", "system") + b"tR",
        "os.system",
    ),
    "memoised strings": (
        b"(" + pickle_str("system") + b"q\x00" + pickle_str("os") + b"q\x01h\x01h\x00\x93" + pickle_str(COMMAND) + b"\x85Rt",
        "os.system",
    ),
    "dotted": (
        pickle_str("torch._utils") + pickle_str("_rebuild_tensor_v2.__globals__") + b"\x93",
        "_rebuild_tensor_v2.__globals__",
    ),
    "inst": (b"(" + pickle_str(COMMAND) + b"ios\nsystem\n", "os.system"),
    "obj": (b"(" + pickle_global("os", "system") + pickle_str(COMMAND) + b"o", "os.system"),
    "newobj": (pickle_global("subprocess", "Popen") + pickle_str(COMMAND) + b"\x85\x81", "subprocess.Popen"),
    "setstate": (DICT + b")R}" + pickle_str("__setstate__") + pickle_global("os", "system") + b"sb", "os.system"),
    "torch's own way out": (
        pickle_global("torch.storage", "_load_from_bytes") + b"C\x01.\x85R",
        "torch.storage._load_from_bytes",
    ),
    "torch.load": (pickle_call("torch", "load", "other.pt"), "torch.load"),
    "a whole module": (pickle_global("torch.nn.modules.linear", "Linear") + b")\x81", "torch.nn.modules.linear.Linear"),
    "sets": (pickle_global("builtins", "set") + b"]\x85R", "builtins.set"),
    "an array of objects": (pickle_global("numpy", "dtype") + pickle_str("O8") + b"\x89\x88\x87R", "NumPy type O8"),
    "a structured array": (pickle_global("numpy", "dtype") + pickle_str("V8") + b"\x89\x88\x87R", "NumPy type V8"),
    "fields": (
        pickle_global("numpy", "dtype")
        + pickle_str("f4")
        + b"\x85R(K\x03"
        + pickle_str("|")
        + b"N"
        + pickle_str("a")
        + b"\x85}tb",
        "structured",
    ),
    "another class as ndarray": (
        pickle_global("numpy.core.multiarray", "_reconstruct") + DICT + b"K\x00\x85C\x01b\x87R",
        "not an ndarray",
    ),
    "another codec": (
        pickle_global("_codecs", "encode") + pickle_str("bzip") + pickle_str("bz2_codec") + b"\x86R",
        "_codecs.encode",
    ),
    "bytes of a number": (pickle_global("builtins", "bytes") + pickle_int(2**40) + b"\x85R", "bytes(...)"),
    "a text called": (pickle_str("os.system") + pickle_str(COMMAND) + b"\x85R", "calls a str"),
    "a storage called": (pickle_global("torch", "FloatStorage") + pickle_str(COMMAND) + b"\x85R", "calls a StorageKind"),
    "a state for a function": (pickle_global("_codecs", "encode") + b"}b", "the state of _codecs.encode"),
    "a state for a text": (pickle_str("x") + b"}b", "the state of a str"),
    "inst of a good name": (b"(icollections\nOrderedDict\n", "INST"),
    "obj of a good name": (b"(" + DICT + b"o", "OBJ"),
    "newobj of a good name": (DICT + b")\x81", "NEWOBJ of collections.OrderedDict"),
    "newobj of a value": (b"N)\x81", "NEWOBJ of a NoneType"),
    "newobj without a tuple": (SETTINGS + b"N\x81", "NEWOBJ of argparse.Namespace"),
    "settings with arguments": (SETTINGS + pickle_str("x") + b"\x85\x81", "with arguments"),
    "settings that are a list": (SETTINGS + b")\x81]b", "not a dict"),
    "settings with a command": (SETTINGS + b")\x81}" + pickle_str("x") + pickle_call("os", "system") + b"sb", "os.system"),
    "newobj_ex": (DICT + b")}\x92", "NEWOBJ_EX"),
    "ext1": (b"\x82\x01", "EXT1"),
    "ext2": (b"\x83\x01\x00", "EXT2"),
    "ext4": (b"\x84\x01\x00\x00\x00", "EXT4"),
    "reference out of it": (pickle_str("x") + b"Q", "refers to"),
    "persistent text": (b"P1\n", "PERSID"),
    "dup": (b"N2", "DUP"),
    "empty set": (b"\x8f", "EMPTY_SET"),
    "out-of-band buffer": (b"\x97", "NEXT_BUFFER"),
    "unknown operation": (b"\xff", "0xff"),
    "a list as a name": (b"}]Ns", "a list as a name"),
    "a tuple as a name": (b"}" + b")" + b"\x85" * 10_000 + b"Ns", "a tuple as a name"),
    "a name twice": (b"}(" + (pickle_str("weight") + b"N") * 2 + b"u", "weight twice"),
    "a name without a value": (b"}(" + pickle_str("x") + b"u", "without a value"),
    "items for a text": (pickle_str("x") + pickle_str("x") + b"Ns", "not a dict"),
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
CONTAINERS = (lone_pickle, torch_zip, legacy_torch_file)
TORCH_ONLY = {"as hooks", "a storage called"}  # they begin with a valid name of torch


@pytest.mark.parametrize(
    ("case", "container"),
    [
        (case, container)
        for case in GLOBALS
        for container in CONTAINERS
        if container is not lone_pickle or case not in TORCH_ONLY
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_disallowed_globals(tmp_path, case, container, nested):
    body, word = GLOBALS[case]
    path = tmp_path / "model.pkl"
    body = b"}" + pickle_str("model") + b"}" + pickle_str("w") + body + b"ss." if nested else body + b"."
    path.write_bytes(container(body))
    assert_refused(path, word)


def test_the_malicious_pickle_runs_in_python(tmp_path, monkeypatch):
    """Python's own unpickler executes it, so the tests above would detect the marker file."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(lone_pickle(GLOBALS["reduce"][0] + b"."))
    assert MARKER.exists()


def test_the_message_names_the_fix(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(lone_pickle(GLOBALS["reduce"][0] + b"."))
    assert assert_refused(path) == (
        f"{path}: asks for os.system, which weights never need; "
        "the file may be malicious, so do not load it with other tools; ask its authors for safetensors"
    )


REFERENCES = {
    "a text": pickle_str("storage"),
    "a number": b"K\x01",
    "none": b"N",
    "an empty tuple": b")",
    "a module": b"("
    + pickle_str("module")
    + pickle_global("torch", "FloatStorage")
    + pickle_str("0")
    + pickle_str("cpu")
    + b"K\x01t",
    "too few": b"(" + pickle_str("storage") + pickle_global("torch", "FloatStorage") + b"t",
    "a kind that is a text": b"("
    + pickle_str("storage")
    + pickle_str("torch.FloatStorage")
    + pickle_str("0")
    + pickle_str("cpu")
    + b"K\x01Nt",
    "a key that is a number": b"("
    + pickle_str("storage")
    + pickle_global("torch", "FloatStorage")
    + b"K\x00"
    + pickle_str("cpu")
    + b"K\x01Nt",
    "a negative size": b"("
    + pickle_str("storage")
    + pickle_global("torch", "FloatStorage")
    + pickle_str("0")
    + pickle_str("cpu")
    + pickle_int(-4)
    + b"Nt",
}


@pytest.mark.parametrize("case", REFERENCES)
@pytest.mark.parametrize("container", [torch_zip, legacy_torch_file])
def test_persistent_references(tmp_path, container, case):
    path = tmp_path / "x"
    for body in (REFERENCES[case], REFERENCES[case].replace(b"Nt", b"t")):
        path.write_bytes(container(body + b"Q."))
        assert_refused(path, "refers to")


BOMBS = {
    "operations": (b"N(t" * 100_000, "200000 operations"),
    "marks": (b"(" * 300_000 + b".", "200000 operations"),
    "containers": (b"(" + b"}" * 250_000 + b"t.", "200000 operations"),
    "nesting": (b"]" * 90_000 + b"a" * 89_999 + b".", "contains a list"),
    "tuples": (b")" + b"\x85" * 190_000 + b".", "contains a tuple"),
    "a dict in itself": (b"}q\x00" + pickle_str("model") + b"h\x00s.", "no tensors"),
    "one text encoded often": (
        b"("
        + pickle_str("x" * 2**20)
        + b"q\x00"
        + pickle_global("_codecs", "encode")
        + b"q\x01"
        + pickle_str("latin1")
        + b"q\x02"
        + b"h\x01h\x00h\x02\x86R" * 30_000
        + b"t.",
        "unpacks to more",
    ),
    "one list made a dict often": (
        b"(]("
        + b"".join(b"(" + pickle_int(i) + b"Nt" for i in range(30_000))
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
def test_bombs_use_little_memory(tmp_path, case, monkeypatch):
    monkeypatch.setattr(pickle_machine, "OPERATIONS", 200_000)  # a tenth of the limit, for speed
    body, word = BOMBS[case]
    path = tmp_path / "x"
    path.write_bytes(lone_pickle(body))
    assert_refused(path, word)


# Tensors that exceed their storage


TENSORS = {
    "beyond": ({"shape": (3, 3)}, "exceeds its storage"),
    "huge": ({"shape": (2**31, 2**31)}, "an invalid shape or one that is too large"),
    "overflowing": ({"shape": (2**62, 4), "strides": (0, 0)}, "an invalid shape or one that is too large"),
    "overflowing to nothing": ({"shape": (2**32, 2**32, 0), "strides": (0, 0, 0)}, "an invalid shape or one that is too large"),
    "blown up by stride 0": ({"shape": (1000, 1000), "strides": (0, 0)}, "exceeds its storage"),
    "offset": ({"offset": 1}, "exceeds its storage"),
    "huge offset": ({"offset": 2**100}, "exceeds its storage"),
    "negative offset": ({"offset": -1}, "without offset"),
    "stride": ({"strides": (4, 1)}, "exceeds its storage"),
    "huge stride": ({"strides": (2**62, 1)}, "exceeds its storage"),
    "negative stride": ({"strides": (-3, 1), "offset": 3}, "strides"),
    "negative size": ({"shape": (-2, 3)}, "an invalid shape"),
    "fewer strides": ({"strides": (3,)}, "strides"),
    "many dimensions": ({"shape": (1,) * 65, "strides": (1,) * 65}, "65 dimensions"),
    "a storage of other size": ({"count": 5}, "24 bytes, not 20"),
    "a storage of another type": ({"kind": "DoubleStorage"}, "24 bytes, not 48"),
    "no storage": ({"key": "1"}, "1 is not in the file"),
    "a storage outside": ({"key": "../../etc/passwd"}, "../../etc/passwd is not in the file"),
    "metadata": ({"extra": b"}" + pickle_str("conj") + b"\x88s"}, "metadata"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_stay_in_their_storage(tmp_path, case):
    changes, words = TENSORS[case]
    path = tmp_path / "x"
    for fields, fails in (({}, False), (changes, True)):
        path.write_bytes(
            torch_zip(
                b"}" + pickle_str("w") + pickle_tensor(**fields) + b"s.", **{"data/0": np.arange(6, dtype="f4").tobytes()}
            )
        )
        if fails:
            assert_refused(path, words)
        else:
            assert open_tensors(path).read("w").tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("shape", "raw"), [((2, 3), 20), ((2, 2), 24), ((2**31, 2**31), 24), ((-1, -6), 24), ((2**32, 2**32, 0), 0), ((1,) * 65, 4)]
)
def test_arrays_need_all_their_bytes(tmp_path, shape, raw):
    dtype = pickle_global("numpy", "dtype") + pickle_str("f4") + b"\x85R"
    array = (
        pickle_global("numpy.core.multiarray", "_reconstruct")
        + pickle_global("numpy", "ndarray")
        + b"K\x00\x85C\x01b\x87R"
        + b"(K\x01"
        + pickle_ints(*shape)
        + dtype
        + b"\x89C"
        + bytes([raw])
        + b"\0" * raw
        + b"tb"
    )
    path = tmp_path / "x"
    path.write_bytes(lone_pickle(b"}" + pickle_str("w") + array + b"s."))
    assert_refused(path, "shape" if len(shape) < 65 else "dimensions")


@pytest.mark.parametrize("flag", [b"K\x00", b"K\x01", b"N", pickle_str("F")])
def test_array_order_must_be_boolean(tmp_path, flag):
    """NumPy would read 1 as Fortran order; it only writes True and False."""
    dtype = pickle_global("numpy", "dtype") + pickle_str("u1") + b"\x85R"
    new = pickle_global("numpy.core.multiarray", "_reconstruct") + pickle_global("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
    path = tmp_path / "x"
    path.write_bytes(
        lone_pickle(b"}" + pickle_str("w") + new + b"(K\x01" + pickle_ints(2, 2) + dtype + flag + b"C\x04\0\1\2\3tb" + b"s.")
    )
    assert_refused(path, "axis order is not told by True or False")


def test_boolean_values_must_be_0_or_1(tmp_path):
    path = tmp_path / "x"
    body = b"}" + pickle_str("w") + pickle_tensor(kind="BoolStorage") + b"s."
    path.write_bytes(torch_zip(body, **{"data/0": bytes([0, 1, 255, 0, 1, 1])}))
    assert_refused(path, "w is a boolean array")
