"""Answers from logits: sizes, the best query, absence, panoptic rules; what is selected on the device is what a loop over all
queries on the host would choose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from hyperseg_jax.ops.transforms import fit
from hyperseg_jax.results import answers, selection
from hyperseg_jax.results.answers import Thresholds
from hyperseg_jax.results.mask_resize import canvas, geometry_array, mask_resize, resize_masks
from hyperseg_jax.structs import Prompt, Region
from hyperseg_jax.systems import system as systems

OURS = Thresholds(0.5, 0.5, 0.8)


def blob(h, w, rows, columns, high=6.0, low=-6.0):
    logits = np.full((h, w), low, np.float32)
    logits[rows, columns] = high
    return logits


def resize_of(masks, geometry):
    return mask_resize(geometry_array(geometry), masks.shape[-2:], canvas(*geometry.original))


def own(masks, geometry):
    """Mask logits at the image's own size, as torch resizes, crops and resizes."""
    resize = lambda x, size: torch.nn.functional.interpolate(x[None], size, mode="bilinear", align_corners=False)[0]
    padded = resize(torch.from_numpy(np.asarray(masks, np.float32)), geometry.padded)
    return resize(padded[:, : geometry.filled[0], : geometry.filled[1]], geometry.original).numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def sure(full):
    return (sigmoid(full) * (full > 0)).sum((1, 2)) / ((full > 0).sum((1, 2)) + 1e-6)


@pytest.mark.parametrize("size", [(60, 120), (37, 25), (200, 130), (64, 64), (1, 90)])
def test_the_size_of_the_image_is_torchs(size):
    geometry = fit(*size, 64)
    masks = np.random.default_rng(0).standard_normal((3, 16, 16)).astype(np.float32)
    found = np.asarray(resize_masks(jnp.asarray(masks), resize_of(masks, geometry)))
    assert found.shape[1:] == canvas(*size) and not found[:, size[0] :].any() and not found[:, :, size[1] :].any()
    np.testing.assert_allclose(found[:, : size[0], : size[1]], own(masks, geometry), atol=5e-6)


def expression(masks, scores, geometry, no_target_threshold=None, *, soft=False, text="it"):
    found = selection.expression(
        jnp.asarray(masks), jnp.asarray(scores, jnp.float32), resize_of(masks, geometry), enabled=True, soft=soft, balanced=True
    )
    return answers.expression(
        jax.device_get(found), Prompt("referring", text), geometry, Thresholds(no_target_threshold, 0.5, 0.8)
    )


def test_expression_takes_the_best_query_or_none():
    geometry = fit(32, 32, 32)
    masks = np.stack([blob(8, 8, slice(0, 4), slice(0, 4)), blob(8, 8, slice(4, 8), slice(4, 8))])
    (segment,) = expression(masks, [-1.0, 2.0], geometry, 0.5)
    assert segment.mask[24, 24] and not segment.mask[8, 8] and 0.8 < segment.score < 0.9
    assert expression(masks, [-1.0, -2.0], geometry, 0.5).names == ()
    assert len(expression(masks, [-1.0, -2.0], geometry)) == 1


@pytest.mark.parametrize("kind", ["sure", "close", "empty", "equal"])
def test_the_best_query_is_that_of_all_queries(kind):
    """Tried one by one until no other can be better, in any order of scores and masks."""
    geometry = fit(40, 56, 64)
    select = jax.jit(lambda masks, scores: selection.best_query(masks, scores, resize_of(masks, geometry), True))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        masks, scores = rng.normal(0, 4, (7, 16, 16)).astype(np.float32), rng.normal(0, 3, 7).astype(np.float32)
        if kind == "close":
            scores = (0.5 + 0.01 * scores).astype(np.float32)
        elif kind == "empty":
            masks[rng.permutation(7)[: rng.integers(4, 8)]] = -5.0
        elif kind == "equal":
            masks[:], scores[:] = masks[0], scores[0]
        full = own(masks, geometry)
        wanted = sigmoid(scores) * sure(full)
        number, score, logits = jax.device_get(select(masks, scores))
        assert wanted[number] == pytest.approx(wanted.max(), rel=1e-5) and score == pytest.approx(wanted.max(), rel=1e-4)
        assert kind != "equal" or number == 0
        np.testing.assert_allclose(logits[:40, :56], full[number], atol=2e-5)


