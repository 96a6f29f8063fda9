"""The first stage of SCA: weakly supervised pre-training, where the category names of Objects365 are the captions of boxes; see
sca_gpt2_large. Its data can be mixed with COCO and V3Det by adding tasks with the reader category_boxes."""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("sca_gpt2_large.py")))


def get_config() -> ml_collections.ConfigDict:
    c = BASE["get_config"]()
    files = "{root}/objects365"
    splits = {
        split: {"json_path": f"{files}/zhiyuan_objv2_{split}.json", "image_root": f"{files}/{split}"}
        for split in ("train", "val")
    }
    c.data.tasks.caption = {**c.data.tasks.caption.to_dict(), "reader": "objects365", **splits}
    c.train.steps = 200_000
    return c
