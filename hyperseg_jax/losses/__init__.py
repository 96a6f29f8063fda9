"""Losses of masks, of scores, of text, and of embeddings over time."""

from hyperseg_jax.losses.criterion import MaskCriterion, MaskLosses, match_all
from hyperseg_jax.losses.points import PointDraws, draw_points
from hyperseg_jax.losses.reidentification import ReidTargets, choose_queries, reidentification_loss
from hyperseg_jax.losses.targets import MaskTargets, TargetCounts, count_targets
from hyperseg_jax.losses.text import text_cross_entropy, text_cross_entropy_in_chunks

__all__ = [
    "MaskCriterion",
    "MaskLosses",
    "MaskTargets",
    "PointDraws",
    "ReidTargets",
    "TargetCounts",
    "choose_queries",
    "count_targets",
    "draw_points",
    "match_all",
    "reidentification_loss",
    "text_cross_entropy",
    "text_cross_entropy_in_chunks",
]
