"""Reads and writes LoRA adapters of the language model as PEFT folders: adapter_config.json, adapter_model.safetensors."""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np
from safetensors.numpy import save_file

from hyperseg_jax.atomic import atomic_folder
from hyperseg_jax.errors import UserError
from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import Adapters, flatten, unflatten
from hyperseg_jax.untrusted import paths, strict_json
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.printing import escaped, escaped_value
from hyperseg_jax.weights.safetensors_writer import FLOATS
from hyperseg_jax.weights.tensor_file import open_tensors

ADAPTER = r".*/lora_[ab]"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Fields of adapter_config.json that do not affect the computation. Any other field that `_check_adapter_config` does not read
# enables an unsupported feature, unless it is empty or false.
HARMLESS = {
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
}
# Initializations of an adapter that leave the base weights unchanged; others (PiSSA, OLoRA, ...) modify them.
STARTS = (None, True, False, "gaussian", "eva", "orthogonal")


def write_adapter(
    folder: str | os.PathLike[str], params: Mapping[str, Any], config: ml_collections.ConfigDict, *, base: str | None = None
) -> None:
    """Writes the adapters among `params` as a folder that peft.PeftModel.from_pretrained can load on a PhiForCausalLM.

    params: of the whole system, nested, or by Flax path (then only the adapters are read). base: name or path of the base
    model. Raises UserError listing adapters that are missing, that the config does not have or that have another rank, and if
    the folder contains anything but an adapter.
    """
    folder = pathlib.Path(folder)
    foreign = sorted({path.name for path in folder.iterdir()} - {CONFIG, WEIGHTS}) if folder.is_dir() else []
    if foreign:
        raise UserError(f"{folder}: contains {escaped(foreign[0])}, which would be deleted; give a new folder")
    with atomic_folder(folder) as part:
        write_adapter_files(part, params, config, base=base)


def write_adapter_files(
    folder: pathlib.Path, params: Mapping[str, Any], config: ml_collections.ConfigDict, *, base: str | None = None
) -> None:
    """Writes the files of an adapter into an existing folder, see `write_adapter`."""
    ours, lora = _adapters_of(config), config.model.lora
    leaves = params if any("/" in key for key in params) else flatten(params)
    adapters = {path: np.asarray(leaves[path]) for path in leaves if re.fullmatch(ADAPTER, path)}
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in ours.table.to_torch(adapters).items()}
    ours.table.to_flax(tensors, _adapter_shapes(config))  # raises UserError for wrong shapes
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": ours.targets,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def read_adapter(folder: str | os.PathLike[str], config: ml_collections.ConfigDict) -> dict[str, np.ndarray]:
    """Reads {Flax path: array} of the adapters in a PEFT folder, with the dtype of the file.

    Raises UserError if the folder is incomplete, if rank, alpha or adapted layers differ from the config, or if the adapter is
    not a plain LoRA. The dropout of the adapter is ignored, since the config determines it.
    """
    table, folder, lora = _adapters_of(config).table, pathlib.Path(folder), config.model.lora
    path = folder / CONFIG
    try:
        for name in (CONFIG, WEIGHTS):
            paths.model_file_path(folder, name)
        fields = strict_json.parse(strict_json.read_bytes(path), path.name)
    except (OSError, BadFile) as error:
        raise UserError(f"{path}: not a readable config ({error}); give a folder that peft's save_pretrained wrote") from error
    _check_adapter_config(path, fields, config)
    path = folder / WEIGHTS
    with open_tensors(path) as file:
        unsupported = [name for name, info in file.tensors.items() if info.dtype.name not in FLOATS]
        if unsupported:
            raise UserError(
                f"{path}: {escaped(', '.join(unsupported))}: not float32, float16 or bfloat16; save as one of these with peft"
            )
        tensors = {name: file.read(name) for name in file.tensors}
    try:
        return flatten(table.to_flax(tensors, _adapter_shapes(config)))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except ValueError as error:  # layers are stacked
        raise UserError(f"{path}: the layers' adapters differ in shape ({error}); give one of rank {lora.rank}") from error


def merge_adapter(kernel: np.ndarray, lora_a: np.ndarray, lora_b: np.ndarray, scale: float) -> np.ndarray:
    """Returns kernel + scale * lora_a @ lora_b, computed in float32 and cast to the dtype of the kernel.

    kernel [..., in, out], lora_a [..., in, rank], lora_b [..., rank, out]; a leading axis stacks layers.
    scale: alpha / rank (layers.linear.LoRA.scale).
    """
    with np.errstate(over="ignore", invalid="ignore"):  # the caller checks that the result is finite
        product = lora_a.astype(np.float32) @ lora_b.astype(np.float32)
        return (kernel.astype(np.float32) + np.float32(scale) * product).astype(kernel.dtype)


def _adapters_of(config: ml_collections.ConfigDict) -> Adapters:
    system = systems.get(config.system)
    if systems.lora_block(config) is None or system.adapters is None:
        raise UserError(
            "model.lora.rank = 0: this config has no adapters; set model.lora.rank, alpha and targets to those of the adapter"
        )
    return system.adapters(config)


def _adapter_shapes(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the nested shapes and dtypes of the system's adapters."""
    shapes = flatten(systems.get(config.system).shapes(config))
    return unflatten({path: leaf for path, leaf in shapes.items() if re.fullmatch(ADAPTER, path)})


def _check_adapter_config(path: pathlib.Path, fields: Mapping[str, Any], config: ml_collections.ConfigDict) -> None:
    """Raises UserError unless the fields describe a plain LoRA with the config's rank and alpha."""
    if fields.get("peft_type") != "LORA":
        raise UserError(f"{path}: peft_type = {escaped_value(fields.get('peft_type'))}; give an adapter of the type LORA")
    for field, ours in (("r", "rank"), ("lora_alpha", "alpha")):
        if fields.get(field) != config.model.lora[ours]:
            raise UserError(
                f"{path}: {field} = {escaped_value(fields.get(field))}, but model.lora.{ours} = {config.model.lora[ours]!r}; "
                f"set model.lora.{ours} to the adapter's"
            )
    if fields.get("bias", "none") != "none":
        raise UserError(f"{path}: bias = {escaped_value(fields['bias'])}; give an adapter that was trained with bias = 'none'")
    if fields.get("init_lora_weights") not in STARTS:
        raise UserError(
            f"{path}: init_lora_weights = {escaped_value(fields['init_lora_weights'])} also changes the base weights; "
            "convert it to a plain LoRA with peft first"
        )
    read = {"peft_type", "r", "lora_alpha", "bias"}
    unsupported = sorted(name for name, value in fields.items() if value and name not in HARMLESS | read)
    if unsupported:
        listed = escaped(", ".join(f"{name} = {fields[name]!r}" for name in unsupported))
        raise UserError(f"{path}: {listed}: no plain LoRA; merge it into its base model with peft first")
