"""Finds the weight files of a checkpoint folder and joins shards."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from types import TracebackType

import numpy as np

from hyperseg_jax.untrusted import paths, strict_json
from hyperseg_jax.untrusted.bad_file import DISTRUST, BadFile
from hyperseg_jax.untrusted.printing import escaped
from hyperseg_jax.weights.mapped_file import MappedTensors

FULL_MODEL = (("model.safetensors.index.json", "model.safetensors"), ("pytorch_model.bin.index.json", "pytorch_model*.bin"))
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclasses.dataclass(frozen=True)
class Shards:
    """The weight files of a checkpoint. index: {tensor name: file}, or None without an index file."""

    files: tuple[pathlib.Path, ...]
    index: Mapping[str, pathlib.Path] | None


def find_shards(folder: pathlib.Path) -> Shards:
    """Finds the weight files in a folder. Prefers full models to adapters, safetensors to pickles, an index to single files.
    Raises BadFile if there are none."""
    for index, pattern in FULL_MODEL:
        if (folder / index).is_file():
            return _read_index(folder, folder / index)
        if files := sorted(folder.glob(pattern)):
            return Shards(tuple(_resolve_inside(folder, path.name) for path in files), None)
    for name in ADAPTERS:
        if (folder / name).exists():
            return Shards((_resolve_inside(folder, name),), None)
    raise BadFile("no weights here (model.safetensors, pytorch_model.bin, or their index.json)", "give the file or its folder")


def _read_index(folder: pathlib.Path, path: pathlib.Path) -> Shards:
    """Reads the index of a sharded checkpoint."""
    weight_map = strict_json.parse(strict_json.read_bytes(_resolve_inside(folder, path.name)), path.name).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise BadFile(f"{path.name} has no weight_map of tensor names to files")
    shards = {shard: _resolve_inside(folder, shard) for shard in dict.fromkeys(weight_map.values())}
    return Shards(tuple(shards.values()), {name: shards[shard] for name, shard in weight_map.items()})


def _resolve_inside(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the path of a file in the folder, named in an index or a listing. Raises BadFile if it is elsewhere."""
    if name in ("", ".", "..") or any(sign in name for sign in "/\\:\0"):
        raise BadFile(f"its index names {escaped(name)}, which is not a file of this folder", DISTRUST)
    if not (folder / name).exists():
        raise BadFile(f"lacks {escaped(name)}", "copy the whole folder again")
    return paths.model_file_path(folder, name)


class JoinedTensors:
    """Several weight files as one. Checks that tensor names are unique and match the index exactly."""

    def __init__(self, path: pathlib.Path, files: Sequence[MappedTensors], index: Mapping[str, pathlib.Path] | None) -> None:
        self.path, self._files = path, tuple(files)
        self._file_of: dict[str, MappedTensors] = {}
        for file in files:
            for name in file.tensors:
                if name in self._file_of:
                    raise BadFile(
                        f"{escaped(name)} is in both {escaped(self._file_of[name].path.name)} and {escaped(file.path.name)}"
                    )
                if index is not None and index.get(name) != file.path:
                    raise BadFile(f"{escaped(file.path.name)} has {escaped(name)}, which its index does not list there")
                self._file_of[name] = file
        for name, shard in (index or {}).items():
            if name not in self._file_of:
                raise BadFile(f"{escaped(shard.name)} lacks {escaped(name)}, which its index lists there")
        self.tensors = {name: file.tensors[name] for name, file in self._file_of.items()}
        self.ignored = tuple(name for file in files for name in file.ignored)

    def read(self, name: str) -> np.ndarray:
        """See `MappedTensors.read`."""
        return self._file_of[name].read(name)

    def close(self) -> None:
        for file in self._files:
            file.close()

    def __enter__(self) -> JoinedTensors:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
