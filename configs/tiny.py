"""A small but complete HyperSeg for the toy world; trains on two CPU cores."""

import ml_collections

from hyperseg_jax.untrusted import limits


def task(name: str, ratio: int, *, read: dict | None = None, val: dict | None = None, **sizes: int) -> dict:
    """A task on the toy world at data.root; read: options of its reader, val: those that differ in validation."""
    toy = {"folder": "{root}", "task": name, **(read or {})}
    splits = {"train": {**toy, "split": "train"}, "val": {**toy, "split": "val", **(val or {})}}
    return {"reader": "toy", "ratio": ratio, **splits, **sizes}


def get_config() -> ml_collections.ConfigDict:
    c = ml_collections.ConfigDict()
    c.system = "hyperseg"
    c.seed = 0
    c.init_from = ""  # initial weights: a workdir, a model folder, or a shipped model's name
    c.init_optional = ()  # regexes of parameters that may be missing in init_from
    c.init_ignored = ()  # regexes of parameters of init_from that the model does not have

    c.model = {
        "precision": {"params": "float32", "compute": "float32", "output": "float32", "matmul": "highest"},
        "num_queries": 8,
        "query_std": 0.5,  # the release initializes with zeros; from scratch, distinct queries learn faster
        "head_vocab_size": 576,
        # How the answer to a class list names what is in the image: systems/hyperseg/entities.py.
        "entities": {
            "recognition": "decoding",  # "hybrid": names, then masks; "generation": an ablation
            "order": "size",
            "separator": ", ",
            "repeats": False,
            "none": "none",
            "limit": 8,
            "tokens": 48,
            "restricted": True,
            "beams": 1,
            "given": False,
        },
        "lora": {"rank": 0, "alpha": 16.0, "dropout": 0.0, "targets": ("query", "value")},
        "clip_encoder": {
            "image_size": 96,
            "patch_size": 12,
            "hidden_size": 96,
            "mlp_size": 288,
            "num_layers": 3,
            "num_heads": 4,
            "feature_layer": -1,
        },
        "mask_encoder": {"hidden_size": 32, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 4), "window": 6, "mlp_ratio": 3.0},
        "perceiver": {"hidden_size": 96, "num_queries": 8, "num_heads": 4, "head_dim": 24, "mlp_ratio": 2, "gate": "tanh"},
        # What a frame of a video passes to the next ones: systems/hyperseg/temporal.py.
        "temporal": {"injection": True, "aggregation": False, "frames": 5},
        "llm": {"vocab_size": 576, "hidden_size": 128, "mlp_size": 384, "num_layers": 4, "num_heads": 4, "embedding_std": 1.0},
        "pixel_decoder": {
            "conv_dim": 64,
            "mask_dim": 64,
            "num_heads": 4,
            "feedforward_dim": 128,
            "num_layers": 2,
            "group_norm_groups": 8,
        },
        "mask_decoder": {
            "hidden_size": 64,
            "mask_dim": 64,
            "num_heads": 4,
            "feedforward_dim": 192,
            "num_layers": 3,
            "num_queries": 8,
            "heads": (),
        },
    }

    # Each part of the objective, as losses.criterion.MaskCriterion takes it; "grid" compares whole maps, cheap at this size.
    c.loss = {"points": "grid", "text_weight": 0.5, "expression_weight": 6.0, "class_weight": 6.0, "region_weight": 6.0}

    c.data = {
        "root": "",  # folder of the toy world; empty: rendered once into the user's cache folder
        "toy": {"seed": 0, "train": 16000, "val": 200, "clips": 400, "level": "default", "kinds": "known"},
        "tokenizer": "toy",
        "template": "v0",
        "image_size": 96,
        "buckets": (100, 128, 192, 320),
        "horizontal_flip": 0.5,  # probability; also swaps left and right in the texts
        "workers": 0,
        "augment": {},  # by task, fields of data.augment.Augment, as in {"panoptic": {"scale": (0.1, 2.0)}}
        "length_buckets": (),  # shorter sequence lengths, such as (1152, 1408); each compiles one more branch
        "batches": "task",  # batches contain one task, or "mixed": all tasks, padded to common shapes
        "max_unreadable_share": 0.01,  # maximum share of unreadable training records; 0: abort at the first
        # Training from scratch starts with this task: class lists teach class names several times faster.
        "curriculum": {"task": "panoptic", "share": 0.4},
        # ratio: relative number of batches of the task. The sizes are fields of the processor.
        "tasks": {
            "referring": task("referring", 8, length=208, prompts=6, read={"group_by_image": True, "prompts_per_example": 6}),
            "panoptic": task(
                "panoptic", 4, length=184, prompts=2, targets=8, classes=9, read={"max_classes": 8, "prompts_per_example": 2}
            ),
            "region": task("region", 1, length=100, targets=3, regions=3, read={"max_regions": 3}),
            "reasoning": task("reasoning", 1, length=112),
            "video": task(
                "video",
                1,
                length=128,
                prompts=2,
                frames=2,
                val={"frames": 6},
                read={"frames": 2, "group_by_video": True, "prompts_per_example": 2},
            ),
            "chat": task("chat", 1, length=124, prompts=3, masks=0, read={"prompts_per_example": 3}),
        },
    }
    c.optimizer = {
        "learning_rate": 1e-3,
        "warmup_steps": 50,
        "final_rate": 0.02,
        "betas": (0.9, 0.98),
        "clip_norm": 5.0,
        "accumulate": 1,  # number of micro-batches per step; more use less memory
        "param_groups": (
            # embeddings have unit scale: with the base learning rate, class names are learned half as fast
            {"pattern": r"llm/tokens/embedding", "rate": 10.0, "decay": 0.0},
            {"pattern": r".*/(bias|scale|positions|level_embed|query|queries|embedding)", "rate": 1.0, "decay": 0.0},
            {"pattern": r".*", "rate": 1.0, "decay": 0.02},
        ),
    }
    c.train = {
        "steps": 6500,
        "batch_size": 12,
        "preset": "single",  # sharding over devices (parallel/presets.py)
        "mesh": {"data": 0, "fsdp": 0, "tensor": 0, "space": 0},  # sizes of the mesh axes; 0: set by the preset
        "frozen_type": "",  # dtype of frozen parameters; "": unchanged
        "average": 0.0,  # decay of the moving average of the weights, such as 0.999; 0: no average
        "fail_on_recompilation": False,  # end the run if a train step is compiled again; otherwise it is logged and counted
        "profile": (0, 0),  # first and last step to profile for TensorBoard
        "log_every": 20,
        "save_every": 500,
        "eval_every": 2000,
        "eval_examples": 60,
        "keep": 2,
        "best": "",  # also keep the checkpoint with the best value of this score, such as "referring/ciou"
    }
    # Limits in seconds (parallel/hosts.py).
    c.hosts = {"start": 300, "barrier": 600, "heartbeat": 100, "watchdog": 1800}
    c.limits = limits.default_block()  # limits for untrusted files (untrusted/limits.py)
    return c
