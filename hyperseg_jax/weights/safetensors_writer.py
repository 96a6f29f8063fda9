"""Writes safetensors files incrementally, with only one piece in memory per thread."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import math
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
THREADS = 8  # each may have a layer in memory
SHARD = 5_000_000_000  # bytes per shard, as in transformers
Described = Mapping[str, tuple[tuple[int, ...], Any]]  # {name: (shape, dtype)}
FLOATS = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


class SafetensorsWriter:
    """A context manager that writes a file with the tensors {name: (shape, dtype)}; each must be written completely.

    Raises ValueError on exit if bytes are missing, unless there was another exception.
    """

    def __init__(self, path: pathlib.Path, tensors: Described, metadata: Mapping[str, str]) -> None:
        self.path = path
        self._tensors = {name: (tuple(shape), np.dtype(dtype)) for name, (shape, dtype) in tensors.items()}
        header: dict[str, Any] = {"__metadata__": dict(metadata)}
        self._starts: dict[str, int] = {}
        end = 0
        for name, (shape, dtype) in sorted(self._tensors.items(), key=lambda item: -item[1][1].itemsize):  # aligns all tensors
            start, end = end, end + math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": DTYPES[dtype.name], "shape": shape, "data_offsets": (start, end)}
            self._starts[name] = start
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._head = len(text).to_bytes(8, "little") + text
        self._missing, self._lock = end, threading.Lock()

    def __enter__(self) -> SafetensorsWriter:
        self._file = open(self.path, "wb")
        self._file.write(self._head)
        self._file.flush()
        return self

    def write(self, name: str, array: np.ndarray, place: tuple[int, ...] = ()) -> None:
        """Writes tensor[place], where `place` indexes leading axes; () writes the whole tensor. Each part must be written
        exactly once. Thread-safe."""
        shape, dtype = self._tensors[name]
        if array.shape != shape[len(place) :] or array.dtype != dtype:
            raise ValueError(f"{name}{list(place)}: {array.dtype} {array.shape} does not match {dtype} {shape}")
        part = math.prod(array.shape) * dtype.itemsize
        number = sum(k * math.prod(shape[axis + 1 : len(place)]) for axis, k in enumerate(place))
        offset = len(self._head) + self._starts[name] + number * part
        for data in iterate_c_order_chunks(array):
            while len(data):
                try:
                    written = os.pwrite(self._file.fileno(), data, offset)
                except OSError as error:  # such as a full disk; adds the file name
                    raise OSError(error.errno, error.strerror, str(self.path)) from error
                data, offset = data[written:], offset + written
        with self._lock:
            self._missing -= part

    def __exit__(self, kind: Any, *exception: Any) -> None:
        self._file.close()
        if kind is None and self._missing:
            raise ValueError(f"{self.path}: {self._missing} bytes were not written")


def iterate_c_order_chunks(array: np.ndarray, block: int = 256) -> Iterator[memoryview]:
    """Yields the bytes of an array in C order, in chunks. A transposed matrix is copied strip by strip, in blocks that fit into
    the CPU cache."""
    if array.flags.c_contiguous or array.ndim != 2:
        yield _view_bytes(np.ascontiguousarray(array))
        return
    for i in range(0, array.shape[0], block):
        strip = np.empty((min(block, array.shape[0] - i), array.shape[1]), array.dtype)
        for j in range(0, array.shape[1], block):
            strip[:, j : j + block] = array[i : i + block, j : j + block]
        yield _view_bytes(strip)


def _view_bytes(array: np.ndarray) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def run_in_threads(function: Callable[[Any], None], pieces: Iterable[Any]) -> None:
    """Calls function(piece) for all pieces in a thread pool; NumPy copies and file writes release the GIL. Raises the first
    exception and cancels the pieces that have not started."""
    with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, THREADS)) as pool:
        futures = [pool.submit(function, piece) for piece in pieces]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def write_sharded(
    folder: pathlib.Path,
    described: Described,
    make: Callable[[Any], Iterable[tuple[str, np.ndarray]]],
    pieces: Iterable[Any],
    shard_bytes: int = SHARD,
) -> None:
    """Writes a checkpoint in the layout of transformers: model.safetensors, or model-0000k-of-0000n.safetensors with an index.

    make(piece): yields (name, array) of some tensors in `described`; all pieces together must yield each exactly once.
    """
    size = lambda name: math.prod(described[name][0]) * np.dtype(described[name][1]).itemsize
    shards: list[dict[str, tuple[tuple[int, ...], Any]]] = [{}]
    filled = 0
    for name in described:
        if shards[-1] and filled + size(name) > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = described[name]
        filled += size(name)
    files = [f"model-{k + 1:05}-of-{len(shards):05}.safetensors" for k in range(len(shards))]
    files = files if len(shards) > 1 else ["model.safetensors"]
    shard_index = {name: k for k, shard in enumerate(shards) for name in shard}
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(SafetensorsWriter(folder / file, shard, {"format": "pt"}))
            for file, shard in zip(files, shards, strict=True)
        ]

        def write(piece: Any) -> None:
            for name, tensor in make(piece):
                writers[shard_index[name]].write(name, tensor)

        run_in_threads(write, pieces)
    if len(shards) > 1:
        weight_map = {name: files[k] for name, k in shard_index.items()}
        index = {"metadata": {"total_size": sum(map(size, described))}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def is_all_finite(array: np.ndarray, dtype: np.dtype | None = None) -> bool:
    """Whether all values are finite, after a cast to `dtype` if it is given. Makes two passes instead of a copy, since arrays
    are large."""
    if array.dtype.kind in "iub" or not array.size:
        return True
    ends = np.array([array.min(), array.max()], array.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(ends if dtype is None else ends.astype(dtype)).all())


def cast_without_overflow(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """Casts an array to another float dtype. Raises OverflowError if a finite value becomes infinite."""
    if array.dtype == dtype or array.dtype.kind in "iub":
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        result = array.astype(dtype)
    if (np.isfinite(array) & ~np.isfinite(result)).any():
        raise OverflowError(name)
    return result
