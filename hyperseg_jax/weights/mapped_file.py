"""Named arrays in a memory-mapped file, shared by all readers of weight files."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

import numpy as np

from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.bad_file import ANOTHER_COPY, CONVERT, BadFile, naming_path
from hyperseg_jax.untrusted.printing import escaped

DIMENSIONS = 64  # the maximum of NumPy
ELEMENTS = 2**48  # larger than any file, and small enough that products of sizes do not overflow


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype of a tensor; bfloat16 and 8-bit floats are dtypes of ml_dtypes."""

    shape: tuple[int, ...]
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array in the file. array: with the dtype in native byte order. swapped: whether its bytes have the other byte
    order."""

    array: np.ndarray
    swapped: bool = False


def element_count(shape: Sequence[object]) -> int:
    """Returns the number of elements of a shape that was read from a file. Raises BadFile if the shape is invalid."""
    if len(shape) > DIMENSIONS:
        raise BadFile(f"has {len(shape)} dimensions, and the limit is {DIMENSIONS}")
    sizes = [size for size in shape if type(size) is int and 0 <= size < ELEMENTS]
    if len(sizes) != len(shape) or math.prod(size for size in sizes if size) >= ELEMENTS:
        raise BadFile("has an invalid shape or one that is too large")
    return math.prod(sizes)


class MappedTensors:
    """The named arrays of one file, and the names of its other content (`ignored`: epochs, authors, optimizers).

    checks: {name: function} that raises BadFile if the data of the array is damaged; called when the array is read. Raises
    BadFile for names with control characters.
    """

    def __init__(
        self,
        path: pathlib.Path,
        arrays: Mapping[str, StoredArray],
        ignored: Sequence[str] = (),
        checks: Mapping[str, Callable[[], object]] = {},
    ) -> None:
        for name in arrays:
            if not name.isprintable():  # names are used in messages and file names
                raise BadFile(f"has a tensor name with control characters, {escaped(name)}", CONVERT)
        self.path = path
        self.tensors = {name: TensorInfo(stored.array.shape, stored.array.dtype) for name, stored in arrays.items()}
        self.ignored = tuple(ignored)
        self._checks = checks
        self._arrays: Mapping[str, StoredArray] | None = arrays

    def read(self, name: str) -> np.ndarray:
        """Returns an array, read-only, in native byte order, and without a copy if the file has that order; it may be strided
        and unaligned.

        Raises KeyError for a name that is not in `tensors`, ValueError after closing, and UserError for damaged data and for
        boolean bytes other than 0 and 1.
        """
        if self._arrays is None:
            raise ValueError(f"{self.path} is closed")
        stored = self._arrays[name]
        if name in self._checks:
            with naming_path(self.path):
                self._checks[name]()
        array = stored.array.byteswap() if stored.swapped else stored.array
        if array.dtype == np.bool_ and (array.view(np.uint8) > 1).any():
            raise UserError(
                f"{self.path}: {escaped(name)} is a boolean array, but has bytes other than 0 and 1; {ANOTHER_COPY}"
            )
        array.flags.writeable = False
        return array

    def close(self) -> None:
        """Closes the file. Arrays that were read stay valid: the file is unmapped together with the last of them."""
        self._arrays, self._checks = None, {}

    def __enter__(self) -> MappedTensors:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
