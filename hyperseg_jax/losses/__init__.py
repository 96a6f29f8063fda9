"""Losses of masks, scores, text and tracking embeddings.

The training loss:
    criterion         matching, then mask and score losses at every output of the decoder
    targets           padded targets of a batch, and the counts that normalize the losses
    points            random points for mask losses, and sampling of masks at points
    stage_masks       mask logits of a decoder stage, computed only where needed; selection of uncertain points

Its terms:
    masks             cross-entropy and dice of masks, as losses and matching costs
    scores            the interface of score losses, and those of expressions, classes and regions
    prompt_scores     which query answers a prompt
    pixels            cross-entropy of pixels, for classes on a coarser grid
    text              next-token cross-entropy
    words             which words describe an image
    boxes             boxes of segments, and losses of predicted boxes and their quality
    reidentification  contrastive loss of instance embeddings between frames
    instances         the losses of boxes, and of identities over the frames of a clip
"""

from hyperseg_jax.losses.criterion import MaskCriterion, MaskLosses, match_targets
from hyperseg_jax.losses.points import PointDraws, draw_points
from hyperseg_jax.losses.reidentification import ReidTargets, choose_queries, reidentification_loss
from hyperseg_jax.losses.scores import BalancedScores, ClassScores, ScoreLoss
from hyperseg_jax.losses.targets import MaskTargets, ScoreTargets, TargetCounts
from hyperseg_jax.losses.text import count_tokens, text_cross_entropy, text_cross_entropy_in_chunks

__all__ = [
    "BalancedScores",
    "ClassScores",
    "MaskCriterion",
    "MaskLosses",
    "MaskTargets",
    "PointDraws",
    "ReidTargets",
    "ScoreLoss",
    "ScoreTargets",
    "TargetCounts",
    "choose_queries",
    "count_tokens",
    "draw_points",
    "match_targets",
    "reidentification_loss",
    "text_cross_entropy",
    "text_cross_entropy_in_chunks",
]
