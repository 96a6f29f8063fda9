"""The objective: independent of padding and mixing of tasks, additive over shards, with finite gradients."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sample_inputs import masks_to_planes

from hyperseg_jax.losses import BalancedScores, ClassScores, MaskCriterion, MaskTargets, draw_points
from hyperseg_jax.losses.points import pack_segments, sample_masks, sample_segments
from hyperseg_jax.losses.stage_masks import StageMasks, select_uncertain_points
from hyperseg_jax.ops.segment_maps import number_masks
from hyperseg_jax.structs import MaskPrediction

QUERIES, CLASSES, REGIONS, STAGES = 7, 5, 3, 2
SHAPES = {"expression": (), "class": (CLASSES,), "region": (REGIONS,)}
SCORES = {"expression": BalancedScores(), "class": ClassScores(), "region": BalancedScores()}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def draw(rng, rows, targets, kinds):
    """Returns random predictions with all kinds of scores, targets for rows of the given kinds, and sampling points."""
    stages = [
        {
            "mask_logits": rng.normal(size=(rows, QUERIES, 6, 8)).astype(np.float32) * 3,
            "scores": {k: rng.normal(size=(rows, QUERIES, *SHAPES[k])).astype(np.float32) for k in SHAPES},
        }
        for _ in range(STAGES)
    ]
    valid = np.arange(targets) < rng.integers(1, targets + 1, rows)[:, None]
    mask_targets = MaskTargets(
        **masks_to_planes(rng.random((rows, targets, 24, 32)) < 0.3),
        valid=valid,
        labels=np.tile(np.arange(targets, dtype=np.int32) % REGIONS, (rows, 1)),
        supervised={kind: np.asarray([k == kind for k in kinds]) for kind in SCORES},
        columns={kind: np.ones((rows, *SHAPES[kind]), bool) for kind in ("class", "region")},
    )
    return stages, mask_targets, draw_points(jax.random.key(1), STAGES, rows, targets, 40)


def evaluate(criterion, stages, mask_targets, draws, **options):
    """Returns (losses, gradients with respect to the stages), jitted."""

    def loss(stages):
        result = criterion(MaskPrediction(**stages[-1], stages=tuple(stages[:-1])), mask_targets, draws=draws, **options)
        return result.total, result

    (_, losses), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(stages)
    return losses, gradients


def assert_same_losses(ours, theirs):
    for kind, values in theirs.terms.items():
        np.testing.assert_allclose(ours.terms[kind], values, rtol=2e-6, err_msg=kind)
    np.testing.assert_allclose(ours.total, theirs.total, rtol=2e-6)


def pad_axis(x, axis, count, value):
    pads = [(0, count if i == axis else 0) for i in range(np.ndim(x))]
    return np.pad(np.asarray(x), pads, constant_values=value)


CRITERION = MaskCriterion(SCORES, num_points=40)
MIXED = ["expression", "class", "region", "expression", "class"]


def test_padding_of_targets_changes_nothing(rng):
    stages, mask_targets, draws = draw(rng, 5, 3, MIXED)
    wide = mask_targets.replace(
        **masks_to_planes(pad_axis(mask_targets.masks, 1, 4, True)),
        valid=pad_axis(mask_targets.valid, 1, 4, False),
        labels=pad_axis(mask_targets.labels, 1, 4, 77),
    )
    wide_draws = draws.replace(
        candidates=pad_axis(draws.candidates, 2, 4, 0.5), unselected=pad_axis(draws.unselected, 2, 4, 0.5)
    )
    alone, d_alone = evaluate(CRITERION, stages, mask_targets, draws)
    padded, d_padded = evaluate(CRITERION, stages, wide, wide_draws)
    assert_same_losses(padded, alone)
    chex.assert_trees_all_close(d_padded, d_alone, rtol=1e-7, atol=1e-6)


def test_padding_of_classes_and_regions_changes_nothing(rng):
    stages, mask_targets, draws = draw(rng, 5, 3, MIXED)
    wide_stages = [
        {**s, "scores": s["scores"] | {k: pad_axis(s["scores"][k], 2, 3, 9.0) for k in ("class", "region")}} for s in stages
    ]
    wide = mask_targets.replace(columns={kind: pad_axis(valid, 1, 3, False) for kind, valid in mask_targets.columns.items()})
    alone, _ = evaluate(CRITERION, stages, mask_targets, draws)
    padded, gradients = evaluate(CRITERION, wide_stages, wide, draws)
    assert_same_losses(padded, alone)
    assert all(not np.any(g["scores"][k][..., -3:]) for g in gradients for k in ("class", "region"))


def test_padding_of_rows_changes_nothing_and_has_no_gradient(rng):
    stages, mask_targets, draws = draw(rng, 5, 3, MIXED)
    wide = jax.tree.map(lambda x: pad_axis(x, 0, 2, 0), mask_targets)
    wide_stages = jax.tree.map(lambda x: pad_axis(x, 0, 2, 5.0), stages)
    wide_draws = jax.tree.map(lambda x: pad_axis(x, 1, 2, 0.5), draws)
    alone, _ = evaluate(CRITERION, stages, mask_targets, draws)
    padded, gradients = evaluate(CRITERION, wide_stages, wide, wide_draws)
    assert_same_losses(padded, alone)
    assert all(not np.any(leaf[-2:]) for leaf in jax.tree.leaves(gradients))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("kind", list(SCORES))
def test_a_mixed_batch_trains_each_kind_like_a_separate_batch(kind, rng):
    stages, mask_targets, draws = draw(rng, 5, 3, MIXED)
    rows = np.asarray([i for i, k in enumerate(MIXED) if k == kind])
    mixed, _ = evaluate(CRITERION, stages, mask_targets, draws)
    separate_stages = [{"mask_logits": s["mask_logits"][rows], "scores": {kind: s["scores"][kind][rows]}} for s in stages]
    pure, _ = evaluate(
        CRITERION, separate_stages, jax.tree.map(lambda x: x[rows], mask_targets), jax.tree.map(lambda x: x[:, rows], draws)
    )
    np.testing.assert_allclose(mixed.terms[kind], pure.terms[kind], rtol=2e-6)
    np.testing.assert_array_equal(mixed.query_of_target[:, rows], pure.query_of_target)


def test_slices_with_global_counts_add_up(rng):
    stages, mask_targets, draws = draw(rng, 6, 3, [*MIXED, "region"])
    full, _ = evaluate(CRITERION, stages, mask_targets, draws)
    parts = [
        (
            jax.tree.map(lambda x, r=rows: x[r], stages),
            jax.tree.map(lambda x, r=rows: x[r], mask_targets),
            jax.tree.map(lambda x, r=rows: x[:, r], draws),
        )
        for rows in (slice(0, 2), slice(2, 4), slice(4, 6))
    ]
    counts = jax.tree.map(lambda *each: sum(each), *(CRITERION.count(mask_targets, QUERIES) for _, mask_targets, _ in parts))
    totals = [evaluate(CRITERION, *part, counts=counts)[0].total for part in parts]
    np.testing.assert_allclose(np.sum(totals), full.total, rtol=2e-6)


def test_custom_score_losses(rng):
    """A custom score kind with the squared distance from one, for its supervised rows."""

    @dataclasses.dataclass(frozen=True)
    class NearOneLoss:
        weight: float = 3.0

        def count(self, targets, queries):
            return targets.supervised.sum() * jnp.float32(queries)

        def cost(self, logits, targets):
            return 100.0 * (logits - 1)[..., None] ** 2  # matches by this cost only

        def loss(self, logits, matched, targets, counts):
            return jnp.where(targets.supervised[:, None], (logits - 1) ** 2, 0).sum() / counts

    stages, mask_targets, draws = draw(rng, 5, 3, MIXED)
    near = rng.normal(size=(5, QUERIES)).astype(np.float32) * 9
    separate_stages = [{**stage, "scores": {"near": near, "expression": stage["scores"]["expression"]}} for stage in stages]
    mask_targets = mask_targets.replace(
        supervised={"near": np.arange(5) < 2, "expression": mask_targets.supervised["expression"]}
    )
    criterion = MaskCriterion({"near": NearOneLoss(), "expression": SCORES["expression"]}, num_points=40)
    result, _ = evaluate(criterion, separate_stages, mask_targets, draws)
    assert set(result.terms) == {"mask", "dice", "near", "expression"}
    np.testing.assert_allclose(result.terms["near"], [np.mean((near[:2] - 1) ** 2)] * STAGES, rtol=1e-5)
    np.testing.assert_allclose(result.total, sum(criterion.weights[k] * v.sum() for k, v in result.terms.items()), rtol=1e-6)
    for row, number in enumerate(mask_targets.valid.sum(1)):
        nearest = set(np.argsort(np.abs(near[row] - 1))[:number])
        assert {q for q in np.asarray(result.query_of_target[-1, row]) if q >= 0} == nearest


@pytest.mark.parametrize("points", ["per_mask", "shared", "grid"])
def test_perfect_and_wrong_predictions(points, rng):
    _, mask_targets, _ = draw(rng, 2, 2, ["expression", "expression"])
    blobs = np.zeros((2, 2, 24, 32), bool)
    blobs[:, 0, 4:16, 4:16], blobs[:, 1, 8:20, 20:28] = True, True
    mask_targets = mask_targets.replace(**masks_to_planes(blobs), valid=np.ones((2, 2), bool))
    logits = np.full((2, QUERIES, 24, 32), -20.0, np.float32)
    logits[:, 3][blobs[:, 0]], logits[:, 5][blobs[:, 1]] = 20, 20
    scores = np.full((2, QUERIES), -20.0, np.float32)
    scores[:, [3, 5]] = 20
    criterion = MaskCriterion(SCORES, num_points=200, points=points)
    result = jax.jit(lambda *args: criterion(*args, key=jax.random.key(0)))
    good = result(MaskPrediction(logits, {"expression": scores}), mask_targets)
    bad = result(MaskPrediction(-logits, {"expression": -scores}), mask_targets)
    np.testing.assert_array_equal(good.query_of_target, [[[3, 5], [3, 5]]])
    assert good.total < 3 < 50 < bad.total  # at borders the sampled target is between 0 and 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("per_mask", [True, False])
def test_segment_maps_are_sampled_like_masks(per_mask, dtype, rng):
    masks = rng.random((2, 5, 13, 19)) < 0.3
    maps, planes = zip(*(number_masks(row, np.uint16) for row in masks), strict=True)
    segments = np.stack([np.pad(row, ((0, 5 - len(row)), (0, 0), (0, 0))) for row in map(np.stack, maps)])
    targets = draw(rng, 2, 5, MIXED[:2])[1].replace(segments=segments, planes=np.asarray(planes, np.int32))
    assert segments.any((0, 2, 3)).sum() > 2
    np.testing.assert_array_equal(targets.masks, masks)
    points = jax.random.uniform(jax.random.key(0), (2, 5 if per_mask else 1, 200, 2), minval=-0.1, maxval=1.1)
    sample = jax.jit(lambda segments, planes, points: sample_segments(pack_segments(segments), planes, points))
    result = sample(segments.astype(dtype), targets.planes, points)
    np.testing.assert_allclose(result, sample_masks(jnp.asarray(masks), points), rtol=0, atol=2e-6)


def test_uncertain_points_are_chosen():
    ramp = jnp.broadcast_to(jnp.linspace(-8, 8, 33)[None, None, None], (1, 2, 5, 33))  # zero in the center column
    candidates = jax.random.uniform(jax.random.key(0), (1, 2, 300, 2))
    fresh = jnp.full((1, 2, 4, 2), 0.25)
    points = select_uncertain_points(StageMasks(ramp), jnp.ones((1, 2), bool), candidates, fresh, 34)
    assert points.shape == (1, 2, 34, 2)
    assert np.all(np.abs(points[:, :, :30, 0] - 0.5) < 0.1)
    np.testing.assert_array_equal(points[:, :, 30:], fresh)
    shared = select_uncertain_points(StageMasks(ramp), jnp.asarray([[True, False]]), candidates[:, :1], fresh[:, :1], 34)
    np.testing.assert_allclose(shared[0, 0, :30], points[0, 0, :30])


def test_missing_keys_and_unknown_point_modes_are_errors(rng):
    stages, mask_targets, _ = draw(rng, 2, 2, ["class", "class"])
    with pytest.raises(ValueError, match="key"):
        CRITERION(MaskPrediction(**stages[0]), mask_targets)
    with pytest.raises(ValueError, match="per_mask"):
        MaskCriterion(SCORES, points="per_pixel")
