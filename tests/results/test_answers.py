"""Answers from logits: sizes, the best query, absence and panoptic rules; the selection on the device equals a loop over all
queries on the host."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from hyperseg_jax.ops.transforms import fit_to_square
from hyperseg_jax.results import answers, selection
from hyperseg_jax.results.answers import Thresholds
from hyperseg_jax.results.mask_resize import canvas_size, geometry_array, make_mask_resize, resize_masks
from hyperseg_jax.structs import Prompt, Region
from hyperseg_jax.systems import system as systems

OURS = Thresholds(0.5, 0.5, 0.8)


def make_blob_logits(h, w, rows, columns, high=6.0, low=-6.0):
    logits = np.full((h, w), low, np.float32)
    logits[rows, columns] = high
    return logits


def resize_for(masks, geometry):
    return make_mask_resize(geometry_array(geometry), masks.shape[-2:], canvas_size(*geometry.original))


def resize_like_torch(masks, geometry):
    """Resizes mask logits to the image size with torch: resize, crop, resize."""
    resize = lambda x, size: torch.nn.functional.interpolate(x[None], size, mode="bilinear", align_corners=False)[0]
    padded = resize(torch.from_numpy(np.asarray(masks, np.float32)), geometry.padded)
    return resize(padded[:, : geometry.filled[0], : geometry.filled[1]], geometry.original).numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def mask_scores(full):
    return (sigmoid(full) * (full > 0)).sum((1, 2)) / ((full > 0).sum((1, 2)) + 1e-6)


@pytest.mark.parametrize("size", [(60, 120), (37, 25), (200, 130), (64, 64), (1, 90), (2, 3), (90, 3)])
def test_resize_equals_torch(size):
    geometry = fit_to_square(*size, 64)
    masks = np.random.default_rng(0).standard_normal((3, 16, 16)).astype(np.float32)
    result = np.asarray(resize_masks(jnp.asarray(masks), resize_for(masks, geometry)))
    assert result.shape[1:] == canvas_size(*size) and not result[:, size[0] :].any() and not result[:, :, size[1] :].any()
    np.testing.assert_allclose(result[:, : size[0], : size[1]], resize_like_torch(masks, geometry), atol=5e-6)


def select_expression(masks, scores, geometry, no_target_threshold=None, *, soft=False, text="it"):
    result = selection.select_expression(
        jnp.asarray(masks),
        jnp.asarray(scores, jnp.float32),
        resize_for(masks, geometry),
        enabled=True,
        soft=soft,
        balanced=True,
    )
    return answers.predict_expression(
        jax.device_get(result), Prompt("referring", text), geometry, Thresholds(no_target_threshold, 0.5, 0.8)
    )


def test_expression_selects_the_best_query_or_none():
    geometry = fit_to_square(32, 32, 32)
    masks = np.stack([make_blob_logits(8, 8, slice(0, 4), slice(0, 4)), make_blob_logits(8, 8, slice(4, 8), slice(4, 8))])
    (segment,) = select_expression(masks, [-1.0, 2.0], geometry, 0.5)
    assert segment.mask[24, 24] and not segment.mask[8, 8] and 0.8 < segment.score < 0.9
    assert select_expression(masks, [-1.0, -2.0], geometry, 0.5).names == ()
    assert len(select_expression(masks, [-1.0, -2.0], geometry)) == 1


@pytest.mark.parametrize("kind", ["sure", "close", "empty", "equal"])
def test_the_best_query_equals_a_full_search(kind):
    """Queries are evaluated one by one until no other can be better, for any order of scores and masks."""
    geometry = fit_to_square(40, 56, 64)
    select = jax.jit(lambda masks, scores: selection.find_best_query(masks, scores, resize_for(masks, geometry), True))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        masks, scores = rng.normal(0, 4, (7, 16, 16)).astype(np.float32), rng.normal(0, 3, 7).astype(np.float32)
        if kind == "close":
            scores = (0.5 + 0.01 * scores).astype(np.float32)
        elif kind == "empty":
            masks[rng.permutation(7)[: rng.integers(4, 8)]] = -5.0
        elif kind == "equal":
            masks[:], scores[:] = masks[0], scores[0]
        full = resize_like_torch(masks, geometry)
        expected = sigmoid(scores) * mask_scores(full)
        number, score, logits = jax.device_get(select(masks, scores))
        assert expected[number] == pytest.approx(expected.max(), rel=1e-5) and score == pytest.approx(expected.max(), rel=1e-4)
        assert kind != "equal" or number == 0
        np.testing.assert_allclose(logits[:40, :56], full[number], atol=2e-5)


def test_few_queries_are_resized(monkeypatch):
    """Queries that cannot be the best are excluded before resizing."""
    geometry, calls = fit_to_square(40, 40, 32), []
    real = selection.resize_masks

    def count_calls(*args):
        jax.debug.callback(lambda: calls.append(1))
        return real(*args)

    monkeypatch.setattr(selection, "resize_masks", count_calls)
    masks = np.stack([make_blob_logits(8, 8, slice(0, 4), slice(k, k + 2)) for k in range(6)])
    assert len(select_expression(masks, [-3.0, 4.0, -4.0, -1.0, -2.0, 0.0], geometry)) == 1
    jax.effects_barrier()
    assert len(calls) == 1


def test_scores_are_corrected_for_balanced_training():
    """Eight queries of which one matches: trained with balanced weights, a logit of 1 is a probability of e / (e + 7); two
    queries on one object share it."""
    geometry = fit_to_square(32, 32, 32)
    masks, scores = np.stack([make_blob_logits(8, 8, slice(0, 4), slice(0, 4))] * 8), np.full(8, -5.0)
    for logit, result in ((1.0, 0), (3.0, 1)):
        scores[2] = logit
        assert len(select_expression(masks, scores, geometry, 0.5)) == result
    scores[2:4] = 1.0
    assert len(select_expression(masks, scores, geometry, 0.5)) == 1


def test_a_soft_mask_holds_probabilities():
    geometry = fit_to_square(32, 32, 32)
    masks = np.stack([make_blob_logits(8, 8, slice(0, 4), slice(0, 4), 2.0), make_blob_logits(8, 8, slice(4, 8), slice(4, 8))])
    (hard,), (soft,) = (select_expression(masks, [2.0, 0.0], geometry, soft=s) for s in (False, True))
    assert soft.mask.dtype == np.float32 and soft.score == hard.score
    np.testing.assert_array_equal(soft.mask > 0.5, hard.mask)
    assert soft.mask[4, 4] == pytest.approx(1 / (1 + np.exp(-2.0)), abs=1e-5)
    assert select_expression(masks, [-9.0, -9.0], geometry, 0.5, soft=True).masks.dtype == np.float32


def test_each_region_selects_its_best_query():
    geometry = fit_to_square(32, 48, 32)
    masks = np.stack([make_blob_logits(8, 8, slice(0, 3), slice(0, 3)), make_blob_logits(8, 8, slice(3, 6), slice(3, 8))])
    scores = jnp.asarray([[3.0, -3.0, 0.0], [-3.0, 3.0, 0.0]])
    valid = jnp.asarray([True, True, False])  # the third is padding
    result = selection.select_regions(jnp.asarray(masks), scores, resize_for(masks, geometry), valid=valid, soft=False)
    prompt = Prompt("region", regions=(Region.from_point(1, 1), Region.from_box(0, 0, 2, 2)))
    predicted = answers.predict_regions(jax.device_get(result), prompt, geometry, OURS)
    assert predicted.names == ("point", "box") and predicted.masks.shape == (2, 32, 48)
    np.testing.assert_array_equal(predicted.masks, resize_like_torch(masks, geometry) > 0)


@pytest.mark.parametrize("score", [5.0, -300.0])
def test_each_region_has_its_own_mask(score):
    """Also if the model is certain that nothing matches, as for an object that has left a video."""
    geometry = fit_to_square(32, 48, 32)
    masks = np.stack([make_blob_logits(8, 8, slice(0, 3), slice(0, 3)), make_blob_logits(8, 8, slice(3, 6), slice(3, 8))] * 2)
    scores, valid = jnp.asarray([5.0, score, 5.0, 5.0]), jnp.asarray([True, True, True, False])
    result = selection.select_own_masks(jnp.asarray(masks), scores, resize_for(masks, geometry), valid=valid, soft=False)
    prompt = Prompt("region", regions=(Region.from_point(1, 1),) * 4)
    predicted = answers.predict_regions(jax.device_get(result), prompt, geometry, OURS)
    np.testing.assert_array_equal(predicted.masks[:3], resize_like_torch(masks, geometry)[:3] > 0)
    assert not predicted.masks[3].any() and predicted.scores[3] == 0  # padding


def select_panoptic(masks, scores, geometry, classes, things, threshold):
    limits = {"object_threshold": threshold, "overlap_threshold": threshold}
    valid = np.ones(scores.shape[1], bool)
    result = selection.select_panoptic(
        jnp.asarray(masks), jnp.asarray(scores), resize_for(masks, geometry), valid=valid, **limits
    )
    return answers.predict_panoptic(jax.device_get(result), Prompt("panoptic", classes=classes, things=things), geometry, OURS)


def test_panoptic_merges_stuff_and_drops_hidden_segments():
    geometry = fit_to_square(32, 32, 32)
    left, right = make_blob_logits(8, 8, slice(None), slice(0, 4)), make_blob_logits(8, 8, slice(None), slice(4, 8))
    thing = make_blob_logits(8, 8, slice(2, 6), slice(1, 3), 9.0)
    covered = make_blob_logits(8, 8, slice(2, 6), slice(1, 3), 3.0)  # the same area with lower scores: hidden by the other
    scores = np.full((4, 3), -4.0, np.float32)
    for query, (category, logit) in enumerate([(1, 2.0), (1, 2.0), (0, 8.0), (0, 1.0)]):
        scores[query, category] = logit
    result = select_panoptic(np.stack([left, right, thing, covered]), scores, geometry, ("ring", "grass"), (True, False), 0.5)
    assert sorted(result.names) == ["grass", "ring"]
    ids, grass = result.ids, result.names.index("grass") + 1
    assert ids[16, 2] == ids[16, 30] == grass and ids[16, 8] not in (0, grass)


def test_mostly_hidden_segments_are_dropped():
    """A quarter of the second query is visible: kept or dropped depending on the threshold."""
    geometry = fit_to_square(32, 32, 32)
    masks = np.stack(
        [make_blob_logits(8, 8, slice(None), slice(0, 6), 9.0), make_blob_logits(8, 8, slice(None), slice(0, 8), 3.0)]
    )
    scores = np.float32([[9, -4, -4], [-4, 2, -4]])
    for overlap, result in ((0.5, ["ring"]), (0.1, ["disc", "ring"])):
        limits = {"object_threshold": 0.5, "overlap_threshold": overlap}
        args = jnp.asarray(masks), jnp.asarray(scores), resize_for(masks, geometry)
        chosen = jax.device_get(selection.select_panoptic(*args, valid=np.ones(3, bool), **limits))
        prompt = Prompt("panoptic", classes=("ring", "disc"), things=(True, True))
        assert sorted(answers.predict_panoptic(chosen, prompt, geometry, OURS).names) == result


def test_empty_panoptic_prediction():
    result = select_panoptic(np.zeros((2, 8, 8)), np.float32([[0, 9], [0, 9]]), fit_to_square(32, 32, 32), ("a",), (True,), 0.8)
    assert len(result) == 0 and not result.ids.any() and result.ids.shape == (32, 32)


def random_outputs(seed=0, queries=6, classes=3):
    rng = np.random.default_rng(seed)
    masks, logits = rng.standard_normal((queries, 8, 8)) * 4, rng.standard_normal((queries, classes + 1)) * 2
    return masks.astype(np.float32), logits.astype(np.float32)


def test_semantic_is_the_sum_over_queries():
    (masks, logits), geometry = random_outputs(), fit_to_square(32, 24, 32)
    args = jnp.asarray(masks), jnp.asarray(logits), resize_for(masks, geometry)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    sums = np.einsum("qc,qhw->chw", p[:, :3], sigmoid(resize_like_torch(masks, geometry)))
    result = jax.device_get(selection.select_semantic(*args, valid=np.ones(4, bool)))
    predicted = answers.predict_semantic(result, Prompt("panoptic", classes=("a", "b", "c")), geometry, OURS)
    assert predicted.masks.shape[1:] == (32, 24) and predicted.masks.sum(0).max() == 1
    best = np.zeros((32, 24), int)
    for mask, label in zip(predicted.masks, predicted.labels, strict=True):
        best[mask] = label
    np.testing.assert_array_equal(best, sums.argmax(0))


def test_instances_are_the_best_query_class_pairs():
    (masks, logits), geometry = random_outputs(), fit_to_square(32, 24, 32)
    valid = np.ones(4, bool)
    query, category, probability = map(np.asarray, selection.find_best_pairs(jnp.asarray(logits), valid=valid, limit=6))
    assert len(query) == 6 and (np.diff(probability) <= 0).all() and category.max() < 3
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert probability[0] == pytest.approx(p[:, :3].max(), rel=1e-6)
    result = selection.select_instances(
        jnp.asarray(masks), jnp.asarray(logits), resize_for(masks, geometry), valid=valid, limit=6
    )
    prompt = Prompt("panoptic", classes=("a", "b", "c"), things=(True, False, True))
    predicted = answers.predict_instances(jax.device_get(result), prompt, geometry, OURS)
    kept = category != 1
    assert [segment.label for segment in predicted] == ["abc"[k] for k in category[kept]]
    full = resize_like_torch(masks, geometry)
    for segment, q, chance in zip(predicted, query[kept], probability[kept], strict=True):
        np.testing.assert_array_equal(segment.mask, full[q] > 0)
        assert segment.score == pytest.approx(chance * mask_scores(full)[q], rel=1e-5)


def test_invalid_classes_between_valid_ones():
    """The answers are those of the valid classes alone. The last of these is the background, which gets no mask."""
    (masks, logits), geometry = random_outputs(classes=5), fit_to_square(32, 24, 32)
    valid = np.array([True, False, True, False, True, False])
    labels = np.flatnonzero(valid)
    resize, masks = resize_for(masks, geometry), jnp.asarray(masks)

    def answer(logits, valid):
        args, options = (masks, jnp.asarray(logits), resize), {"valid": valid}
        panoptic = selection.select_panoptic(*args, **options, object_threshold=0.0, overlap_threshold=0.0)
        query, label, probability = selection.find_best_pairs(args[1], **options, limit=12)
        semantic = selection.select_semantic(*args, **options)["label"]
        candidates = selection.select_candidates(args[0], args[1], masks[:, 0], resize, **options, limit=6)["classes"]
        return jax.device_get((panoptic, (query, label, probability), semantic, candidates))

    panoptic, (query, label, probability), semantic, candidates = answer(logits, valid)
    panoptic_alone, (query_alone, label_alone, probability_alone), semantic_alone, candidates_alone = answer(
        logits[:, valid], np.ones(3, bool)
    )
    np.testing.assert_array_equal(panoptic["owner"], panoptic_alone["owner"])
    np.testing.assert_array_equal(panoptic["label"], labels[panoptic_alone["label"]])
    np.testing.assert_array_equal(panoptic["found"], panoptic_alone["found"])
    np.testing.assert_array_equal((query, label), (query_alone, labels[label_alone]))
    np.testing.assert_allclose(probability, probability_alone, rtol=1e-6)
    np.testing.assert_array_equal(semantic, labels[semantic_alone])
    np.testing.assert_allclose(candidates[:, valid], candidates_alone, rtol=1e-6)
    assert 0 < panoptic["found"].sum() < len(masks) and 4 not in label


@pytest.mark.parametrize("soft", [False, True])
def test_hyperseg_corrects_scores_for_balanced_training(soft):
    """With ten queries, scores are too large by log 9. Without the correction, no target would ever be absent."""
    rng = np.random.default_rng(0)
    masks, scores = jnp.asarray(rng.standard_normal((10, 16, 16)), jnp.float32), jnp.full(10, np.log(9.0), jnp.float32)
    answer = systems.get("hyperseg").answers.find("soft_expression" if soft else "expression")
    outputs = {"mask_logits": masks, "expression": scores, "asked": jnp.asarray(True)}
    result = answer.select(outputs, resize_for(masks, fit_to_square(40, 60, 64)), jnp.asarray([0.5, 0.8]))
    assert float(result["present"]) == pytest.approx(5.0)  # sigmoid(0) of each


def test_a_pixel_goes_to_the_query_with_the_best_product_of_class_and_mask_probability():
    masks = jnp.full((2, 8, 8), jnp.asarray([2.0, 3.0])[:, None, None])  # mask probabilities 0.88 and 0.95
    logits = jnp.asarray([[4.0, 0.0, 0.0], [0.0, 1.5, 0.0]])  # class probabilities 0.96 and 0.69
    resize = make_mask_resize(geometry_array(fit_to_square(8, 8, 8)), (8, 8), canvas_size(8, 8))
    thresholds = {"object_threshold": 0.5, "overlap_threshold": 0.0}
    result = selection.select_panoptic(masks, logits, resize, valid=np.ones(3, bool), **thresholds)
    assert (np.asarray(result["owner"])[:8, :8] == 1).all() and result["found"].tolist() == [True, False]
