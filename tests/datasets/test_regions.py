"""Regions: valid inputs, drawing, flips and crops."""

import dataclasses

import numpy as np
import pytest
from sample_inputs import draw_regions

from hyperseg_jax.data.augment import crop_example, flip_horizontally
from hyperseg_jax.datasets import visual_prompts
from hyperseg_jax.datasets.regions import crop_region, flip_region, has_positive_mark
from hyperseg_jax.datasets.visual_prompts import box_region, draw_region
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt, Region

SIZE = HEIGHT, WIDTH = 90, 120  # a point is a disc of 2 pixels around its own, a scribble of 1


def make_pixel_mask(x, y):
    result = np.zeros(SIZE, bool)
    result[y, x] = True
    return result


MASK = np.zeros(SIZE, bool)
MASK[60:80, 10:30] = True
ALL = Region(
    "point",
    points=[[20.5, 30.2, 1], [90, 12, 1], [60, 60, 0]],
    boxes=[[70.2, 40.8, 100, 55]],
    scribbles=[[[5, 5], [5.9, 25.9], [40, 25]], [[110.5, 80.5]]],
    mask=MASK,
)


# inputs


def test_constructors():
    assert Region.from_point(3, 4).points.tolist() == [[3, 4, 1]] and Region.from_point(3, 4).kind == "point"
    assert Region.from_box(1, 2, 3, 4).boxes.tolist() == [[1, 2, 3, 4]] and Region.from_box(1, 2, 3, 4).kind == "box"
    (line,) = Region.from_scribble([(1, 2), (3, 4)]).scribbles
    assert line.tolist() == [[1, 2], [3, 4]] and line.dtype == np.float64
    assert Region.from_mask(MASK).kind == "mask" and Region.from_mask(MASK, "box").kind == "box"
    nothing = Region("mask")
    assert nothing.points.shape == (0, 3) and nothing.boxes.shape == (0, 4) and nothing.scribbles == () and nothing.mask is None


def test_masks_of_other_types():
    """0 and 1, or 0 and one positive integer, are a mask; soft masks and numbers of objects are no mask."""
    for mask in (MASK.astype(np.uint8), MASK.astype(np.uint8) * 255, MASK.astype(np.float32), MASK.astype(np.int64) * 7):
        assert Region.from_mask(mask).mask.dtype == bool and np.array_equal(Region.from_mask(mask).mask, MASK)
    soft = MASK * np.float32(0.3)
    for mask in (soft, MASK * np.int8(-1), MASK + np.uint8(1) + MASK, np.where(MASK, np.nan, 0), MASK.astype(complex)):
        with pytest.raises(UserError, match=rf"^a mask is {mask.dtype} with several values; give bool \[height, width\], such"):
            Region.from_mask(mask)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"kind": "blob"}, "has the kind 'blob'; use one of point, scribble, box, mask"),
        ({"points": [[1, 2]]}, r"the points of a region have the shape \(1, 2\)"),
        ({"points": ["here"]}, "the points of a region are not numbers"),
        ({"points": [[1, 2, 2]]}, r"give 1 \(positive\) or 0"),
        ({"points": [[np.nan, 2, 1]]}, "the points of a region have a coordinate that is not finite, or not below 1000000"),
        ({"points": np.ones((4097, 3))}, "give up to 4096 rows of 3 numbers"),
        ({"boxes": [[0, 0, np.inf, 5]]}, "the boxes of a region have a coordinate"),
        ({"boxes": [[5, 0, 4, 5]]}, "give left, top, right, bottom"),
        ({"scribbles": [[]]}, "a scribble of a region is empty; give at least one vertex"),
        ({"scribbles": [[[1, 1]]] * 4097}, "has 4097 scribbles; give 4096 at most"),
        ({"scribbles": [[[0, 0], [9e5, 0], [0, 0]]]}, "are longer than 1000000 pixels"),
    ],
)
def test_invalid_regions_are_refused(given, told):
    with pytest.raises(UserError, match=told):
        Region(**({"kind": "point"} | given))


# drawing


def test_points_are_dilated_pixels():
    for x, y in ((20, 30), (20.99, 30.0), (20.5, 30.5)):
        result = draw_region(Region.from_point(x, y), SIZE)
        assert np.array_equal(result, visual_prompts.thicken_mark(make_pixel_mask(20, 30), "point")) and result.sum() == 13


def test_thin_marks_are_dilated():
    thin = lambda radius: Region.from_mask(make_pixel_mask(20, 30), "point", radius)
    assert np.array_equal(draw_region(thin(None), SIZE), visual_prompts.thicken_mark(make_pixel_mask(20, 30), "point"))
    assert np.array_equal(draw_region(thin(7), SIZE), visual_prompts.thicken_mark(make_pixel_mask(20, 30), "point", 7))
    assert np.array_equal(draw_region(thin(0), SIZE), make_pixel_mask(20, 30))
    for radius in (None, 7, 0):
        thick = visual_prompts.thicken_region_mask(thin(radius))
        assert thick.radius == 0 and np.array_equal(thick.mask, draw_region(thin(radius), SIZE))
        assert np.array_equal(draw_region(flip_region(thin(radius), SIZE[1]), SIZE), draw_region(thin(radius), SIZE)[:, ::-1])
    with pytest.raises(UserError, match="has the radius -1; give an integer from 0 to"):
        thin(-1)


