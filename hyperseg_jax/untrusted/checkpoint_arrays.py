"""The arrays of a checkpoint, looked at before Orbax opens them: by itself it takes any codec and size that their descriptions
ask for, and where one cannot be read it leaves work behind that complains on its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from hyperseg_jax.untrusted import strict_json
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.checkpoints import LARGEST, TREE, AnyPath, fields_of, files, is_remote
from hyperseg_jax.untrusted.printing import shown, shown_value

DESCRIPTIONS = 2**25
"""Bytes of what describes the arrays of a part."""
AT_ONCE = 64
"""Descriptions that are asked of a bucket at once. Of this machine it is one, as many names may share one large value."""
KEPT = 2**24
"""Bytes of the index of the arrays that are kept while they are looked up."""
FACTS = "run"
"""The part of a checkpoint whose names nobody knows before it is read: numbers, texts, and lists of them."""
FACTS_BYTES = 2**20
CODECS = ("sharding_indexed", "bytes", "zstd", "crc32c")
"""What Orbax writes arrays with."""
TEXTS, NOTES = "_strings.json", "array_metadatas"
ARRAYS, NUMBER, TEXT = ("jax.Array", "np.ndarray"), "scalar", "string"
NUMBERS = ("int64", "float64", "int32", "float32", "bool")
"""The types of the numbers among the facts."""
EMPTY = ("None", "Dict", "List", "Tuple", "NamedTuple")
"""Of what has no content."""
Name = tuple[str, ...]
Arrays = Mapping[Name, tuple[tuple[int, ...], str]]
"""Path in the tree -> shape, data type."""


def check_arrays(folder: AnyPath, wanted: Mapping[str, Arrays]) -> None:
    """BadFile where a checkpoint has not just the arrays that are asked of it, by part, or has them in another form. In a
    bucket, whatever its client raises as well."""
    for part, arrays in wanted.items():
        home = folder / part
        _check_files(home, sum(map(_size, arrays.values())))
        if odd := dict(_listed(home, ARRAYS)).keys() ^ arrays.keys():
            name = min(odd)
            raise BadFile(f"its {part} {'lacks' if name in arrays else 'has besides'} {_told(name)}")
        _check_all(home, arrays)
    _check_files(folder / FACTS, FACTS_BYTES)
    kinds = dict(_listed(folder / FACTS, (NUMBER, TEXT)))
    _check_texts(folder / FACTS, [name for name, kind in kinds.items() if kind == TEXT])
    _check_all(folder / FACTS, {name: ((), "") for name, kind in kinds.items() if kind == NUMBER})


def _check_files(folder: AnyPath, expected: int) -> None:
    """BadFile where a part takes far more bytes than is expected of its arrays."""
    if sum(stored for _, stored in files(folder)) > 4 * expected + LARGEST:
        raise BadFile(f"its {folder.name} has far more bytes than its arrays")
    _check_notes(folder)


def _check_all(folder: AnyPath, arrays: Arrays) -> None:
    """BadFile where an array of a part is not as it is asked for."""
    import tensorstore

    kept = tensorstore.Context({"cache_pool": {"total_bytes_limit": KEPT}})
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": _base(folder)}, context=kept).result()
    names, many, taken = list(arrays), AT_ONCE if is_remote(folder) else 1, 0
    for some in (names[k : k + many] for k in range(0, len(names), many)):
        for name, description in _described(store, some):
            taken += len(description)
            if taken > DESCRIPTIONS:
                raise BadFile(f"the descriptions of its arrays take more than {DESCRIPTIONS} bytes")
            _check(name, strict_json.parse(description, _told(name)), *arrays[name])
        _open(store, some)


def _check_notes(folder: AnyPath) -> None:
    """What each host says of the arrays that it wrote, which Orbax reads as well."""
    notes = folder / NOTES
    for path in notes.iterdir() if notes.is_dir() else ():
        told = fields_of(path)
        if set(told) != {NOTES} or type(told[NOTES]) is not list or not all(map(_is_note, told[NOTES])):
            raise BadFile(f"{NOTES}/{shown(path.name)} is not known here")


def _is_note(told: Any) -> bool:
    note = told.get("array_metadata") if type(told) is dict and len(told) == 1 else None
    sides = lambda value: type(value) is list and all(type(side) is int and side >= 0 for side in value)
    return (
        type(note) is dict
        and note.keys() == {"param_name", "write_shape", "chunk_shape", "ext_metadata"}
        and type(note["param_name"]) is str
        and sides(note["write_shape"])
        and sides(note["chunk_shape"])
        and (note["ext_metadata"] is None or _is_of_key(note["ext_metadata"]))
    )


def _is_of_key(note: Any) -> bool:
    """Whether this tells the kind of a random key."""
    return type(note) is dict and note.keys() == {"random_key_impl"} and type(note["random_key_impl"]) is str


def _size(array: tuple[tuple[int, ...], str]) -> int:
    import tensorstore

    return math.prod(array[0]) * int(tensorstore.dtype(array[1]).numpy_dtype.itemsize)


def _base(folder: AnyPath) -> dict[str, Any]:
    """Where TensorStore finds a folder, as Orbax tells it."""
    if not is_remote(folder):
        return {"driver": "file", "path": f"{folder}/"}
    from orbax.checkpoint._src.path import gcs_utils

    found: dict[str, Any] = gcs_utils.get_kvstore_for_gcs(str(folder))
    return {**found, "path": f"{found['path']}/"}


def _listed(folder: AnyPath, kinds: tuple[str, ...]) -> Iterator[tuple[Name, str]]:
    """The path in the tree and the kind of each entry with content that the metadata of a part lists."""
    for entry in fields_of(folder / TREE)["tree_metadata"].values():
        try:
            keys, value = entry["key_metadata"], entry["value_metadata"]
            name, empty = tuple(key["key"] for key in keys), value["skip_deserialize"]
            known = all(type(key["key"]) is str and _is_key(key["key"], key["key_type"]) for key in keys)
            kind = value["value_type"]
        except (KeyError, TypeError) as error:
            raise BadFile(f"{TREE} has an entry without names") from error
        if not known or type(kind) is not str or empty is not (kind in EMPTY):
            raise BadFile(f"{TREE} has an entry that is not known here")
        if not empty and kind not in kinds:
            raise BadFile(f"{TREE} has a {shown_value(kind)} that is not known here")
        if not empty:
            yield name, kind


def _is_key(key: str, kind: Any) -> bool:
    """Whether this is a name in a table, or the number of a member of a sequence."""
    return kind == 2 or (kind == 1 and key.isascii() and key.isdecimal() and len(key) < 10)


def _check_texts(folder: AnyPath, names: list[Name]) -> None:
    texts = fields_of(folder / TEXTS) if names else {}
    for name in names:
        if type(texts.get(".".join(name))) is not str:
            raise BadFile(f"{TEXTS} has no text {_told(name)}")


def _told(name: Name) -> str:
    """The name of an array as it may stand in a message."""
    return shown(".".join(name))


def _described(store: Any, names: list[Name]) -> Iterator[tuple[Name, bytes]]:
    """What describes each array."""
    for name, reading in [(name, store.read(f"{'.'.join(name)}/zarr.json")) for name in names]:
        found = reading.result()
        if found.state != "value":
            raise BadFile(f"lacks the array {_told(name)}")
        yield name, bytes(found.value)


def _check(name: Name, array: Mapping[str, Any], shape: tuple[int, ...], kind: str) -> None:
    """BadFile where a description is of another array than the one that is asked for. kind: "" for any number."""
    what = _told(name)
    if array.get("shape") != list(shape):
        raise BadFile(f"{what} has the shape {shown_value(array.get('shape'))}, and {list(shape)} belongs there")
    if array.get("data_type") not in ((kind,) if kind else NUMBERS):
        raise BadFile(f"{what} is of type {shown_value(array.get('data_type'))}, and {kind or 'a number'} belongs there")
    try:
        chunk = array["chunk_grid"]["configuration"]["chunk_shape"]
        fits = len(shape) == len(chunk) and all(0 <= c <= max(n, 1) for n, c in zip(shape, chunk, strict=True))
        unknown = [codec for codec in _codecs(array["codecs"]) if codec not in CODECS]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadFile(f"{what} describes no array") from error
    if not fits:
        raise BadFile(f"{what} has chunks larger than its array")
    if unknown:
        raise BadFile(f"{what} is written with {shown_value(unknown[0])}, and only {', '.join(CODECS)} are read")


def _codecs(listed: Any) -> Iterator[Any]:
    """The names of codecs, those inside of others among them."""
    for codec in listed:
        yield codec["name"]
        for inner in ("codecs", "index_codecs"):
            yield from _codecs(codec.get("configuration", {}).get(inner, ()))


def _open(store: Any, names: list[Name]) -> None:
    """Opens arrays and reads nothing of them: a description that TensorStore does not take is found here."""
    import tensorstore

    under = lambda name: tensorstore.open({"driver": "zarr3"}, kvstore=store / f"{'.'.join(name)}/", read=True, open=True)
    for name, opening in [(name, under(name)) for name in names]:
        try:
            opening.result()
        except ValueError as error:
            raise BadFile(f"{_told(name)} has a description that is not read here") from error
