"""Which queries answer a prompt, and their masks at the image's own size, on the device: only what is chosen comes to the host.

Every function takes outputs about one prompt on one frame and gives arrays by name; masks are packed, eight pixels a byte.
Rules: HyperSeg's release for expressions, its parent (PSALM) for regions, Mask2Former's inference for class lists. Of class
lists, the last valid class is "background"."""

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
# How many were tried, and the best of them: number, score, logits.
_Tried = tuple[Int32[jax.Array, ""], Int32[jax.Array, ""], Float32[jax.Array, ""], Float32[jax.Array, "H W"]]


def mask_scores(logits: Float[DeviceArray, "*n H W"]) -> Float[jax.Array, "*n"]:
    """How sure a mask is of its own pixels: mean probability over positive pixels."""
    positive = logits > 0
    total = jnp.where(positive, jax.nn.sigmoid(logits), 0.0).sum((-2, -1))
    return total / (positive.sum((-2, -1)) + 1e-6)


def class_probabilities(logits: Float[DeviceArray, "Q C"], valid: Bool[DeviceArray, " C"]) -> Float[jax.Array, "Q C"]:
    """Softmax over the valid classes."""
    return jax.nn.softmax(jnp.where(valid, logits, -jnp.inf), axis=-1)


def best_query(
    masks: Float[DeviceArray, "Q h w"],
    scores: Float[DeviceArray, " Q"],
    resize: MaskResize,
    asked: Bool[DeviceArray, ""] | bool,
) -> tuple[Int32[jax.Array, ""], Float32[jax.Array, ""], Float32[jax.Array, "H W"]]:
    """(number, score, logits) of the query that answers best: sigmoid(score) * mask score.

    A mask score is at most 1. So queries are tried by falling score, each at the image's own size,
    until none that is left can be better: mostly one or two. asked: False tries none.
    """
    chance = jax.nn.sigmoid(scores)
    order = jnp.argsort(-chance, stable=True)
    count = jnp.where(asked, len(order), 0)

    def may_be_better(state: _Tried) -> Bool[jax.Array, ""]:
        tried, _, best, _ = state
        return (tried < count) & (chance[order[jnp.minimum(tried, len(order) - 1)]] >= best)

    def attempt(state: _Tried) -> _Tried:
        tried, number, best, logits = state
        query = order[tried]
        own = resize_masks(masks[query], resize)
        score = chance[query] * mask_scores(own)
        better = (score > best) | ((score == best) & (query < number))
        return tried + 1, jnp.where(better, query, number), jnp.maximum(score, best), jnp.where(better, own, logits)

    start = (jnp.int32(0), jnp.int32(len(order)), jnp.float32(-1), jnp.zeros(resize.inside.shape, jnp.float32))
    _, number, best, logits = jax.lax.while_loop(may_be_better, attempt, start)
    return number, best, logits


def expression(
    masks: Float[DeviceArray, "Q h w"],
    scores: Float[DeviceArray, " Q"],
    resize: MaskResize,
    *,
    asked: Bool[DeviceArray, ""] | bool,
    soft: bool,
    balanced: bool = False,
) -> Selected:
    """The best query of an expression: mask, score [], any [] whether the mask has a pixel, and
    present []: the probability that some query matches, their sum, since at most one does.

    soft: the mask as probabilities [H, W]. balanced: training weighed the one match as much as the Q - 1 misses
    (losses.scores.BalancedScores), which makes the scores log(Q - 1) too large; that is taken off before they are added."""
    _, score, logits = best_query(masks, scores, resize, asked)
    too_large = jnp.log(max(len(scores) - 1, 1)) if balanced else 0.0
    present = jax.nn.sigmoid(scores - too_large).sum()
    return {"mask": _shown(logits, soft), "score": score, "any": (logits > 0).any(), "present": present}


