"""Reader of safetensors: 8 bytes of length, a JSON header, then the tensors back to back."""

from __future__ import annotations

import pathlib
from typing import Any

import ml_dtypes
import numpy as np

from hyperseg_jax.untrusted import strict_json
from hyperseg_jax.untrusted.bad_file import CONVERT, BadFile, map_file, naming
from hyperseg_jax.untrusted.printing import shown
from hyperseg_jax.weights.mapped_file import MappedTensors, Stored, element_count

HEADER_LIMIT = 100_000_000  # the format's own
DTYPES = {
    name: np.dtype(kind)
    for name, kind in {
        "BOOL": "?",
        "U8": "u1",
        "I8": "i1",
        "U16": "<u2",
        "I16": "<i2",
        "U32": "<u4",
        "I32": "<i4",
        "U64": "<u8",
        "I64": "<i8",
        "F16": "<f2",
        "F32": "<f4",
        "F64": "<f8",
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
    }.items()
}


def looks_so(head: bytes) -> bool:
    """Whether a file that begins with these bytes (9 or more) is meant as safetensors."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40


def open_safetensors(path: pathlib.Path) -> MappedTensors:
    """The tensors of one file, in the header's order. Raises UserError."""
    with naming(path):
        data = map_file(path)
        length = int.from_bytes(data[:8], "little")
        if len(data) < 8 or length > min(len(data) - 8, HEADER_LIMIT):
            raise BadFile(f"its header should have {length} bytes, the file has {len(data)}")
        header = strict_json.parse(bytes(data[8 : 8 + length]), "its header")
        _check_metadata(header.pop("__metadata__", {}))
        body = data[8 + length :]
        spans = {name: _span(name, entry) for name, entry in header.items()}
        _check_cover(spans, len(body))
        return MappedTensors(path, {name: Stored(_view(body, spans[name], entry)) for name, entry in header.items()})


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadFile("__metadata__ in its header is not of strings")


def _span(name: str, entry: Any) -> tuple[int, int]:
    """The first byte of a tensor and the one behind its last; the entry is checked on the way."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise BadFile(f"{shown(name)} in its header does not have just dtype, shape and data_offsets")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        named = shown(entry["dtype"]) if isinstance(entry["dtype"], str) else "that is no text"
        raise BadFile(f"{shown(name)} is of dtype {named}, which is not read here", CONVERT)
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list) or [type(x) for x in offsets] != [int, int]:
        raise BadFile(f"{shown(name)} in its header lacks a list of sizes or two offsets")
    try:
        size = element_count(shape) * DTYPES[entry["dtype"]].itemsize
    except BadFile as error:
        raise error.about(name) from error
    if offsets[0] < 0 or offsets[1] - offsets[0] != size:
        raise BadFile(f"{shown(name)} needs {size} bytes, but its data_offsets are not that far apart")
    return offsets[0], offsets[1]


def _check_cover(spans: dict[str, tuple[int, int]], size: int) -> None:
    """Every byte belongs to exactly one tensor."""
    at = 0
    for name, (begin, end) in sorted(spans.items(), key=lambda item: item[1]):
        if begin != at:
            raise BadFile(f"{shown(name)} {'overlaps another tensor' if begin < at else 'has a hole before it'}")
        at = end
    if at != size:
        raise BadFile(f"its tensors should have {shown(str(at))} bytes in all, the file has {size}")


def _view(body: memoryview, span: tuple[int, int], entry: Any) -> np.ndarray:
    return np.ndarray(entry["shape"], DTYPES[entry["dtype"]], body[span[0] : span[1]])
