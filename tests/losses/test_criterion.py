"""The objective: padding and mixing of kinds never change it, shards add up, gradients are finite."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import apart

from hyperseg_jax.losses import BalancedScores, ClassScores, MaskCriterion, MaskTargets, draw_points
from hyperseg_jax.losses.points import sample_masks, sample_segments, uncertain_points
from hyperseg_jax.ops.segment_maps import number_masks
from hyperseg_jax.structs import MaskPrediction

QUERIES, CLASSES, REGIONS, STAGES = 7, 5, 3, 2
SHAPES = {"expression": (), "class": (CLASSES,), "region": (REGIONS,)}
SCORES = {"expression": BalancedScores(), "class": ClassScores(), "region": BalancedScores()}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def draw(rng, rows, targets, kinds):
    """A prediction of all kinds of scores, targets for rows of the given kinds, and points for them."""
    stages = [
        {
            "mask_logits": rng.normal(size=(rows, QUERIES, 6, 8)).astype(np.float32) * 3,
            "scores": {k: rng.normal(size=(rows, QUERIES, *SHAPES[k])).astype(np.float32) for k in SHAPES},
        }
        for _ in range(STAGES)
    ]
    valid = np.arange(targets) < rng.integers(1, targets + 1, rows)[:, None]
    asked = MaskTargets(
        **apart(rng.random((rows, targets, 24, 32)) < 0.3),
        valid=valid,
        labels=np.tile(np.arange(targets, dtype=np.int32) % REGIONS, (rows, 1)),
        supervised={kind: np.asarray([k == kind for k in kinds]) for kind in SCORES},
        columns={kind: np.ones((rows, *SHAPES[kind]), bool) for kind in ("class", "region")},
    )
    return stages, asked, draw_points(jax.random.key(1), STAGES, rows, targets, 40)


def evaluate(criterion, stages, asked, draws, **options):
    """(losses, gradients by the stages), everything jitted."""

    def loss(stages):
        made = criterion(MaskPrediction(**stages[-1], stages=tuple(stages[:-1])), asked, draws=draws, **options)
        return made.total, made

    (_, losses), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(stages)
    return losses, gradients


def agree(ours, theirs):
    for kind, values in theirs.terms.items():
        np.testing.assert_allclose(ours.terms[kind], values, rtol=2e-6, err_msg=kind)
    np.testing.assert_allclose(ours.total, theirs.total, rtol=2e-6)


def widen(x, axis, count, value):
    pads = [(0, count if i == axis else 0) for i in range(np.ndim(x))]
    return np.pad(np.asarray(x), pads, constant_values=value)


CRITERION = MaskCriterion(SCORES, num_points=40)
MIXED = ["expression", "class", "region", "expression", "class"]


def test_padding_of_targets_changes_nothing(rng):
    stages, asked, draws = draw(rng, 5, 3, MIXED)
    wide = asked.replace(
        **apart(widen(asked.masks, 1, 4, True)), valid=widen(asked.valid, 1, 4, False), labels=widen(asked.labels, 1, 4, 77)
    )
    wide_draws = draws.replace(candidates=widen(draws.candidates, 2, 4, 0.5), unselected=widen(draws.unselected, 2, 4, 0.5))
    alone, d_alone = evaluate(CRITERION, stages, asked, draws)
    padded, d_padded = evaluate(CRITERION, stages, wide, wide_draws)
    agree(padded, alone)
    chex.assert_trees_all_close(d_padded, d_alone, rtol=1e-7, atol=1e-6)


def test_padding_of_classes_and_regions_changes_nothing(rng):
    stages, asked, draws = draw(rng, 5, 3, MIXED)
    wide_stages = [
        {**s, "scores": s["scores"] | {k: widen(s["scores"][k], 2, 3, 9.0) for k in ("class", "region")}} for s in stages
    ]
    wide = asked.replace(columns={kind: widen(valid, 1, 3, False) for kind, valid in asked.columns.items()})
    alone, _ = evaluate(CRITERION, stages, asked, draws)
    padded, gradients = evaluate(CRITERION, wide_stages, wide, draws)
    agree(padded, alone)
    assert all(not np.any(g["scores"][k][..., -3:]) for g in gradients for k in ("class", "region"))


def test_padding_of_rows_changes_nothing_and_has_no_gradient(rng):
    stages, asked, draws = draw(rng, 5, 3, MIXED)
    wide = jax.tree.map(lambda x: widen(x, 0, 2, 0), asked)
    wide_stages = jax.tree.map(lambda x: widen(x, 0, 2, 5.0), stages)
    wide_draws = jax.tree.map(lambda x: widen(x, 1, 2, 0.5), draws)
    alone, _ = evaluate(CRITERION, stages, asked, draws)
    padded, gradients = evaluate(CRITERION, wide_stages, wide, wide_draws)
    agree(padded, alone)
    assert all(not np.any(leaf[-2:]) for leaf in jax.tree.leaves(gradients))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("kind", list(SCORES))
def test_a_mixed_batch_teaches_each_kind_as_a_batch_of_its_own(kind, rng):
    stages, asked, draws = draw(rng, 5, 3, MIXED)
    rows = np.asarray([i for i, k in enumerate(MIXED) if k == kind])
    mixed, _ = evaluate(CRITERION, stages, asked, draws)
    own = [{"mask_logits": s["mask_logits"][rows], "scores": {kind: s["scores"][kind][rows]}} for s in stages]
    pure, _ = evaluate(CRITERION, own, jax.tree.map(lambda x: x[rows], asked), jax.tree.map(lambda x: x[:, rows], draws))
    np.testing.assert_allclose(mixed.terms[kind], pure.terms[kind], rtol=2e-6)
    np.testing.assert_array_equal(mixed.query_of_target[:, rows], pure.query_of_target)


def test_parts_with_the_counts_of_all_add_up_to_the_whole(rng):
    stages, asked, draws = draw(rng, 6, 3, [*MIXED, "region"])
    whole, _ = evaluate(CRITERION, stages, asked, draws)
    parts = [
        (
            jax.tree.map(lambda x, r=rows: x[r], stages),
            jax.tree.map(lambda x, r=rows: x[r], asked),
            jax.tree.map(lambda x, r=rows: x[:, r], draws),
        )
        for rows in (slice(0, 2), slice(2, 4), slice(4, 6))
    ]
    counts = jax.tree.map(lambda *each: sum(each), *(CRITERION.count(asked, QUERIES) for _, asked, _ in parts))
    totals = [evaluate(CRITERION, *part, counts=counts)[0].total for part in parts]
    np.testing.assert_allclose(np.sum(totals), whole.total, rtol=2e-6)


def test_a_loss_of_its_own_is_taught_matched_and_counted(rng):
    """Of scores of another kind: the squared distance from one, of the rows that are taught it."""

    @dataclasses.dataclass(frozen=True)
    class Near:
        weight: float = 3.0

        def count(self, targets, queries):
            return targets.supervised.sum() * jnp.float32(queries)

        def cost(self, logits, targets):
            return 100.0 * (logits - 1)[..., None] ** 2  # matches by this alone

        def loss(self, logits, matched, targets, counts):
            return jnp.where(targets.supervised[:, None], (logits - 1) ** 2, 0).sum() / counts

    stages, asked, draws = draw(rng, 5, 3, MIXED)
    near = rng.normal(size=(5, QUERIES)).astype(np.float32) * 9
    own = [{**stage, "scores": {"near": near, "expression": stage["scores"]["expression"]}} for stage in stages]
    asked = asked.replace(supervised={"near": np.arange(5) < 2, "expression": asked.supervised["expression"]})
    criterion = MaskCriterion({"near": Near(), "expression": SCORES["expression"]}, num_points=40)
    found, _ = evaluate(criterion, own, asked, draws)
    assert set(found.terms) == {"mask", "dice", "near", "expression"}
    np.testing.assert_allclose(found.terms["near"], [np.mean((near[:2] - 1) ** 2)] * STAGES, rtol=1e-5)
    np.testing.assert_allclose(found.total, sum(criterion.weights[k] * v.sum() for k, v in found.terms.items()), rtol=1e-6)
    for row, number in enumerate(asked.valid.sum(1)):
        nearest = set(np.argsort(np.abs(near[row] - 1))[:number])
        assert {q for q in np.asarray(found.query_of_target[-1, row]) if q >= 0} == nearest


@pytest.mark.parametrize("points", ["per_mask", "shared", "grid"])
def test_a_perfect_prediction_costs_little_and_a_wrong_one_much(points, rng):
    _, asked, _ = draw(rng, 2, 2, ["expression", "expression"])
    blobs = np.zeros((2, 2, 24, 32), bool)
    blobs[:, 0, 4:16, 4:16], blobs[:, 1, 8:20, 20:28] = True, True
    asked = asked.replace(**apart(blobs), valid=np.ones((2, 2), bool))
    logits = np.full((2, QUERIES, 24, 32), -20.0, np.float32)
    logits[:, 3][blobs[:, 0]], logits[:, 5][blobs[:, 1]] = 20, 20
    scores = np.full((2, QUERIES), -20.0, np.float32)
    scores[:, [3, 5]] = 20
    criterion = MaskCriterion(SCORES, num_points=200, points=points)
    found = jax.jit(lambda *given: criterion(*given, key=jax.random.key(0)))
    good = found(MaskPrediction(logits, {"expression": scores}), asked)
    bad = found(MaskPrediction(-logits, {"expression": -scores}), asked)
    np.testing.assert_array_equal(good.query_of_target, [[[3, 5], [3, 5]]])
    assert good.total < 3 < 50 < bad.total  # at the borders the sampled target is between 0 and 1


@pytest.mark.parametrize("own", [True, False])
def test_segment_maps_are_sampled_as_their_masks(own, rng):
    masks = rng.random((2, 5, 13, 19)) < 0.3
    maps, planes = zip(*(number_masks(row, np.uint16) for row in masks), strict=True)
    segments = np.stack([np.pad(row, ((0, 5 - len(row)), (0, 0), (0, 0))) for row in map(np.stack, maps)])
    targets = draw(rng, 2, 5, MIXED[:2])[1].replace(segments=segments, planes=np.asarray(planes, np.int32))
    assert segments.any((0, 2, 3)).sum() > 2
    np.testing.assert_array_equal(targets.masks, masks)
    points = jax.random.uniform(jax.random.key(0), (2, 5 if own else 1, 200, 2), minval=-0.1, maxval=1.1)
    found = jax.jit(sample_segments)(targets.segments, targets.planes, points)
    np.testing.assert_allclose(found, sample_masks(jnp.asarray(masks), points), rtol=0, atol=2e-6)


def test_chosen_points_are_the_uncertain_ones():
    ramp = jnp.broadcast_to(jnp.linspace(-8, 8, 33)[None, None, None], (1, 2, 5, 33))  # zero in the middle column
    candidates = jax.random.uniform(jax.random.key(0), (1, 2, 300, 2))
    fresh = jnp.full((1, 2, 4, 2), 0.25)
    points = uncertain_points(ramp, jnp.ones((1, 2), bool), candidates, fresh, 34)
    assert points.shape == (1, 2, 34, 2)
    assert np.all(np.abs(points[:, :, :30, 0] - 0.5) < 0.1)
    np.testing.assert_array_equal(points[:, :, 30:], fresh)
    shared = uncertain_points(ramp, jnp.asarray([[True, False]]), candidates[:, :1], fresh[:, :1], 34)
    np.testing.assert_allclose(shared[0, 0, :30], points[0, 0, :30])


def test_no_key_and_an_unknown_way_are_errors(rng):
    stages, asked, _ = draw(rng, 2, 2, ["class", "class"])
    with pytest.raises(ValueError, match="key"):
        CRITERION(MaskPrediction(**stages[0]), asked)
    with pytest.raises(ValueError, match="per_mask"):
        MaskCriterion(SCORES, points="per_pixel")
