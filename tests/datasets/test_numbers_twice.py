"""Duplicate ids are reported with the record, and other records are read."""

import pytest
from damage import edit_json, run_check, sorted_problems

from hyperseg_jax.datasets import layouts
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import json_text
from hyperseg_jax.untrusted.bad_file import BadFile

PANOPTIC, INSTANCES = "coco/annotations/panoptic_val2017.json", "coco/annotations/instances_val2017.json"
QUESTIONS = "vqav2/v2_OpenEnded_mscoco_val2014_questions.json"


def duplicate_first(*keys):
    """Returns an edit that appends the first member of a list again."""

    def edit(content):
        for key in keys:
            content = content[key]
        content.append(content[0])

    return edit


def duplicate_with_text_id(*keys):
    """Returns an edit that appends the first member of a list again, with its id as text."""

    def edit(content):
        for key in keys[:-1]:
            content = content[key]
        content.append(content[0] | {keys[-1]: str(content[0][keys[-1]])})

    return edit


SPLITS = {"youtube_vis_2019": "train", "visual_genome": "train", "grefcoco": "train", "scienceqa": "val"}
CASES = {  # benchmark, file, edit, message, whether the reader opens
    "segment": ("coco_panoptic", PANOPTIC, duplicate_first("annotations", 0, "segments_info"), "segments_info#0: id ", True),
    "picture": ("coco_panoptic", PANOPTIC, duplicate_first("images"), "images#0: id ", True),
    "segments of an image": ("coco_panoptic", PANOPTIC, duplicate_first("annotations"), "annotations#0: image_id ", True),
    "panoptic class": ("coco_panoptic", PANOPTIC, duplicate_first("categories"), "categories#0: id ", False),
    "picture of instances": ("coco_instances", INSTANCES, duplicate_first("images"), "images#0: id ", True),
    "class of instances": ("coco_instances", INSTANCES, duplicate_first("categories"), "categories#0: id ", False),
    "annotation that is spoken of": (
        "grefcoco",
        "refer/grefcoco/instances.json",
        duplicate_first("annotations"),
        "s#0: id ",
        True,
    ),
    "question": ("vqav2", QUESTIONS, duplicate_first("questions"), "questions#0: question_id ", True),
    "answer": (
        "vqav2",
        "vqav2/v2_mscoco_val2014_annotations.json",
        duplicate_first("annotations"),
        "annotations#0: ques",
        True,
    ),
    "video": ("youtube_vis_2019", "youtube_vis_2019/train.json", duplicate_first("videos"), "videos#0: id ", True),
    "video as text": (
        "youtube_vis_2019",
        "youtube_vis_2019/train.json",
        duplicate_with_text_id("videos", "id"),
        "is also the id of #",
        True,
    ),
    "picture as text": ("coco_instances", INSTANCES, duplicate_with_text_id("images", "id"), "is also the id of #", True),
    "question as text": ("vqav2", QUESTIONS, duplicate_with_text_id("questions", "question_id"), "is also the id of #", True),
    "annotation": ("coco_instances", INSTANCES, duplicate_first("annotations"), "annotations#0: id ", True),
    "annotation with a mark": ("coco_visual_prompts", INSTANCES, duplicate_first("annotations"), "annotations#0: id ", True),
    "box": (
        "objects365",
        "objects365/zhiyuan_objv2_val.json",
        duplicate_first("annotations"),
        "annotations#0: id ",
        True,
    ),
    "track": ("youtube_vis_2019", "youtube_vis_2019/train.json", duplicate_first("annotations"), "annotations#0: id ", True),
    "picture with regions": (
        "visual_genome",
        "visual_genome/region_descriptions.json",
        duplicate_first(),
        "region_descriptions.json#",
        True,
    ),
    "region": (
        "visual_genome",
        "visual_genome/region_descriptions.json",
        duplicate_first(0, "regions"),
        "#0 regions#0: region_id ",
        True,
    ),
    "size of a picture": (
        "visual_genome",
        "visual_genome/image_data.json",
        lambda content: content.insert(0, content[0] | {"width": 7}),
        "image_data.json#0: image_id ",
        True,
    ),
    "expression": ("grefcoco", "refer/grefcoco/grefs(unc).json", duplicate_first(), "grefs(unc).json#0: ref_id ", True),
    "question of a split": (
        "scienceqa",
        "scienceqa/pid_splits.json",
        duplicate_first("val"),
        "pid_splits.json val#0: id ",
        True,
    ),
    "class of videos": (
        "youtube_vis_2019",
        "youtube_vis_2019/train.json",
        duplicate_first("categories"),
        "categories#0: id ",
        False,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_duplicate_ids(copy_samples, case):
    name, file, edit, message, opens = CASES[case]
    root = copy_samples(*{file.split("/")[0], *(() if name.startswith("youtube") else ("coco",))})
    edit_json(root / file, edit)
    split = SPLITS.get(name) or layouts.find_layout(name).splits[-1]
    problems = sorted_problems(run_check(root, name, split))
    assert ("bad record" in {kind for kind, _ in problems}) and any(message in text for _, text in problems), problems
    messages, read = [], 0
    try:
        reader = layouts.find_layout(name).open(root, split)
        for k in range(len(reader)):
            try:
                reader[k]
                read += 1
            except UserError as error:
                messages.append(str(error))
    except UserError as error:
        messages.append(str(error))
        assert not opens
    assert messages and all(message in text and "; correct one of them" in text for text in messages)
    assert not opens or read or len(reader) == len(messages)


def test_duplicate_ids_of_lines(copy_samples):
    root = copy_samples("pope", "coco")
    path = root / "pope" / "coco_pope_random.json"
    path.write_text(path.read_text().rstrip("\n") + "\n" + path.read_text().splitlines()[0])
    reader = layouts.find_layout("pope").open(root, "random")
    with pytest.raises(UserError, match=r"line 1: question_id .* is also the id of .* line \d+; correct one of them"):
        reader[0]
    assert len(reader[1].prompts) == 1


def test_images_listed_twice(copy_samples):
    root = copy_samples("VOCdevkit")
    path = root / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    path.write_text(path.read_text() + "\n" + path.read_text().split()[0])
    with pytest.raises(UserError, match=r"val.txt#0: name '2012_000000' is also the id of #2; correct one of them"):
        layouts.find_layout("pascal_voc20").open(root, "val")


def test_duplicate_json_keys():
    assert json_text.parse_json(b'{"a": {"b": 1}, "b": {"b": 2}}')["b"] == {"b": 2}
    with pytest.raises(BadFile, match="the key 'a' twice"):
        json_text.parse_json(b'[{"a": 1, "b": 2, "a": 3}]')
