"""Losses of mask embeddings and features equal those of the mask logits that are their products."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sample_inputs import masks_to_planes

from hyperseg_jax.losses import BalancedScores, MaskCriterion, MaskTargets
from hyperseg_jax.losses.stage_masks import StageMasks
from hyperseg_jax.structs import MaskPrediction

IMAGES, PROMPTS, QUERIES, TARGETS, WIDTH, STAGES = 2, 3, 5, 3, 8, 3
ROWS = IMAGES * PROMPTS


@pytest.fixture
def inputs():
    """Returns mask embeddings of all stages, mask features and scores."""
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(STAGES, ROWS, QUERIES, WIDTH)).astype(np.float32)
    features = rng.normal(size=(IMAGES, 6, 8, WIDTH)).astype(np.float32)
    return jnp.asarray(embeddings), jnp.asarray(features), jnp.asarray(rng.normal(size=(STAGES, ROWS, QUERIES)), jnp.float32)


def multiply(embeddings, features):
    return jnp.einsum("brqd,bhwd->brqhw", embeddings.reshape(IMAGES, PROMPTS, QUERIES, WIDTH), features).reshape(
        ROWS, QUERIES, 6, 8
    )


def predict(embeddings, features, scores, with_embeddings):
    """Returns the prediction of a decoder, with or without embeddings."""
    stages = [
        {"mask_logits": multiply(each, features), "scores": {"expression": score}}
        | ({"mask_embedding": each} if with_embeddings else {})
        for each, score in zip(embeddings, scores, strict=True)
    ]
    extra = {"embeddings": {"mask": embeddings[-1]}, "mask_features": features} if with_embeddings else {}
    return MaskPrediction(stages[-1]["mask_logits"], stages[-1]["scores"], stages=tuple(stages[:-1]), **extra)


def draw_targets():
    rng = np.random.default_rng(1)
    return MaskTargets(
        **masks_to_planes(rng.random((ROWS, TARGETS, 24, 32)) < 0.3),
        valid=np.arange(TARGETS) < rng.integers(1, TARGETS + 1, ROWS)[:, None],
        labels=np.zeros((ROWS, TARGETS), np.int32),
        supervised={"expression": np.ones(ROWS, bool)},
    )


@pytest.mark.parametrize("points", ["per_mask", "shared", "grid"])
def test_losses_and_gradients_are_the_same(points, inputs):
    targets = draw_targets()
    criterion = MaskCriterion({"expression": BalancedScores()}, num_points=40, points=points)

    def loss(inputs, with_embeddings):
        losses = criterion(predict(*inputs, with_embeddings), targets, key=jax.random.key(0))
        return losses.total, losses

    run = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    ours, expected = run(inputs, True), run(inputs, False)
    np.testing.assert_array_equal(ours[0][1].query_of_target, expected[0][1].query_of_target)
    chex.assert_trees_all_close(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("points", ["per_mask", "shared"])
def test_the_backward_pass_keeps_the_inputs_of_a_stage_and_its_points(points, inputs):
    targets, count = draw_targets(), 1000
    criterion = MaskCriterion({"expression": BalancedScores()}, num_points=count, points=points)

    def saved_numbers(stages):
        """Returns how many numbers are kept for the backward pass of so many stages."""
        embeddings, features, scores = inputs
        given = (
            jnp.resize(embeddings, (stages, *embeddings.shape[1:])),
            features,
            jnp.resize(scores, (stages, *scores.shape[1:])),
        )
        total = lambda given: criterion(predict(*given, True), targets, key=jax.random.key(0)).total
        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda given: jax.vjp(total, given)[1], given)))

    coordinates = ROWS * (TARGETS if points == "per_mask" else 1) * count * 2
    small = 4 * ROWS * QUERIES * (WIDTH + 2)  # embeddings, scores, matched queries
    assert coordinates <= (saved_numbers(8) - saved_numbers(3)) / 5 <= coordinates + small


def test_points_outside_the_map_and_selected_queries(inputs):
    embeddings, features, _ = inputs
    points = jax.random.uniform(jax.random.key(0), (ROWS, 1, 50, 2), minval=-0.1, maxval=1.1)
    queries = jnp.asarray([[k % QUERIES, (k + 2) % QUERIES] for k in range(ROWS)])
    ours = StageMasks(embeddings[0], features).select(queries)
    plain = StageMasks(multiply(embeddings[0], features)).select(queries)
    np.testing.assert_allclose(ours.logits(), plain.logits(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.sample(points), plain.sample(points), rtol=1e-5, atol=1e-5)


def test_bfloat16_embeddings_have_float32_logits(inputs):
    embeddings, features = inputs[0][0].astype(jnp.bfloat16), inputs[1].astype(jnp.bfloat16)
    exact = multiply(embeddings.astype(jnp.float32), features.astype(jnp.float32))
    logits = StageMasks(embeddings, features.astype(jnp.float32)).logits()
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, exact, rtol=1e-5, atol=1e-5)
