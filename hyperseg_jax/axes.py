"""The logical axis names of parameters and activations, and sharding constraints that use them.

Parameters and the activations between blocks carry these names; a sharding preset (parallel/) maps them to mesh axes. Model
code never names a mesh axis.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import PartitionSpec as P

AXES = {
    # parameters
    "layers": "stacked layers of a scan",
    "embed": "model width of a parameter, input side",
    "heads": "attention heads times head size",
    "mlp": "hidden width of a feed-forward block",
    "vocab": "rows of a token table",
    "lora": "rank of a low-rank adapter",
    "window": "offsets of a relative position table",
    "conv_height": "kernel rows",
    "conv_width": "kernel columns",
    "conv_in": "input channels of a convolution",
    "conv_out": "output channels of a convolution",
    "patch": "positions of a patch grid",
    "queries": "learned queries",
    "levels": "pyramid levels",
    "points": "sampling points of deformable attention (heads, levels, points, xy)",
    "norm": "scale and bias of a norm, and other vectors",
    "classes": "outputs of a small head",
    # activations
    "batch": "examples, or examples times prompts",
    "prompts": "prompts of one image",
    "frames": "frames of a video",
    "length": "positions of the token stream",
    "act_embed": "width of an activation",
    "act_heads": "heads of an activation",
    "act_mlp": "hidden width of an activation",
    "act_vocab": "logits over the vocabulary",
    "height": "rows of a feature map",
    "width": "columns of a feature map",
    "act_queries": "mask queries",
    "tokens": "flattened positions of feature maps",
}


def check_axis_names(names: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """Returns the names unchanged. Raises ValueError if one is neither None nor a logical axis."""
    unknown = [name for name in names if name is not None and name not in AXES]
    if unknown:
        raise ValueError(f"unknown logical axis {unknown}; add it to hyperseg_jax/axes.py or use one of {sorted(AXES)}")
    return names


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Applies a sharding constraint to an activation. Without an active mesh, returns x unchanged.

    names: the logical axis of each dimension. A dimension that is not divisible by its mesh axes is not sharded, with a
    warning. Raises ValueError if the batch dimension is not divisible.
    """
    if x.ndim != len(names):
        raise ValueError(f"constrain: an array of shape {x.shape} got {len(names)} axis names {names}; give {x.ndim}")
    check_axis_names(names)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, _spec(names, _indivisible_names(x.shape, names, mesh)))


def map_shards(function: Callable[..., Any], *names: tuple[str | None, ...], out: tuple[str | None, ...]) -> Callable[..., Any]:
    """Wraps a function in jax.shard_map, so that each device runs it on its own shard of the arguments, without communication
    and with its own number of loop iterations. Without a mesh, returns the function unchanged.

    names: the logical axes of each argument. out: the logical axes of the result. An axis that is not divisible by its mesh
    axes in some argument is not sharded, as in `constrain`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return function

    def mapped(*arguments: Any) -> Any:
        unsharded = set[str]()
        for argument, each in zip(arguments, names, strict=True):
            for leaf in jax.tree.leaves(argument):
                unsharded |= _indivisible_names(leaf.shape, each, mesh)
        specs = tuple(_spec(each, unsharded) for each in names)
        return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=_spec(out, unsharded), check_vma=False)(*arguments)

    return mapped


def _indivisible_names(shape: Sequence[int], names: Sequence[str | None], mesh: Any) -> set[str]:
    """Returns the names whose dimension its mesh axes do not divide, with a warning. Raises ValueError if one is the batch.

    names: of the first dimensions."""
    result = set[str]()
    for size, name, axis in zip(shape, names, to_mesh_axes(names), strict=False):
        parts = num_shards(axis, mesh)
        if name is None or size % parts == 0:
            continue
        if name == "batch":
            raise ValueError(f"a batch of {size} rows cannot be split over {parts} devices ({axis}); give a multiple")
        warnings.warn(f"{name} of {size} is not divisible by {parts} ({axis}) and is not sharded", stacklevel=3)
        result.add(name)
    return result


def _spec(names: Sequence[str | None], unsharded: set[str]) -> P:
    """Returns the PartitionSpec of these logical axes, without those in `unsharded`."""
    return P(*(None if name in unsharded else axis for name, axis in zip(names, to_mesh_axes(names), strict=True)))


def is_sharded(name: str) -> bool:
    """Returns whether a logical axis is sharded over several devices of the active mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and num_shards(to_mesh_axes((name,))[0], mesh) > 1


def platform() -> str:
    """Returns the platform ("tpu", "gpu", "cpu") of the active mesh, whose devices need not exist; without a mesh, or with an
    abstract mesh without devices, that of JAX."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else str(device.platform)


def to_mesh_axes(names: Sequence[str | None], rules: Sequence[tuple[str, Any]] | None = None) -> P:
    """Returns the PartitionSpec with the mesh axes of these logical axes, according to `rules`, by default the active ones
    (nn.logical_axis_rules)."""
    spec = nn.logical_to_mesh_axes(check_axis_names(tuple(names)), rules)
    return P() if spec is None else spec


def num_shards(axis: str | tuple[str, ...] | None, mesh: Any) -> int:
    """Returns the number of shards of a dimension that is sharded over these mesh axes."""
    return math.prod(mesh.shape[name] for name in ((axis,) if isinstance(axis, str) else axis or ()))


def named(init: nn.initializers.Initializer, *names: str | None) -> nn.initializers.Initializer:
    """Returns an initializer whose parameters carry logical axis names."""
    return nn.with_logical_partitioning(init, check_axis_names(names))
