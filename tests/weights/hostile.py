"""Helpers for tests of hostile weight files: hand-written pickles, and the check of a refusal."""

import io
import os
import pathlib
import pickle
import struct
import zipfile

import pytest

from hyperseg_jax.errors import UserError
from hyperseg_jax.weights.tensor_file import open_tensors

MARKER = pathlib.Path(f"marker_{os.getpid()}")  # the file that hostile pickles try to create
COMMAND = f"touch {MARKER}"


def assert_refused(path, *words, opens=open_tensors):
    """Asserts that opening fails with one line that names the path and contains `words`, without creating MARKER."""
    with pytest.raises(UserError) as error, opens(path) as file:
        for name in file.tensors:
            file.read(name)
    message = str(error.value)
    assert message.startswith(str(path)) and "\n" not in message and "; " in message
    assert all(word in message for word in words), message
    assert not MARKER.exists()
    return message


def pickle_str(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def pickle_global(module, function):
    return f"c{module}\n{function}\n".encode()


def pickle_call(module, function, argument=COMMAND):
    return pickle_global(module, function) + pickle_str(argument) + b"\x85R"


def pickle_int(value):
    raw = value.to_bytes(16, "little", signed=True)
    return b"\x8a\x10" + raw


def pickle_ints(*values):
    return b"(" + b"".join(map(pickle_int, values)) + b"t"


DICT = pickle_global("collections", "OrderedDict")


def lone_pickle(body):
    return b"\x80\x02" + body


def torch_zip(body, *, order="little", **entries):
    """Returns a torch.save file with this pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as target:
        for key, value in {"data.pkl": b"\x80\x02" + body, "byteorder": order, "version": "3\n", **entries}.items():
            target.writestr(f"x/{key}", value)
    return file.getvalue()


def legacy_torch_file(body, *, keys=b"]", storages=b""):
    """Returns a torch.save file of PyTorch before 1.6."""
    head = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    return head + b"\x80\x02" + body + b"\x80\x02" + keys + b"." + storages


def pickle_tensor(shape=(2, 3), strides=(3, 1), offset=0, count=6, kind="FloatStorage", key="0", extra=b""):
    reference = (
        b"("
        + pickle_str("storage")
        + pickle_global("torch", kind)
        + pickle_str(key)
        + pickle_str("cpu")
        + pickle_int(count)
        + b"tQ"
    )
    hooks = b"\x89" + DICT + b")R"
    return (
        pickle_global("torch._utils", "_rebuild_tensor_v2")
        + b"("
        + reference
        + pickle_int(offset)
        + pickle_ints(*shape)
        + pickle_ints(*strides)
        + hooks
        + extra
        + b"tR"
    )
