"""Fine-tunes the shipped `tiny` on a few real clips with sentences (readers' layout: datasets/referring_frames.py): the even
frames train, the odd ones are scored. It proves that real pixels, masks and sentences go through every room; train and test
frames are neighbours of one another, so its scores say nothing about other images.

data.root holds JPEGImages/240p, Annotations/240p and expressions.json.
"""

import pathlib
import runpy

import ml_collections

TINY = runpy.run_path(str(pathlib.Path(__file__).with_name("tiny.py")))


def get_config() -> ml_collections.ConfigDict:
    c = TINY["get_config"]()
    c.init_from = "tiny"
    c.data.image_size = 384  # images of 428x240 and, side by side, 856x240
    c.data.curriculum.share = 0.0
    frames = {"folder": "{root}"}
    c.data.tasks = {
        "referring": {
            "reader": "referring_frames",
            "ratio": 1,
            "length": 320,
            "prompts": 4,
            "train": {**frames, "part": "even"},
            "val": {**frames, "part": "odd"},
        },
    }
    c.optimizer.learning_rate = 1e-3
    c.train.update(
        {"steps": 4000, "batch_size": 6, "log_every": 20, "save_every": 250, "eval_every": 500, "eval_examples": 300}
    )
    return c
