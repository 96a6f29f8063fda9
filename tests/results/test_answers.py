"""Answers from logits: sizes, the best query, absence, panoptic rules."""

import numpy as np
import pytest
import torch

from hyperseg_jax.ops.transforms import fit
from hyperseg_jax.results import answers


def blob(h, w, rows, columns, high=6.0, low=-6.0):
    logits = np.full((h, w), low, np.float32)
    logits[rows, columns] = high
    return logits


@pytest.mark.parametrize("size", [(7, 9), (40, 25), (16, 12)])
def test_resize_is_torchs(size):
    maps = np.random.default_rng(0).standard_normal((3, 16, 12)).astype(np.float32)
    wanted = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], size, mode="bilinear", align_corners=False)[0]
    np.testing.assert_allclose(answers.resize(maps, *size), wanted.numpy(), atol=2e-6)


def test_to_original_crops_the_padding():
    geometry = fit(60, 120, 64)
    assert geometry.filled == (32, 64)
    logits = blob(16, 16, slice(0, 8), slice(0, 8))[None]  # the left half of the picture; the lower half is padding
    found = answers.to_original(logits, geometry)[0] > 0
    assert found.shape == (60, 120)
    assert found[:, :55].all() and not found[:, 65:].any()


def test_expression_takes_the_best_query_or_none():
    geometry = fit(32, 32, 32)
    masks = np.stack([blob(8, 8, slice(0, 4), slice(0, 4)), blob(8, 8, slice(4, 8), slice(4, 8))])
    (segment,) = answers.expression(masks, np.array([-1.0, 2.0]), geometry, label="it", absent_below=0.5)
    assert segment.mask[24, 24] and not segment.mask[8, 8] and 0.8 < segment.score < 0.9
    assert answers.expression(masks, np.array([-1.0, -2.0]), geometry, label="it", absent_below=0.5).names == ()
    assert len(answers.expression(masks, np.array([-1.0, -2.0]), geometry, label="it")) == 1


def test_a_match_is_weighed_against_its_misses():
    """Eight queries of which one matches: trained with balanced weights, a logit of 1 is a probability of e / (e + 7); two
    queries on one object share it."""
    geometry = fit(32, 32, 32)
    masks, scores = np.stack([blob(8, 8, slice(0, 4), slice(0, 4))] * 8), np.full(8, -5.0)
    for logit, found in ((1.0, 0), (3.0, 1)):
        scores[2] = logit
        assert len(answers.expression(masks, scores, geometry, label="it", absent_below=0.5)) == found
    scores[2:4] = 1.0
    assert len(answers.expression(masks, scores, geometry, label="it", absent_below=0.5)) == 1


def test_panoptic_merges_stuff_and_drops_the_hidden():
    geometry = fit(32, 32, 32)
    left, right = blob(8, 8, slice(None), slice(0, 4)), blob(8, 8, slice(None), slice(4, 8))
    thing = blob(8, 8, slice(2, 6), slice(1, 3), 9.0)
    covered = blob(8, 8, slice(2, 6), slice(1, 3), 3.0)  # the same place, less sure: hidden by the other
    scores = np.full((4, 3), -4.0, np.float32)
    for query, (category, logit) in enumerate([(1, 2.0), (1, 2.0), (0, 8.0), (0, 1.0)]):
        scores[query, category] = logit
    found = answers.panoptic(
        np.stack([left, right, thing, covered]),
        scores,
        geometry,
        classes=("ring", "grass"),
        things=(True, False),
        object_threshold=0.5,
        overlap_threshold=0.5,
    )
    assert sorted(found.names) == ["grass", "ring"]
    ids, grass = found.ids, found.names.index("grass") + 1
    assert ids[16, 2] == ids[16, 30] == grass and ids[16, 8] not in (0, grass)


def test_nothing_is_a_panoptic_answer():
    scores = np.tile([0.0, 9.0], (2, 1))
    found = answers.panoptic(np.zeros((2, 8, 8)), scores, fit(32, 32, 32), classes=("a",), things=(True,))
    assert len(found) == 0 and not found.ids.any() and found.ids.shape == (32, 32)


def many(seed=0, queries=6, classes=3):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((queries, 8, 8)).astype(np.float32) * 4, rng.standard_normal((queries, classes + 1)) * 2


def test_semantic_is_the_sum_over_queries():
    masks, logits = many()
    geometry = fit(32, 24, 32)
    found = answers.semantic(masks, logits, geometry)
    full, p = answers.sigmoid(answers.to_original(masks, geometry)), np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert found.shape == (3, 32, 24)
    np.testing.assert_allclose(found[1, 5, 7], sum(p[q, 1] * full[q, 5, 7] for q in range(6)), rtol=1e-5)


def test_instances_are_the_best_pairs_of_the_things():
    masks, logits = many()
    geometry = fit(32, 24, 32)
    query, category, probability = answers.best_pairs(logits)
    assert len(query) == 6 and (np.diff(probability) <= 0).all() and category.max() < 3
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert probability[0] == pytest.approx(p[:, :3].max()) and len(answers.best_pairs(logits, limit=2)[0]) == 2
    things = (True, False, True)
    kept = category != 1
    found = answers.instances(masks, logits, geometry, classes=("a", "b", "c"), things=things)
    assert [segment.label for segment in found] == ["abc"[k] for k in category[kept]]
    full = answers.to_original(masks, geometry)
    for segment, q, chance in zip(found, query[kept], probability[kept], strict=True):
        np.testing.assert_array_equal(segment.mask, full[q] > 0)
        assert segment.score == pytest.approx(chance * answers.mask_scores(full)[q], rel=1e-5)


def test_a_soft_mask_holds_probabilities():
    geometry = fit(32, 32, 32)
    masks = np.stack([blob(8, 8, slice(0, 4), slice(0, 4), 2.0), blob(8, 8, slice(4, 8), slice(4, 8))])
    (hard,), (soft,) = (answers.expression(masks, np.array([2.0, 0.0]), geometry, label="it", soft=s) for s in (False, True))
    assert soft.mask.dtype == np.float32 and soft.score == hard.score
    np.testing.assert_array_equal(soft.mask > 0.5, hard.mask)
    assert soft.mask[4, 4] == pytest.approx(1 / (1 + np.exp(-2.0)), abs=1e-5)
