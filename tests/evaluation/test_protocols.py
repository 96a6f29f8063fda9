"""How examples are asked and answered: sentences about one clip, objects from the first frame, tracks, clicks."""

import json

import numpy as np
import pytest
from drawn import pixels_of, regions_of

from hyperseg_jax.datasets.visual_prompts import draw_region
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.clicks import CorrectiveClicks, SimulatedClicks, centre
from hyperseg_jax.evaluation.protocols import JointExpressions, SemiSupervisedVOS
from hyperseg_jax.evaluation.scoring import SCORINGS
from hyperseg_jax.evaluation.submissions import WRITERS, make_row
from hyperseg_jax.evaluation.tracks import TrackedInstances
from hyperseg_jax.structs import Example, Prediction, Prompt

SIDE = 48


def block(top, left, height=12, width=12, side=SIDE):
    mask = np.zeros((side, side), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def clip(*prompts, frames=3):
    return Example("clip", np.zeros((frames, SIDE, SIDE, 3), np.uint8), prompts, tuple(str(t) for t in range(frames)))


def run(protocol, outputs):
    """Answers an example with outputs(step, prompt) alone; what was asked, step by step."""
    asked = []
    for step in range(protocol.steps):
        for k in range(protocol.prompts):
            given = {}
            prepare = lambda one, given=given: given.setdefault("made", {"example": one})
            asked.append(protocol.query(step, k, prepare))
            protocol.add_outputs(k, outputs(step, k))
    return asked


def score(name, protocol):
    scores, scoring = SCORINGS[name].new("official"), SCORINGS[name]
    for prompt, found in protocol.answers():
        scoring.add(scores, protocol.example.name, prompt, found)
    return scores


# sentences about one clip


def spoken(k, mask, **more):
    return Prompt(
        task="video", text=f"thing {k}", masks=np.stack([mask] * 3)[None], group="annotator 1", key=f"clip/{k}", **more
    )


def test_sentences_about_one_clip_share_its_pixels():
    """Both answers claim the same 12 x 12 pixels with 0.9 and 0.8: they go to the first object, the second has what is
    left, and a third object that nobody speaks of is missed."""
    one, two, three = block(0, 0), block(0, 12), block(30, 30)
    prompts = spoken(1, one, others=np.stack([three] * 3)[None]), spoken(2, two)
    soft = [0.9 * one, 0.8 * (one | two)]
    protocol = JointExpressions(clip(*prompts), lambda prompt, out: Prediction(out[None].astype(np.float32)))
    asked = run(protocol, lambda step, k: soft[k])
    assert [row["example"].prompts[0].text for row in asked] == ["thing 1", "thing 2"] * 3
    assert all(len(row["example"].prompts) == 1 and row["example"].prompts[0].masks is None for row in asked)
    ((prompt, found),) = protocol.answers()
    assert len(found) == 3 and np.array_equal(found[1].masks, [one, two]) and prompt.masks.shape == (2, 3, SIDE, SIDE)
    scores = score("ref_davis", protocol).compute()
    assert scores["count"] == 3 and scores["j"] == pytest.approx(2 / 3) and scores["jf/annotator 1"] == pytest.approx(2 / 3)


def test_groups_weigh_the_same_however_many_objects_they_have():
    scores = SCORINGS["ref_davis"].new("official")
    for group, objects, right in (("a", 1, True), ("b", 3, False)):
        masks = np.stack([np.stack([block(0, 14 * k)] * 3) for k in range(objects)])
        scores.update(masks if right else np.zeros_like(masks), masks, group=group)
    assert scores.compute()["jf"] == pytest.approx(0.5) and scores.compute()["count"] == 4


# objects from the first frame


def test_every_frame_is_asked_for_what_the_first_one_shows():
    masks = np.stack([np.stack([block(0, 6 * t) for t in range(4)]), np.stack([block(30, 20)] * 4)])
    prompt = Prompt(task="region", masks=masks, labels=(0, 1), regions=regions_of(masks[:, 0]), key="clip")
    example = Example(
        "clip", np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, SIDE, SIDE, 3), np.uint8), (prompt,)
    )
    wrong = np.zeros((2, SIDE, SIDE), bool)
    protocol = SemiSupervisedVOS(example, lambda prompt, out: Prediction(out))
    asked = run(protocol, lambda step, k: masks[:, step] if step else wrong)
    assert [int(row["example"].frames.max()) for row in asked] == [0, 1, 2, 3]
    for row in asked:
        assert row["example"].drawn_on.max() == 0 and np.array_equal(pixels_of(row["example"].prompts[0]), masks[:, 0])
    ((_, found),) = protocol.answers()
    assert np.array_equal(found[0].masks, masks[:, 0])  # what was drawn is the answer about the first frame
    assert score("davis", protocol).compute()["jf"] == 1


