"""The public checkpoints that SEEM's weights are imported from."""

from __future__ import annotations

from typing import Any

import ml_collections

from hyperseg_jax.tables import Rule, SourceCheckpoint

SEEM = SourceCheckpoint(
    "SEEM",
    mark=r"sem_seg_head\.predictor\.pn_indicator\.weight",
    file="seem_focalt_v1.pt, or the *.pt of another released model",
)
XDECODER = SourceCheckpoint(
    "X-Decoder",
    mark=r"sem_seg_head\.predictor\.caping_embed",
    file="xdecoder_focalt_last.pt, or that of Focal-L",
    ignored=(Rule(r"sem_seg_head\.predictor\.(caping_embed|pos_embed_caping\..*|.*caption.*)", "SEEM writes no captions"),),
    initialized=(
        Rule(
            r"sem_seg_head\.predictor\.(spatial_featured|spatial_embed|pn_indicator|mask_sptial_embed)\..*",
            "X-Decoder has no visual prompts; theirs are randomly initialized",
        ),
    ),
)
CHECKPOINTS = (SEEM, XDECODER)


def hf_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the config.json of an export; the authors' code reads none."""
    return {"architectures": ["GeneralizedSEEM"], "model_type": "seem"}
