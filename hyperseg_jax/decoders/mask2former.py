"""The masked-attention decoder of Mask2Former (Cheng et al. 2022), scored against language embeddings (PSALM, HyperSeg)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Bool, Float, Shaped

from hyperseg_jax import axes
from hyperseg_jax.layers.attention import MultiHeadAttention, fused_attention_table
from hyperseg_jax.layers.linear import Linear, linear_table
from hyperseg_jax.layers.mlp import MLP, FeedForward, feed_forward_table, mlp_table
from hyperseg_jax.layers.norms import LayerNorm, norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.remat import apply_remat
from hyperseg_jax.ops.positions import sine_positions
from hyperseg_jax.ops.sampling import resize_bilinear
from hyperseg_jax.structs import DeviceArray, MaskPrediction
from hyperseg_jax.tables import Identity, Row, Table

SCORES = {"expression": "SEG_proj", "class": "CLASS_proj", "region": "REGION_proj"}  # score kind: published name
HEADS = {"box": "box_embed", "box_iou": "iou_head", "reid": "reid_embed_head"}
UNUSED = {"unused_query": "query_feat.weight", "unused_expression_query": "SEG_query_embed.weight"}
# Small initialization of the last layer before logits, so that initial logits are about 1 instead of 10.
SMALL = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")


class MaskedAttentionLayer(nn.Module):
    """Masked cross-attention to one feature map, self-attention of the queries, and a feed-forward block, each followed by a
    norm.

    Parts: cross_attention, cross_norm, self_attention, self_norm, mlp, mlp_norm.
    """

    num_heads: int
    feedforward_dim: int
    precision: Precision

    @nn.compact
    def __call__(
        self,
        queries: Float[DeviceArray, "B K Q C"],
        query_positions: Float[DeviceArray, "Q C"],
        keys: Float[DeviceArray, "B 1 hw C"],
        values: Float[DeviceArray, "B 1 hw C"],
        allowed: Bool[DeviceArray, "B K Q hw"],
    ) -> Float[jax.Array, "B K Q C"]:
        p = self.precision
        cross = MultiHeadAttention(self.num_heads, precision=p, name="cross_attention")
        attended = cross(queries + query_positions, keys, values, mask=allowed[:, :, None])
        x = LayerNorm(precision=p, name="cross_norm")(queries + attended)
        positioned = x + query_positions
        attended_queries = MultiHeadAttention(self.num_heads, precision=p, name="self_attention")(positioned, positioned, x)
        x = LayerNorm(precision=p, name="self_norm")(x + attended_queries)
        mlp = FeedForward(self.feedforward_dim, "relu", precision=p, name="mlp")
        x = LayerNorm(precision=p, name="mlp_norm")(x + mlp(x))
        return axes.constrain(x, "batch", "prompts", "act_queries", "act_embed")


class MaskedAttentionDecoder(nn.Module):
    """Predicts masks and scores from mask features, three feature maps, queries and embeddings, initially and after each layer.

    score_kinds: embeddings that queries can be scored against (SCORES). heads: further outputs (HEADS). keep_unused: keep the
    two unused tables of the published weights, so that these are imported and exported completely.
    Corresponds to MultiScaleMaskedTransformerDecoderForOPTPreTrain.
    Parts: query_embed, level_embed, layers_i, norm, mask, and by kind: expression, class, region, box, box_iou, reid.
    """

    hidden_size: int = 256
    mask_dim: int = 256
    num_heads: int = 8
    feedforward_dim: int = 2048
    num_layers: int = 9
    num_queries: int = 100
    num_levels: int = 3
    score_kinds: tuple[str, ...] = tuple(SCORES)
    heads: tuple[str, ...] = tuple(HEADS)
    keep_unused: bool = False
    remat: str = "none"
    precision: Precision = Precision()

    def setup(self) -> None:
        unknown = [kind for kind in (*self.score_kinds, *self.heads) if kind not in SCORES and kind not in HEADS]
        if unknown:
            raise ValueError(f"MaskedAttentionDecoder: unknown score_kinds or heads {unknown}; use {[*SCORES, *HEADS]}")
        p, width = self.precision, self.hidden_size
        init = nn.initializers.normal(1.0)
        self.query_embed = self.param("query_embed", axes.named(init, "queries", "embed"), (self.num_queries, width), p.params)
        self.level_embed = self.param("level_embed", axes.named(init, "levels", "embed"), (self.num_levels, width), p.params)
        if self.keep_unused:
            for extra, name in enumerate(UNUSED):
                self.param(name, axes.named(init, "queries", "embed"), (self.num_queries + extra, width), p.params)
        layer = apply_remat(MaskedAttentionLayer, self.remat)
        self.layers = [layer(self.num_heads, self.feedforward_dim, p) for _ in range(self.num_layers)]
        self.norm = LayerNorm(precision=p)
        self.mask = MLP((width, width, self.mask_dim), p, SMALL)
        self.score_projections = {kind: MLP((width, width), p, SMALL, name=kind) for kind in self.score_kinds}
        shapes = {"box": (width, width, 4), "reid": (width, width, width)}
        self.extra_heads = {
            kind: MLP(shapes[kind], p, name=kind) if kind in shapes else Linear(1, ("embed", "classes"), precision=p, name=kind)
            for kind in self.heads
        }

    def __call__(
        self,
        mask_features: Float[DeviceArray, "B h w {self.mask_dim}"],
        levels: tuple[Float[DeviceArray, "B _ _ C"], ...],
        queries: Float[DeviceArray, "B *K Q C"],
        embeddings: dict[str, Float[DeviceArray, "B ... C"]],
        attention_masks: tuple[Bool[DeviceArray, "_ Q _"], ...] | None = None,
    ) -> MaskPrediction:
        """Predicts masks and scores.

        levels: coarse to fine. queries: [B, K, Q, C], of K prompts per image.
        embeddings: any of "expression" [B, K, C], "class" [B, K, N, C], "region" [B, K, R, C]. If
        queries [B, Q, C] have no axis of prompts, embeddings have none either. The prediction has B * K rows; keys, values and
        mask features of an image are computed once for all its prompts.
        attention_masks: one bool [B * K, Q, h * w] per layer, True = blocked, that replaces the predicted masks.
        """
        if queries.ndim == 3:
            queries, embeddings = queries[:, None], {kind: x[:, None] for kind, x in embeddings.items()}
        unknown = [kind for kind in embeddings if kind not in self.score_kinds]
        if unknown:
            raise ValueError(f"embeddings {unknown} have no score in this decoder; its score_kinds are {self.score_kinds}")
        prompts = queries.shape[1]
        x, query_positions = self.precision.cast(queries, self.query_embed)
        maps = [self._keys_and_values(level, i) for i, level in enumerate(levels)]
        # Resizing is linear, so the resized features give the resized mask logits, once for all layers and prompts.
        small_features = [
            jax.lax.stop_gradient(resize_bilinear(mask_features.astype(jnp.float32), (level.shape[1], level.shape[2])))
            for level in levels
        ]
        stages: list[dict[str, Any]] = []
        for i, layer in enumerate(self.layers):
            stage, mask_embedding = self._predict(x, mask_features, embeddings)
            level = i % len(levels)
            if attention_masks is None:
                blocked = _blocked_positions(mask_embedding, small_features[level])
            else:
                blocked = rearrange(attention_masks[i], "(b prompts) q s -> b prompts q s", prompts=prompts)
            stages.append(
                stage | {"mask_embedding": _merge_prompt_axis(mask_embedding), "attention_mask": _merge_prompt_axis(blocked)}
            )
            allowed = ~blocked | blocked.all(-1, keepdims=True)  # a fully blocked query attends to all positions
            x = layer(x, query_positions, *maps[level], allowed)
        final, mask_embedding = self._predict(x, mask_features, embeddings)
        return self._build_prediction(x, mask_embedding, final, tuple(stages), mask_features)

    def _keys_and_values(
        self, level: Float[DeviceArray, "B h w C"], index: int
    ) -> tuple[Float[jax.Array, "B 1 h*w C"], Float[jax.Array, "B 1 h*w C"]]:
        values = rearrange(level, "b h w c -> b 1 (h w) c") + self.precision.cast(self.level_embed[index])
        positions = rearrange(sine_positions(*level.shape[1:]), "h w c -> (h w) c")
        return values + self.precision.cast(positions), values

    def _predict(
        self,
        x: Float[DeviceArray, "B K Q C"],
        mask_features: Float[DeviceArray, "B h w D"],
        embeddings: dict[str, Float[DeviceArray, "B K ... C"]],
    ) -> tuple[dict[str, Any], jax.Array]:
        """Returns (mask logits, scores and boxes of all rows, mask embedding)."""
        normalized = self.norm(x)
        mask_embedding = self.mask(normalized)
        mask_logits = self._product("bkqc,bhwc->bkqhw", mask_embedding, mask_features)
        projected = {
            kind: project(normalized)
            for kind, project in self.score_projections.items()
            if kind in embeddings or self.is_initializing()
        }
        scores = {
            kind: self._product("bkqc,bkc->bkq" if kind == "expression" else "bkqc,bknc->bkqn", projected[kind], embedding)
            for kind, embedding in embeddings.items()
        }
        heads, output = self.extra_heads, self.precision.output
        if "box_iou" in heads:
            scores["box_iou"] = heads["box_iou"](normalized)[..., 0].astype(output)
        stage = {
            "mask_logits": _merge_prompt_axis(mask_logits),
            "scores": {kind: _merge_prompt_axis(score) for kind, score in scores.items()},
        }
        if "box" in heads:
            stage["boxes"] = _merge_prompt_axis(jax.nn.sigmoid(heads["box"](normalized).astype(output)))
        return stage, mask_embedding

    def _product(self, expression: str, x: Float[DeviceArray, " ..."], y: Float[DeviceArray, " ..."]) -> jax.Array:
        """Returns logits, accumulated in the output dtype."""
        p = self.precision
        return jnp.einsum(expression, *p.cast(x, y), precision=p.matmul, preferred_element_type=p.output)

    def _build_prediction(
        self,
        x: jax.Array,
        mask_embedding: jax.Array,
        final: dict[str, Any],
        stages: tuple[dict[str, Any], ...],
        mask_features: Float[DeviceArray, "B h w D"],
    ) -> MaskPrediction:
        embeddings = {"query": _merge_prompt_axis(x), "mask": _merge_prompt_axis(mask_embedding)}
        if "reid" in self.extra_heads:
            embeddings["reid"] = _merge_prompt_axis(self.extra_heads["reid"](x))
        return MaskPrediction(final["mask_logits"], final["scores"], final.get("boxes"), embeddings, stages, mask_features)


def _merge_prompt_axis(x: Shaped[DeviceArray, "B K ..."]) -> Shaped[DeviceArray, "B*K ..."]:
    """Merges the axes of images and prompts to one axis of rows."""
    return rearrange(x, "b prompts ... -> (b prompts) ...")


def _blocked_positions(
    mask_embedding: Float[DeviceArray, "B K Q D"], features: Float[DeviceArray, "B h w D"]
) -> Bool[jax.Array, "B K Q h*w"]:
    """Returns where the mask logits at the size of a level are negative; always in float32.

    A logit of exactly zero is not blocked (the published rule is sigmoid < 0.5).
    """
    embedding = jax.lax.stop_gradient(mask_embedding).astype(jnp.float32)
    flat = rearrange(features, "b h w c -> b (h w) c")
    return jnp.einsum("bkqc,bsc->bkqs", embedding, flat, precision="highest") < 0


def table(decoder: MaskedAttentionDecoder) -> Table:
    """Returns the weight table for the published names ("transformer_cross_attention_layers.0.norm.weight", ...)."""
    rows = {"query_embed": "query_embed.weight", "level_embed": "level_embed.weight"}
    rows |= UNUSED if decoder.keep_unused else {}
    weight_rows = Table(Row(ours, theirs, Identity()) for ours, theirs in rows.items())
    for i in range(decoder.num_layers):
        cross, attention, mlp = (f"transformer_{part}_layers.{i}" for part in ("cross_attention", "self_attention", "ffn"))
        weight_rows += fused_attention_table(f"layers_{i}/cross_attention", f"{cross}.multihead_attn")
        weight_rows += fused_attention_table(f"layers_{i}/self_attention", f"{attention}.self_attn")
        weight_rows += feed_forward_table(f"layers_{i}/mlp", f"{mlp}.linear1", f"{mlp}.linear2")
        for path, name in (("cross_norm", cross), ("self_norm", attention), ("mlp_norm", mlp)):
            weight_rows += norm_table(f"layers_{i}/{path}", f"{name}.norm")
    weight_rows += norm_table("norm", "decoder_norm") + mlp_table("mask", "mask_embed", 3)
    weight_rows += Table.join(mlp_table(kind, SCORES[kind], 2) for kind in decoder.score_kinds)
    for kind in decoder.heads:
        weight_rows += linear_table(kind, HEADS[kind]) if kind == "box_iou" else mlp_table(kind, HEADS[kind], 3)
    return weight_rows
