"""Meshes and placement: presets as data, parameters by logical names, batches by their leading axis."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from hyperseg_jax.axes import AXES
from hyperseg_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Preset:
    """mesh: (axis, size), -1 takes what is left. rules: logical axis -> mesh axes; those not named are replicated."""

    mesh: tuple[tuple[str, int], ...]
    rules: tuple[tuple[str, str | tuple[str, ...]], ...] = ()


PRESETS = {
    "single": Preset((("data", 1),)),
    "data": Preset((("data", -1),), (("batch", "data"),)),
}


@dataclasses.dataclass(frozen=True)
class Placement:
    """A mesh with its rules."""

    mesh: Mesh
    rules: tuple[tuple[str, str | tuple[str, ...] | None], ...]


def mesh(preset: str) -> Placement:
    """The mesh of a preset over this machine's devices."""
    if preset not in PRESETS:
        raise UserError(f"train.preset = {preset!r}: use one of {', '.join(PRESETS)}")
    chosen, devices = PRESETS[preset], jax.devices()
    fixed = 1
    for _, size in chosen.mesh:
        fixed *= max(size, 1)
    sizes = tuple(len(devices) // fixed if size == -1 else size for _, size in chosen.mesh)
    total = 1
    for size in sizes:
        total *= size
    names = tuple(name for name, _ in chosen.mesh)
    made = jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(names), devices=devices[:total])
    given = dict(chosen.rules)
    return Placement(made, tuple((axis, given.get(axis)) for axis in AXES))


@contextlib.contextmanager
def use(placed: Placement) -> Iterator[None]:
    """Inside, constrain() takes effect."""
    with jax.set_mesh(placed.mesh), nn.logical_axis_rules(placed.rules):
        yield


def put(batch: Any, placed: Placement) -> Any:
    """A host's part of a batch as global arrays, split over the batch axis."""
    axis = dict(placed.rules)["batch"]
    sharding = NamedSharding(placed.mesh, P(axis))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def abstract_state(make: Callable[[Any], Any], given: Any, placed: Placement) -> Any:
    """What jit_state gives, as shapes, types and places without values."""
    return replicated(jax.eval_shape(make, given), placed)


def replicated(abstract: Any, placed: Placement) -> Any:
    """Shapes and types with their place: a copy on each device of the mesh."""
    sharding = NamedSharding(placed.mesh, P())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract)


def jit_state(make: Callable[[Any], Any], given: Any, placed: Placement) -> Any:
    """make(given) under jit, every leaf a copy on each device of the mesh."""
    return jax.jit(make, out_shardings=NamedSharding(placed.mesh, P()), donate_argnums=0)(given)
