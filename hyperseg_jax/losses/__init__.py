"""Losses of masks, of scores and of text."""

from hyperseg_jax.losses.criterion import MaskCriterion, MaskLosses, match_all
from hyperseg_jax.losses.points import PointDraws, draw_points
from hyperseg_jax.losses.targets import MaskTargets, TargetCounts, count_targets
from hyperseg_jax.losses.text import text_cross_entropy

__all__ = ["MaskCriterion", "MaskLosses", "MaskTargets", "PointDraws", "TargetCounts", "count_targets", "draw_points",
           "match_all", "text_cross_entropy"]  # fmt: skip
