"""Fine-tunes the shipped `tiny` on a few real clips with sentences: the even frames train, the odd ones are scored. It proves
that real pixels, masks and sentences go through every room; train and test frames are neighbours of one another, so its scores
say nothing about other images.

`davis_small` reads single frames (datasets/referring_frames.py), `davis_small:clips` videos, with the temporal adapter
(datasets/referring_clips.py). data.root holds JPEGImages/240p, Annotations/240p and expressions.json.
"""

import pathlib
import runpy

import ml_collections

from hyperseg_jax.errors import UserError

TINY = runpy.run_path(str(pathlib.Path(__file__).with_name("tiny.py")))


def get_config(shown: str = "frames") -> ml_collections.ConfigDict:
    if shown not in ("frames", "clips"):
        raise UserError(f"--config davis_small:{shown}: unknown; use frames or clips")
    c = TINY["get_config"]()
    c.init_from = "tiny"
    c.data.curriculum.share = 0.0
    c.optimizer.learning_rate = 1e-3
    folder = {"folder": "{root}"}
    train, val = {**folder, "part": "even"}, {**folder, "part": "odd"}
    if shown == "frames":
        c.data.image_size = 384  # images of 428x240 and, side by side, 856x240
        c.data.tasks = {
            "referring": {
                "reader": "referring_frames",
                "ratio": 1,
                "length": 320,
                "prompts": 4,
                "train": train,
                "val": val,
            },
        }
        c.train.update(
            {"steps": 4000, "batch_size": 6, "log_every": 20, "save_every": 250, "eval_every": 500, "eval_examples": 300}
        )
    else:
        c.init_optional = (r"prompt_aggregation/.*",)
        c.model.temporal.aggregation = True
        c.data.image_size = 224
        c.data.tasks = {
            "video": {
                "reader": "referring_clips",
                "ratio": 1,
                "length": 176,
                "prompts": 2,
                "frames": 4,
                "train": {**train, "frames": 4},
                "val": val,
            },
        }
        c.train.update({"steps": 400, "batch_size": 4, "save_every": 50, "eval_every": 400, "eval_examples": 15})
    return c
