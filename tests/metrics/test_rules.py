"""Rules of individual benchmarks, with manually computed values."""

import numpy as np
import pytest

from hyperseg_jax.metrics import (
    ClickScores,
    DavisScores,
    GeneralizedScores,
    ReferringScores,
    ReVosScores,
    SemanticScores,
    VideoScores,
)


def make_block(rows, columns, size=(20, 20)):
    mask = np.zeros(size, bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


A, B = make_block((0, 4), (0, 5)), make_block((0, 4), (0, 10))  # 20 and 40 pixels, nested
NONE = np.zeros((20, 20), bool)


def test_reasonseg_ignored_pixels():
    official, released = ReferringScores(), ReferringScores("released")
    for scores in (official, released):
        scores.update(B, A, ignore=B & ~A)
    assert official.compute()["ciou"] == pytest.approx(1) and released.compute()["ciou"] == pytest.approx(0.5)
    assert official.compute()["precision@0.9"] == 1 and released.compute()["precision@0.5"] == 1
    assert released.compute()["precision@0.6"] == 0


def test_grefcoco():
    """With target: IoU 0.5, 1, and one predicted absent. Without: one predicted absent, one with 20 pixels."""
    official, released = GeneralizedScores(), GeneralizedScores("released")
    for scores in (official, released):
        for prediction, target in [(A, B), (B, B), (NONE, B), (NONE, NONE), (A, NONE)]:
            scores.update(prediction, target)
    result = official.compute()
    assert result["giou"] == pytest.approx((0.5 + 1 + 0 + 1 + 0) / 5)
    assert result["ciou"] == pytest.approx((20 + 40) / (40 + 40 + 40 + 0 + 20))
    assert (
        result["n_acc"] == 0.5 and result["t_acc"] == pytest.approx(2 / 3) and result["precision@0.7"] == pytest.approx(1 / 3)
    )
    assert released.compute()["n_acc"] == pytest.approx(1 / 3) and released.compute()["t_acc"] == pytest.approx(1 / 3)


def test_clicks_to_reach_a_threshold():
    scores = ClickScores(limit=20, at=(1, 3))
    scores.update([0.4, 0.86])
    scores.update([0.1] * 20)
    result = scores.compute()
    assert (result["noc@50"], result["noc@85"], result["noc@90"]) == (11, 11, 20)
    assert (result["failed@85"], result["failed@90"]) == (0.5, 1)
    assert result["iou@1"] == pytest.approx((0.4 + 0.1) / 2) and result["iou@3"] == pytest.approx((0.86 + 0.1) / 2)
    with pytest.raises(ValueError, match="pass 1 to 20"):
        scores.update([])


def test_mean_iou():
    """Class a: 3 of 4 labelled pixels, none told wrongly: 3 / 4. b: 2 right, 1 too many: 2 / 3. c never seen nor told."""
    scores = SemanticScores()
    ignore = np.array([[False] * 6 + [True]])
    scores.update(np.array([[0, 0, 0, 1, 1, 1, 2]]), np.array([[0, 0, 0, 0, 1, 1, 0]]), list("abc"), ignore)
    assert scores.by_class() == pytest.approx({"a": 3 / 4, "b": 2 / 3})
    expected = {"miou": (3 / 4 + 2 / 3) / 2, "macc": (3 / 4 + 1) / 2, "aacc": 5 / 6, "classes": 2}
    assert scores.compute() == pytest.approx(expected)
    with pytest.raises(ValueError, match="of 2 classes"):
        scores.update(np.array([[2]]), np.array([[0]]), ["a", "b"])


def test_davis_skips_first_and_last_frame_of_given_objects_only():
    true = np.stack([A, A, A, A])[None]
    ours = np.stack([NONE, A, A, NONE])[None]
    semi, free = DavisScores(), DavisScores("unsupervised")
    for scores in (semi, free):
        scores.update(ours, true)
    assert semi.compute()["jf"] == 1 and free.compute()["jf"] == 0.5
    with pytest.raises(ValueError, match="one for each object"):
        semi.update(np.concatenate([ours, ours]), true)
    with pytest.raises(ValueError, match="DAVIS allows 20"):
        free.update(np.repeat(ours, 21, 0), true)


def test_j_after_occlusion():
    """Only frames count in which the target is visible again: of T = visible, hidden, visible, gone, visible, the third and
    fifth. An object that only enters or leaves was never occluded."""
    true = np.stack([A, NONE, A, NONE, A])
    ours = np.stack([NONE, A, A, A, NONE])
    enters, leaves = np.stack([NONE, NONE, A, A, A]), np.stack([A, A, NONE, NONE, NONE])
    clips, objects, proposals = VideoScores(), DavisScores(), DavisScores("unsupervised")
    for target in (enters, leaves):
        clips.update(target, target)
    objects.update(np.stack([enters, leaves]), np.stack([enters, leaves]))
    assert not [name for scores in (clips, objects) for name in scores.compute() if "occlusion" in name]
    clips.update(ours, true)
    proposals.update(np.stack([enters, ours]), np.stack([true, enters]))
    assert clips.compute()["j_after_occlusion"] == proposals.compute()["j_after_occlusion"] == 1 / 2
    objects.update(ours[None], true[None])  # the last frame is excluded
    assert objects.compute()["j_after_occlusion"] == 1 and objects.compute()["count_after_occlusion"] == 1
    objects.update(ours[None, :2].repeat(2, 1), true[None, [0, 1, 1, 2]])  # visible again only in the excluded frame
    assert objects.compute()["count_after_occlusion"] == 1


def test_davis_pairs_proposals_with_objects():
    right = make_block((10, 18), (10, 18))
    true = np.stack([[A, A], [right, right]])
    scores = DavisScores("unsupervised")
    scores.update(np.stack([[NONE, NONE], [right, right], [A, A]]), true)
    assert scores.compute()["j"] == 1 and scores.compute()["count"] == 2
    scores.update(np.stack([[right, right]]), true)  # the other object has no proposal
    assert scores.compute()["j"] == pytest.approx(3 / 4)


def test_revos():
    """One frame of 400 pixels: 20 right, 20 too many, 100 in all objects. A = 380 / 400, R = 1 - 20 / 100."""
    everything = make_block((0, 10), (0, 10))
    official, released = ReVosScores(), ReVosScores("released")
    for scores in (official, released):
        scores.update(B[None], A[None], everything[None], "referring")
        scores.update(NONE[None], A[None], everything[None], "reasoning")
        scores.update(NONE[None], NONE[None], everything[None], "absent")
    result, other = official.compute(), released.compute()
    assert result["a/referring"] == pytest.approx(0.95) and result["r/referring"] == pytest.approx(0.8, abs=1e-6)
    assert result["r"] == pytest.approx(0.9, abs=1e-6) and result["j"] == pytest.approx(0.25) and result["r/absent"] == 1
    assert other["r/referring"] == 0 and other["a/referring"] == pytest.approx(360 / 400) and other["j"] == result["j"]
    assert result["count"] == 3
    rounded, third = ReVosScores("released"), make_block((0, 1), (0, 3))
    rounded.update(make_block((0, 1), (0, 1))[None], third[None], third[None], "referring")
    assert rounded.compute()["j"] == pytest.approx(0.3333, abs=1e-12)
    blind = ReVosScores()
    blind.update(B[None], A[None], group="referring")
    assert "r" not in blind.compute()


def test_videos_of_other_sizes_are_refused():
    for scores in (VideoScores(), ReVosScores(), DavisScores()):
        with pytest.raises(ValueError, match="resize"):
            scores.update(A[None, None, :5], A[None, None])
