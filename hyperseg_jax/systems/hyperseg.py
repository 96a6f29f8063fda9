"""HyperSeg (arXiv 2411.17606): wiring of the parts, and what training and predicting need of it."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import ml_collections

from hyperseg_jax import axes
from hyperseg_jax.connectors import fine_grained_perceiver, projector
from hyperseg_jax.connectors.region_sampler import RegionSampler
from hyperseg_jax.data.features import Sizes
from hyperseg_jax.decoders import mask2former, pixel_decoder
from hyperseg_jax.encoders import siglip, swin
from hyperseg_jax.layers.linear import Linear, LoRA, linear_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.remat import dear, forgetful
from hyperseg_jax.llms import phi
from hyperseg_jax.llms.cache import KeyValues
from hyperseg_jax.llms.generate import greedy
from hyperseg_jax.llms.splice import pool, splice
from hyperseg_jax.losses.criterion import MaskCriterion
from hyperseg_jax.losses.targets import MaskTargets
from hyperseg_jax.losses.text import text_cross_entropy_in_chunks
from hyperseg_jax.structs import IGNORED, Layout, MaskPrediction, Source, TokenStream
from hyperseg_jax.systems import hyperseg_checkpoints
from hyperseg_jax.systems.system import System
from hyperseg_jax.tables import Identity, Row, Table

# ImageNet statistics on 0..255 for the mask branch; the language branch takes -1..1.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
PROJECTORS = ("seg_query", "SEG_token", "class_name", "region")  # published names of the projections to the decoder


@flax.struct.dataclass
class HyperSegOutput:
    """prediction: rows are pictures x prompts, B * K. hidden: [B, L, D] of the language model. next_query: [B, F, P], the
    fine-grained query of the next frame. inside: intermediates by name, for golden tests; jit drops what nobody reads."""

    prediction: MaskPrediction
    hidden: jax.Array
    next_query: jax.Array
    inside: dict[str, jax.Array] = flax.struct.field(default_factory=dict)


class HyperSeg(nn.Module):
    """One forward pass of the language model over text, picture tokens, fine-grained tokens and mask queries; a
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
        images: jax.Array,
        clip_images: jax.Array,
        layout: Layout,
        *,
        num_prompts: int = 1,
        regions: jax.Array | None = None,
        region_valid: jax.Array | None = None,
        region_points: jax.Array | None = None,
        region_images: jax.Array | None = None,
        fine_grained_query: jax.Array | None = None,
        num_classes: int = 0,
        deterministic: bool = True,
    ) -> HyperSegOutput:
        """images [B, S, S, 3] and clip_images [B, s, s, 3], normalised; layout of [B, L] holding num_prompts (K) prompts a
        picture; regions bool [B, K, R, s, s] with region_valid bool [B, K, R]; region_points [B, K, R, P, 2], (x, y) to sample
        them at, else their covered cells; region_images [B, s, s, 3], normalised: what the regions were drawn on, else
        clip_images; fine_grained_query [B, F, P], fed back from the frame before, else the learned
        one. num_classes: class names a prompt, "background" among them."""
        pyramid = dear(self.mask_encoder(images, deterministic=deterministic))
        fine_grained = self.perceiver(pyramid, fine_grained_query)
        picture = dear(self.projector(self.clip_encoder(clip_images)))
        region_bank = None
        if regions is not None and regions.shape[2]:
            valid = jnp.ones(regions.shape[:3], bool) if region_valid is None else region_valid
            shown = picture if region_images is None else dear(self.projector(self.clip_encoder(region_images)))
            region_bank = self.region_sampler(shown, regions, valid, region_points)
        num_regions = 0 if region_bank is None else region_bank.shape[2]
        stream = splice(
            layout,
            self.llm.embed(jnp.asarray(layout.text_ids)),
            image=picture,
            queries=self.queries,
            fine_grained=fine_grained,
            regions=region_bank,
        )
        hidden = self.llm(stream, deterministic=deterministic)
        banks = pool(
            hidden,
            layout,
            num_prompts=num_prompts,
            num_queries=self.num_queries,
            num_fine_grained=fine_grained.shape[-2],
            num_classes=num_classes,
            num_regions=num_regions,
        )
        embeddings = {"expression": self.expression_projector(banks["expression"])}
        if num_classes or self.is_initializing():
            embeddings["class"] = self.class_projector(banks["classes"])
        if num_regions or self.is_initializing():
            embeddings["region"] = self.region_projector(banks["regions"])
        mask_features, levels = self.pixel_decoder(pyramid)
        queries = self.query_projector(banks["queries"])
        prediction = self.mask_decoder(mask_features, levels, queries, embeddings)
        next_query = self.perceiver.next_query(banks["fine_grained"])
        if self.is_initializing():
            self.language_head(hidden)  # text only
        inside = {
            "picture": picture,
            "fine_grained": fine_grained,
            "stream": stream.embeddings,
            "queries": queries,
            "mask_features": mask_features,
            **embeddings,
        }
        return HyperSegOutput(prediction, hidden, next_query, inside)

    def conversation(self, clip_images: jax.Array, layout: Layout) -> TokenStream:
        """A question about a picture, one a row. clip_images [B, s, s, 3], normalised; layout of [B, L], without what masks
        need."""
        picture = self.projector(self.clip_encoder(clip_images))
        return splice(layout, self.llm.embed(jnp.asarray(layout.text_ids)), image=picture, queries=self.queries)

    def read(self, clip_images: jax.Array, layout: Layout, room: int) -> tuple[jax.Array, jax.Array, KeyValues]:
        """A conversation -> logits [B, V] of the token that follows it, its place [B], and what the language model keeps, with
        room for that many tokens."""
        hidden, kept = self.llm.prefill(self.conversation(clip_images, layout), room)
        length = (layout.source != Source.PADDING).sum(-1)
        last = jnp.take_along_axis(hidden, (length - 1)[:, None, None], axis=1)[:, 0]
        return self.language_head(last), length, kept

    def write(self, ids: jax.Array, positions: jax.Array, kept: KeyValues) -> tuple[jax.Array, KeyValues]:
        """One more token a row: ids and positions [B] -> (logits [B, V] of the next, what is kept now)."""
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
        mask_decoder=mask2former.MaskedAttentionDecoder(**m.mask_decoder, precision=precision),
        num_queries=m.num_queries,
        query_std=m.query_std,
        precision=precision,
    )


