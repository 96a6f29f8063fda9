"""Lists in annotation files: frames, choices and class names that are missing or listed twice, and negative areas."""

import numpy as np
import pytest
from damage import edit_json, run_check, sorted_problems

from hyperseg_jax.datasets import layouts
from hyperseg_jax.datasets.class_prompts import ClassLists
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import budget

INSTANCES = "coco/annotations/instances_val2017.json"


def set_frames(field, edit):
    def change(content):
        videos = content["videos"]
        video = videos[0] if isinstance(videos, list) else next(iter(videos.values()))
        video[field] = edit(video[field])

    return change


VIDEOS = {
    "youtube_vis_2019": ("train", "youtube_vis_2019/train.json", "file_names"),
    "ref_youtube_vos": ("train", "ref_youtube_vos/meta_expressions/train/meta_expressions.json", "frames"),
    "revos": ("valid", "revos/meta_expressions_valid_.json", "frames"),
}


@pytest.mark.parametrize("name", VIDEOS)
@pytest.mark.parametrize(("edit", "why"), [(lambda names: [*names, names[0]], "a frame twice"), (lambda _: [], "no frames")])
def test_frames_of_videos(copy_samples, name, edit, why):
    split, file, field = VIDEOS[name]
    root = copy_samples(name)
    edit_json(root / file, set_frames(field, edit))
    with pytest.raises(UserError, match=rf"field '{field}' lists {why}; correct or remove the video"):
        layouts.find_layout(name).open(root, split)[0]
    assert any(f"lists {why}" in message for _, message in sorted_problems(run_check(root, name, split)))


def test_negative_areas(copy_samples):
    root = copy_samples("coco")
    edit_json(root / INSTANCES, lambda content: content["annotations"][0].update(area=-5))
    with pytest.raises(UserError, match=r"annotations#0: field 'area' is -5, expected 0 or more; correct it"):
        layouts.find_layout("coco_instances").open(root, "val2017")[0]


def same_choices(content):
    for row in content.values():
        row["choices"] = row["choices"][:1] * len(row["choices"])


NOTED = {
    "coco_instances": (
        INSTANCES,
        lambda content: [row.update(name="cat") for row in content["categories"]],
        "two names are 'cat'",
    ),
    "youtube_vis_2019": (
        VIDEOS["youtube_vis_2019"][1],
        lambda c: [row.update(name="cat") for row in c["categories"]],
        "two names",
    ),
    "scienceqa": ("scienceqa/problems.json", same_choices, "two choices are "),
}


@pytest.mark.parametrize("name", NOTED)
def test_equal_names_are_noted_by_a_check(copy_samples, name):
    """They are read: some exported files name their first class twice."""
    file, edit, message = NOTED[name]
    root, split = copy_samples(*{file.split("/")[0], "coco"}), {"scienceqa": "val"}.get(name, "train")
    split = "val2017" if name == "coco_instances" else split
    assert run_check(root, name, split).problem_count == 0
    edit_json(root / file, edit)
    assert layouts.find_layout(name).open(root, split)[0].prompts
    found = sorted_problems(run_check(root, name, split))
    assert found and all(kind == "bad record" and message in text for kind, text in found)


def test_class_lists_of_an_image_are_bounded():
    with pytest.raises(UserError, match="prompts_per_example=4097 is too many; give at most 4096"):
        ClassLists(("cat",), (True,), prompts_per_example=4097)
    lists, masks = ClassLists(("cat",), (True,), prompts_per_example=4000), np.ones((20, 4, 4), bool)
    with budget.record_budget(), pytest.raises(UserError, match=r"masks, and the limit is 50000; .*raise limits\.masks"):
        lists.build_prompts(7, masks, [0] * 20, np.zeros((4, 4), bool))
