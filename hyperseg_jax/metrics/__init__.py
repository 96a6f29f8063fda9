"""Scores: accumulators with update, merge and compute. NumPy only."""

from hyperseg_jax.metrics.ciou_giou import ReferringScores
from hyperseg_jax.metrics.interactive import InteractiveScores
from hyperseg_jax.metrics.jf import ClipScores
from hyperseg_jax.metrics.panoptic_quality import PanopticQuality

__all__ = ["ClipScores", "InteractiveScores", "PanopticQuality", "ReferringScores"]
