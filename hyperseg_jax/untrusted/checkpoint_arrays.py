"""Validates the arrays of a checkpoint before Orbax opens them: Orbax itself accepts any codec and size in their metadata, and
after a failure leaves background tasks that print errors of their own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from hyperseg_jax.untrusted import strict_json
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.checkpoint_index import check_index
from hyperseg_jax.untrusted.checkpoints import LARGEST, TREE, AnyPath, is_remote, read_fields, walk_files
from hyperseg_jax.untrusted.printing import escaped, escaped_value

DESCRIPTIONS = 2**25
"""Maximum bytes of the array metadata of a part."""
AT_ONCE = 64
"""Metadata files read concurrently from a bucket. Locally they are read one by one, since many names may share a large file."""
CACHE_BYTES = 2**24
"""Cache size of the array index during lookups."""
FACTS = "run"
"""The part of a checkpoint whose names are not known in advance: numbers, strings, and lists of them."""
FACTS_BYTES = 2**20
CODECS = tuple(("sharding_indexed", [*codecs], ["bytes", "crc32c"]) for codecs in (("bytes",), ("bytes", "zstd")))
"""The codecs that Orbax writes: the outer one, those of the numbers inside of it, and those of its index."""
CHUNKS, CHUNK_BYTES = 256, 2**16
"""Maximum number of chunks of an array: one for each of so many devices, and another one for each CHUNK_BYTES. To read a chunk
takes 60 microseconds and 10 KB, however small it is."""
TEXTS, NOTES = "_strings.json", "array_metadatas"
ARRAYS, NUMBER, TEXT = ("jax.Array", "np.ndarray"), "scalar", "string"
NUMBERS = ("int64", "float64", "int32", "float32", "bool")
"""The dtypes of numbers in the FACTS part."""
EMPTY = ("None", "Dict", "List", "Tuple", "NamedTuple")
"""Types of entries without content."""
Name = tuple[str, ...]
Arrays = Mapping[Name, tuple[tuple[int, ...], str]]
"""{path in the tree: (shape, data type)}."""


def check_arrays(folder: AnyPath, expected: Mapping[str, Arrays]) -> None:
    """Raises BadFile unless a checkpoint has exactly the expected arrays, {part: arrays}, with their shapes and dtypes. In a
    bucket, exceptions of its client are raised as well."""
    for part, arrays in expected.items():
        part_folder = folder / part
        _check_part_files(part_folder, sum(map(_count_bytes, arrays.values())))
        if mismatched := dict(_list_entries(part_folder, ARRAYS)).keys() ^ arrays.keys():
            name = min(mismatched)
            raise BadFile(f"its {part} {'lacks' if name in arrays else 'has an unexpected'} {_format_name(name)}")
        _check_part_arrays(part_folder, arrays)
    _check_part_files(folder / FACTS, FACTS_BYTES)
    kinds = dict(_list_entries(folder / FACTS, (NUMBER, TEXT)))
    _check_strings(folder / FACTS, [name for name, kind in kinds.items() if kind == TEXT])
    _check_part_arrays(folder / FACTS, {name: ((), "") for name, kind in kinds.items() if kind == NUMBER})


def _check_part_files(folder: AnyPath, expected: int) -> None:
    """Raises BadFile if the files of a part, or what its index unpacks to, are far larger than its arrays."""
    most = 4 * expected + LARGEST
    if sum(stored for _, stored in walk_files(folder)) > most:
        raise BadFile(f"its {folder.name} has far more bytes than its arrays")
    check_index(folder, expected, most)
    _check_host_notes(folder)


def _check_part_arrays(folder: AnyPath, arrays: Arrays) -> None:
    """Raises BadFile if an array of a part has another shape or dtype, too many chunks, or cannot be opened."""
    import tensorstore

    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": _tensorstore_spec(folder)}, context=context).result()
    names, batch_size, total = list(arrays), AT_ONCE if is_remote(folder) else 1, 0
    for batch in (names[k : k + batch_size] for k in range(0, len(names), batch_size)):
        for name, description in _read_descriptions(store, batch):
            total += len(description)
            if total > DESCRIPTIONS:
                raise BadFile(f"the metadata of its arrays has more than {DESCRIPTIONS} bytes")
            _check_description(name, strict_json.parse(description, _format_name(name)), *arrays[name])
        _open_arrays(store, batch)


def _check_host_notes(folder: AnyPath) -> None:
    """Checks the metadata of each host about the arrays that it wrote, which Orbax also reads."""
    notes = folder / NOTES
    for path in notes.iterdir() if notes.is_dir() else ():
        fields = read_fields(path)
        if set(fields) != {NOTES} or type(fields[NOTES]) is not list or not all(map(_is_note, fields[NOTES])):
            raise BadFile(f"{NOTES}/{escaped(path.name)} has an unknown format")


def _is_note(value: Any) -> bool:
    """Whether this is the metadata of one array in the file of a host."""
    note = value.get("array_metadata") if type(value) is dict and len(value) == 1 else None
    return (
        type(note) is dict
        and note.keys() == {"param_name", "write_shape", "chunk_shape", "ext_metadata"}
        and type(note["param_name"]) is str
        and _is_shape(note["write_shape"])
        and _is_shape(note["chunk_shape"])
        and (note["ext_metadata"] is None or _is_random_key_metadata(note["ext_metadata"]))
    )


def _is_shape(value: Any) -> bool:
    """Whether this is the shape of an array or chunk."""
    return type(value) is list and all(type(side) is int and side >= 0 for side in value)


def _is_random_key_metadata(note: Any) -> bool:
    """Whether this is the extra metadata of an array that stores a random key (jax.random.key)."""
    return type(note) is dict and note.keys() == {"random_key_impl"} and type(note["random_key_impl"]) is str


def _count_bytes(array: tuple[tuple[int, ...], str]) -> int:
    """Returns the size in bytes of an array with this (shape, dtype)."""
    import tensorstore

    return math.prod(array[0]) * int(tensorstore.dtype(array[1]).numpy_dtype.itemsize)


def _tensorstore_spec(folder: AnyPath) -> dict[str, Any]:
    """Returns the TensorStore spec of a folder, as Orbax builds it."""
    if not is_remote(folder):
        return {"driver": "file", "path": f"{folder}/"}
    from orbax.checkpoint._src.path import gcs_utils

    spec: dict[str, Any] = gcs_utils.get_kvstore_for_gcs(str(folder))
    return {**spec, "path": f"{spec['path']}/"}


def _list_entries(folder: AnyPath, kinds: tuple[str, ...]) -> Iterator[tuple[Name, str]]:
    """Yields the path in the tree and the kind of each non-empty entry in the metadata of a part."""
    for entry in read_fields(folder / TREE)["tree_metadata"].values():
        try:
            keys, value = entry["key_metadata"], entry["value_metadata"]
            name, empty = tuple(key["key"] for key in keys), value["skip_deserialize"]
            known = all(type(key["key"]) is str and _is_path_key(key["key"], key["key_type"]) for key in keys)
            kind, shape = value["value_type"], value.get("write_shape")
        except (KeyError, TypeError, AttributeError) as error:
            raise BadFile(f"{TREE} has an entry without names") from error
        known = known and (shape is None or _is_shape(shape))
        if not known or type(kind) is not str or empty is not (kind in EMPTY):
            raise BadFile(f"{TREE} has an entry of an unknown kind")
        if not empty and kind not in kinds:
            raise BadFile(f"{TREE} has an unexpected {escaped_value(kind)}")
        if not empty:
            yield name, kind


def _is_path_key(key: str, kind: Any) -> bool:
    """Whether `key` is a valid part of a path in the tree: a dict key (kind 2), or the index of a sequence element (kind 1)."""
    return kind == 2 or (kind == 1 and key.isascii() and key.isdecimal() and len(key) < 10)


def _check_strings(folder: AnyPath, names: list[Name]) -> None:
    """Raises BadFile unless the file of strings in a checkpoint has a string for each of these names."""
    texts = read_fields(folder / TEXTS) if names else {}
    for name in names:
        if type(texts.get(".".join(name))) is not str:
            raise BadFile(f"{TEXTS} lacks the string {_format_name(name)}")


def _format_name(name: Name) -> str:
    """Formats the name of an array for a message."""
    return escaped(".".join(name))


def _read_descriptions(store: Any, names: list[Name]) -> Iterator[tuple[Name, bytes]]:
    """Yields the name and the zarr metadata (zarr.json) of each array."""
    for name, future in [(name, store.read(f"{'.'.join(name)}/zarr.json")) for name in names]:
        result = future.result()
        if result.state != "value":
            raise BadFile(f"lacks the array {_format_name(name)}")
        yield name, bytes(result.value)


def _check_description(name: Name, array: Mapping[str, Any], shape: tuple[int, ...], dtype: str) -> None:
    """Raises BadFile if the zarr metadata of an array differs from the expected shape and dtype, or if its chunks or codecs are
    not supported. dtype: "" for any number."""
    what = _format_name(name)
    if array.get("shape") != list(shape):
        raise BadFile(f"{what} has the shape {escaped_value(array.get('shape'))}, expected {list(shape)}")
    if array.get("data_type") not in ((dtype,) if dtype else NUMBERS):
        raise BadFile(f"{what} has the type {escaped_value(array.get('data_type'))}, expected {dtype or 'a number'}")
    try:
        chunk, (sharding,) = array["chunk_grid"]["configuration"]["chunk_shape"], array["codecs"]
        inside, list_names = sharding["configuration"], lambda codecs: [codec["name"] for codec in codecs]
        codecs = sharding["name"], list_names(inside["codecs"]), list_names(inside["index_codecs"])
        inner_chunk = inside["chunk_shape"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadFile(f"{what} has invalid metadata") from error
    if codecs not in CODECS:
        raise BadFile(f"{what} has the codecs {escaped_value(codecs)}, but only those that Orbax writes are supported")
    fits = _is_shape(chunk) and len(chunk) == len(shape)
    if not fits or not all(1 <= part <= max(side, 1) for side, part in zip(shape, chunk, strict=True)):
        raise BadFile(f"{what} has chunks of the shape {escaped_value(chunk)}, which does not fit its shape {list(shape)}")
    if inner_chunk != chunk:
        raise BadFile(f"{what} has chunks inside of its chunks, which are not supported")
    count = math.prod(-(-side // part) for side, part in zip(shape, chunk, strict=True))
    if count > (most := max_chunks(_count_bytes((shape, array["data_type"])))):
        raise BadFile(f"{what} has {count} chunks, and the limit for its size is {most}")


def max_chunks(size: int) -> int:
    """Returns the maximum number of chunks of an array of `size` bytes."""
    return CHUNKS + size // CHUNK_BYTES


def _open_arrays(store: Any, names: list[Name]) -> None:
    """Opens arrays without reading their data. Raises BadFile for metadata that TensorStore does not accept."""
    import tensorstore

    open_array = lambda name: tensorstore.open({"driver": "zarr3"}, kvstore=store / f"{'.'.join(name)}/", read=True, open=True)
    for name, future in [(name, open_array(name)) for name in names]:
        try:
            future.result()
        except ValueError as error:
            raise BadFile(f"{_format_name(name)} has metadata that TensorStore cannot read") from error
