"""Selects the queries that answer a prompt, and their masks at the image size, on the device.

Only the selected masks are copied to the host. Every function takes the outputs of one prompt on one frame and returns arrays
by name; masks are packed, eight pixels per byte. The rules are those of HyperSeg's release for expressions, its parent (PSALM)
for regions, and Mask2Former's inference for class lists. The last valid class of a class list is "background"."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32, Shaped

from hyperseg_jax.results.mask_resize import MaskResize, resize_masks
from hyperseg_jax.structs import DeviceArray

Selected = dict[str, Shaped[jax.Array, "*_"]]
# Loop state: number of queries tried, then the best query so far: index, score, logits.
_SearchState = tuple[Int32[jax.Array, ""], Int32[jax.Array, ""], Float32[jax.Array, ""], Float32[jax.Array, "H W"]]


def mask_scores(logits: Float[DeviceArray, "*n H W"]) -> Float[jax.Array, "*n"]:
    """Returns the confidence of each mask: the mean probability over its positive pixels."""
    positive = logits > 0
    total = jnp.where(positive, jax.nn.sigmoid(logits), 0.0).sum((-2, -1))
    return total / (positive.sum((-2, -1)) + 1e-6)


def class_probabilities(logits: Float[DeviceArray, "Q C"], valid: Bool[DeviceArray, " C"]) -> Float[jax.Array, "Q C"]:
    """Returns the softmax over the valid classes."""
    return jax.nn.softmax(jnp.where(valid, logits, -jnp.inf), axis=-1)


def object_classes(valid: Bool[DeviceArray, " C"]) -> Bool[jax.Array, " C"]:
    """Returns the valid classes without the last one, which is the background. There may be gaps between valid classes."""
    return valid & (jnp.cumsum(valid) < valid.sum())


def find_best_query(
    masks: Float[DeviceArray, "Q h w"],
    scores: Float[DeviceArray, " Q"],
    resize: MaskResize,
    enabled: Bool[DeviceArray, ""] | bool,
) -> tuple[Int32[jax.Array, ""], Float32[jax.Array, ""], Float32[jax.Array, "H W"]]:
    """Returns (index, score, logits) of the best query; the score is sigmoid(scores) * mask score.

    A mask score is at most 1. Queries are tried by descending score, each at the image size, until no remaining query can be
    better, which usually takes one or two. enabled: if False, no query is tried.
    """
    probability = jax.nn.sigmoid(scores)
    order = jnp.argsort(-probability, stable=True)
    count = jnp.where(enabled, len(order), 0)

    def can_improve(search_state: _SearchState) -> Bool[jax.Array, ""]:
        tried, _, best, _ = search_state
        return (tried < count) & (probability[order[jnp.minimum(tried, len(order) - 1)]] >= best)

    def try_next(search_state: _SearchState) -> _SearchState:
        tried, index, best, logits = search_state
        query = order[tried]
        resized = resize_masks(masks[query], resize)
        score = probability[query] * mask_scores(resized)
        better = (score > best) | ((score == best) & (query < index))
        return tried + 1, jnp.where(better, query, index), jnp.maximum(score, best), jnp.where(better, resized, logits)

    start = (jnp.int32(0), jnp.int32(len(order)), jnp.float32(-1), jnp.zeros(resize.inside.shape, jnp.float32))
    _, index, best, logits = jax.lax.while_loop(can_improve, try_next, start)
    return index, best, logits


def select_expression(
    masks: Float[DeviceArray, "Q h w"],
    scores: Float[DeviceArray, " Q"],
    resize: MaskResize,
    *,
    enabled: Bool[DeviceArray, ""] | bool,
    soft: bool,
    balanced: bool = False,
) -> Selected:
    """Selects the best query of an expression.

    Returns mask; score []; any [], True if the mask is not empty; present [], the probability that some query matches, which
    is the sum over the queries since at most one matches.
    enabled: if False, no query is tried. soft: return the mask as probabilities [H, W]. balanced: training weighted the one
    matched query as much as the Q - 1 others (losses.scores.BalancedScores), which makes scores too large by log(Q - 1);
    this bias is subtracted before summing.
    """
    _, score, logits = find_best_query(masks, scores, resize, enabled)
    bias = jnp.log(max(len(scores) - 1, 1)) if balanced else 0.0
    present = jax.nn.sigmoid(scores - bias).sum()
    return {"mask": _output_mask(logits, soft), "score": score, "any": (logits > 0).any(), "present": present}


def select_regions(
    masks: Float[DeviceArray, "Q h w"],
    scores: Float[DeviceArray, "Q R"],
    resize: MaskResize,
    *,
    valid: Bool[DeviceArray, " R"],
    soft: bool,
) -> Selected:
    """Selects the best query of each region. Returns mask [R, ...] and score [R]."""

    def select_region(inputs: tuple[Float[DeviceArray, " Q"], Bool[DeviceArray, ""]]) -> Selected:
        _, score, logits = find_best_query(masks, inputs[0], resize, inputs[1])
        return {"mask": _output_mask(logits, soft), "score": score}

    return jax.lax.map(select_region, (scores.T, valid))


def select_own_masks(
    masks: Float[DeviceArray, "R h w"],
    scores: Float[DeviceArray, " R"],
    resize: MaskResize,
    *,
    valid: Bool[DeviceArray, " R"],
    soft: bool,
) -> Selected:
    """Selects the mask of each region if the system answers each with one mask. Returns mask [R, ...] and score [R], 0 for
    padding."""

    def select_region(inputs: tuple[Float[DeviceArray, "h w"], Float[DeviceArray, ""], Bool[DeviceArray, ""]]) -> Selected:
        mask, score, is_valid = inputs
        nothing = jnp.full(resize.inside.shape, -jnp.inf, jnp.float32)
        logits = jax.lax.cond(is_valid, lambda: resize_masks(mask, resize), lambda: nothing)
        return {"mask": _output_mask(logits, soft), "score": jax.nn.sigmoid(score) * mask_scores(logits)}

    return jax.lax.map(select_region, (masks, scores, valid))


def select_panoptic(
    masks: Float[DeviceArray, "Q h w"],
    logits: Float[DeviceArray, "Q C"],
    resize: MaskResize,
    *,
    valid: Bool[DeviceArray, " C"],
    object_threshold: Float[DeviceArray, ""] | np.floating | float,
    overlap_threshold: Float[DeviceArray, ""] | np.floating | float,
) -> Selected:
    """Selects segments without overlap.

    Returns owner [H, W], the index of the query of each pixel plus 1, 0 for none; label [Q]; score [Q]; found [Q], True if the
    query has a segment. Segments of one stuff class are not merged yet.
    """
    probability = class_probabilities(logits, valid)
    score, label = probability.max(-1), probability.argmax(-1)
    accepted = object_classes(valid)[label] & (score > object_threshold)
    nowhere = jnp.full(resize.inside.shape, -jnp.inf, jnp.float32)

    def mask_logits(query: Int[DeviceArray, ""]) -> Float[jax.Array, "H W"]:
        """Returns the mask logits of a query; -inf beyond the image and for rejected queries."""
        resized = lambda: jnp.where(resize.inside, resize_masks(masks[query], resize), nowhere)
        return jax.lax.cond(accepted[query], resized, lambda: nowhere)

    def compete(
        state: tuple[DeviceArray, DeviceArray], query: Int[DeviceArray, ""]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        best, owner = state
        weighted = score[query] / (1 + jnp.exp(-mask_logits(query)))  # rounds once less than score * sigmoid
        better = weighted > best
        return (jnp.where(better, weighted, best), jnp.where(better, query, owner)), None

    def claim(segment_map: Int32[DeviceArray, "H W"], query: Int[DeviceArray, ""]) -> tuple[jax.Array, Bool[jax.Array, ""]]:
        mask, owned = jax.nn.sigmoid(mask_logits(query)) >= 0.5, owner == query
        visible_enough = owned.sum() / jnp.maximum(mask.sum(), 1) >= overlap_threshold
        found = accepted[query] & (owned & mask).any() & visible_enough
        return jnp.where(owned & mask & found, query + 1, segment_map), found

    queries = jnp.arange(len(masks))
    (_, owner), _ = jax.lax.scan(compete, (jnp.zeros_like(nowhere), jnp.full(nowhere.shape, -1)), queries)
    segment_map, found = jax.lax.scan(claim, jnp.zeros(nowhere.shape, jnp.int32), queries)
    return {"owner": segment_map.astype(_smallest_dtype(len(masks))), "label": label, "score": score, "found": found}


def find_best_pairs(
    logits: Float[DeviceArray, "Q C"], *, valid: Bool[DeviceArray, " C"], limit: int
) -> tuple[Int[jax.Array, " n"], Int[jax.Array, " n"], Float[jax.Array, " n"]]:
    """Returns (queries, classes, probabilities) of the most probable query-class pairs, best first.

    Background is excluded. Probabilities are negative for padding, if there are fewer than `limit` pairs.
    """
    probability = class_probabilities(logits, valid)
    flat = jnp.where(object_classes(valid), probability, -1.0).reshape(-1)
    best, pair = jax.lax.top_k(flat, min(limit, flat.size))
    return pair // logits.shape[-1], pair % logits.shape[-1], best


def select_instances(
    masks: Float[DeviceArray, "Q h w"],
    logits: Float[DeviceArray, "Q C"],
    resize: MaskResize,
    *,
    valid: Bool[DeviceArray, " C"],
    limit: int,
) -> Selected:
    """Selects instances, which may overlap, from the result of `find_best_pairs`.

    Returns query, label and score [n], with score = class probability * mask score; valid [n], False for padding; and
    mask [Q, ...].
    """
    query, label, probability = find_best_pairs(logits, valid=valid, limit=limit)
    resized = _resize_all(masks, resize)
    selected = {"query": query, "label": label, "score": probability * resized["mask_score"][query], "valid": probability >= 0}
    return {**selected, "mask": resized["mask"]}


def select_candidates(
    masks: Float[DeviceArray, "Q h w"],
    logits: Float[DeviceArray, "Q C"],
    embeddings: Float[DeviceArray, "Q D"],
    resize: MaskResize,
    *,
    valid: Bool[DeviceArray, " C"],
    limit: int,
) -> Selected:
    """Selects the best queries of a frame for tracking, each once.

    Returns mask [n, ...]; classes [n, C], class probability * mask score; any [n], True if the mask is not empty;
    embedding [n, D].
    """
    probability = jnp.where(object_classes(valid), class_probabilities(logits, valid), 0.0)
    _, best = jax.lax.top_k(probability.max(-1), min(limit, len(masks)))
    resized = _resize_all(masks[best], resize)
    classes = probability[best] * resized["mask_score"][:, None]
    return {"mask": resized["mask"], "classes": classes, "any": resized["any"], "embedding": embeddings[best]}


def select_semantic(
    masks: Float[DeviceArray, "Q h w"], logits: Float[DeviceArray, "Q C"], resize: MaskResize, *, valid: Bool[DeviceArray, " C"]
) -> Selected:
    """Returns label [H, W], the most probable class of each pixel.

    The score of a class is the sum over queries of class probability * mask probability (Mask2Former's semantic_inference).
    Rows are processed in blocks, because all classes at full size need too much memory.
    """
    return {
        "label": reduce_class_scores_by_rows(lambda sums: sums.argmax(0).astype(jnp.int16), masks, logits, resize, valid=valid)
    }


def select_best_mask(
    masks: Float[DeviceArray, "C h w"],
    resize: MaskResize,
    *,
    valid: Bool[DeviceArray, " C"],
    are_probabilities: Bool[DeviceArray, ""] | None = None,
) -> Selected:
    """Returns label [H, W], the number of the valid mask with the highest value at each pixel, in blocks of rows.

    are_probabilities: whether the masks are probabilities, or logits of a softmax. If given, also returns score [H, W], the
    probability of this mask.
    """

    def best_of_block(block: tuple[Float[DeviceArray, "ROWS h"], Bool[DeviceArray, "ROWS W"]]) -> Selected:
        rows, inside = block
        resized = resize_masks(masks, dataclasses.replace(resize, rows=rows, inside=inside))
        values = jnp.where(valid[:, None, None], resized, -jnp.inf)
        best = {"label": values.argmax(0).astype(jnp.int16)}
        if are_probabilities is not None:
            highest = values.max(0)
            best["score"] = jnp.where(are_probabilities, highest, 1 / jnp.exp(values - highest).sum(0))
        return best

    blocks = tuple(side.reshape(-1, ROWS, side.shape[1]) for side in (resize.rows, resize.inside))
    return jax.tree.map(lambda array: array.reshape(resize.inside.shape), jax.lax.map(best_of_block, blocks))


ROWS = 32
"""Canvas rows per block; must divide mask_resize.STEP."""


def reduce_class_scores_by_rows(
    reduce: Callable[[Float[jax.Array, "C ROWS W"]], Shaped[jax.Array, "*_ ROWS W"]],
    masks: Float[DeviceArray, "Q h w"],
    logits: Float[DeviceArray, "Q C"],
    resize: MaskResize,
    *,
    valid: Bool[DeviceArray, " C"],
) -> Shaped[jax.Array, "*_ H W"]:
    """Applies reduce(class scores [C, ROWS, W]) to each block of ROWS rows, and joins the results to [..., H, W]."""
    probability = jnp.where(object_classes(valid), class_probabilities(logits, valid), 0.0)

    def reduce_block(block: tuple[Float[DeviceArray, "ROWS h"], Bool[DeviceArray, "ROWS W"]]) -> jax.Array:
        rows, inside = block
        resized = resize_masks(masks, dataclasses.replace(resize, rows=rows, inside=inside))
        return reduce(jnp.einsum("qc,qhw->chw", probability, jax.nn.sigmoid(resized), precision="highest"))

    blocks = tuple(side.reshape(-1, ROWS, side.shape[1]) for side in (resize.rows, resize.inside))
    reduced = jax.lax.map(reduce_block, blocks)  # [blocks, ..., ROWS, W]
    return jnp.moveaxis(reduced, 0, -3).reshape(*reduced.shape[1:-2], *resize.inside.shape)


def resize_each(masks: Float[DeviceArray, "N h w"], resize: MaskResize, *, soft: bool) -> Shaped[jax.Array, "N _ _"]:
    """Resizes masks to the image one by one: packed, or with soft as probabilities."""
    return jax.lax.map(lambda mask: _output_mask(resize_masks(mask, resize), soft), masks)


def _resize_all(masks: Float[DeviceArray, "Q h w"], resize: MaskResize) -> Selected:
    """Resizes each mask to the image; returns the packed masks, their scores, and whether they are not empty."""

    def resize_one(mask: Float[DeviceArray, "h w"]) -> Selected:
        resized = resize_masks(mask, resize)
        return {"mask": _output_mask(resized, soft=False), "mask_score": mask_scores(resized), "any": (resized > 0).any()}

    return jax.lax.map(resize_one, masks)


def _output_mask(logits: Float[DeviceArray, "H W"], soft: bool) -> jax.Array:
    return jax.nn.sigmoid(logits) if soft else jnp.packbits(logits > 0, axis=-1)


def _smallest_dtype(count: int) -> type:
    return jnp.uint8 if count < 256 else jnp.uint16
