"""SCA with SAM's ViT-H and GPT-2 large at its published size (arXiv 2312.00869): 1.43 billion parameters, of which the caption
mixer, its queries, the task tokens and the projection train (19.4 million).

The recipe is the authors' fine-tuning on Visual Genome (their commit 0d3f0b4); "ours" marks where it departs from theirs, and
why. Their first stage has category names of detection data sets as captions: configs/sca_gpt2_large_weak.py.
"""

import ml_collections

from hyperseg_jax.untrusted import limits


def get_config() -> ml_collections.ConfigDict:
    c = ml_collections.ConfigDict()
    c.system = "sca"
    c.seed = 42
    c.init_from = ""  # initial weights: a workdir or a model folder
    c.init_optional = ()
    c.init_ignored = ()

    c.model = {
        # ours: bfloat16 compute; theirs: float16 with automatic mixed precision
        "precision": {"params": "float32", "compute": "bfloat16", "output": "float32", "matmul": "default"},
        "image_encoder": {
            "patch_size": 16,
            "hidden_size": 1280,
            "num_layers": 32,
            "heads": 16,
            "window": 14,
            "global_layers": (7, 15, 23, 31),
            "mlp_ratio": 4.0,
            "channels": 256,
            "remat": "none",  # the encoder is frozen
        },
        "prompt_encoder": {"mask_channels": 16},
        "mask_decoder": {
            "transformer": {"num_layers": 2, "num_heads": 8, "mlp_dim": 2048, "downsample": 2},
            "num_candidates": 3,
            "iou_hidden": 256,
            "iou_depth": 3,
        },
        "caption_mixer": {
            "transformer": {"num_layers": 12, "num_heads": 8, "mlp_dim": 2048, "downsample": 2, "remat": "full"},
            "num_queries": 8,
            "reads": "decoded",
        },
        "num_task_tokens": 6,
        "llm": {
            "kind": "gpt2",
            "vocab_size": 50257,
            "hidden_size": 1280,
            "mlp_size": 5120,
            "num_layers": 36,
            "num_heads": 20,
            "num_positions": 1024,
            "dropout": 0.1,  # active in training, as published, although the language model is frozen
            "remat": "full",
        },
    }
    c.loss = {"label_smoothing": 0.1}

    genome = {"folder": "{root}/visual_genome"}
    c.data = {
        "root": "datasets",
        "tokenizer": "{root}/gpt2",  # a folder with the tokenizer of GPT-2
        "image_size": 1024,
        "jitter": (0.1, 2.0),  # scale of the large-scale jitter of training; () without
        "horizontal_flip": 0.5,
        "workers": 8,
        "augment": {"caption": {"flipped_texts": "skip"}},  # ours: no flip if a caption names a side or writing
        "length_buckets": (),
        "batches": "task",
        "max_unreadable_share": 0.01,
        "curriculum": {"task": "", "share": 0.0},
        "tasks": {
            "caption": {
                "reader": "visual_genome",
                "ratio": 1,
                "regions": 16,
                "marks": 2,
                "length": 19,
                "train": {**genome, "split": "train"},
                "val": {**genome, "split": "test"},
            },
        },
    }

    c.optimizer = {
        "learning_rate": 4e-4,
        "warmup_steps": 200,
        "final_rate": 0.0,
        "betas": (0.9, 0.999),
        "clip_norm": 1.0,
        "accumulate": 1,
        "param_groups": (
            {"pattern": r"(sam|llm)/.*", "rate": 0.0, "decay": 0.0},
            {"pattern": r".*(bias|norm\d?/scale)", "rate": 1.0, "decay": 0.0},
            {"pattern": r".*", "rate": 1.0, "decay": 1e-4},
        ),
    }
    c.train = {
        "steps": 100_000,
        "batch_size": 32,
        "preset": "auto",
        "mesh": {"data": 0, "fsdp": 0, "tensor": 0, "space": 0},
        "frozen_type": "bfloat16",
        "average": 0.0,
        "fail_on_recompilation": False,
        "profile": (0, 0),
        "log_every": 20,
        "save_every": 5000,
        "eval_every": 5000,
        "eval_examples": 800,
        "keep": 2,
        "best": "",
    }
    c.hosts = {"start": 300, "barrier": 600, "heartbeat": 100, "watchdog": 1800}
    c.limits = limits.default_block()
    return c
