"""Broken files: a reader names file, record and fix; a check goes on and names them all."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from hyperseg_jax.datasets import CocoInstances, Folder, MmBench, files, layouts
from hyperseg_jax.datasets.check import check
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops import run_lengths


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def report(root, name, split=None):
    layout = layouts.find(name)
    return check(lambda: layout.open(root, split or layout.splits[-1]), lambda **_: None, threads=2)


def found(result):
    return sorted((kind, message) for message, kind in result.collected.problems.items())


INSTANCES = "coco/annotations/instances_val2017.json"


def set_note(number, **fields):
    return lambda content: content["annotations"][number].update(fields)


EDITS = {  # what is done to instances_val2017.json -> the kind and the message of its one problem
    "five numbers": (set_note(0, segmentation=[[1, 2, 3, 4, 5]]), "bad mask", "annotations#0 segmentation: a polygon"),
    "two points": (set_note(0, segmentation=[[1, 2, 3, 4]]), "bad mask", "a polygon needs at least three x, y pairs"),
    "a polygon of words": (set_note(0, segmentation=[["a"] * 6]), "bad mask", "a polygon needs"),
    "a polygon of no list": (set_note(0, segmentation=[5]), "bad mask", "a polygon needs"),
    "a far corner": (set_note(0, segmentation=[[0, 0, 5, 5, 1e30, 7]]), "bad mask", "a polygon needs"),
    "a mask of another size": (
        set_note(1, segmentation=run_lengths.encode(np.ones((7, 9), bool))),
        "wrong size",
        "annotations#1 segmentation: the mask is 9x7 pixels, its picture 192x192",
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
    "unknown picture": (set_note(0, image_id=99), "bad record", "annotations#0: image_id 99 is not among the images"),
    "no category": (lambda c: c["annotations"][0].pop("category_id"), "bad record", "field 'category_id' is missing"),
    "no segmentation": (lambda c: c["annotations"][0].pop("segmentation"), "bad record", "field 'segmentation' is missing"),
    "a record of another make": (lambda c: c["annotations"].__setitem__(0, 5), "bad record", "field 'image_id' is missing"),
    "a size of words": (lambda c: c["images"][0].update(height="192"), "bad record", "field 'height' is '192' where a whole"),
    "a size of nothing": (lambda c: c["images"][0].update(width=0), "bad record", "correct its height and width"),
    "a size without end": (lambda c: c["images"][0].update(height=float("inf")), "bad record", "field 'height' is inf where"),
    "a huge size": (lambda c: c["images"][0].update(height=10**9), "bad record", "correct its height and width"),
    "another size": (
        lambda c: c["images"][0].update(width=200),
        "wrong size",
        "000000000000.jpg: is 192x192 pixels, its annotations say 200x192",
    ),
    "no pictures listed": (lambda c: c.pop("images"), "bad record", "field 'images' is missing"),
    "a missing picture": (lambda c: c["images"][1].update(file_name="none.jpg"), "missing file", "none.jpg: no such picture"),
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
        if "192x192 pixels, its picture" not in pair[1] and "the mask is" not in pair[1]
    ] or found(report(root, "coco_instances"))
    assert [pair[0] for pair in problems] == [kind] and message in problems[0][1]


def test_a_check_goes_on_and_names_all(own):
    root = own("coco")
    for case in ("five numbers", "a mask of another size", "unknown category", "a missing picture"):
        change(root / INSTANCES, EDITS[case][0])
    (root / "coco" / "val2017" / "000000000000.jpg").write_bytes(b"\xff\xd8 not a picture")
    result = report(root, "coco_instances")
    kinds = [kind for kind, _ in found(result)]
    assert kinds == ["bad mask", "bad record", "missing file", "unreadable picture", "wrong size"]
    assert result.examples == 2 and result.faults == 5 and result.masks > 5


def test_a_check_survives_records_of_another_make(own):
    root = own("coco")
    change(root / INSTANCES, lambda c: c["images"][0].update(file_name=5))
    result = report(root, "coco_instances")
    ((kind, message),) = found(result)
    assert kind == "bad record" and message.startswith("record 0: is of another make (TypeError") and result.examples == 1
    change(root / INSTANCES, lambda c: c.update(images=7))
    ((kind, message),) = found(report(root, "coco_instances"))
    assert kind == "bad record" and message.startswith("the files: is of another make")


def test_messages_are_bounded_and_all_counted(own, monkeypatch):
    from hyperseg_jax.datasets import problems

    monkeypatch.setattr(problems, "MESSAGES", 3)
    root = own("coco")
    change(root / INSTANCES, lambda c: [note.update(category_id=4711) for note in c["annotations"]])
    result = report(root, "coco_instances")
    count = len(json.loads((root / INSTANCES).read_text())["annotations"])
    assert len(result.collected.problems) == 3 and result.faults == count > 3


def test_a_picture_is_reported_once_and_decoded_once(own, monkeypatch):
    root = own("coco", "refer")
    (root / "coco" / "train2014" / "COCO_train2014_000000000000.jpg").unlink()
    opened = []
    original = Image.open
    monkeypatch.setattr(files.Image, "open", lambda path: opened.append(path) or original(path))
    result = check(lambda: layouts.find("refcoco").open(root, "val"), lambda **_: None, threads=1)
    assert [kind for kind, _ in found(result)] == ["missing file"] and result.examples > 4
    assert len([path for path in opened if "000001.jpg" in str(path)]) == 1


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def small(path):
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(path)


def colours(path):
    Image.fromarray(np.zeros((192, 192, 3), np.uint8)).save(path)


def strange(path):
    Image.fromarray(np.full((192, 192), 200, np.uint8)).save(path)


def edited(**fields):
    return lambda path: change(path, lambda content: (content[0] if isinstance(content, list) else content).update(fields))


def first_line(**fields):
    def edit(path):
        first, *rest = path.read_text().splitlines()
        path.write_text("\n".join([json.dumps(json.loads(first) | fields), *rest]))

    return edit


def inside(*keys, **fields):
    def edit(content):
        for key in keys:
            content = content[key]
        content.update(fields)

    return lambda path: change(path, edit)


ADE = "ADEChallengeData2016/annotations/validation/ADE_validation_00000000.png"
TOWN = "cityscapes/gtFine/val/town/town_000000_000019_gtFine_labelIds.png"
GREFS = "refer/grefcoco/grefs(unc).json"
BREAKS = {  # (benchmark, file, what is done to it) -> kind and message
    "labels missing": ("ade20k", ADE, lambda path: path.unlink(), "missing file", "00000000.png: no such label picture"),
    "labels cut": ("ade20k", ADE, cut, "unreadable picture", "00000000.png: cannot be read as a label picture"),
    "labels of another size": ("ade20k", ADE, small, "wrong size", "00000000.png: is 6x5 pixels, its picture 192x192"),
    "labels of colours": ("ade20k", ADE, colours, "unreadable picture", "it has colours (mode RGB)"),
    "labels of no class": ("ade20k", ADE, strange, "bad mask", "00000000.png: has pixels of 200, which is no class"),
    "cityscapes picture": (
        "cityscapes",
        "cityscapes/leftImg8bit/val/town/town_000000_000019_leftImg8bit.png",
        cut,
        "unreadable picture",
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
    "voc picture": (
        "pascal_voc20",
        "VOCdevkit/VOC2012/JPEGImages/2012_000001.jpg",
        lambda path: path.unlink(),
        "missing file",
        "2012_000001.jpg: no such picture",
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
    "grefs without its picture": (
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
    "regions out of the picture": (
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
    "a picture of another size": (
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
    "objects picture": (
        "objects365",
        "objects365/val/patch0/objects365_v1_00000000.jpg",
        cut,
        "unreadable picture",
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
    "gqa picture": ("gqa", "gqa/images/n1.jpg", lambda path: path.unlink(), "missing file", "n1.jpg: no such picture"),
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
    "a picture that is none": (
        "mmbench",
        "mmbench/MMBench_TEST_EN.tsv",
        lambda path: path.write_text(path.read_text().replace("\t/9j/", "\t!!!!", 1)),
        "unreadable picture",
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


OWN = {
    "no captions": (lambda home: (home / "captions.jsonl").unlink(), "missing file", "captions.jsonl: no such file"),
    "an empty text": (
        lambda home: first_line(text=" ")(home / "captions.jsonl"),
        "bad record",
        "line 1: field 'text' is empty",
    ),
    "no mask named": (
        lambda home: (home / "captions.jsonl").write_text('{"picture": "pictures/0000.jpg", "text": "x"}\n'),
        "bad record",
        "line 1: field 'mask' is missing",
    ),
    "a missing mask": (
        lambda home: [path.unlink() for path in sorted((home / "masks").iterdir())],
        "missing file",
        "no such label picture",
    ),
    "an empty mask": (
        lambda home: [Image.fromarray(np.zeros((192, 192), np.uint8)).save(path) for path in (home / "masks").iterdir()],
        "bad mask",
        "has no pixel above 0",
    ),
    "a small mask": (lambda home: [small(path) for path in (home / "masks").iterdir()], "wrong size", "is 6x5 pixels"),
    "a missing picture": (lambda home: (home / "pictures" / "0000.jpg").unlink(), "missing file", "0000.jpg: no such picture"),
}


@pytest.mark.parametrize("case", OWN)
def test_own_folders(own, case):
    spoil, kind, message = OWN[case]
    home = own("yours") / "yours" / "folder"
    spoil(home)
    assert any(pair[0] == kind and message in pair[1] for pair in found(report(home, "folder")))


@pytest.mark.parametrize("damage", [cut, small, pathlib.Path.unlink])
def test_a_mask_that_cannot_be_read_is_reported_once(own, damage):
    """An own folder, labels of classes (where 0 is no class), objects of VOC, segments, objects of videos."""
    home = own("yours", "cityscapes", "VOCdevkit", "coco", "davis2017")
    mask = sorted((home / "yours" / "folder" / "masks").iterdir())[0]
    video = home / "davis2017" / "Annotations_unsupervised" / "480p" / "train-0"
    labels = home / "coco" / "annotations" / "panoptic_val2017" / "000000000000.png"
    objects = home / "VOCdevkit" / "VOC2012" / "SegmentationObject" / "2012_000000.png"
    for name, root, paths in (
        ("folder", home / "yours" / "folder", [mask]),
        ("pascal_voc_objects", home, [objects]),
        ("coco_panoptic", home, [labels]),
        ("ref_davis", home, sorted(video.iterdir())),
    ):
        for path in paths:
            damage(path)
        result = report(root, name, "train" if name == "ref_davis" else None)
        assert sorted(message.split(":")[0] for _, message in found(result)) == sorted(map(str, paths)), name


def test_a_malformed_line_hides_no_others(own):
    home = own("yours") / "yours" / "folder"
    path = home / "captions.jsonl"
    sound = path.read_text().splitlines()
    path.write_text("\n".join([sound[0], "", '{"picture": oops}', "[1]", '{"text": "no picture"}', *sound[1:]]))
    result = report(home, "folder")
    assert result.examples == len(sound) and sorted(message for _, message in found(result)) == [
        f"{path} line 3: not json (Expecting value at column 13); download or write it again",
        f"{path} line 4: is no json object; write {{...}} a line",
        f"{path} line 5: field 'picture' is missing; check that the file is of this format",
    ]
    grouped = layouts.open_benchmark("folder", "all", home, prompts_per_example=len(sound))
    assert len(grouped) == 3 + len({json.loads(line)["picture"] for line in sound})
    assert sum(len(grouped[k].prompts) for k in range(len(grouped)) if k not in (1, 2, 3)) == len(sound)


def test_a_malformed_line_is_in_every_split_and_in_none_alone(own):
    """Nobody knows its split, so whoever reads any split hears of it; a split is not there because of it."""
    home = own("yours") / "yours" / "folder"
    first, second, *_ = (json.loads(line) for line in (home / "captions.jsonl").read_text().splitlines())
    lines = [json.dumps(first | {"split": "train"}), "{", json.dumps(second | {"split": "val"})]
    (home / "captions.jsonl").write_text("\n".join(lines))
    for split, good in (("train", first), ("val", second)):
        reader = Folder(home, split=split)
        assert len(reader) == 2
        examples, messages = [], []
        for k in range(2):
            try:
                examples.append(reader[k])
            except UserError as error:
                messages.append(str(error))
        assert [one.prompts[0].text for one in examples] == [good["text"]] and "line 2: not json" in messages[0]
    with pytest.raises(UserError, match="no line with split 'test'"):
        Folder(home, split="test")


def test_lines_are_counted_from_1_and_records_from_0(own):
    """The rule of docs/data.md, on the second of a kind: line 2 of a file of lines, #1 of a list."""
    home = own("yours", "mmbench", "interactive", "coco")
    captions = home / "yours" / "folder" / "captions.jsonl"
    first, second, *_ = captions.read_text().splitlines()
    captions.write_text("\n".join([first, json.dumps(json.loads(second) | {"text": ""})]))
    marks = home / "interactive" / "coco_interactive_val.json"
    change(marks, lambda content: content[1].pop("anns"))
    table = home / "mmbench" / "MMBench_TEST_EN.tsv"
    last = len(MmBench(table)) - 1
    table.write_text(table.read_text()[:-9])
    for name, root, where in (
        ("folder", captions.parent, f"{captions} line 2: "),
        ("interactive", home, f"{marks}#1: "),
        ("mmbench", home, f"{table}#{last}: "),
    ):
        ((_, message),) = found(report(root, name))
        assert message.startswith(where), name


