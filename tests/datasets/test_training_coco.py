"""COCO as SEEM is trained with it: masks of LVIS, sentences of RefCOCO, and images that are left out."""

import json
import pickle

import numpy as np
import pytest
from command import run_command
from damage import edit_json

from hyperseg_jax.datasets import CocoInstances, CocoPanoptic, layouts
from hyperseg_jax.datasets.lvis_masks import LvisMasks, box_overlaps
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import budget, limits

NAME, SPLIT = "coco_with_sentences", "train2017"
UMD = "refer/refcocog/refs(umd).p"


def square(left, top, side, size=(40, 40)):
    mask = np.zeros(size, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def polygon(left, top, side):
    right, bottom = left + side, top + side
    return [[left, top, right, top, right, bottom, left, bottom]]


def write_lvis(path, *annotations):
    path.write_text(json.dumps({"annotations": [{"image_id": k, "segmentation": shape} for k, shape in annotations]}))
    return path


def test_overlap_of_boxes():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [0, 0, 0, 0]], float)
    expected = [[1, 1 / 3, 0, 0], [1 / 3, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose([box_overlaps(box, boxes) for box in boxes], expected)


@pytest.mark.parametrize(("side", "replaced"), [(17, True), (16, False)])  # of 20: shares of 0.72 and 0.64
def test_masks_are_replaced_where_boxes_overlap(tmp_path, side, replaced):
    lvis = LvisMasks([write_lvis(tmp_path / "lvis.json", (7, polygon(10, 10, side)), (8, polygon(0, 0, 40)))])
    masks = np.array([square(10, 10, 20), square(0, 0, 5)])
    result = lvis.replace(7, masks)
    expected = square(10, 10, side) if replaced else masks[0]
    assert (result[0] == expected).all() and (result[1] == masks[1]).all()
    assert (lvis.replace(9, masks) == masks).all()


def test_lvis_objects_are_charged_to_the_record(tmp_path):
    """A small file may list any number of them for one image."""
    lvis = LvisMasks([write_lvis(tmp_path / "lvis.json", *[(7, polygon(10, 10, 18))] * 30)])
    masks = square(10, 10, 20)[None]
    assert lvis.replace(7, masks).sum() == 18**2
    with limits.temporary_limits(masks=20), budget.record_budget(), pytest.raises(UserError, match=r"#20: .*limits\.masks"):
        lvis.replace(7, masks)


def test_the_first_of_several_lvis_objects_is_taken(tmp_path):
    first = write_lvis(tmp_path / "train.json", (7, polygon(10, 10, 18)))
    second = write_lvis(tmp_path / "val.json", (7, polygon(10, 10, 20)))
    masks = square(10, 10, 20)[None]
    assert LvisMasks([first, second]).replace(7, masks).sum() == 18**2
    assert LvisMasks([second, first]).replace(7, masks).sum() == 20**2
    assert not LvisMasks([first]).replace(7, np.zeros((1, 40, 40), bool)).any()


def test_a_missing_lvis_file_is_one_line_that_says_where_it_comes_from(tmp_path):
    with pytest.raises(UserError, match=r"lvis\.json: no such file; download lvis_v1_train\.json .* from lvisdataset\.org"):
        LvisMasks([tmp_path / "lvis.json"])


def test_a_damaged_lvis_object_is_a_bad_record(copy_samples):
    root = copy_samples("coco", "refer", "lvis")
    edit_json(root / "lvis/lvis_v1_train.json", lambda content: content["annotations"][0].update(segmentation=[[1, 2]]))
    reader = layouts.open_benchmark(NAME, SPLIT, root)
    with pytest.raises(
        UserError, match=r"lvis_v1_train\.json annotations#0 segmentation: a polygon needs at least three x, y pairs"
    ):
        reader[0]


def test_the_masks_of_a_class_list_are_those_of_lvis(samples, toy_scenes):
    composed = layouts.open_benchmark(NAME, SPLIT, samples)[0].prompts[0]
    plain = layouts.open_benchmark("coco_panoptic", SPLIT, samples)[0].prompts[0]
    assert composed.classes == plain.classes and composed.labels == plain.labels
    shapes = len(toy_scenes[0].scene.masks)
    grown = composed.masks.sum((1, 2, 3)) > plain.masks.sum((1, 2, 3))
    assert grown[:shapes].all() and not grown[shapes:].any()  # the background is not in LVIS
    overlaps = (composed.masks & plain.masks).sum((1, 2, 3)) / (composed.masks | plain.masks).sum((1, 2, 3))
    assert overlaps.min() > 0.7 and (overlaps[shapes:] == 1).all()


def test_sentences_follow_the_class_list(samples):
    example = layouts.open_benchmark(NAME, SPLIT, samples)[0]
    (image,) = (k for k in range(2) if example.name.endswith(f"#{k}"))
    expected = []
    for name, split in (("refcoco", "train"), ("refcoco+", "train"), ("refcocog", "train")):
        reader = layouts.open_benchmark(name, split, samples)
        expected += [reader[k].prompts[0] for k in range(len(reader)) if reader._files.refs[k]["image_id"] == image]
    _, *sentences = example.prompts
    assert len(sentences) == len(expected) > 3
    for sentence, same in zip(sentences, expected, strict=True):
        assert f"{sentence.text}." == same.text and sentence.task == "referring"
        np.testing.assert_array_equal(sentence.masks, same.masks)


def test_sentences_are_as_written_in_lower_case(copy_samples):
    root = copy_samples("coco", "refer")
    path = root / UMD
    refs = pickle.loads(path.read_bytes())
    for ref in refs:
        ref["sentences"] = [{"sent": "cleaned", "raw": "The CUP, on top"}]
    path.write_bytes(pickle.dumps(refs))
    reader = CocoPanoptic(*panoptic(root), refs_paths=(str(path),))
    assert {prompt.text for prompt in reader[0].prompts[1:]} == {"the cup, on top"}
    refs[0]["sentences"] = [{"sent": "cleaned"}]
    path.write_bytes(pickle.dumps(refs))
    reader = CocoPanoptic(*panoptic(root), refs_paths=(str(path),))
    assert len(reader.notes) == 1 and "1 prompts of" in reader.notes[0] and "field 'raw' is missing" in reader.notes[0]
    assert len(reader[0].prompts) > 1


def panoptic(root):
    notes = root / "coco" / "annotations"
    return notes / "panoptic_train2017.json", root / "coco" / SPLIT, notes / "panoptic_train2017"


@pytest.mark.parametrize("name", ["coco_panoptic", "coco_instances"])
def test_images_of_a_split_are_left_out(samples, name):
    every = layouts.open_benchmark(name, SPLIT, samples)
    reader = layouts.open_benchmark(name, SPLIT, samples, excluded_refs=str(samples / UMD))
    assert len(every) == 2 and not every.notes
    assert [reader[k].name for k in range(len(reader))] == [every[0].name]
    assert reader.notes == (f"1 of 2 records are left out: their images are in the split 'val' of {samples / UMD}",)
    assert not len(layouts.open_benchmark(name, SPLIT, samples, excluded_refs=str(samples / UMD), excluded_split="test"))
    with pytest.raises(UserError, match=r"no split 'dev'; available splits: test, train, val"):
        layouts.open_benchmark(name, SPLIT, samples, excluded_refs=str(samples / UMD), excluded_split="dev")


def test_instances_have_the_masks_of_lvis_too(samples):
    paths = [str(samples / "lvis" / f"lvis_v1_{split}.json") for split in ("train", "val")]
    arguments = samples / "coco/annotations/instances_train2017.json", samples / "coco" / SPLIT
    for k in range(2):
        plain, finer = (CocoInstances(*arguments, **options)[k].prompts[0] for options in ({}, {"lvis_paths": paths}))
        before, after = (prompt.masks.sum((1, 2, 3)) for prompt in (plain, finer))
        assert (after >= before).all() and (after > before).sum() > 2


def test_data_check_counts_what_is_left_out(samples, capsys):
    code, out, _ = run_command(capsys, "data", "check", NAME, "--root", samples)
    assert code == 0 and f"{SPLIT}: 1 of 2 records are left out: their images are in the split 'val' of" in " ".join(
        out.split()
    )


def test_wrong_types_of_lists_of_paths(samples):
    with pytest.raises(UserError, match="lvis_paths = 3; give a list of texts or paths"):
        layouts.open_benchmark("coco_panoptic", SPLIT, samples, lvis_paths=3)
