"""The bijections between PyTorch tensors and ours. NumPy only.

Each operator takes the PyTorch arrays of a row to the flax arrays of that row and back; to_torch(to_flax(x)) == x, bit by bit.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

Arrays = tuple[np.ndarray, ...]


class Operator(Protocol):
    def to_flax(self, tensors: Arrays) -> Arrays: ...

    def to_torch(self, leaves: Arrays) -> Arrays: ...


@dataclasses.dataclass(frozen=True)
class Identity:
    """One tensor as it is."""

    def to_flax(self, tensors: Arrays) -> Arrays:
        return tensors

    def to_torch(self, leaves: Arrays) -> Arrays:
        return leaves


@dataclasses.dataclass(frozen=True)
class Transpose:
    """Linear.weight [out, in] <-> kernel [in, out]."""

    def to_flax(self, tensors: Arrays) -> Arrays:
        return (tensors[0].T,)

    def to_torch(self, leaves: Arrays) -> Arrays:
        return (leaves[0].T,)


@dataclasses.dataclass(frozen=True)
class ConvKernel:
    """Conv2d.weight [out, in, h, w] <-> kernel [h, w, in, out]."""

    def to_flax(self, tensors: Arrays) -> Arrays:
        return (tensors[0].transpose(2, 3, 1, 0),)

    def to_torch(self, leaves: Arrays) -> Arrays:
        return (leaves[0].transpose(3, 2, 0, 1),)


@dataclasses.dataclass(frozen=True)
class Reshape:
    """One tensor under another shape of the same size."""

    torch_shape: tuple[int, ...]
    flax_shape: tuple[int, ...]

    def to_flax(self, tensors: Arrays) -> Arrays:
        return (tensors[0].reshape(self.flax_shape),)

    def to_torch(self, leaves: Arrays) -> Arrays:
        return (leaves[0].reshape(self.torch_shape),)


@dataclasses.dataclass(frozen=True)
class FusedQKV:
    """One fused tensor [3C, ...] <-> query, key and value (parts = 2: key and value); transpose: it is a Linear.weight."""

    transpose: bool
    parts: int = 3

    def to_flax(self, tensors: Arrays) -> Arrays:
        parts = np.split(tensors[0], self.parts, axis=0)
        return tuple(part.T for part in parts) if self.transpose else tuple(parts)

    def to_torch(self, leaves: Arrays) -> Arrays:
        return (np.concatenate([leaf.T if self.transpose else leaf for leaf in leaves], axis=0),)


@dataclasses.dataclass(frozen=True)
class Constant:
    """A PyTorch buffer that follows from the config: dropped on import, made again on export."""

    make: tuple  # (function, *arguments) so that equal constants are equal rows

    def to_flax(self, tensors: Arrays) -> Arrays:
        return ()

    def to_torch(self, leaves: Arrays) -> Arrays:
        function, *arguments = self.make
        return (function(*arguments),)


@dataclasses.dataclass(frozen=True)
class Stack:
    """`count` PyTorch layers <-> one scanned layer with a leading axis. Tensors come layer by layer."""

    inner: Operator
    count: int

    def to_flax(self, tensors: Arrays) -> Arrays:
        width = len(tensors) // self.count
        layers = [self.inner.to_flax(tensors[i * width : (i + 1) * width]) for i in range(self.count)]
        return tuple(np.stack(parts) for parts in zip(*layers, strict=True))

    def to_torch(self, leaves: Arrays) -> Arrays:
        layers = [self.inner.to_torch(tuple(leaf[i] for leaf in leaves)) for i in range(self.count)]
        return tuple(tensor for layer in layers for tensor in layer)
