"""Readers of benchmarks and of your own data, `data check`, and builds for pods.

A reader gives random access to `structs.Example`s. It is lazy, deterministic and picklable. docs/data.md describes each format.

Images with class lists
    coco_panoptic       COCO panoptic
    coco_instances      COCO instances, and any json of that form
    coco_stuff          COCO-Stuff
    ade20k, cityscapes, pascal_context, pascal_voc      semantic segmentation
    labelme             a folder that LabelMe wrote

Images with expressions
    refcoco             RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO in the authors' json
    refcoco_refs        the same in the original files
    reasonseg           ReasonSeg
    folder              your own images and texts: captions.jsonl
    referring_frames    frames of a few videos, with sentences

Images with drawn prompts
    interactive         COCO-Interactive
    coco_visual_prompts  COCO instances, with points, scribbles, boxes and masks drawn for them
    pascal_voc_objects  a point in each object of Pascal VOC

Images with questions, answers and captions
    llava, vqav2, gqa, pope, scienceqa, mmbench         questions
    visual_genome, objects365                           captions of regions

Videos
    davis               DAVIS 2016 and 2017
    youtube_vis         YouTube-VIS 2019 and 2021
    ref_davis, ref_youtube_vos, revos                   expressions about videos

Datasets that were prepared before
    built               a build of `data build`
    prepared            datasets that tensorflow-datasets prepared
    builds/             how a build is written

Where files are, and what is wrong with them
    layouts             the folder layout of each benchmark, by name
    reader_fields       checks the fields that a config gives to a reader
    check               reads every record for `data check`
    check_errors        an error in a file: raised, or collected by a check
    record_errors       what a record may raise, and how the stream carries the message

Shared by readers: files
    files               images, json, fields of records
    labels              label images: one number for each pixel
    masks               run lengths and polygons of json files
    coco_records        the lists of a COCO json, by id
    places              records by their ids, and ids that two records share
    video_folders       videos as folders of frames and masks

Shared by readers: prompts
    per_image           one or several prompts for each image
    questions           question files (GQA, POPE)
    choices             multiple-choice questions in words
    class_prompts       class lists, whole or drawn
    class_names         the classes of semantic benchmarks
    label_images        semantic benchmarks
    visual_prompts      drawn prompts: kinds, radii, drawing
    prompt_masks        one change for all masks of a prompt
    regions             drawn regions under changes of their image

Shared by readers: videos
    clip_reader         random access to clips
    clip_sampling       which frames a clip takes
    referring_video     expressions about numbered objects (Ref-DAVIS, Ref-YouTube-VOS)
"""

from hyperseg_jax.datasets.ade20k import Ade20k
from hyperseg_jax.datasets.cityscapes import Cityscapes
from hyperseg_jax.datasets.coco_instances import CocoInstances
from hyperseg_jax.datasets.coco_panoptic import CocoPanoptic
from hyperseg_jax.datasets.coco_stuff import CocoStuff
from hyperseg_jax.datasets.coco_visual_prompts import CocoVisualPrompts
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
from hyperseg_jax.datasets.referring_frames import ReferringFrames
from hyperseg_jax.datasets.revos import ReVos
from hyperseg_jax.datasets.scienceqa import ScienceQa
from hyperseg_jax.datasets.visual_genome import VisualGenome
from hyperseg_jax.datasets.vqav2 import VqaV2
from hyperseg_jax.datasets.youtube_vis import YouTubeVis

__all__ = [
    "Ade20k",
    "Cityscapes",
    "CocoInstances",
    "CocoInteractive",
    "CocoPanoptic",
    "CocoStuff",
    "CocoVisualPrompts",
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
    "ReferringFrames",
    "ScienceQa",
    "VisualGenome",
    "VqaV2",
    "YouTubeVis",
]