def test_boxes_are_filled_and_masks_unchanged():
    box = draw_region(Region.from_box(9.6, 20, 30.4, 40.5), SIZE)
    assert np.array_equal(box, visual_prompts.filled_box(SIZE, 9.6, 20, 30.4, 40.5)) and box.sum() == 20 * 20
    assert np.array_equal(draw_region(Region.from_mask(MASK), SIZE), MASK)
    assert not draw_region(Region.from_mask(np.zeros(SIZE, bool)), SIZE).any()  # masks of readers are not checked


def test_scribbles_are_thick_lines():
    thin = np.zeros(SIZE, bool)
    thin[5:26, 5] = thin[25, 5:41] = True
    result = draw_region(Region.from_scribble([(5, 5), (5.9, 25.9), (40, 25)]), SIZE)
    assert np.array_equal(result, visual_prompts.thicken_mark(thin, "scribble")) and result.sum() > 2 * thin.sum()
    assert np.array_equal(
        draw_region(Region.from_scribble([(7.5, 8.5)]), SIZE), visual_prompts.thicken_mark(make_pixel_mask(7, 8), "scribble")
    )
    beyond = draw_region(Region.from_scribble([(5, 5), (5, -400)]), SIZE)  # as after a crop
    assert beyond[:6, 5].all() and beyond.sum() == draw_region(Region.from_scribble([(5, 5), (5, 0)]), SIZE).sum()


def test_all_marks_of_a_region_are_drawn():
    parts = [
        Region.from_point(20.5, 30.2),
        Region.from_point(90, 12),
        Region.from_box(70.2, 40.8, 100, 55),
        *map(Region.from_scribble, ALL.scribbles),
        Region.from_mask(MASK),
    ]
    assert np.array_equal(draw_region(ALL, SIZE), np.any([draw_region(part, SIZE) for part in parts], 0))
    assert not draw_region(ALL, SIZE)[60, 60]  # the point beside the object
    assert np.array_equal(ALL.mask, MASK) and MASK.sum() == 400  # the mask that was given is not drawn on


@pytest.mark.parametrize(
    ("region", "told"),
    [
        (Region("point", points=[[3, 3, 0]]), "has only points beside the object.*add a point on the object"),
        (Region("point", points=[[3, 3, 0]], mask=np.zeros(SIZE, bool)), "has only points beside the object"),
        (Region("point"), "is empty.*add a point on the object"),
        (Region("point", points=[[3, 3, 1], [120, 3, 1]]), r"the point \(120, 3\) is not inside an image of 120 x 90 pixels"),
        (Region.from_box(120, 3, 130, 9), r"the box \(120, 3, 130, 9\) is not in an image of 120 x 90 pixels"),
        (Region.from_box(-9, 3, 0, 9), r"the box \(-9, 3, 0, 9\) is not in an image"),
        (Region.from_scribble([(-1, 3), (-5, 90)]), "no pixel of a scribble is inside an image of 120 x 90 pixels"),
        (Region.from_mask(MASK.T), r"a mask of \(120, 90\) \(height, width\) was drawn on an image of 120 x 90 pixels"),
    ],
)
def test_undrawable_regions_are_refused(region, told):
    with pytest.raises(UserError, match=told):
        draw_region(region, SIZE)


# boxes of files


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        ([3.25, 4, 10, 20.5], [3.25, 4, 13.25, 24.5]),
        ([-5, 80, 20, 40], [0, 80, 15, 90]),
        ([130, 0, 5, 5], [120, 0, 120, 5]),  # outside: empty, at the border
        ([-9, -9, 4, 5], [0, 0, 0, 0]),
        ([3, 3, 0, 5], [3, 3, 3, 8]),
        ([1e300, 0, 5, 5], [120, 0, 120, 5]),
    ],
)
def test_boxes_of_files_are_clipped(box, clipped):
    region = box_region(box, SIZE, "f#1")
    assert region.boxes.tolist() == [clipped] and region.kind == "box"


@pytest.mark.parametrize(
    "box", [[3.5, 3, -0.1, 5], [3, float("nan"), 5, 5], [3, 3, float("inf"), 5], [3, 3], [3, 3, "x", 5], None, {}]
)
def test_invalid_boxes_are_refused(box):
    with pytest.raises(UserError, match=r"f#1: box .* is invalid, expected \[x, y, width, height\]; correct it"):
        box_region(box, SIZE, "f#1")


# mirrored and cropped


