"""Reads safetensors files: 8 bytes of header length, a JSON header, then the tensors without gaps."""

from __future__ import annotations

import pathlib
from typing import Any

import ml_dtypes
import numpy as np

from hyperseg_jax.untrusted import strict_json
from hyperseg_jax.untrusted.bad_file import CONVERT, BadFile, map_file, naming_path
from hyperseg_jax.untrusted.printing import escaped
from hyperseg_jax.weights.mapped_file import MappedTensors, StoredArray, element_count

HEADER_LIMIT = 100_000_000  # as in the safetensors library
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


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins with these bytes (at least 9) looks like safetensors."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40


def open_safetensors(path: pathlib.Path) -> MappedTensors:
    """Opens one file; its tensors are in the order of the header. Raises UserError if it is invalid."""
    with naming_path(path):
        data = map_file(path)
        length = int.from_bytes(data[:8], "little")
        if len(data) < 8 or length > min(len(data) - 8, HEADER_LIMIT):
            raise BadFile(f"its header should have {length} bytes, but the file has {len(data)}")
        header = strict_json.parse(bytes(data[8 : 8 + length]), "its header")
        _check_metadata(header.pop("__metadata__", {}))
        body = data[8 + length :]
        spans = {name: _parse_span(name, entry) for name, entry in header.items()}
        _check_cover(spans, len(body))
        return MappedTensors(
            path, {name: StoredArray(_view_tensor(body, spans[name], entry)) for name, entry in header.items()}
        )


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadFile("__metadata__ in its header is not a mapping of strings")


def _parse_span(name: str, entry: Any) -> tuple[int, int]:
    """Validates a header entry and returns the byte range (begin, end) of its tensor."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise BadFile(f"{escaped(name)} in its header does not have exactly dtype, shape and data_offsets")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        dtype = escaped(entry["dtype"]) if isinstance(entry["dtype"], str) else "that is not a string"
        raise BadFile(f"{escaped(name)} has a dtype {dtype}, which is not supported", CONVERT)
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list) or [type(x) for x in offsets] != [int, int]:
        raise BadFile(f"{escaped(name)} in its header has an invalid shape or invalid data_offsets")
    try:
        size = element_count(shape) * DTYPES[entry["dtype"]].itemsize
    except BadFile as error:
        raise error.about(name) from error
    if offsets[0] < 0 or offsets[1] - offsets[0] != size:
        raise BadFile(f"{escaped(name)} needs {size} bytes, but its data_offsets span another size")
    return offsets[0], offsets[1]


def _check_cover(spans: dict[str, tuple[int, int]], size: int) -> None:
    """Raises BadFile unless every byte belongs to exactly one tensor."""
    position = 0
    for name, (begin, end) in sorted(spans.items(), key=lambda item: item[1]):
        if begin != position:
            raise BadFile(f"{escaped(name)} {'overlaps another tensor' if begin < position else 'has a gap before it'}")
        position = end
    if position != size:
        raise BadFile(f"its tensors should have {escaped(str(position))} bytes in total, but the file has {size}")


def _view_tensor(body: memoryview, span: tuple[int, int], entry: Any) -> np.ndarray:
    return np.ndarray(entry["shape"], DTYPES[entry["dtype"]], body[span[0] : span[1]])
