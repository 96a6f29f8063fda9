"""SEEM with Focal-T at its published size (arXiv 2304.06718): 165 million parameters, of which the decoder's 40 million train.

The recipe is the authors' (configs/seem/focalt_unicl_lang_v1.yaml of their code, commit 7b2e76d, and the command of their
README); "ours" marks where it departs from theirs, and why. model.mask_decoder.variant is "v1", "v0" or "demo". All have the
same tensors, so choose the one that the checkpoint was trained with ("demo" runs those of "v0").
"""

import ml_collections

from hyperseg_jax.untrusted import limits

EXAMPLES = 50 * (118_287 - 1_300)
"""50 epochs of COCO's train2017 without the images of RefCOCOg's val."""


def get_config() -> ml_collections.ConfigDict:
    c = ml_collections.ConfigDict()
    c.system = "seem"
    c.seed = 0
    c.init_from = ""  # initial weights: a workdir or a model folder
    c.init_optional = ()
    c.init_ignored = ()

    c.model = {
        # ours: bfloat16 compute; theirs: float16 with automatic mixed precision
        "precision": {"params": "float32", "compute": "bfloat16", "output": "float32", "matmul": "default"},
        "num_classes": 133,
        "mask_encoder": {
            "kind": "focal_dw",
            "hidden_size": 96,
            "depths": (2, 2, 6, 2),
            "levels": (3, 3, 3, 3),
            "windows": (3, 3, 3, 3),
            "remat": "marked",
        },
        "pixel_decoder": {
            "kind": "fpn",
            "conv_dim": 512,
            "mask_dim": 512,
            "num_heads": 8,
            "feedforward_dim": 2048,
            "num_layers": 6,
            "group_norm_groups": 32,
            "remat": "marked",
        },
        "text_encoder": {
            "vocab_size": 49408,
            "end_id": 49407,
            "context": 77,
            "hidden_size": 512,
            "num_layers": 12,
            "num_heads": 8,
            "epsilon": 1e-12,
        },
        "mask_decoder": {
            "hidden_size": 512,
            "mask_dim": 512,
            "class_dim": 512,
            "num_heads": 8,
            "feedforward_dim": 2048,
            "num_layers": 9,
            "num_queries": 101,
            "num_memories": 32,
            "variant": "v1",
        },
    }

    c.loss = {
        "points": "shared",  # ours: among the masks of a row, several times faster; theirs: "per_mask"
        "num_points": 12544,
        "oversample": 3.0,
        "importance": 0.75,
        "background": 0.1,
        "rounds": 5,
        "objects": {"mask": 5.0, "dice": 5.0, "class": 2.0},
        "phrases": {"mask": 1.0, "dice": 1.0, "sentence": 0.8, "name": 0.2},
        "marks": {"mask": 1.0, "dice": 1.0, "mark": 0.4},
    }

    coco, notes = "{root}/coco", "{root}/coco/annotations"
    refer, refcocog = "{root}/refer", "{root}/refer/refcocog/refs(umd).p"
    evaluated = {"short_side": 800, "long_side": 1333, "bicubic": 0}  # sides of images in evaluation, as published
    c.data = {
        "root": "datasets",
        "tokenizer": "{root}/clip",  # a folder with the tokenizer.json of CLIP
        "class_templates": "all",  # the sentences of class names: "all" 81 of CLIP, or "name"
        "image_size": 1024,  # of the square that training crops
        "padding": "grey",  # of squares in training; "zero": after normalization, as in prediction
        "resize": {"short_side": 512, "long_side": 2048, "multiple": 32, "bicubic": 1},  # in prediction: as in their demo
        "horizontal_flip": 0.5,
        "workers": 8,
        "augment": {"panoptic": {"scale": (0.1, 2.0)}},
        "length_buckets": (),
        "batches": "task",
        "max_unreadable_share": 0.01,
        "curriculum": {"task": "", "share": 0.0},
        "tasks": {
            # One record is all that is published about an image: its segments with the class list, sentences or class names,
            # and visual prompts. ours: sentences that a crop makes wrong are left out, and LVIS masks replace those of the
            # whole image; theirs keep all sentences, and compare boxes after the crop.
            "panoptic": {
                "reader": "coco_panoptic",
                "ratio": 1,
                "prompts": 128,  # the class list and all sentences, of which a few are drawn
                "classes": 134,
                "class_length": 32,
                "targets": 100,
                "planes": 8,  # LVIS masks overlap
                "phrases": 16,
                "length": 77,
                "regions": 10,
                "points": 512,
                **evaluated,
                "train": {
                    "json_path": f"{notes}/panoptic_train2017.json",
                    "image_root": f"{coco}/train2017",
                    "png_root": f"{notes}/panoptic_train2017",
                    "lvis_paths": ("{root}/lvis/lvis_v1_train.json", "{root}/lvis/lvis_v1_val.json"),
                    "refs_paths": (f"{refer}/refcoco/refs(unc).p", f"{refer}/refcoco+/refs(unc).p", refcocog),
                    "excluded_refs": refcocog,
                },
                "val": {
                    "json_path": f"{notes}/panoptic_val2017.json",
                    "image_root": f"{coco}/val2017",
                    "png_root": f"{notes}/panoptic_val2017",
                },
            },
            "referring": {
                "reader": "benchmark",
                "ratio": 0,  # for validation; sentences are trained with the class lists
                "prompts": 16,
                "phrases": 16,
                "length": 77,
                "short_side": 512,
                "long_side": 1024,
                "bicubic": 0,
                "val": {
                    "name": "refcocog",
                    "split": "val",
                    "root": "{root}",
                    "sentences": "first",
                    "prompts_per_example": 16,
                },
            },
            "region": {
                "reader": "coco_visual_prompts",
                "ratio": 0,  # for validation, without masks as prompts, as these are nearly the answer
                "regions": 32,
                **evaluated | {"bicubic": 1},
                "val": {
                    "json_path": f"{notes}/instances_val2017.json",
                    "image_root": f"{coco}/val2017",
                    "kinds": ("point", "scribble", "box"),
                    "max_regions": 5,
                },
            },
        },
    }

    batch = 16
    c.optimizer = {
        "learning_rate": 1e-4,
        "warmup_steps": 0,
        "final_rate": 0.0,
        "drops": (0.88889, 0.96296),  # a tenth of the rate from these shares of the steps
        "betas": (0.9, 0.999),
        "clip_norm": 5.0,
        "accumulate": 1,
        "param_groups": (
            {"pattern": r"(backbone|pixel_decoder|text_encoder)/.*|text_projection|log_scale", "rate": 0.0, "decay": 0.0},
            {
                "pattern": r".*(norm\d?/scale|norm\d?/bias|_features|_positions|level_embed|mark_signs)",
                "rate": 1.0,
                "decay": 0.0,
            },
            {"pattern": r".*", "rate": 1.0, "decay": 0.05},
        ),
    }
    c.train = {
        "steps": EXAMPLES // batch,
        "batch_size": batch,
        "preset": "auto",
        "mesh": {"data": 0, "fsdp": 0, "tensor": 0, "space": 0},
        "frozen_type": "",  # the released weights are float32, and the scale of the scores is one of them
        "average": 0.0,
        "fail_on_recompilation": False,
        "profile": (0, 0),
        "log_every": 20,
        "save_every": 5000,
        "eval_every": 20000,
        "eval_examples": 500,
        "keep": 2,
        "best": "",
    }
    c.hosts = {"start": 300, "barrier": 600, "heartbeat": 100, "watchdog": 1800}
    c.limits = limits.default_block()
    return c
