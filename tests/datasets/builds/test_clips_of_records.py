"""Clips out of whole videos whose objects come and go; frame t of the video is of grey t."""

import dataclasses

import numpy as np
import pytest
from sample_inputs import draw_regions, make_regions, region_kinds

from hyperseg_jax.datasets.builds import images, records
from hyperseg_jax.datasets.builds.clips import sample_clip
from hyperseg_jax.datasets.builds.records import Record
from hyperseg_jax.datasets.frame_sampling import REACH, Sampling
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt, Region

SEEN = np.array([[1, 1, 1, 1, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 1, 1, 1]], bool)
"""In which of ten frames each of two objects is seen."""
LENGTH = SEEN.shape[1]


def video(task, **fields):
    masks = np.zeros((2, LENGTH, 6, 8), bool)
    masks[0, :, :3], masks[1, :, 3:] = SEEN[0, :, None, None], SEEN[1, :, None, None]
    frames = np.broadcast_to(np.arange(LENGTH, dtype=np.uint8)[:, None, None, None], (LENGTH, 6, 8, 3))
    example = Example("v", frames, (Prompt(task=task, masks=masks, labels=(0, 1), **fields),))
    return masks, Record(records.encode_example(example, images.encode_losslessly(frames, [])), "shard#0")


def drawn(record, rule, count=40):
    """(times, prompt) of clips of three frames."""
    for seed in range(count):
        example = sample_clip(record, Sampling(3, rule), np.random.default_rng(seed), "shard#0")
        yield example.frames[:, 0, 0, 0].astype(int), example.prompts[0]


@pytest.mark.parametrize("rule", REACH)
def test_drawn_objects_are_those_of_the_first_frame(rule):
    masks, _ = video("region")
    full, record = video("region", regions=make_regions(masks[:, 0], "mask", "box"))
    counts = set()
    for times, prompt in drawn(record, rule):
        kept = np.flatnonzero(SEEN[:, times[0]])
        assert len(kept) and prompt.labels == tuple(range(len(kept)))
        np.testing.assert_array_equal(prompt.masks, full[kept][:, times])
        np.testing.assert_array_equal(draw_regions(prompt), prompt.masks[:, 0])
        assert region_kinds(prompt) == tuple(("mask", "box")[n] for n in kept)
        counts.add(tuple(kept))
    assert len(counts) > 1
    begun = sum(times.tolist() == [0, 1, 2] for times, _ in drawn(record, rule, 200))
    assert begun < 20  # where the draws find no such frame, the clip is the beginning of the video


@pytest.mark.parametrize("rule", REACH)
def test_class_lists_have_what_the_clip_shows(rule):
    ignore = np.zeros((LENGTH, 6, 8), bool)
    ignore[9] = True
    full, record = video("panoptic", classes=("a", "b"), things=(True, True), ignore=ignore)
    counts, key = set(), Sampling(3, rule).key_position
    for times, prompt in drawn(record, rule):
        kept = np.flatnonzero(SEEN[:, times].any(1))
        assert prompt.labels == tuple(kept) and SEEN[:, times[key]].any()
        np.testing.assert_array_equal(prompt.masks, full[kept][:, times])
        assert (prompt.ignore is None) == (9 not in times)
        counts.add((tuple(kept), prompt.ignore is None))
    assert len(counts) > 2


def test_spoken_objects_stay_and_jumps_show_one():
    full, record = video("video", text="both")
    hidden = 0
    for times, prompt in drawn(record, "stride"):
        np.testing.assert_array_equal(prompt.masks, full[:, times])
        hidden += not SEEN[:, times[0]].any()
    assert hidden
    assert all(SEEN[:, times[1]].any() for times, _ in drawn(record, "jump"))


def test_points_of_the_first_frame_are_for_whole_videos():
    dots = (Region.from_point(3, 3),) * 2
    _, record = video("region", regions=dots)
    assert sample_clip(record, Sampling(), np.random.default_rng(0), "shard#0").frames.shape[0] == LENGTH
    with pytest.raises(UserError, match="shard#0: its regions are not the objects of its first frame"):
        next(drawn(record, "stride"))
    with_server = Record(
        records.encode_example(
            dataclasses.replace(record.example(), prompts=(Prompt(task="region", regions=dots),)),
            images.encode_losslessly(record.example().frames, []),
        ),
        "shard#0",
    )
    assert len(sample_clip(with_server, Sampling(3), np.random.default_rng(0), "shard#0").frames) == LENGTH


@pytest.mark.parametrize("change", ["another mask", "a point as well", "one fewer"])
def test_other_regions_than_the_objects_are_for_whole_videos(change):
    masks, _ = video("region")
    regions = make_regions(masks[:, 0])
    if change == "another mask":
        regions = regions[::-1]
    elif change == "a point as well":
        regions = (dataclasses.replace(regions[0], points=[[1, 1, 0]]), regions[1])
    _, record = video("region", regions=regions)
    if change == "one fewer":
        record.prompts = (dataclasses.replace(record.prompts[0], regions=regions[:1]),)
    with pytest.raises(UserError, match="shard#0: its regions are not the objects of its first frame"):
        next(drawn(record, "stride"))


def test_a_crowd_counts_as_seen():
    """As the reader of YouTube-VIS takes it: a key frame that shows a crowd alone shows something."""
    crowds = np.zeros((1, LENGTH, 6, 8), bool)
    crowds[0, 5] = True
    _, record = video("panoptic", classes=("a", "b"), things=(True, True), crowds=crowds, crowd_labels=(0,))
    key = Sampling(3, "jump").key_position
    keys = {int(times[key]) for times, _ in drawn(record, "jump", 100)}
    assert 5 in keys and keys <= set(np.flatnonzero(SEEN.any(0))) | {5}
