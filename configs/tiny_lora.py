"""Fine-tunes the shipped `tiny` on a kind that it has never seen: LoRA in the language model, the decoders in full, the
encoders frozen (as HyperSeg's authors train), with some of the known kinds mixed in so that they are not forgotten.

data.root holds two toy worlds: new/ (written with kinds="held_back") and known/.
"""

import pathlib
import runpy

import ml_collections

TINY = runpy.run_path(str(pathlib.Path(__file__).with_name("tiny.py")))


def get_config() -> ml_collections.ConfigDict:
    c = TINY["get_config"]()
    c.init_from = "tiny"
    c.init_optional = (r".*/lora_[ab]",)
    c.model.lora.update({"rank": 8, "alpha": 16.0, "targets": ("query", "key", "value", "out", "up", "down")})

    c.data.curriculum.share = 0.0
    referring, panoptic = c.data.tasks.referring.to_dict(), c.data.tasks.panoptic.to_dict()
    c.data.tasks = {
        "new": _at("new", referring, 2),
        "known": _at("known", referring, 1),
        "new_classes": _at("new", panoptic, 2),  # class lists teach class names fastest
    }
    c.optimizer.learning_rate = 5e-4
    c.optimizer.warmup_steps = 20
    c.optimizer.param_groups = (
        {"pattern": r".*/lora_[ab]", "rate": 1.0, "decay": 0.0},
        # The new words are untrained. Embeddings have unit scale, so they need a larger learning rate in these few steps.
        {"pattern": r"llm/tokens/embedding", "rate": 20.0, "decay": 0.0},
        {"pattern": r"(clip_encoder|projector|mask_encoder|llm|language_head)/.*", "rate": 0.0, "decay": 0.0},
        {"pattern": r".*", "rate": 1.0, "decay": 0.0},
    )
    c.train.update({"steps": 240, "log_every": 5, "save_every": 60, "eval_every": 1000000, "eval_examples": 8})
    return c


def _at(world: str, task: dict, ratio: int) -> dict:
    """The same task on the toy world below data.root/world."""
    moved = {part: {**task[part], "folder": "{root}/" + world} for part in ("train", "val")}
    return {**task, **moved, "ratio": ratio}
