"""Stacks of identical blocks: one compiled body (nn.scan), and the activations its backward pass saves (nn.remat)."""

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
    "none": "save all activations",
    "full": "save only the inputs of a block, recompute the rest",
    "marked": "save the inputs of a block and arrays marked by save_activation, recompute the rest",
    "dots": "save the results of matrix products with weights, recompute the rest",
}
SAVED = "saved"


def save_activation(x: Any) -> Any:
    """Marks arrays to be saved by the remat policy, because they are expensive to compute and small."""
    return jax.tree.map(lambda leaf: checkpoint_name(leaf, SAVED), x)


def remat_scan_body(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a scan body in remat; the backward pass saves its inputs and arrays marked by save_activation."""
    return jax.checkpoint(function, policy=jax.checkpoint_policies.save_only_these_names(SAVED), prevent_cse=False)


def apply_remat(block: type[nn.Module], policy: str) -> type[nn.Module]:
    """Wraps a block in a remat policy of POLICIES. Raises ValueError if the policy is unknown."""
    if policy not in POLICIES:
        raise ValueError(f"remat = {policy!r}: use one of {', '.join(POLICIES)}")
    if policy == "none":
        return block
    policies = jax.checkpoint_policies
    save = {"full": None, "marked": policies.save_only_these_names(SAVED), "dots": policies.dots_with_no_batch_dims_saveable}
    return nn.remat(block, policy=save[policy], prevent_cse=False)  # a scan body needs no CSE barrier


def stack_blocks(block: type[nn.Module], count: int, policy: str, in_axes: tuple[Any, ...] = ()) -> type[nn.Module]:
    """Returns `count` blocks as one scanned block; its parameters have a leading "layers" axis.

    block: __call__(carry, *inputs) -> (carry, output or None). in_axes: one entry for each input after the carry,
    nn.broadcast (the same for every layer) or 0 (one slice per layer).
    """
    return nn.scan(
        apply_remat(block, policy),
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=in_axes,
        length=count,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )


def scan_layers(layers: Sequence[nn.Module], x: Float[DeviceArray, "*B"], *inputs: Any) -> Float[jax.Array, "*B"]:
    """Applies identical layers in sequence as one compiled body; each layer has separate parameters under its own name.

    layers: bound, with the same fields and no RNGs; __call__(x, *inputs) -> x of the same shape and dtype.
    """
    if layers[0].is_initializing():
        for layer in layers:
            x = layer(x, *inputs)
        return x
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(layer.variables["params"] for layer in layers))
    unbound: Any = layers[0].clone(parent=None, name=None)
    body: Any = lambda x, layer_params: (unbound.apply({"params": layer_params}, x, *inputs), None)
    return jax.lax.scan(body, x, params)[0]