def test_objects_of_the_first_frame_share_no_pixel():
    """DAVIS takes one number a pixel: where two objects are claimed, the more probable one has it."""
    masks = np.stack([block(0, 0), block(20, 20)])[:, None].repeat(3, 1)
    prompt = Prompt(task="region", masks=masks, labels=(0, 1), regions=regions_of(masks[:, 0]))
    protocol = SemiSupervisedVOS(clip(prompt), lambda prompt, out: Prediction(out))
    run(protocol, lambda step, k: np.stack([np.where(masks[0, 0], 0.9, 0.1), np.full((SIDE, SIDE), 0.6)]).astype(np.float32))
    ((_, found),) = protocol.answers()
    np.testing.assert_array_equal(found[1].masks, [masks[0, 0], ~masks[0, 0]])


# tracks


def candidates(order, masks, sure=(0.9, 0.8)):
    """What find would give: two things with embeddings of their own, in some order."""
    looks = 9 * np.eye(2, dtype=np.float32)
    classes = np.array([[0.1, sure[0]], [sure[1], 0.1]], np.float32)
    return Prediction(
        masks[list(order)],
        scores=tuple(classes.max(1)[list(order)].tolist()),
        classes=classes[list(order)],
        embeddings=looks[list(order)],
    )


@pytest.fixture
def tracked():
    """Two things that pass each other; the order of candidates changes, and the second is unseen in the last frame."""
    masks = np.stack([np.stack([block(0, 8 * t), block(20, 24 - 8 * t)]) for t in range(4)])
    truth = masks.swapaxes(0, 1).copy()
    truth[1, 3] = False
    prompt = Prompt(task="panoptic", classes=("cat", "dog"), things=(True, True), masks=truth, labels=(1, 0), key="7")
    protocol = TrackedInstances(clip(prompt, frames=4), lambda prompt, out: out)
    orders = [(0, 1), (1, 0), (0, 1), (0,)]
    run(protocol, lambda step, k: candidates(orders[step], masks[step]))
    return protocol, truth


def test_things_are_followed(tracked):
    protocol, truth = tracked
    ((_, found),) = protocol.answers()
    assert found[0].labels == (1, 0) and found[0].scores == pytest.approx((0.9, 0.8))
    assert np.array_equal(np.stack([frame.masks for frame in found], 1), truth)
    assert score("tracks", protocol).compute()["ap"] == pytest.approx(1)
    assert score("davis_unsupervised", protocol).compute()["jf"] == pytest.approx(1)


def test_tracks_for_the_server(tracked, tmp_path):
    import zipfile

    protocol, _ = tracked
    ((prompt, found),) = protocol.answers()
    reader = type("reader", (), {"category_ids": (11, 22)})
    path = WRITERS["youtube_vis"](tmp_path, [json.loads(json.dumps(make_row(protocol.example, prompt, found)))], reader)
    with zipfile.ZipFile(path) as file:
        rows = json.loads(file.read("results.json"))
    assert [(row["video_id"], row["category_id"]) for row in rows] == [(7, 22), (7, 11)]
    assert rows[1]["segmentations"][3] is None and rows[0]["segmentations"][3]["size"] == [SIDE, SIDE]


