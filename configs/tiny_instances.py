"""Instances over video on the toy world: the shipped model learns boxes, and embeddings that tell an object from all others on
other frames, by which it is tracked."""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("tiny.py")))


def get_config() -> ml_collections.ConfigDict:
    c = BASE["get_config"]()
    c.init_from = "tiny"
    c.init_optional = (r"mask_decoder/(box|box_iou|reid)/.*",)
    c.model.mask_decoder.heads = ("box", "box_iou", "reid")
    # DETR's weights of boxes, IDOL's of identities.
    c.loss.update({"box_weight": 5.0, "giou_weight": 2.0, "box_iou_weight": 1.0, "reid_weight": 2.0, "reid_cosine_weight": 3.0})
    read, sizes = {"max_classes": 8}, {"length": 184, "targets": 8, "classes": 9}
    c.data.tasks = {
        "instances": BASE["task"]("instances", 2, read={**read, "frames": 3}, val={"frames": None}, frames=3, **sizes),
        "panoptic": BASE["task"]("panoptic", 1, read={**read, "prompts_per_example": 2}, prompts=2, **sizes),
    }
    c.data.toy.update({"train": 2000, "clips": 1000})
    c.data.curriculum.share = 0.0
    c.optimizer.learning_rate = 5e-4
    c.train.update({"steps": 600, "eval_every": 600, "eval_examples": 100, "save_every": 100})
    return c
