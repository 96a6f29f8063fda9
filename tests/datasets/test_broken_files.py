"""Broken image data sets: every problem is reported once, with the file, the field and the fix."""

import json
import pickle

import numpy as np
import pytest
from damage import (
    edit_first,
    edit_first_line,
    edit_json,
    edit_nested,
    run_check,
    sorted_problems,
    truncate_file,
    write_rgb_mask,
    write_small_mask,
    write_unknown_labels,
)

from hyperseg_jax.datasets import CocoInstances, files, layouts
from hyperseg_jax.datasets.check import check_reader
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops import run_lengths
from hyperseg_jax.structs import KINDS

INSTANCES = "coco/annotations/instances_val2017.json"


def set_note(number, **fields):
    return lambda content: content["annotations"][number].update(fields)


EDITS = {  # edit of instances_val2017.json -> type and message of its only problem
    "five numbers": (set_note(0, segmentation=[[1, 2, 3, 4, 5]]), "bad mask", "annotations#0 segmentation: a polygon"),
    "no polygon": (set_note(0, segmentation=[]), "bad mask", "annotations#0 segmentation: a polygon needs"),
    "two points": (set_note(0, segmentation=[[1, 2, 3, 4]]), "bad mask", "a polygon needs at least three x, y pairs"),
    "a polygon of words": (set_note(0, segmentation=[["a"] * 6]), "bad mask", "a polygon needs"),
    "a polygon of no list": (set_note(0, segmentation=[5]), "bad mask", "a polygon needs"),
    "a far corner": (set_note(0, segmentation=[[0, 0, 5, 5, 1e30, 7]]), "bad mask", "a polygon needs"),
    "a mask of another size": (
        set_note(1, segmentation=run_lengths.encode(np.ones((7, 9), bool))),
        "wrong size",
        "annotations#1 segmentation: the mask is 9x7 pixels, its image 192x192",
    ),
    "runs that do not fill": (
        set_note(1, segmentation={"size": [192, 192], "counts": [5, 5]}),
        "bad mask",
        "the run lengths do not sum to 36864",
    ),
    "negative runs": (set_note(1, segmentation={"size": [192, 192], "counts": [-5, 36869]}), "bad mask", "neither polygons"),
    "no run lengths": (
        set_note(1, segmentation={"size": [192, 192]}),
        "bad mask",
        "neither polygons nor a run-length encoding",
    ),
    "a word": (set_note(1, segmentation="x"), "bad mask", "neither polygons nor a run-length encoding"),
    "unknown category": (set_note(2, category_id=4711), "bad record", "annotations#2: category_id 4711 is not among"),
    "unknown image": (set_note(0, image_id=99), "bad record", "annotations#0: image_id 99 is not among the images"),
    "no category": (lambda c: c["annotations"][0].pop("category_id"), "bad record", "field 'category_id' is missing"),
    "no segmentation": (lambda c: c["annotations"][0].pop("segmentation"), "bad record", "field 'segmentation' is missing"),
    "a record in an unexpected format": (
        lambda c: c["annotations"].__setitem__(0, 5),
        "bad record",
        "field 'image_id' is missing",
    ),
    "a size of words": (
        lambda c: c["images"][0].update(height="tall"),
        "bad record",
        "field 'height' is 'tall', expected an int",
    ),
    "a size of nothing": (lambda c: c["images"][0].update(width=0), "bad record", "correct its height and width"),
    "a size without end": (
        lambda c: c["images"][0].update(height=float("inf")),
        "bad record",
        "field 'height' is inf, expected",
    ),
    "a huge size": (lambda c: c["images"][0].update(height=10**9), "bad record", "correct its height and width"),
    "another size": (
        lambda c: c["images"][0].update(width=200),
        "wrong size",
        "000000000000.jpg: is 192x192 pixels, its annotations say 200x192",
    ),
    "a crowd of a word": (set_note(0, iscrowd="false"), "bad record", "field 'iscrowd' is 'false', expected 0 or 1"),
    "no images listed": (lambda c: c.pop("images"), "bad record", "field 'images' is missing"),
    "a missing image": (lambda c: c["images"][1].update(file_name="none.jpg"), "missing file", "none.jpg: no such image"),
}


