"""The re-identification loss of instance embeddings between frames (IDOL, Wu et al. 2022).

HyperSeg's release selects positives but has no loss; the loss is IDOL's. Q queries of the reference frame are compared with N
padded targets; all shapes are static.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32, Int, PRNGKeyArray

from hyperseg_jax.losses.boxes import box_ious
from hyperseg_jax.losses.masks import MASKED
from hyperseg_jax.structs import DeviceArray

OUTSIDE_PENALTY, FAR_PENALTY, TAKEN_PENALTY = (
    100.0,
    1e4,
    1e5,
)  # added to costs, so that these pairs are chosen last, in this order
CENTRE_RADIUS = 2.5 / 32  # half the side of the square around a target's center, relative to the image width


@flax.struct.dataclass
class ReidTargets:
    """Positive and negative queries of each target. Queries that may overlap a target are neither, as are padding rows."""

    positive: Bool[DeviceArray, "*B N Q"]
    negative: Bool[DeviceArray, "*B N Q"]


def choose_queries(
    boxes: Float[DeviceArray, "Q 4"],
    class_probability: Float[DeviceArray, "Q C"],
    target_boxes: Float[DeviceArray, "N 4"],
    labels: Int[DeviceArray, " N"],
    valid: Bool[DeviceArray, " N"],
) -> ReidTargets:
    """Selects the positive and negative queries of each target, similar to SimOTA (get_pos_idx of the published code).

    boxes, target_boxes: cxcywh in 0..1. class_probability: in 0..1.
    The cost is 3 * -GIoU, plus penalties if the query center is not near the target center. The k cheapest queries are
    positive, with k the summed IoU of the 10 queries that overlap the target most; those for k of 30 are not negative. The
    focal cost of a target's class is averaged over all queries, as in the published code with integer labels, so it only
    decides which of several targets gets a query.
    """
    cost, iou = assignment_cost(boxes, class_probability, target_boxes, labels, valid)
    positive, cost = assign_cheapest_queries(cost, iou, valid, 10)
    near, _ = assign_cheapest_queries(cost, iou, valid, 30)
    return ReidTargets(positive, valid[:, None] & ~near)


def assignment_cost(
    boxes: Float[DeviceArray, "Q 4"],
    class_probability: Float[DeviceArray, "Q C"],
    target_boxes: Float[DeviceArray, "N 4"],
    labels: Int[DeviceArray, " N"],
    valid: Bool[DeviceArray, " N"],
) -> tuple[Float[jax.Array, "Q N"], Float[jax.Array, "Q N"]]:
    """Returns (cost, IoU) of every query with every target. The cost is described in `choose_queries`, as are the arguments."""
    p = class_probability.astype(jnp.float32)
    focal = 0.25 * (1 - p) ** 2 * -jnp.log(p + 1e-8) - 0.75 * p**2 * -jnp.log(1 - p + 1e-8)
    iou, giou = box_overlaps(boxes, target_boxes)
    offset = jnp.abs(boxes[:, None, :2] - target_boxes[:, :2])
    in_box = (offset < target_boxes[:, 2:] / 2).all(-1)
    in_centre = (offset < CENTRE_RADIUS).all(-1)
    somewhere = ((in_box | in_centre) & valid).any(1, keepdims=True)
    cost = focal.mean(0)[labels] - 3.0 * giou + OUTSIDE_PENALTY * ~(in_box & in_centre) + FAR_PENALTY * ~somewhere
    return cost, iou


def box_overlaps(
    boxes: Float[DeviceArray, "Q 4"], other_boxes: Float[DeviceArray, "N 4"]
) -> tuple[Float32[jax.Array, "Q N"], Float32[jax.Array, "Q N"]]:
    """Returns (IoU, generalized IoU) of every pair of boxes in cxcywh format."""
    return box_ious(boxes[:, None], other_boxes[None])


def assign_cheapest_queries(
    cost: Float[DeviceArray, "Q N"], iou: Float[DeviceArray, "Q N"], valid: Bool[DeviceArray, " N"], candidates: int
) -> tuple[Bool[jax.Array, "N Q"], Float[jax.Array, "Q N"]]:
    """Assigns to each target its k cheapest queries; k is the sum of its `candidates` largest IoUs, at least 1. Returns (bool
    [N, Q], whether a query is assigned to a target, and the costs, with the penalties that this search added to assigned
    queries).

    A query that several targets would get is assigned to the one with the lowest cost; a target without queries gets the
    cheapest free one.
    """
    queries, targets = cost.shape
    iou_sums = jax.lax.top_k(iou.T, min(candidates, queries))[0].sum(-1)
    num_positives = jnp.maximum(iou_sums.astype(jnp.int32), 1)
    rank = jnp.argsort(jnp.argsort(cost, axis=0, stable=True), axis=0)
    matched = (rank < num_positives) & valid  # [Q, N]
    is_shared = matched.sum(1, keepdims=True) > 1

    def cheapest_target(cost):
        priced = jnp.where(valid, cost, jnp.inf)
        return (jnp.argmin(priced, axis=1)[:, None] == jnp.arange(targets)) & valid

    def is_unassigned(matched):
        return valid & ~matched.any(0)

    def assign_next(_, state):
        matched, cost = state
        unassigned = is_unassigned(matched)
        cost = cost + jnp.where(matched.any(1, keepdims=True) & unassigned.any(), TAKEN_PENALTY, 0.0)
        matched |= unassigned & (jnp.arange(queries)[:, None] == jnp.argmin(cost, axis=0))
        has_conflicts = unassigned.any() & (matched.sum(1) > 1).any()
        return jnp.where(is_shared & has_conflicts, cheapest_target(cost), matched), cost

    matched = jnp.where(is_shared, cheapest_target(cost), matched)
    matched, cost = jax.lax.fori_loop(0, targets, assign_next, (matched, cost))
    return matched.T, cost


def reidentification_loss(
    key_embeddings: Float[DeviceArray, "N D"],
    embeddings: Float[DeviceArray, "Q D"],
    targets: ReidTargets,
    valid: Bool[DeviceArray, " N"],
    *,
    key: PRNGKeyArray,
) -> tuple[Float32[jax.Array, ""], Float32[jax.Array, ""]]:
    """Returns (contrast, cosine), each averaged over the valid targets; 0 if there are none.

    key_embeddings: of the query matched to each target in the key frame. embeddings: of the queries of the reference frame.
    contrast: log(1 + sum over pairs of exp(negative - positive)) of dot products with the key embedding. cosine: the squared
    distance of cosine similarities from 1 for positives and from 0 for negatives; 10 negatives are sampled (with `key`) for
    each positive.
    """
    keys, references = key_embeddings.astype(jnp.float32), embeddings.astype(jnp.float32)
    positive, negative = targets.positive & valid[:, None], targets.negative & valid[:, None]
    dot_products = jnp.einsum("nd,qd->nq", keys, references, precision="highest")
    masked_logsumexp = lambda logits, mask: jax.nn.logsumexp(jnp.where(mask, logits, MASKED), axis=-1)
    contrast = jax.nn.softplus(masked_logsumexp(dot_products, negative) + masked_logsumexp(-dot_products, positive))

    unit = lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    cosine = jnp.einsum("nd,qd->nq", unit(keys), unit(references), precision="highest")
    num_negatives = 10 * jnp.maximum(positive.sum(-1, keepdims=True), 1)
    drawn = jax.random.uniform(key, negative.shape)
    order = jnp.argsort(jnp.argsort(jnp.where(negative, drawn, 2.0), axis=-1), axis=-1)
    included = positive | (negative & (order < num_negatives))
    distance = jnp.where(included, (cosine - positive) ** 2, 0.0).sum(-1) / jnp.maximum(included.sum(-1), 1)
    mean = lambda each: jnp.where(valid, each, 0.0).sum() / jnp.maximum(valid.sum(), 1)
    return mean(contrast), mean(distance)
