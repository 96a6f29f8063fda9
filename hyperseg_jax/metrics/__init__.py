"""Scores: accumulators with update, merge, state and compute. Host side."""

from hyperseg_jax.metrics.average_precision import MaskAP
from hyperseg_jax.metrics.ciou_giou import ReferringScores
from hyperseg_jax.metrics.clicks import ClickScores
from hyperseg_jax.metrics.davis import DavisScores
from hyperseg_jax.metrics.exact_answer import ExactScores
from hyperseg_jax.metrics.generalized import GeneralizedScores
from hyperseg_jax.metrics.interactive import InteractiveScores
from hyperseg_jax.metrics.jf import ClipScores
from hyperseg_jax.metrics.mean_iou import SemanticScores
from hyperseg_jax.metrics.multiple_choice import MultipleChoiceScores
from hyperseg_jax.metrics.panoptic_quality import PanopticQuality
from hyperseg_jax.metrics.pope import PopeScores
from hyperseg_jax.metrics.revos import ReVosScores
from hyperseg_jax.metrics.unscored import Unscored
from hyperseg_jax.metrics.video_ap import VideoAP
from hyperseg_jax.metrics.vqa import VqaScores

__all__ = [
    "ClickScores",
    "ClipScores",
    "DavisScores",
    "ExactScores",
    "GeneralizedScores",
    "InteractiveScores",
    "MaskAP",
    "MultipleChoiceScores",
    "PanopticQuality",
    "PopeScores",
    "ReVosScores",
    "ReferringScores",
    "SemanticScores",
    "Unscored",
    "VideoAP",
    "VqaScores",
]
