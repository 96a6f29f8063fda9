"""The first stage of SCA: weakly supervised pre-training, where the category names of Objects365 are the captions of boxes; see
sca_gpt2_large. Its data can be mixed with COCO and V3Det by adding tasks with the readers coco_captions and v3det."""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("sca_gpt2_large.py")))


def get_config() -> ml_collections.ConfigDict:
    c = BASE["get_config"]()
    objects = {"folder": "{root}/objects365"}
    c.data.tasks.caption.update(
        {"reader": "objects365", "train": {**objects, "split": "train"}, "val": {**objects, "split": "val"}}
    )
    c.train.steps = 200_000
    return c
