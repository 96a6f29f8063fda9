"""What all readers of weight files share: arrays that lie in a mapped file."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

import numpy as np

from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.bad_file import ANOTHER_COPY, CONVERT, BadFile, naming
from hyperseg_jax.untrusted.printing import shown

DIMENSIONS = 64  # what NumPy allows
ELEMENTS = 2**48  # far above any file, low enough that no product of sizes overflows


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """Shape and type of a tensor; bfloat16 and the 8-bit floats are those of ml_dtypes."""

    shape: tuple[int, ...]
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Stored:
    """An array as it lies in the file, of native dtype; `swapped` if its bytes are in the other order."""

    array: np.ndarray
    swapped: bool = False


def element_count(shape: Sequence[object]) -> int:
    """The number of elements of a shape read from a file. Raises BadFile unless it is a plausible one."""
    if len(shape) > DIMENSIONS:
        raise BadFile(f"a tensor of {len(shape)} dimensions")
    sizes = [size for size in shape if type(size) is int and 0 <= size < ELEMENTS]
    if len(sizes) != len(shape) or math.prod(size for size in sizes if size) >= ELEMENTS:
        raise BadFile("a tensor whose shape is none, or beyond any memory")
    return math.prod(sizes)


class MappedTensors:
    """The named arrays of one file, and the names of what else it holds (`ignored`: epochs, authors, optimizers).

    checks: of some arrays, what raises BadFile where their bytes are damaged; called when they are read. Raises BadFile for a
    name with control characters.
    """

    def __init__(
        self,
        path: pathlib.Path,
        arrays: Mapping[str, Stored],
        ignored: Sequence[str] = (),
        checks: Mapping[str, Callable[[], object]] = {},
    ) -> None:
        for name in arrays:
            if not name.isprintable():  # names end up in messages and file names
                raise BadFile(f"names a tensor {shown(name)}", CONVERT)
        self.path = path
        self.tensors = {name: TensorInfo(stored.array.shape, stored.array.dtype) for name, stored in arrays.items()}
        self.ignored = tuple(ignored)
        self._checks = checks
        self._arrays: Mapping[str, Stored] | None = arrays

    def read(self, name: str) -> np.ndarray:
        """The array, read-only and without a copy (but in native byte order); it may be strided and unaligned.

        Raises KeyError for a name that is not in `tensors`, ValueError after closing, UserError for a bool beyond 0 and 1 and
        for damage.
        """
        if self._arrays is None:
            raise ValueError(f"{self.path} is closed")
        stored = self._arrays[name]
        if name in self._checks:
            with naming(self.path):
                self._checks[name]()
        array = stored.array.byteswap() if stored.swapped else stored.array
        if array.dtype == np.bool_ and (array.view(np.uint8) > 1).any():
            raise UserError(f"{self.path}: {shown(name)} is of booleans, but has bytes beyond 0 and 1; {ANOTHER_COPY}")
        array.flags.writeable = False
        return array

    def close(self) -> None:
        """Lets go of the file. Arrays that were read stay valid: the map goes with the last of them."""
        self._arrays, self._checks = None, {}

    def __enter__(self) -> MappedTensors:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
