"""Simulated clicks: groups of objects, signs, start shapes, and when they stop."""

import numpy as np
import pytest
from protocol_run import SIDE, make_block, make_example, run_protocol, score_protocol
from sample_inputs import draw_regions, make_regions
from scipy import ndimage

from hyperseg_jax.datasets.visual_prompts import draw_region
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.clicks import CorrectiveClicks, SimulatedClicks, spread_points
from hyperseg_jax.evaluation.start_shapes import START_SHAPES, centre
from hyperseg_jax.structs import Prediction, Prompt


def test_the_centre_of_a_region():
    assert centre(make_block(10, 20, 11, 5)) == (15, 22) or centre(make_block(10, 20, 11, 5))[1] == 22
    ring = make_block(0, 0, 20, 20) & ~make_block(4, 4, 12, 12)  # a ring does not contain its centroid
    assert ring[centre(ring)]
    edge = make_block(0, 0, 9, SIDE)  # pixels outside the image count as background
    assert centre(edge)[0] == 4
    single = make_block(47, 47, 1, 1)
    assert centre(single) == (47, 47)


def grow_clicks(prompt, reach):
    """Predicts, per region, all pixels within `reach` of its clicks."""
    from hyperseg_jax.ops.dilation import dilate

    return np.stack([dilate(region, reach) for region in draw_regions(prompt, (SIDE, SIDE))])


def test_clicks_continue_until_an_object_is_found():
    """Two bars; the prediction is every pixel of the bar within 6 pixels of a click. The first bar, 8 x 40, is clicked at its
    left end first, which finds 10 columns; each further click finds about 11 more. The second, 8 x 8, needs one click."""
    bars = np.stack([make_block(0, 0, 8, 40), make_block(20, 20, 8, 8)])
    prompt = Prompt(task="region", masks=bars[:, None], labels=(0, 1), regions=make_regions(bars))
    requests = []

    def find(one, out):
        requests.append(draw_regions(one, (SIDE, SIDE)))
        return Prediction(grow_clicks(one, 6) & bars)

    protocol = SimulatedClicks(make_example(prompt, frames=1), find)
    run_protocol(protocol, lambda step, k: None)
    assert protocol.steps == 20 and requests[0].sum((1, 2)).tolist() == [5, 5] and (requests[0] <= bars).all()
    ((_, (result,)),) = protocol.answers()
    long, short = result.ious
    assert len(short) == 1 and short[0] == pytest.approx(1, abs=1e-4) and long[0] == pytest.approx(80 / 320)
    assert len(long) == 4 and list(long) == sorted(long)
    assert np.array_equal(requests[-1][1], requests[0][1])  # found objects get no further clicks
    scores = score_protocol("clicks", protocol).compute()
    assert scores["count"] == 2 and scores["noc@90"] == (1 + len(long)) / 2 and scores["failed@90"] == 0
    assert scores["iou@1"] == pytest.approx((long[0] + short[0]) / 2)


def test_clicks_are_point_prompts():
    """Each step adds a click; a fully ignored object has none and is prompted with an empty mask."""
    bars = np.stack([make_block(0, 0, 8, 40), make_block(20, 20, 8, 8)])
    prompt = Prompt(task="region", masks=bars[:, None], labels=(0, 1), regions=make_regions(bars), ignore=bars[1:])
    protocol = SimulatedClicks(make_example(prompt, frames=1), lambda one, out: Prediction(np.zeros_like(bars)))
    first, second = protocol.prompt_at(0).regions
    assert first.kind == second.kind == "point" and second.mask is not None and not second.mask.any()
    assert first.mask is None and first.points.tolist() == [[3.5, 3.5, 1]]
    for clicks in range(1, 4):
        points = protocol.prompt_at(0).regions[0].points
        assert len(points) == clicks and (points[:, 2] == 1).all() and (points[:, :2] % 1 == 0.5).all()
        assert np.array_equal(draw_region(protocol.prompt_at(0).regions[0], (SIDE, SIDE)), protocol._objects[0].marked)
        protocol.add_outputs(0, None)