@pytest.mark.parametrize("case", EDITS)
def test_instances_problems(copy_samples, case):
    edit, kind, message = EDITS[case]
    root = copy_samples("coco")
    edit_json(root / INSTANCES, edit)
    with pytest.raises(UserError) as error:
        reader = CocoInstances(root / INSTANCES, root / "coco" / "val2017")
        for k in range(len(reader)):
            reader[k]
    assert message in str(error.value) and "\n" not in str(error.value) and str(root) in str(error.value)
    problems = [
        pair
        for pair in sorted_problems(run_check(root, "coco_instances"))
        if "192x192 pixels, its image" not in pair[1] and "the mask is" not in pair[1]
    ] or sorted_problems(run_check(root, "coco_instances"))
    assert [pair[0] for pair in problems] == [kind] and message in problems[0][1]


def test_checks_continue_and_report_all_problems(copy_samples):
    root = copy_samples("coco")
    for case in ("five numbers", "a mask of another size", "unknown category", "a missing image"):
        edit_json(root / INSTANCES, EDITS[case][0])
    (root / "coco" / "val2017" / "000000000000.jpg").write_bytes(b"\xff\xd8 not an image")
    result = run_check(root, "coco_instances")
    kinds = [kind for kind, _ in sorted_problems(result)]
    assert kinds == ["bad mask", "bad record", "missing file", "unreadable image", "wrong size"]
    assert result.examples == 2 and result.problem_count == 5 and result.masks > 5


def test_records_of_wrong_type(copy_samples):
    root = copy_samples("coco")
    edit_json(root / INSTANCES, lambda c: c["annotations"][0].update(iscrowd=0, area=[]))
    result = run_check(root, "coco_instances")
    ((kind, message),) = sorted_problems(result)
    assert (
        kind == "bad record"
        and "annotations#0: field 'area' is [], expected a number; correct the record" in message
        and result.examples == 2  # the others of the image are read
    )
    edit_json(root / INSTANCES, lambda c: c.update(images=7))
    ((kind, message),) = sorted_problems(run_check(root, "coco_instances"))
    assert kind == "bad record" and "field 'images' is 7, expected a list" in message


def test_messages_are_bounded_and_counted(copy_samples, monkeypatch):
    from hyperseg_jax.datasets import check_errors

    monkeypatch.setattr(check_errors, "MESSAGES", 3)
    root = copy_samples("coco")
    edit_json(root / INSTANCES, lambda c: [note.update(category_id=4711) for note in c["annotations"]])
    result = run_check(root, "coco_instances")
    count = len(json.loads((root / INSTANCES).read_text())["annotations"])
    assert len(result.collected.problems) == 3 and result.problem_count == count > 3


def test_an_image_is_reported_once_and_decoded_once(copy_samples, monkeypatch):
    root = copy_samples("coco", "refer")
    (root / "coco" / "train2014" / "COCO_train2014_000000000000.jpg").unlink()
    opened_files = []
    original = files.images.read_rgb
    monkeypatch.setattr(files.images, "read_rgb", lambda path: opened_files.append(path) or original(path))
    result = check_reader(lambda: layouts.find_layout("refcoco").open(root, "val"), lambda **_: None, threads=1)
    assert [kind for kind, _ in sorted_problems(result)] == ["missing file"] and result.examples > 4
    assert len([path for path in opened_files if "000001.jpg" in str(path)]) == 1


