"""IFSeg's training losses: the cross-entropy of the pixels of images of words, or of labelled images; and for images with
captions, which of their words are seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Float, Float32, PRNGKeyArray

from hyperseg_jax.data.processor import Batch
from hyperseg_jax.llms.grid_positions import Grid
from hyperseg_jax.losses.pixels import pixel_cross_entropy
from hyperseg_jax.losses.words import word_presence_loss
from hyperseg_jax.ops.sampling import linear_weights
from hyperseg_jax.structs import IGNORED
from hyperseg_jax.systems.ifseg import inputs
from hyperseg_jax.systems.ifseg.model import IfSeg
from hyperseg_jax.systems.ifseg.scores import cell_logits, word_cosines
from hyperseg_jax.systems.system import Counts, Loss, Metrics


def make_counts(model: IfSeg, config: ml_collections.ConfigDict) -> Callable[[Batch], Counts]:
    """Returns f(batch) -> the number of supervised pixels, or of images with captions."""

    def counts(batch: Batch) -> Counts:
        if "caption_words" in batch:
            return {"images": (~batch["bad"]).sum().astype(jnp.float32)}
        return {"pixels": inputs.supervised_pixels(batch).sum().astype(jnp.float32)}

    return counts


def to_pixels(batch: Batch, grid: Grid) -> tuple[Float[jax.Array, "B H h"], Float[jax.Array, "B W w"]]:
    """Returns the matrices that resize the cells of each image to its target, over which they are stretched. grid: of the
    canvas."""
    labels = batch["labels"]
    cells, sizes = inputs.sizes_of(batch)
    rows, columns = (
        jax.vmap(lambda count, size, shape=(labels.shape[axis + 1], grid[axis]): linear_weights(count, size, shape))(
            cells[:, axis], sizes[:, axis]
        )
        for axis in (0, 1)
    )
    return rows, columns


def make_loss(model: IfSeg, config: ml_collections.ConfigDict) -> Loss:
    """Returns the Loss: the cross-entropy of bilinearly resized logits, averaged over the supervised pixels of the batch; of
    images with captions, word_presence_loss of all tokens of the vocabulary, averaged over the images (ours: IFSeg starts from
    OFA, whose cells and words fit each other)."""

    def word_loss(params: Any, batch: Batch, counts: Counts) -> tuple[Float32[jax.Array, ""], Metrics]:
        cells = inputs.cells_of(model, params, batch)
        cosines = word_cosines(model, params, cells)
        loss = word_presence_loss(cosines, cells.canvas.valid, inputs.present_words(batch, cosines.shape[-1]))
        total = jnp.where(batch["bad"], 0, loss).sum() / jnp.maximum(counts["images"], 1)
        return total, {"words": total}

    def loss(params: Any, batch: Batch, key: PRNGKeyArray, counts: Counts) -> tuple[Float32[jax.Array, ""], Metrics]:
        if "caption_words" in batch:
            return word_loss(params, batch, counts)
        classes = inputs.classes_of(batch)
        cells = inputs.cells_of(model, params, batch)
        grid = cells.canvas.grid
        logits = cell_logits(model, params, cells, classes, key=key)
        labels = jnp.where(inputs.supervised_pixels(batch), batch["labels"], IGNORED)
        summed = pixel_cross_entropy(logits.reshape(len(logits), *grid, -1), labels, *to_pixels(batch, grid))
        total = summed.sum() / jnp.maximum(counts["pixels"], 1)
        return total, {"pixel": total}

    return loss