def test_lines_end_at_line_feeds_only(own):
    home = own("yours") / "yours" / "folder"
    line = {"picture": "pictures/0000.jpg", "text": "one\u2028or\x85two", "mask": None}
    (home / "captions.jsonl").write_text(json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")
    assert layouts.open_benchmark("folder", "all", home)[0].prompts[0].text == "one\u2028or\x85two"
    (home / "captions.jsonl").write_text('{"picture": ' + "1" * 5000 + "}")
    with pytest.raises(UserError, match="line 1: not json"):
        layouts.open_benchmark("folder", "all", home)


LABELME = {
    "five numbers": ({"points": [[1, 2], [3, 4], [5]]}, "bad mask", "0000.json shapes#0: is no polygon"),
    "a line": ({"shape_type": "linestrip"}, "bad mask", "is no polygon, rectangle, circle or mask"),
    "a mask that is none": ({"shape_type": "mask", "points": [[1, 2], [3, 4]], "mask": "!"}, "bad mask", "is no polygon"),
}


@pytest.mark.parametrize("case", LABELME)
def test_labelme(own, case):
    fields, kind, message = LABELME[case]
    home = own("yours") / "yours" / "labelme"
    inside("shapes", 0, **fields)(home / "0000.json")
    problems = found(report(home, "labelme"))
    assert [pair[0] for pair in problems] == [kind] and message in problems[0][1]
    inside(imageHeight=7)(home / "0001.json")
    assert any("0001.jpg: is 192x192 pixels, its annotations say 192x7" in text for _, text in found(report(home, "labelme")))


def another_size(path):
    Image.new(Image.open(path).mode, (190, 192)).save(path)


def edited(edit):
    return lambda path: change(path, edit)


def first_annotation(**fields):
    return edited(lambda content: content["annotations"][0].update(fields))


def first_video(edit):
    return edited(lambda content: edit(next(iter(content["videos"].values()))))


META = "ref_youtube_vos/meta_expressions/train/meta_expressions.json"
VIDEO = {  # benchmark, file below the root, what is done to it -> the kind and a part of the message
    "a frame of DAVIS": ("davis2016", "davis2016/JPEGImages/480p/train-0/00002.jpg", cut, "unreadable picture", "00002.jpg: "),
    "the first frame": ("davis2017", "davis2017/JPEGImages/480p/train-0/00000.jpg", cut, "unreadable picture", "00000.jpg: "),
    "no first frame": (
        "ref_davis",
        "davis2017/JPEGImages/480p/train-0/00000.jpg",
        pathlib.Path.unlink,
        "missing file",
        "00000.jpg: no such picture",
    ),
    "a frame in another size": (
        "davis2017",
        "davis2017/JPEGImages/480p/train-0/00001.jpg",
        another_size,
        "wrong size",
        "00001.jpg: is 190x192 pixels",
    ),
    "a mask that is gone": (
        "davis2017_unsupervised",
        "davis2017/Annotations_unsupervised/480p/train-0/00001.png",
        pathlib.Path.unlink,
        "missing file",
        "00001.png: no such mask",
    ),
    "a mask cut short": (
        "ref_davis",
        "davis2017/Annotations_unsupervised/480p/train-0/00001.png",
        cut,
        "bad mask",
        "00001.png: cannot be read as a mask",
    ),
    "a mask in another size": (
        "ref_youtube_vos",
        "ref_youtube_vos/train/Annotations/train-0/00001.png",
        another_size,
        "wrong size",
        "00001.png: is 190x192 pixels, its frame 192x192",
    ),
    "a line of words": (
        "ref_davis",
        "davis2017/davis_text_annotations/Davis17_annot1.txt",
        lambda path: path.write_text(path.read_text() + "train-0 the dog\n"),
        "bad record",
        "should be: video",
    ),
    "a video unspoken of": (
        "ref_davis",
        "davis2017/ImageSets/2017/train.txt",
        lambda path: path.write_text("train-0\nother\n"),
        "bad record",
        "no sentence about other",
    ),
    "a list that is gone": (
        "davis2016",
        "davis2016/ImageSets/480p/train.txt",
        pathlib.Path.unlink,
        "missing file",
        "no such list of videos",
    ),
    "an unknown object": (
        "ref_youtube_vos",
        META,
        first_video(lambda v: v["expressions"]["0"].update(obj_id="9")),
        "bad mask",
        "has object 9",
    ),
    "an object of words": (
        "ref_youtube_vos",
        META,
        first_video(lambda v: v["expressions"]["0"].update(obj_id="cat")),
        "bad record",
        "obj_id 'cat' is no number",
    ),
    "a frame not there": ("ref_youtube_vos", META, first_video(lambda v: v["frames"].append("x")), "missing file", "x.png: no"),
    "a category of none": (
        "youtube_vis_2019",
        "youtube_vis_2019/train.json",
        first_annotation(category_id=99),
        "bad record",
        "annotations#0: category_id 99",
    ),
    "a video of none": (
        "youtube_vis_2021",
        "youtube_vis_2021/train/instances.json",
        first_annotation(video_id=99),
        "bad record",
        "annotations#0: video_id 99",
    ),
    "a track too short": (
        "youtube_vis_2021",
        "youtube_vis_2021/train/instances.json",
        first_annotation(segmentations=[None]),
        "bad mask",
        "has 1 segmentations",
    ),
    "a mask of YouTube": (
        "youtube_vis_2019",
        "youtube_vis_2019/train.json",
        first_annotation(segmentations=[run_lengths.encode(np.ones((5, 5), bool))] + [None] * 5),
        "wrong size",
        "frame 0: the mask is 5x5 pixels",
    ),
    "a size of words": (
        "youtube_vis_2019",
        "youtube_vis_2019/train.json",
        edited(lambda c: c["videos"][0].update(height="9")),
        "bad record",
        "field 'height' is '9'",
    ),
    "a track of ReVOS": (
        "revos",
        "revos/mask_dict.json",
        edited(lambda c: c.update({key: [None] for key in c})),
        "bad mask",
        "has 1 frames, its video 6",
    ),
    "no expression": (
        "revos",
        "revos/meta_expressions_train_.json",
        first_video(lambda v: v["expressions"]["0"].pop("exp")),
        "bad record",
        "field 'exp' is missing",
    ),
    "a frame of ReVOS": ("revos", "revos/JPEGImages/train-0/00003.jpg", pathlib.Path.unlink, "missing file", "00003.jpg: no"),
}


@pytest.mark.parametrize("case", VIDEO)
def test_clips(own, case):
    name, file, damage, kind, message = VIDEO[case]
    root = own(file.split("/")[0])
    assert report(root, name, "train").faults == 0
    damage(root / file)
    problems = found(report(root, name, "train"))
    assert {pair[0] for pair in problems} == {kind} and len(problems) <= 3, problems
    assert any(message in pair[1] for pair in problems), problems
    with pytest.raises(UserError, match=re.escape(message)):
        reader = layouts.find(name).open(root, "train")
        for k in range(len(reader)):
            reader[k]


def test_a_check_of_clips_goes_on_and_names_all(own):
    root = own("davis2017")
    home = root / "davis2017"
    cut(home / "JPEGImages" / "480p" / "train-0" / "00000.jpg")
    (home / "JPEGImages" / "480p" / "train-0" / "00003.jpg").unlink()
    another_size(home / "Annotations" / "480p" / "train-0" / "00001.png")
    cut(home / "Annotations" / "480p" / "train-0" / "00002.png")
    result = report(root, "davis2017", "train")
    assert [kind for kind, _ in found(result)] == ["bad mask", "missing file", "unreadable picture", "wrong size"]
    assert result.examples == 1 and result.masks > 1
    for path in (home / "JPEGImages" / "480p" / "train-0").iterdir():
        path.unlink()
    assert any("has no .jpg frames" in message for _, message in found(report(root, "davis2017", "train")))


def test_every_layout_names_a_picture_that_is_gone(own, samples):
    """Every benchmark whose pictures lie in files of their own."""
    for name, layout in layouts.LAYOUTS.items():
        split = layout.splits[0]
        home = samples / "yours" / name if (samples / "yours" / name).exists() else samples
        fine = check(lambda layout=layout, home=home, split=split: layout.open(home, split), lambda **_: None, threads=2)
        assert fine.faults == 0 and fine.examples > 0, name
        if not fine.collected.sizes:  # MMBench: in the table
            continue
        root = own(*sorted({path.relative_to(samples).parts[0] for path in fine.collected.sizes}))
        for entry in samples.iterdir():
            if not (root / entry.name).exists():
                (root / entry.name).symlink_to(entry)
        lost = root / sorted(fine.collected.sizes)[0].relative_to(samples)
        lost.unlink()
        home = root / home.relative_to(samples)
        broken = check(lambda layout=layout, home=home, split=split: layout.open(home, split), lambda **_: None, threads=2)
        assert any(lost.name in message for message in broken.collected.problems), name
        for entry in root.iterdir():
            entry.unlink() if entry.is_symlink() else shutil.rmtree(entry)


def test_nothing_there_at_all(tmp_path):
    for name, layout in layouts.LAYOUTS.items():
        with pytest.raises(UserError, match=str(tmp_path)):
            layout.open(tmp_path, layout.splits[0])
        assert report(tmp_path, name).faults == 1
