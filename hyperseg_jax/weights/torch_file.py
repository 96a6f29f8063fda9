"""Reads files of `torch.save`: the zip format (PyTorch 1.6 and later) and the older stream format.

Both consist of a pickle that builds tensors from storages, and the bytes of the storages. Tensors are returned as strided views
of the storages. The stream format is five pickles (magic number, version, machine, object, storage keys), followed by the
storages: the number of elements as an int64, and the elements.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from hyperseg_jax.untrusted.bad_file import CONVERT, DISTRUST, BadFile, map_file, naming_path
from hyperseg_jax.untrusted.pickle_machine import PLAIN_NAMES, Builder, PickleMachine, name_table
from hyperseg_jax.untrusted.printing import escaped
from hyperseg_jax.weights.mapped_file import MappedTensors, StoredArray, element_count
from hyperseg_jax.weights.pickled_arrays import ARRAY_NAMES, PickledArray, require_stored_array
from hyperseg_jax.weights.state_dict import find_tensors
from hyperseg_jax.weights.zip_entries import read_zip_entries

MAGIC = 0x1950A86A20F9469CFC6C  # magic number of the stream format
VERSION = 1001
STORAGES = {
    "Double": "<f8",
    "Float": "<f4",
    "Half": "<f2",
    "BFloat16": ml_dtypes.bfloat16,
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "?",
}
DTYPES = {
    "float64": "<f8",
    "float32": "<f4",
    "float16": "<f2",
    "bfloat16": ml_dtypes.bfloat16,
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "i1",
    "uint8": "u1",
    "bool": "?",
    "uint16": "<u2",
    "uint32": "<u4",
    "uint64": "<u8",
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
}


@dataclasses.dataclass(frozen=True, eq=False)
class StorageKind:
    """A storage class of a pickle, such as torch.FloatStorage. dtype: None for torch.storage.UntypedStorage, which counts
    bytes."""

    dtype: np.dtype | None


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """A storage outside the pickle, referenced by its key."""

    kind: StorageKind
    key: str
    size: int  # bytes


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A view of a storage; offset and strides count elements."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def is_torch_stream(head: bytes) -> bool:
    """Whether a file that begins with these bytes (about 32) has the magic number of the stream format."""
    return MAGIC.to_bytes(10, "little") in head[:32]


def open_torch_zip(path: pathlib.Path) -> MappedTensors:
    """Opens a file in the zip format; its tensors are in the order of its state dict. Raises UserError if it is invalid."""
    with naming_path(path):
        entries = read_zip_entries(map_file(path))
        pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise BadFile("is a zip archive, but not of torch.save (it has no data.pkl)", "give the weight file itself")
        folder = pickles[0].removesuffix("data.pkl")
        checked = lambda name: entries[name].checked(name)
        order = bytes(checked(f"{folder}byteorder")[:10]) if f"{folder}byteorder" in entries else b"little"
        if order not in (b"little", b"big"):
            raise BadFile("has an unknown byte order")
        root = PickleMachine(checked(pickles[0]), NAMES, lambda machine, ident: _parse_storage(ident, 5)).run()
        prefix = f"{folder}data/"
        storages = {name.removeprefix(prefix): entry.data for name, entry in entries.items() if name.startswith(prefix)}
        return _map_tensors(path, root, storages, swapped=order == b"big", check=lambda key: checked(f"{prefix}{key}"))


def open_torch_stream(path: pathlib.Path) -> MappedTensors:
    """Opens a file in the stream format; its tensors are in the order of its state dict. Raises UserError if it is invalid."""
    with naming_path(path):
        data = map_file(path)
        sizes: dict[str, int] = {}  # bytes per element

        def persistent(machine: PickleMachine, ident: object) -> Storage:
            storage = _parse_storage(ident, 6)
            sizes[storage.key] = storage.kind.dtype.itemsize if storage.kind.dtype else 1
            return storage

        machine = PickleMachine(data, NAMES, persistent)
        magic, version, system = machine.run(), machine.run(machine.at), machine.run(machine.at)
        if (type(magic), type(version), type(system)) != (int, int, dict) or (magic, version) != (MAGIC, VERSION):
            raise BadFile("is not a torch.save file", CONVERT)
        if system.get("little_endian") is not True:
            raise BadFile("was written on a machine with another byte order", CONVERT)
        root, keys = machine.run(machine.at), machine.run(machine.at)
        if type(keys) is not list or any(type(key) is not str or key not in sizes for key in keys):
            raise BadFile("lists storages that none of its tensors use")
        storages, at = {}, machine.at
        for key in keys:
            count = int.from_bytes(data[at : at + 8], "little")
            if at + 8 + count * sizes[key] > len(data):
                raise BadFile(f"is cut off in storage {escaped(key)}")
            storages[key] = data[at + 8 : at + 8 + count * sizes[key]]
            at += 8 + count * sizes[key]
        if at != len(data):
            raise BadFile(f"has {len(data) - at} bytes after its storages")
        return _map_tensors(path, root, storages, swapped=False)


def _map_tensors(
    path: pathlib.Path,
    root: object,
    storages: Mapping[str, memoryview],
    *,
    swapped: bool,
    check: Callable[[str], object] | None = None,
) -> MappedTensors:
    """Finds the state dict in the unpickled `root` and maps its tensors as views of the storages.

    check(key) raises BadFile if a storage is damaged; it is called when a tensor of the storage is first read.
    """
    tensors, ignored = find_tensors(root, lambda value: type(value) in (Tensor, PickledArray))
    arrays = {}
    for name, value in tensors.items():
        try:
            arrays[name] = (
                require_stored_array(value)
                if type(value) is PickledArray
                else StoredArray(_view_tensor(value, storages), swapped)
            )
        except BadFile as error:
            raise error.about(name) from error
    if check is None:
        return MappedTensors(path, arrays, ignored)
    once = functools.cache(check)
    keys = {name: value.storage.key for name, value in tensors.items() if type(value) is Tensor}
    return MappedTensors(path, arrays, ignored, {name: functools.partial(once, key) for name, key in keys.items()})


def _view_tensor(tensor: Tensor, storages: Mapping[str, memoryview]) -> np.ndarray:
    """Returns a tensor as a view of its storage, after checking that it is within bounds."""
    storage, size = tensor.storage, tensor.dtype.itemsize
    raw = storages.get(storage.key)
    if raw is None:
        raise BadFile(f"its storage {escaped(storage.key)} is not in the file")
    if len(raw) != storage.size:
        raise BadFile(f"its storage {escaped(storage.key)} has {len(raw)} bytes, not {storage.size}")
    count = element_count(tensor.shape)
    # the stride of an axis of length 1 has no meaning and may have any value
    strides = [stride if length > 1 else 1 for length, stride in zip(tensor.shape, tensor.strides, strict=True)]
    if count == 0:
        return np.ndarray(tensor.shape, tensor.dtype)
    last = tensor.offset + sum((length - 1) * stride for length, stride in zip(tensor.shape, strides, strict=True))
    if count * size > len(raw) or (last + 1) * size > len(raw):
        raise BadFile(f"its shape {tensor.shape} exceeds its storage of {len(raw)} bytes")
    return np.ndarray(tensor.shape, tensor.dtype, raw, tensor.offset * size, [stride * size for stride in strides])


def _parse_storage(ident: Any, length: int) -> Storage:
    """Returns the storage of a persistent id: ("storage", kind, key, device, elements), and in the stream format a view."""
    if type(ident) is not tuple or len(ident) != length or type(ident[0]) is not str or ident[0] != "storage":
        raise BadFile("its pickle refers to a value that is not a storage", DISTRUST)
    _, kind, key, _, count = ident[:5]
    if type(kind) is not StorageKind or type(key) is not str or type(count) is not int or count < 0:
        raise BadFile("its pickle refers to a storage with an invalid kind, key or size", DISTRUST)
    if ident[5:] not in ((), (None,)):
        raise BadFile("has storage views, which PyTorch before 0.4 wrote", CONVERT)
    return Storage(kind, key, count * (kind.dtype.itemsize if kind.dtype else 1))


def _build_tensor(args: tuple[Any, ...], dtype: Any) -> Tensor:
    """Builds a Tensor. args: (storage, offset, sizes, strides)."""
    storage, offset, shape, strides = args
    if type(storage) is not Storage or not isinstance(dtype, np.dtype):
        raise BadFile("has a tensor without storage or dtype", DISTRUST)
    if type(offset) is not int or offset < 0 or type(shape) is not tuple or type(strides) is not tuple:
        raise BadFile("has a tensor without offset, shape or strides")
    element_count(shape)
    if len(strides) != len(shape) or any(type(stride) is not int or stride < 0 for stride in strides):
        raise BadFile("has a tensor whose strides do not match its shape")
    return Tensor(storage, dtype, offset, shape, strides)


def _check_no_hooks(args: tuple[Any, ...], minimum: int, maximum: int) -> None:
    """Raises BadFile unless the number of arguments is in these bounds and those after the strides are empty: no backward
    hooks, and no metadata of conjugated or negated views."""
    if not minimum <= len(args) <= maximum or any(type(extra) is dict and extra for extra in args[5:]):
        raise BadFile("has a tensor with hooks or metadata, which weights never need", CONVERT)


def _dtype_of(storage: object) -> np.dtype | None:
    return storage.kind.dtype if type(storage) is Storage else None


def _rebuild_v1(machine: PickleMachine, args: tuple[Any, ...]) -> Tensor:
    _check_no_hooks(args, 4, 4)
    return _build_tensor(args, _dtype_of(args[0]))


def _rebuild_v2(machine: PickleMachine, args: tuple[Any, ...]) -> Tensor:
    _check_no_hooks(args, 6, 7)
    return _build_tensor(args[:4], _dtype_of(args[0]))


def _rebuild_v3(machine: PickleMachine, args: tuple[Any, ...]) -> Tensor:
    _check_no_hooks(args, 7, 8)
    return _build_tensor(args[:4], args[6])


def _build_parameter(machine: PickleMachine, args: tuple[Any, ...]) -> Tensor:
    if len(args) != 3 or type(args[0]) is not Tensor:
        raise BadFile("has a parameter that is not a tensor", DISTRUST)
    return args[0]


def _build_size(machine: PickleMachine, args: tuple[Any, ...]) -> tuple[int, ...]:
    if len(args) != 1 or type(args[0]) is not tuple:
        raise BadFile("has a torch.Size that is not a tuple", DISTRUST)
    element_count(args[0])
    return args[0]


NAMES: dict[str, object] = {
    **PLAIN_NAMES,
    **ARRAY_NAMES,
    **name_table(
        Builder("torch._utils._rebuild_tensor", _rebuild_v1),
        Builder("torch._utils._rebuild_tensor_v2", _rebuild_v2),
        Builder("torch._utils._rebuild_tensor_v3", _rebuild_v3),
        Builder("torch._utils._rebuild_parameter", _build_parameter),
        Builder("torch.Size", _build_size),
    ),
    **{f"torch.{name}Storage": StorageKind(np.dtype(kind)) for name, kind in STORAGES.items()},
    "torch.storage.UntypedStorage": StorageKind(None),
    **{f"torch.{name}": np.dtype(kind) for name, kind in DTYPES.items()},
}
