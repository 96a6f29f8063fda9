"""How a run is spread over devices, as data: mesh axes and the logical axes that are split over them.

Four mesh axes: "data" holds copies of the parameters, "fsdp" splits parameters and batch, "tensor" splits the inside of
layers, "space" splits images by rows. Where two dimensions of an array want the same mesh axis, the earlier rule counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from hyperseg_jax import axes
from hyperseg_jax.errors import UserError

MESH_AXES = {
    "data": "copies of the parameters; the batch is split",
    "fsdp": "parameters and batch are split, parameters are gathered layer by layer",
    "tensor": "heads, hidden widths and vocabulary are split, activations are summed",
    "space": "rows of images and feature maps are split",
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """mesh: {mesh axis: size}; -1 takes the devices that are left. rules: (logical axis, mesh axes); those not named are whole.
    slices: the mesh axis whose outer part runs between slices, over the data-center network."""

    mesh: Mapping[str, int]
    rules: tuple[tuple[str, tuple[str, ...]], ...] = ()
    slices: str = ""

    def __post_init__(self) -> None:
        axes.check(tuple(axis for axis, _ in self.rules))
        unknown = {name for name in (*self.mesh, *(n for _, over in self.rules for n in over)) if name not in MESH_AXES}
        if unknown:
            raise ValueError(f"unknown mesh axes {sorted(unknown)}; use some of {', '.join(MESH_AXES)}")


BATCH = (("batch", ("data", "fsdp")),)
# token tables by their rows: split by columns, their gradient would need all activations on every device
WEIGHTS = (("vocab", ("fsdp", "tensor")), ("embed", ("fsdp",)), ("conv_out", ("fsdp",)))
LAYERS = (("heads", ("tensor",)), ("mlp", ("tensor",)))
SPACE = (("height", ("space",)), ("tokens", ("space",)))

PRESETS = {
    "single": Preset({"data": 1}),
    "data": Preset({"data": -1}, BATCH),
    # adapters: the frozen base is whole everywhere; the token tables, if they are trained, are split with their moments
    "lora": Preset({"data": -1}, (*BATCH, ("vocab", ("data",)))),
    "fsdp": Preset({"fsdp": -1}, (*BATCH, *WEIGHTS)),
    "data_fsdp": Preset({"data": -1, "fsdp": 2}, (*BATCH, *WEIGHTS)),
    "fsdp_tensor": Preset({"fsdp": -1, "tensor": 2}, (*BATCH, *WEIGHTS, *LAYERS)),
    "multi_slice": Preset({"data": 2, "fsdp": -1}, (*BATCH, *WEIGHTS), slices="data"),
    "large_image": Preset({"data": -1, "space": 2}, (*BATCH, *SPACE)),
}

# TPU generation -> (for adapters, for full training), each a preset and its sizes. A v5e chip holds the base in bfloat16 (6.5
# of 16 GB) and then needs no traffic but gradients. More than 32 parts leave less than a tile of a row of 2560.
DEFAULTS: dict[str, tuple[tuple[str, dict[str, int]], tuple[str, dict[str, int]]]] = {
    "v4": (("lora", {}), ("data_fsdp", {"fsdp": 16})),
    "v5e": (("lora", {}), ("data_fsdp", {"fsdp": 32})),
    "v5p": (("lora", {}), ("data_fsdp", {"fsdp": 16})),
    "v6e": (("lora", {}), ("data_fsdp", {"fsdp": 16})),
}
# what JAX calls them (Device.device_kind)
GENERATIONS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}


def choose(name: str, device_kind: str, devices: int, slices: int, adapters: bool) -> tuple[str, dict[str, int]]:
    """(preset, sizes of its axes) that train.preset asks for; "auto" is the default for these devices.

    adapters: the base is frozen and low-rank adapters are trained.
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
        if slices > 1:  # gathering parameters stays inside a slice
            return "multi_slice", {"data": devices // sizes["fsdp"], **sizes}
    return preset, dict(sizes)