def test_few_queries_are_tried(monkeypatch):
    """Those that cannot be the best are ruled out before anything is resized."""
    geometry, calls = fit(40, 40, 32), []
    real = selection.resize_masks

    def counted(*given):
        jax.debug.callback(lambda: calls.append(1))
        return real(*given)

    monkeypatch.setattr(selection, "resize_masks", counted)
    masks = np.stack([blob(8, 8, slice(0, 4), slice(k, k + 2)) for k in range(6)])
    assert len(expression(masks, [-3.0, 4.0, -4.0, -1.0, -2.0, 0.0], geometry)) == 1
    jax.effects_barrier()
    assert len(calls) == 1


def test_a_match_is_weighed_against_its_misses():
    """Eight queries of which one matches: trained with balanced weights, a logit of 1 is a probability of e / (e + 7); two
    queries on one object share it."""
    geometry = fit(32, 32, 32)
    masks, scores = np.stack([blob(8, 8, slice(0, 4), slice(0, 4))] * 8), np.full(8, -5.0)
    for logit, found in ((1.0, 0), (3.0, 1)):
        scores[2] = logit
        assert len(expression(masks, scores, geometry, 0.5)) == found
    scores[2:4] = 1.0
    assert len(expression(masks, scores, geometry, 0.5)) == 1


def test_a_soft_mask_holds_probabilities():
    geometry = fit(32, 32, 32)
    masks = np.stack([blob(8, 8, slice(0, 4), slice(0, 4), 2.0), blob(8, 8, slice(4, 8), slice(4, 8))])
    (hard,), (soft,) = (expression(masks, [2.0, 0.0], geometry, soft=s) for s in (False, True))
    assert soft.mask.dtype == np.float32 and soft.score == hard.score
    np.testing.assert_array_equal(soft.mask > 0.5, hard.mask)
    assert soft.mask[4, 4] == pytest.approx(1 / (1 + np.exp(-2.0)), abs=1e-5)
    assert expression(masks, [-9.0, -9.0], geometry, 0.5, soft=True).masks.dtype == np.float32


def test_each_region_has_its_own_best_query():
    geometry = fit(32, 48, 32)
    masks = np.stack([blob(8, 8, slice(0, 3), slice(0, 3)), blob(8, 8, slice(3, 6), slice(3, 8))])
    scores = jnp.asarray([[3.0, -3.0, 0.0], [-3.0, 3.0, 0.0]])
    valid = jnp.asarray([True, True, False])  # the batch has room for a third
    found = selection.regions(jnp.asarray(masks), scores, resize_of(masks, geometry), valid=valid, soft=False)
    prompt = Prompt("region", regions=(Region.from_point(1, 1), Region.from_box(0, 0, 2, 2)))
    predicted = answers.regions(jax.device_get(found), prompt, geometry, OURS)
    assert predicted.names == ("point", "box") and predicted.masks.shape == (2, 32, 48)
    np.testing.assert_array_equal(predicted.masks, own(masks, geometry) > 0)


def panoptic(masks, scores, geometry, classes, things, threshold):
    limits = {"object_threshold": threshold, "overlap_threshold": threshold}
    valid = np.ones(scores.shape[1], bool)
    found = selection.panoptic(jnp.asarray(masks), jnp.asarray(scores), resize_of(masks, geometry), valid=valid, **limits)
    return answers.panoptic(jax.device_get(found), Prompt("panoptic", classes=classes, things=things), geometry, OURS)


def test_panoptic_merges_stuff_and_drops_the_hidden():
    geometry = fit(32, 32, 32)
    left, right = blob(8, 8, slice(None), slice(0, 4)), blob(8, 8, slice(None), slice(4, 8))
    thing = blob(8, 8, slice(2, 6), slice(1, 3), 9.0)
    covered = blob(8, 8, slice(2, 6), slice(1, 3), 3.0)  # the same place, less sure: hidden by the other
    scores = np.full((4, 3), -4.0, np.float32)
    for query, (category, logit) in enumerate([(1, 2.0), (1, 2.0), (0, 8.0), (0, 1.0)]):
        scores[query, category] = logit
    found = panoptic(np.stack([left, right, thing, covered]), scores, geometry, ("ring", "grass"), (True, False), 0.5)
    assert sorted(found.names) == ["grass", "ring"]
    ids, grass = found.ids, found.names.index("grass") + 1
    assert ids[16, 2] == ids[16, 30] == grass and ids[16, 8] not in (0, grass)


