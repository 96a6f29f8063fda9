"""A trained model as a folder of data: config.json, tokenizer.json, model.safetensors."""

from __future__ import annotations

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
from hyperseg_jax.atomic import atomic_folder
from hyperseg_jax.errors import UserError
from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import flatten, unflatten
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.untrusted import limits, paths, strict_json
from hyperseg_jax.untrusted.bad_file import naming
from hyperseg_jax.untrusted.printing import listed, one_line
from hyperseg_jax.weights.safetensors_writer import Described, SafetensorsWriter, is_finite
from hyperseg_jax.weights.tensor_file import open_tensors

FORMAT = "hyperseg_jax 1"
LARGE, LAYERS = 2**28, 256  # bytes from which a stack of at most so many layers is gathered layer by layer
REQUIRED, REQUIRED_DATA = ("system", "model", "data"), ("tasks",)
FILES = ("config.json", "tokenizer.json", "model.safetensors")


def find(name: str | os.PathLike[str]) -> pathlib.Path:
    """The folder of a model: a workdir (its model/), a model folder, or the name of a shipped model ("tiny")."""
    path = pathlib.Path(name)
    for candidate in (path / "model", path, paths.ASSETS / str(name)):
        if os.path.isfile(candidate / "model.safetensors"):  # False for what is no name of a file, where pathlib raises
            if candidate == path / "model":
                with naming(candidate):
                    paths.own(candidate)  # of a workdir
            return candidate
    shipped = sorted(p.parent.name for p in paths.ASSETS.glob("*/model.safetensors"))
    raise UserError(
        f"{one_line(name)}: no model here (a workdir of `hyperseg train`, or a folder with model.safetensors); "
        f"shipped models: {', '.join(shipped) or 'none'}"
    )


def save(folder: pathlib.Path, config: ml_collections.ConfigDict, tokenizer: Tokenizer, params: Mapping[str, Any]) -> None:
    """Replaces the folder as a whole, so that its files always belong together; other files in it stay.

    In a run of many processes all call it, with parameters that lie over all of them, and the first one writes.
    """
    leaves = flatten(params)
    described = {path: (leaf.shape, leaf.dtype) for path, leaf in leaves.items()}
    pieces = ((path, place, piece) for path, leaf in leaves.items() for place, piece in _pieces(leaf))
    try:
        if jax.process_index() == 0:
            _write(folder, config, tokenizer, described, pieces)
    finally:
        for _ in pieces:  # gathered with the others to the end, whatever becomes of the files
            pass


def _write(
    folder: pathlib.Path,
    config: ml_collections.ConfigDict,
    tokenizer: Tokenizer,
    described: Described,
    pieces: Iterator[tuple[str, tuple[int, ...], Any]],
) -> None:
    with atomic_folder(folder) as part:
        tokenizer.save(part)
        (part / "config.json").write_text(config.to_json(indent=2, sort_keys=True) + "\n")
        with SafetensorsWriter(part / "model.safetensors", described, {"format": FORMAT}) as writer:
            for path, place, piece in pieces:  # one at a time comes from the devices
                writer.write(path, np.asarray(piece), place)
        for other in folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ():
            if other.name not in FILES:
                _keep(other, part / other.name)


def _keep(other: pathlib.Path, place: pathlib.Path) -> None:
    """Keeps what else lies in a model folder, as hard links where the disk has them, so that nothing is copied. Symbolic links
    stay links, and what is neither file nor folder is left out. Folders may be nested to any depth."""
    waiting = [(other, place)]
    while waiting:
        old, new = waiting.pop()
        if old.is_dir() and not old.is_symlink():
            new.mkdir()
            waiting += [(path, new / path.name) for path in old.iterdir()]
        elif old.is_symlink() or old.is_file():
            try:
                os.link(old, new, follow_symlinks=False)
            except OSError:
                shutil.copy2(old, new, follow_symlinks=False)