ADE = "ADEChallengeData2016/annotations/validation/ADE_validation_00000000.png"
TOWN = "cityscapes/gtFine/val/town/town_000000_000019_gtFine_labelIds.png"
GREFS = "refer/grefcoco/grefs(unc).json"
BREAKS = {  # (benchmark, file, edit) -> type and message
    "labels missing": ("ade20k", ADE, lambda path: path.unlink(), "missing file", "00000000.png: no such label image"),
    "labels cut": ("ade20k", ADE, truncate_file, "unreadable image", "00000000.png: is a PNG without its end"),
    "labels of another size": ("ade20k", ADE, write_small_mask, "wrong size", "00000000.png: is 6x5 pixels, its image 192x192"),
    "labels of colours": ("ade20k", ADE, write_rgb_mask, "unreadable image", "it has colours (mode RGB)"),
    "labels of no class": (
        "ade20k",
        ADE,
        write_unknown_labels,
        "bad mask",
        "00000000.png: has pixel values 200, which are neither a class",
    ),
    "cityscapes image": (
        "cityscapes",
        "cityscapes/leftImg8bit/val/town/town_000000_000019_leftImg8bit.png",
        truncate_file,
        "unreadable image",
        "leftImg8bit.png: is a PNG without its end",
    ),
    "cityscapes labels": ("cityscapes", TOWN, write_unknown_labels, "bad mask", "pixel values 200"),
    "a list of names": (
        "pascal_voc20",
        "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt",
        lambda path: path.unlink(),
        "missing file",
        "val.txt: no such file",
    ),
    "voc image": (
        "pascal_voc20",
        "VOCdevkit/VOC2012/JPEGImages/2012_000001.jpg",
        lambda path: path.unlink(),
        "missing file",
        "2012_000001.jpg: no such image",
    ),
    "stuff": (
        "coco_stuff",
        "coco/stuffthingmaps/val2017/000000000001.png",
        write_unknown_labels,
        "bad mask",
        "pixel values 200",
    ),
    "grefs cut": ("grefcoco", GREFS, truncate_file, "bad record", "grefs(unc).json: is not valid JSON"),
    "grefs without its annotation": (
        "grefcoco",
        GREFS,
        lambda path: edit_json(path, lambda c: c[-1].update(ann_id=[77])),
        "bad record",
        "ann_id 77 is not in",
    ),
    "grefs without its image": (
        "grefcoco",
        GREFS,
        lambda path: edit_json(path, lambda c: c[-1].update(image_id=77)),
        "bad record",
        "image_id 77 is not in",
    ),
    "grefs without words": (
        "grefcoco",
        GREFS,
        lambda path: edit_json(path, lambda c: c[-1].update(sentences=[{"sent": " "}])),
        "bad record",
        "field 'sentences' is empty or has an empty sentence",
    ),
    "a region of negative size": (
        "visual_genome",
        "visual_genome/region_descriptions.json",
        edit_nested(0, "regions", 0, width=-3),
        "bad mask",
        "#0 regions#0: box [",
    ),
    "a region that is described by a number": (
        "visual_genome",
        "visual_genome/region_descriptions.json",
        edit_nested(0, "regions", 1, phrase=7),
        "bad record",
        "#0 regions#1: field 'phrase' is 7, expected a string",
    ),
    "a crawled image": (
        "v3det",
        "V3Det/images/n07745046/0.jpg",
        lambda path: path.unlink(),
        "missing file",
        "n07745046/0.jpg: no such image",
    ),
    "an object without a box": (
        "coco_boxes",
        "coco/annotations/instances_val2017.json",
        lambda path: edit_json(path, lambda c: c["annotations"][0].pop("bbox")),
        "bad record",
        "annotations#0: field 'bbox' is missing",
    ),
    "a caption of several objects": (
        "refcoco_captions",
        "refer/refcoco/refs(unc).p",
        lambda path: path.write_bytes(pickle.dumps([ref | {"ann_id": [1, 2]} for ref in pickle.loads(path.read_bytes())])),
        "bad record",
        "has 2 objects, and a caption describes one",
    ),
    "a caption of an unknown object": (
        "refcoco_captions",
        "refer/refcoco/instances.json",
        lambda path: edit_json(path, lambda c: c["annotations"].pop(0)),
        "bad record",
        "ann_id 1 is not in",
    ),
    "regions without a phrase": (
        "visual_genome",
        "visual_genome/region_descriptions.json",
        lambda path: edit_json(path, lambda c: c[0]["regions"][0].pop("phrase")),
        "bad record",
        "#0 regions#0: field 'phrase' is missing",
    ),
    "an image of another size": (
        "visual_genome",
        "visual_genome/image_data.json",
        edit_first(width=7),
        "wrong size",
        "1.jpg: is 192x192 pixels, its annotations say 7x192",
    ),
    "a box of words": (
        "objects365",
        "objects365/zhiyuan_objv2_val.json",
        edit_nested("annotations", 0, bbox=["a", 1, 2, 3]),
        "bad mask",
        "is invalid, expected [x, y, width, height]",
    ),
    "a box of no category": (
        "objects365",
        "objects365/zhiyuan_objv2_val.json",
        edit_nested("annotations", 0, category_id=999),
        "bad record",
        "annotations#0: category_id 999",
    ),
    "objects image": (
        "objects365",
        "objects365/val/patch0/objects365_v1_00000000.jpg",
        truncate_file,
        "unreadable image",
        "patch0/objects365_v1_00000000.jpg: cannot be read",
    ),
    "no answer": (
        "vqav2",
        "vqav2/v2_mscoco_val2014_annotations.json",
        edit_nested("annotations", 0, question_id=99),
        "bad record",
        "questions#0: question_id 0 has no answer",
    ),
    "no question": (
        "gqa",
        "gqa/testdev_balanced_questions.json",
        lambda path: edit_json(path, lambda c: c["00000000"].pop("question")),
        "bad record",
        "00000000: field 'question' is missing",
    ),
    "gqa image": ("gqa", "gqa/images/n1.jpg", lambda path: path.unlink(), "missing file", "n1.jpg: no such image"),
    "neither yes nor no": (
        "pope",
        "pope/coco_pope_adversarial.json",
        edit_first_line(label="maybe"),
        "bad record",
        "line 1: field 'label' is 'maybe'",
    ),
    "a cut line": (
        "pope",
        "pope/coco_pope_adversarial.json",
        lambda path: path.write_text(path.read_text()[:-9]),
        "bad record",
        "line 7: is not valid JSON",
    ),
    "a line of no object": (
        "pope",
        "pope/coco_pope_adversarial.json",
        lambda path: path.write_text("5\n"),
        "bad record",
        "line 1: is not a json object",
    ),
    "an answer beyond the choices": (
        "scienceqa",
        "scienceqa/problems.json",
        edit_nested("test0", answer=9),
        "bad record",
        "test0: answer 9 is not one of its",
    ),
    "a problem that is not there": (
        "scienceqa",
        "scienceqa/problems.json",
        lambda path: edit_json(path, lambda c: c.pop("test0")),
        "bad record",
        "field 'test0' is missing",
    ),
    "a cut table": (
        "mmbench",
        "mmbench/MMBench_TEST_EN.tsv",
        lambda path: path.write_text(path.read_text()[:-9]),
        "bad record",
        "#3: has 9 cells, the header 10",
    ),
    "an image that is none": (
        "mmbench",
        "mmbench/MMBench_TEST_EN.tsv",
        lambda path: path.write_text(path.read_text().replace("\t/9j/", "\t!!!!", 1)),
        "unreadable image",
        "#0: its image cannot be read",
    ),
    "an index of no row": (
        "mmbench",
        "mmbench/MMBench_TEST_EN.tsv",
        lambda path: path.write_text(path.read_text()[:-2] + "77\n"),
        "missing file",
        "#3: image '77' is not a row",
    ),
    "no table": (
        "mmbench",
        "mmbench/MMBench_TEST_EN.tsv",
        lambda path: path.write_text("a\tb\n1\t2\n"),
        "bad record",
        "no column 'index'",
    ),
    "a polygon of a point": (
        "reasonseg",
        "reasonseg/test/0.json",
        edit_nested("shapes", 0, points=[[1, 2]]),
        "bad mask",
        "field 'points' must list at least two",
    ),
    "no question in words": ("reasonseg", "reasonseg/test/0.json", edit_first(text=["", " "]), "bad record", "field 'text'"),
    "a segment that is not painted": (
        "coco_panoptic",
        "coco/annotations/panoptic_val2017.json",
        edit_nested("annotations", 0, "segments_info", 0, id=77),
        "bad mask",
        "no pixel has segment 77",
    ),
    "a panoptic png of another size": (
        "coco_panoptic",
        "coco/annotations/panoptic_val2017/000000000000.png",
        write_small_mask,
        "wrong size",
        "000000000000.png: is 6x5 pixels",
    ),
    "a given mark of another size": (
        "interactive",
        "interactive/coco_interactive_val.json",
        edit_nested(0, "anns", 0, segmentation=run_lengths.encode(np.ones((3, 3), bool))),
        "wrong size",
        "anns#0 segmentation: the mask is 3x3",
    ),
}


