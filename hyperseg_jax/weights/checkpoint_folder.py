"""Which files of a folder are its checkpoint, and many files seen as one."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from types import TracebackType

import numpy as np

from hyperseg_jax.untrusted import paths, strict_json
from hyperseg_jax.untrusted.bad_file import DISTRUST, BadFile
from hyperseg_jax.untrusted.printing import shown
from hyperseg_jax.weights.mapped_file import MappedTensors

FULL_MODEL = (("model.safetensors.index.json", "model.safetensors"), ("pytorch_model.bin.index.json", "pytorch_model*.bin"))
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclasses.dataclass(frozen=True)
class Shards:
    """The files of a checkpoint, and for each tensor name the file that an index puts it in (None without an index)."""

    files: tuple[pathlib.Path, ...]
    index: Mapping[str, pathlib.Path] | None


def find_shards(folder: pathlib.Path) -> Shards:
    """A whole model before adapters, safetensors before pickles, an index before lone files. Raises BadFile."""
    for index, pattern in FULL_MODEL:
        if (folder / index).is_file():
            return _indexed(folder, folder / index)
        if files := sorted(folder.glob(pattern)):
            return Shards(tuple(_inside(folder, path.name) for path in files), None)
    for name in ADAPTERS:
        if (folder / name).exists():
            return Shards((_inside(folder, name),), None)
    raise BadFile("no weights here (model.safetensors, pytorch_model.bin, or their index.json)", "give the file or its folder")


def _indexed(folder: pathlib.Path, path: pathlib.Path) -> Shards:
    where = strict_json.parse(strict_json.contents(_inside(folder, path.name)), path.name).get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(shard, str) for shard in where.values()):
        raise BadFile(f"{path.name} has no weight_map of tensor names to files")
    shards = {shard: _inside(folder, shard) for shard in dict.fromkeys(where.values())}
    return Shards(tuple(shards.values()), {name: shards[shard] for name, shard in where.items()})


def _inside(folder: pathlib.Path, name: str) -> pathlib.Path:
    """A file of the folder that an index or a listing names."""
    if name in ("", ".", "..") or any(sign in name for sign in "/\\:\0"):
        raise BadFile(f"its index names {shown(name)}, which is no file of this folder", DISTRUST)
    if not (folder / name).exists():
        raise BadFile(f"lacks {shown(name)}", "copy the whole folder again")
    return paths.of_model(folder, name)


class JoinedTensors:
    """Several files as one; their names are checked against each other and the index, both ways."""

    def __init__(self, path: pathlib.Path, files: Sequence[MappedTensors], index: Mapping[str, pathlib.Path] | None) -> None:
        self.path, self._files = path, tuple(files)
        self._home: dict[str, MappedTensors] = {}
        for file in files:
            for name in file.tensors:
                if name in self._home:
                    raise BadFile(f"{shown(name)} is in both {self._home[name].path.name} and {file.path.name}")
                if index is not None and index.get(name) != file.path:
                    raise BadFile(f"{file.path.name} has {shown(name)}, which the index does not put there")
                self._home[name] = file
        for name, shard in (index or {}).items():
            if name not in self._home:
                raise BadFile(f"{shard.name} lacks {shown(name)}, which the index puts there")
        self.tensors = {name: file.tensors[name] for name, file in self._home.items()}
        self.ignored = tuple(name for file in files for name in file.ignored)

    def read(self, name: str) -> np.ndarray:
        """As `MappedTensors.read`."""
        return self._home[name].read(name)

    def close(self) -> None:
        for file in self._files:
            file.close()

    def __enter__(self) -> JoinedTensors:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
