"""Accumulators against manually computed values, and merging."""

import json

import numpy as np
import pytest

from hyperseg_jax import metrics
from hyperseg_jax.errors import UserError
from hyperseg_jax.metrics import InteractiveScores, PanopticQuality, ReferringScores, VideoScores
from hyperseg_jax.metrics.baselines import blind_answers, shuffled_order, text_blind_scores
from hyperseg_jax.metrics.jf import boundary_accuracy, boundary_map, region_similarity


def make_box(rows, columns, size=(10, 10)):
    mask = np.zeros(size, bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


A, B = make_box((0, 4), (0, 5)), make_box((0, 4), (0, 10))  # 20 and 40 pixels, nested
NONE = np.zeros((10, 10), bool)


def test_referring_scores_with_absent_targets():
    scores = ReferringScores()
    scores.update(A, B, group="relation")
    scores.update(A, A, group="attribute")
    scores.update(NONE, NONE, group="absent")
    scores.update(A, NONE, group="absent")
    result = scores.compute()
    assert result["ciou"] == pytest.approx((20 + 20) / (40 + 20 + 0 + 20))
    assert result["giou"] == pytest.approx((0.5 + 1 + 1 + 0) / 4, abs=1e-5)
    assert result["absent_accuracy"] == 0.5 and result["count"] == 4
    assert result["giou/relation"] == pytest.approx(0.5, abs=1e-5)
    assert result["giou/absent"] == pytest.approx(0.5, abs=1e-5)


def test_ignored_pixels_do_not_count():
    scores = ReferringScores()
    scores.update(A, B, ignore=B & ~A)
    assert scores.compute()["ciou"] == pytest.approx(1)
    with pytest.raises(ValueError, match="differ in shape"):
        scores.update(A, B[:5])


def random_masks(rng):
    return rng.random((4, 12, 12)) < 0.4, rng.random((4, 12, 12)) < 0.4


@pytest.mark.parametrize("kind", ["referring", "clip", "interactive", "panoptic"])
def test_merged_halves_equal_the_full_scores(kind):
    def add_samples(scores, seeds):
        for seed in seeds:
            ours, true = random_masks(np.random.default_rng(seed))
            if kind == "interactive":
                scores.update(ours, true, ["point", "box", "point", "mask"])
            elif kind == "panoptic":
                exclusive = [np.arange(4)[:, None, None] == np.argmax(masks, 0) for masks in (ours, true | ours)]
                labels = [seed % 2, 0, 1, 2]
                scores.update(exclusive[0], labels, exclusive[1], labels, ("a", "b", "c"), (True, True, False))
            else:
                scores.update(ours, true, group=f"g{seed % 2}")
        return scores

    new = {"referring": ReferringScores, "clip": VideoScores, "interactive": InteractiveScores, "panoptic": PanopticQuality}
    full = add_samples(new[kind](), range(6)).compute()
    first, second = add_samples(new[kind](), range(2)), add_samples(new[kind](), range(2, 6))
    first.merge(new[kind].from_state(json.loads(json.dumps(second.state()))))
    assert first.compute() == pytest.approx(full, rel=1e-12)
    new[kind]().compute()  # nothing seen: no error


def test_interactive_scores_by_kind():
    scores = InteractiveScores()
    scores.update(np.stack([A, B, NONE]), np.stack([B, B, A]), ["point", "point", "box"])
    result = scores.compute()
    assert result["miou/point"] == pytest.approx(0.75, abs=1e-5) and result["miou/box"] == 0
    assert result["miou"] == pytest.approx(0.5, abs=1e-5) and result["count"] == 3
    assert result["ciou/point"] == pytest.approx(60 / 80)


def test_panoptic_quality():
    """One match of IoU 0.6, one missed and one false positive; the false positive on void is ignored."""
    true = np.stack([make_box((0, 5), (0, 10)), make_box((5, 10), (0, 5))])
    ours = np.stack([make_box((0, 3), (0, 10)), make_box((8, 10), (0, 5)), make_box((8, 10), (6, 10))])
    void = make_box((5, 10), (5, 10))
    classes, things = ("ring", "sand"), (True, False)
    scores = PanopticQuality()
    scores.update(ours, [0, 1, 0], true, [0, 1], classes, things, void)
    assert scores.by_class() == pytest.approx({"ring": 0.6, "sand": 0.0})
    result = scores.compute()
    assert (result["pq"], result["pq_things"], result["pq_stuff"]) == pytest.approx((0.3, 0.6, 0.0))
    assert (result["sq"], result["rq"]) == pytest.approx((0.3, 0.5))
    strict = PanopticQuality()
    strict.update(ours, [0, 1, 0], true, [0, 1], classes, things)
    assert strict.by_class()["ring"] == pytest.approx(0.6 / 1.5)


def test_panoptic_quality_needs_the_correct_class():
    scores = PanopticQuality()
    scores.update(B[None], [1], B[None], [0], ("ring", "star"), (True, True))
    assert scores.compute()["pq"] == 0 and scores.compute()["classes"] == 2
    scores = PanopticQuality()
    scores.update(np.zeros((0, 10, 10), bool), [], B[None], [0], ("ring",), (True,))
    assert scores.compute()["pq"] == 0


def test_region_and_boundary_rules():
    assert region_similarity(NONE, NONE) == boundary_accuracy(NONE, NONE) == 1
    assert region_similarity(A, NONE) == boundary_accuracy(A, NONE) == boundary_accuracy(NONE, A) == 0
    assert region_similarity(A, B) == 0.5 and boundary_accuracy(B, B) == 1
    assert boundary_map(make_box((2, 4), (2, 4), (6, 6))).sum() == 8
    assert not boundary_map(np.ones((6, 6), bool)).any()
    assert np.argwhere(boundary_map(make_box((4, 6), (4, 6), (6, 6)))).tolist() == [[3, 3], [3, 4], [3, 5], [4, 3], [5, 3]]
    wide = (100, 100)
    near = boundary_accuracy(make_box((10, 60), (10, 60), wide), make_box((11, 61), (11, 61), wide))
    far = boundary_accuracy(make_box((10, 60), (10, 60), wide), make_box((20, 70), (20, 70), wide))
    assert near == 1 and far < 0.2


def test_clip_scores():
    scores = VideoScores()
    scores.update(np.stack([A, NONE]), np.stack([B, NONE]))
    assert scores.compute()["j"] == pytest.approx(0.75)
    assert scores.compute()["jf"] == pytest.approx((scores.compute()["j"] + scores.compute()["f"]) / 2)


def test_text_blind_baselines():
    things = np.stack([make_box((0, 2), (0, 2)), make_box((4, 6), (4, 6)), make_box((7, 10), (0, 10))])
    answers = blind_answers(things, np.random.default_rng(0))
    assert np.array_equal(answers["largest"], things[2]) and np.array_equal(answers["most_central"], things[1])
    assert np.array_equal(answers["all_foreground"], things.any(0)) and not answers["nothing"].any()
    assert any(np.array_equal(answers["random"], thing) for thing in things)
    scores = text_blind_scores([(things, [things[2], NONE])])
    assert scores["largest"]["ciou"] == pytest.approx(30 / 60) and scores["nothing"]["giou"] == pytest.approx(0.5, abs=1e-5)
    assert scores["best"]["ciou"] == max(score["ciou"] for score in scores.values())
    assert scores == text_blind_scores([(things, [things[2], NONE])])


@pytest.mark.parametrize("texts", [["a"] * 5 + ["b"] * 3 + ["c", "d"], list("abcdefg"), ["a", "b"], []])
def test_texts_are_shuffled_without_fixed_points(texts):
    order = shuffled_order(texts)
    assert sorted(order) == list(range(len(texts)))
    assert all(texts[order[i]] != text for i, text in enumerate(texts))
    assert order == shuffled_order(texts)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: metrics.ReferringScores().update(m * 255, m), "prediction is int64 .*; give masks as bool arrays"),
        (lambda m: metrics.ReferringScores().update(m, None), "target is NoneType; give masks as bool"),
        (lambda m: metrics.ReferringScores().update(m, m, m.astype(np.uint8)), "ignore is uint8"),
        (lambda m: metrics.VideoScores().update(m[None] * 0.5, m[None]), "prediction is float64"),
        (lambda m: metrics.DavisScores().update(m[None, None], m[None, None] * 1), "target is int64"),
        (lambda m: metrics.SemanticScores().update(m * 1, m * 1, "dog"), "classes is str; give a list of texts"),
        (lambda m: metrics.SemanticScores().update(m * 1, m * 1, [1, 2]), "classes has members that are no texts"),
        (lambda m: metrics.PanopticQuality().update(m[None], [0], m[None], [0], "d", [True]), "classes is str"),
        (lambda m: metrics.PanopticQuality().update(m[None] * 1, [0], m[None], [0], ["d"], [True]), "predicted is int64"),
        (lambda m: metrics.CaptionScores().update("x", "a cup", [["a cup"]] * 5), "captions is str"),
        (lambda m: metrics.CaptionScores().update("x", ["a cup"], ["a cup"]), "references is str"),
        (lambda m: metrics.ZeroShotScores("dog"), "unseen is str; give a list"),
    ],
)
def test_wrong_arguments(call, message):
    """A score of them would be a number, but a wrong one."""
    with pytest.raises(UserError, match=message):
        call(np.ones((6, 6), bool))
