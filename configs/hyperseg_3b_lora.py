"""HyperSeg-3B with adapters only in the language model: what HyperSeg's authors train, but for its token tables.

Sizes of a slice as in hyperseg_3b: hyperseg_3b_lora:v5e-64. Ours: the tables stay frozen. InstructSeg trains their 262 million
numbers in full for one new token; HyperSeg's queries and prompt embeddings are parameters of their own and need no new token.
"""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("hyperseg_3b.py")))


def get_config(slice_name: str = "") -> ml_collections.ConfigDict:
    c = BASE["get_config"](slice_name)
    c.optimizer.param_groups = (
        {"pattern": r".*/lora_[ab]", "rate": 1.0, "decay": 0.0},
        {"pattern": r"(clip_encoder|mask_encoder|projector|llm|language_head)/.*", "rate": 0.0, "decay": 0.0},
        {"pattern": r".*", "rate": 1.0, "decay": 0.0},
    )
    return c
