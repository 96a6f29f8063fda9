"""Readers, one file a benchmark: random access, lazy, deterministic, picklable; each record becomes a structs.Example.

Where each one's files are expected: `layouts`.
"""

from hyperseg_jax.data.formats.ade20k import Ade20k
from hyperseg_jax.data.formats.cityscapes import Cityscapes
from hyperseg_jax.data.formats.coco_instances import CocoInstances
from hyperseg_jax.data.formats.coco_marks import CocoMarks
from hyperseg_jax.data.formats.coco_panoptic import CocoPanoptic
from hyperseg_jax.data.formats.coco_stuff import CocoStuff
from hyperseg_jax.data.formats.davis import Davis2016, Davis2017
from hyperseg_jax.data.formats.folder import Folder
from hyperseg_jax.data.formats.gqa import Gqa
from hyperseg_jax.data.formats.interactive import CocoInteractive
from hyperseg_jax.data.formats.labelme import LabelMe
from hyperseg_jax.data.formats.llava import Llava
from hyperseg_jax.data.formats.mmbench import MmBench
from hyperseg_jax.data.formats.objects365 import Objects365
from hyperseg_jax.data.formats.pascal_context import PascalContext59
from hyperseg_jax.data.formats.pascal_voc import PascalVoc20
from hyperseg_jax.data.formats.pascal_voc_objects import PascalVocObjects
from hyperseg_jax.data.formats.pope import Pope
from hyperseg_jax.data.formats.prepared import Prepared
from hyperseg_jax.data.formats.reasonseg import ReasonSeg
from hyperseg_jax.data.formats.ref_davis import RefDavis
from hyperseg_jax.data.formats.ref_youtube_vos import RefYouTubeVos
from hyperseg_jax.data.formats.refcoco import RefCoco
from hyperseg_jax.data.formats.refcoco_refs import RefCocoRefs
from hyperseg_jax.data.formats.revos import ReVos
from hyperseg_jax.data.formats.scienceqa import ScienceQa
from hyperseg_jax.data.formats.spoken_frames import SpokenFrames
from hyperseg_jax.data.formats.visual_genome import VisualGenome
from hyperseg_jax.data.formats.vqav2 import VqaV2
from hyperseg_jax.data.formats.youtube_vis import YouTubeVis

__all__ = [
    "Ade20k",
    "Cityscapes",
    "CocoInstances",
    "CocoInteractive",
    "CocoMarks",
    "CocoPanoptic",
    "CocoStuff",
    "Davis2016",
    "Davis2017",
    "Folder",
    "Gqa",
    "LabelMe",
    "Llava",
    "MmBench",
    "Objects365",
    "PascalContext59",
    "PascalVoc20",
    "PascalVocObjects",
    "Pope",
    "Prepared",
    "ReVos",
    "ReasonSeg",
    "RefCoco",
    "RefCocoRefs",
    "RefDavis",
    "RefYouTubeVos",
    "ScienceQa",
    "SpokenFrames",
    "VisualGenome",
    "VqaV2",
    "YouTubeVis",
]
