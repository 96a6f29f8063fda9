"""Readers of region captions on sample files, compared with the toy scenes."""

import json
import pickle

import numpy as np
import pytest
from damage import edit_json, run_check, sorted_problems
from sample_inputs import region_kinds

from hyperseg_jax.datasets import layouts
from hyperseg_jax.errors import UserError
from hyperseg_jax.toy.vocabulary import SIZE


def open_samples(samples, name, split=None, **options):
    layout = layouts.find_layout(name)
    return layout.open(samples, split or layout.splits[-1], **options)


CAPTIONS = ("visual_genome", "objects365", "coco_boxes", "v3det")


@pytest.mark.parametrize("name", CAPTIONS)
def test_regions_with_captions(samples, toy_scenes, name):
    reader = open_samples(samples, name)
    assert len(reader) == len(toy_scenes)
    for n, image in enumerate(toy_scenes):
        (prompt,) = reader[n].prompts
        boxes = []
        for seen in image.scene.masks:
            rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert prompt.task == "caption" and set(region_kinds(prompt)) == {"box"} and prompt.masks is None
        assert [region.boxes.tolist() for region in prompt.regions] == [[box] for box in boxes]
        names = [thing.name for thing in image.scene.things]
        assert prompt.captions == tuple((f"the {name} " if reader.name.startswith("visual") else name,) for name in names)


@pytest.mark.parametrize("name", ["refcoco_captions", "refcoco+_captions", "refcocog_captions"])
def test_objects_with_all_their_sentences(copy_samples, toy_scenes, name):
    root = copy_samples("refer", "coco")
    path = root / "refer" / name.removesuffix("_captions") / layouts.find_layout(name).files["refs_path"].split("/")[-1]
    refs = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps([ref | {"sentences": [*ref["sentences"], {"sent": "it too"}]} for ref in refs]))
    reader = open_samples(root, name)
    assert len({example.name for example in reader}) == len(toy_scenes)
    for n, image in enumerate(toy_scenes):
        (prompt,) = reader[n].prompts
        single = [expression for expression in image.expressions if len(expression.targets) == 1]
        assert prompt.captions == tuple((expression.text, "it too") for expression in single) and prompt.key == str(n)
        for region, expression in zip(prompt.regions, single, strict=True):
            left, top, right, bottom = region.boxes[0].astype(int)
            seen = image.scene.masks[expression.targets[0]]
            assert seen[top:bottom, left:right].sum() == seen.sum()


@pytest.mark.parametrize("mark", ["centre", "point", "mask_point"])
def test_regions_marked_by_points(samples, toy_scenes, mark):
    read = lambda **options: [example.prompts[0] for example in open_samples(samples, "coco_boxes", mark=mark, **options)]
    points = lambda prompts: [region.points.tolist() for prompt in prompts for region in prompt.regions]
    boxes = [example.prompts[0] for example in open_samples(samples, "coco_boxes")]
    for prompt, boxed, image in zip(read(), boxes, toy_scenes, strict=True):
        assert prompt.captions == boxed.captions and set(region_kinds(prompt)) == {"point"}
        for region, box, seen in zip(prompt.regions, boxed.regions, image.scene.masks, strict=True):
            ((x, y, positive),) = region.points.tolist()
            left, top, right, bottom = box.boxes[0]
            assert positive == 1 and left <= x <= right and top <= y <= bottom
            if mark == "centre":
                assert (x, y) == ((left + right) / 2, (top + bottom) / 2)
            assert mark != "mask_point" or (seen[int(y), int(x)] and (x % 1, y % 1) == (0.5, 0.5))
    assert points(read()) == points(read()) and (points(read()) == points(read(seed=1))) == (mark == "centre")
    assert mark != "point" or len({point[0][0] for point in points(read())}) > 3


def test_marks_that_a_dataset_does_not_have(samples):
    with pytest.raises(UserError, match=r"regions#0: mark='mask_point' and masks=True need a mask, and this dataset has"):
        open_samples(samples, "visual_genome", mark="mask_point")[0]
    with pytest.raises(UserError, match="mark='middle' is unknown; choose one of box, centre, point, mask_point"):
        open_samples(samples, "visual_genome", mark="middle")


def test_visual_genome_splits(copy_samples, toy_scenes):
    root = copy_samples("visual_genome")
    path = root / "visual_genome" / "densecap_splits.json"
    path.write_text(json.dumps({"train": [1], "val": [], "test": [2, 77]}))
    keys = [
        [example.prompts[0].key for example in open_samples(root, "visual_genome", split)] for split in ("train", "val", "test")
    ]
    assert keys == [["1"], [], ["2"]]
    ((kind, message),) = sorted_problems(run_check(root, "visual_genome", "test"))
    assert kind == "bad record" and message.startswith(f"{path}: 1 images of test are not in ") and "such as 77; use" in message
    path.unlink()
    with pytest.raises(UserError, match=r"densecap_splits.json: no such file; it comes from .*github.com/jcjohnson/densecap"):
        open_samples(root, "visual_genome", "test")


def test_boxes_outside_their_image_are_clipped_and_reported(copy_samples):
    """The published reader clips them, so that a region of the test split keeps its place; training drops empty boxes."""
    root = copy_samples("visual_genome")
    edit_json(root / "visual_genome" / "region_descriptions.json", lambda c: c[0]["regions"][0].update(x=500))
    regions = open_samples(root, "visual_genome")[0].prompts[0].regions
    assert regions[0].boxes[0, ::2].tolist() == [SIZE, SIZE] and len(regions) > 2
    for mark in ("centre", "point"):  # inside of the image, so that the image is not left out for one bad box
        (prompt,) = open_samples(root, "visual_genome", mark=mark)[0].prompts
        (x, y) = prompt.regions[0].points[0, :2].astype(np.float32)
        assert SIZE - 1 <= x < SIZE and 0 <= y < SIZE and len(prompt.regions) == len(regions)
    ((kind, message),) = sorted_problems(run_check(root, "visual_genome", "test"))
    assert kind == "bad mask" and "#0 regions#0: box [500," in message and "contains no pixel of its image" in message
