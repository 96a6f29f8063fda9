"""Broken files of images: every problem is named once, with the file, the field and the fix."""

import json

import numpy as np
import pytest
from damage import change, colours, cut, edited, first_line, found, inside, report, small, strange

from hyperseg_jax.datasets import CocoInstances, files, layouts
from hyperseg_jax.datasets.check import check
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops import run_lengths
from hyperseg_jax.structs import KINDS

INSTANCES = "coco/annotations/instances_val2017.json"


def set_note(number, **fields):
    return lambda content: content["annotations"][number].update(fields)


EDITS = {  # what is done to instances_val2017.json -> the kind and the message of its one problem
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
        "the runs are not of 36864",
    ),
    "negative runs": (set_note(1, segmentation={"size": [192, 192], "counts": [-5, 36869]}), "bad mask", "neither polygons"),
    "no run lengths": (set_note(1, segmentation={"size": [192, 192]}), "bad mask", "neither polygons nor run lengths"),
    "a word": (set_note(1, segmentation="x"), "bad mask", "neither polygons nor run lengths"),
    "unknown category": (set_note(2, category_id=4711), "bad record", "annotations#2: category_id 4711 is not among"),
    "unknown image": (set_note(0, image_id=99), "bad record", "annotations#0: image_id 99 is not among the images"),
    "no category": (lambda c: c["annotations"][0].pop("category_id"), "bad record", "field 'category_id' is missing"),
    "no segmentation": (lambda c: c["annotations"][0].pop("segmentation"), "bad record", "field 'segmentation' is missing"),
    "a record in an unexpected format": (
        lambda c: c["annotations"].__setitem__(0, 5),
        "bad record",
        "field 'image_id' is missing",
    ),
    "a size of words": (lambda c: c["images"][0].update(height="192"), "bad record", "field 'height' is '192' where a whole"),
    "a size of nothing": (lambda c: c["images"][0].update(width=0), "bad record", "correct its height and width"),
    "a size without end": (lambda c: c["images"][0].update(height=float("inf")), "bad record", "field 'height' is inf where"),
    "a huge size": (lambda c: c["images"][0].update(height=10**9), "bad record", "correct its height and width"),
    "another size": (
        lambda c: c["images"][0].update(width=200),
        "wrong size",
        "000000000000.jpg: is 192x192 pixels, its annotations say 200x192",
    ),
    "a crowd of a word": (set_note(0, iscrowd="false"), "bad record", "field 'iscrowd' is 'false' where 0 or 1 belongs"),
    "no images listed": (lambda c: c.pop("images"), "bad record", "field 'images' is missing"),
    "a missing image": (lambda c: c["images"][1].update(file_name="none.jpg"), "missing file", "none.jpg: no such image"),
}


@pytest.mark.parametrize("case", EDITS)
def test_instances(own, case):
    edit, kind, message = EDITS[case]
    root = own("coco")
    change(root / INSTANCES, edit)
    with pytest.raises(UserError) as error:
        reader = CocoInstances(root / INSTANCES, root / "coco" / "val2017")
        for k in range(len(reader)):
            reader[k]
    assert message in str(error.value) and "\n" not in str(error.value) and str(root) in str(error.value)
    problems = [
        pair
        for pair in found(report(root, "coco_instances"))
        if "192x192 pixels, its image" not in pair[1] and "the mask is" not in pair[1]
    ] or found(report(root, "coco_instances"))
    assert [pair[0] for pair in problems] == [kind] and message in problems[0][1]


def test_a_check_goes_on_and_names_all(own):
    root = own("coco")
    for case in ("five numbers", "a mask of another size", "unknown category", "a missing image"):
        change(root / INSTANCES, EDITS[case][0])
    (root / "coco" / "val2017" / "000000000000.jpg").write_bytes(b"\xff\xd8 not an image")
    result = report(root, "coco_instances")
    kinds = [kind for kind, _ in found(result)]
    assert kinds == ["bad mask", "bad record", "missing file", "unreadable image", "wrong size"]
    assert result.examples == 2 and result.faults == 5 and result.masks > 5


def test_a_check_survives_records_of_another_make(own):
    root = own("coco")
    change(root / INSTANCES, lambda c: c["annotations"][0].update(iscrowd=0, area=[]))
    result = report(root, "coco_instances")
    ((kind, message),) = found(result)
    assert (
        kind == "bad record"
        and "annotations#0: field 'area' is [] where a number belongs; correct the record" in message
        and result.examples == 1
    )
    change(root / INSTANCES, lambda c: c.update(images=7))
    ((kind, message),) = found(report(root, "coco_instances"))
    assert kind == "bad record" and "field 'images' is 7 where a list belongs" in message


