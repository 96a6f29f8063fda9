"""The HyperSeg model, its parameters and its weight table."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from hyperseg_jax import axes
from hyperseg_jax.connectors import fine_grained_perceiver
from hyperseg_jax.connectors.region_sampler import RegionSampler
from hyperseg_jax.layers.linear import Linear, linear_table
from hyperseg_jax.llms.cache import KeyValues
from hyperseg_jax.llms.splice import pool, splice
from hyperseg_jax.structs import DeviceArray, Layout, MaskPrediction, Pyramid, Source, TokenStream
from hyperseg_jax.systems.hyperseg.entities import Entities
from hyperseg_jax.systems.hyperseg.temporal import (
    PROMPT_SOURCES,
    PromptMemory,
    Temporal,
    count_items,
    join_sources,
    present_items,
    spread,
)
from hyperseg_jax.systems.psalm.trunk import ImageFeatures, ImageTokens, Trunk, build_trunk, trunk_table
from hyperseg_jax.tables import Table

PROJECTORS = ("seg_query", "SEG_token", "class_name", "region")  # published names of the projections to the decoder


@flax.struct.dataclass
class Prefix:
    """The first positions of prompts, as the language model has read them.

    past: their keys and values. hidden: their hidden states.
    """

    past: KeyValues
    hidden: Float[DeviceArray, "B P D"]

    @property
    def length(self) -> int:
        """The number of positions."""
        return self.hidden.shape[1]


@flax.struct.dataclass
class HyperSegOutput:
    """The outputs of HyperSeg.

    prediction: rows are images x prompts, B * K. hidden: hidden states of the language model. next_query: the fine-grained
    query for the next frame. items: what the items of the prompts became, and item_valid, which items they have, with global
    aggregation (`temporal`). named: the classes that the answer names. written: the tokens of the names that the model wrote,
    filled up with -1; None if it wrote nothing. inside: intermediates by name, for golden tests. gates: values of the
    perceiver's gates by their path, from `run_frames`. jit removes what is not used.
    """

    prediction: MaskPrediction
    hidden: Float[DeviceArray, "B L D"]
    next_query: Float[DeviceArray, "B F P"]
    named: Bool[DeviceArray, "B K C"]
    items: Float[DeviceArray, "B K N D"] | None = None
    item_valid: Bool[DeviceArray, "B K N"] | None = None
    written: Int[DeviceArray, "B W"] | None = None
    inside: dict[str, Float[DeviceArray, "B ..."]] = flax.struct.field(default_factory=dict)
    gates: dict[str, Float[DeviceArray, "B F P"]] = flax.struct.field(default_factory=dict)


class HyperSeg(Trunk):
    """HyperSeg: a language model with a mask decoder.

    The language model runs once over text, image tokens, fine-grained tokens and mask queries. The masked-attention decoder
    predicts masks from the hidden states of the queries, and scores them against those of the prompt.

    classifies_by_answer: whether masks are classified by the class names in the answer, instead of those in the prompt.
    temporal: what a frame passes to the next ones.
    """

    perceiver: fine_grained_perceiver.FineGrainedPerceiver
    region_sampler: RegionSampler
    query_std: float = 0.0
    classifies_by_answer: bool = False
    temporal: Temporal = Temporal()

    def setup(self) -> None:
        width = self.mask_decoder.hidden_size
        for name in ("query_projector", "expression_projector", "class_projector", "region_projector"):
            setattr(self, name, Linear(width, ("embed", "mlp"), precision=self.precision))
        if self.temporal.aggregation:  # zero, so that released weights compute the same with it
            zeros = nn.initializers.zeros
            self.prompt_aggregation = Linear(self.llm.hidden_size, precision=self.precision, kernel_init=zeros)
        init = axes.named(nn.initializers.normal(self.query_std), "queries", "embed")
        self.queries = self.param("queries", init, (self.num_queries, self.llm.hidden_size), self.precision.params)

    def __call__(
        self,
        images: Float[DeviceArray, "B H W 3"],
        clip_images: Float[DeviceArray, "B s s 3"],
        layout: Layout,
        *,
        deterministic: bool = True,
        **prompts: Any,
    ) -> HyperSegOutput:
        """Predicts masks. images, clip_images: normalized. layout and prompts: see `predict_masks`."""
        image_features = self.encode_image(images, deterministic=deterministic)
        return self.predict_masks(
            image_features, self.image_tokens(clip_images), layout, deterministic=deterministic, **prompts
        )

    def read(
        self,
        layout: Layout,
        image_tokens: ImageTokens | None = None,
        pyramid: Pyramid | None = None,
        *,
        region_tokens: Float[DeviceArray, "B K R D"] | None = None,
        fine_grained_query: Float[DeviceArray, "B F P"] | None = None,
        prompt_memory: PromptMemory | None = None,
        prefix: Prefix | None = None,
    ) -> Prefix:
        """Runs the language model over prompts, or over their first positions.

        layout: [B, L]. prefix: of its first positions, which are not read again. image_tokens, pyramid, region_tokens: of what
        the remaining positions contain. fine_grained_query, prompt_memory: see `predict_masks`.
        """
        fine_grained = None if pyramid is None else self.perceiver(pyramid, fine_grained_query)
        if prefix is None:
            hidden, past = self.llm.prefill(
                self._stream(layout, image_tokens, fine_grained, region_tokens, prompt_memory=prompt_memory)
            )
            return Prefix(past, hidden)
        rest = layout.part(prefix.length)
        stream = self._stream(rest, image_tokens, fine_grained, region_tokens, prompt_memory=prompt_memory)
        hidden, past = self.llm.prefill(stream, prefix=prefix.past)
        return Prefix(past, jnp.concatenate([prefix.hidden, hidden], axis=1))

    def first_logits(self, prompt: Prefix, layout: Layout) -> Float[jax.Array, "B V"]:
        """Returns the logits of the token that follows a prompt. layout: of the prompt."""
        last = jnp.where(layout.source != Source.PADDING, jnp.arange(prompt.length), 0).max(-1)
        return self.language_head(jax.vmap(lambda row, index: row[index])(prompt.hidden, last))

    def region_tokens(
        self,
        image_tokens: ImageTokens,
        regions: Bool[DeviceArray, "B K R s s"],
        valid: Bool[DeviceArray, "B K R"] | None = None,
        points: Float[DeviceArray, "B K R S 2"] | None = None,
    ) -> Float[jax.Array, "B K R D"]:
        """Returns the tokens of regions. image_tokens: of the image that they are drawn on. points: see `predict_masks`."""
        valid = jnp.ones(regions.shape[:3], bool) if valid is None else valid
        return self.region_sampler(image_tokens, regions, valid, points)

    def predict_masks(
        self,
        image_features: ImageFeatures,
        image_tokens: ImageTokens,
        layout: Layout,
        *,
        num_prompts: int = 1,
        regions: Bool[DeviceArray, "B K R s s"] | None = None,
        region_valid: Bool[DeviceArray, "B K R"] | None = None,
        region_points: Float[DeviceArray, "B K R S 2"] | None = None,
        region_image_tokens: ImageTokens | None = None,
        fine_grained_query: Float[DeviceArray, "B F P"] | None = None,
        prompt_memory: PromptMemory | None = None,
        num_classes: int = 0,
        text: Float[DeviceArray, "B L D"] | None = None,
        prefix: Prefix | None = None,
        deterministic: bool = True,
    ) -> HyperSegOutput:
        """Predicts masks and scores of the prompts.

        layout: [B, L], with num_prompts (K) prompts per image. region_points: (x, y) points to sample regions at; the covered
        cells by default. region_image_tokens: tokens of the images that regions were drawn on; image_tokens by default.
        fine_grained_query: next_query of the previous frame; the learned query by default. prompt_memory: what the prompts
        became in the last frames. num_classes: class names per prompt, including "background". text: embed_text of the layout's
        text, if it was computed before. prefix: what was read of the layout, with its image and fine-grained tokens; cannot be
        combined with fine_grained_query or text.
        """
        num_regions = 0 if regions is None else regions.shape[2]
        region_tokens = None
        if regions is not None and num_regions:
            drawn_on = image_tokens if region_image_tokens is None else region_image_tokens
            region_tokens = self.region_tokens(drawn_on, regions, region_valid, region_points)
        classes = Source.NAME if self.classifies_by_answer else Source.CLASS
        counts = {
            Source.QUERY: self.num_queries,
            Source.RESAMPLED: self.perceiver.num_queries,
            Source.EXPRESSION: 1,
            classes: num_classes,
            Source.REGION: num_regions,
        }
        inside = {"image_tokens": image_tokens, "mask_features": image_features.mask_features}
        if prefix is None:
            inside["fine_grained"] = self.perceiver(image_features.pyramid, fine_grained_query)
            stream = self._stream(layout, image_tokens, inside["fine_grained"], region_tokens, text, prompt_memory)
            hidden = self.llm(stream, deterministic=deterministic)
            inside["stream"] = stream.embeddings
        else:
            hidden = self.read(layout, region_tokens=region_tokens, prompt_memory=prompt_memory, prefix=prefix).hidden
        pooled = pool(hidden, layout, counts, num_prompts=num_prompts, shared=(Source.RESAMPLED,))
        embeddings = {"expression": self.expression_projector(pooled[Source.EXPRESSION][:, :, 0])}
        if num_classes or self.is_initializing():
            embeddings["class"] = self.class_projector(pooled[classes])
        if num_regions or self.is_initializing():
            embeddings["region"] = self.region_projector(pooled[Source.REGION])
        queries = self.query_projector(pooled[Source.QUERY])
        prediction = self.mask_decoder(image_features.mask_features, image_features.levels, queries, embeddings)
        next_query = self.perceiver.next_query(pooled[Source.RESAMPLED])
        if self.is_initializing():
            self.language_head(hidden)  # text only
        inside |= embeddings | {"queries": queries}
        named = named_classes(layout, num_prompts, num_classes)
        output = HyperSegOutput(prediction, hidden, next_query, named, inside=inside)
        if not self.temporal.aggregation:
            return output
        if self.is_initializing():
            self.prompt_aggregation(hidden)  # later frames only
        count = count_items(num_classes, num_regions)
        items = join_sources([pooled[source] for source in PROMPT_SOURCES if source in pooled], count)
        return dataclasses.replace(output, items=items, item_valid=present_items(layout, num_prompts, count))

    def _stream(
        self,
        layout: Layout,
        image_tokens: ImageTokens | None = None,
        fine_grained: Float[DeviceArray, "B F D"] | None = None,
        regions: Float[DeviceArray, "B K R D"] | None = None,
        text: Float[DeviceArray, "B L D"] | None = None,
        prompt_memory: PromptMemory | None = None,
    ) -> TokenStream:
        """Builds the token stream of a layout from the given token banks, the mask queries and the text, and adds the
        memory to the prompts."""
        banks = {
            Source.IMAGE: image_tokens,
            Source.QUERY: self.queries,
            Source.RESAMPLED: fine_grained,
            Source.REGION: regions,
        }
        available = {source: bank for source, bank in banks.items() if bank is not None}
        stream = splice(layout, self.embed_text(jnp.asarray(layout.text_ids)) if text is None else text, available)
        if prompt_memory is None:
            return stream
        mean, remembered = prompt_memory.mean()
        added = jnp.where(remembered[..., None], self.prompt_aggregation(mean), 0).astype(stream.embeddings.dtype)
        return dataclasses.replace(stream, embeddings=stream.embeddings + spread(added, layout))


def named_classes(layout: Layout, num_prompts: int, num_classes: int) -> Bool[jax.Array, "B {num_prompts} {num_classes}"]:
    """Returns the classes that the answers of a layout name."""
    of_prompt = (layout.source == Source.NAME)[:, None] & (layout.prompt[:, None] == jnp.arange(1, num_prompts + 1)[:, None])
    of_class = layout.segment[:, None] == jnp.arange(1, num_classes + 1)[:, None]
    return (of_prompt[:, :, None] & of_class[:, None]).any(-1)


def build_model(config: ml_collections.ConfigDict) -> HyperSeg:
    """Builds the model of a config; config.model has one block of fields for each submodule."""
    m, trunk = config.model, build_trunk(config)
    return HyperSeg(
        **trunk,
        perceiver=fine_grained_perceiver.FineGrainedPerceiver(m.llm.hidden_size, **m.perceiver, precision=trunk["precision"]),
        region_sampler=RegionSampler(),
        query_std=m.query_std,
        classifies_by_answer=not Entities.from_config(config).lists_classes,
        temporal=Temporal.from_config(config),
    )


def init_params(model: HyperSeg, config: ml_collections.ConfigDict, key: PRNGKeyArray) -> Any:
    """Returns randomly initialized parameters, boxed with their axis names."""
    zeros = lambda *shape: jnp.zeros((1, *shape), jnp.int32)
    row = zeros(8)
    layout = Layout(row, row, row, row, row, mask=row.astype(bool), prompt=row, position=row)
    image = lambda side: jnp.zeros((1, side, side, 3))
    side = config.model.clip_encoder.image_size
    return model.init(
        key,
        image(config.data.image_size),
        image(side),
        layout,
        regions=zeros(1, 1, side, side).astype(bool),
        region_valid=zeros(1, 1).astype(bool),
        num_classes=1,
    )["params"]


def weight_table(config: ml_collections.ConfigDict) -> Table:
    """Returns the weight table of the released state dict (specified by full_manifest of HyperSeg-3B), and of the parts that it
    lacks."""
    model = build_model(config)
    rows = trunk_table(model) + fine_grained_perceiver.table(model.perceiver).with_prefix("perceiver/")
    for ours, theirs in zip(("query", "expression", "class", "region"), PROJECTORS, strict=True):
        rows += linear_table(f"{ours}_projector", f"{theirs}_projector")
    if model.temporal.aggregation:
        rows += linear_table("prompt_aggregation", "prompt_aggregation")
    return rows
