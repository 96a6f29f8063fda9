"""Sharding presets as data: mesh axes, and the logical axes that are sharded over them.

There are four mesh axes: "data" replicates the parameters, "fsdp" shards parameters and batch, "tensor" shards the inside of
layers, "space" shards images by rows. If two dimensions of an array map to the same mesh axis, the earlier rule wins.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from hyperseg_jax import axes
from hyperseg_jax.errors import UserError

MESH_AXES = {
    "data": "parameters are replicated, the batch is sharded",
    "fsdp": "parameters and batch are sharded, parameters are gathered layer by layer",
    "tensor": "heads, hidden widths and vocabulary are sharded, activations are summed",
    "space": "rows of images and feature maps are sharded",
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """A way to shard a run. mesh: {mesh axis: size}; -1 uses the remaining devices. rules: (logical axis, mesh axes); logical
    axes without a rule are not sharded. slices: the mesh axis that is divided among TPU slices, whose
    communication goes over the data-center network."""

    mesh: Mapping[str, int]
    rules: tuple[tuple[str, tuple[str, ...]], ...] = ()
    slices: str = ""

    def __post_init__(self) -> None:
        axes.check_axis_names(tuple(axis for axis, _ in self.rules))
        unknown = {name for name in (*self.mesh, *(n for _, over in self.rules for n in over)) if name not in MESH_AXES}
        if unknown:
            raise ValueError(f"unknown mesh axes {sorted(unknown)}; use some of {', '.join(MESH_AXES)}")


BATCH = (("batch", ("data", "fsdp")),)
# Token tables are sharded by rows: sharded by columns, their gradient would need all activations on every device.
WEIGHTS = (("vocab", ("fsdp", "tensor")), ("embed", ("fsdp",)), ("conv_out", ("fsdp",)))
LAYERS = (("heads", ("tensor",)), ("mlp", ("tensor",)), ("act_heads", ("tensor",)))
SPACE = (("height", ("space",)), ("tokens", ("space",)))

PRESETS = {
    "single": Preset({"data": 1}),
    "data": Preset({"data": -1}, BATCH),
    # LoRA: the base model is replicated, except for the token tables, frozen or trained, which are sharded with their moments.
    "lora": Preset({"data": -1}, (*BATCH, ("vocab", ("data",)))),
    "fsdp": Preset({"fsdp": -1}, (*BATCH, *WEIGHTS)),
    "data_fsdp": Preset({"data": -1, "fsdp": 2}, (*BATCH, *WEIGHTS)),
    "fsdp_tensor": Preset({"fsdp": -1, "tensor": 2}, (*BATCH, *WEIGHTS, *LAYERS)),
    "multi_slice": Preset({"data": 2, "fsdp": -1}, (*BATCH, *WEIGHTS), slices="data"),
    "large_image": Preset({"data": -1, "space": 2}, (*BATCH, *SPACE)),
}

# TPU generation -> (for LoRA, for full training), each a preset and its sizes. A v5e chip holds the base model in bfloat16
# (6.5 of 16 GB), so only gradients are communicated. With more than 32 parts, a row of 2560 has less than one tile per part.
DEFAULTS: dict[str, tuple[tuple[str, dict[str, int]], tuple[str, dict[str, int]]]] = {
    "v4": (("lora", {}), ("data_fsdp", {"fsdp": 16})),
    "v5e": (("lora", {}), ("data_fsdp", {"fsdp": 32})),
    "v5p": (("lora", {}), ("data_fsdp", {"fsdp": 16})),
    "v6e": (("lora", {}), ("data_fsdp", {"fsdp": 16})),
    "tpu7x": (("lora", {}), ("data_fsdp", {"fsdp": 16})),
}
# Device.device_kind of JAX -> TPU generation
GENERATIONS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "TPU7x": "tpu7x",
}


def choose_preset(name: str, device_kind: str, devices: int, slices: int, adapters: bool) -> tuple[str, dict[str, int]]:
    """Returns (preset, {mesh axis: size to override}) for train.preset. "auto" selects the default for these devices.

    device_kind: Device.device_kind of JAX. devices: total number. slices: number of TPU slices. adapters: whether LoRA adapters
    are trained on a frozen base model.
    """
    if name != "auto":
        if name not in PRESETS:
            raise UserError(f"train.preset = {name!r}: use auto or one of {', '.join(PRESETS)}")
        return name, {}
    if devices == 1:
        return "single", {}
    if device_kind not in GENERATIONS:
        return "data", {}
    preset, sizes = DEFAULTS[GENERATIONS[device_kind]][0 if adapters else 1]
    if "fsdp" in sizes:
        in_slice = devices // slices
        sizes = {"fsdp": min(sizes["fsdp"], in_slice)}
        if slices > 1:  # parameters are gathered within a slice
            return "multi_slice", {"data": devices // sizes["fsdp"], **sizes}
    return preset, dict(sizes)
