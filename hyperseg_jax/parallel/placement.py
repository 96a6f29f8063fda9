"""Meshes and shardings: parameters are sharded by their logical axes, batches by rows."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from hyperseg_jax import axes
from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import presets

MIN_SHARDED_SIZE = 2**18  # smaller parameters are cheaper to replicate than to gather
Rules = tuple[tuple[str, str | tuple[str, ...] | None], ...]


@dataclasses.dataclass(frozen=True)
class Placement:
    """How the arrays of a run are placed on its devices.

    preset: its name. rules: (logical axis, mesh axes or None) in order of priority. min_size: parameters with fewer elements
    are replicated.
    """

    preset: str
    mesh: Any  # a Mesh, or an AbstractMesh if only shapes are needed
    rules: Rules
    min_size: int = MIN_SHARDED_SIZE

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of arrays of which each device has a copy."""
        return NamedSharding(self.mesh, P())

    @property
    def batch(self) -> NamedSharding:
        """The sharding of batches, along their first axis."""
        return NamedSharding(self.mesh, axes.to_mesh_axes(("batch",), self.rules))

    @property
    def batch_shards(self) -> int:
        """Number of parts that a batch is sharded into."""
        return axes.num_shards(self.batch.spec[0], self.mesh)


def make(
    preset: str, sizes: Mapping[str, int] | None = None, *, devices: Sequence[Any] | None = None, adapters: bool = False
) -> Placement:
    """Builds the mesh of a preset (or "auto") over the devices, by default all devices of the run.

    sizes: {mesh axis: size}, replaces sizes of the preset; 0 keeps that of the preset. adapters: see presets.choose_preset.
    Raises UserError if the product of the sizes is not the number of devices, and for "single" in a run of several processes.
    """
    devices = list(jax.devices() if devices is None else devices)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    preset, chosen = presets.choose_preset(preset, devices[0].device_kind, len(devices), slices, adapters)
    shape = mesh_shape(preset, {**chosen, **{name: size for name, size in (sizes or {}).items() if size}}, len(devices))
    if preset == "single":
        if jax.process_count() > 1:
            why = f"uses one device, but this run has {jax.process_count()} processes"
            raise UserError(f"train.preset = 'single': {why}; add --config.train.preset=data, or use one process")
        devices = devices[:1]
    outer = presets.PRESETS[preset].slices
    if slices > 1:
        if not outer:
            outer = next(iter(shape))
        if shape[outer] % slices:
            raise UserError(f"train.mesh.{outer} = {shape[outer]}: give a multiple of the {slices} slices")
        inner = [size // slices if name == outer else size for name, size in shape.items()]
        between = [slices if name == outer else 1 for name in shape]
        arranged = mesh_utils.create_hybrid_device_mesh(inner, between, devices, allow_split_physical_axes=True)
    elif devices[0].platform == "tpu":
        arranged = mesh_utils.create_device_mesh(tuple(shape.values()), devices, allow_split_physical_axes=True)
    else:
        arranged = np.asarray(devices).reshape(tuple(shape.values()))
    return Placement(preset, Mesh(arranged, tuple(shape), axis_types=(AxisType.Auto,) * len(shape)), axis_rules(preset, shape))


def abstract_placement(preset: str, sizes: Mapping[str, int], devices: int) -> Placement:
    """Returns a placement on an abstract mesh, for computing shardings of shapes without devices. devices: their number."""
    shape = mesh_shape(preset, sizes, devices)
    mesh = jax.sharding.AbstractMesh(tuple(shape.values()), tuple(shape), axis_types=(AxisType.Auto,) * len(shape))
    return Placement(preset, mesh, axis_rules(preset, shape))


def make_abstract(
    preset: str, sizes: Mapping[str, int], device_kind: str, devices: int, slices: int = 1, *, adapters: bool = False
) -> Placement:
    """Like `make`, on an abstract mesh of devices that need not exist. device_kind: Device.device_kind of JAX."""
    preset, chosen = presets.choose_preset(preset, device_kind, devices, slices, adapters)
    return abstract_placement(preset, {**chosen, **{name: size for name, size in sizes.items() if size}}, devices)


def mesh_shape(preset: str, sizes: Mapping[str, int], devices: int) -> dict[str, int]:
    """Returns {mesh axis: size} of a preset on this number of devices. sizes: replace those of the preset. Raises UserError if
    an axis is not one of the preset or the product is not the number of devices."""
    shape = dict(presets.PRESETS[preset].mesh)
    unknown = [name for name in sizes if name not in shape]
    if unknown:
        raise UserError(f"train.mesh.{unknown[0]}: preset {preset} has only {', '.join(shape)}; use another train.preset")
    shape.update(sizes)
    fixed = math.prod(size for size in shape.values() if size != -1)
    shape = {name: max(1, devices // fixed) if size == -1 else size for name, size in shape.items()}
    if preset != "single" and math.prod(shape.values()) != devices:
        product = " x ".join(f"{name} {size}" for name, size in shape.items())
        raise UserError(
            f"train.preset = {preset!r}: {product} does not match {devices} devices; set train.mesh.{list(shape)[-1]}"
        )
    return shape


def axis_rules(preset: str, shape: Mapping[str, int]) -> Rules:
    """Returns the rule of every logical axis: those of the preset first, restricted to the mesh axes in `shape`; then all other
    logical axes, which are not sharded."""
    result: dict[str, str | tuple[str, ...] | None] = {}
    for axis, over in presets.PRESETS[preset].rules:
        mesh_axes = tuple(name for name in over if name in shape)
        # JAX distinguishes P("data") from P(("data",)).
        result[axis] = mesh_axes[0] if len(mesh_axes) == 1 else mesh_axes or None
    return (*result.items(), *((axis, None) for axis in axes.AXES if axis not in result))


@contextlib.contextmanager
def use(placed: Placement) -> Iterator[None]:
    """Activates the mesh and its rules during the body, so that axes.constrain() takes effect."""
    with jax.set_mesh(placed.mesh), nn.logical_axis_rules(placed.rules):
        yield


def partition_spec(names: Sequence[str | None], shape: Sequence[int], placed: Placement) -> P:
    """Returns the PartitionSpec of a parameter with these logical axis names. Small parameters, and dimensions that their mesh
    axes do not divide evenly, are not sharded."""
    if math.prod(shape) < placed.min_size:
        return P()
    spec = axes.to_mesh_axes(names, placed.rules)
    result = [axis if n % axes.num_shards(axis, placed.mesh) == 0 else None for n, axis in zip(shape, spec, strict=True)]
    while result and result[-1] is None:  # JAX distinguishes P() from P(None)
        result.pop()
    return P(*result)


def parameter_shardings(boxed: Any, placed: Placement) -> Any:
    """Returns the tree of shardings of parameters. boxed: nested shapes of the parameters with their logical axis names
    (system.boxed_shapes)."""

    def sharding(leaf: Any) -> NamedSharding:
        names = leaf.names if isinstance(leaf, nn.LogicallyPartitioned) else (None,) * leaf.ndim
        shape = leaf.value.shape if isinstance(leaf, nn.LogicallyPartitioned) else leaf.shape
        return NamedSharding(placed.mesh, partition_spec(names, shape, placed))

    return jax.tree.map(sharding, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))


def add_shardings(abstract: Any, shardings: Any) -> Any:
    """Returns nested shapes and types with shardings added. shardings: one for each leaf, or a single one for all leaves."""
    if isinstance(shardings, NamedSharding):
        single = shardings
        shardings = jax.tree.map(lambda _: single, abstract)
    return jax.tree.map(lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract, shardings)
