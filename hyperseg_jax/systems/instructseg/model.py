"""The InstructSeg model, its parameters and its weight table (arXiv 2412.14006)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from hyperseg_jax import axes
from hyperseg_jax.connectors import object_perceiver, text_fusion
from hyperseg_jax.layers.conv import Conv, conv_table
from hyperseg_jax.layers.linear import Linear, linear_table
from hyperseg_jax.llms.splice import pick, pool, splice
from hyperseg_jax.structs import DeviceArray, Layout, MaskPrediction, Pyramid, Source
from hyperseg_jax.systems.psalm.trunk import ImageFeatures, Trunk, build_trunk, trunk_table
from hyperseg_jax.tables import Table

LINEARS = {
    "query_projector": "seg_query_projector",
    "detail_projector": "text_vmtf_projector",
    "global_projector": "origin_SEG_token_projector",
    "fused_projector": "SEG_token_projector",
}
"""Our names of the projections, and the published ones."""


@flax.struct.dataclass
class InstructSegOutput:
    """The outputs of InstructSeg.

    prediction: rows are images x prompts, B * K. hidden: hidden states of the language model. inside: intermediates by name,
    for golden tests; jit removes unused ones.
    """

    prediction: MaskPrediction
    hidden: Float[DeviceArray, "B L D"]
    inside: dict[str, Float[DeviceArray, "B ..."]] = flax.struct.field(default_factory=dict)


class InstructSeg(Trunk):
    """InstructSeg: a language model with a mask decoder, for an image or the key frame of a video.

    The object perceiver resamples each reference frame, together with the expression, to tokens for the language model. The
    text fusion lets the language model's hidden states of the expression attend to the image; its result scores the queries.

    query_std: the standard deviation of the initial mask queries; the release initializes them with zeros.
    """

    object_perceiver: object_perceiver.ObjectPerceiver
    text_fusion: text_fusion.TextFusion
    fusion_size: int = 1024
    query_std: float = 0.0

    def setup(self) -> None:
        width, p = self.mask_decoder.hidden_size, self.precision
        self.query_projector = Linear(width, ("embed", "mlp"), precision=p)
        self.detail_projector = Linear(self.fusion_size, ("embed", "mlp"), precision=p)
        self.global_projector = Linear(self.fusion_size, ("embed", "mlp"), precision=p)
        self.fused_projector = Linear(width, ("embed", "mlp"), precision=p)
        self.local_project = Conv(self.fusion_size, 1, precision=p)
        init = axes.named(nn.initializers.normal(self.query_std), "queries", "embed")
        self.queries = self.param("queries", init, (self.num_queries, self.llm.hidden_size), p.params)

    def __call__(
        self,
        images: Float[DeviceArray, "B H W 3"],
        clip_images: Float[DeviceArray, "B slots s s 3"],
        layout: Layout,
        *,
        deterministic: bool = True,
        **prompts: Any,
    ) -> InstructSegOutput:
        """Predicts masks. images: the queried images. clip_images: those and their reference frames. All are normalized.
        layout and prompts: see `predict_masks`."""
        features = self.encode_image(images, deterministic=deterministic)
        flat = self.image_tokens(rearrange(clip_images, "b slots h w c -> (b slots) h w c"))
        slots = rearrange(flat, "(b slots) n d -> b slots n d", b=images.shape[0])
        return self.predict_masks(features, slots, layout, deterministic=deterministic, **prompts)

    def predict_masks(
        self,
        image_features: ImageFeatures,
        slots: Float[DeviceArray, "B slots N D"],
        layout: Layout,
        *,
        key_slot: Int[DeviceArray, " B"],
        reference_slots: Int[DeviceArray, "B T"],
        expression: Int[DeviceArray, "B K E"],
        expression_valid: Bool[DeviceArray, "B K E"],
        deterministic: bool = True,
    ) -> InstructSegOutput:
        """Predicts masks from encoded images.

        slots: image tokens of the queried image and of its reference frames, in the slots key_slot and reference_slots; an
        image is its own reference. layout: [B, L], with K prompts per image. expression: token ids of the expression of each
        prompt.
        """
        prompts = expression.shape[1]
        image_tokens = jnp.take_along_axis(slots, key_slot[:, None, None, None], axis=1)[:, 0]
        references = jnp.take_along_axis(slots, reference_slots[:, :, None, None], axis=1)
        reference_tokens = self.reference_tokens(references, expression, expression_valid)
        banks = {
            Source.IMAGE: image_tokens,
            Source.QUERY: self.queries,
            Source.RESAMPLED: rearrange(reference_tokens, "b k t q d -> b k (t q) d"),
        }
        stream = splice(layout, self.embed_text(jnp.asarray(layout.text_ids)), banks)
        hidden = self.llm(stream, deterministic=deterministic)
        pooled = pool(hidden, layout, {Source.QUERY: self.num_queries, Source.EXPRESSION: 1}, num_prompts=prompts)
        details = pick(hidden, layout, Source.EXPRESSION, expression.shape[2], num_prompts=prompts)
        queries = self.query_projector(pooled[Source.QUERY])
        fused, inside = self.embed_expressions(image_features.pyramid, pooled[Source.EXPRESSION], details, expression_valid)
        prediction = self.mask_decoder(image_features.mask_features, image_features.levels, queries, {"expression": fused})
        if self.is_initializing():
            self.language_head(hidden)  # text only
        inside |= {
            "image_tokens": image_tokens,
            "reference_tokens": reference_tokens,
            "mask_features": image_features.mask_features,
            "stream": stream.embeddings,
            "queries": queries,
            "expression": fused,
        }
        return InstructSegOutput(prediction, hidden, inside)

    def reference_tokens(
        self,
        references: Float[DeviceArray, "B T N D"],
        expression: Int[DeviceArray, "B K E"],
        expression_valid: Bool[DeviceArray, "B K E"],
    ) -> Float[jax.Array, "B K T Q D"]:
        """Resamples each reference frame together with the word embeddings of each prompt's expression."""
        batch, frames, count, _ = references.shape
        text = repeat(self.llm.embed(expression), "b k e d -> (b k) t e d", t=frames)
        tokens = jnp.concatenate([repeat(references, "b t n d -> (b k) t n d", k=expression.shape[1]), text], axis=2)
        valid = rearrange(expression_valid, "b k e -> (b k) e")
        valid = jnp.concatenate([jnp.ones((valid.shape[0], count), bool), valid], axis=1)
        return rearrange(self.object_perceiver(tokens, valid=valid), "(b k) t q d -> b k t q d", b=batch)

    def embed_expressions(
        self,
        pyramid: Pyramid,
        mean: Float[DeviceArray, "B K 1 D"],
        details: Float[DeviceArray, "B K E D"],
        valid: Bool[DeviceArray, "B K E"],
    ) -> tuple[Float[jax.Array, "B K C"], dict[str, jax.Array]]:
        """Returns the expression embedding of each prompt for the decoder, and intermediates.

        mean, details: hidden states of the language model at the expression: their mean, and those of its tokens.
        """
        prompts = mean.shape[1]
        local = self.local_project(pyramid.levels[-1])
        features = repeat(local, "b h w c -> (b k) (h w) c", k=prompts)
        latents = rearrange(self.detail_projector(jnp.concatenate([mean, details], axis=2)), "b k l c -> (b k) l c")
        valid = jnp.concatenate([jnp.ones_like(valid[..., :1]), valid], axis=2)
        fused = self.text_fusion.fuse(latents, features, rearrange(valid, "b k l -> (b k) l"))
        fused = rearrange(fused, "(b k) c -> b k c", k=prompts)
        both = jnp.concatenate([self.global_projector(mean[:, :, 0]), fused], axis=-1)
        inside = {"local": local, "latents": latents, "fused": fused, "fusion": both}
        return self.fused_projector(both), inside


