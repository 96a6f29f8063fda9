"""Fine-tunes SEEM on images with your own classes, without prompts: only class lists (docs/finetune_seem.md).

data.root is a folder with train/ and val/, each with annotations.json in the format of COCO instances and images/. After a
colon, another size: "seem_own_classes:seem_focall". init_from is the imported checkpoint.
"""

import pathlib
import runpy

import ml_collections

FROZEN = r"(backbone|pixel_decoder|text_encoder)/.*|text_projection|log_scale"


def get_config(size: str = "seem_focalt") -> ml_collections.ConfigDict:
    c = runpy.run_path(str(pathlib.Path(__file__).with_name(f"{size}.py")))["get_config"]()
    split = lambda name: {"json_path": f"{{root}}/{name}/annotations.json", "image_root": f"{{root}}/{name}/images"}
    c.data.tasks = {
        "classes": {
            "reader": "coco_instances",
            "ratio": 1,
            "classes": 81,  # your classes and the background, or more
            "class_length": 32,
            "targets": 100,
            "planes": 8,  # 1 if your masks never overlap
            # Above 0, phrases (class names) and marks are trained on the same images, as SEEM's authors do.
            "phrases": 0,
            "length": 32,
            "regions": 0,
            "points": 512,
            "train": split("train"),
            "val": split("val"),
        },
    }
    c.data.augment = {"classes": {"scale": (0.5, 2.0)}}
    c.data.curriculum = {"task": "", "share": 0.0}
    norms = r".*(norm/scale|norm/bias|_features|_positions|level_embed|mark_signs)"
    c.optimizer.param_groups = (
        {"pattern": FROZEN, "rate": 0.0, "decay": 0.0},
        {"pattern": norms, "rate": 1.0, "decay": 0.0},
        {"pattern": r".*", "rate": 1.0, "decay": 0.05},
    )
    c.optimizer.warmup_steps = 50
    c.train.update({"steps": 2000, "batch_size": 8, "log_every": 20, "save_every": 500, "eval_every": 500})
    c.train.update({"eval_examples": 200, "best": "classes/pq"})
    return c
