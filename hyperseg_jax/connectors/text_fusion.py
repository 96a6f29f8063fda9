"""The vision-guided multi-granularity text fusion: text embeddings attend to an image (InstructSeg, arXiv 2412.14006).

The published code keeps the first latent only, the mean of the text: the latents of single tokens are neither attended to nor
part of the result, so they have no effect ("published"). As the paper describes it, the global and the detailed embeddings both
attend to the image and both reach the decoder ("multi_granularity").
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from hyperseg_jax.connectors.perceiver import PerceiverLayer, layer_table
from hyperseg_jax.layers.norms import LayerNorm, norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import Table

FORMS = ("published", "multi_granularity")


class TextFusion(nn.Module):
    """Latents of a text attend to image features. Parts: layers_i, norm.

    form: of FORMS; "published" keys are the image and the first latent.
    """

    num_layers: int = 3
    num_heads: int = 8
    head_dim: int = 128
    mlp_ratio: int = 2
    form: str = "published"
    precision: Precision = Precision()

    def setup(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form = {self.form!r}: use one of {', '.join(FORMS)}")
        keys = 1 if self.form == "published" else None
        self.layers = [
            PerceiverLayer(self.num_heads, self.head_dim, self.mlp_ratio, latent_keys=keys, precision=self.precision)
            for _ in range(self.num_layers)
        ]
        self.norm = LayerNorm(precision=self.precision)

    def __call__(
        self,
        latents: Float[DeviceArray, "B L C"],
        features: Float[DeviceArray, "B N C"],
        valid: Bool[DeviceArray, "B L"] | None = None,
    ) -> Float[jax.Array, "B L C"]:
        """Returns all latents after the final norm.

        latents: the global embedding first, then the details. features: of the image. valid: False for padding details.
        """
        latents, features = self.precision.cast(latents, features)
        mask = None
        if valid is not None and self.form != "published":
            image = jnp.ones((valid.shape[0], features.shape[1]), bool)
            mask = jnp.concatenate([image, valid], axis=1)[:, None, None]
        for layer in self.layers:
            latents = layer(latents, features, mask)
        return self.norm(latents)

    def fuse(
        self, latents: Float[DeviceArray, "B L C"], features: Float[DeviceArray, "B N C"], valid: Bool[DeviceArray, "B L"]
    ) -> Float[jax.Array, "B C"]:
        """Returns one embedding of a text: the global latent, in "multi_granularity" plus the mean of the details.

        Arguments as in __call__.
        """
        if self.form == "published":
            return self(latents[:, :1], features)[:, 0]  # the details have no effect
        fused = self(latents, features, valid)
        weights = valid[:, 1:, None].astype(fused.dtype)
        mean = (fused[:, 1:] * weights).sum(1) / jnp.maximum(weights.sum(1), 1)
        return fused[:, 0] + mean


def table(fusion: TextFusion) -> Table:
    """Returns the weight table for the published names in "vmtf_layers"."""
    rows = norm_table("norm", "norm")
    for i in range(fusion.num_layers):
        rows += layer_table(f"layers.{i}").with_prefix(f"layers_{i}/")
    return rows
