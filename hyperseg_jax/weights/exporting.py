"""A model folder -> PyTorch: the authors' names, a tensor at a time."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections
import numpy as np

from hyperseg_jax.atomic import atomic_folder, check_replaceable
from hyperseg_jax.errors import UserError
from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import Piece, Row, first_rule, flatten
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.weights import model_folder, peft_adapter
from hyperseg_jax.weights.safetensors_writer import FLOATS, SHARD, cast, is_finite, write_sharded
from hyperseg_jax.weights.tensor_file import TensorFile, open_tensors
from hyperseg_jax.weights.torch_writer import write_state_dict

WRITTEN = (
    "*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "extra_names.json",
    "state_dict.pth",
    "adapter_config.json",
)


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """out: the folder. names: tensors written. extras: {name: why}, those that the authors' code does not know. merged: whether
    LoRA adapters went into their kernels."""

    out: pathlib.Path
    names: int
    extras: dict[str, str]
    merged: bool


class Leaves:
    """The arrays of a model folder, with adapters merged into their kernels as they are read."""

    def __init__(self, file: TensorFile, config: ml_collections.ConfigDict) -> None:
        self._file, lora = file, systems.lora(config)
        self._scale = 0.0 if lora is None else lora.alpha / lora.rank
        self.merged = any(path.endswith("/lora_a") for path in file.tensors)

    def shape(self, path: str) -> tuple[int, ...]:
        return self._file.tensors[path].shape

    def dtype(self, path: str) -> np.dtype:
        return self._file.tensors[path].dtype

    def read(self, path: str, place: tuple[int, ...]) -> np.ndarray:
        """The part of a leaf at `place` in its leading axes."""
        part, adapter = self._file.read(path)[place], path.removesuffix("kernel")
        if not is_finite(part):
            raise UserError(f"{path}: has numbers that are not finite, so its training diverged; take an earlier save")
        if not path.endswith("/kernel") or f"{adapter}lora_a" not in self._file.tensors:
            return part
        a, b = (self._file.read(f"{adapter}lora_{side}")[place] for side in "ab")
        merged = peft_adapter.merge(part, a, b, self._scale)
        if not is_finite(merged):
            raise UserError(
                f"{path}: is not finite with its adapter merged into it; take another adapter, or import the model in float32"
            )
        return merged


def export_weights(
    source: str | pathlib.Path,
    out: str | pathlib.Path,
    *,
    format: str = "hf",
    part: str | None = None,
    dtype: str = "source",
    strict_authors: bool = False,
    shard_bytes: int = SHARD,
) -> ExportReport:
    """Writes the folder `out` from a workdir, model folder or shipped model.

    format: "hf", sharded safetensors with index, config.json and tokenizer under the authors' names, LoRA merged;
    "state-dict", one state_dict.pth for torch.load; "peft", the LoRA adapter alone. part: of a "hf" export, only the part that
    a transformers class can hold, in that class's names (System.parts). dtype: float32, float16, bfloat16, or "source".
    strict_authors: refuse instead of adding names that the authors' code does not know.
    """
    if part is not None and format != "hf":
        raise UserError(f"--part {part} goes with --format hf, not {format}")
    if format == "peft" and (dtype != "source" or strict_authors):
        raise UserError("--format peft writes the adapter as it is; leave --dtype and --strict-authors out")
    out, folder = pathlib.Path(out), model_folder.find(source)
    check_replaceable(out, WRITTEN, [folder])
    config = model_folder.read_config(folder)
    system = systems.get(config.system)
    expected = model_folder.expected_params(folder, config)
    with open_tensors(model_folder.file_of(folder, "model.safetensors")) as file:
        model_folder.check_fit(folder, {path: info.shape for path, info in file.tensors.items()}, expected)
        if format == "peft":
            return _peft(file, config, folder, out)
        leaves = Leaves(file, config)
        table = system.weight_table(config)
        if part is not None:
            table = system.part(part).table(config)
        elif left := _without_adapters(file) - {path for row in table for path in row.paths}:
            raise UserError(
                f"{folder}: {system.name} has no names for {', '.join(sorted(left)[:5])}; add them to its weight table"
            )
        extras = {name: rule.reason for row in table for name in row.names if (rule := first_rule(system.extras, name))}
        if strict_authors and extras:
            listed = "\n  ".join(f"{name}: {why}" for name, why in extras.items())
            raise UserError(
                f"{folder}: the authors' code has no name for\n  {listed}\nleave --strict-authors out, or train without them"
            )
        described = {name: info for row in table for name, info in _describe(row, leaves, dtype)}
        pieces = [piece for row in table for piece in row.pieces()]
        make = functools.partial(_made, leaves, dtype)
        with atomic_folder(out) as made:
            if format == "state-dict":
                write_state_dict(made / "state_dict.pth", described, itertools.chain.from_iterable(map(make, pieces)))
            else:
                write_sharded(made, described, make, pieces, shard_bytes)
                settings = system.part(part).config_json(config) if part else system.hf_config(config)
                types = {kind.name for _, kind in described.values() if kind.kind not in "iub"}
                settings["torch_dtype"] = types.pop() if len(types) == 1 else "float32"
                (made / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
                if part is None or system.part(part).reads_text:
                    _save_tokenizer(system.tokenizer(config, folder), settings, made)
            if extras:
                (made / "extra_names.json").write_text(json.dumps(extras, indent=1) + "\n", encoding="utf-8")
    return ExportReport(out, len(described), extras, leaves.merged)


def _without_adapters(file: TensorFile) -> set[str]:
    return {path for path in file.tensors if not path.endswith(("/lora_a", "/lora_b"))}


def _save_tokenizer(tokenizer: Tokenizer, settings: Mapping[str, Any], out: pathlib.Path) -> None:
    """tokenizer.json, and what AutoTokenizer wants beside it. settings: of the model's config.json."""
    tokenizer.save(out)
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": tokenizer.eos, "pad_token": tokenizer.eos}
    if (longest := settings.get("max_position_embeddings")) is not None:
        told["model_max_length"] = longest
    (out / "tokenizer_config.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _peft(file: TensorFile, config: ml_collections.ConfigDict, folder: pathlib.Path, out: pathlib.Path) -> ExportReport:
    adapters = {path: file.read(path) for path in file.tensors if path.endswith(("/lora_a", "/lora_b"))}
    if not adapters:
        raise UserError(f"{folder}: has no LoRA adapters; --format hf exports the whole model")
    with atomic_folder(out) as made:
        peft_adapter.write(made, adapters, config)
    return ExportReport(out, sum(len(array) for array in adapters.values()), {}, merged=False)


def _describe(row: Row, leaves: Leaves, dtype: str) -> Iterator[tuple[str, tuple[tuple[int, ...], np.dtype]]]:
    """(PyTorch name, (shape, type)) of a row, without reading it."""
    for _, place, names, operator in row.pieces():
        hollow = tuple(np.broadcast_to(np.zeros((), np.int8), leaves.shape(path)[len(place) :]) for path in row.paths)
        for name, tensor in zip(names, operator.to_torch(hollow), strict=True):
            kept = tensor.dtype if not row.paths else leaves.dtype(row.paths[0])
            yield name, (tensor.shape, kept if dtype == "source" or kept.kind in "iub" else FLOATS[dtype])


def _made(leaves: Leaves, dtype: str, piece: Piece) -> Iterator[tuple[str, np.ndarray]]:
    """(PyTorch name, tensor) of one piece of a row."""
    paths, place, names, operator = piece
    made = operator.to_torch(tuple(leaves.read(path, place) for path in paths))
    for name, tensor in zip(names, made, strict=True):
        try:
            yield name, tensor if dtype == "source" else cast(tensor, FLOATS[dtype], name)
        except OverflowError:
            raise UserError(f"{name}: has values beyond {dtype}; use a wider --dtype") from None


def conversion_lines(config: ml_collections.ConfigDict) -> Iterator[str]:
    """One line for every PyTorch name of a config: name, shape, our path and the operator, tabs between. Needs no weights."""
    system = systems.get(config.system)
    expected = flatten(system.shapes(config))
    for row in system.weight_table(config):
        for _, place, names, operator in row.pieces():
            hollow = tuple(np.broadcast_to(np.zeros((), np.int8), expected[path].shape[len(place) :]) for path in row.paths)
            where = "".join(f"[{k}]" for k in place)
            ours = " + ".join(path + where for path in row.paths) or "(made from the config)"
            for name, tensor in zip(names, operator.to_torch(hollow), strict=True):
                only_ours = " (ours only)" if first_rule(system.extras, name) else ""
                yield f"{name}\t{list(tensor.shape)}\t{ours}\t{type(operator).__name__}{only_ours}"
