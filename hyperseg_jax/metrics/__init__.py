"""Metrics: accumulators with update, merge, state and compute. Host side.

Shared:
    sums               the base class: sums by name, which merge over prompts and hosts
    published          scores reported by authors, for comparison
    baselines          trivial predictions, and scores that are possible without reading the text
    caption_baselines  scores of captions that are possible without looking at the region
    no_ground_truth    counts predictions of benchmarks with server-side ground truth

Masks of images:
    ciou_giou          referring and reasoning segmentation
    generalized        gRefCOCO: expressions with one, several or no targets
    average_precision  COCO mask AP
    mean_iou           semantic segmentation
    panoptic_quality   panoptic segmentation
    entities           objects that are missed, repeated or named wrongly
    interactive        mean IoU for each kind of visual prompt
    clicks             number of clicks of interactive segmentation (NoC)

Masks of videos:
    jf                 region similarity J and boundary accuracy F of DAVIS
    davis              J and F of every object, semi-supervised or unsupervised
    revos              J, F, A and R of ReVOS
    video_ap           AP of instances (YouTube-VIS)
    track_scores       this AP, and identity switches

Text answers:
    exact_answer       GQA and ScienceQA
    vqa                VQA accuracy
    multiple_choice    MMBench
    pope               POPE

Captions of regions:
    captions           CIDEr-D, BLEU and ROUGE-L over all captions
    ngrams             these scores, from words
    caption_words      splits captions into words
    word_recall        recall of nouns and verbs, from tagged words
"""

from hyperseg_jax.metrics.average_precision import MaskAP
from hyperseg_jax.metrics.captions import CaptionScores
from hyperseg_jax.metrics.ciou_giou import ReferringScores
from hyperseg_jax.metrics.clicks import ClickScores
from hyperseg_jax.metrics.davis import DavisScores
from hyperseg_jax.metrics.entities import EntityScores
from hyperseg_jax.metrics.exact_answer import ExactScores
from hyperseg_jax.metrics.generalized import GeneralizedScores
from hyperseg_jax.metrics.interactive import InteractiveScores
from hyperseg_jax.metrics.jf import VideoScores
from hyperseg_jax.metrics.mean_iou import SemanticScores, ZeroShotScores
from hyperseg_jax.metrics.multiple_choice import MultipleChoiceScores
from hyperseg_jax.metrics.no_ground_truth import NoGroundTruth
from hyperseg_jax.metrics.panoptic_quality import PanopticQuality
from hyperseg_jax.metrics.pope import PopeScores
from hyperseg_jax.metrics.revos import ReVosScores
from hyperseg_jax.metrics.track_scores import TrackScores
from hyperseg_jax.metrics.video_ap import VideoAP
from hyperseg_jax.metrics.vqa import VqaScores

__all__ = [
    "CaptionScores",
    "ClickScores",
    "DavisScores",
    "EntityScores",
    "ExactScores",
    "GeneralizedScores",
    "InteractiveScores",
    "MaskAP",
    "MultipleChoiceScores",
    "NoGroundTruth",
    "PanopticQuality",
    "PopeScores",
    "ReVosScores",
    "ReferringScores",
    "SemanticScores",
    "TrackScores",
    "VideoAP",
    "VideoScores",
    "VqaScores",
    "ZeroShotScores",
]
