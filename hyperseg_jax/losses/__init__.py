"""Losses of masks, of scores, of text, and of embeddings over time.

The objective:
    criterion         matching, then mask and score losses at every output of the decoder
    targets           what a batch asks for: padded arrays, and the counts that normalise the losses
    points            where the mask losses look: random points, more of them where a prediction is uncertain

Its terms:
    masks             cross-entropy and dice of masks, as losses and as matching costs
    scores            what a loss of scores is; of expressions, classes and regions
    text              cross-entropy of the written answer
    reidentification  contrastive loss of an instance's embeddings over frames
"""

from hyperseg_jax.losses.criterion import MaskCriterion, MaskLosses, match_all
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
    "match_all",
    "reidentification_loss",
    "text_cross_entropy",
    "text_cross_entropy_in_chunks",
]
