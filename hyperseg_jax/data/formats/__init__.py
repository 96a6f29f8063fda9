"""Readers, one file a benchmark: random access, lazy, deterministic, picklable; each record becomes a structs.Example."""

from hyperseg_jax.data.formats.coco_panoptic import CocoPanoptic
from hyperseg_jax.data.formats.davis import Davis2016, Davis2017
from hyperseg_jax.data.formats.interactive import CocoInteractive
from hyperseg_jax.data.formats.llava import Llava
from hyperseg_jax.data.formats.reasonseg import ReasonSeg
from hyperseg_jax.data.formats.ref_davis import RefDavis
from hyperseg_jax.data.formats.ref_youtube_vos import RefYouTubeVos
from hyperseg_jax.data.formats.refcoco import RefCoco
from hyperseg_jax.data.formats.revos import ReVos
from hyperseg_jax.data.formats.youtube_vis import YouTubeVis

__all__ = [
    "CocoInteractive", "CocoPanoptic", "Davis2016", "Davis2017", "Llava", "ReVos", "ReasonSeg", "RefCoco", "RefDavis",
    "RefYouTubeVos", "YouTubeVis",
]  # fmt: skip