def build_model(config: ml_collections.ConfigDict) -> InstructSeg:
    """Builds the model of a config; config.model has one block of fields for each submodule."""
    m, trunk = config.model, build_trunk(config)
    p = trunk["precision"]
    return InstructSeg(
        **trunk,
        object_perceiver=object_perceiver.ObjectPerceiver(m.llm.hidden_size, **m.object_perceiver, precision=p),
        text_fusion=text_fusion.TextFusion(**m.text_fusion, precision=p),
        fusion_size=m.fusion_size,
        query_std=m.get("query_std", 0.0),
    )


def init_params(model: InstructSeg, config: ml_collections.ConfigDict, key: PRNGKeyArray) -> Any:
    """Returns randomly initialized parameters, boxed with their axis names."""
    zeros = lambda *shape: jnp.zeros((1, *shape), jnp.int32)
    row = zeros(8)
    layout = Layout(row, row, row, row, row, mask=row.astype(bool), prompt=row, position=row)
    side, clip_side = config.data.image_size, config.model.clip_encoder.image_size
    return model.init(
        key,
        jnp.zeros((1, side, side, 3)),
        jnp.zeros((1, 1, clip_side, clip_side, 3)),
        layout,
        key_slot=zeros(),
        reference_slots=zeros(1),
        expression=zeros(1, 2),
        expression_valid=zeros(1, 2).astype(bool),
    )["params"]


def weight_table(config: ml_collections.ConfigDict) -> Table:
    """Returns the weight table of the released state dict (specified by full_manifest of InstructSeg-3B)."""
    model = build_model(config)
    rows = trunk_table(model) + object_perceiver.table(model.object_perceiver).with_prefix("object_perceiver/")
    rows += text_fusion.table(model.text_fusion).with_prefix("text_fusion/", "vmtf_layers.")
    rows += conv_table("local_project", "local_project")
    return rows + Table.join(linear_table(ours, theirs) for ours, theirs in LINEARS.items())