def make_corrective(masks, answers, **options):
    """Returns CorrectiveClicks on masks [N, H, W] whose prediction is the next of `answers`."""
    prompt = Prompt(task="region", masks=masks[:, None], labels=tuple(range(len(masks))), regions=make_regions(masks))
    predicted = iter(answers)
    return CorrectiveClicks(make_example(prompt, frames=1), lambda one, out: Prediction(np.array(next(predicted))), **options)


def test_the_larger_error_gives_the_sign():
    """192 missing pixels in a thin bar outweigh 144 in a thick block; then the block does; equal counts are negative."""
    target, block = make_block(0, 0, 4, SIDE) | make_block(10, 0, 10, SIDE), make_block(30, 20)
    bar = make_block(0, 0, 4, SIDE)
    protocol = make_corrective(target[None], [((target & ~bar) | block)[None], (target | block)[None]])
    protocol.add_outputs(0, None)
    protocol.add_outputs(0, None)
    first, second, third = protocol.prompt_at(0).regions[0].points
    assert target[int(first[1]), int(first[0])] and bar[int(second[1]), int(second[0])] and second[2] == first[2] == 1
    assert block[int(third[1]), int(third[0])] and third[2] == 0
    assert protocol.answers()[0][1][0].ious[0] == pytest.approx((480 / 816, 672 / 816))
    tie = make_corrective(target[None], [((target & ~make_block(0, 0, 4, 36)) | block)[None]])
    tie.add_outputs(0, None)
    assert tie.prompt_at(0).regions[0].points[-1, 2] == 0


def test_good_masks_are_not_clicked():
    """From IoU 0.925 an object gets no click, while another one of its group keeps being clicked."""
    whole, other = make_block(0, 0, 20, 20), make_block(30, 30)
    answers = [np.stack([whole & ~make_block(0, 0, 1, missing), other & False]) for missing in (20, 19, 18, 17)]
    answers[1] &= ~make_block(1, 0, 1, 13)  # 32 missing: IoU 0.92; then 18: 0.955
    protocol = make_corrective(np.stack([whole, other]), answers)
    counts = []
    for _ in answers:
        protocol.add_outputs(0, None)
        counts.append([len(region.points) for region in protocol.prompt_at(0).regions])
    assert counts == [[1, 2], [2, 3], [2, 4], [2, 5]]


def test_clicks_are_not_repeated():
    """A click marks 3 x 3 pixels, which are not clicked again, whatever the model answers."""
    target = make_block(10, 10, 5, 5)
    protocol = make_corrective(target[None], [np.zeros((1, SIDE, SIDE), bool)] * 20)
    run_protocol(protocol, lambda step, k: None)
    points = protocol.prompt_at(0).regions[0].points
    assert target[points[:, 1].astype(int), points[:, 0].astype(int)].all() and len(points) <= 20
    apart = np.abs(points[:, None, :2] - points[None, :, :2]).max(-1) + 9 * np.eye(len(points))
    assert apart.min() >= 2


def test_up_to_five_objects_are_one_query_until_all_are_found():
    """Seven objects make groups of five and two. IoUs of an object are noted until all of its group are above 0.9, also if it
    was found before or is lost again; then the last one counts."""
    objects = np.stack([make_block(6 * k, 0, 5, 40) for k in range(7)])
    half = np.concatenate([objects[:, :, :20], np.zeros((7, SIDE, SIDE - 20), bool)], axis=2)
    first = [objects[:5], half[:5], objects[:5]]
    second = [half[5:], np.stack([objects[5], half[6]]), np.stack([half[5], objects[6]]), objects[5:]]
    answers = [np.stack([*first[0][:4], half[4]]), first[1], first[2]]
    rounds = {0: iter(answers), 1: iter(second)}
    protocol = make_corrective(objects, [])
    protocol._prediction_fn = lambda one, out: Prediction(np.array(next(rounds[out])))
    requests = run_protocol(protocol, lambda step, k: k)
    assert protocol.prompts == 2 and protocol.uses_memory and protocol.shares_image
    assert [len(row["example"].prompts[0].regions) for row in requests[:4]] == [5, 2, 5, 2]
    ious = protocol.answers()[0][1][0].ious
    assert ious[:4] == ((1, 0.5, 1),) * 4 and ious[4] == (0.5, 0.5, 1)
    assert ious[5] == (0.5, 1, 0.5, 1) and ious[6] == (0.5, 0.5, 1, 1)
    scores = score_protocol("clicks", protocol).compute()
    assert scores["count"] == 7 and scores["noc@90"] == pytest.approx((4 * 1 + 3 + 2 + 3) / 7)
    assert scores["iou@3"] == pytest.approx((5 * 1 + 0.5 + 1) / 7) and scores["iou@5"] == 1


