"""A small but complete SCA for the toy world: it learns to describe the object in a box. All parts are trained; begin with
sca_tiny_weak, which learns masks and category names."""

import pathlib
import runpy

import ml_collections

TINY = runpy.run_path(str(pathlib.Path(__file__).with_name("tiny.py")))


def get_config() -> ml_collections.ConfigDict:
    c = TINY["get_config"]()
    c.system = "sca"
    transformer = {"num_heads": 4, "mlp_dim": 128, "downsample": 1}
    c.model = {
        "precision": {"params": "float32", "compute": "float32", "output": "float32", "matmul": "highest"},
        "image_encoder": {
            "patch_size": 8,
            "hidden_size": 96,
            "num_layers": 4,
            "heads": 4,
            "window": 6,
            "global_layers": (1, 3),
            "mlp_ratio": 3.0,
            "channels": 64,
            "remat": "none",
        },
        "prompt_encoder": {"mask_channels": 16},
        "mask_decoder": {
            "transformer": {"num_layers": 2, **transformer},
            "num_candidates": 3,
            "iou_hidden": 64,
            "iou_depth": 3,
        },
        "caption_mixer": {"transformer": {"num_layers": 2, **transformer}, "num_queries": 4, "reads": "decoded"},
        "num_task_tokens": 2,
        "llm": {
            "kind": "gpt2",
            "vocab_size": 576,
            "hidden_size": 96,
            "mlp_size": 288,
            "num_layers": 2,
            "num_heads": 4,
            "num_positions": 64,
            "dropout": 0.0,
        },
    }
    c.loss = {"label_smoothing": 0.1, "mask": 0.0}  # mask: weight of the loss of SAM's masks, for regions that have one
    del c.data.template, c.data.buckets
    c.data.jitter = (0.8, 1.3)
    c.data.curriculum = {"task": "", "share": 0.0}
    task = TINY["task"]
    c.data.tasks = {"caption": task("caption", 1, regions=4, marks=2, length=16)}
    c.optimizer.learning_rate = 1e-3
    c.optimizer.param_groups = (
        {
            "pattern": r".*(bias|scale|positions|embedding|_offsets|queries|tasks|_token|_tokens|marks|no_\w+|matrix)",
            "rate": 1.0,
            "decay": 0.0,
        },
        {"pattern": r".*", "rate": 1.0, "decay": 0.02},
    )
    c.train.update({"steps": 2000, "batch_size": 16})
    return c
