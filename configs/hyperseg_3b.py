"""HyperSeg at its published size (arXiv 2411.17606): SigLIP-SO400M, Swin-B and Phi-2, 3.3 billion parameters.

Sizes, adapters, what is trained and the weights of the objective are the authors'. How HyperSeg was trained is not published:
"InstructSeg" marks what their next system uses, "ours" what we chose. Data is expected below data.root (see datasets).

hyperseg_3b:v5e-64 sizes the run for a slice (SLICES); the number of examples that are seen stays InstructSeg's.
"""

import ml_collections

from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import limits

EXAMPLES = 3_200_000  # InstructSeg: 100 000 steps of 32
# slice -> examples a step. Ours: what its chips hold, one to four each. Cloud names v5p by cores: v5p-128 has 64 chips; 128
# chips (4x4x8) take this batch as well.
SLICES = {"v5e-16": 32, "v5e-64": 128, "v5e-256": 256, "v5p-128": 256}


def get_config(slice_name: str = "") -> ml_collections.ConfigDict:
    c = recipe()
    if slice_name:
        if slice_name not in SLICES:
            raise UserError(f"--config hyperseg_3b:{slice_name}: no sizes for this slice; use one of {', '.join(SLICES)}")
        batch = SLICES[slice_name]
        steps = EXAMPLES // batch
        c.train.update({"batch_size": batch, "steps": steps, "save_every": steps // 50, "eval_every": steps // 20})
        # ours: the rate grows with the square root of the batch, as the noise of Adam's direction shrinks
        c.optimizer.update({"learning_rate": 4e-5 * (batch / 32) ** 0.5, "warmup_steps": int(0.03 * steps)})
    return c


def recipe() -> ml_collections.ConfigDict:
    c = ml_collections.ConfigDict()
    c.system = "hyperseg"
    c.seed = 0
    c.init_from = ""  # initial weights: a workdir or a model folder
    c.init_optional = (r".*/lora_[ab]", r"perceiver/.*/gate/.*", r"prompt_aggregation/.*")  # not in the published weights

    c.model = {
        # ours: float32 parameters, since small updates would be lost in bfloat16; bfloat16 compute
        "precision": {"params": "float32", "compute": "bfloat16", "output": "float32", "matmul": "default"},
        "num_queries": 100,
        "query_std": 0.0,
        "head_vocab_size": 51200,
        # the paper names what is in the image before the mask tokens; order, separator and limits are ours
        "entities": {
            "recognition": "hybrid",  # "decoding": no names, as in the released weights; "generation": an ablation
            "order": "size",  # of the names: the largest area first; "list": as in the class list
            "separator": ", ",
            "repeats": False,  # whether each object is named, instead of each class once
            "none": "none",  # the answer if nothing of the list is in the image
            "limit": 32,  # names
            "tokens": 128,  # of the names with [SEG]
            "restricted": True,  # whether only names of the class list are written
            "beams": 1,  # 1: greedy
            "given": False,  # True: evaluation gives the true names, an upper bound
        },
        "lora": {"rank": 8, "alpha": 16.0, "dropout": 0.05, "targets": ("query", "value")},
        "clip_encoder": {
            "image_size": 384,
            "patch_size": 14,
            "hidden_size": 1152,
            "mlp_size": 4304,
            "num_layers": 27,
            "num_heads": 16,
            "feature_layer": -2,
            "epsilon": 1e-6,
            "keep_unused": True,
            "remat": "none",
        },
        "mask_encoder": {
            "patch_size": 4,
            "hidden_size": 128,
            "depths": (2, 2, 18, 2),
            "num_heads": (4, 8, 16, 32),
            "window": 12,
            "mlp_ratio": 4.0,
            "drop_path": 0.0,
            "remat": "none",
        },
        "perceiver": {
            "hidden_size": 512,
            "num_queries": 128,
            "num_levels": 3,
            "num_heads": 8,
            "head_dim": 64,
            "mlp_ratio": 4,
            "gate": "tanh",
            "gate_feed_forward": False,
        },
        # between frames: the paper's temporal adapter; the number of frames is ours
        "temporal": {
            "injection": True,  # of the previous frame's fine-grained tokens, as in the released weights
            "aggregation": True,  # of the prompts over the last frames; not in the released weights
            "frames": 5,
        },
        "llm": {
            "vocab_size": 51200,
            "hidden_size": 2560,
            "mlp_size": 10240,
            "num_layers": 32,
            "num_heads": 32,
            "rotary_fraction": 0.4,
            "rotary_theta": 10000.0,
            "epsilon": 1e-5,
            "remat": "marked",  # keeps the output of attention, where a kernel computes it
        },
        "pixel_decoder": {
            "conv_dim": 256,
            "mask_dim": 256,
            "num_heads": 8,
            "feedforward_dim": 1024,
            "num_layers": 6,
            "num_points": 4,
            "group_norm_groups": 32,
            "remat": "marked",
        },
        "mask_decoder": {
            "hidden_size": 256,
            "mask_dim": 256,
            "num_heads": 8,
            "feedforward_dim": 2048,
            "num_layers": 9,
            "num_levels": 3,
            "num_queries": 100,
            "score_kinds": ("expression", "class", "region"),
            "heads": ("box", "box_iou", "reid"),
            "keep_unused": True,
            "remat": "full",
        },
    }

    c.loss = {
        "points": "shared",  # ours: among the masks of a prompt, several times faster; "per_mask": as Mask2Former and PSALM
        "num_points": 12544,
        "oversample": 3.0,
        "importance": 0.75,
        "mask_weight": 5.0,
        "dice_weight": 5.0,
        "expression_weight": 2.0,
        "class_weight": 2.0,
        "region_weight": 2.0,
        "background_weight": 0.1,
        "match_mask_weight": 5.0,
        "match_dice_weight": 5.0,
        "match_class_weight": 2.0,
        "text_weight": 1.0,  # InstructSeg
    }

    coco, notes = "{root}/coco", "{root}/coco/annotations"
    refcoco = {"image_root": f"{coco}/train2014", "group_by_image": True, "prompts_per_example": 4}
    revos = "{root}/revos"
    marks = {"max_regions": 32, "point_radius": 10, "scribble_radius": 5}  # pixels of any image, as in HyperSeg's data code
    revos_files = {"mask_path": f"{revos}/mask_dict.json", "frame_root": f"{revos}/JPEGImages"}
    c.data = {
        "root": "datasets",
        "tokenizer": "{root}/phi-2",  # a folder with Phi-2's tokenizer.json
        "template": "v0",
        "image_size": 1024,
        "buckets": (1152, 1280, 1664, 1792, 2048),
        "horizontal_flip": 0.0,
        "workers": 8,
        "augment": {},  # by task, fields of data.augment.Augment, as in {"panoptic": {"scale": (0.1, 2.0)}}
        "length_buckets": (),  # shorter sequence lengths, such as (1152, 1408); each compiles one more branch
        "batches": "task",  # batches contain one task, or "mixed": all tasks, padded to common shapes
        "max_unreadable_share": 0.01,  # maximum share of unreadable training records; 0: abort at the first
        "curriculum": {"task": "", "share": 0.0},
        # ratios of the shared tasks: InstructSeg's 4 : 2 : 1 : 3 for referring, chat, reasoning, video; the others are ours
        "tasks": {
            "referring": {
                "reader": "refcoco",
                "ratio": 4,
                "length": 1664,
                "prompts": 4,  # ours: an image is encoded once for up to four sentences
                "train": {"json_path": "{root}/refcoco/refcoco_train.json", "sentences": "each", **refcoco},
                "val": {"json_path": "{root}/refcoco/refcoco_val.json", **refcoco},
            },
            "panoptic": {
                "reader": "coco_panoptic",
                "ratio": 4,
                "length": 1920,  # the 133 names of COCO need 1740 positions, the names of the answer up to 128
                "targets": 100,
                "planes": 1,  # its segments do not overlap
                "classes": 134,
                "train": {
                    "json_path": f"{notes}/panoptic_train2017.json",
                    "image_root": f"{coco}/train2017",
                    "png_root": f"{notes}/panoptic_train2017",
                },
                "val": {
                    "json_path": f"{notes}/panoptic_val2017.json",
                    "image_root": f"{coco}/val2017",
                    "png_root": f"{notes}/panoptic_val2017",
                },
            },
            "region": {
                "reader": "interactive",
                "ratio": 2,
                "length": 1152,
                "targets": 32,
                "regions": 32,
                "train": {
                    "json_path": "{root}/interactive/coco_interactive_train.json",
                    "image_root": f"{coco}/train2017",
                    **marks,
                },
                "val": {
                    "json_path": "{root}/interactive/coco_interactive_val.json",
                    "image_root": f"{coco}/val2017",
                    **marks,
                },
            },
            "reasoning": {
                "reader": "reasonseg",
                "ratio": 1,
                "length": 1280,
                "train": {"folder": "{root}/reasonseg/train", "explanations": "{root}/reasonseg/explanatory/train.json"},
                "val": {"folder": "{root}/reasonseg/val"},
            },
            "video": {
                "reader": "revos",
                "ratio": 3,
                "length": 1152,
                "frames": 2,
                "train": {"meta_path": f"{revos}/meta_expressions_train_.json", "frames": 2, **revos_files},
                "val": {"meta_path": f"{revos}/meta_expressions_valid_.json", "frames": 2, **revos_files},
            },
            "chat": {
                "reader": "llava",
                "ratio": 2,
                "length": 2048,
                "masks": 0,  # text only: the mask branch is neither compiled nor run
                "train": {
                    "json_path": "{root}/llava/llava_v1_5_mix665k.json",
                    "image_root": "{root}/llava/images",
                    "prompts_per_example": 1,
                },
            },
        },
    }

    c.optimizer = {
        "learning_rate": 4e-5,  # InstructSeg, with batches of 32 and this many steps
        "warmup_steps": 3000,  # InstructSeg: 3 % of the steps
        "final_rate": 0.0,
        "betas": (0.9, 0.999),
        "clip_norm": 1.0,  # ours: a rare large gradient does not ruin the moments of Adam; InstructSeg does not clip
        "accumulate": 1,  # number of micro-batches per step; more use less memory
        "param_groups": (
            {"pattern": r".*/lora_[ab]", "rate": 1.0, "decay": 0.0},
            {"pattern": r"(clip_encoder|mask_encoder|projector)/.*", "rate": 0.0, "decay": 0.0},
            {"pattern": r"llm/tokens/embedding|language_head/kernel", "rate": 1.0, "decay": 0.0},
            {"pattern": r"llm/.*", "rate": 0.0, "decay": 0.0},
            {"pattern": r".*", "rate": 1.0, "decay": 0.0},
        ),
    }
    c.train = {
        "steps": 100000,
        "batch_size": 32,
        "preset": "auto",  # sharding over devices (parallel/presets.py); auto: by the kind of device
        "mesh": {"data": 0, "fsdp": 0, "tensor": 0, "space": 0},  # sizes of the mesh axes; 0: set by the preset
        "frozen_type": "bfloat16",  # ours: frozen parameters keep their published dtype
        "average": 0.0,  # decay of the moving average of the weights, such as 0.999; 0: no average
        "fail_on_recompilation": False,  # end the run if a train step is compiled again; otherwise it is logged and counted
        "profile": (0, 0),  # first and last step to profile for TensorBoard
        "log_every": 20,
        "save_every": 2000,
        "eval_every": 5000,
        "eval_examples": 500,
        "keep": 2,
        "best": "",  # also keep the checkpoint with the best value of this score, such as "referring/ciou"
    }
    # Limits in seconds (parallel/hosts.py).
    c.hosts = {"start": 300, "barrier": 600, "heartbeat": 100, "watchdog": 1800}
    c.limits = limits.default_block()  # limits for untrusted files (untrusted/limits.py)
    return c
