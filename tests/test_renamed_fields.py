"""Field names of earlier versions: reported in configs, and migrated in saved models."""

import copy
import json
import shutil

import pytest

from hyperseg_jax import config as configs
from hyperseg_jax import renamed_fields
from hyperseg_jax.errors import UserError
from hyperseg_jax.weights import model_folder

OLD = {
    "data": {
        "mirror": 0.5,
        "cuts": [64],
        "bad_share": 0.1,
        "first": {"task": "region", "share": 0.1},
        "augment": {"referring": {"mirror": 1.0}},
        "tasks": {
            "region": {"reader": "coco_marks"},
            "video": {"reader": "spoken_frames", "train": {"group_by_clip": True}},
            "clicks": {"reader": "benchmark", "val": {"name": "coco_marks"}},
            "reasoning": {"reader": "reasonseg", "val": {"ignore": "hyperseg"}},
        },
    },
    "optimizer": {"groups": [{"pattern": ".*"}]},
    "init_fresh": [".*"],
}
NEW = {
    "data": {
        "horizontal_flip": 0.5,
        "length_buckets": [64],
        "max_unreadable_share": 0.1,
        "curriculum": {"task": "region", "share": 0.1},
        "augment": {"referring": {"horizontal_flip": 1.0}},
        "tasks": {
            "region": {"reader": "coco_visual_prompts"},
            "video": {"reader": "referring_frames", "train": {"group_by_video": True}},
            "clicks": {"reader": "benchmark", "val": {"name": "coco_visual_prompts"}},
            "reasoning": {"reader": "reasonseg", "val": {"ignore": "released"}},
        },
    },
    "optimizer": {"param_groups": [{"pattern": ".*"}]},
    "init_optional": [".*"],
}


def test_old_names_are_reported_and_migrated():
    lines = list(renamed_fields.problems(OLD))
    assert len(lines) == len(renamed_fields.FIELDS) + 4
    assert "data.augment.referring.mirror: was renamed to data.augment.referring.horizontal_flip; use the new name" in lines
    assert renamed_fields.migrate(copy.deepcopy(OLD)) == NEW
    assert renamed_fields.migrate(copy.deepcopy(NEW)) == NEW and not list(renamed_fields.problems(NEW))


def test_other_objects_are_unchanged():
    for value in ([], {"data": None}, {"data": {"tasks": [1], "augment": {"a": 3}}}, {"optimizer": "groups"}):
        assert renamed_fields.migrate(copy.deepcopy(value)) == value


def test_old_names_in_overrides_are_reported():
    with pytest.raises(UserError, match=r"data\.cuts: was renamed to data\.length_buckets; use --config\.data\.length_buckets"):
        configs.load("tiny", ["data.cuts=(64,)"])
    with pytest.raises(UserError, match=r"known fields|did you mean"):
        configs.load("tiny", ["data.cutting=1"])


def test_old_names_in_config_files_are_reported():
    fields = configs.load("tiny").to_dict()
    fields["optimizer"]["groups"] = fields["optimizer"].pop("param_groups")
    with pytest.raises(UserError, match=r"mine: optimizer\.groups: was renamed to optimizer\.param_groups; use the new name"):
        configs.check_fields(fields, "mine: ")


def test_model_folders_of_earlier_versions_load(tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(model_folder.find_model_folder("tiny"), folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    expected = model_folder.read_config(folder)
    config["data"]["mirror"] = config["data"].pop("horizontal_flip")
    path.write_text(json.dumps(config))
    assert model_folder.read_config(folder) == expected