def regions(
    masks: Float[DeviceArray, "Q h w"],
    scores: Float[DeviceArray, "Q R"],
    resize: MaskResize,
    *,
    valid: Bool[DeviceArray, " R"],
    soft: bool,
) -> Selected:
    """The best query of each region: mask [R, ...], score [R]."""

    def one(given: tuple[Float[DeviceArray, " Q"], Bool[DeviceArray, ""]]) -> Selected:
        _, score, logits = best_query(masks, given[0], resize, given[1])
        return {"mask": _shown(logits, soft), "score": score}

    return jax.lax.map(one, (scores.T, valid))


def panoptic(
    masks: Float[DeviceArray, "Q h w"],
    logits: Float[DeviceArray, "Q C"],
    resize: MaskResize,
    *,
    valid: Bool[DeviceArray, " C"],
    object_threshold: Float[DeviceArray, ""] | np.floating | float,
    overlap_threshold: Float[DeviceArray, ""] | np.floating | float,
) -> Selected:
    """Segments without overlap: owner [H, W]: the number of each pixel's query, from 1, or 0;
    label [Q], score [Q], found [Q] whether the query has a segment. Parts of one stuff class are not joined yet."""
    probability = class_probabilities(logits, valid)
    score, label = probability.max(-1), probability.argmax(-1)
    kept = (label != valid.sum() - 1) & (score > object_threshold)
    nothing = jnp.full(resize.inside.shape, -1.0, jnp.float32)

    def chance(query: Int[DeviceArray, ""]) -> Float[jax.Array, "H W"]:
        """Probabilities of a query's mask, -1 where it is not kept and beyond the image."""
        own = lambda: jnp.where(resize.inside, jax.nn.sigmoid(resize_masks(masks[query], resize)), nothing)
        return jax.lax.cond(kept[query], own, lambda: nothing)

    def compete(
        state: tuple[DeviceArray, DeviceArray], query: Int[DeviceArray, ""]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        best, owner = state
        likely = chance(query)
        weighed = jnp.where(likely < 0, likely, score[query] * likely)
        better = weighed > best
        return (jnp.where(better, weighed, best), jnp.where(better, query, owner)), None

    def claim(taken: Int32[DeviceArray, "H W"], query: Int[DeviceArray, ""]) -> tuple[jax.Array, Bool[jax.Array, ""]]:
        whole, own = chance(query) >= 0.5, owner == query
        enough = own.sum() / jnp.maximum(whole.sum(), 1) >= overlap_threshold
        found = kept[query] & (own & whole).any() & enough
        return jnp.where(own & whole & found, query + 1, taken), found

    queries = jnp.arange(len(masks))
    (_, owner), _ = jax.lax.scan(compete, (nothing, jnp.full(nothing.shape, -1)), queries)
    taken, found = jax.lax.scan(claim, jnp.zeros(nothing.shape, jnp.int32), queries)
    return {"owner": taken.astype(_smallest(len(masks))), "label": label, "score": score, "found": found}


def best_pairs(
    logits: Float[DeviceArray, "Q C"], *, valid: Bool[DeviceArray, " C"], limit: int
) -> tuple[Int[jax.Array, " n"], Int[jax.Array, " n"], Float[jax.Array, " n"]]:
    """The most probable pairs of a query and a class, best first: queries, classes, probabilities, which are below 0
    where there are no more. Background is left out."""
    probability = class_probabilities(logits, valid)
    named = jnp.arange(logits.shape[-1]) < valid.sum() - 1
    flat = jnp.where(named, probability, -1.0).reshape(-1)
    best, pair = jax.lax.top_k(flat, min(limit, flat.size))
    return pair // logits.shape[-1], pair % logits.shape[-1], best


def instances(
    masks: Float[DeviceArray, "Q h w"],
    logits: Float[DeviceArray, "Q C"],
    resize: MaskResize,
    *,
    valid: Bool[DeviceArray, " C"],
    limit: int,
) -> Selected:
    """best_pairs with masks, which may overlap: query, label and score [n], score = class probability *
    mask score; there [n], False where there are no more pairs; mask [Q, ...]."""
    query, label, probability = best_pairs(logits, valid=valid, limit=limit)
    made = _every(masks, resize)
    found = {"query": query, "label": label, "score": probability * made["sure"][query], "there": probability >= 0}
    return {**found, "mask": made["mask"]}


def candidates(
    masks: Float[DeviceArray, "Q h w"],
    logits: Float[DeviceArray, "Q C"],
    embeddings: Float[DeviceArray, "Q D"],
    resize: MaskResize,
    *,
    valid: Bool[DeviceArray, " C"],
    limit: int,
) -> Selected:
    """The best queries of a frame, each once, for tracking: mask [n, ...], classes [n, C] class probability * mask
    score, any [n] whether it has a pixel, embedding [n, D]."""
    probability = jnp.where(jnp.arange(logits.shape[-1]) < valid.sum() - 1, class_probabilities(logits, valid), 0.0)
    _, best = jax.lax.top_k(probability.max(-1), min(limit, len(masks)))
    made = _every(masks[best], resize)
    classes = probability[best] * made["sure"][:, None]
    return {"mask": made["mask"], "classes": classes, "any": made["any"], "embedding": embeddings[best]}


def semantic(
    masks: Float[DeviceArray, "Q h w"], logits: Float[DeviceArray, "Q C"], resize: MaskResize, *, valid: Bool[DeviceArray, " C"]
) -> Selected:
    """The most probable class of each pixel: label [H, W]. Of each class, the sum over queries of class probability * mask
    probability counts (Mask2Former's semantic_inference). A few rows at a time: all classes at full size are much memory."""
    return {"label": by_rows(lambda sums: sums.argmax(0).astype(jnp.int16), masks, logits, resize, valid=valid)}


ROWS = 32
"""Of a canvas, looked at together; mask_resize.STEP is a multiple."""


def by_rows(
    make: Callable[[Float[jax.Array, "C ROWS W"]], Shaped[jax.Array, "*_ ROWS W"]],
    masks: Float[DeviceArray, "Q h w"],
    logits: Float[DeviceArray, "Q C"],
    resize: MaskResize,
    *,
    valid: Bool[DeviceArray, " C"],
) -> Shaped[jax.Array, "*_ H W"]:
    """make(sums [C, ROWS, W] of some rows) over all rows: [H, W], or [..., H, W]. The class sums of `semantic`."""
    probability = jnp.where(jnp.arange(logits.shape[-1]) < valid.sum() - 1, class_probabilities(logits, valid), 0.0)

    def some(block: tuple[Float[DeviceArray, "ROWS h"], Bool[DeviceArray, "ROWS W"]]) -> jax.Array:
        rows, inside = block
        own = resize_masks(masks, dataclasses.replace(resize, rows=rows, inside=inside))
        return make(jnp.einsum("qc,qhw->chw", probability, jax.nn.sigmoid(own), precision="highest"))

    blocks = tuple(side.reshape(-1, ROWS, side.shape[1]) for side in (resize.rows, resize.inside))
    made = jax.lax.map(some, blocks)  # [blocks, ..., ROWS, W]
    return jnp.moveaxis(made, 0, -3).reshape(*made.shape[1:-2], *resize.inside.shape)


def _every(masks: Float[DeviceArray, "Q h w"], resize: MaskResize) -> Selected:
    """Of each mask at the image's own size: the packed mask, how sure it is, and whether it has a pixel."""

    def one(mask: Float[DeviceArray, "h w"]) -> Selected:
        own = resize_masks(mask, resize)
        return {"mask": _shown(own, soft=False), "sure": mask_scores(own), "any": (own > 0).any()}

    return jax.lax.map(one, masks)


def _shown(logits: Float[DeviceArray, "H W"], soft: bool) -> jax.Array:
    return jax.nn.sigmoid(logits) if soft else jnp.packbits(logits > 0, axis=-1)


def _smallest(count: int) -> type:
    return jnp.uint8 if count < 256 else jnp.uint16
