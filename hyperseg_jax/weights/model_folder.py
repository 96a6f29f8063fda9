"""Reads and writes model folders: config.json, tokenizer.json and model.safetensors."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from hyperseg_jax import config as configs
from hyperseg_jax import renamed_fields
from hyperseg_jax.atomic import atomic_folder, restore
from hyperseg_jax.errors import UserError
from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import flatten, unflatten
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.untrusted import limits, paths, strict_json
from hyperseg_jax.untrusted.bad_file import naming_path
from hyperseg_jax.untrusted.checkpoints import is_step_name
from hyperseg_jax.untrusted.printing import escaped, listed, one_line
from hyperseg_jax.weights.model_sizes import SIDES, check_model_sizes
from hyperseg_jax.weights.safetensors_writer import FLOATS, Described, SafetensorsWriter, is_all_finite
from hyperseg_jax.weights.tensor_file import open_tensors

FORMAT = "hyperseg_jax 1"
LARGE, LAYERS = 2**28, 256  # stacked parameters of at least LARGE bytes and at most LAYERS layers are gathered by layer
REQUIRED, REQUIRED_DATA = ("system", "model", "data"), ("tasks",)
FILES = ("config.json", "tokenizer.json", "model.safetensors")
_FIELD = re.compile(r"(system|model|loss|data)(\.[\w-]+)*(:| )", re.ASCII)
"""Matches the start of a message about a field of a config."""


def find_model_folder(name: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the model folder of a workdir (model/ in it), of a model folder, or of a shipped model by name ("tiny"). A folder
    that a killed process was replacing is restored before."""
    path = pathlib.Path(name)
    for replaced in (path / "model", path):
        restore(replaced)
    for candidate in (path / "model", path, paths.ASSETS / str(name)):
        if os.path.isfile(candidate / "model.safetensors"):  # returns False for invalid file names, where pathlib raises
            if candidate == path / "model":
                with naming_path(candidate):
                    paths.check_link(candidate)  # the folder in a workdir must not be a link out of it
            return candidate
    if is_unfinished_run(name):
        raise UserError(
            f"{one_line(name)}: its training has not finished, so it has no model yet; `hyperseg export-weights "
            f"{one_line(name)} --format model` writes that of its newest checkpoint to {one_line(path / 'export-model')}"
        )
    shipped = sorted(p.parent.name for p in paths.ASSETS.glob("*/model.safetensors"))
    raise UserError(
        f"{one_line(name)}: is not a model; give a workdir of `hyperseg train`, a folder with model.safetensors, or one of "
        f"the shipped models ({', '.join(shipped) or 'none'})"
    )


def is_unfinished_run(name: str | os.PathLike[str]) -> bool:
    """Returns whether this is a workdir whose newest checkpoint is not in its model, which is written at the end of a run: it
    has no model, or the run was continued to more steps."""
    path = pathlib.Path(name)
    if not os.path.isdir(path / "checkpoints"):
        return False
    newest = max((int(entry.name) for entry in (path / "checkpoints").iterdir() if is_step_name(entry.name)), default=0)
    return not os.path.isfile(path / "model" / "model.safetensors") or newest > last_step(find_model_folder(name))


def last_step(folder: pathlib.Path) -> int:
    """Returns the last step of the run that wrote a model folder, 0 if its config does not say it."""
    return int(read_config(folder).get("train", {}).get("steps", 0))


def save_model(
    folder: pathlib.Path, config: ml_collections.ConfigDict, tokenizer: Tokenizer | None, params: Mapping[str, Any]
) -> None:
    """Writes a model folder atomically, so that its files always belong together; other files in the folder are kept.

    tokenizer: None if the system has no text.

    In a multi-process run, all processes must call it with their sharded parameters; process 0 writes.
    """
    leaves = flatten(params)
    described = {path: (leaf.shape, leaf.dtype) for path, leaf in leaves.items()}
    pieces = ((path, place, piece) for path, leaf in leaves.items() for place, piece in _gather_pieces(leaf))
    try:
        if jax.process_index() == 0:
            _write_files(folder, config, tokenizer, described, pieces)
    finally:
        for _ in pieces:  # gathering is collective, so every process must finish it even if writing fails
            pass


