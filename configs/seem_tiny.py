"""A small but complete SEEM for the toy world: class lists, phrases, and visual prompts over interactive rounds."""

import pathlib
import runpy

import ml_collections

TINY = runpy.run_path(str(pathlib.Path(__file__).with_name("tiny.py")))


def get_config() -> ml_collections.ConfigDict:
    c = TINY["get_config"]()
    c.system = "seem"
    c.model = {
        "precision": {"params": "float32", "compute": "float32", "output": "float32", "matmul": "highest"},
        "num_classes": 8,
        "mask_encoder": {
            "kind": "focal_dw",
            "hidden_size": 32,
            "depths": (1, 1, 2, 1),
            "levels": (2, 2, 2, 2),
            "windows": (3, 3, 3, 3),
        },
        "pixel_decoder": {
            "kind": "fpn",
            "conv_dim": 64,
            "mask_dim": 64,
            "num_heads": 4,
            "feedforward_dim": 128,
            "num_layers": 2,
            "group_norm_groups": 8,
        },
        "text_encoder": {
            "vocab_size": 584,
            "end_id": 0,  # of the toy tokenizer
            "context": 32,
            "hidden_size": 64,
            "num_layers": 3,
            "num_heads": 4,
            "epsilon": 1e-5,
        },
        "mask_decoder": {
            "hidden_size": 64,
            "mask_dim": 64,
            "class_dim": 64,
            "num_heads": 4,
            "feedforward_dim": 192,
            "num_layers": 3,
            "num_queries": 16,
            "num_memories": 8,
            "variant": "v1",
        },
    }
    c.loss = {
        "points": "grid",  # compares whole maps, cheap at this size
        "num_points": 12544,
        "oversample": 3.0,
        "importance": 0.75,
        "background": 0.1,
        "rounds": 3,
        "objects": {"mask": 5.0, "dice": 5.0, "class": 2.0},
        "phrases": {"mask": 1.0, "dice": 1.0, "sentence": 0.8, "name": 0.2},
        "marks": {"mask": 1.0, "dice": 1.0, "mark": 0.4},
    }
    del c.data.template, c.data.buckets
    c.data.class_templates = "name"
    c.data.curriculum = {"task": "panoptic", "share": 0.3}
    task = TINY["task"]
    c.data.tasks = {
        "panoptic": task("panoptic", 3, classes=9, class_length=8, targets=8, read={"max_classes": 8}),
        "referring": task(
            "referring",
            4,
            prompts=6,
            phrases=6,
            length=16,
            read={"sentences": "raw", "group_by_image": True, "prompts_per_example": 6},
        ),
        # In training, only the masks of the objects are read, and the marks are drawn on them. Validation has no masks as
        # prompts, as these are nearly the answer.
        "region": task(
            "region",
            3,
            regions=3,
            points=128,
            read={"max_regions": 3, "kinds": ("mask",)},
            val={"kinds": ("point", "scribble", "box")},
        ),
    }
    c.optimizer.learning_rate = 1e-3
    c.optimizer.param_groups = (
        {"pattern": r"text_encoder/tokens/embedding", "rate": 10.0, "decay": 0.0},
        {
            "pattern": r".*/(bias|scale|positions|level_embed|embedding)|.*(query|memory)_\w+|log_scale",
            "rate": 1.0,
            "decay": 0.0,
        },
        {"pattern": r".*", "rate": 1.0, "decay": 0.02},
    )
    c.train.update({"steps": 6000, "batch_size": 8})
    return c
