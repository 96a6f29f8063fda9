"""Fine-tunes the shipped `tiny` on your own images and sentences: LoRA in the language model, the decoders in full, the
encoders frozen.

data.root is a folder with captions.jsonl (docs/data.md), whose lines have split "train" or "val".
"""

import pathlib
import runpy

import ml_collections

TINY_LORA = runpy.run_path(str(pathlib.Path(__file__).with_name("tiny_lora.py")))


def get_config() -> ml_collections.ConfigDict:
    c = TINY_LORA["get_config"]()
    split = lambda name: {"folder": "{root}", "split": name, "prompts_per_example": 6}
    c.data.tasks = {
        "yours": {"reader": "folder", "ratio": 1, "length": 208, "prompts": 6, "train": split("train"), "val": split("val")},
    }
    c.train.update({"steps": 300, "eval_every": 150, "eval_examples": 40})
    return c