def _tuples(block: ml_collections.ConfigDict) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in block.items()}


def batch_spec(config: ml_collections.ConfigDict, task: dict[str, Any]) -> Sizes:
    """Static sizes of a task's batches; `task` gives those that differ from one picture and one expression."""
    m = config.model
    image_tokens = (m.clip_encoder.image_size // m.clip_encoder.patch_size) ** 2
    return Sizes(
        config.data.image_size,
        m.clip_encoder.image_size,
        image_tokens,
        m.perceiver.num_queries,
        m.num_queries,
        template=config.data.template,
        **task,
    )


def init(model: HyperSeg, config: ml_collections.ConfigDict, key: jax.Array) -> Any:
    """Fresh parameters with their axis names."""
    sizes = batch_spec(config, {"length": 8, "classes": 1, "regions": 1})
    zeros = lambda *shape: jnp.zeros((1, *shape), jnp.int32)
    row = zeros(sizes.length)
    layout = Layout(row, row, row, row, row, mask=row.astype(bool), prompt=row, position=row)
    picture = lambda side: jnp.zeros((1, side, side, 3))
    side = sizes.clip_size
    return model.init(
        key,
        picture(sizes.image_size),
        picture(side),
        layout,
        regions=zeros(1, 1, side, side).astype(bool),
        region_valid=zeros(1, 1).astype(bool),
        num_classes=1,
    )["params"]


def normalise(images: jax.Array, clip_images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """uint8 pixels to what the two encoders take, on the device."""
    images = (images.astype(jnp.float32) - jnp.asarray(PIXEL_MEAN)) / jnp.asarray(PIXEL_STD)
    return images, normalise_clip(clip_images)


def normalise_clip(images: jax.Array) -> jax.Array:
    """What the language branch takes of uint8 pixels."""
    return images.astype(jnp.float32) / 127.5 - 1


def _frames(
    model: HyperSeg, params: Any, batch: dict[str, Any], query: jax.Array | None, per_frame: Any, **options: Any
) -> tuple[Any, Any]:
    """per_frame(output, t) over the frames of a batch, stacked, and the query that the last one feeds back; each frame sees
    the fine-grained query of the one before."""
    layout = Layout(**batch["layout"])
    regions = (batch["regions"], batch["region_valid"]) if batch["regions"].shape[2] else (None, None)
    drawn_on = normalise_clip(batch["region_images"][:, 0]) if "region_images" in batch else None

    def one(query: jax.Array | None, t: int | jax.Array) -> tuple[jax.Array, Any]:
        images, clip_images = normalise(batch["images"][:, t], batch["clip_images"][:, t])
        output: Any = model.apply(
            {"params": params},
            images,
            clip_images,
            layout,
            regions=regions[0],
            region_valid=regions[1],
            region_images=drawn_on,
            fine_grained_query=query,
            num_prompts=batch["uses_expression"].shape[1],
            num_classes=batch["class_valid"].shape[2],
            **options,
        )
        return output.next_query, per_frame(output, t)

    count = batch["images"].shape[1]
    if count == 1:
        query, found = one(query, 0)
        return jax.tree.map(lambda x: x[None], found), query
    if query is None:
        learned = params["perceiver"]["query"]
        query = jnp.broadcast_to(learned, (batch["images"].shape[0], *learned.shape))
    query, found = jax.lax.scan(forgetful(one), model.precision.cast(query), jnp.arange(count))
    return found, query


def loss(model: HyperSeg, config: ml_collections.ConfigDict) -> Any:
    """f(params, batch, key) -> (total, metrics), means over the frames of the batch; a frame of padding counts nowhere."""
    criterion = MaskCriterion(**{name: value for name, value in config.loss.items() if name != "text_weight"})
    text_weight = config.loss.text_weight
    head: Any = lambda params, hidden: model.language_head.apply({"params": params}, hidden)

    def of_batch(params: Any, batch: dict[str, Any], key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        rows = lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])  # [B, K, ...] -> [B * K, ...]
        given = {name: rows(batch[name]) for name in ("labels", "class_valid", "region_valid")}
        taught = {name: batch[name] for name in ("valid", "uses_expression", "uses_classes", "uses_regions")}

        def of_frame(output: HyperSegOutput, t: int | jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            there = batch["frame_valid"][:, t, None]  # [B, 1]
            asked = {name: rows(x & there.reshape(-1, *[1] * (x.ndim - 1))) for name, x in taught.items()}
            labels = jnp.where(there, batch["layout"]["labels"], IGNORED)
            targets = MaskTargets(masks=rows(batch["masks"][:, :, :, t]), **given, **asked)
            found = criterion(output.prediction, targets, key=jax.random.fold_in(key, t))
            metrics = {name: stages[-1] for name, stages in found.terms.items()}
            total = found.total
            if text_weight:
                metrics["text"] = text_cross_entropy_in_chunks(head, params["language_head"], output.hidden, labels)
                total = total + text_weight * metrics["text"]
            return total, metrics

        found, _ = _frames(
            model,
            params,
            batch,
            None,
            of_frame,
            deterministic=False,
            rngs={"dropout": jax.random.fold_in(key, batch["images"].shape[1])},
        )
        shown = batch["frame_valid"].sum(0).astype(jnp.float32)  # of a batch that mixes pictures and clips, fewer and fewer
        share = shown / jnp.maximum(shown.sum(), 1.0)
        return jax.tree.map(lambda values: (values * share).sum(0), found)

    return of_batch


def predict(model: HyperSeg, config: ml_collections.ConfigDict) -> Any:
    """f(params, batch, query=None) -> arrays [B, T, K, ...]: mask_logits, expression, class, region, embedding (of queries, to
    be followed from frame to frame: of the "reid" head where the decoder has one); and next_query. A batch may hold
    region_images [B, 1, s, s, 3], the pictures that its regions were drawn on."""

    def of_batch(params: Any, batch: dict[str, Any], query: jax.Array | None = None) -> dict[str, jax.Array]:
        prompts = batch["uses_expression"].shape[1]
        split = lambda x: x.reshape(-1, prompts, *x.shape[1:])

        def of_frame(output: HyperSegOutput, _: int | jax.Array) -> dict[str, jax.Array]:
            scores = {kind: split(value) for kind, value in output.prediction.scores.items()}
            embeddings = output.prediction.embeddings
            followed = embeddings["reid"] if "reid" in embeddings else embeddings["query"]
            return {"mask_logits": split(output.prediction.mask_logits), **scores, "embedding": split(followed)}

        found, query = _frames(model, params, batch, query, of_frame)
        return {**jax.tree.map(lambda frames: jnp.moveaxis(frames, 0, 1), found), "next_query": query}

    return of_batch


def generate(model: HyperSeg, config: ml_collections.ConfigDict) -> Any:
    """f(params, batch, *, max_new_tokens, eos_id, vocab_size) -> int32 [B, max_new_tokens]: the answer to one question a
    picture, word by word; eos_id behind its end. Ids from vocab_size on are never written."""

    def of_batch(params: Any, batch: dict[str, Any], *, max_new_tokens: int, eos_id: int, vocab_size: int) -> jax.Array:
        layout = Layout(**batch["layout"])
        _, clip_images = normalise(batch["images"][:, 0], batch["clip_images"][:, 0])
        found: Any = model.apply({"params": params}, clip_images, layout, max_new_tokens, method="read")
        logits, length, kept = found

        def step(ids: jax.Array, number: jax.Array, kept: KeyValues) -> Any:
            return model.apply({"params": params}, ids, length + number, kept, method="write")

        return greedy(
            logits,
            step,
            kept,
            max_new_tokens=max_new_tokens,
            eos_id=eos_id,
            vocab_size=min(vocab_size, config.model.llm.vocab_size),
        )

    return of_batch


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


SYSTEM = System(
    "hyperseg",
    build,
    batch_spec,
    init,
    loss,
    predict,
    weight_table,
    published=hyperseg_checkpoints.CHECKPOINTS,
    extras=(hyperseg_checkpoints.GATES,),
    hf_config=hyperseg_checkpoints.hf_config,
    generate=generate,
)
