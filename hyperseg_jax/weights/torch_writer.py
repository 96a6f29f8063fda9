"""Writes a PyTorch state dict without PyTorch, in the zip format of torch.save (PyTorch 1.6 and later)."""

from __future__ import annotations

import pathlib
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from hyperseg_jax.weights.safetensors_writer import iterate_c_order_chunks

STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


def write_state_dict(
    path: pathlib.Path, described: Mapping[str, tuple[tuple[int, ...], Any]], tensors: Iterable[tuple[str, np.ndarray]]
) -> None:
    """Writes a state dict that torch.load(path, weights_only=True) can load. described: {name: (shape, dtype)}. tensors: (name,
    array) in the same order; each is written before the next one is requested."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", _pickle_state_dict(described))
        archive.writestr("archive/byteorder", "little")
        for number, (expected, (name, array)) in enumerate(zip(described, tensors, strict=True)):
            if name != expected:
                raise ValueError(f"got tensor {name}, expected {expected}")
            with archive.open(f"archive/data/{number}", "w", force_zip64=True) as entry:
                for data in iterate_c_order_chunks(array):
                    entry.write(data)
        archive.writestr("archive/version", "3\n")


def _pickle_state_dict(described: Mapping[str, tuple[tuple[int, ...], Any]]) -> bytes:
    """Returns the pickle of a dict of tensors, assembled from opcodes, since its globals belong to PyTorch, which may not be
    installed."""
    opcodes = [pickle.PROTO, b"\x02", pickle.EMPTY_DICT, pickle.MARK]
    for number, (name, (shape, dtype)) in enumerate(described.items()):
        count = int(np.prod(shape, dtype=np.int64))
        strides = [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]
        opcodes += [_pickle_text(name), _pickle_global("torch._utils", "_rebuild_tensor_v2"), pickle.MARK]
        opcodes += [
            pickle.MARK,
            _pickle_text("storage"),
            _pickle_global("torch", STORAGES[np.dtype(dtype).name]),
            _pickle_text(str(number)),
        ]
        opcodes += [_pickle_text("cpu"), _pickle_integer(count), pickle.TUPLE, pickle.BINPERSID]
        opcodes += [_pickle_integer(0), _pickle_tuple(shape), _pickle_tuple(strides), pickle.NEWFALSE]
        opcodes += [
            _pickle_global("collections", "OrderedDict"),
            pickle.EMPTY_TUPLE,
            pickle.REDUCE,
            pickle.TUPLE,
            pickle.REDUCE,
        ]
    return b"".join([*opcodes, pickle.SETITEMS, pickle.STOP])


def _pickle_text(text: str) -> bytes:
    data = text.encode()
    return pickle.BINUNICODE + len(data).to_bytes(4, "little") + data


def _pickle_integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return pickle.LONG1 + bytes([len(data)]) + data


def _pickle_tuple(values: Iterable[int]) -> bytes:
    return b"".join([pickle.MARK, *map(_pickle_integer, values), pickle.TUPLE])


def _pickle_global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()
