"""Hybrid entity recognition on the toy world: the shipped model learns to name what is in an image before it segments it.

tiny_entities:decoding and tiny_entities:generation are its ablations, with the same weights to start from, steps and data.
"""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("tiny.py")))


def get_config(recognition: str = "hybrid") -> ml_collections.ConfigDict:
    c = BASE["get_config"]()
    c.init_from = "tiny"
    c.model.entities.recognition = recognition
    sizes = {"length": 184, "targets": 8, "classes": 17}  # 16 names: more to choose from than in `tiny`
    c.data.tasks = {"panoptic": BASE["task"]("panoptic", 1, read={"max_classes": 16}, **sizes)}
    c.data.toy.update({"level": "hard", "train": 6000})
    c.data.curriculum.share = 0.0
    c.optimizer.learning_rate = 5e-4
    c.train.update({"steps": 600, "eval_every": 600, "eval_examples": 200, "save_every": 100})
    return c