def test_a_segment_that_is_mostly_hidden_is_dropped():
    """Of the second query a quarter is seen: enough or not, as the threshold says."""
    geometry = fit(32, 32, 32)
    masks = np.stack([blob(8, 8, slice(None), slice(0, 6), 9.0), blob(8, 8, slice(None), slice(0, 8), 3.0)])
    scores = np.float32([[9, -4, -4], [-4, 2, -4]])
    for overlap, found in ((0.5, ["ring"]), (0.1, ["disc", "ring"])):
        limits = {"object_threshold": 0.5, "overlap_threshold": overlap}
        given = jnp.asarray(masks), jnp.asarray(scores), resize_of(masks, geometry)
        chosen = jax.device_get(selection.panoptic(*given, valid=np.ones(3, bool), **limits))
        prompt = Prompt("panoptic", classes=("ring", "disc"), things=(True, True))
        assert sorted(answers.panoptic(chosen, prompt, geometry, OURS).names) == found


def test_nothing_is_a_panoptic_answer():
    found = panoptic(np.zeros((2, 8, 8)), np.float32([[0, 9], [0, 9]]), fit(32, 32, 32), ("a",), (True,), 0.8)
    assert len(found) == 0 and not found.ids.any() and found.ids.shape == (32, 32)


def many(seed=0, queries=6, classes=3):
    rng = np.random.default_rng(seed)
    masks, logits = rng.standard_normal((queries, 8, 8)) * 4, rng.standard_normal((queries, classes + 1)) * 2
    return masks.astype(np.float32), logits.astype(np.float32)


def test_semantic_is_the_sum_over_queries():
    (masks, logits), geometry = many(), fit(32, 24, 32)
    given = jnp.asarray(masks), jnp.asarray(logits), resize_of(masks, geometry)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    sums = np.einsum("qc,qhw->chw", p[:, :3], sigmoid(own(masks, geometry)))
    found = jax.device_get(selection.semantic(*given, valid=np.ones(4, bool)))
    predicted = answers.semantic(found, Prompt("panoptic", classes=("a", "b", "c")), geometry, OURS)
    assert predicted.masks.shape[1:] == (32, 24) and predicted.masks.sum(0).max() == 1
    best = np.zeros((32, 24), int)
    for mask, label in zip(predicted.masks, predicted.labels, strict=True):
        best[mask] = label
    np.testing.assert_array_equal(best, sums.argmax(0))


def test_instances_are_the_best_pairs_of_the_things():
    (masks, logits), geometry = many(), fit(32, 24, 32)
    valid = np.ones(4, bool)
    query, category, probability = map(np.asarray, selection.best_pairs(jnp.asarray(logits), valid=valid, limit=6))
    assert len(query) == 6 and (np.diff(probability) <= 0).all() and category.max() < 3
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert probability[0] == pytest.approx(p[:, :3].max(), rel=1e-6)
    found = selection.instances(jnp.asarray(masks), jnp.asarray(logits), resize_of(masks, geometry), valid=valid, limit=6)
    prompt = Prompt("panoptic", classes=("a", "b", "c"), things=(True, False, True))
    predicted = answers.instances(jax.device_get(found), prompt, geometry, OURS)
    kept = category != 1
    assert [segment.label for segment in predicted] == ["abc"[k] for k in category[kept]]
    full = own(masks, geometry)
    for segment, q, chance in zip(predicted, query[kept], probability[kept], strict=True):
        np.testing.assert_array_equal(segment.mask, full[q] > 0)
        assert segment.score == pytest.approx(chance * sure(full)[q], rel=1e-5)


@pytest.mark.parametrize("soft", [False, True])
def test_hyperseg_takes_off_what_its_balanced_training_added_to_the_scores(soft):
    """Ten queries: log 9 too large. Without that, nothing would ever be told to be absent."""
    rng = np.random.default_rng(0)
    masks, scores = jnp.asarray(rng.standard_normal((10, 16, 16)), jnp.float32), jnp.full(10, np.log(9.0), jnp.float32)
    answer = systems.get("hyperseg").answers.find("soft_expression" if soft else "expression")
    outputs = {"mask_logits": masks, "expression": scores, "asked": jnp.asarray(True)}
    found = answer.select(outputs, resize_of(masks, fit(40, 60, 64)), jnp.asarray([0.5, 0.8]))
    assert float(found["present"]) == pytest.approx(5.0)  # sigmoid(0) of each
