"""Visual prompts: drawing of points, scribbles and boxes in training and prediction."""

import argparse
import json

import numpy as np
import pytest
from PIL import Image
from sample_inputs import draw_regions

from hyperseg_jax.commands.predict import _parse_regions
from hyperseg_jax.data.augment import Augment
from hyperseg_jax.datasets import CocoInteractive, CocoVisualPrompts, PascalVocObjects, visual_prompts
from hyperseg_jax.datasets.visual_prompts import draw_region
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops import run_lengths
from hyperseg_jax.structs import Region

SIZE = (480, 640)


def given(**marks):
    """The options of hyperseg predict."""
    return argparse.Namespace(**{"point": [], "box": [], "scribble": [], "mask": []} | marks)


def make_square():
    mask = np.zeros(SIZE, bool)
    mask[100:300, 200:420] = True
    return mask


def write_object(folder, size):
    """Writes COCO, COCO-Interactive and VOC files of one image with one object."""
    height, width = size
    target, point = np.zeros(size, bool), np.zeros(size, bool)
    target[height // 3 : height // 2, width // 3 : width // 2] = True
    point[height // 2 - 9, width // 2 - 9] = True
    image = {"id": 1, "file_name": "1.jpg", "height": height, "width": width}
    note = {"id": 7, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": run_lengths.encode(target)}
    coco = {"images": [image], "annotations": [note], "categories": [{"id": 1, "name": "thing"}]}
    drawn = [note | {"point_visual_prompt_mask": run_lengths.encode(point)}]
    (folder / "instances.json").write_text(json.dumps(coco))
    (folder / "marks.json").write_text(json.dumps([{"new_img_id": 0, "image_info": image, "anns": drawn}]))
    for name in ("JPEGImages", "SegmentationObject", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    Image.new("RGB", (width, height)).save(folder / "JPEGImages" / "1.jpg")
    Image.fromarray(target.astype(np.uint8)).save(folder / "SegmentationObject" / "1.png")
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("1\n")


@pytest.mark.parametrize("size", [(427, 640), (333, 500), (1200, 1600)])
def test_training_and_prediction_draw_the_same_pixels(tmp_path, size):
    write_object(tmp_path, size)
    drawing = CocoVisualPrompts(tmp_path / "instances.json", tmp_path / "JPEGImages", kinds=("point",))
    inputs = CocoInteractive(tmp_path / "marks.json", tmp_path / "JPEGImages", kinds=("point",))
    examples = [reader[0] for reader in (drawing, inputs, PascalVocObjects(tmp_path, "val"))]
    examples.append(Augment(marks=("point",))(examples[0], np.random.default_rng(0))[0])
    for example in examples:
        (drawn,) = draw_regions(example.prompts[0], size)
        rows, columns = np.nonzero(drawn)
        ((requests,), _) = _parse_regions(given(point=[f"{columns.mean():.0f}.7,{rows.mean():.0f}.2"]), size)
        assert np.array_equal(draw_region(requests, size), drawn), example.name
        assert 0.0009 < drawn.mean() < 0.0012  # of any image


def test_points_of_voc_are_pixel_centres(tmp_path):
    write_object(tmp_path, (333, 500))
    (prompt,) = PascalVocObjects(tmp_path, "val", seed=5)[0].prompts
    ((row, column),) = np.argwhere(visual_prompts.draw_marks(prompt.masks[0, 0], np.random.default_rng([5, 0]))["point"])
    assert prompt.regions[0].points.tolist() == [[column + 0.5, row + 0.5, 1]] and prompt.regions[0].mask is None


def test_boxes_are_drawn_as_in_training():
    drawn = visual_prompts.draw_marks(make_square(), np.random.default_rng(0))["box"]
    rows, columns = np.nonzero(drawn)
    corners = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    ((requests,), _) = _parse_regions(given(box=[",".join(map(str, corners))]), SIZE)
    assert np.array_equal(draw_region(requests, SIZE), drawn)
    dots = [visual_prompts.filled_box((4, 9), *corners) for corners in ((3.1, 1.1, 3.2, 1.2), (8.9, 3.9, 20, 20))]
    assert [np.argwhere(dot).tolist() for dot in dots] == [[[1, 3]], [[3, 8]]]


def test_points_at_the_border_are_clipped():
    disc = draw_region(Region.from_point(639.9, 0), SIZE)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    assert np.array_equal(disc, rows**2 + (columns - 639) ** 2 <= 100)


@pytest.mark.parametrize(("x", "y"), [(-1, 5), (640, 5), (5, -0.1), (5, 480)])
def test_points_outside_are_refused(x, y):
    with pytest.raises(UserError, match="is not inside an image of 640 x 480 pixels"):
        draw_region(Region.from_point(x, y), SIZE)


def test_radii_follow_the_area():
    sizes = ((480, 640), (427, 640), (640, 427), (333, 500), (1920, 960), (3000, 4000), (4, 9))
    assert [visual_prompts.mark_radius("point", *size) for size in sizes] == [10, 10, 10, 8, 25, 64, 1]
    assert [visual_prompts.mark_radius("scribble", *size) for size in sizes] == [5, 5, 5, 4, 13, 32, 1]
    assert visual_prompts.thicken_mark(make_square(), "point", 0).sum() == make_square().sum()  # a given radius counts


def test_toy_images_have_the_marks_of_the_tiny_model():
    """They have a side of 192 pixels."""
    assert [visual_prompts.mark_radius(kind, 192, 192) for kind in ("point", "scribble")] == [4, 2]


def test_boxes_and_masks_are_not_dilated():
    mask = make_square()
    assert all(np.array_equal(visual_prompts.thicken_mark(mask, kind), mask) for kind in ("box", "mask"))
    assert visual_prompts.thicken_mark(mask, "scribble", 1).sum() == mask.sum() + 2 * 200 + 2 * 220
