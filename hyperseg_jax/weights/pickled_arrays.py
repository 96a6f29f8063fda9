"""NumPy arrays out of pickles: what `numpy.ndarray.__reduce_ex__` writes in protocols 2 to 5, rebuilt as views of the file."""

from __future__ import annotations

from typing import Any

import numpy as np

from hyperseg_jax.untrusted.bad_file import CONVERT, DISTRUST, BadFile
from hyperseg_jax.untrusted.pickle_machine import Builder, PickleMachine, Unfinished, known, latin1
from hyperseg_jax.untrusted.printing import shown
from hyperseg_jax.weights.mapped_file import Stored, element_count

KINDS = ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")


class PickledDtype(Unfinished):
    """A plain number type. Its state gives the byte order."""

    def __init__(self, kind: str) -> None:
        self.dtype = np.dtype(kind)
        self.swapped = False

    def finish(self, machine: PickleMachine, state: object) -> None:
        """state: (version, order, None, None, None, -1, -1, flags); the three are of structured types."""
        if type(state) is not tuple or len(state) < 5 or state[2:5] != (None, None, None) or type(state[1]) is not str:
            raise BadFile("has an array of a structured type, which weights never need", CONVERT)
        if state[1] not in ("<", ">", "=", "|"):
            raise BadFile(f"has an array of byte order {shown(state[1])}")
        self.swapped = state[1] == ">"


class PickledArray(Unfinished):
    """An array; `stored` is None until its state has come."""

    stored: Stored | None = None

    def finish(self, machine: PickleMachine, state: object) -> None:
        """state: (version, shape, dtype, whether in Fortran order, bytes)."""
        if self.stored is not None or type(state) is not tuple or len(state) != 5:
            raise BadFile("has an array of unknown make", CONVERT)
        _, shape, dtype, fortran, raw = state
        self.stored = _array(machine, raw, dtype, shape, "F" if fortran is True else "C")


def stored_array(array: PickledArray) -> Stored:
    """The finished array. Raises BadFile where the file never gave its content."""
    if array.stored is None:
        raise BadFile("has an array without content")
    return array.stored


def _array(machine: PickleMachine, raw: object, kind: object, shape: object, order: str) -> Stored:
    if type(kind) is not PickledDtype:
        raise BadFile("has an array without a number type", CONVERT)
    if type(raw) is str:  # a short str of Python 2
        raw = latin1(machine, raw)
    if type(shape) is not tuple or type(raw) is not memoryview:
        raise BadFile("has an array that is not of plain bytes", CONVERT)
    if element_count(shape) * kind.dtype.itemsize != len(raw):
        raise BadFile(f"has an array of shape {shown(str(shape))} and type {kind.dtype} in {len(raw)} bytes")
    return Stored(np.ndarray(shape, kind.dtype, raw, order="F" if order == "F" else "C"), kind.swapped)


def _dtype(machine: PickleMachine, args: tuple[Any, ...]) -> PickledDtype:
    if not args or type(args[0]) is not str or args[0] not in KINDS:
        named = shown(args[0]) if args and type(args[0]) is str else "no name"
        raise BadFile(f"has an array of NumPy type {named}, which weights never need", CONVERT)
    return PickledDtype(args[0])


def _reconstruct(machine: PickleMachine, args: tuple[Any, ...]) -> PickledArray:
    if not args or args[0] is not NDARRAY:
        raise BadFile("asks NumPy to rebuild what is no ndarray", DISTRUST)
    return PickledArray()


def _from_buffer(machine: PickleMachine, args: tuple[Any, ...]) -> PickledArray:
    """Protocol 5: (bytes, dtype, shape, "C" or "F"), or "K" with the order of axes that the bytes lie in."""
    if len(args) not in (4, 5) or args[3] not in ("C", "F", "K") or (args[3] == "K") != (len(args) == 5):
        raise BadFile("has an array of unknown make", CONVERT)
    made = PickledArray()
    made.stored = _array(machine, args[0], args[1], args[2], args[3])
    if args[3] == "K":
        axes = args[4]
        if type(axes) is not tuple or any(type(axis) is not int for axis in axes) or sorted(axes) != list(range(len(args[2]))):
            raise BadFile("has an array whose axes are not in any order")
        made.stored = Stored(made.stored.array.transpose(axes), made.stored.swapped)
    return made


def _scalar(machine: PickleMachine, args: tuple[Any, ...]) -> int | float | bool:
    if len(args) != 2:
        raise BadFile("has a NumPy number of unknown make", CONVERT)
    stored = _array(machine, args[1], args[0], (), "C")
    return (stored.array.byteswap() if stored.swapped else stored.array).item()


NDARRAY = Builder("numpy.ndarray", _reconstruct)  # named only as the first argument of _reconstruct
ARRAY_NAMES = known(
    NDARRAY,
    Builder("numpy.dtype", _dtype),
    *(Builder(f"numpy.{core}.multiarray._reconstruct", _reconstruct) for core in ("core", "_core")),
    *(Builder(f"numpy.{core}.multiarray.scalar", _scalar) for core in ("core", "_core")),
    *(Builder(f"numpy.{core}.numeric._frombuffer", _from_buffer) for core in ("core", "_core")),
)
