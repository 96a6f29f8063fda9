"""Meshes and placement: parameters by their logical axes, batches by their rows."""

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

SMALLEST = 2**18  # parameters with fewer elements cost less to hold than to gather
Rules = tuple[tuple[str, str | tuple[str, ...] | None], ...]


@dataclasses.dataclass(frozen=True)
class Placement:
    """A mesh with its rules: (logical axis, mesh axes or None), in the order of their priority. smallest: parameters with fewer
    elements stay whole."""

    preset: str
    mesh: Any  # a Mesh, or an AbstractMesh where only shapes are asked for
    rules: Rules
    smallest: int = SMALLEST

    @property
    def whole(self) -> NamedSharding:
        """A copy on each device."""
        return NamedSharding(self.mesh, P())

    @property
    def batch(self) -> NamedSharding:
        """The leading axis split over the devices that hold different rows."""
        return NamedSharding(self.mesh, axes.resolve(("batch",), self.rules))

    @property
    def batch_parts(self) -> int:
        """Into how many parts a batch is split."""
        return axes.num_shards(self.batch.spec[0], self.mesh)


def make(
    preset: str, sizes: Mapping[str, int] | None = None, *, devices: Sequence[Any] | None = None, adapters: bool = False
) -> Placement:
    """The mesh of a preset (or "auto") over the devices, all of the run by default.

    sizes: of mesh axes, where they differ from the preset's; 0 leaves the preset's. adapters: see presets.choose.
    UserError where the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    preset, chosen = presets.choose(preset, devices[0].device_kind, len(devices), slices, adapters)
    shape = resolve(preset, {**chosen, **{name: size for name, size in (sizes or {}).items() if size}}, len(devices))
    if preset == "single":
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
    return Placement(preset, Mesh(arranged, tuple(shape), axis_types=(AxisType.Auto,) * len(shape)), rules(preset, shape))


def abstract(preset: str, sizes: Mapping[str, int], devices: int) -> Placement:
    """A placement without devices, for shapes alone."""
    shape = resolve(preset, sizes, devices)
    mesh = jax.sharding.AbstractMesh(tuple(shape.values()), tuple(shape), axis_types=(AxisType.Auto,) * len(shape))
    return Placement(preset, mesh, rules(preset, shape))


def resolve(preset: str, sizes: Mapping[str, int], devices: int) -> dict[str, int]:
    """{mesh axis: size} of a preset on so many devices."""
    shape = dict(presets.PRESETS[preset].mesh)
    unknown = [name for name in sizes if name not in shape]
    if unknown:
        raise UserError(f"train.mesh.{unknown[0]}: preset {preset} has the axes {', '.join(shape)}; take another train.preset")
    shape.update(sizes)
    fixed = math.prod(size for size in shape.values() if size != -1)
    shape = {name: max(1, devices // fixed) if size == -1 else size for name, size in shape.items()}
    if preset != "single" and math.prod(shape.values()) != devices:
        told = " x ".join(f"{name} {size}" for name, size in shape.items())
        raise UserError(f"train.preset = {preset!r}: {told} does not make {devices} devices; set train.mesh.{list(shape)[-1]}")
    return shape


def rules(preset: str, shape: Mapping[str, int]) -> Rules:
    """The preset's rules on the axes that its mesh has, then all other logical axes, which stay whole."""
    given: dict[str, str | tuple[str, ...] | None] = {}
    for axis, over in presets.PRESETS[preset].rules:
        there = tuple(name for name in over if name in shape)
        given[axis] = there[0] if len(there) == 1 else there or None  # JAX tells P("data") from P(("data",))
    return (*given.items(), *((axis, None) for axis in axes.AXES if axis not in given))


@contextlib.contextmanager
def use(placed: Placement) -> Iterator[None]:
    """Inside, constrain() takes effect."""
    with jax.set_mesh(placed.mesh), nn.logical_axis_rules(placed.rules):
        yield


def spec_of(names: Sequence[str | None], shape: Sequence[int], placed: Placement) -> P:
    """Where the dimensions of a parameter lie. One that its mesh axes do not divide stays whole."""
    if math.prod(shape) < placed.smallest:
        return P()
    spec = axes.resolve(names, placed.rules)
    kept = [axis if n % axes.num_shards(axis, placed.mesh) == 0 else None for n, axis in zip(shape, spec, strict=True)]
    while kept and kept[-1] is None:  # JAX tells P() from P(None)
        kept.pop()
    return P(*kept)


def shardings(boxed: Any, placed: Placement) -> Any:
    """The sharding of each parameter, from parameters boxed with their axis names (the shapes of a system's `init`)."""

    def of(leaf: Any) -> NamedSharding:
        names = leaf.names if isinstance(leaf, nn.LogicallyPartitioned) else (None,) * leaf.ndim
        shape = leaf.value.shape if isinstance(leaf, nn.LogicallyPartitioned) else leaf.shape
        return NamedSharding(placed.mesh, spec_of(names, shape, placed))

    return jax.tree.map(of, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))


def abstract_arrays(abstract: Any, where: Any) -> Any:
    """Shapes and types with their places. where: a tree of shardings, or one for all."""
    if isinstance(where, NamedSharding):
        one = where
        where = jax.tree.map(lambda _: one, abstract)
    return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), abstract, where)
