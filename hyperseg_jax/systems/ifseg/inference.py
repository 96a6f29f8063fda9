"""IFSeg inference: encodes images once, and returns how well their cells match each class of a list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from hyperseg_jax.data.processor import Batch, Encoding
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops.neighbours import nearest_cells, smooth
from hyperseg_jax.systems.ifseg import inputs
from hyperseg_jax.systems.ifseg.model import Cells, IfSeg
from hyperseg_jax.systems.ifseg.scores import cell_logits, present_classes
from hyperseg_jax.systems.system import Predict


def make_encodings(model: IfSeg, config: ml_collections.ConfigDict) -> dict[str, Encoding]:
    """Returns the Encoding of images."""
    return {"image": Encoding(lambda params, part, features: inputs.cells_of(model, params, part))}


def make_predict(model: IfSeg, config: ml_collections.ConfigDict) -> Predict:
    """Returns the Predict function, for batches with one class list per image.

    Outputs: mask_logits [B, 1, 1, C, h, w], the logits of each class in the cells of the canvas, or with
    config.model.smoothing.rounds their probabilities, which are averaged over similar cells; averaged [B, 1, 1], whether they
    are; class_valid [B, 1, 1, C]. Raises UserError if the smoothing is invalid.
    """
    smoothing = config.model.smoothing
    if smoothing.neighbours < 1 or smoothing.rounds < 0:
        given = f"neighbours = {smoothing.neighbours}, rounds = {smoothing.rounds}"
        raise UserError(f"model.smoothing: {given}: give at least one neighbour, and 0 rounds or more")

    def predict_batch(
        params: Any, batch: Batch, features: Mapping[str, Any], memory: None = None
    ) -> tuple[dict[str, jax.Array], None]:
        cells: Cells = features["image"] if "image" in features else inputs.cells_of(model, params, batch)
        classes = inputs.classes_of(batch)
        scores = cell_logits(model, params, cells, classes)
        if smoothing.rounds:
            scores = jax.vmap(lambda feature, valid, logits: smooth_scores(feature, valid, logits, **smoothing))(
                cells.feature, cells.canvas.valid, scores
            )
        by_class = scores.reshape(len(scores), *cells.canvas.grid, -1).transpose(0, 3, 1, 2)
        averaged = jnp.full(len(scores), smoothing.rounds > 0)
        outputs = {"mask_logits": by_class, "averaged": averaged, "class_valid": present_classes(classes.of_name)}
        return {name: value[:, None, None] for name, value in outputs.items()}, None

    return predict_batch


def smooth_scores(feature: jax.Array, valid: jax.Array, logits: jax.Array, *, neighbours: int, rounds: int) -> jax.Array:
    """Returns the class probabilities of the cells of an image, averaged over similar cells."""
    return smooth(jax.nn.softmax(logits, axis=-1), nearest_cells(feature, neighbours, valid), rounds)
