"""InstructSeg at its published size (arXiv 2412.14006): SigLIP-SO400M, Swin-B and Phi-2, 3.5 billion parameters.

The recipe is the authors' (scripts/seg/train.sh of their code, commit 0134314); "ours" marks where it departs from theirs, and
why. What it shares with hyperseg_3b is in that file. instructseg_3b:v5e-64 sizes the run for a slice, see hyperseg_3b.
"""

import pathlib
import runpy

import ml_collections

BASE = runpy.run_path(str(pathlib.Path(__file__).with_name("hyperseg_3b.py")))


def get_config(slice_name: str = "") -> ml_collections.ConfigDict:
    c = BASE["get_config"](slice_name)
    c.system = "instructseg"
    c.init_optional = (r".*/lora_[ab]",)  # not in the published weights

    del c.model.perceiver, c.model.temporal
    c.model.object_perceiver = {"num_queries": 128, "num_layers": 3, "num_heads": 8, "head_dim": 128, "mlp_ratio": 2}
    c.model.text_fusion = {
        "num_layers": 3,
        "num_heads": 8,
        "head_dim": 128,
        "mlp_ratio": 2,
        "form": "published",  # "multi_granularity": details of the text reach the decoder, as the paper describes
    }
    c.model.fusion_size = 1024
    c.model.mask_decoder.update({"score_kinds": ("expression",), "heads": ()})
    # ours: no residual dropout in Phi (theirs: the rate of the checkpoint, 0.1 in Phi-2); its weights are frozen, and the
    # adapters, which are trained, have a dropout of their own
    # ours: no stochastic depth in Swin (theirs: 0.3); it is frozen, so its features should be those of prediction

    for name in ("class_weight", "region_weight", "background_weight", "match_class_weight"):
        del c.loss[name]

    c.data.reference_frames = 4
    c.data.buckets = (1152, 1280, 1536, 2048)
    c.data.tasks = _tasks()
    return c


def _tasks() -> dict:
    """The authors' mixture, 4 : 2 : 4 : 1 : 3; each batch has one task. Ours: the position of the run decides the order of the
    tasks, whereas theirs depends on the workers."""
    root = "{root}"
    refcoco = {"image_root": f"{root}/coco/train2014", "sentences": "joined"}
    youtube, revos = f"{root}/ref_youtube_vos", f"{root}/revos"
    clip = {"frames": 5, "sampling": "references"}  # a key frame and four reference frames
    videos = {"references": 4, "length": 1536, "expression": 96, "answers": 0}
    youtube_files = {
        "meta_path": f"{youtube}/meta_expressions/train/meta_expressions.json",
        "frame_root": f"{youtube}/train/JPEGImages",
        "mask_root": f"{youtube}/train/Annotations",
        "sentences": "joined",
    }
    revos_files = {"mask_path": f"{revos}/mask_dict.json", "frame_root": f"{revos}/JPEGImages"}
    return {
        "referring": {
            "reader": "refcoco",
            "ratio": 4,
            "length": 1280,
            "expression": 128,
            "answers": 0,
            # ours: polygons are filled at the size of the image, then resized like any mask (theirs are resized first). As in
            # their code, "coco" fills them by the rule of pycocotools, and the scores use that of OpenCV
            "train": {
                "json_path": tuple(f"{root}/refcoco/{name}_train.json" for name in ("refcoco", "refcoco+", "refcocog")),
                "polygons": "coco",
                **refcoco,
            },
            "val": {"json_path": f"{root}/refcoco/refcoco_val.json", **refcoco},
        },
        "chat": {
            "reader": "llava",
            "ratio": 2,
            "length": 2048,
            "masks": 0,
            "train": {
                # ours: all records with an image; theirs is llava_v1_5_mix665k_onlyMM_filtered.json, whose filter is not
                # published
                "json_path": f"{root}/llava/llava_v1_5_mix665k.json",
                "image_root": f"{root}/llava/images",
                "prompts_per_example": 1,
                # ours: longer conversations are split, and eight rounds of more than 2048 ids are skipped as unreadable;
                # theirs are cut at 2048 ids and lose their end
                "rounds_per_prompt": 8,
            },
        },
        # ours: without the 60 training videos of DAVIS, which the authors add in a format of their own; they are few
        "referring_video": {
            "reader": "ref_youtube_vos",
            "ratio": 4,
            **videos,
            "train": {**youtube_files, **clip},
        },
        "reasoning": {
            "reader": "reasonseg",
            "ratio": 1,
            "length": 1408,
            "expression": 128,
            "train": {
                "folder": f"{root}/reasonseg/train",
                "explanations": f"{root}/reasonseg/explanatory/train.json",
                "ignore": "released",
                "sentences": "each",  # ours: each, as the set is small; theirs takes a random one of each image
            },
            "val": {"folder": f"{root}/reasonseg/val"},
        },
        "video": {
            "reader": "revos",
            "ratio": 3,
            **videos,
            "train": {
                "meta_path": f"{revos}/meta_expressions_train_.json",
                "sentences": "random",  # of a video, among its expressions with objects
                **revos_files,
                **clip,
            },
            # ours: eight frames of a video, up to three apart, so that validation takes little time; reference frames are
            # among these eight, whereas the benchmark `revos` queries every frame with its neighbours
            "val": {"meta_path": f"{revos}/meta_expressions_valid_.json", "frames": 8, **revos_files},
        },
    }