def test_a_clip_in_which_nothing_is_found():
    prompt = Prompt(task="panoptic", classes=("cat",), things=(True,), masks=np.stack([block(0, 0)] * 3)[None], labels=(0,))
    numbers = np.zeros((0, 2), np.float32)
    empty = Prediction(np.zeros((0, SIDE, SIDE), bool), classes=numbers[:, :1], embeddings=numbers)
    for name in ("tracks", "davis_unsupervised"):
        protocol = TrackedInstances(clip(prompt), lambda prompt, out: out)
        run(protocol, lambda step, k: empty)
        found = score(name, protocol).compute()
        assert found["count"] == 1 and found.get("ap", found.get("j")) == 0


def test_proposals_do_not_overlap():
    """A pixel that two tracks claim belongs to the surer one: the second keeps 12 x 6 of its 12 x 12 pixels."""
    one, two = block(0, 0), block(0, 6)
    frames = [Prediction(np.stack([two, one]), (0, 0), (0.5, 0.9)) for _ in range(3)]
    prompt = Prompt(
        task="panoptic", classes=("object",), things=(True,), masks=np.stack([np.stack([m] * 3) for m in (one, two)])
    )
    scores = SCORINGS["davis_unsupervised"].new("official")
    SCORINGS["davis_unsupervised"].add(scores, "clip", prompt, frames)
    assert scores.compute()["j"] == pytest.approx((1 + 0.5) / 2)


# clicks


def test_the_centre_of_a_region():
    assert centre(block(10, 20, 11, 5)) == (15, 22) or centre(block(10, 20, 11, 5))[1] == 22
    ring = block(0, 0, 20, 20) & ~block(4, 4, 12, 12)  # its middle is not in it
    assert ring[centre(ring)]
    edge = block(0, 0, 9, SIDE)  # beyond the image is outside
    assert centre(edge)[0] == 4
    single = block(47, 47, 1, 1)
    assert centre(single) == (47, 47)


def grown(prompt, reach):
    """An answer of all pixels within reach of the clicks, region by region."""
    from hyperseg_jax.ops.dilation import dilate

    return np.stack([dilate(region, reach) for region in pixels_of(prompt, (SIDE, SIDE))])


def test_clicks_go_on_until_an_object_is_found():
    """Two bars. The answer is all within 6 pixels of a drawn click, cut to the bar. The first bar, 8 x 40, is clicked at its
    left end first, which finds 10 columns; each further click finds about 11 more. The second, 8 x 8, is found at once."""
    bars = np.stack([block(0, 0, 8, 40), block(20, 20, 8, 8)])
    prompt = Prompt(task="region", masks=bars[:, None], labels=(0, 1), regions=regions_of(bars))
    asked = []

    def find(one, out):
        asked.append(pixels_of(one, (SIDE, SIDE)))
        return Prediction(grown(one, 6) & bars)

    protocol = SimulatedClicks(clip(prompt, frames=1), find)
    run(protocol, lambda step, k: None)
    assert protocol.steps == 20 and asked[0].sum((1, 2)).tolist() == [5, 5] and (asked[0] <= bars).all()
    ((_, (found,)),) = protocol.answers()
    long, short = found.ious
    assert len(short) == 1 and short[0] == pytest.approx(1, abs=1e-4) and long[0] == pytest.approx(80 / 320)
    assert len(long) == 4 and list(long) == sorted(long)
    assert np.array_equal(asked[-1][1], asked[0][1])  # nobody clicks at what is found
    scores = score("clicks", protocol).compute()
    assert scores["count"] == 2 and scores["noc@90"] == (1 + len(long)) / 2 and scores["failed@90"] == 0
    assert scores["iou@1"] == pytest.approx((long[0] + short[0]) / 2)


