"""Readers, one file a benchmark: random access, lazy, deterministic, picklable; each record becomes a structs.Example."""

from hyperseg_jax.data.formats.coco_panoptic import CocoPanoptic
from hyperseg_jax.data.formats.interactive import CocoInteractive
from hyperseg_jax.data.formats.llava import Llava
from hyperseg_jax.data.formats.reasonseg import ReasonSeg
from hyperseg_jax.data.formats.refcoco import RefCoco
from hyperseg_jax.data.formats.revos import ReVos

__all__ = ["CocoInteractive", "CocoPanoptic", "Llava", "ReVos", "ReasonSeg", "RefCoco"]
