"""Readers, one file a benchmark: random access, lazy, deterministic, picklable; each record becomes a structs.Example.

Where each one's files are expected: `layouts`.
"""

from hyperseg_jax.datasets.ade20k import Ade20k
from hyperseg_jax.datasets.cityscapes import Cityscapes
from hyperseg_jax.datasets.coco_instances import CocoInstances
from hyperseg_jax.datasets.coco_marks import CocoMarks
from hyperseg_jax.datasets.coco_panoptic import CocoPanoptic
from hyperseg_jax.datasets.coco_stuff import CocoStuff
from hyperseg_jax.datasets.davis import Davis2016, Davis2017
from hyperseg_jax.datasets.folder import Folder
from hyperseg_jax.datasets.gqa import Gqa
from hyperseg_jax.datasets.interactive import CocoInteractive
from hyperseg_jax.datasets.labelme import LabelMe
from hyperseg_jax.datasets.llava import Llava
from hyperseg_jax.datasets.mmbench import MmBench
from hyperseg_jax.datasets.objects365 import Objects365
from hyperseg_jax.datasets.pascal_context import PascalContext59
from hyperseg_jax.datasets.pascal_voc import PascalVoc20
from hyperseg_jax.datasets.pascal_voc_objects import PascalVocObjects
from hyperseg_jax.datasets.pope import Pope
from hyperseg_jax.datasets.prepared import Prepared
from hyperseg_jax.datasets.reasonseg import ReasonSeg
from hyperseg_jax.datasets.ref_davis import RefDavis
from hyperseg_jax.datasets.ref_youtube_vos import RefYouTubeVos
from hyperseg_jax.datasets.refcoco import RefCoco
from hyperseg_jax.datasets.refcoco_refs import RefCocoRefs
from hyperseg_jax.datasets.revos import ReVos
from hyperseg_jax.datasets.scienceqa import ScienceQa
from hyperseg_jax.datasets.spoken_frames import SpokenFrames
from hyperseg_jax.datasets.visual_genome import VisualGenome
from hyperseg_jax.datasets.vqav2 import VqaV2
from hyperseg_jax.datasets.youtube_vis import YouTubeVis

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
