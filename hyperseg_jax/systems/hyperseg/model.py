"""The wiring of HyperSeg's parts, and its parameters."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from hyperseg_jax import axes
from hyperseg_jax.connectors import fine_grained_perceiver, projector
from hyperseg_jax.connectors.region_sampler import RegionSampler
from hyperseg_jax.decoders import mask2former, pixel_decoder
from hyperseg_jax.encoders import siglip, swin
from hyperseg_jax.layers.linear import Linear, LoRA, linear_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.remat import save_activation
from hyperseg_jax.llms import phi
from hyperseg_jax.llms.cache import KeyValues
from hyperseg_jax.llms.splice import pool, splice
from hyperseg_jax.structs import DeviceArray, Layout, MaskPrediction, Pyramid, Source, TokenStream
from hyperseg_jax.tables import Identity, Row, Table

PROJECTORS = ("seg_query", "SEG_token", "class_name", "region")  # published names of the projections to the decoder

ImageTokens = Float[jax.Array, "B N D"]
"""The tokens of images for the language model."""


@flax.struct.dataclass
class Seen:
    """What the mask branch makes of images: the pyramid of the encoder, and what the pixel decoder makes of it."""

    pyramid: Pyramid
    mask_features: Float[DeviceArray, "B h w D"]
    levels: tuple[Float[DeviceArray, "B _ _ C"], ...]


@flax.struct.dataclass
class Prefix:
    """What the language model keeps of the first positions of a prompt. fine_grained: its hidden states at the F fine-grained
    tokens, or None where they are not among these positions."""

    past: KeyValues
    fine_grained: Float[DeviceArray, "B F D"] | None

    @property
    def length(self) -> int:
        """Its positions."""
        return self.past.visible.shape[1]


@flax.struct.dataclass
class HyperSegOutput:
    """prediction: rows are images x prompts, B * K. hidden: of the language model; behind a prefix, of the rest.
    next_query: the fine-grained query of the next frame. inside: intermediates by name, for golden tests; jit drops what nobody
    reads."""

    prediction: MaskPrediction
    hidden: Float[DeviceArray, "B L D"]
    next_query: Float[DeviceArray, "B F P"]
    inside: dict[str, Float[DeviceArray, "B ..."]] = flax.struct.field(default_factory=dict)


class HyperSeg(nn.Module):
    """One forward pass of the language model over text, image tokens, fine-grained tokens and mask queries; a
    masked-attention decoder turns the queries' hidden states into masks, and those of the prompt into what the masks are
    scored against.

    Parts arrive as fields; parameters land under their names.
    """

    clip_encoder: siglip.Siglip
    projector: projector.Projector
    mask_encoder: swin.Swin
    perceiver: fine_grained_perceiver.FineGrainedPerceiver
    region_sampler: RegionSampler
    llm: phi.Phi
    language_head: phi.LanguageHead
    pixel_decoder: pixel_decoder.DeformablePixelDecoder
    mask_decoder: mask2former.MaskedAttentionDecoder
    num_queries: int
    query_std: float = 0.0
    precision: Precision = Precision()

    def setup(self) -> None:
        width = self.mask_decoder.hidden_size
        for name in ("query_projector", "expression_projector", "class_projector", "region_projector"):
            setattr(self, name, Linear(width, ("embed", "mlp"), precision=self.precision))
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
        """images, clip_images: normalised. layout and prompts: see `answer`."""
        seen = self.see(images, deterministic=deterministic)
        return self.answer(seen, self.image_tokens(clip_images), layout, deterministic=deterministic, **prompts)

    def see(self, images: Float[DeviceArray, "B H W 3"], *, deterministic: bool = True) -> Seen:
        """images: normalised."""
        pyramid = save_activation(self.mask_encoder(images, deterministic=deterministic))
        return Seen(pyramid, *self.pixel_decoder(pyramid))

    def image_tokens(self, clip_images: Float[DeviceArray, "B s s 3"]) -> ImageTokens:
        """clip_images, normalised -> their tokens for the language model."""
        return save_activation(self.projector(self.clip_encoder(clip_images)))

    def read_prefix(self, image_tokens: ImageTokens, layout: Layout, pyramid: Pyramid | None = None) -> Prefix:
        """The first positions of a prompt about the first frame. layout of [B, P]; pyramid: None where no fine-grained tokens
        are among them."""
        fine_grained = None if pyramid is None else self.perceiver(pyramid, None)
        hidden, past = self.llm.prefill(self._stream(layout, image_tokens, fine_grained))
        if fine_grained is None:
            return Prefix(past, None)
        count = {Source.FINE_GRAINED: self.perceiver.num_queries}
        pooled = pool(hidden, layout, count, num_prompts=1, shared=(Source.FINE_GRAINED,))
        return Prefix(past, pooled[Source.FINE_GRAINED])

    def answer(
        self,
        seen: Seen,
        image_tokens: ImageTokens,
        layout: Layout,
        *,
        num_prompts: int = 1,
        regions: Bool[DeviceArray, "B K R s s"] | None = None,
        region_valid: Bool[DeviceArray, "B K R"] | None = None,
        region_points: Float[DeviceArray, "B K R S 2"] | None = None,
        region_image_tokens: ImageTokens | None = None,
        fine_grained_query: Float[DeviceArray, "B F P"] | None = None,
        num_classes: int = 0,
        prefix: Prefix | None = None,
        deterministic: bool = True,
    ) -> HyperSegOutput:
        """layout: of [B, L], holding num_prompts (K) prompts an image. region_points: (x, y) to sample regions at, else their
        covered cells. region_image_tokens: of the images that the regions were drawn on, else `image_tokens`.
        fine_grained_query: fed back from the frame before, else the learned one. num_classes: class names a prompt,
        "background" among them. prefix: of the first positions of the layout, where they were read already; it goes with no
        fine_grained_query."""
        num_regions = 0 if regions is None else regions.shape[2]
        drawn = None
        if regions is not None and num_regions:
            valid = jnp.ones(regions.shape[:3], bool) if region_valid is None else region_valid
            drawn = self.region_sampler(
                image_tokens if region_image_tokens is None else region_image_tokens, regions, valid, region_points
            )
        counts = {
            Source.QUERY: self.num_queries,
            Source.FINE_GRAINED: self.perceiver.num_queries,
            Source.EXPRESSION: 1,
            Source.CLASS: num_classes,
            Source.REGION: num_regions,
        }
        inside = {"image_tokens": image_tokens, "mask_features": seen.mask_features}
        if prefix is None:
            inside["fine_grained"] = self.perceiver(seen.pyramid, fine_grained_query)
            stream = self._stream(layout, image_tokens, inside["fine_grained"], drawn)
            hidden = self.llm(stream, deterministic=deterministic)
        else:
            layout = layout.part(prefix.length)
            stream = self._stream(layout, regions=drawn)
            hidden, _ = self.llm.prefill(stream, prefix=prefix.past)
        pooled = pool(hidden, layout, counts, num_prompts=num_prompts, shared=(Source.FINE_GRAINED,))
        if prefix is not None and prefix.fine_grained is not None:
            pooled[Source.FINE_GRAINED] = prefix.fine_grained
        embeddings = {"expression": self.expression_projector(pooled[Source.EXPRESSION][:, :, 0])}
        if num_classes or self.is_initializing():
            embeddings["class"] = self.class_projector(pooled[Source.CLASS])
        if num_regions or self.is_initializing():
            embeddings["region"] = self.region_projector(pooled[Source.REGION])
        queries = self.query_projector(pooled[Source.QUERY])
        prediction = self.mask_decoder(seen.mask_features, seen.levels, queries, embeddings)
        next_query = self.perceiver.next_query(pooled[Source.FINE_GRAINED])
        if self.is_initializing():
            self.language_head(hidden)  # text only
        inside |= embeddings | {"stream": stream.embeddings, "queries": queries}
        return HyperSegOutput(prediction, hidden, next_query, inside)

    def _stream(
        self,
        layout: Layout,
        image_tokens: ImageTokens | None = None,
        fine_grained: Float[DeviceArray, "B F D"] | None = None,
        regions: Float[DeviceArray, "B K R D"] | None = None,
    ) -> TokenStream:
        """The token stream of a layout whose positions are of the given banks, of queries and of text."""
        banks = {
            Source.IMAGE: image_tokens,
            Source.QUERY: self.queries,
            Source.FINE_GRAINED: fine_grained,
            Source.REGION: regions,
        }
        there = {source: bank for source, bank in banks.items() if bank is not None}
        return splice(layout, self.llm.embed(jnp.asarray(layout.text_ids)), there)

    def conversation(self, image_tokens: ImageTokens, layout: Layout) -> TokenStream:
        """A question about an image, one a row. layout: of [B, L], without what masks need."""
        return self._stream(layout, image_tokens)

    def read(
        self, image_tokens: ImageTokens, layout: Layout, room: int, prefix: Prefix | None = None
    ) -> tuple[Float[jax.Array, "B V"], Int[DeviceArray, " B"], KeyValues]:
        """A conversation -> logits of the token that follows it, its place, and what the language model keeps, with room for
        that many tokens. prefix: of its first positions, where they were read already."""
        past, begin = (None, 0) if prefix is None else (prefix.past, prefix.length)
        length = (layout.source != Source.PADDING).sum(-1)
        hidden, kept = self.llm.prefill(self.conversation(image_tokens, layout.part(begin)), room, past)
        last = jnp.take_along_axis(hidden, (length - begin - 1)[:, None, None], axis=1)[:, 0]
        return self.language_head(last), length, kept

    def write(
        self, ids: Int[DeviceArray, " B"], positions: Int[DeviceArray, " B"], kept: KeyValues
    ) -> tuple[Float[jax.Array, "B V"], KeyValues]:
        """One more token a row: its id and its place -> (logits of the next, what is kept now)."""
        hidden, kept = self.llm.step(self.llm.embed(ids), positions, kept)
        return self.language_head(hidden), kept


def build(config: ml_collections.ConfigDict) -> HyperSeg:
    """The model of a config; config.model has one block of fields for each part."""
    m = config.model
    precision = Precision(**m.precision)
    lora = LoRA(m.lora.rank, m.lora.alpha, m.lora.dropout) if m.lora.rank else None
    width = m.llm.hidden_size
    return HyperSeg(
        clip_encoder=siglip.Siglip(**m.clip_encoder, precision=precision),
        projector=projector.Projector(width, precision=precision),
        mask_encoder=swin.Swin(**_tuples(m.mask_encoder), precision=precision),
        perceiver=fine_grained_perceiver.FineGrainedPerceiver(width, **m.perceiver, precision=precision),
        region_sampler=RegionSampler(),
        llm=phi.Phi(**m.llm, lora=lora, lora_targets=tuple(m.lora.targets), precision=precision),
        language_head=phi.LanguageHead(m.head_vocab_size, precision=precision),
        pixel_decoder=pixel_decoder.DeformablePixelDecoder(**m.pixel_decoder, precision=precision),
        mask_decoder=mask2former.MaskedAttentionDecoder(**_tuples(m.mask_decoder), precision=precision),
        num_queries=m.num_queries,
        query_std=m.query_std,
        precision=precision,
    )


def _tuples(block: ml_collections.ConfigDict) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in block.items()}


def init(model: HyperSeg, config: ml_collections.ConfigDict, key: PRNGKeyArray) -> Any:
    """Fresh parameters with their axis names."""
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
    """Every parameter under its name in the released state dict (specification: full_manifest of HyperSeg-3B)."""
    model = build(config)
    made = phi.table(model.llm).under("llm/", "model.") + phi.head_table().under("language_head/")
    made += siglip.table(model.clip_encoder).under("clip_encoder/", "model.vision_tower.")
    made += projector.table(model.projector).under("projector/", "model.mm_projector.")
    made += swin.table(model.mask_encoder).under("mask_encoder/", "model.vision_tower_mask.")
    made += fine_grained_perceiver.table(model.perceiver).under("perceiver/")
    made += pixel_decoder.table(model.pixel_decoder).under("pixel_decoder/", "pixel_decoder.")
    made += mask2former.table(model.mask_decoder).under("mask_decoder/", "predictor.")
    made += Table([Row("queries", "seg_query", Identity())])
    for ours, theirs in zip(("query", "expression", "class", "region"), PROJECTORS, strict=True):
        made += linear_table(f"{ours}_projector", f"{theirs}_projector")
    return made
