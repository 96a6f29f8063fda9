"""The smallest version of configs/tiny.py, for tests; compiles in seconds. Fixtures set data.root."""

import ml_collections

from hyperseg_jax import config as configs

TASKS = ("referring", "panoptic", "region", "video", "chat")


def get_config(tasks: tuple[str, ...] = ("referring",)) -> ml_collections.ConfigDict:
    c = configs.load("tiny").unlock()
    m = c.model
    m.precision.matmul = "default"
    m.num_queries = m.mask_decoder.num_queries = 4
    m.clip_encoder.update(
        {"image_size": 16, "patch_size": 8, "hidden_size": 16, "mlp_size": 16, "num_layers": 1, "num_heads": 2}
    )
    m.mask_encoder.update({"hidden_size": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window": 4, "mlp_ratio": 1.0})
    m.perceiver.update({"hidden_size": 16, "num_queries": 2, "num_heads": 2, "head_dim": 8, "mlp_ratio": 1})
    m.llm.update({"hidden_size": 32, "mlp_size": 16, "num_layers": 1, "num_heads": 2})
    m.pixel_decoder.update(
        {"conv_dim": 16, "mask_dim": 16, "num_heads": 2, "feedforward_dim": 16, "num_layers": 1, "group_norm_groups": 4}
    )
    m.mask_decoder.update({"hidden_size": 16, "mask_dim": 16, "num_heads": 2, "feedforward_dim": 16, "num_layers": 1})

    c.loss = {"points": "grid", "text_weight": 0.5}
    c.data.image_size = 32
    c.data.curriculum.share = 0.0
    c.data.buckets = (64, 96, 160, 288)
    c.data.tasks.referring.update({"prompts": 2, "length": 96})
    c.data.tasks.referring.train.prompts_per_example = 2
    c.data.tasks.referring.val.prompts_per_example = 2
    for name in set(c.data.tasks) - set(tasks):
        del c.data.tasks[name]
    frozen = {"pattern": r"(clip_encoder|mask_encoder|perceiver|projector)/.*", "rate": 0.0, "decay": 0.0}
    c.optimizer.param_groups = (frozen, *c.optimizer.param_groups)  # the step compiles in half the time
    c.optimizer.update({"warmup_steps": 2, "learning_rate": 1e-2})
    c.train.update({"steps": 30, "batch_size": 2, "log_every": 1, "save_every": 5, "eval_every": 30, "eval_examples": 4})
    return c
