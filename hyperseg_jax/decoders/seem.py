"""The decoder of SEEM (Zou et al. 2023): queries of several kinds attend to the image and to the tokens of prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Bool, Float, Int32

from hyperseg_jax import axes
from hyperseg_jax.decoders.marks import MarkedPoints, mean_features, sample_tokens
from hyperseg_jax.decoders.token_groups import AttentionTable, Group, attention_mask, join, split
from hyperseg_jax.layers.attention import MultiHeadAttention, fused_attention_table
from hyperseg_jax.layers.linear import Linear
from hyperseg_jax.layers.mlp import MLP, FeedForward, feed_forward_table, mlp_table
from hyperseg_jax.layers.norms import LayerNorm, norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.ops.attention import attend
from hyperseg_jax.ops.positions import sine_positions
from hyperseg_jax.ops.sampling import resize_bilinear
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import Identity, Row, Table

OBJECT, TEXT_QUERY, MARK_QUERY = "object", "text_query", "mark_query"
TEXT, MARK, EXAMPLE, MEMORY = "text", "mark", "example", "memory"
_V1: AttentionTable = {
    OBJECT: {OBJECT: "all"},
    TEXT_QUERY: {TEXT_QUERY: "all", TEXT: "valid"},
    MARK_QUERY: {MARK_QUERY: "prompt", MARK: "prompt", MEMORY: "prompt"},
    TEXT: {TEXT_QUERY: "all", TEXT: "valid"},
    MARK: {MARK: "prompt"},
    MEMORY: {MEMORY: "prompt"},
}
TABLES: dict[str, AttentionTable] = {
    # each kind of prompt has its own copies of the object queries
    "v1": _V1,
    "v1_text_with_marks": {**_V1, TEXT_QUERY: {**_V1[TEXT_QUERY], MARK: "valid"}},
    "v1_marks_with_text": {**_V1, MARK_QUERY: {**_V1[MARK_QUERY], TEXT: "valid"}},
    # one visual prompt per row of the batch
    "v0": {
        OBJECT: {OBJECT: "all"},
        TEXT_QUERY: {TEXT_QUERY: "all", TEXT: "valid"},
        MARK_QUERY: {MARK_QUERY: "all", MARK: "valid", MEMORY: "valid"},
        TEXT: {TEXT_QUERY: "all", TEXT: "valid"},
        MARK: {MARK: "valid"},
        MEMORY: {MEMORY: "valid"},
    },
    # one set of queries, which attends to all prompts and has no memory
    "demo": {
        OBJECT: {OBJECT: "all", TEXT: "valid", MARK: "valid", EXAMPLE: "valid"},
        TEXT: {OBJECT: "all", TEXT: "valid"},
        MARK: {MARK: "valid"},
        EXAMPLE: {EXAMPLE: "valid"},
    },
}
"""Which groups attend to which, by variant. All variants have the same weights."""


@flax.struct.dataclass
class SeemPrompts:
    """The prompts of a batch; absent kinds are None.

    text, text_valid: tokens of all phrases of an image. marked: marked pixels, for the mean features and for each level.
    query_index: the object query that each copy is of, as many for each visual prompt; None: all queries for one prompt.
    example, example_valid: tokens of another image, by level. previous: mask logits of the last round, at the stride of the
    mask features; variants without memory ignore them. slots: the prompt that each memory token belongs to, by layer, -1 for
    none: then no query attends to it.
    """

    text: Float[DeviceArray, "B T C"] | None = None
    text_valid: Bool[DeviceArray, "B T"] | None = None
    marked: tuple[MarkedPoints, ...] | None = None
    query_index: Int32[DeviceArray, " NQ"] | None = None
    example: tuple[Float[DeviceArray, "B E C"], ...] | None = None
    example_valid: Bool[DeviceArray, "B E"] | None = None
    previous: Float[DeviceArray, "B N h w"] | None = None
    slots: Int32[DeviceArray, "layers *B M"] | None = None
    num_prompts: int = flax.struct.field(pytree_node=False, default=1)


@flax.struct.dataclass
class SeemStage:
    """The predictions of one stage for all queries: mask logits at the stride of the mask features, and the embeddings of
    classes and masks. hidden: the queries and memory tokens. attention_mask: True where the next layer's cross-attention is
    blocked, before rows that are blocked everywhere are opened. next_input, self_mask: sequence and mask of its
    self-attention."""

    hidden: Float[jax.Array, "B Q C"]
    mask_logits: Float[jax.Array, "B Q h w"]
    mask_embedding: Float[jax.Array, "B Q D"]
    class_embedding: Float[jax.Array, "B Q E"]
    attention_mask: Bool[jax.Array, "B Q hw"] | None = None
    next_input: Float[jax.Array, "B S C"] | None = None
    self_mask: Bool[jax.Array, "B S S"] | None = None


@flax.struct.dataclass
class SeemPrediction:
    """stages: before the first layer and after each; the last one is the result. groups: (name, start, stop) of the queries in
    a stage. marked_mean, excluded_mean: mean features of the marked and excluded pixels of each prompt, or None."""

    stages: tuple[SeemStage, ...]
    marked_mean: Float[jax.Array, "B N D"] | None
    excluded_mean: Float[jax.Array, "B N D"] | None
    groups: tuple[tuple[str, int, int], ...] = flax.struct.field(pytree_node=False, default=())

    def part(self, name: str, stage: int = -1) -> SeemStage:
        """Returns the predictions of one group of queries."""
        start, stop = next((start, stop) for group, start, stop in self.groups if group == name)
        fields = ("hidden", "mask_logits", "mask_embedding", "class_embedding")
        chosen = self.stages[stage]
        return SeemStage(*(getattr(chosen, field)[:, start:stop] for field in fields))


class TokenAttention(nn.Module):
    """Self-attention; a position that may attend to nothing gets the bias of the output. Parts: query, key, value, out."""

    num_heads: int
    precision: Precision

    @nn.compact
    def __call__(
        self, placed: Float[DeviceArray, "B S C"], values: Float[DeviceArray, "B S C"], allowed: Bool[DeviceArray, "B S S"]
    ) -> Float[jax.Array, "B S C"]:
        p, width = self.precision, values.shape[-1]
        inputs = {"query": placed, "key": placed, "value": values}
        projected = (Linear(width, ("embed", "heads"), precision=p, name=name)(x) for name, x in inputs.items())
        query, key, value = (rearrange(y, "b s (heads d) -> b s heads d", heads=self.num_heads) for y in projected)
        attended = attend(query, key, value, mask=allowed[:, None], precision=p.matmul)
        attended = jnp.where(allowed.any(-1)[..., None, None], attended, 0)
        attended = rearrange(attended, "b s heads d -> b s (heads d)")
        return Linear(width, ("heads", "embed"), precision=p, name="out")(attended)


class SeemLayer(nn.Module):
    """Masked cross-attention of queries and memory tokens to one map, self-attention of the whole sequence, and a feed-forward
    block, each followed by a norm. Parts: cross_attention, cross_norm, self_attention, self_norm, mlp, mlp_norm."""

    num_heads: int
    feedforward_dim: int
    precision: Precision

    def setup(self) -> None:
        p = self.precision
        self.cross_attention = MultiHeadAttention(self.num_heads, precision=p)
        self.self_attention = TokenAttention(self.num_heads, p)
        self.mlp = FeedForward(self.feedforward_dim, "relu", precision=p)
        self.cross_norm, self.self_norm, self.mlp_norm = (LayerNorm(precision=p) for _ in range(3))

    def cross(
        self,
        crossing: Sequence[Group],
        keys: Float[DeviceArray, "B hw C"],
        values: Float[DeviceArray, "B hw C"],
        allowed: Bool[DeviceArray, "B Q hw"],
    ) -> list[Group]:
        """Attends from these groups to a feature map."""
        content, positions = join(crossing)
        attended = self.cross_attention(content + positions, keys, values, allowed[:, None])
        return split(self.cross_norm(content + attended), crossing)

    def attend_to_each_other(self, groups: Sequence[Group], allowed: Bool[DeviceArray, "B S S"]) -> list[Group]:
        """Attends between all groups, and applies the feed-forward block."""
        content, positions = join(groups)
        x = self.self_norm(content + self.self_attention(content + positions, content, allowed))
        x = self.mlp_norm(x + self.mlp(x))
        return split(axes.constrain(x, "batch", "tokens", "act_embed"), groups)


class SeemDecoder(nn.Module):
    """Predicts masks and embeddings of queries, initially and after each layer; defaults are those of all released models.

    class_dim: size of the class vectors. variant: a key of TABLES. empty_mean: the mean feature of a prompt without pixels.
    Corresponds to SEEMDecoder of the seem_v0, seem_v1 and seem_demo code.
    Parts: query_features, query_positions, memory_features, memory_positions, level_embed, layers_i, norm, mask, class_matrix,
    mark_matrix_i, mark_signs.
    """

    hidden_size: int = 512
    mask_dim: int = 512
    class_dim: int = 512
    num_heads: int = 8
    feedforward_dim: int = 2048
    num_layers: int = 9
    num_queries: int = 101
    num_memories: int = 32
    num_levels: int = 3
    variant: str = "v1"
    precision: Precision = Precision()

    def setup(self) -> None:
        if self.variant not in TABLES:
            raise ValueError(f"SeemDecoder: variant = {self.variant!r}; use one of {', '.join(TABLES)}")
        p, width = self.precision, self.hidden_size

        def embedding(name: str, rows: int, axis: str | None) -> jax.Array:
            init = axes.named(nn.initializers.normal(1.0), axis, "embed")
            return p.cast(self.param(name, init, (rows, width), p.params))

        self.query_features = embedding("query_features", self.num_queries, "queries")
        self.query_positions = embedding("query_positions", self.num_queries, "queries")
        self.memory_features = embedding("memory_features", self.num_memories, "queries")
        self.memory_positions = embedding("memory_positions", self.num_memories, "queries")
        self.level_embed = embedding("level_embed", self.num_levels, "levels")
        init = axes.named(nn.initializers.truncated_normal(0.02), "embed", "mlp")
        self.class_matrix = self.param("class_matrix", init, (width, self.class_dim), p.params)
        self.layers = [SeemLayer(self.num_heads, self.feedforward_dim, p) for _ in range(self.num_layers)]
        self.norm = LayerNorm(precision=p)
        self.mask = MLP((width, width, self.mask_dim), p)
        self.mark_signs = embedding("mark_signs", 2, None)
        matrix = axes.named(nn.initializers.xavier_uniform(), "embed", "mlp")
        self.mark_matrices = [self.param(f"mark_matrix_{i}", matrix, (width, width), p.params) for i in range(self.num_levels)]

    def __call__(
        self,
        mask_features: Float[DeviceArray, "B h w {self.mask_dim}"],
        levels: tuple[Float[DeviceArray, "B _ _ C"], ...],
        prompts: SeemPrompts,
        *,
        objects: bool = True,
        variant: str | None = None,
        attention_masks: tuple[Bool[DeviceArray, "B Q _"], ...] | None = None,
    ) -> SeemPrediction:
        """Predicts masks and embeddings.

        levels: coarse to fine. objects: whether the queries without a prompt are run; in v0 and v1 the others do not depend on
        them. variant: that of the decoder by default. attention_masks: the cross-attention mask of each layer (True =
        blocked) instead of the predicted ones.
        """
        variant = variant or self.variant
        table = TABLES[variant]
        if MEMORY not in table:
            prompts = prompts.replace(previous=None)  # type: ignore[attr-defined]
        levels = self._embed_levels(levels)
        keys = tuple(rearrange(level + self._sine(level), "b h w c -> b (h w) c") for level in levels)
        values = tuple(rearrange(level, "b h w c -> b (h w) c") for level in levels)
        marks = None if prompts.marked is None else self._sample(levels, prompts.marked)
        mean = lambda sign: None if prompts.marked is None else self._mean(mask_features, prompts, sign, variant)
        crossing, tokens = self._queries(mask_features.shape[0], prompts, objects, variant), self._tokens(prompts)
        stages = []
        for i, layer in enumerate(self.layers):
            stage, level = self._predict(crossing, mask_features), i % len(levels)
            size = levels[level].shape[1], levels[level].shape[2]
            crossing = self._assign_memory(crossing, prompts, i)
            blocked = self._blocked(stage, prompts, i, size) if attention_masks is None else attention_masks[i]
            allowed = ~blocked | blocked.all(-1, keepdims=True)
            crossing = layer.cross(crossing, keys[level], values[level], allowed)
            groups = self._order(crossing, [*tokens, *self._level_tokens(prompts, marks, level)])
            mask = attention_mask(groups, table)
            inside = {"attention_mask": blocked, "next_input": join(groups)[0], "self_mask": ~mask}
            stages.append(dataclasses.replace(stage, **inside))
            updated = {group.name: group for group in layer.attend_to_each_other(groups, mask)}
            crossing = [updated[group.name] for group in crossing]
            tokens = [updated[group.name] for group in tokens]
        stages.append(self._predict(crossing, mask_features))
        bounds, start = [], 0
        for group in crossing:
            bounds.append((group.name, start, start + group.length))
            start += group.length
        return SeemPrediction(tuple(stages), mean(True), mean(False), tuple(bounds))

    def encode_example(
        self,
        mask_features: Float[DeviceArray, "B h w {self.mask_dim}"],
        levels: tuple[Float[DeviceArray, "B _ _ C"], ...],
        prompts: SeemPrompts,
    ) -> tuple[Float[jax.Array, "B N D"], tuple[Float[jax.Array, "B P C"], ...]]:
        """Returns the mean feature and the tokens by level of the marked pixels of an image, to find them in other images."""
        assert prompts.marked is not None
        tokens = self._sample(self._embed_levels(levels), prompts.marked)
        return self._mean(mask_features, prompts, True, self.variant), tokens

    def _sample(
        self, levels: tuple[Float[DeviceArray, "B _ _ C"], ...], marked: tuple[MarkedPoints, ...]
    ) -> tuple[Float[jax.Array, "B P C"], ...]:
        inputs = zip(levels, marked[1:], self.mark_matrices, strict=True)
        return tuple(sample_tokens(*one, self.mark_signs, self.precision) for one in inputs)

    def _embed_levels(self, levels: tuple[Float[DeviceArray, "B _ _ C"], ...]) -> tuple[Float[jax.Array, "B _ _ C"], ...]:
        return tuple(level + self.level_embed[i] for i, level in enumerate(levels))

    def _sine(self, level: Float[DeviceArray, "B h w C"]) -> Float[jax.Array, "h w C"]:
        return self.precision.cast(jnp.asarray(sine_positions(level.shape[1], level.shape[2], level.shape[3])))

    def _mean(
        self, features: Float[DeviceArray, "B h w D"], prompts: SeemPrompts, positive: bool, variant: str
    ) -> Float[jax.Array, "B N D"]:
        assert prompts.marked is not None
        empty = -1.0 if variant.startswith("v1") else 0.0
        return mean_features(features, prompts.marked[0], prompts.num_prompts, positive=positive, empty=empty)

    def _queries(self, batch: int, prompts: SeemPrompts, objects: bool, variant: str) -> list[Group]:
        """Returns the groups that attend to the image: copies of the object queries for each kind of prompt, and the memory."""
        rows = lambda table: jnp.broadcast_to(table, (batch, *table.shape))
        everything = rows(self.query_features), rows(self.query_positions)
        if variant == "demo":
            return [Group(OBJECT, *everything)]
        groups = [Group(OBJECT, *everything)] if objects else []
        if prompts.text is not None:
            groups.append(Group(TEXT_QUERY, *everything))
        if prompts.marked is not None:
            index = jnp.arange(self.num_queries) if prompts.query_index is None else prompts.query_index
            number = jnp.repeat(jnp.arange(prompts.num_prompts), len(index) // prompts.num_prompts)
            content, positions = (rows(table[index]) for table in (self.query_features, self.query_positions))
            groups.append(Group(MARK_QUERY, content, positions, prompt=rows(number)))
        if prompts.previous is not None:
            groups.append(Group(MEMORY, rows(self.memory_features), rows(self.memory_positions)))
        return groups

    def _tokens(self, prompts: SeemPrompts) -> list[Group]:
        """Returns the groups of tokens that are updated by each layer."""
        if prompts.text is None:
            return []
        text = self.precision.cast(prompts.text)
        return [Group(TEXT, text, jax.lax.stop_gradient(text), prompts.text_valid)]

    def _level_tokens(
        self, prompts: SeemPrompts, marks: tuple[Float[jax.Array, "B P C"], ...] | None, level: int
    ) -> list[Group]:
        """Returns the groups of tokens that are sampled anew for each level."""
        groups = []
        if marks is not None:
            assert prompts.marked is not None
            number = prompts.marked[1 + level].prompt
            groups.append(Group(MARK, marks[level], jax.lax.stop_gradient(marks[level]), number >= 0, number))
        if prompts.example is not None:
            example = self.precision.cast(prompts.example[level])
            groups.append(Group(EXAMPLE, example, jax.lax.stop_gradient(example), prompts.example_valid))
        return groups

    def _order(self, crossing: list[Group], tokens: list[Group]) -> list[Group]:
        """Returns all groups in the published order: queries, tokens, memory."""
        memory = [group for group in crossing if group.name == MEMORY]
        return [*(group for group in crossing if group.name != MEMORY), *tokens, *memory]

    def _assign_memory(self, crossing: list[Group], prompts: SeemPrompts, layer: int) -> list[Group]:
        """Returns the groups with the prompt of each memory token in this layer."""
        if prompts.previous is None:
            return crossing
        of_rows = lambda group: jnp.broadcast_to(self._slots(prompts, layer), (group.content.shape[0], group.length))
        assign = lambda group: dataclasses.replace(group, prompt=of_rows(group), valid=of_rows(group) >= 0)
        return [assign(group) if group.name == MEMORY else group for group in crossing]

    def _slots(self, prompts: SeemPrompts, layer: int) -> Int32[jax.Array, "*B M"]:
        return jnp.zeros(self.num_memories, jnp.int32) if prompts.slots is None else jnp.asarray(prompts.slots)[layer]

    def _blocked(self, stage: SeemStage, prompts: SeemPrompts, layer: int, size: tuple[int, int]) -> Bool[jax.Array, "B Q hw"]:
        """Returns the cells that a layer's cross-attention ignores: those outside of the predicted masks, and for the memory,
        outside of the masks of the last round."""
        logits = jax.lax.stop_gradient(stage.mask_logits).astype(jnp.float32)
        if prompts.previous is not None:
            queries = logits.shape[1] - self.num_memories
            slots = jnp.broadcast_to(self._slots(prompts, layer), (len(logits), self.num_memories))
            remembered = jnp.take_along_axis(prompts.previous.astype(jnp.float32), slots[:, :, None, None], axis=1)
            logits = jnp.concatenate([logits[:, :queries], remembered], axis=1)
        resized = resize_bilinear(rearrange(logits, "b q h w -> b h w q"), size)
        return rearrange(resized, "b h w q -> b q (h w)") < 0

    def _predict(self, crossing: list[Group], features: Float[DeviceArray, "B h w D"]) -> SeemStage:
        p, hidden = self.precision, join(crossing)[0]
        normed = self.norm(hidden)
        embedding = self.mask(normed)
        logits = p.einsum("bqd,bhwd->bqhw", embedding, features)
        logits = axes.constrain(logits, "batch", "act_queries", "height", "width")
        return SeemStage(hidden, logits, embedding, p.product(normed, self.class_matrix))


def table(decoder: SeemDecoder) -> Table:
    """Returns the weight table for the names of SEEM's predictor ("query_feat.weight", "class_embed", ...)."""
    tables = {"query_features": "query_feat", "query_positions": "query_embed", "level_embed": "level_embed"}
    tables |= {"memory_features": "spatial_featured", "memory_positions": "spatial_embed", "mark_signs": "pn_indicator"}
    rows = Table(Row(path, f"{name}.weight", Identity()) for path, name in tables.items())
    rows += Table([Row("class_matrix", "class_embed", Identity())]) + norm_table("norm", "decoder_norm")
    rows += mlp_table("mask", "mask_embed", 3)
    rows += Table(
        Row(f"mark_matrix_{i}", f"mask_sptial_embed.{i}", Identity()) for i in range(decoder.num_levels)
    )  # their spelling
    for i in range(decoder.num_layers):
        cross, own = f"transformer_cross_attention_layers.{i}", f"transformer_self_attention_layers.{i}"
        layer = fused_attention_table("cross_attention", f"{cross}.multihead_attn") + norm_table("cross_norm", f"{cross}.norm")
        layer += fused_attention_table("self_attention", f"{own}.self_attn") + norm_table("self_norm", f"{own}.norm")
        name = f"transformer_ffn_layers.{i}"
        layer += feed_forward_table("mlp", f"{name}.linear1", f"{name}.linear2") + norm_table("mlp_norm", f"{name}.norm")
        rows += layer.with_prefix(f"layers_{i}/")
    return rows
