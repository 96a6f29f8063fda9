"""The public checkpoints that HyperSeg's weights are imported from, and the config.json that the authors' code requires."""

from __future__ import annotations

import dataclasses
import functools

import ml_collections

from hyperseg_jax.decoders.mask2former import HEADS
from hyperseg_jax.systems.hyperseg.entities import PREDICTION_FIELDS, RELEASED
from hyperseg_jax.systems.hyperseg.objective import build_instances
from hyperseg_jax.systems.hyperseg.temporal import Temporal
from hyperseg_jax.systems.psalm import checkpoints as psalm
from hyperseg_jax.systems.psalm.checkpoints import SIGLIP, SIZES, mask2former, mipha
from hyperseg_jax.tables import PublishedField, Rule, SourceCheckpoint

GATES = Rule(r"mgvp_layers\.layers\.\d+\.gate(_mlp)?\..*", "the perceiver's tanh gates are in the paper and in no release")
AGGREGATION = Rule(
    r"prompt_aggregation\..*",
    "global aggregation over frames is in the paper and in no release; its projection is initialized to zero",
)
RECOGNITION = PublishedField(
    "model.entities.recognition",
    ("decoding",),
    "the authors' code writes no names before the masks of a class list: other masks and scores",
    may_change=True,
    details=tuple(
        (f"model.entities.{field}", default)
        for field, default in dataclasses.asdict(RELEASED).items()
        if field not in ("recognition", *PREDICTION_FIELDS)
    ),
)

TEMPORAL = (
    PublishedField(
        "model.temporal.injection",
        (True,),
        "the authors' code starts each frame of a video from the fine-grained tokens of the previous one",
        may_change=True,
    ),
    PublishedField(
        "model.temporal.aggregation",
        (False,),
        "the authors' code adds nothing of the last frames to the prompts: other masks and scores after the first frame",
        may_change=True,
        details=(("model.temporal.frames", Temporal.frames),),
    ),
)

HYPERSEG = SourceCheckpoint(
    "HyperSeg-3B",
    mark=r"mgvp_layers\..*",
    file="the folder with its config.json and *.safetensors or pytorch_model*.bin",
    initialized=(GATES, AGGREGATION),
    sizes=SIZES,
)

MIPHA = mipha(
    GATES,
    AGGREGATION,
    Rule(
        r"mgvp_layers\..*|local_project\..*|level_embed\.weight|temporal_query|(temporal|expanded_seg)_query_project\..*",
        "the fine-grained perceiver is randomly initialized",
    ),
    Rule(
        r"(seg_query|SEG_token|class_name|region)_projector\..*",
        "the projections to the mask decoder are randomly initialized",
    ),
)
MASK2FORMER = mask2former("SEG_proj|CLASS_proj|REGION_proj|box_embed|iou_head|reid_embed_head")

CHECKPOINTS = (HYPERSEG, MIPHA, SIGLIP, MASK2FORMER)


def untrained(config: ml_collections.ConfigDict) -> tuple[Rule, ...]:
    """Returns the rule of the heads of the decoder that no loss of the config trains."""
    unused = "|".join(name for head, name in HEADS.items() if head not in build_instances(config).trained_heads())
    reason = "no loss of the model's config trains this head, as in HyperSeg's release, and no prediction uses it"
    return (Rule(rf"predictor\.({unused})\..*", reason),) if unused else ()


hf_config = functools.partial(psalm.hf_config, "HyperSeg")