def _write_files(
    folder: pathlib.Path,
    config: ml_collections.ConfigDict,
    tokenizer: Tokenizer | None,
    described: Described,
    pieces: Iterator[tuple[str, tuple[int, ...], Any]],
) -> None:
    with atomic_folder(folder) as part:
        if tokenizer is not None:
            tokenizer.save(part)
        (part / "config.json").write_text(config.to_json(indent=2, sort_keys=True) + "\n")
        with SafetensorsWriter(part / "model.safetensors", described, {"format": FORMAT}) as writer:
            for path, place, piece in pieces:  # gathers one piece at a time from the devices
                writer.write(path, np.asarray(piece), place)
        for other in folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ():
            if other.name not in FILES:
                _copy_or_link_tree(other, part / other.name)


def _copy_or_link_tree(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a file or folder, with hard links if the file system supports them. Symbolic links stay links; anything else that
    is not a file or folder is skipped. Folders may be nested to any depth."""
    stack = [(source, target)]
    while stack:
        old, new = stack.pop()
        if old.is_dir() and not old.is_symlink():
            new.mkdir()
            stack += [(path, new / path.name) for path in old.iterdir()]
        elif old.is_symlink() or old.is_file():
            try:
                os.link(old, new, follow_symlinks=False)
            except OSError:
                shutil.copy2(old, new, follow_symlinks=False)


def _gather_pieces(leaf: Any) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Yields (place, array) of a parameter, gathered from all processes. A large stack that is sharded over several processes
    is gathered layer by layer, otherwise the parameter as a whole."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        yield (), leaf
        return
    replicated = NamedSharding(leaf.sharding.mesh, PartitionSpec())  # type: ignore[attr-defined]
    if leaf.nbytes < LARGE or leaf.shape[0] > LAYERS:
        yield (), jax.jit(lambda x: x, out_shardings=replicated)(leaf)
        return
    layer = jax.jit(lambda x, k: jax.lax.dynamic_index_in_dim(x, k, 0, keepdims=False), out_shardings=replicated)
    for k in range(leaf.shape[0]):
        yield (k,), layer(leaf, k)


def read_config(folder: pathlib.Path) -> ml_collections.ConfigDict:
    """Reads the config of a model folder as data, never as code. Raises UserError if a field has a wrong type or is out of
    bounds, or if sizes exceed the limits `side`, `tokens`, `array` and `tasks`. Limits in the config itself are ignored."""
    path = file_path(folder, "config.json")
    config, where = strict_json.read(path), one_line(path)
    config.pop("limits", None)
    renamed_fields.migrate(config)
    configs.check_fields(config, f"{where}: ")
    missing = [key for key in REQUIRED if key not in config] or [
        f"data.{key}" for key in REQUIRED_DATA if key not in config["data"]
    ]
    if missing:
        raise UserError(f"{where}: lacks {', '.join(missing)}; give a folder written by `hyperseg train`")
    data = config["data"]
    limits.check_limit("tasks", len(data["tasks"]), f"{where}: data.tasks", "tasks")
    lengths = [data.get("buckets"), [task.get("length") for task in data["tasks"].values()]]
    blocks = [block for block in (data.get("resize"), *data["tasks"].values()) if isinstance(block, Mapping)]
    resized = [block.get(field) for block in blocks for field in SIDES]
    sides = ("side", "image_size", data.get("image_size")), ("side", "resize or tasks", resized)
    for name, field, value in (*sides, ("tokens", "buckets or tasks", lengths)):
        if (largest := max(_flatten_integers(value), default=0)) > (allowed := getattr(limits.current(), name)):
            raise UserError(
                f"{where}: data.{field} is {largest}, and the limit is {allowed}; if that is intended, raise limits.{name}"
            )
    check_model_sizes(config, where)
    return ml_collections.ConfigDict(config).lock()


@contextlib.contextmanager
def naming_config(folder: pathlib.Path) -> Iterator[None]:
    """Adds the path of the folder's config.json to a UserError about one of its fields."""
    try:
        yield
    except UserError as error:
        if not _FIELD.match(str(error)):
            raise
        raise UserError(f"{one_line(folder / 'config.json')}: {error}") from error


def _flatten_integers(value: Any) -> Iterator[int]:
    """Yields the integers in nested lists. Values of other types are ignored."""
    if type(value) is int:
        yield value
    for inner in value if isinstance(value, list | tuple) else ():
        yield from _flatten_integers(inner)


def file_path(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the path of a file in a model folder. Raises UserError if it is a link out of the folder
    (untrusted/paths.model_file_path)."""
    with naming_path(folder / name):
        return paths.model_file_path(folder, name)


def read_arrays(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads {path: array} from model.safetensors; the arrays are views of the mapped file."""
    with open_tensors(file_path(folder, "model.safetensors")) as file:
        return {path: file.read(path) for path in file.tensors}


def load_params(
    name: str | pathlib.Path, expected: Mapping[str, Any], *, optional: Sequence[str] = (), ignored: Sequence[str] = ()
) -> dict[str, Any]:
    """Loads parameters with the shapes, dtypes and, if given, shardings of `expected` (nested).

    Parameters are read, cast and placed on the devices one after the other; each device gets its own shard. Raises UserError as
    `read_params`, and if a value is not finite or the cast would make it infinite.
    """
    flat_expected, placed = flatten(expected), {}
    for path, array in read_params(name, flat_expected, optional=optional, ignored=ignored).items():
        dtype = np.dtype(flat_expected[path].dtype)
        if not is_all_finite(array, dtype):
            raise UserError(
                f"{find_model_folder(name) / FILES[2]}: {path} has values that are not finite or outside the range of {dtype}; "
                "use an earlier checkpoint if training diverged, or another copy"
            )
        placed[path] = _cast_and_place(array, flat_expected[path])
    return unflatten(placed)


def read_params(
    name: str | pathlib.Path, expected: Mapping[str, Any], *, optional: Sequence[str] = (), ignored: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Reads {path: array} of a model and checks their names and shapes; the arrays are views of the mapped file.

    Paths that match a regex of `optional` may be missing in the file, those that match one of `ignored` may be missing in
    `expected`, and those that match one of each may have another shape; all of these are omitted. Raises UserError listing all
    mismatches.
    """
    folder = find_model_folder(name)
    params = read_arrays(folder)
    check_params(folder, params, expected, optional=optional, ignored=ignored)
    return {path: array for path, array in params.items() if path in expected and array.shape == tuple(expected[path].shape)}


def expected_params(folder: pathlib.Path, config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns {path: shape and dtype} of the parameters for the config of a model folder. Raises UserError if the config is
    invalid."""
    with naming_config(folder):
        system = systems.get(config.system)
    try:
        return flatten(system.shapes(config))
    except UserError as error:
        where = one_line(folder / "config.json")
        raise UserError(f"{where}: {error}, or use the unmodified folder written by `hyperseg train`") from error


def check_params(
    folder: pathlib.Path,
    params: Mapping[str, Any],
    expected: Mapping[str, Any],
    *,
    optional: Sequence[str] = (),
    ignored: Sequence[str] = (),
) -> None:
    """Raises UserError listing all missing, unknown and wrongly shaped parameters, except missing `optional` ones, unknown
    `ignored` ones and wrongly shaped ones that are both, or naming the first that is not a floating-point array. params:
    {path: array, or its shape and dtype} of model.safetensors."""
    shapes = {path: tuple(leaf.shape) for path, leaf in params.items()}
    compiled = [[re.compile(pattern) for pattern in patterns] for patterns in (optional, ignored)]
    may_lack, may_drop = (lambda path, group=group: any(each.fullmatch(path) for each in group) for group in compiled)
    problems = [f"missing: {path}" for path in expected if path not in shapes and not may_lack(path)]
    problems += [f"unknown: {path}" for path in shapes if path not in expected and not may_drop(path)]
    problems += [
        f"{path}: shape {shapes[path]}, the config expects {tuple(expected[path].shape)}"
        for path in expected
        if path in shapes and shapes[path] != tuple(expected[path].shape) and not (may_lack(path) and may_drop(path))
    ]
    if problems:
        raise UserError(f"{folder}: does not match the config; give the config with which it was written:{listed(problems)}")
    for path, leaf in params.items():
        if leaf.dtype.name not in (*FLOATS, "float64"):
            raise UserError(
                f"{folder / FILES[2]}: {escaped(path)} is {leaf.dtype}, but parameters are floating-point arrays; use the "
                "unmodified file written by `hyperseg train` or `hyperseg import-weights`"
            )


def _cast_and_place(array: np.ndarray, like: Any) -> Any:
    """Casts an array to the dtype of `like` and places it with its sharding, if it has one."""
    sharding = getattr(like, "sharding", None)
    if sharding is None:
        return array.astype(like.dtype)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index].astype(like.dtype))


def replace_leaves(params: Mapping[str, Any], replacements: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `params` with the leaves in `replacements` replaced."""
    return unflatten({**flatten(params), **flatten(replacements)})
