"""Builds NumPy arrays from pickles of `numpy.ndarray.__reduce_ex__` (protocols 2 to 5) as views of the file."""

from __future__ import annotations

from typing import Any

import numpy as np

from hyperseg_jax.untrusted.bad_file import CONVERT, DISTRUST, BadFile
from hyperseg_jax.untrusted.pickle_machine import Builder, PickleMachine, Unfinished, encode_latin1, name_table
from hyperseg_jax.untrusted.printing import escaped
from hyperseg_jax.weights.mapped_file import StoredArray, element_count

KINDS = ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")


class PickledDtype(Unfinished):
    """A number dtype of a pickle. BUILD sets its byte order."""

    def __init__(self, kind: str) -> None:
        self.dtype = np.dtype(kind)
        self.swapped = False

    def finish(self, machine: PickleMachine, state: object) -> None:
        """Sets the byte order. state: (version, order, None, None, None, -1, -1, flags); the Nones are fields of structured
        dtypes."""
        if type(state) is not tuple or len(state) < 5 or state[2:5] != (None, None, None) or type(state[1]) is not str:
            raise BadFile("has an array of a structured type, which weights never need", CONVERT)
        if state[1] not in ("<", ">", "=", "|"):
            raise BadFile(f"has an array of byte order {escaped(state[1])}")
        self.swapped = state[1] == ">"


class PickledArray(Unfinished):
    """An array of a pickle; `stored` is None until BUILD gives its state."""

    stored: StoredArray | None = None

    def finish(self, machine: PickleMachine, state: object) -> None:
        """Sets `stored`. state: (version, shape, dtype, whether in Fortran order, bytes)."""
        if self.stored is not None or type(state) is not tuple or len(state) != 5:
            raise BadFile("has an array in an unknown format", CONVERT)
        _, shape, dtype, fortran, raw = state
        if type(fortran) is not bool:
            raise BadFile("has an array whose axis order is not told by True or False", CONVERT)
        self.stored = _build_array(machine, raw, dtype, shape, "F" if fortran else "C")


def require_stored_array(array: PickledArray) -> StoredArray:
    """Returns the content of an array. Raises BadFile if the file does not contain it."""
    if array.stored is None:
        raise BadFile("has an array without content")
    return array.stored


def _build_array(machine: PickleMachine, raw: object, kind: object, shape: object, order: str) -> StoredArray:
    """Returns an array over the bytes `raw`, after checking their number. order: "C" or "F"."""
    if type(kind) is not PickledDtype:
        raise BadFile("has an array without a number type", CONVERT)
    if type(raw) is str:  # a short str written by Python 2
        raw = encode_latin1(machine, raw)
    if type(shape) is not tuple or type(raw) is not memoryview:
        raise BadFile("has an array that is not stored as plain bytes", CONVERT)
    if element_count(shape) * kind.dtype.itemsize != len(raw):
        raise BadFile(f"has an array of shape {escaped(str(shape))} and type {kind.dtype} in {len(raw)} bytes")
    return StoredArray(np.ndarray(shape, kind.dtype, raw, order="F" if order == "F" else "C"), kind.swapped)


def _build_dtype(machine: PickleMachine, args: tuple[Any, ...]) -> PickledDtype:
    if not args or type(args[0]) is not str or args[0] not in KINDS:
        name = escaped(args[0]) if args and type(args[0]) is str else "without a name"
        raise BadFile(f"has an array of NumPy type {name}, which weights never need", CONVERT)
    return PickledDtype(args[0])


def _build_empty_array(machine: PickleMachine, args: tuple[Any, ...]) -> PickledArray:
    if not args or args[0] is not NDARRAY:
        raise BadFile("asks NumPy to rebuild an object that is not an ndarray", DISTRUST)
    return PickledArray()


def _build_array_from_buffer(machine: PickleMachine, args: tuple[Any, ...]) -> PickledArray:
    """Builds an array of protocol 5: (bytes, dtype, shape, "C" or "F"), or "K" and the axis order of the bytes."""
    if len(args) not in (4, 5) or args[3] not in ("C", "F", "K") or (args[3] == "K") != (len(args) == 5):
        raise BadFile("has an array in an unknown format", CONVERT)
    array = PickledArray()
    array.stored = _build_array(machine, args[0], args[1], args[2], args[3])
    if args[3] == "K":
        axes = args[4]
        if type(axes) is not tuple or any(type(axis) is not int for axis in axes) or sorted(axes) != list(range(len(args[2]))):
            raise BadFile("has an array with an invalid axis order")
        array.stored = StoredArray(array.stored.array.transpose(axes), array.stored.swapped)
    return array


def _build_number(machine: PickleMachine, args: tuple[Any, ...]) -> int | float | bool:
    if len(args) != 2:
        raise BadFile("has a NumPy number in an unknown format", CONVERT)
    stored = _build_array(machine, args[1], args[0], (), "C")
    return (stored.array.byteswap() if stored.swapped else stored.array).item()


NDARRAY = Builder("numpy.ndarray", _build_empty_array)  # only appears as the first argument of _reconstruct
ARRAY_NAMES = name_table(
    NDARRAY,
    Builder("numpy.dtype", _build_dtype),
    *(Builder(f"numpy.{core}.multiarray._reconstruct", _build_empty_array) for core in ("core", "_core")),
    *(Builder(f"numpy.{core}.multiarray.scalar", _build_number) for core in ("core", "_core")),
    *(Builder(f"numpy.{core}.numeric._frombuffer", _build_array_from_buffer) for core in ("core", "_core")),
)
