"""IFSeg on OFA-Base at its published size (arXiv 2304.14369): image-free training on the 150 classes of ADE20K, or after a
colon `coco_stuff` (171 classes) or `coco_unseen` (the 15 held-out ones), as in `ifseg_base:coco_unseen`.

183 million parameters, of which 109 million are trained: the image encoder, its projection and the word table are those of OFA
and stay as they are. The recipe is the authors' (their commit 77c075c); "ours" marks where it departs from theirs, and why.
"""

import ml_collections

from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import limits

SIZES = {
    "ade20k": {"classes": 150, "class_length": 8, "length": 216},
    "coco_stuff": {"classes": 171, "class_length": 8, "length": 240},
    "coco_unseen": {"classes": 15, "class_length": 8, "length": 40},
}
"""Sizes of each class list in GPT-2's tokens."""
COCO = {"name": "coco_stuff", "root": "{root}", "split": "val2017", "names": "words"}
IMAGES = {
    "ade20k": {"name": "ade20k", "root": "{root}", "split": "validation"},
    "coco_stuff": COCO,
    "coco_unseen": {**COCO, "subset": "unseen"},
}
"""Images of the validation."""


def get_config(setting: str = "ade20k") -> ml_collections.ConfigDict:
    if setting not in SIZES:
        raise UserError(f"--config ifseg_base:{setting}: no such class list; use one of {', '.join(SIZES)}")
    sizes = SIZES[setting]
    c = ml_collections.ConfigDict()
    c.system = "ifseg"
    c.seed = 1
    c.init_from = ""  # initial weights: a workdir, or the model folder of an imported OFA checkpoint
    # The rows of the published classifier are computed from the class names, so init_from may have those of other classes.
    c.init_optional = ("classifier",)
    c.init_ignored = ("classifier",)

    c.model = {
        # ours: bfloat16 compute; theirs: float16 with a dynamic loss scale
        "precision": {"params": "float32", "compute": "bfloat16", "output": "float32", "matmul": "default"},
        "vocab_size": 59458,  # the 59457 tokens of OFA, and a row that is never used
        "num_classes": sizes["classes"],  # rows of the published classifier, which are computed from the class names
        "decoder_input": "encoder_output",
        "scores": "decoder",
        "image_encoder": {"blocks": (3, 4, 23), "remat": "none"},  # the encoder is frozen
        "encoder": {
            "hidden_size": 768,
            "mlp_size": 3072,
            "num_layers": 6,
            "num_heads": 12,
            "text_buckets": 256,
            "side": 42,
            "base": (32, 32),
            "num_positions": 1026,
            "dropout": 0.1,
            "drop_path": 0.1,
            "remat": "full",
        },
        "decoder": {
            "hidden_size": 768,
            "mlp_size": 3072,
            "num_layers": 6,
            "num_heads": 12,
            "side": 32,
            "causal": True,
            "dropout": 0.1,
            "drop_path": 0.1,
            "remat": "full",
        },
        # In prediction, probabilities are averaged over the most similar cells; 0 rounds: no smoothing.
        "smoothing": {"neighbours": 3, "rounds": 25},
    }
    c.loss = {}

    c.data = {
        "root": "datasets",
        "tokenizer": "{root}/ofa",  # a folder with OFA's dict.txt, encoder.json and vocab.bpe
        "image_size": 512,
        "resize": {"short_side": 512, "long_side": 2048, "multiple": 32},  # of images in prediction
        "workers": 8,
        "augment": {},
        "length_buckets": (),
        "batches": "task",
        "max_unreadable_share": 0.01,
        "curriculum": {"task": "", "share": 0.0},
        "tasks": {
            # words: 1 for images of words, which are drawn for each element; their reader reads no file
            "words": {"reader": "class_words", "ratio": 1, "words": 1, **sizes, "train": {"benchmark": setting}},
            "panoptic": {"reader": "benchmark", "ratio": 0, "words": 0, **sizes, "val": IMAGES[setting]},  # only validation
        },
    }
    c.optimizer = {
        "learning_rate": 5e-5,
        "warmup_steps": 0,
        "final_rate": 0.0,
        "betas": (0.9, 0.999),
        "clip_norm": 1.0,
        "accumulate": 1,
        "param_groups": (
            # no gradient reaches `unused`, the parts of OFA's decoder of texts
            {"pattern": r"(image_encoder|image_projection|tokens|unused)/.*|classifier", "rate": 0.0, "decay": 0.0},
            {"pattern": r".*", "rate": 1.0, "decay": 0.1},
        ),
    }
    c.train = {
        "steps": 2000,
        "batch_size": 16,
        "preset": "auto",
        "mesh": {"data": 0, "fsdp": 0, "tensor": 0, "space": 0},
        "frozen_type": "",
        "average": 0.0,
        "fail_on_recompilation": False,
        "profile": (0, 0),
        "log_every": 20,
        "save_every": 500,
        "eval_every": 500,
        "eval_examples": 200,
        "keep": 2,
        "best": "",
    }
    c.hosts = {"start": 300, "barrier": 600, "heartbeat": 100, "watchdog": 1800}
    c.limits = limits.default_block()
    return c