def test_a_query_of_any_group_has_the_same_shape():
    """The bucket has room for five objects with 20 prompts on the object and 19 beside it, at different pixels."""
    objects = np.stack([make_block(6 * k, 0, 5, 40) for k in range(7)])
    protocol = make_corrective(objects, [])
    for group in range(2):
        regions = protocol.bucket_of_longest_query(group, lambda example: example.prompts[0].regions)
        assert len(regions) == 5
        for region in regions:
            assert np.bincount(region.points[:, 2].astype(int)).tolist() == [19, 20]
            for sign in (0, 1):
                of_sign = region.points[region.points[:, 2] == sign, :2]
                assert len(np.unique(of_sign, axis=0)) == len(of_sign)
    assert np.array(spread_points(19, (10, 100), positive=True))[:, :2].max(0) == pytest.approx([90, 8.75])


@pytest.mark.parametrize(("kind", "points"), [(SimulatedClicks, [20, 0]), (CorrectiveClicks, [39, 0, 39, 39, 39])])
def test_a_fully_ignored_object_has_a_query(kind, points):
    """A fully ignored object is prompted with an empty mask at each step."""
    bars = np.stack([make_block(0, 0, 8, 40), make_block(20, 20, 8, 8)])
    prompt = Prompt(task="region", masks=bars[:, None], labels=(0, 1), regions=make_regions(bars), ignore=bars[1:])
    protocol = kind(make_example(prompt, frames=1), lambda one, out: Prediction(np.zeros_like(bars)))
    regions = protocol.bucket_of_longest_query(0, lambda example: example.prompts[0].regions)
    assert [len(region.points) for region in regions] == points and len(protocol.prompt_at(0).regions) == 2
    protocol.add_outputs(0, None)
    assert not protocol.prompt_at(0).regions[1].mask.any() and len(protocol.prompt_at(0).regions[1].points) == 0


# start shapes


def make_ring():
    """A ring whose box has its centre beside the ring."""
    y, x = np.mgrid[:SIDE, :SIDE]
    distance = np.hypot(y - 20, x - 24)
    return (distance < 18) & (distance > 9)


@pytest.mark.parametrize("shape", START_SHAPES)
@pytest.mark.parametrize("kind", [SimulatedClicks, CorrectiveClicks])
def test_a_start_shape_is_followed_by_clicks(kind, shape):
    ring = make_ring()
    prompt = Prompt(task="region", masks=ring[None, None], labels=(0,), regions=make_regions(ring[None]))
    make = lambda: kind(make_example(prompt, frames=1), lambda one, out: Prediction(np.zeros_like(ring)[None]), start=shape)
    protocol, again = make(), make()
    (first,), (same,) = protocol.prompt_at(0).regions, again.prompt_at(0).regions
    drawn = draw_region(first, ring.shape)
    assert np.array_equal(drawn, draw_region(same, ring.shape)) and drawn.any()
    if shape == "box":
        assert first.boxes.tolist() == [[7, 3, 42, 38]] and not len(first.points)
    elif shape in ("point", "box_centre"):
        ((x, y, sign),) = first.points
        assert sign == 1 and ring[int(y), int(x)] == (shape == "point") and (shape == "point" or (x, y) == (24.5, 20.5))
    else:
        assert not len(first.points) and (shape == "polygon" or not (drawn & ~ring).any())
    for clicks in (1, 2):
        protocol.add_outputs(0, None)
        (region,) = protocol.prompt_at(0).regions
        added = region.points[len(first.points) :]
        assert len(added) == clicks and (added[:, 2] == 1).all()
        for x, y, _ in added[-1:]:
            assert ring[int(y), int(x)] and (shape == "box" or not drawn[int(y), int(x)])
        assert np.array_equal(region.boxes, first.boxes) and (region.mask is None) == (first.mask is None)


