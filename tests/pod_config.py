"""The micro model with the structure of configs/hyperseg_3b_lora.py: adapters on a frozen base, every task of the recipe, chat
without masks, accumulation."""

import pathlib
import runpy

import ml_collections

FOLDER = pathlib.Path(__file__).parent
MICRO = runpy.run_path(str(FOLDER / "micro_config.py"))
RECIPE = runpy.run_path(str(FOLDER.parent / "configs" / "hyperseg_3b_lora.py"))
TASKS = ("referring", "panoptic", "region", "reasoning", "video", "chat")


def get_config() -> ml_collections.ConfigDict:
    c = MICRO["get_config"](TASKS)
    c.model.lora.update({"rank": 2, "alpha": 4.0, "dropout": 0.05, "targets": ("query", "value")})
    c.optimizer.param_groups = RECIPE["get_config"]().optimizer.param_groups
    c.optimizer.accumulate = 2
    for task in c.data.tasks.values():
        task.ratio = 1
    c.train.frozen_type = "bfloat16"
    return c
