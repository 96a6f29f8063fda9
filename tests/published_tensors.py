"""Tensors of published checkpoints in tests: those of the parents, and comparisons."""

import numpy as np
from safetensors.numpy import load_file


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert tensor.tobytes() == other[name].tobytes() and tensor.shape == other[name].shape, name


def read_all(folder):
    """Reads every tensor of an exported folder."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def split_parents(tensors):
    """Splits the tensors of a model into those of Mipha-3B and of Mask2Former's pickle."""
    mipha = {
        name: tensor
        for name, tensor in tensors.items()
        if name.startswith(
            (
                "model.layers.",
                "model.embed_tokens",
                "model.final_layernorm",
                "model.mm_projector",
                "model.vision_tower.",
                "lm_head",
            )
        )
    }
    mipha["lm_head.bias"] = np.zeros(tensors["lm_head.weight"].shape[0], np.float32)
    pickled = {"sem_seg_head.predictor.class_embed.weight": np.ones((3, 3), np.float32), "criterion.empty_weight": np.ones(3)}
    for name, tensor in tensors.items():
        if name.startswith("model.vision_tower_mask."):
            pickled[name.replace("model.vision_tower_mask", "backbone")] = tensor
        for conv in ("adapter_1", "layer_1"):
            for ours, theirs in (("0.weight", "weight"), ("1.weight", "norm.weight"), ("1.bias", "norm.bias")):
                if name == f"pixel_decoder.{conv}.{ours}":
                    pickled[f"sem_seg_head.pixel_decoder.{conv}.{theirs}"] = tensor
        if name.startswith("pixel_decoder.") and "adapter_1" not in name and "layer_1." not in name:
            pickled[f"sem_seg_head.{name}"] = tensor
        unparented = ("SEG", "CLASS", "REGION", "box_embed", "iou_head", "reid")
        if name.startswith("predictor.") and not name.removeprefix("predictor.").startswith(unparented):
            pickled[f"sem_seg_head.{name}".replace("query_feat", "static_query")] = tensor
    rows = pickled["sem_seg_head.predictor.query_embed.weight"]
    pickled["sem_seg_head.predictor.query_embed.weight"] = np.concatenate([rows, rows])
    return mipha, pickled
