"""Bijections between PyTorch tensors and Flax arrays. NumPy only.

An operator converts the PyTorch arrays of a row to the Flax arrays and back; to_torch(to_flax(x)) == x, bit by bit.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from hyperseg_jax.errors import UserError

Arrays = tuple[np.ndarray, ...]


class Operator(Protocol):
    """Converts the PyTorch tensors of a row to its Flax leaves, and back without any change of a bit."""

    def to_flax(self, tensors: Arrays) -> Arrays: ...

    def to_torch(self, leaves: Arrays) -> Arrays: ...


@dataclasses.dataclass(frozen=True)
class Identity:
    """One unchanged tensor."""

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
class TransposedConvKernel:
    """ConvTranspose2d.weight [in, out, h, w] <-> kernel [h, w, in, out]."""

    def to_flax(self, tensors: Arrays) -> Arrays:
        return (tensors[0].transpose(2, 3, 0, 1),)

    def to_torch(self, leaves: Arrays) -> Arrays:
        return (leaves[0].transpose(2, 3, 0, 1),)


@dataclasses.dataclass(frozen=True)
class Squeeze:
    """A tensor [1, ...] <-> the array [...]."""

    def to_flax(self, tensors: Arrays) -> Arrays:
        return (tensors[0].squeeze(0),)

    def to_torch(self, leaves: Arrays) -> Arrays:
        return (leaves[0][None],)


@dataclasses.dataclass(frozen=True)
class SplitRows:
    """A tensor [parts * rows, ...] <-> the array [parts, rows, ...]."""

    parts: int

    def to_flax(self, tensors: Arrays) -> Arrays:
        (tensor,) = tensors
        return (tensor.reshape(self.parts, tensor.shape[0] // self.parts, *tensor.shape[1:]),)

    def to_torch(self, leaves: Arrays) -> Arrays:
        (leaf,) = leaves
        return (leaf.reshape(-1, *leaf.shape[2:]),)


@dataclasses.dataclass(frozen=True)
class FusedQKV:
    """One fused tensor [3C, ...] <-> query, key and value (parts = 2: key and value); transpose: True for a Linear.weight."""

    transpose: bool
    parts: int = 3

    def to_flax(self, tensors: Arrays) -> Arrays:
        parts = np.split(tensors[0], self.parts, axis=0)
        return tuple(part.T for part in parts) if self.transpose else tuple(parts)

    def to_torch(self, leaves: Arrays) -> Arrays:
        return (np.concatenate([leaf.T if self.transpose else leaf for leaf in leaves], axis=0),)


@dataclasses.dataclass(frozen=True)
class FusedColumns:
    """One fused tensor [..., parts * C] <-> its parts, such as query, key and value of GPT-2's Conv1D."""

    parts: int = 3

    def to_flax(self, tensors: Arrays) -> Arrays:
        return tuple(np.split(tensors[0], self.parts, axis=-1))

    def to_torch(self, leaves: Arrays) -> Arrays:
        return (np.concatenate(leaves, axis=-1),)


@dataclasses.dataclass(frozen=True)
class Copies:
    """Equal tensors, of which a checkpoint may lack some, <-> one array: tied tables of PyTorch. names: their PyTorch names,
    for messages. to_flax raises UserError if they differ."""

    names: tuple[str, ...]

    def to_flax(self, tensors: Arrays) -> Arrays:
        first = tensors[0]
        if not all(np.array_equal(tensor, first) for tensor in tensors[1:]):
            raise UserError(
                f"{' and '.join(self.names)} differ, but the model has one array for all; use weights in which they are equal"
            )
        return (first,)

    def to_torch(self, leaves: Arrays) -> Arrays:
        return leaves * len(self.names)


@dataclasses.dataclass(frozen=True)
class Constant:
    """A PyTorch buffer that is determined by the config: dropped on import, recreated on export."""

    make: tuple  # (function, *arguments), so that equal constants compare equal

    def to_flax(self, tensors: Arrays) -> Arrays:
        return ()

    def to_torch(self, leaves: Arrays) -> Arrays:
        function, *arguments = self.make
        return (function(*arguments),)


@dataclasses.dataclass(frozen=True)
class PaddedRows:
    """A table of `rows` rows, such as token embeddings, whose PyTorch version is padded with zeros to `padded` rows. name: the
    PyTorch name, for messages. to_flax raises UserError if the number of rows differs or the padding is not zero."""

    rows: int
    padded: int
    name: str

    def to_flax(self, tensors: Arrays) -> Arrays:
        tensor = tensors[0]
        if tensor.shape[0] != self.padded:
            raise UserError(
                f"{self.name}: {tensor.shape[0]} rows, the config expects {self.padded}; correct its vocabulary sizes"
            )
        if tensor[self.rows :].any():
            raise UserError(
                f"{self.name}: only the first {self.rows} rows fit the model, and a later row is not zero; "
                "set the config's vocabulary sizes to those of the source"
            )
        return (tensor[: self.rows],)

    def to_torch(self, leaves: Arrays) -> Arrays:
        (table,) = leaves
        return (np.concatenate([table, np.zeros((self.padded - self.rows, *table.shape[1:]), table.dtype)]),)


@dataclasses.dataclass(frozen=True)
class ZeroBias:
    """A linear layer that has a bias in PyTorch, but not in Flax: (weight [out, in], bias [out]) <-> kernel [in, out]. name:
    the name of the bias. to_flax raises UserError if the bias is not zero; to_torch adds a zero bias."""

    name: str

    def to_flax(self, tensors: Arrays) -> Arrays:
        weight, bias = tensors
        if bias.shape != weight.shape[:1]:
            raise UserError(f"{self.name}: has shape {bias.shape}, and its weight {weight.shape}; they do not fit each other")
        if bias.any():
            raise UserError(
                f"{self.name}: not zero, but the model has no such bias, so its outputs would change; "
                "use weights in which this bias is zero"
            )
        return (weight.T,)

    def to_torch(self, leaves: Arrays) -> Arrays:
        weight = leaves[0].T
        return weight, np.zeros(weight.shape[0], weight.dtype)


@dataclasses.dataclass(frozen=True)
class Stack:
    """The tensors of `count` PyTorch layers <-> one leaf of a scanned layer with a leading axis. The tensors are ordered layer
    by layer. inner: the operator of one layer."""

    inner: Operator
    count: int

    def to_flax(self, tensors: Arrays) -> Arrays:
        width = len(tensors) // self.count
        layers = [self.inner.to_flax(tensors[i * width : (i + 1) * width]) for i in range(self.count)]
        return tuple(np.stack(parts) for parts in zip(*layers, strict=True))

    def to_torch(self, leaves: Arrays) -> Arrays:
        layers = [self.inner.to_torch(tuple(leaf[i] for leaf in leaves)) for i in range(self.count)]
        return tuple(tensor for layer in layers for tensor in layer)
