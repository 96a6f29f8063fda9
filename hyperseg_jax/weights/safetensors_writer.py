"""Safetensors files written a piece at a time, so that no more than a piece is in memory."""

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
THREADS = 8  # each may hold a layer in memory
SHARD = 5_000_000_000  # bytes of a file, as transformers cuts them
Described = Mapping[str, tuple[tuple[int, ...], Any]]  # {name: (shape, type)}
FLOATS = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


class SafetensorsWriter:
    """A context manager around a new file of the tensors {name: (shape, dtype)}, each of which must be written in full.

    Leaving it without an exception raises ValueError where bytes are missing.
    """

    def __init__(self, path: pathlib.Path, tensors: Described, metadata: Mapping[str, str]) -> None:
        self.path = path
        self._tensors = {name: (tuple(shape), np.dtype(dtype)) for name, (shape, dtype) in tensors.items()}
        header: dict[str, Any] = {"__metadata__": dict(metadata)}
        self._starts: dict[str, int] = {}
        end = 0
        for name, (shape, dtype) in sorted(self._tensors.items(), key=lambda item: -item[1][1].itemsize):  # keeps all aligned
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
        """One tensor, or the part of it at `place` in its leading axes. Each part once; several threads may write."""
        shape, dtype = self._tensors[name]
        if array.shape != shape[len(place) :] or array.dtype != dtype:
            raise ValueError(f"{name}{list(place)}: {array.dtype} {array.shape} does not go into {dtype} {shape}")
        part = math.prod(array.shape) * dtype.itemsize
        number = sum(k * math.prod(shape[axis + 1 : len(place)]) for axis, k in enumerate(place))
        offset = len(self._head) + self._starts[name] + number * part
        for data in in_order(array):
            while len(data):
                try:
                    done = os.pwrite(self._file.fileno(), data, offset)
                except OSError as error:  # a full disk: say where
                    raise OSError(error.errno, error.strerror, str(self.path)) from error
                data, offset = data[done:], offset + done
        with self._lock:
            self._missing -= part

    def __exit__(self, kind: Any, *exception: Any) -> None:
        self._file.close()
        if kind is None and self._missing:
            raise ValueError(f"{self.path}: {self._missing} bytes were not written")


def in_order(array: np.ndarray, block: int = 256) -> Iterator[memoryview]:
    """Its bytes in C order, in parts. A transposed matrix comes in strips, each copied in blocks that stay in the cache."""
    if array.flags.c_contiguous or array.ndim != 2:
        yield _bytes(np.ascontiguousarray(array))
        return
    for i in range(0, array.shape[0], block):
        strip = np.empty((min(block, array.shape[0] - i), array.shape[1]), array.dtype)
        for j in range(0, array.shape[1], block):
            strip[:, j : j + block] = array[i : i + block, j : j + block]
        yield _bytes(strip)


def _bytes(array: np.ndarray) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def on_all_cores(work: Callable[[Any], None], pieces: Iterable[Any]) -> None:
    """work(piece) of each, some at a time; NumPy copies and writes let other threads run. Raises what the first raises."""
    with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, THREADS)) as pool:
        running = [pool.submit(work, piece) for piece in pieces]
        try:
            for future in running:
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
    """A checkpoint as transformers lays it out: model.safetensors, or model-0000k-of-0000n.safetensors with an index.

    make(piece) -> (name, array) of some of what is in `described`; all pieces together make each once.
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
    holder = {name: k for k, shard in enumerate(shards) for name in shard}
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(SafetensorsWriter(folder / file, shard, {"format": "pt"}))
            for file, shard in zip(files, shards, strict=True)
        ]

        def write(piece: Any) -> None:
            for name, tensor in make(piece):
                writers[holder[name]].write(name, tensor)

        on_all_cores(write, pieces)
    if len(shards) > 1:
        places = {name: files[k] for name, k in holder.items()}
        index = {"metadata": {"total_size": sum(map(size, described))}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def is_finite(array: np.ndarray) -> bool:
    """Whether all numbers are. Two passes, without a copy: arrays are large."""
    return array.dtype.kind in "iub" or not array.size or bool(np.isfinite(array.min()) and np.isfinite(array.max()))


def cast(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """The array in another float type. Raises OverflowError where a finite value has no place in it."""
    if array.dtype == dtype or array.dtype.kind in "iub":
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        made = array.astype(dtype)
    if (np.isfinite(array) & ~np.isfinite(made)).any():
        raise OverflowError(name)
    return made
