"""What tests of hostile weight files share: pickles written operation by operation, and how a refusal must look."""

import io
import os
import pathlib
import pickle
import struct
import zipfile

import pytest

from hyperseg_jax.errors import UserError
from hyperseg_jax.weights.tensor_file import open_tensors

MARKER = pathlib.Path(f"marker_{os.getpid()}")  # what hostile files try to make
COMMAND = f"touch {MARKER}"


def refused(path, *words, opens=open_tensors):
    """Opening gives one line that names the path and has these words; no marker file appears."""
    with pytest.raises(UserError) as error, opens(path) as file:
        for name in file.tensors:
            file.read(name)
    message = str(error.value)
    assert message.startswith(str(path)) and "\n" not in message and "; " in message
    assert all(word in message for word in words), message
    assert not MARKER.exists()
    return message


def text(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def name(module, function):
    return f"c{module}\n{function}\n".encode()


def call(module, function, argument=COMMAND):
    return name(module, function) + text(argument) + b"\x85R"


def number(value):
    raw = value.to_bytes(16, "little", signed=True)
    return b"\x8a\x10" + raw


def sizes(*values):
    return b"(" + b"".join(map(number, values)) + b"t"


DICT = name("collections", "OrderedDict")


def lone_pickle(body):
    return b"\x80\x02" + body


def archive(body, *, order="little", **entries):
    """A file as of torch.save, with this pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as target:
        for key, value in {"data.pkl": b"\x80\x02" + body, "byteorder": order, "version": "3\n", **entries}.items():
            target.writestr(f"x/{key}", value)
    return file.getvalue()


def stream(body, *, keys=b"]", storages=b""):
    """A file as of torch.save before 1.6."""
    head = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    return head + b"\x80\x02" + body + b"\x80\x02" + keys + b"." + storages


def tensor(shape=(2, 3), strides=(3, 1), offset=0, count=6, kind="FloatStorage", key="0", extra=b""):
    reference = b"(" + text("storage") + name("torch", kind) + text(key) + text("cpu") + number(count) + b"tQ"
    hooks = b"\x89" + DICT + b")R"
    return (
        name("torch._utils", "_rebuild_tensor_v2")
        + b"("
        + reference
        + number(offset)
        + sizes(*shape)
        + sizes(*strides)
        + hooks
        + extra
        + b"tR"
    )
