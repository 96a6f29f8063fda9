"""What all readers of weight files share: the map of a file, arrays that lie in it, and how a refusal is worded."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import mmap
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType

import numpy as np

from hyperseg_jax.errors import UserError

ANOTHER_COPY = "take another copy of it"
CONVERT = "convert it to safetensors with the tools that wrote it"
DISTRUST = "do not load this file with other tools either; ask its authors for safetensors"
DIMENSIONS = 64  # what NumPy allows
ELEMENTS = 2**48  # far above any file, low enough that no product of sizes overflows


class BadFile(Exception):
    """Why a file is refused and what to do, where its path is not known; `naming` makes a UserError of it."""

    def __init__(self, why: str, fix: str = ANOTHER_COPY) -> None:
        super().__init__(f"{why}; {fix}")
        self.why, self.fix = why, fix

    def about(self, name: str) -> BadFile:
        """The same of one tensor in the file."""
        return BadFile(f"{shown(name)}: {self.why}", self.fix)


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
    """Turns BadFile and OSError into a UserError that names the path."""
    try:
        yield
    except BadFile as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def shown(text: str) -> str:
    """Text out of a file as it may stand in a message: short, on one line, printable."""
    short = text if len(text) <= 200 else f"{text[:200]}..."
    return short if short.isprintable() else ascii(short)


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


def map_file(path: pathlib.Path) -> memoryview:
    """The bytes of a file, mapped read-only; the map goes when the last view of it does. Raises BadFile, OSError."""
    if not path.is_file():  # of pipes, reading would never end
        raise BadFile("no such file", "check the path")
    if path.stat().st_size == 0:
        raise BadFile("is empty")
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


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

    Raises BadFile for a name with control characters.
    """

    def __init__(self, path: pathlib.Path, arrays: Mapping[str, Stored], ignored: Sequence[str] = ()) -> None:
        for name in arrays:
            if not name.isprintable():  # names end up in messages and file names
                raise BadFile(f"names a tensor {shown(name)}", CONVERT)
        self.path = path
        self.tensors = {name: TensorInfo(stored.array.shape, stored.array.dtype) for name, stored in arrays.items()}
        self.ignored = tuple(ignored)
        self._arrays: Mapping[str, Stored] | None = arrays

    def read(self, name: str) -> np.ndarray:
        """The array, read-only and without a copy (but in native byte order); it may be strided and unaligned.

        Raises KeyError for a name that is not in `tensors`, ValueError after closing, UserError for a bool beyond 0 and 1.
        """
        if self._arrays is None:
            raise ValueError(f"{self.path} is closed")
        stored = self._arrays[name]
        array = stored.array.byteswap() if stored.swapped else stored.array
        if array.dtype == np.bool_ and (array.view(np.uint8) > 1).any():
            raise UserError(f"{self.path}: {shown(name)} is of booleans, but has bytes beyond 0 and 1; {ANOTHER_COPY}")
        array.flags.writeable = False
        return array

    def close(self) -> None:
        """Lets go of the file. Arrays that were read stay valid: the map goes with the last of them."""
        self._arrays = None

    def __enter__(self) -> MappedTensors:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
