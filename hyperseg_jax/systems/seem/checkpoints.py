"""The public checkpoints that SEEM's weights are imported from."""

from __future__ import annotations

from typing import Any

import ml_collections

from hyperseg_jax.tables import FileName, PublishedField, Rule, SourceCheckpoint

VARIANT = "model.mask_decoder.variant"
VARIANTS = PublishedField(VARIANT, ("v1", "v0", "demo"))
TWO_MEANINGS = (
    "files of this name have been published with weights of v0 and of v1, whose tensors have the same names and shapes; rename "
    f"it to focall_v0.pt or focall_v1.pt, and give --config.{VARIANT}"
)
CLASS_WEIGHTS = Rule(r"criterion\.empty_weight", "the weights of the classes in the loss are computed from the config")
"""Files of v0 have them; the model of demo, which runs these files, has no loss."""
SEEM = SourceCheckpoint(
    "SEEM",
    mark=r"sem_seg_head\.predictor\.pn_indicator\.weight",
    file="seem_focalt_v1.pt, or the *.pt of another released model",
    ignored=(CLASS_WEIGHTS,),
    file_names=(
        FileName(r"seem[_-]focall[_-]v1(?!\d).*", VARIANT, (), TWO_MEANINGS),
        FileName(r".*[_-]v0(?!\d).*", VARIANT, ("v0", "demo")),
        FileName(r".*[_-]v1(?!\d).*", VARIANT, ("v1",)),
    ),
)
XDECODER = SourceCheckpoint(
    "X-Decoder",
    mark=r"sem_seg_head\.predictor\.caping_embed",
    file="xdecoder_focalt_last.pt, or that of Focal-L",
    ignored=(
        CLASS_WEIGHTS,
        Rule(r"sem_seg_head\.predictor\.(caping_embed|pos_embed_caping\.weight|self_attn_mask)", "SEEM writes no captions"),
        Rule(r"sem_seg_head\.predictor\.bbox_embed\..*", "SEEM predicts no boxes"),
    ),
    initialized=(
        Rule(
            r"sem_seg_head\.predictor\.((spatial_featured|spatial_embed|pn_indicator)\.weight|mask_sptial_embed\.\d)",
            "X-Decoder has no visual prompts; theirs are randomly initialized",
        ),
    ),
)
SAM = SourceCheckpoint(
    "SAM",
    mark=r"image_encoder\.patch_embed\.proj\.weight",
    file="sam_vit_b_01ec64.pth or sam_vit_l_0b3195.pth, the image encoder that training with SAM's ViT starts from",
    renames=((r"image_encoder\.(.*)", r"backbone.\1"),),
    ignored=(
        Rule(r"image_encoder\.neck\..*", "SAM's neck is replaced by one that makes a feature pyramid"),
        Rule(r"(prompt_encoder|mask_decoder)\..*", "SAM's own prompts and masks are not used"),
    ),
    initialized=(
        Rule(r"backbone\.neck\..*", "SAM has no neck for a feature pyramid; it is randomly initialized, so train it"),
    ),
)
LANGUAGE = SourceCheckpoint(
    "language encoder",
    mark=r"sem_seg_head\.predictor\.lang_encoder\.lang_encoder\.token_embedding\.weight",
    file="focalb_lang_unicl.pt, a language encoder alone, with that of SAM",
    initialized=(
        Rule(
            r"backbone\..*", "no source has an image encoder; it is randomly initialized, so train it, or give its checkpoint"
        ),
        Rule(r"sem_seg_head\.pixel_decoder\..*", "no source has a pixel decoder; it is randomly initialized, so train it"),
        Rule(r"sem_seg_head\.predictor\.(?!lang_encoder\.).*", "no source has the decoder; it is randomly initialized"),
    ),
)
CHECKPOINTS = (SEEM, XDECODER, SAM, LANGUAGE)


def hf_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the config.json of an export; the authors' code reads none."""
    return {"architectures": ["GeneralizedSEEM"], "model_type": "seem"}
