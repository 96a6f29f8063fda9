"""Visual prompts as tokens: image features sampled at the marked pixels (SEEM, Zou et al. 2023)."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32, Int32

from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.ops.sampling import grid_sample
from hyperseg_jax.structs import DeviceArray


@flax.struct.dataclass
class MarkedPoints:
    """Pixels that are marked by the visual prompts of an image.

    points: (x, y) in 0..1, from the center of the first cell to that of the last. prompt: number of the prompt, -1 for
    padding. positive: False where the pixel is excluded.
    """

    points: Float32[DeviceArray, "B P 2"]
    prompt: Int32[DeviceArray, "B P"]
    positive: Bool[DeviceArray, "B P"]


def sample_tokens(
    level: Float[DeviceArray, "B h w C"],
    marked: MarkedPoints,
    matrix: Float[DeviceArray, "C C"],
    signs: Float[DeviceArray, "2 C"],
    precision: Precision,
) -> Float[jax.Array, "B P C"]:
    """Returns a token for each point: its feature times the matrix of the level, plus the vector of its sign (the first for
    marked pixels, the second for excluded ones)."""
    sampled = precision.product(grid_sample(level, marked.points, align_corners=True), matrix)
    return sampled + precision.cast(signs)[jnp.where(marked.positive, 0, 1)]


def mean_features(
    features: Float[DeviceArray, "B h w C"], marked: MarkedPoints, num_prompts: int, *, positive: bool, empty: float
) -> Float[jax.Array, "B {num_prompts} C"]:
    """Returns the mean feature of the marked (or excluded) pixels of each prompt, and `empty` for prompts without any."""
    sampled = grid_sample(features, marked.points, align_corners=True).astype(jnp.float32)
    belongs = (marked.prompt[..., None] == jnp.arange(num_prompts)) & (marked.positive == positive)[..., None]
    weights = belongs.astype(jnp.float32)
    count = weights.sum(1)[..., None]
    total = jnp.einsum("bpn,bpc->bnc", weights, sampled, precision="highest")
    return jnp.where(count > 0, total / jnp.maximum(count, 1), empty).astype(features.dtype)
