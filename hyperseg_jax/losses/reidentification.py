"""Teaching embeddings to know an instance again in another frame (IDOL, Wu et al. 2022).

HyperSeg ships the choice of positives without the loss; the loss is IDOL's. Q queries of the other frame are judged against N
padded targets there; every shape is static.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32, Int, PRNGKeyArray

from hyperseg_jax.losses.masks import MASKED
from hyperseg_jax.structs import DeviceArray

OUTSIDE_PRICE, FAR_PRICE, TAKEN_PRICE = 100.0, 1e4, 1e5  # added to costs, so that they come last in this order
CENTRE_RADIUS = 2.5 / 32  # half the side of the square around a target's centre, in widths of the image


@flax.struct.dataclass
class ReidTargets:
    """positive, negative: the queries that show each target and those that surely do not. Neither holds for
    queries that may overlap it, and for rows of padding."""

    positive: Bool[DeviceArray, "N Q"]
    negative: Bool[DeviceArray, "N Q"]


def choose_queries(
    boxes: Float[DeviceArray, "Q 4"],
    class_probability: Float[DeviceArray, "Q C"],
    target_boxes: Float[DeviceArray, "N 4"],
    labels: Int[DeviceArray, " N"],
    valid: Bool[DeviceArray, " N"],
) -> ReidTargets:
    """The queries of a frame that show each target, by an assignment like SimOTA's (get_pos_idx of the published code).

    boxes, target_boxes: in cxcywh of 0..1. class_probability: in 0..1.
    A query costs 3 * -GIoU, and more where its centre is not near the target's. The k cheapest are positive, with k the
    summed IoU of the 10 that overlap it most; the k for 30 may not be negative. The focal cost of a target's class is a mean
    over all queries, as in the published code with whole-number labels: it only tells which of several targets gets a query.
    """
    cost, iou = assignment_cost(boxes, class_probability, target_boxes, labels, valid)
    positive, cost = cheapest(cost, iou, valid, 10)
    near, _ = cheapest(cost, iou, valid, 30)
    return ReidTargets(positive, valid[:, None] & ~near)


def assignment_cost(
    boxes: Float[DeviceArray, "Q 4"],
    class_probability: Float[DeviceArray, "Q C"],
    target_boxes: Float[DeviceArray, "N 4"],
    labels: Int[DeviceArray, " N"],
    valid: Bool[DeviceArray, " N"],
) -> tuple[Float[jax.Array, "Q N"], Float[jax.Array, "Q N"]]:
    """(cost, IoU) of every query with every target; arguments as in choose_queries."""
    p = class_probability.astype(jnp.float32)
    focal = 0.25 * (1 - p) ** 2 * -jnp.log(p + 1e-8) - 0.75 * p**2 * -jnp.log(1 - p + 1e-8)
    iou, giou = box_overlaps(boxes, target_boxes)
    offset = jnp.abs(boxes[:, None, :2] - target_boxes[:, :2])
    in_box = (offset < target_boxes[:, 2:] / 2).all(-1)
    in_centre = (offset < CENTRE_RADIUS).all(-1)
    somewhere = ((in_box | in_centre) & valid).any(1, keepdims=True)
    cost = focal.mean(0)[labels] - 3.0 * giou + OUTSIDE_PRICE * ~(in_box & in_centre) + FAR_PRICE * ~somewhere
    return cost, iou


def box_overlaps(
    boxes: Float[DeviceArray, "Q 4"], others: Float[DeviceArray, "N 4"]
) -> tuple[Float32[jax.Array, "Q N"], Float32[jax.Array, "Q N"]]:
    """(IoU, generalised IoU) of every pair of boxes in cxcywh."""
    corners = lambda b: (b[..., :2] - b[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2)
    (low, high), (other_low, other_high) = corners(boxes[:, None].astype(jnp.float32)), corners(others.astype(jnp.float32))
    area = lambda size: jnp.prod(jnp.maximum(size, 0), axis=-1)
    shared = area(jnp.minimum(high, other_high) - jnp.maximum(low, other_low))
    union = area(high - low) + area(other_high - other_low) - shared
    hull = area(jnp.maximum(high, other_high) - jnp.minimum(low, other_low))
    iou = shared / jnp.maximum(union, 1e-12)
    return iou, iou - (hull - union) / jnp.maximum(hull, 1e-12)


def cheapest(
    cost: Float[DeviceArray, "Q N"], iou: Float[DeviceArray, "Q N"], valid: Bool[DeviceArray, " N"], candidates: int
) -> tuple[Bool[jax.Array, "N Q"], Float[jax.Array, "Q N"]]:
    """The k cheapest queries of each target, k its summed IoU with the `candidates` queries that overlap it most, at least 1.

    A query that several targets want goes to the one for which it is cheapest; a target left without any takes the cheapest
    that is free. The costs come back with what that search added to queries already taken.
    """
    queries, targets = cost.shape
    most = jax.lax.top_k(iou.T, min(candidates, queries))[0].sum(-1)
    wanted = jnp.maximum(most.astype(jnp.int32), 1)
    rank = jnp.argsort(jnp.argsort(cost, axis=0, stable=True), axis=0)
    matched = (rank < wanted) & valid  # [Q, N]
    crowded = matched.sum(1, keepdims=True) > 1

    def cheapest_target(cost):
        priced = jnp.where(valid, cost, jnp.inf)
        return (jnp.argmin(priced, axis=1)[:, None] == jnp.arange(targets)) & valid

    def without(matched):
        return valid & ~matched.any(0)

    def give(_, state):
        matched, cost = state
        left = without(matched)
        cost = cost + jnp.where(matched.any(1, keepdims=True) & left.any(), TAKEN_PRICE, 0.0)
        matched |= left & (jnp.arange(queries)[:, None] == jnp.argmin(cost, axis=0))
        again = left.any() & (matched.sum(1) > 1).any()
        return jnp.where(crowded & again, cheapest_target(cost), matched), cost

    matched = jnp.where(crowded, cheapest_target(cost), matched)
    matched, cost = jax.lax.fori_loop(0, targets, give, (matched, cost))
    return matched.T, cost


def reidentification_loss(
    key_embeddings: Float[DeviceArray, "N D"],
    embeddings: Float[DeviceArray, "Q D"],
    targets: ReidTargets,
    valid: Bool[DeviceArray, " N"],
    *,
    key: PRNGKeyArray,
) -> tuple[Float32[jax.Array, ""], Float32[jax.Array, ""]]:
    """(contrast, cosine), each a mean over the valid targets; 0 where there is none.

    key_embeddings: of the query that was matched to each target in the key frame. embeddings: of the other frame's queries.
    contrast of a target: log(1 + sum over pairs of exp(negative - positive)) of dot products with its key
    embedding. cosine: the squared distance of cosines from 1 for positives and from 0 for negatives, of which 10 are drawn
    (by `key`) for each positive.
    """
    here, there = key_embeddings.astype(jnp.float32), embeddings.astype(jnp.float32)
    positive, negative = targets.positive & valid[:, None], targets.negative & valid[:, None]
    product = jnp.einsum("nd,qd->nq", here, there, precision="highest")
    hardest = lambda logits, chosen: jax.nn.logsumexp(jnp.where(chosen, logits, MASKED), axis=-1)
    contrast = jax.nn.softplus(hardest(product, negative) + hardest(-product, positive))

    unit = lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    cosine = jnp.einsum("nd,qd->nq", unit(here), unit(there), precision="highest")
    room = 10 * jnp.maximum(positive.sum(-1, keepdims=True), 1)
    drawn = jax.random.uniform(key, negative.shape)
    order = jnp.argsort(jnp.argsort(jnp.where(negative, drawn, 2.0), axis=-1), axis=-1)
    counted = positive | (negative & (order < room))
    distance = jnp.where(counted, (cosine - positive) ** 2, 0.0).sum(-1) / jnp.maximum(counted.sum(-1), 1)
    mean = lambda each: jnp.where(valid, each, 0.0).sum() / jnp.maximum(valid.sum(), 1)
    return mean(contrast), mean(distance)
