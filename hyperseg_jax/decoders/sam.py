"""SAM's mask decoder (Kirillov et al. 2023): prompt tokens and an image map -> masks and their estimated IoU."""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Bool, Float

from hyperseg_jax import axes
from hyperseg_jax.layers import two_way
from hyperseg_jax.layers.conv import UpConv, up_conv_table
from hyperseg_jax.layers.linear import linear_table
from hyperseg_jax.layers.mlp import MLP
from hyperseg_jax.layers.norms import LayerNorm, norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import Identity, Row, Table


@flax.struct.dataclass
class SamPrediction:
    """Masks of R regions. Mask 0 is the only answer to a clear prompt; the others are the candidates for an unclear one.

    mask_logits: at a quarter of the input's stride. iou: the estimated IoU of each mask. tokens, image: the outputs of the
    transformer (the IoU token, the mask tokens, then the prompt tokens). stages: the outputs of its layers, if collected.
    """

    mask_logits: Float[jax.Array, "B R M h4 w4"]
    iou: Float[jax.Array, "B R M"]
    tokens: Float[jax.Array, "B R T C"]
    image: Float[jax.Array, "B R N C"]
    stages: two_way.Stages | None = None


class SamDecoder(nn.Module):
    """A two-way transformer over prompt tokens and the image, and a mask for each mask token.

    num_candidates: masks beside the first. Corresponds to SamMaskDecoder. Parts: iou_token, mask_tokens, transformer,
    up0, up_norm, up1, mask_mlp_i, iou_mlp.
    """

    transformer: two_way.TwoWayTransformer
    channels: int = 256
    num_candidates: int = 3
    iou_hidden: int = 256
    iou_depth: int = 3
    epsilon: float = 1e-6
    precision: Precision = Precision()

    @nn.compact
    def __call__(
        self,
        image: Float[DeviceArray, "B h w C"],
        added: Float[DeviceArray, "B _ _ C"],
        image_positions: Float[DeviceArray, "h w C"],
        tokens: Float[DeviceArray, "B R T C"],
        valid: Bool[DeviceArray, "B R T"] | None = None,
    ) -> SamPrediction:
        """added: what the prompts add to the cells of the image (SamPromptEncoder). valid: False for absent tokens."""
        p, c, h = self.precision, self.channels, image.shape[1]
        b, r = tokens.shape[:2]
        init = axes.named(nn.initializers.normal(1.0), "queries", "embed")
        own = [self.param("iou_token", init, (1, c), p.params)]
        own.append(self.param("mask_tokens", init, (1 + self.num_candidates, c), p.params))
        own = p.cast(jnp.concatenate([jnp.asarray(tokens) for tokens in own]))
        all_tokens = jnp.concatenate([jnp.broadcast_to(own, (b, r, *own.shape)), tokens], axis=2)
        if valid is not None:
            valid = jnp.concatenate([jnp.ones((b, r, len(own)), bool), valid], axis=2)
        cells = p.cast(rearrange(image, "b h w c -> b 1 (h w) c")) + added
        places = rearrange(image_positions, "h w c -> (h w) c")
        all_tokens, cells, stages = self.transformer(all_tokens, cells, places, valid)

        x = UpConv(c // 4, precision=p, name="up0")(rearrange(cells, "b r (h w) c -> (b r) h w c", h=h))
        x = jax.nn.gelu(LayerNorm(self.epsilon, p, name="up_norm")(x), approximate=False)
        x = jax.nn.gelu(UpConv(c // 8, precision=p, name="up1")(x), approximate=False)
        x = rearrange(x, "(b r) h w c -> b r h w c", b=b)
        vectors = [
            MLP((c, c, c // 8), p, name=f"mask_mlp_{i}")(all_tokens[:, :, 1 + i]) for i in range(1 + self.num_candidates)
        ]
        masks = p.einsum("brmc,brhwc->brmhw", jnp.stack(vectors, axis=2), x)
        sizes = (self.iou_hidden,) * (self.iou_depth - 1) + (1 + self.num_candidates,)
        iou = MLP(sizes, p, name="iou_mlp")(all_tokens[:, :, 0])
        masks, iou = masks.astype(p.output), iou.astype(p.output)
        return SamPrediction(masks, iou, all_tokens, cells, stages)


def _mlp_table(path: str, name: str, depth: int) -> Table:
    names = ["proj_in", *(f"layers.{i}" for i in range(depth - 2)), "proj_out"]
    return Table.join(linear_table(f"{path}/layers_{i}", f"{name}.{theirs}") for i, theirs in enumerate(names))


def table(decoder: SamDecoder) -> Table:
    """Returns the weight table for SamMaskDecoder ("iou_token.weight", "transformer.layers.0.self_attn.q_proj.weight", ...)."""
    rows = Table([Row(name, f"{name}.weight", Identity()) for name in ("iou_token", "mask_tokens")])
    rows += two_way.table(decoder.transformer).with_prefix("transformer/", "transformer.")
    rows += up_conv_table("up0", "upscale_conv1") + up_conv_table("up1", "upscale_conv2")
    rows += norm_table("up_norm", "upscale_layer_norm")
    for i in range(1 + decoder.num_candidates):
        rows += _mlp_table(f"mask_mlp_{i}", f"output_hypernetworks_mlps.{i}", 3)
    return rows + _mlp_table("iou_mlp", "iou_prediction_head", decoder.iou_depth)
