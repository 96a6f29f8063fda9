"""SCA's training loss: the cross-entropy of the captions, with label smoothing.

Optionally, and not in the published training, SAM's masks are supervised too, for models that do not start from a trained SAM.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Float32, Int, PRNGKeyArray

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.errors import UserError
from hyperseg_jax.losses.masks import mask_bce, mask_dice
from hyperseg_jax.losses.text import text_cross_entropy_in_chunks
from hyperseg_jax.structs import IGNORED, DeviceArray
from hyperseg_jax.systems.pixels import normalize_padded
from hyperseg_jax.systems.sam.inference import prompts_of
from hyperseg_jax.systems.sca.model import Sca, SeenRegions
from hyperseg_jax.systems.system import Counts, Loss, Metrics


def make_counts(model: Sca, config: ml_collections.ConfigDict) -> Callable[[Batch], Counts]:
    """Returns f(batch) -> the number of supervised tokens, and of masks if they are supervised."""

    def count(batch: Batch) -> Counts:
        counts = {"tokens": (labels_of(batch) != IGNORED).sum()}
        if _supervises_masks(config, batch):
            counts["masks"] = _has_mask(batch).sum()
        return jax.tree.map(lambda number: number.astype(jnp.float32), counts)

    return count


def _supervises_masks(config: ml_collections.ConfigDict, batch: Batch) -> bool:
    return bool(config.loss.get("mask")) and "region_masks" in batch


def _has_mask(batch: Batch) -> Bool[jax.Array, "B R"]:
    """Returns which regions have a mask that is not empty."""
    return batch["region_masks"].any((2, 3)) & batch["region_valid"] & ~batch["bad"][:, None]


def mask_loss(
    logits: Float[DeviceArray, "B R h w"], targets: Bool[DeviceArray, "B R H W"], has_mask: Bool[DeviceArray, "B R"]
) -> Float32[jax.Array, ""]:
    """Returns the sum over masks of binary cross-entropy and dice. H and W are multiples of h and w; a cell belongs to a mask
    if most of its pixels do."""
    h, w = logits.shape[2:]
    cells = reduce(targets.astype(jnp.float32), "b r (h y) (w x) -> b r (h w)", "mean", h=h, w=w)
    given, target = rearrange(logits, "b r h w -> b r (h w)"), (cells > 0.5).astype(jnp.float32)
    return jnp.where(has_mask, mask_bce(given, target) + mask_dice(given, target), 0).sum()


def labels_of(batch: Batch) -> Int[jax.Array, "M T"]:
    """Returns the target tokens of all regions; IGNORED at padding, and for unreadable examples and absent regions."""
    supervised = batch["caption_mask"] & ~batch["bad"][:, None, None] & batch["region_valid"][..., None]
    return rearrange(jnp.where(supervised, batch["caption_ids"], IGNORED), "b r t -> (b r) t")


def check_masks(config: ml_collections.ConfigDict) -> None:
    """Raises UserError if the loss has masks, but no task in training reads any."""
    weight = config.loss.get("mask")
    if weight and not any(block.get("masks") for block in config.data.tasks.values() if block.ratio):
        raise UserError(
            f"loss.mask = {weight}: no task in training has masks; give 0, or set data.tasks.TASK.masks = 1 and masks = True of"
            " its reader"
        )


def make_loss(model: Sca, config: ml_collections.ConfigDict) -> Loss:
    """Returns the Loss: the cross-entropy of the target tokens, averaged over those of the batch, and with config.loss.mask,
    which is 0 as published, mask_loss averaged over the masks. The dropout of the language model is active, although it is
    frozen, as published. Raises UserError if masks are supervised, but no task reads any."""
    check_masks(config)
    smoothing = config.loss.label_smoothing

    def head_logits(head: Any, hidden: jax.Array) -> jax.Array:
        logits: jax.Array = model.apply({"params": head}, hidden, method="logits")  # type: ignore[assignment]
        return logits

    def loss(params: Any, batch: Batch, key: PRNGKeyArray, counts: Counts) -> tuple[Float32[jax.Array, ""], Metrics]:
        apply: Any = lambda *inputs, **options: model.apply({"params": params}, *inputs, **options)
        image = apply(normalize_padded(batch["images"][:, 0], batch["filled"]), method="encode_image")
        seen: SeenRegions = apply(image, prompts_of(batch), batch["task"], method="see")
        ids, mask = batch["caption_ids"], batch["caption_mask"]
        hidden = apply(seen.prefix, ids, mask, False, rngs={"dropout": key}, method="read")
        hidden, labels = rearrange(hidden, "b r t d -> (b r) t d"), labels_of(batch)
        head = {"llm": {name: part for name, part in params["llm"].items() if name in ("tokens", "head")}}
        total = text_cross_entropy_in_chunks(
            head_logits,
            head,
            hidden,
            jnp.pad(labels, ((0, 0), (1, 0)), constant_values=IGNORED),
            weights=jnp.full(len(labels), 1 / jnp.maximum(counts["tokens"], 1)),
            smoothing=smoothing,
        )
        if not _supervises_masks(config, batch):
            return total, {"caption": total}
        masks = mask_loss(seen.masks.mask_logits[:, :, 0], batch["region_masks"], _has_mask(batch))
        masks /= jnp.maximum(counts["masks"], 1)
        return total + config.loss.mask * masks, {"caption": total, "mask": masks}

    return loss