@pytest.mark.parametrize("x", [0, 3, 3.5, 3.25, 119, 119.5, 1e-30, 119.99999999999999, 60])
def test_flipped_points(x):
    point = Region.from_point(x, 30)
    result = flip_region(point, WIDTH)
    assert np.array_equal(draw_region(result, SIZE), draw_region(point, SIZE)[:, ::-1])
    between = x % 1 and x > 1e-9
    assert result.points[0, 0] == (WIDTH - x if between else WIDTH - 0.5 - np.floor(x))  # at a border, the pixel's centre


def test_flipped_regions_keep_all_marks():
    result = flip_region(ALL, WIDTH)
    assert result.points.tolist() == [[99.5, 30.2, 1], [29.5, 12, 1], [59.5, 60, 0]] and result.kind == "point"
    np.testing.assert_allclose(result.boxes, [[20, 40.8, 49.8, 55]])
    assert np.array_equal(result.mask, MASK[:, ::-1]) and len(result.scribbles) == 2
    for one in ("points", "boxes", "mask"):
        alone = Region("mask", **{one: getattr(ALL, one)})
        assert np.array_equal(draw_region(flip_region(alone, WIDTH), SIZE), draw_region(alone, SIZE)[:, ::-1]), one
    lines = Region("scribble", scribbles=ALL.scribbles)
    assert np.array_equal(draw_region(flip_region(lines, WIDTH), SIZE), draw_region(lines, SIZE)[:, ::-1])
    twice = flip_region(result, WIDTH)
    assert np.array_equal(draw_region(twice, SIZE), draw_region(ALL, SIZE))


WINDOW = (slice(20, 60), slice(10, 80))


def test_cropped_regions():
    result = crop_region(ALL, WINDOW)
    np.testing.assert_allclose(result.points, [[10.5, 10.2, 1]])
    np.testing.assert_allclose(result.boxes, [[60.2, 20.8, 70, 35]])
    (line,) = result.scribbles
    np.testing.assert_allclose(line, [[-5, -15], [-4.1, 5.9], [30, 5]])
    assert result.mask.shape == (40, 70) and not result.mask.any()
    drawn = draw_region(result, (40, 70))
    assert drawn[10, 10] and drawn[21:35, 60:].all() and drawn[5, :30].all() and not drawn[36:].any()


@pytest.mark.parametrize(
    ("region", "seen"),
    [
        (Region.from_point(10, 20), True),
        (Region.from_point(79.9, 59.9), True),
        (Region.from_point(80, 30), False),
        (Region.from_point(9.9, 30), False),
        (Region("point", points=[[30, 30, 0], [5, 5, 1]]), False),
        (Region.from_box(0, 0, 10.5, 20.5), True),
        (Region.from_box(0, 0, 10, 90), False),
        (Region.from_box(30.5, 30, 30.5, 31), True),
        (Region.from_scribble([(5, 5), (10, 20)]), True),
        (Region.from_scribble([(5, 30), (100, 30)]), False),
        (Region.from_mask(MASK), False),
        (Region.from_mask(MASK[::-1]), True),
    ],
)
def test_visibility_of_cropped_regions(region, seen):
    """Visible regions can be drawn."""
    result = crop_region(region, WINDOW)
    assert has_positive_mark(result) is seen
    if seen:
        assert draw_region(result, (40, 70)).any()


def make_example(*regions):
    masks = np.zeros((len(regions), 1, *SIZE), bool)
    masks[:, 0, 25:35, 15:60] = True
    prompt = Prompt("region", masks=masks, labels=tuple(range(len(regions)))[::-1], regions=regions)
    return Example("it", np.zeros((1, *SIZE, 3), np.uint8), (prompt,))


def test_crops_drop_invisible_regions():
    example = make_example(ALL, Region.from_point(5, 5), Region.from_box(40, 30, 90, 70))
    (prompt,) = crop_example(example, WINDOW).prompts
    assert len(prompt.regions) == len(prompt.masks) == 2 and prompt.labels == (1, 0)
    np.testing.assert_allclose(prompt.regions[1].boxes, [[30, 10, 70, 40]])
    assert prompt.masks.shape == (2, 1, 40, 70) and draw_regions(prompt, (40, 70)).any((1, 2)).all()


def test_flips_include_the_example_image():
    """Its width may differ from that of the frames."""
    drawn_on = np.arange(50 * 70 * 3, dtype=np.uint8).reshape(50, 70, 3)
    example = dataclasses.replace(make_example(Region.from_point(20.5, 30.5)), drawn_on=drawn_on)
    result = flip_horizontally(example)
    assert np.array_equal(result.drawn_on, drawn_on[:, ::-1])
    assert result.prompts[0].regions[0].points.tolist() == [[49.5, 30.5, 1]]
    assert flip_horizontally(make_example(Region.from_point(20.5, 30.5))).prompts[0].regions[0].points.tolist() == [
        [99.5, 30.5, 1]
    ]
