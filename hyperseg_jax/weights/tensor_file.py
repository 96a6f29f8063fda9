"""Opens untrusted weight files as named arrays: safetensors, `torch.save`, detectron2. No code in them is executed.

with open_checkpoint("folder") as file:
    array = file.read("lm_head.weight")     # a view of the file; no memory of its own
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from hyperseg_jax.untrusted.bad_file import BadFile, map_file, naming_path
from hyperseg_jax.weights.checkpoint_folder import JoinedTensors, find_shards
from hyperseg_jax.weights.detectron2_file import open_detectron2
from hyperseg_jax.weights.mapped_file import MappedTensors, TensorInfo
from hyperseg_jax.weights.safetensors_file import is_safetensors, open_safetensors
from hyperseg_jax.weights.torch_file import is_torch_stream, open_torch_stream, open_torch_zip

__all__ = ["TensorFile", "TensorInfo", "open_checkpoint", "open_tensors"]


class TensorFile(Protocol):
    """A weight file, or several joined. A context manager that closes the file; arrays that were read stay valid."""

    @property
    def path(self) -> pathlib.Path: ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The shapes and dtypes of all tensors, in file order."""

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names of other content of the file: epochs, authors, optimizers."""

    def read(self, name: str) -> np.ndarray:
        """Returns an array, read-only and in native byte order; a view of the file if no conversion is needed."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


def open_tensors(path: str | os.PathLike[str]) -> TensorFile:
    """Opens one file. The format is determined by its first bytes, not by its name. Raises UserError if it is invalid."""
    return _open_file(pathlib.Path(path))


def open_checkpoint(path: str | os.PathLike[str]) -> TensorFile:
    """Opens a file, or a folder in the Hugging Face layout: model.safetensors or pytorch_model.bin, single or sharded with an
    index, or an adapter. Raises UserError if it is invalid."""
    path = pathlib.Path(path)
    with naming_path(path):
        if not path.is_dir():
            return _open_file(path)
        shards = find_shards(path)
        return JoinedTensors(path, [_open_file(file) for file in shards.files], shards.index)


def _open_file(path: pathlib.Path) -> MappedTensors:
    with naming_path(path):
        head = bytes(map_file(path)[:64])
        if is_safetensors(head):
            return open_safetensors(path)
        if head.startswith(b"PK\x03\x04"):
            return open_torch_zip(path)
        if head.startswith(b"\x80"):
            return (open_torch_stream if is_torch_stream(head) else open_detectron2)(path)
        if head.startswith(b"version https://git-lfs"):
            raise BadFile("is a Git LFS pointer, not the file itself", "run `git lfs pull`")
        raise BadFile(
            "is not a weight file of a supported format (safetensors, torch.save, detectron2 .pkl)", "give one of those"
        )