@pytest.mark.parametrize("case", BREAKS)
def test_messages_of_each_reader(copy_samples, case):
    name, file, spoil, kind, message = BREAKS[case]
    root = copy_samples(
        *{file.split("/")[0], "coco"} if name not in ("ade20k", "cityscapes", "mmbench") else {file.split("/")[0]}
    )
    spoil(root / file)
    result = run_check(root, name)
    assert any(pair[0] == kind and message in pair[1] for pair in sorted_problems(result)), sorted_problems(result)
    assert all(str(root) in text and "\n" not in text and ";" in text for _, text in sorted_problems(result))
    with pytest.raises(UserError) as error:
        reader = layouts.find_layout(name).open(root, layouts.find_layout(name).splits[-1])
        for k in range(len(reader)):
            reader[k]
    assert str(error.value) in {text for _, text in sorted_problems(result)}


def test_marks_of_wrong_size_are_reported_once(copy_samples):
    root, bad = copy_samples("interactive", "coco"), run_lengths.encode(np.ones((3, 3), bool))
    marks = {f"{kind}_visual_prompt_mask": bad for kind in KINDS}
    edit_json(root / "interactive/coco_interactive_val.json", lambda c: [ann.update(marks) for ann in c[0]["anns"]])
    messages = sorted_problems(run_check(root, "interactive"))
    assert messages and all(kind == "wrong size" and "the mask is 3x3" in message for kind, message in messages)
