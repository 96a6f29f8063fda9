"""The public checkpoints that InstructSeg's weights are imported from, and the config.json that the authors' code requires."""

from __future__ import annotations

import functools

from hyperseg_jax.systems.psalm import checkpoints as psalm
from hyperseg_jax.systems.psalm.checkpoints import SIGLIP, SIZES, mask2former, mipha
from hyperseg_jax.tables import PublishedField, Rule, SourceCheckpoint

INSTRUCTSEG = SourceCheckpoint(
    "InstructSeg-3B",
    mark=r"vmtf_layers\..*",
    file="the folder with its config.json and *.safetensors or pytorch_model*.bin",
    sizes=SIZES,
)
UNTRAINED = Rule(
    r"predictor\.(query_feat|SEG_query_embed)\.weight",
    "tables of Mask2Former's decoder that the release contains but never uses",
)
FORM = PublishedField(
    "model.text_fusion.form",
    ("published",),
    "the authors' code computes the form 'published' with these weights: other scores",
)
MIPHA = mipha(
    Rule(r"ovp_layers\..*|temporal_query", "the object-aware video perceiver is randomly initialized"),
    Rule(
        r"(vmtf_layers|local_project|text_vmtf_projector|origin_SEG_token_projector)\..*",
        "the text fusion is randomly initialized",
    ),
    Rule(r"(seg_query|SEG_token)_projector\..*", "the projections to the mask decoder are randomly initialized"),
)
CHECKPOINTS = (INSTRUCTSEG, MIPHA, SIGLIP, mask2former("SEG_proj"))

hf_config = functools.partial(psalm.hf_config, "InstructSeg")