def test_clicks_are_asked_as_points():
    """One more each step; an object that is ignored as a whole has none, and is asked for with an empty mask."""
    bars = np.stack([block(0, 0, 8, 40), block(20, 20, 8, 8)])
    prompt = Prompt(task="region", masks=bars[:, None], labels=(0, 1), regions=regions_of(bars), ignore=bars[1:])
    protocol = SimulatedClicks(clip(prompt, frames=1), lambda one, out: Prediction(np.zeros_like(bars)))
    first, second = protocol.prompt_at(0).regions
    assert first.kind == second.kind == "point" and second.mask is not None and not second.mask.any()
    assert first.mask is None and first.points.tolist() == [[3.5, 3.5, 1]]
    for clicks in range(1, 4):
        points = protocol.prompt_at(0).regions[0].points
        assert len(points) == clicks and (points[:, 2] == 1).all() and (points[:, :2] % 1 == 0.5).all()
        assert np.array_equal(draw_region(protocol.prompt_at(0).regions[0], (SIDE, SIDE)), protocol._drawn[0])
        protocol.add_outputs(0, None)


def test_interactive_systems_are_told_what_is_too_much():
    """The first answer lacks a little of the object and has much beside it, so the second click is in the middle of that; the
    third is where the object is lacking. What is asked at the last step is measured before the first."""
    target, beside = block(0, 0, 10, 20), block(20, 20, 20, 20)
    prompt = Prompt(task="region", masks=target[None, None], labels=(0,), regions=regions_of(target[None]))
    answers = iter([block(0, 0, 10, 15) | beside, block(0, 0, 10, 15)])
    protocol = CorrectiveClicks(clip(prompt, frames=1), lambda one, out: Prediction(next(answers)[None]))
    assert protocol.uses_memory and protocol.same_image
    assert protocol.measure(0, lambda example: len(example.prompts[0].regions[0].points)) == protocol.steps == 20
    protocol.add_outputs(0, None)
    protocol.add_outputs(0, None)
    first, second, third = protocol.prompt_at(0).regions[0].points
    assert first[2] == third[2] == 1 and second[2] == 0
    assert beside[int(second[1]), int(second[0])] and third[0] > 15


@pytest.mark.parametrize("kind", [SimulatedClicks, CorrectiveClicks])
def test_an_object_that_nobody_clicks_at_has_room_as_well(kind):
    """It is ignored as a whole, and asked for with an empty mask at each step."""
    bars = np.stack([block(0, 0, 8, 40), block(20, 20, 8, 8)])
    prompt = Prompt(task="region", masks=bars[:, None], labels=(0, 1), regions=regions_of(bars), ignore=bars[1:])
    protocol = kind(clip(prompt, frames=1), lambda one, out: Prediction(np.zeros_like(bars)))
    regions = protocol.measure(0, lambda example: example.prompts[0].regions)
    assert [len(region.points) for region in regions] == [20, 0] and len(protocol.prompt_at(0).regions) == 2


def test_an_object_that_is_never_found_counts_twenty_clicks():
    whole = block(0, 0, 30, 30)[None]
    prompt = Prompt(
        task="region", masks=whole[None], labels=(0,), regions=regions_of(whole, "box"), ignore=block(0, 0, 2, SIDE)[None]
    )
    protocol = SimulatedClicks(clip(prompt, frames=1), lambda one, out: Prediction(np.zeros((1, SIDE, SIDE), bool)))
    run(protocol, lambda step, k: None)
    scores = score("clicks", protocol).compute()
    assert (scores["noc@50"], scores["failed@50"], scores["iou@1"]) == (20, 1, 0)
    assert (
        len(protocol.answers()[0][1][0].ious[0]) == 20 and not (protocol._drawn[0, 0]).any()
    )  # ignored pixels are not clicked at


def test_border_pixels_do_not_count():
    """IoU is 1 where the answer differs in ignored pixels alone."""
    target, ignore = block(0, 0), block(12, 0, 2, 12)
    prompt = Prompt(task="region", masks=target[None, None], labels=(0,), regions=regions_of(target[None]), ignore=ignore[None])
    protocol = SimulatedClicks(clip(prompt, frames=1), lambda one, out: Prediction((target | ignore)[None]))
    run(protocol, lambda step, k: None)
    assert protocol.answers()[0][1][0].ious[0][0] == pytest.approx(1, abs=1e-4)


def test_nothing_to_click_at_is_named():
    with pytest.raises(UserError, match="clip: has no objects to click on"):
        SimulatedClicks(clip(Prompt(task="region", regions=regions_of(block(0, 0)[None]))), lambda one, out: None)
