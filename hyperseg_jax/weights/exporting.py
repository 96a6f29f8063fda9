"""Exports a model folder to PyTorch with the parameter names of the authors, one tensor at a time."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ml_collections
import numpy as np

from hyperseg_jax.atomic import atomic_folder, check_replaceable
from hyperseg_jax.errors import UserError
from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import Piece, Row, Rule, Table, find_first_rule, flatten
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.weights import model_folder, peft_adapter
from hyperseg_jax.weights.safetensors_writer import FLOATS, SHARD, cast_without_overflow, is_all_finite, write_sharded
from hyperseg_jax.weights.tensor_file import TensorFile, open_tensors
from hyperseg_jax.weights.torch_writer import write_state_dict

WRITTEN = (
    "*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "extra_names.json",
    "README.md",
    "state_dict.pth",
    "adapter_config.json",
)
PUBLISHED_FIELDS = "hyperseg_jax"
"""Field of an exported config.json: {config field: value} of System.published_fields. An import restores them."""


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """The result of an export.

    out: the output folder. names: number of tensors. extras: {name: reason} of tensors that the authors' code does not have.
    merged: whether LoRA adapters were merged into their kernels. untrained: {name: reason} of tensors that no loss trains.
    departures: {config field: (value, what the authors' code does instead)}, see System.departures. recorded: {config field:
    value}, see System.recorded_values.
    """

    out: pathlib.Path
    names: int
    extras: dict[str, str]
    merged: bool
    untrained: dict[str, str] = dataclasses.field(default_factory=dict)
    departures: dict[str, tuple[Any, str]] = dataclasses.field(default_factory=dict)
    recorded: dict[str, Any] = dataclasses.field(default_factory=dict)


class MergedParams:
    """Reads the parameters of a model folder; LoRA adapters are merged into their kernels when these are read."""

    def __init__(self, file: TensorFile, config: ml_collections.ConfigDict) -> None:
        self._file, self.path, lora = file, file.path, systems.lora_block(config)
        self._scale = 0.0 if lora is None else lora.alpha / lora.rank
        self.merged = any(path.endswith("/lora_a") for path in file.tensors)

    def shape(self, path: str) -> tuple[int, ...]:
        return self._file.tensors[path].shape

    def dtype(self, path: str) -> np.dtype:
        return self._file.tensors[path].dtype

    def read(self, path: str, place: tuple[int, ...]) -> np.ndarray:
        """Returns parameter[place], where `place` indexes its leading axes."""
        part, adapter = self._file.read(path)[place], path.removesuffix("kernel")
        if not is_all_finite(part):
            raise UserError(
                f"{self.path}: {path}: has values that are not finite, since training diverged; use an earlier checkpoint"
            )
        if not path.endswith("/kernel") or f"{adapter}lora_a" not in self._file.tensors:
            return part
        a, b = (self._file.read(f"{adapter}lora_{side}")[place] for side in "ab")
        merged = peft_adapter.merge_adapter(part, a, b, self._scale)
        if not is_all_finite(merged):
            raise UserError(
                f"{self.path}: {path}: is not finite after merging its adapter; use another adapter, or import the model "
                "in float32"
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
    """Exports a workdir, model folder or shipped model to the folder `out`.

    format: "hf": sharded safetensors with index, config.json and tokenizer, with the authors' names and merged LoRA;
    "state-dict": one state_dict.pth for torch.load, and a config.json if the system has published fields; "peft": only the LoRA
    adapter. part: for "hf", exports only one component that a transformers class can load, with the names of that class
    (System.parts). dtype: float32, float16, bfloat16, or "source" (unchanged). strict_authors: raises UserError if the authors'
    code lacks some of the names, or computes something else with them.
    """
    if part is not None and format != "hf":
        raise UserError(f"--part {part} requires --format hf, not {format}")
    if format == "peft" and (dtype != "source" or strict_authors):
        raise UserError("--format peft writes the adapter unchanged; remove --dtype and --strict-authors")
    out, folder = pathlib.Path(out), model_folder.find_model_folder(source)
    check_replaceable(out, WRITTEN, [folder])
    config = model_folder.read_config(folder)
    with model_folder.naming_config(folder):
        system = systems.get(config.system)
    expected = model_folder.expected_params(folder, config)
    with open_tensors(model_folder.file_path(folder, "model.safetensors")) as file:
        model_folder.check_params(folder, file.tensors, expected)
        if format == "peft":
            return _export_peft(file, config, folder, out)
        params = MergedParams(file, config)
        table = system.weight_table(config)
        if part is not None:
            table = system.part(part).table(config)
        elif unmapped := _paths_without_adapters(file) - {path for row in table for path in row.paths}:
            raise UserError(
                f"{folder}: {system.name} has no names for {', '.join(sorted(unmapped)[:5])}; add them to its weight table"
            )
        extras, untrained = (_names_with_reasons(table, rules) for rules in (system.extra_names, system.untrained))
        if strict_authors and extras:
            listed = "\n  ".join(f"{name}: {reason}" for name, reason in extras.items())
            raise UserError(
                f"{folder}: the authors' code lacks names of parameters; remove --strict-authors, or train a model without "
                f"them:\n  {listed}"
            )
        recorded, departures = ({}, {}) if part else (system.recorded_values(config), system.departures(config))
        if strict_authors and departures:
            listed = "\n  ".join(f"{field} = {value!r}: {meaning}" for field, (value, meaning) in departures.items())
            raise UserError(
                f"{folder}: the authors' code lacks settings of the model; remove --strict-authors, or train a model with "
                f"their values:\n  {listed}"
            )
        described = {name: info for row in table for name, info in _describe_row(row, params, dtype)}
        pieces = [piece for row in table for piece in row.pieces()]
        convert = functools.partial(_convert_piece, params, dtype)
        settings = system.part(part).config_json(config) if part else system.hf_config(config)
        types = {kind.name for _, kind in described.values() if kind.kind not in "iub"}
        settings["torch_dtype"] = types.pop() if len(types) == 1 else "float32"
        settings |= {PUBLISHED_FIELDS: recorded} if recorded else {}
        with atomic_folder(out) as temporary:
            if format == "hf" or recorded:
                (temporary / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            if format == "state-dict":
                write_state_dict(temporary / "state_dict.pth", described, itertools.chain.from_iterable(map(convert, pieces)))
            else:
                write_sharded(temporary, described, convert, pieces, shard_bytes)
                tokenizer = system.load_tokenizer(config, folder) if part is None or system.part(part).reads_text else None
                if tokenizer is not None:
                    _save_tokenizer(tokenizer, settings, temporary)
            if format == "hf" and part is None:
                card = _model_card(system.name, len(described), params.merged, extras, untrained, departures)
                (temporary / "README.md").write_text(card, encoding="utf-8")
            if extras:
                (temporary / "extra_names.json").write_text(json.dumps(extras, indent=1) + "\n", encoding="utf-8")
    return ExportReport(out, len(described), extras, params.merged, untrained, departures, recorded)


def _names_with_reasons(table: Table, rules: Iterable[Rule]) -> dict[str, str]:
    """Returns {PyTorch name: reason} of the names that match a rule."""
    return {name: rule.reason for row in table for name in row.names if (rule := find_first_rule(rules, name))}


def _model_card(
    system: str,
    tensors: int,
    merged: bool,
    extras: Mapping[str, str],
    untrained: Mapping[str, str],
    departures: Mapping[str, tuple[Any, str]],
) -> str:
    """Returns the text of README.md, the model card of an exported model."""
    lines = [f"# {system}, exported by hyperseg_jax", "", f"{tensors} tensors with the names of the authors' code."]
    lines += ["LoRA adapters are merged into their kernels."] if merged else []
    lines += ["", "## Not the released architecture", ""] if departures else []
    lines += [f"* `{field} = {value}`: {meaning}." for field, (value, meaning) in departures.items()]
    for title, names in (("Parameters that the authors' code does not have", extras), ("Untrained parameters", untrained)):
        for reason in dict.fromkeys(names.values()):
            listed = [f"* `{name}`" for name, why in names.items() if why == reason]
            lines += ["", f"## {title}", "", f"{reason[:1].upper()}{reason[1:]}:", "", *listed]
    return "\n".join(lines) + "\n"


def _paths_without_adapters(file: TensorFile) -> set[str]:
    """Returns the paths of all parameters except LoRA adapters."""
    return {path for path in file.tensors if not path.endswith(("/lora_a", "/lora_b"))}


def _save_tokenizer(tokenizer: Tokenizer, settings: Mapping[str, Any], out: pathlib.Path) -> None:
    """Writes tokenizer.json and the tokenizer_config.json for AutoTokenizer. settings: of the model's config.json."""
    tokenizer.save(out)
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": tokenizer.eos, "pad_token": tokenizer.eos}
    if (longest := settings.get("max_position_embeddings")) is not None:
        fields["model_max_length"] = longest
    (out / "tokenizer_config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _export_peft(file: TensorFile, config: ml_collections.ConfigDict, folder: pathlib.Path, out: pathlib.Path) -> ExportReport:
    """Writes the LoRA adapters of a model folder as a PEFT folder."""
    adapters = {path: file.read(path) for path in file.tensors if path.endswith(("/lora_a", "/lora_b"))}
    if not adapters:
        raise UserError(f"{folder}: has no LoRA adapters; --format hf exports the whole model")
    with atomic_folder(out) as temporary:
        peft_adapter.write_adapter_files(temporary, adapters, config)
    return ExportReport(out, sum(len(array) for array in adapters.values()), {}, merged=False)


def _describe_row(row: Row, params: MergedParams, dtype: str) -> Iterator[tuple[str, tuple[tuple[int, ...], np.dtype]]]:
    """Yields (PyTorch name, (shape, dtype)) of a row without reading its data."""
    for _, place, names, operator in row.pieces():
        placeholders = tuple(np.broadcast_to(np.zeros((), np.int8), params.shape(path)[len(place) :]) for path in row.paths)
        for name, tensor in zip(names, operator.to_torch(placeholders), strict=True):
            source_dtype = tensor.dtype if not row.paths else params.dtype(row.paths[0])
            keeps_dtype = dtype == "source" or source_dtype.kind in "iub"
            yield name, (tensor.shape, source_dtype if keeps_dtype else FLOATS[dtype])


def _convert_piece(params: MergedParams, dtype: str, piece: Piece) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (PyTorch name, tensor) of one piece of a row."""
    paths, place, names, operator = piece
    tensors = operator.to_torch(tuple(params.read(path, place) for path in paths))
    for name, tensor in zip(names, tensors, strict=True):
        try:
            yield name, tensor if dtype == "source" else cast_without_overflow(tensor, FLOATS[dtype], name)
        except OverflowError:
            raise UserError(
                f"{params.path}: {name}: has values outside the range of {dtype}; use a wider --dtype, or --dtype source"
            ) from None


def conversion_lines(config: ml_collections.ConfigDict) -> Iterator[str]:
    """Yields a tab-separated line for every PyTorch name of a config: name, shape, our path, operator. Needs no weights."""
    system = systems.get(config.system)
    expected = flatten(system.shapes(config))
    for row in system.weight_table(config):
        for _, place, names, operator in row.pieces():
            placeholders = tuple(
                np.broadcast_to(np.zeros((), np.int8), expected[path].shape[len(place) :]) for path in row.paths
            )
            index = "".join(f"[{k}]" for k in place)
            ours = " + ".join(path + index for path in row.paths) or "(computed from the config)"
            for name, tensor in zip(names, operator.to_torch(placeholders), strict=True):
                only_ours = " (ours only)" if find_first_rule(system.extra_names, name) else ""
                yield f"{name}\t{list(tensor.shape)}\t{ours}\t{type(operator).__name__}{only_ours}"
