"""Stacks of equal blocks: one compiled body (nn.scan), and what its backward pass keeps (nn.remat)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float

from hyperseg_jax.structs import DeviceArray

POLICIES = {
    "none": "keep every intermediate",
    "full": "keep only the inputs of a block, recompute the rest",
    "marked": "keep the inputs of a block and what save_activation names, recompute the rest",
    "dots": "keep the results of matrix products with weights, recompute the rest",
}
SAVED = "saved"


def save_activation(x: Any) -> Any:
    """Names arrays for the remat policy: they are saved, because they cost much to compute and little memory."""
    return jax.tree.map(lambda leaf: checkpoint_name(leaf, SAVED), x)


def remat_scan_body(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as the body of a scan; the backward pass keeps its inputs and what save_activation names."""
    return jax.checkpoint(function, policy=jax.checkpoint_policies.save_only_these_names(SAVED), prevent_cse=False)


def rematerialised(block: type[nn.Module], policy: str) -> type[nn.Module]:
    """The block under a named policy (POLICIES). Raises ValueError naming the choices."""
    if policy not in POLICIES:
        raise ValueError(f"remat = {policy!r}: use one of {', '.join(POLICIES)}")
    if policy == "none":
        return block
    policies = jax.checkpoint_policies
    save = {"full": None, "marked": policies.save_only_these_names(SAVED), "dots": policies.dots_with_no_batch_dims_saveable}
    return nn.remat(block, policy=save[policy], prevent_cse=False)  # a scan body needs no guard against common subexpressions


def stack(block: type[nn.Module], count: int, policy: str, in_axes: tuple[Any, ...] = ()) -> type[nn.Module]:
    """`count` blocks as one scanned block; its parameters gain a leading "layers" axis.

    block: __call__(carry, *inputs) -> (carry, output or None). in_axes: one entry for each input after the carry,
    nn.broadcast (the same for every layer) or 0 (one row a layer).
    """
    return nn.scan(
        rematerialised(block, policy),
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=in_axes,
        length=count,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )


def scan_layers(layers: Sequence[nn.Module], x: Float[DeviceArray, "*B"], *inputs: Any) -> Float[jax.Array, "*B"]:
    """Equal layers one after the other as one compiled body, where each holds its parameters under its own name.

    layers: bound, of the same fields, without random numbers; __call__(x, *inputs) -> x of the same shape and type.
    """
    if layers[0].is_initializing():
        for layer in layers:
            x = layer(x, *inputs)
        return x
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(layer.variables["params"] for layer in layers))
    one: Any = layers[0].clone(parent=None, name=None)
    body: Any = lambda x, each: (one.apply({"params": each}, x, *inputs), None)
    return jax.lax.scan(body, x, params)[0]
