"""A small but complete IFSeg for the toy world, trained from scratch on labelled images. Published training starts from OFA and
sees no images: configs/ifseg_base.py."""

import pathlib
import runpy

import ml_collections

TINY = runpy.run_path(str(pathlib.Path(__file__).with_name("tiny.py")))


def get_config() -> ml_collections.ConfigDict:
    c = TINY["get_config"]()
    c.system = "ifseg"
    layers = {"hidden_size": 64, "mlp_size": 192, "num_layers": 2, "num_heads": 4, "dropout": 0.0, "drop_path": 0.0}
    c.model = {
        "precision": {"params": "float32", "compute": "float32", "output": "float32", "matmul": "highest"},
        "vocab_size": 640,
        "num_classes": 8,
        "decoder_input": "encoder_output",
        "scores": "decoder",
        "image_encoder": {"blocks": (1, 1, 1), "width": 16, "remat": "none"},
        "encoder": {**layers, "text_buckets": 16, "side": 16, "base": (12, 12), "num_positions": 128, "remat": "none"},
        "decoder": {**layers, "side": 12, "causal": True, "remat": "none"},
        "smoothing": {"neighbours": 3, "rounds": 0},  # features of a small image encoder are no measure of similarity
    }
    c.loss = {}
    del c.data.template, c.data.buckets
    c.data.image_size = 192  # 12 x 12 cells
    c.data.resize = {"short_side": 192, "long_side": 192, "multiple": 16}
    c.data.curriculum = {"task": "", "share": 0.0}
    task = TINY["task"]
    c.data.tasks = {"panoptic": task("panoptic", 1, classes=8, class_length=8, length=64, words=0, read={"max_classes": 8})}
    c.optimizer.learning_rate = 1e-3
    c.optimizer.param_groups = (
        {"pattern": r"unused/.*|classifier|.*/(mean|variance)", "rate": 0.0, "decay": 0.0},
        {"pattern": r".*(bias|scale|positions|embedding|_offsets|offsets|kinds)", "rate": 1.0, "decay": 0.0},
        {"pattern": r".*", "rate": 1.0, "decay": 0.02},
    )
    c.train.update({"steps": 1500, "batch_size": 8})
    return c
