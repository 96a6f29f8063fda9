"""The closed vocabulary of logical axis names, and constrain().

Parameters and block-border activations carry these names; a sharding preset (parallel/) maps them to mesh axes. Models never
mention a mesh axis.
"""

from __future__ import annotations

import flax.linen as nn
import jax

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
    "prompts": "prompts of one picture",
    "frames": "frames of a clip",
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


def check(names: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """Returns the names, or raises ValueError naming those outside the vocabulary."""
    unknown = [name for name in names if name is not None and name not in AXES]
    if unknown:
        raise ValueError(f"unknown logical axis {unknown}; add it to hyperseg_jax/axes.py or use one of {sorted(AXES)}")
    return names


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Marks the logical axes of an activation; without a mesh or rules it returns x as it is."""
    if x.ndim != len(names):
        raise ValueError(f"constrain: array of {x.ndim} dimensions {x.shape} got {len(names)} names {names}")
    return nn.with_logical_constraint(x, check(names))


def named(init: nn.initializers.Initializer, *names: str | None) -> nn.initializers.Initializer:
    """An initialiser whose parameter carries logical axis names."""
    return nn.with_logical_partitioning(init, check(names))
