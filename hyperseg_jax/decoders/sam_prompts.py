"""SAM's prompt encoder (Kirillov et al. 2023): points, box corners and a mask as tokens and a map."""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float, Float32, Int32

from hyperseg_jax import axes
from hyperseg_jax.layers.conv import Conv, conv_table
from hyperseg_jax.layers.norms import LayerNorm, norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import Copies, Row, Squeeze, Stack, Table

NEGATIVE, POSITIVE, TOP_LEFT, BOTTOM_RIGHT = 0, 1, 2, 3
"""Kinds of marks with a learned vector: points, and the corners of a box."""
NO_POINT, ZEROS, ABSENT = -1, -10, -2
"""Kinds of marks without a place. NO_POINT has a vector of its own; SAM appends it to points that come without a box. ZEROS
has the vector 0. ABSENT pads to a static number; no token attends to it."""


@flax.struct.dataclass
class SamPrompts:
    """Prompts of R regions of an image.

    places: (x, y) of each mark in pixels of the square input; a mark is a point or a corner of a box. kinds: see NEGATIVE and
    the following. masks: mask logits with four cells per cell of the image map, of each region or of all; has_mask: where they
    are given.
    """

    places: Float32[DeviceArray, "B R M 2"]
    kinds: Int32[DeviceArray, "B R M"]
    masks: Float[DeviceArray, "B _ h4 w4"] | None = None
    has_mask: Bool[DeviceArray, "B _"] | None = None


class FourierPositions(nn.Module):
    """Sines and cosines of places times a fixed random matrix. Corresponds to SamPositionalEmbedding. Parts: matrix."""

    channels: int = 256
    precision: Precision = Precision()

    def setup(self) -> None:
        init = axes.named(nn.initializers.normal(1.0), None, None)
        self.matrix = self.param("matrix", init, (2, self.channels // 2), self.precision.params)

    def __call__(self, places: Float32[DeviceArray, "*B 2"]) -> Float32[jax.Array, "*B {self.channels}"]:
        """places: (x, y) in 0..1."""
        matrix = jnp.asarray(self.matrix, jnp.float32)
        angles = 2 * np.pi * jnp.matmul(2 * jnp.asarray(places, jnp.float32) - 1, matrix, precision="highest")
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)

    def grid(self, cells: int) -> Float32[jax.Array, "{cells} {cells} {self.channels}"]:
        """Returns the positions of the centers of a square map of cells."""
        centers = (jnp.arange(cells, dtype=jnp.float32) + 0.5) / cells
        x, y = jnp.meshgrid(centers, centers)
        return self(jnp.stack([x, y], axis=-1))


class SamPromptEncoder(nn.Module):
    """Encodes marks as tokens, and a mask as a map that is added to the image.

    Corresponds to SamPromptEncoder. Parts: positions, marks, no_point, no_mask, and the mask's conv0, norm0, conv1, norm1,
    conv2.
    """

    image_size: int = 1024
    channels: int = 256
    mask_channels: int = 16
    epsilon: float = 1e-6
    precision: Precision = Precision()

    def setup(self) -> None:
        p, c = self.precision, self.channels
        self.positions = FourierPositions(c, p)
        init = nn.initializers.normal(1.0)
        self.marks = self.param("marks", axes.named(init, None, "embed"), (4, c), p.params)
        self.no_point = self.param("no_point", axes.named(init, "embed"), (c,), p.params)
        self.no_mask = self.param("no_mask", axes.named(init, "embed"), (c,), p.params)
        self.conv0 = Conv(self.mask_channels // 4, 2, 2, precision=p)
        self.norm0 = LayerNorm(self.epsilon, p)
        self.conv1 = Conv(self.mask_channels, 2, 2, precision=p)
        self.norm1 = LayerNorm(self.epsilon, p)
        self.conv2 = Conv(c, 1, precision=p)

    def __call__(
        self, prompts: SamPrompts
    ) -> tuple[Float[jax.Array, "B R M {self.channels}"], Float[jax.Array, "B _ _ {self.channels}"]]:
        """Returns the tokens of the marks, and what is added to each cell of the image: [B, 1, 1, C] without masks, else
        [B, R or 1, h * w, C]."""
        return self.encode_marks(prompts), self.encode_masks(prompts)

    def encode_marks(self, prompts: SamPrompts) -> Float[jax.Array, "B R M {self.channels}"]:
        """Returns the tokens of the marks; places are those of pixel centers."""
        kinds = prompts.kinds[..., None]
        tokens = self.positions((jnp.asarray(prompts.places, jnp.float32) + 0.5) / self.image_size)
        tokens = tokens + jnp.asarray(self.marks, jnp.float32)[jnp.clip(prompts.kinds, 0, 3)]
        tokens = jnp.where(kinds == NO_POINT, jnp.asarray(self.no_point, jnp.float32), tokens)
        return self.precision.cast(jnp.where((kinds == ZEROS) | (kinds == ABSENT), 0, tokens))

    def encode_masks(self, prompts: SamPrompts) -> Float[jax.Array, "B _ _ {self.channels}"]:
        """Returns what is added to the cells of the image."""
        no_mask = jnp.broadcast_to(self.precision.cast(self.no_mask), (len(prompts.kinds), 1, 1, self.channels))
        if self.is_initializing() and prompts.masks is None:
            self._encode(jnp.zeros((1, 4, 4, 1)))
        if prompts.masks is None:
            return no_mask
        b, masks = prompts.masks.shape[:2]
        x = self._encode(rearrange(prompts.masks, "b r h w -> (b r) h w 1"))
        x = rearrange(x, "(b r) h w c -> b r (h w) c", b=b, r=masks)
        return x if prompts.has_mask is None else jnp.where(prompts.has_mask[..., None, None], x, no_mask)

    def _encode(self, masks: Float[DeviceArray, "N h4 w4 1"]) -> Float[jax.Array, "N h w {self.channels}"]:
        x = jax.nn.gelu(self.norm0(self.conv0(masks)), approximate=False)
        x = jax.nn.gelu(self.norm1(self.conv1(x)), approximate=False)
        return self.conv2(x)


def table() -> Table:
    """Returns the weight table for SamModel's prompt encoder; the matrix of the positions is stored twice
    ("prompt_encoder.not_a_point_embed.weight", "shared_image_embedding.positional_embedding", ...)."""
    copies = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")
    marks = tuple(f"point_embed.{i}.weight" for i in range(4))
    rows = Table([Row("marks", marks, Stack(Squeeze(), 4)), Row("no_point", "not_a_point_embed.weight", Squeeze())])
    rows += Table([Row("no_mask", "no_mask_embed.weight", Squeeze())])
    rows += Table.join(conv_table(f"conv{i}", f"mask_embed.conv{i + 1}") for i in range(3))
    rows += Table.join(norm_table(f"norm{i}", f"mask_embed.layer_norm{i + 1}") for i in range(2))
    return rows.with_prefix(name="prompt_encoder.") + Table([Row("positions/matrix", copies, Copies(copies))])