def test_messages_are_bounded_and_all_counted(own, monkeypatch):
    from hyperseg_jax.datasets import check_errors

    monkeypatch.setattr(check_errors, "MESSAGES", 3)
    root = own("coco")
    change(root / INSTANCES, lambda c: [note.update(category_id=4711) for note in c["annotations"]])
    result = report(root, "coco_instances")
    count = len(json.loads((root / INSTANCES).read_text())["annotations"])
    assert len(result.collected.problems) == 3 and result.faults == count > 3


def test_an_image_is_reported_once_and_decoded_once(own, monkeypatch):
    root = own("coco", "refer")
    (root / "coco" / "train2014" / "COCO_train2014_000000000000.jpg").unlink()
    opened = []
    original = files.images.colours
    monkeypatch.setattr(files.images, "colours", lambda path: opened.append(path) or original(path))
    result = check(lambda: layouts.find("refcoco").open(root, "val"), lambda **_: None, threads=1)
    assert [kind for kind, _ in found(result)] == ["missing file"] and result.examples > 4
    assert len([path for path in opened if "000001.jpg" in str(path)]) == 1


ADE = "ADEChallengeData2016/annotations/validation/ADE_validation_00000000.png"
TOWN = "cityscapes/gtFine/val/town/town_000000_000019_gtFine_labelIds.png"
GREFS = "refer/grefcoco/grefs(unc).json"
BREAKS = {  # (benchmark, file, what is done to it) -> kind and message
    "labels missing": ("ade20k", ADE, lambda path: path.unlink(), "missing file", "00000000.png: no such label image"),
    "labels cut": ("ade20k", ADE, cut, "unreadable image", "00000000.png: cannot be read as a label image"),
    "labels of another size": ("ade20k", ADE, small, "wrong size", "00000000.png: is 6x5 pixels, its image 192x192"),
    "labels of colours": ("ade20k", ADE, colours, "unreadable image", "it has colours (mode RGB)"),
    "labels of no class": ("ade20k", ADE, strange, "bad mask", "00000000.png: has pixels of 200, which is no class"),
    "cityscapes image": (
        "cityscapes",
        "cityscapes/leftImg8bit/val/town/town_000000_000019_leftImg8bit.png",
        cut,
        "unreadable image",
        "leftImg8bit.png: cannot be read",
    ),
    "cityscapes labels": ("cityscapes", TOWN, strange, "bad mask", "pixels of 200"),
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
    "stuff": ("coco_stuff", "coco/stuffthingmaps/val2017/000000000001.png", strange, "bad mask", "pixels of 200"),
    "grefs cut": ("grefcoco", GREFS, cut, "bad record", "grefs(unc).json: not json"),
    "grefs without its annotation": (
        "grefcoco",
        GREFS,
        lambda path: change(path, lambda c: c[-1].update(ann_id=[77])),
        "bad record",
        "ann_id 77 is not in",
    ),
    "grefs without its image": (
        "grefcoco",
        GREFS,
        lambda path: change(path, lambda c: c[-1].update(image_id=77)),
        "bad record",
        "image_id 77 is not in",
    ),
    "grefs without words": (
        "grefcoco",
        GREFS,
        lambda path: change(path, lambda c: c[-1].update(sentences=[{"sent": " "}])),
        "bad record",
        "field 'sentences' has none or an empty one",
    ),
    "regions out of the image": (
        "visual_genome",
        "visual_genome/region_descriptions.json",
        inside(0, "regions", 0, x=500),
        "bad mask",
        "#0 regions#0: box [500,",
    ),
    "regions without a phrase": (
        "visual_genome",
        "visual_genome/region_descriptions.json",
        lambda path: change(path, lambda c: c[0]["regions"][0].pop("phrase")),
        "bad record",
        "#0 regions#0: field 'phrase' is missing",
    ),
    "an image of another size": (
        "visual_genome",
        "visual_genome/image_data.json",
        edited(width=7),
        "wrong size",
        "1.jpg: is 192x192 pixels, its annotations say 7x192",
    ),
    "a box of words": (
        "objects365",
        "objects365/zhiyuan_objv2_val.json",
        inside("annotations", 0, bbox=["a", 1, 2, 3]),
        "bad mask",
        "annotations#0: a box is [x, y, width, height]",
    ),
    "a box of no category": (
        "objects365",
        "objects365/zhiyuan_objv2_val.json",
        inside("annotations", 0, category_id=999),
        "bad record",
        "annotations#0: category_id 999",
    ),
    "objects image": (
        "objects365",
        "objects365/val/patch0/objects365_v1_00000000.jpg",
        cut,
        "unreadable image",
        "patch0/objects365_v1_00000000.jpg: cannot be read",
    ),
    "no answer": (
        "vqav2",
        "vqav2/v2_mscoco_val2014_annotations.json",
        inside("annotations", 0, question_id=99),
        "bad record",
        "questions#0: question_id 0 has no answer",
    ),
    "no question": (
        "gqa",
        "gqa/testdev_balanced_questions.json",
        lambda path: change(path, lambda c: c["00000000"].pop("question")),
        "bad record",
        "00000000: field 'question' is missing",
    ),
    "gqa image": ("gqa", "gqa/images/n1.jpg", lambda path: path.unlink(), "missing file", "n1.jpg: no such image"),
    "neither yes nor no": (
        "pope",
        "pope/coco_pope_adversarial.json",
        first_line(label="maybe"),
        "bad record",
        "line 1: field 'label' is 'maybe'",
    ),
    "a cut line": (
        "pope",
        "pope/coco_pope_adversarial.json",
        lambda path: path.write_text(path.read_text()[:-9]),
        "bad record",
        "line 7: not json",
    ),
    "a line of no object": (
        "pope",
        "pope/coco_pope_adversarial.json",
        lambda path: path.write_text("5\n"),
        "bad record",
        "line 1: is no json object",
    ),
    "an answer beyond the choices": (
        "scienceqa",
        "scienceqa/problems.json",
        inside("test0", answer=9),
        "bad record",
        "test0: answer 9 is none of its",
    ),
    "a problem that is not there": (
        "scienceqa",
        "scienceqa/problems.json",
        lambda path: change(path, lambda c: c.pop("test0")),
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
        "#3: image '77' is no row",
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
        inside("shapes", 0, points=[[1, 2]]),
        "bad mask",
        "field 'points' must list at least two",
    ),
    "no question in words": ("reasonseg", "reasonseg/test/0.json", edited(text=["", " "]), "bad record", "field 'text'"),
    "a segment that is not painted": (
        "coco_panoptic",
        "coco/annotations/panoptic_val2017.json",
        inside("annotations", 0, "segments_info", 0, id=77),
        "bad mask",
        "no pixel of segment 77",
    ),
    "a panoptic png of another size": (
        "coco_panoptic",
        "coco/annotations/panoptic_val2017/000000000000.png",
        small,
        "wrong size",
        "000000000000.png: is 6x5 pixels",
    ),
    "a given mark of another size": (
        "interactive",
        "interactive/coco_interactive_val.json",
        inside(0, "anns", 0, segmentation=run_lengths.encode(np.ones((3, 3), bool))),
        "wrong size",
        "anns#0 segmentation: the mask is 3x3",
    ),
}


@pytest.mark.parametrize("case", BREAKS)
def test_what_each_reader_says(own, case):
    name, file, spoil, kind, message = BREAKS[case]
    root = own(*{file.split("/")[0], "coco"} if name not in ("ade20k", "cityscapes", "mmbench") else {file.split("/")[0]})
    spoil(root / file)
    result = report(root, name)
    assert any(pair[0] == kind and message in pair[1] for pair in found(result)), found(result)
    assert all(str(root) in text and "\n" not in text and ";" in text for _, text in found(result))
    with pytest.raises(UserError) as error:
        reader = layouts.find(name).open(root, layouts.find(name).splits[-1])
        for k in range(len(reader)):
            reader[k]
    assert str(error.value) in {text for _, text in found(result)}


def test_marks_of_another_size_are_not_also_called_missing(own):
    root, bad = own("interactive", "coco"), run_lengths.encode(np.ones((3, 3), bool))
    marks = {f"{kind}_visual_prompt_mask": bad for kind in KINDS}
    change(root / "interactive/coco_interactive_val.json", lambda c: [ann.update(marks) for ann in c[0]["anns"]])
    told = found(report(root, "interactive"))
    assert told and all(kind == "wrong size" and "the mask is 3x3" in message for kind, message in told)