def _pieces(leaf: Any) -> Iterator[tuple[tuple[int, ...], Any]]:
    """(place, array) of a parameter: it alone, or where other processes hold parts of it and it is large, the layers of its
    stack one by one, gathered from all."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        yield (), leaf
        return
    everywhere = NamedSharding(leaf.sharding.mesh, PartitionSpec())  # type: ignore[attr-defined]
    if leaf.nbytes < LARGE or leaf.shape[0] > LAYERS:
        yield (), jax.jit(lambda x: x, out_shardings=everywhere)(leaf)
        return
    layer = jax.jit(lambda x, k: jax.lax.dynamic_index_in_dim(x, k, 0, keepdims=False), out_shardings=everywhere)
    for k in range(leaf.shape[0]):
        yield (k,), layer(leaf, k)


def read_config(folder: pathlib.Path) -> ml_collections.ConfigDict:
    """The config of a model folder: data, never code. Its fields are of their kinds and within bounds, and what it asks of
    memory is within the limits `side` and `tokens`; limits of its own do not count. UserError in one line."""
    path = file_of(folder, "config.json")
    config, where = strict_json.read(path), one_line(path)
    config.pop("limits", None)
    renamed_fields.migrate(config)
    configs.check(config, f"{where}: ")
    lacking = [key for key in REQUIRED if key not in config] or [
        f"data.{key}" for key in REQUIRED_DATA if key not in config["data"]
    ]
    if lacking:
        raise UserError(f"{where}: lacks {', '.join(lacking)}; give a folder that `hyperseg train` wrote")
    data = config["data"]
    lengths = [data.get("buckets"), [task.get("length") for task in data["tasks"].values()]]
    for name, field, value in (("side", "image_size", data.get("image_size")), ("tokens", "buckets or tasks", lengths)):
        if (found := max(_whole_numbers(value), default=0)) > (allowed := getattr(limits.in_force(), name)):
            raise UserError(
                f"{where}: data.{field} asks for {found}, the limit is {allowed}; if that is right, raise limits.{name}"
            )
    return ml_collections.ConfigDict(config).lock()


def _whole_numbers(value: Any) -> Iterator[int]:
    """Those in a value and in its lists. A system may have fields of other kinds under these names."""
    if type(value) is int:
        yield value
    for inner in value if isinstance(value, list | tuple) else ():
        yield from _whole_numbers(inner)


def file_of(folder: pathlib.Path, name: str) -> pathlib.Path:
    """A file of a model folder. UserError where it is a link out of it (untrusted/paths.of_model)."""
    with naming(folder / name):
        return paths.of_model(folder, name)


def read(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """{path: array} of model.safetensors, views of the file."""
    with open_tensors(file_of(folder, "model.safetensors")) as file:
        return {path: file.read(path) for path in file.tensors}


def load_params(name: str | pathlib.Path, expected: Mapping[str, Any], *, fresh: Sequence[str] = ()) -> dict[str, Any]:
    """Parameters of the shapes and types in `expected` (nested), and on the devices where its leaves have a sharding; those are
    read, changed in type and placed one after the other, each device its own part. UserError as of `fitting`, and where a
    number is not finite."""
    wanted, placed = flatten(expected), {}
    for path, array in fitting(name, wanted, fresh=fresh).items():
        if not is_finite(array):
            raise UserError(
                f"{find(name)}: {path} has numbers that are not finite, so its training diverged; take an earlier save"
            )
        placed[path] = _placed(array, wanted[path])
    return unflatten(placed)


def fitting(name: str | pathlib.Path, wanted: Mapping[str, Any], *, fresh: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """{path: array} of a model's file, views of it, where they have the names and shapes of `wanted`.

    Paths that match a regex of `fresh` may be missing, and stay out. Raises UserError listing all that does not fit.
    """
    folder = find(name)
    given = read(folder)
    check_fit(folder, {path: array.shape for path, array in given.items()}, wanted, fresh=fresh)
    return given


def expected_params(folder: pathlib.Path, config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Shapes and types of the parameters of a model folder's config, by path. UserError where it describes no model."""
    system = systems.get(config.system)
    try:
        return flatten(system.shapes(config))
    except UserError as error:
        where = one_line(folder / "config.json")
        raise UserError(f"{where}: {error}, or take the folder whole, as `hyperseg train` wrote it") from error


def check_fit(
    folder: pathlib.Path, given: Mapping[str, tuple[int, ...]], wanted: Mapping[str, Any], *, fresh: Sequence[str] = ()
) -> None:
    """UserError listing all paths and shapes of a folder's file that are not those wanted; `fresh` may be missing."""
    problems = [f"missing: {path}" for path in wanted if path not in given and not _any(path, fresh)]
    problems += [f"unknown: {path}" for path in given if path not in wanted]
    problems += [
        f"{path}: shape {tuple(given[path])}, the config wants {tuple(wanted[path].shape)}"
        for path in wanted
        if path in given and tuple(given[path]) != tuple(wanted[path].shape)
    ]
    if problems:
        raise UserError(f"{folder}: does not fit the config (is it of another config?):{listed(problems)}")


def _placed(array: np.ndarray, like: Any) -> Any:
    sharding = getattr(like, "sharding", None)
    if sharding is None:
        return array.astype(like.dtype)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index].astype(like.dtype))


def overlay(params: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`params` with the leaves of `given` in their places."""
    return unflatten({**flatten(params), **flatten(given)})


def _any(path: str, patterns: Sequence[str]) -> bool:
    return any(re.fullmatch(pattern, path) for pattern in patterns)
