"""A small but complete InstructSeg for the toy world. Like the authors, it starts from trained parents: the encoders, language
model and decoders of the shipped `tiny`; the object perceiver and the text fusion are new."""

import pathlib
import runpy

import ml_collections

TINY = runpy.run_path(str(pathlib.Path(__file__).with_name("tiny.py")))


def get_config() -> ml_collections.ConfigDict:
    c = TINY["get_config"]()
    c.system = "instructseg"
    c.init_from = "tiny"
    c.init_optional = (r"(object_perceiver|text_fusion|local_project|(detail|global|fused)_projector)/.*",)
    c.init_ignored = (r"(perceiver|(expression|class|region)_projector|mask_decoder/(class|region))/.*",)  # HyperSeg's

    del c.model.perceiver, c.model.temporal
    c.model.object_perceiver = {"num_queries": 8, "num_layers": 2, "num_heads": 4, "head_dim": 24, "mlp_ratio": 2}
    c.model.text_fusion = {"num_layers": 2, "num_heads": 4, "head_dim": 24, "mlp_ratio": 2, "form": "published"}
    c.model.fusion_size = 96
    c.model.mask_decoder.score_kinds = ("expression",)

    for name in ("class_weight", "region_weight"):
        del c.loss[name]

    c.data.template = "short"
    c.data.reference_frames = 4
    c.data.buckets = (192, 256, 384)
    c.data.curriculum = {"task": "", "share": 0.0}
    task = TINY["task"]
    c.data.tasks = {
        "referring": task(
            "referring",
            4,
            length=456,
            prompts=4,
            expression=16,
            answers=0,
            read={"group_by_image": True, "sentences": "each", "prompts_per_example": 4},
        ),
        "reasoning": task("reasoning", 1, length=184, expression=16),
        "video": task(
            "video",
            3,
            length=232,
            references=4,
            expression=16,
            answers=0,
            read={"frames": 5, "sampling": "references"},
            val={"frames": 6, "sampling": "stride"},
        ),
        "chat": task("chat", 1, length=104, masks=0, read={"prompts_per_example": 1}),
    }
    c.optimizer.learning_rate = 5e-4
    c.train.update({"steps": 3000, "batch_size": 8, "eval_every": 1000})
    return c
