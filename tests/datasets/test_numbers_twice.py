"""A number that stands twice tells no records apart: the record is named, and others are read."""

import pytest
from damage import change, found, report

from hyperseg_jax.datasets import layouts
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import json_text
from hyperseg_jax.untrusted.bad_file import BadFile

PANOPTIC, INSTANCES = "coco/annotations/panoptic_val2017.json", "coco/annotations/instances_val2017.json"
QUESTIONS = "vqav2/v2_OpenEnded_mscoco_val2014_questions.json"


def again(*keys):
    """Puts the first member of a list behind its last one."""

    def edit(content):
        for key in keys:
            content = content[key]
        content.append(content[0])

    return edit


def as_text(*keys):
    """Puts the first member of a list behind its last one, with its number as text."""

    def edit(content):
        for key in keys[:-1]:
            content = content[key]
        content.append(content[0] | {keys[-1]: str(content[0][keys[-1]])})

    return edit


CASES = {  # benchmark, file, edit, message, whether the reader opens
    "segment": ("coco_panoptic", PANOPTIC, again("annotations", 0, "segments_info"), "segments_info#0: id ", True),
    "picture": ("coco_panoptic", PANOPTIC, again("images"), "images#0: id ", True),
    "segments of an image": ("coco_panoptic", PANOPTIC, again("annotations"), "annotations#0: image_id ", True),
    "panoptic class": ("coco_panoptic", PANOPTIC, again("categories"), "categories#0: id ", False),
    "picture of instances": ("coco_instances", INSTANCES, again("images"), "images#0: id ", True),
    "class of instances": ("coco_instances", INSTANCES, again("categories"), "categories#0: id ", False),
    "annotation that is spoken of": ("grefcoco", "refer/grefcoco/instances.json", again("annotations"), "s#0: id ", True),
    "question": ("vqav2", QUESTIONS, again("questions"), "questions#0: question_id ", True),
    "answer": ("vqav2", "vqav2/v2_mscoco_val2014_annotations.json", again("annotations"), "annotations#0: ques", True),
    "video": ("youtube_vis_2019", "youtube_vis_2019/train.json", again("videos"), "videos#0: id ", True),
    "video as text": ("youtube_vis_2019", "youtube_vis_2019/train.json", as_text("videos", "id"), "is also the id of #", True),
    "picture as text": ("coco_instances", INSTANCES, as_text("images", "id"), "is also the id of #", True),
    "question as text": ("vqav2", QUESTIONS, as_text("questions", "question_id"), "is also the id of #", True),
    "class of videos": ("youtube_vis_2019", "youtube_vis_2019/train.json", again("categories"), "categories#0: id ", False),
}


@pytest.mark.parametrize("case", CASES)
def test_a_number_that_stands_twice(own, case):
    name, file, edit, message, opens = CASES[case]
    root = own(*{file.split("/")[0], *(() if name.startswith("youtube") else ("coco",))})
    change(root / file, edit)
    split = "train" if name.startswith("youtube") else layouts.find_layout(name).splits[-1]
    problems = found(report(root, name, split))
    assert ("bad record" in {kind for kind, _ in problems}) and any(message in text for _, text in problems), problems
    told, read = [], 0
    try:
        reader = layouts.find_layout(name).open(root, split)
        for k in range(len(reader)):
            try:
                reader[k]
                read += 1
            except UserError as error:
                told.append(str(error))
    except UserError as error:
        told.append(str(error))
        assert not opens
    assert told and all(message in text and "; correct one of them" in text for text in told)
    assert not opens or read or len(reader) == len(told)


def test_json_that_has_a_name_twice():
    assert json_text.parse(b'{"a": {"b": 1}, "b": {"b": 2}}')["b"] == {"b": 2}
    with pytest.raises(BadFile, match="the key 'a' twice"):
        json_text.parse(b'[{"a": 1, "b": 2, "a": 3}]')
