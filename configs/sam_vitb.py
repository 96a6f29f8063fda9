"""SAM with ViT-B at its published size (arXiv 2304.02643): 94 million parameters. It answers points, boxes and masks; it is not
trained here. SCA adds captions to it (configs/sca_gpt2_large.py)."""

import ml_collections

from hyperseg_jax.untrusted import limits


def get_config() -> ml_collections.ConfigDict:
    c = ml_collections.ConfigDict()
    c.system = "sam"
    c.seed = 0

    c.model = {
        "precision": {"params": "float32", "compute": "float32", "output": "float32", "matmul": "highest"},
        "image_encoder": {
            "patch_size": 16,
            "hidden_size": 768,
            "num_layers": 12,
            "heads": 12,
            "window": 14,
            "global_layers": (2, 5, 8, 11),
            "mlp_ratio": 4.0,
            "channels": 256,
            "remat": "none",
        },
        "prompt_encoder": {"mask_channels": 16},
        "mask_decoder": {
            "transformer": {"num_layers": 2, "num_heads": 8, "mlp_dim": 2048, "downsample": 2},
            "num_candidates": 3,
            "iou_hidden": 256,
            "iou_depth": 3,
        },
    }
    coco, notes = "{root}/coco", "{root}/interactive"
    c.data = {
        "root": "datasets",
        "image_size": 1024,
        "workers": 8,
        "tasks": {
            "region": {
                "reader": "interactive",
                "ratio": 1,
                "regions": 5,
                "marks": 64,
                "train": {
                    "json_path": f"{notes}/coco_interactive_train.json",
                    "image_root": f"{coco}/train2017",
                    "max_regions": 5,
                },
                "val": {
                    "json_path": f"{notes}/coco_interactive_val.json",
                    "image_root": f"{coco}/val2017",
                    "max_regions": 5,
                },
            },
        },
    }
    # sharding in evaluation; the model has no training
    c.train = {"preset": "auto", "mesh": {"data": 0, "fsdp": 0, "tensor": 0, "space": 0}}
    c.hosts = {"start": 300, "barrier": 600, "heartbeat": 100, "watchdog": 1800}
    c.limits = limits.default_block()
    return c
