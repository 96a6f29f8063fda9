"""Evaluation protocols: referring expressions of one video, first-frame objects and tracks."""

import dataclasses
import inspect
import json

import numpy as np
import pytest
from protocol_run import SIDE, make_block, make_example, run_protocol, score_protocol
from sample_inputs import draw_regions, make_regions

from hyperseg_jax.evaluation.protocols import JointExpressions, SemiSupervisedVOS
from hyperseg_jax.evaluation.scoring import SCORINGS
from hyperseg_jax.evaluation.submissions import WRITERS, make_row
from hyperseg_jax.evaluation.tracks import TrackedInstances
from hyperseg_jax.structs import Example, Prediction, Prompt

# expressions of one video


def make_expression(k, mask, **more):
    return Prompt(
        task="video", text=f"thing {k}", masks=np.stack([mask] * 3)[None], group="annotator 1", key=f"clip/{k}", **more
    )


def test_expressions_of_one_video_do_not_overlap():
    """Two predictions overlap in 12 x 12 pixels with 0.9 and 0.8: the first object gets them, the second the rest, and a third
    object without an expression counts as missed."""
    one, two, three = make_block(0, 0), make_block(0, 12), make_block(30, 30)
    prompts = make_expression(1, one, others=np.stack([three] * 3)[None]), make_expression(2, two)
    soft = [0.9 * one, 0.8 * (one | two)]
    protocol = JointExpressions(make_example(*prompts), lambda prompt, out: Prediction(out[None].astype(np.float32)))
    requests = run_protocol(protocol, lambda step, k: soft[k])
    assert [row["example"].prompts[0].text for row in requests] == ["thing 1", "thing 2"] * 3
    assert all(len(row["example"].prompts) == 1 and row["example"].prompts[0].masks is None for row in requests)
    ((prompt, result),) = protocol.answers()
    assert len(result) == 3 and np.array_equal(result[1].masks, [one, two]) and prompt.masks.shape == (2, 3, SIDE, SIDE)
    scores = score_protocol("ref_davis", protocol).compute()
    assert scores["count"] == 3 and scores["j"] == pytest.approx(2 / 3) and scores["jf/annotator 1"] == pytest.approx(2 / 3)


def test_groups_have_equal_weight():
    scores = SCORINGS["ref_davis"].new("official")
    for group, objects, right in (("a", 1, True), ("b", 3, False)):
        masks = np.stack([np.stack([make_block(0, 14 * k)] * 3) for k in range(objects)])
        scores.update(masks if right else np.zeros_like(masks), masks, group=group)
    assert scores.compute()["jf"] == pytest.approx(0.5) and scores.compute()["count"] == 4


# objects from the first frame


def test_first_frame_objects_are_prompted_on_every_frame():
    masks = np.stack([np.stack([make_block(0, 6 * t) for t in range(4)]), np.stack([make_block(30, 20)] * 4)])
    prompt = Prompt(task="region", masks=masks, labels=(0, 1), regions=make_regions(masks[:, 0]), key="clip")
    example = Example(
        "clip", np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, SIDE, SIDE, 3), np.uint8), (prompt,)
    )
    wrong = np.zeros((2, SIDE, SIDE), bool)
    protocol = SemiSupervisedVOS(example, lambda prompt, out: Prediction(out))
    requests = run_protocol(protocol, lambda step, k: masks[:, step] if step else wrong)
    assert [int(row["example"].frames.max()) for row in requests] == [0, 1, 2, 3]
    for row in requests:
        assert row["example"].drawn_on.max() == 0 and np.array_equal(draw_regions(row["example"].prompts[0]), masks[:, 0])
    ((_, result),) = protocol.answers()
    assert np.array_equal(result[0].masks, masks[:, 0])  # the given masks are the prediction on the first frame
    assert score_protocol("davis", protocol).compute()["jf"] == 1


def test_first_frame_objects_do_not_overlap():
    """DAVIS allows one object per pixel: overlapping pixels go to the more probable one."""
    masks = np.stack([make_block(0, 0), make_block(20, 20)])[:, None].repeat(3, 1)
    prompt = Prompt(task="region", masks=masks, labels=(0, 1), regions=make_regions(masks[:, 0]))
    protocol = SemiSupervisedVOS(make_example(prompt), lambda prompt, out: Prediction(out))
    run_protocol(
        protocol, lambda step, k: np.stack([np.where(masks[0, 0], 0.9, 0.1), np.full((SIDE, SIDE), 0.6)]).astype(np.float32)
    )
    ((_, result),) = protocol.answers()
    np.testing.assert_array_equal(result[1].masks, [masks[0, 0], ~masks[0, 0]])


