"""The image encoder of a small IFSeg, trained on toy images and the words of their captions, without masks or boxes.

`hyperseg adapt` then trains the rest without images. Published training starts from OFA instead: configs/ifseg_base.py.
"""

import pathlib
import runpy

import ml_collections

TINY = runpy.run_path(str(pathlib.Path(__file__).with_name("ifseg_tiny.py")))


def get_config() -> ml_collections.ConfigDict:
    c = TINY["get_config"]()
    c.model.image_encoder.blocks = (1, 2, 2)  # cells that see a whole object
    c.model.scores = "embedding"  # the decoder is not trained
    panoptic = {**c.data.tasks.panoptic.to_dict(), "ratio": 0}  # only validation
    train = {"folder": "{root}", "task": "caption", "split": "train"}
    c.data.tasks = {"captions": {"reader": "toy", "ratio": 1, "caption_words": 40, "train": train}, "panoptic": panoptic}
    c.optimizer.param_groups = (
        {"pattern": r"(encoder|decoder|unused)/.*|classifier|.*/(mean|variance)", "rate": 0.0, "decay": 0.0},
        *c.optimizer.param_groups[1:],
    )
    c.optimizer.learning_rate = 2e-3
    c.train.update({"steps": 4000, "batch_size": 8})
    return c