def test_random_shapes_differ_between_objects_and_images():
    ring = make_ring()
    both = Prompt(
        task="region", masks=np.stack([ring, ring])[:, None], labels=(0, 1), regions=make_regions(np.stack([ring] * 2))
    )
    example = make_example(both, frames=1)
    renamed = type(example)("other", example.frames, example.prompts)
    masks = [
        region.mask
        for one in (example, renamed)
        for region in CorrectiveClicks(one, lambda prompt, out: None, start="scribble").prompt_at(0).regions
    ]
    assert len({mask.tobytes() for mask in masks}) == 4


def test_strokes_have_the_width_of_a_large_image():
    """A brush of 3 to 9 pixels on an image of 800 pixels is thin on one of 80."""
    disc = np.hypot(*(np.mgrid[:80, :80] - 40)) < 38
    drawn = [START_SHAPES["scribble"](disc, np.random.default_rng(k)).mask.sum() for k in range(30)]
    assert np.median(drawn) < 0.1 * disc.sum()


@pytest.mark.parametrize("shape", ["scribble", "circle"])
def test_a_stroke_starts_near_the_centre(shape):
    """It is one, and not the several of training, which may be anywhere on the object."""
    disc = np.hypot(*(np.mgrid[:800, :800] - 400)) < 395
    for k in range(12):
        drawn = START_SHAPES[shape](disc, np.random.default_rng(k)).mask
        assert ndimage.label(drawn, np.ones((3, 3)))[1] == 1 and drawn[350:450, 350:450].any()


def test_a_shape_that_does_not_come_out_is_a_click():
    pixel = make_block(5, 7, 1, 1, side=4000)
    region = START_SHAPES["circle"](pixel, np.random.default_rng(0))
    assert region.mask is None and region.points.tolist() == [[7.5, 5.5, 1]]


def test_an_object_that_is_never_found_counts_twenty_clicks():
    full = make_block(0, 0, 30, 30)[None]
    prompt = Prompt(
        task="region", masks=full[None], labels=(0,), regions=make_regions(full, "box"), ignore=make_block(0, 0, 2, SIDE)[None]
    )
    protocol = SimulatedClicks(make_example(prompt, frames=1), lambda one, out: Prediction(np.zeros((1, SIDE, SIDE), bool)))
    run_protocol(protocol, lambda step, k: None)
    scores = score_protocol("clicks", protocol).compute()
    assert (scores["noc@50"], scores["failed@50"], scores["iou@1"]) == (20, 1, 0)
    assert (
        len(protocol.answers()[0][1][0].ious[0]) == 20 and not protocol._objects[0].marked[0].any()
    )  # ignored pixels are never clicked


def test_border_pixels_do_not_count():
    """IoU is 1 if only ignored pixels differ."""
    target, ignore = make_block(0, 0), make_block(12, 0, 2, 12)
    prompt = Prompt(
        task="region", masks=target[None, None], labels=(0,), regions=make_regions(target[None]), ignore=ignore[None]
    )
    protocol = SimulatedClicks(make_example(prompt, frames=1), lambda one, out: Prediction((target | ignore)[None]))
    run_protocol(protocol, lambda step, k: None)
    assert protocol.answers()[0][1][0].ious[0][0] == pytest.approx(1, abs=1e-4)


def test_regions_without_targets_are_rejected():
    with pytest.raises(UserError, match="clip: has no objects to click on"):
        SimulatedClicks(
            make_example(Prompt(task="region", regions=make_regions(make_block(0, 0)[None]))), lambda one, out: None
        )