def test_submissions_have_the_ids_of_the_first_frame(tmp_path):
    """Objects 2 and 5: the PNGs have these ids, not their positions among the regions."""
    import io
    import zipfile

    from PIL import Image

    masks = np.stack([make_block(0, 0), make_block(20, 20)])[:, None].repeat(3, 1)
    prompt = Prompt(task="region", masks=masks, labels=(0, 1), regions=make_regions(masks[:, 0]), key="clip")
    example = dataclasses.replace(make_example(prompt), frame_names=("00000", "00001", "00002"))
    protocol = SemiSupervisedVOS(example, lambda prompt, out: Prediction(out))
    run_protocol(protocol, lambda step, k: 0.9 * masks[:, step].astype(np.float32))
    ((asked, result),) = protocol.answers()
    reader = type("reader", (), {"first_object_ids": staticmethod(lambda name: {"clip": [2, 5]}[name])})
    path = WRITERS["davis"](tmp_path, [json.loads(json.dumps(make_row(example, asked, result)))], reader)
    with zipfile.ZipFile(path) as file:
        assert file.namelist() == [f"clip/{name}.png" for name in example.frame_names]
        with Image.open(io.BytesIO(file.read("clip/00001.png"))) as image:
            assert image.mode == "P" and np.array_equal(np.asarray(image), 2 * masks[0, 0] + 5 * masks[1, 0])


# tracks


def make_candidates(order, masks, scores=(0.9, 0.8)):
    """Returns two candidates with distinct embeddings, in the given order."""
    looks = 9 * np.eye(2, dtype=np.float32)
    classes = np.array([[0.1, scores[0]], [scores[1], 0.1]], np.float32)
    return Prediction(
        masks[list(order)],
        scores=tuple(classes.max(1)[list(order)].tolist()),
        classes=classes[list(order)],
        embeddings=looks[list(order)],
    )


@pytest.fixture
def crossing_tracks():
    """Two crossing objects; the order of candidates changes, and the second is not detected in the last frame."""
    masks = np.stack([np.stack([make_block(0, 8 * t), make_block(20, 24 - 8 * t)]) for t in range(4)])
    truth = masks.swapaxes(0, 1).copy()
    truth[1, 3] = False
    prompt = Prompt(task="panoptic", classes=("cat", "dog"), things=(True, True), masks=truth, labels=(1, 0), key="7")
    protocol = TrackedInstances(make_example(prompt, frames=4), lambda prompt, out: out)
    orders = [(0, 1), (1, 0), (0, 1), (0,)]
    run_protocol(protocol, lambda step, k: make_candidates(orders[step], masks[step]))
    return protocol, truth


def test_objects_are_tracked(crossing_tracks):
    protocol, truth = crossing_tracks
    ((_, result),) = protocol.answers()
    assert result[0].labels == (1, 0) and result[0].scores == pytest.approx((0.9, 0.8))
    assert np.array_equal(np.stack([frame.masks for frame in result], 1), truth)
    assert score_protocol("tracks", protocol).compute()["ap"] == pytest.approx(1)
    assert score_protocol("davis_unsupervised", protocol).compute()["jf"] == pytest.approx(1)


def test_track_submissions(crossing_tracks, tmp_path):
    import zipfile

    protocol, _ = crossing_tracks
    ((prompt, result),) = protocol.answers()
    reader = type("reader", (), {"category_ids": (11, 22)})
    path = WRITERS["youtube_vis"](tmp_path, [json.loads(json.dumps(make_row(protocol.example, prompt, result)))], reader)
    with zipfile.ZipFile(path) as file:
        rows = json.loads(file.read("results.json"))
    assert [(row["video_id"], row["category_id"]) for row in rows] == [(7, 22), (7, 11)]
    assert rows[1]["segmentations"][3] is None and rows[0]["segmentations"][3]["size"] == [SIDE, SIDE]


def test_a_video_without_detections():
    prompt = Prompt(
        task="panoptic", classes=("cat",), things=(True,), masks=np.stack([make_block(0, 0)] * 3)[None], labels=(0,)
    )
    numbers = np.zeros((0, 2), np.float32)
    empty = Prediction(np.zeros((0, SIDE, SIDE), bool), classes=numbers[:, :1], embeddings=numbers)
    for name in ("tracks", "davis_unsupervised"):
        protocol = TrackedInstances(make_example(prompt), lambda prompt, out: out)
        run_protocol(protocol, lambda step, k: empty)
        result = score_protocol(name, protocol).compute()
        assert result["count"] == 1 and result.get("ap", result.get("j")) == 0


def test_proposals_do_not_overlap():
    """A pixel of two tracks goes to the one with the higher score: the second keeps 12 x 6 of its 12 x 12 pixels."""
    one, two = make_block(0, 0), make_block(0, 6)
    frames = [Prediction(np.stack([two, one]), (0, 0), (0.5, 0.9)) for _ in range(3)]
    prompt = Prompt(
        task="panoptic", classes=("object",), things=(True,), masks=np.stack([np.stack([m] * 3) for m in (one, two)])
    )
    scores = SCORINGS["davis_unsupervised"].new("official")
    SCORINGS["davis_unsupervised"].add(scores, "clip", prompt, frames)
    assert scores.compute()["j"] == pytest.approx((1 + 0.5) / 2)


def test_protocols_of_all_scorings_take_reference_frames():
    for scoring in SCORINGS.values():
        for protocol in filter(None, (scoring.protocol, scoring.interactive)):
            inspect.signature(protocol).bind("example", "prediction function", "reference frames")
