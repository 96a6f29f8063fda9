"""Region prompts of HyperSeg: masks at the size of the image that they were drawn on."""

import dataclasses

import numpy as np
import pytest

from hyperseg_jax.datasets.visual_prompts import draw_region
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops.transforms import stretch_mask_to_square
from hyperseg_jax.structs import Example, Prompt, Region
from hyperseg_jax.systems.hyperseg.processor import HyperSegProcessor
from hyperseg_jax.text.tokenizer import Tokenizer

SIZE, SIDE = (40, 60), 32
PROCESSOR = HyperSegProcessor(Tokenizer.toy(), 64, SIDE, 9, 4, 4, length=160, regions=5)
REGIONS = (
    Region.from_point(20.5, 30.5),
    Region.from_box(10, 5, 30, 22.6),
    Region.from_scribble([(5, 5), (50, 8)]),
    Region.from_mask(np.arange(2400).reshape(SIZE) % 7 < 3),
    Region("point", points=[[8, 8, 1], [50, 30, 0]], boxes=[[40, 20, 55, 35]]),
)


def make_example(*regions, **kwargs):
    return Example("val.json#7", np.zeros((1, *SIZE, 3), np.uint8), (Prompt("region", regions=regions),), **kwargs)


def test_regions_are_drawn_and_resized():
    arrays = PROCESSOR(make_example(*REGIONS), train=False)
    assert arrays["region_valid"].all() and arrays["regions"].shape == (1, 5, SIDE, SIDE)
    for output, region in zip(arrays["regions"][0], REGIONS, strict=True):
        assert np.array_equal(output, stretch_mask_to_square(draw_region(region, SIZE), SIDE)) and output.any()
    assert (
        PROCESSOR.bucket(make_example(*REGIONS))["regions"] == 8 and PROCESSOR.bucket(make_example(REGIONS[0]))["regions"] == 5
    )


def test_regions_have_the_size_of_the_image_that_they_were_drawn_on():
    """For another image than the frame, which has no pixel (100, 80)."""
    region, other = Region.from_point(100.5, 80.5), np.zeros((90, 120, 3), np.uint8)
    arrays = dataclasses.replace(PROCESSOR, drawn_on=1)(make_example(region, drawn_on=other), train=False)
    assert np.array_equal(arrays["regions"][0, 0], stretch_mask_to_square(draw_region(region, (90, 120)), SIDE))
    with pytest.raises(UserError, match=r"^val.json#7: region 1: the point \(100\.5, 80\.5\) is not inside"):
        PROCESSOR(make_example(region), train=False)


def test_regions_of_a_clip_are_those_of_its_first_frame():
    """Otherwise their features would come from each queried frame in turn, on which the objects have moved."""
    pixels = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, *SIZE, 3), np.uint8)
    clip = dataclasses.replace(make_example(REGIONS[0]), frames=pixels)
    sizes = PROCESSOR.bucket(clip)
    assert sizes["drawn_on"] == 1 and PROCESSOR.bucket(make_example(REGIONS[0]))["drawn_on"] == 0
    arrays = PROCESSOR.for_bucket(sizes)(clip, train=False)
    assert arrays["images"].shape[0] == 3 and not arrays["region_images"].any()
    assert PROCESSOR.bucket(dataclasses.replace(clip, prompts=(Prompt("video", "the ring"),)))["drawn_on"] == 0


def test_regions_with_only_negative_points_are_refused():
    beside = Region("point", points=[[8, 8, 0]])
    with pytest.raises(UserError) as caught:
        PROCESSOR(make_example(REGIONS[0], beside), train=False)
    messages = str(caught.value)
    assert messages.startswith("val.json#7: region 2: it has only points beside the object") and "\n" not in messages
    assert messages.endswith("add a point on the object, a box, a scribble or a mask")
