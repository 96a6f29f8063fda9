"""Dataset readers for benchmarks and custom data, `data check`, and prebuilt shards for training on pods.

A reader gives random access to `structs.Example`s. Readers are lazy, deterministic and picklable. docs/data.md describes each
format.

Images with class lists
    coco_panoptic       COCO panoptic
    coco_instances      COCO instances, and any json in this format
    coco_stuff          COCO-Stuff
    ade20k, cityscapes, pascal_context, pascal_voc      semantic segmentation
    segmentation_table  images and label images in one table, as IFSeg's authors have them
    labelme             a LabelMe folder
    pseudo_labels       images that a model has labelled
    class_words         a class list without images

Images with expressions
    refcoco             RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO in the json files of HyperSeg, InstructSeg and PSALM
    refcoco_refs        the same benchmarks in their original files
    reasonseg           ReasonSeg
    folder              your own images and texts: captions.jsonl
    referring_clips     clips of videos, with referring sentences
    referring_frames    single frames of videos, with referring sentences

Images with visual prompts
    interactive         COCO-Interactive
    coco_visual_prompts  COCO instances with generated points, scribbles, boxes and masks
    pascal_voc_objects  Pascal VOC with a point in each object

Images with questions, answers and captions
    llava, vqav2, gqa, pope, scienceqa, mmbench         visual question answering
    visual_genome       regions with phrases
    category_boxes      boxes with category names: COCO instances, V3Det, and any json in this format
    objects365          the same of Objects365
    refcoco_captions    objects of RefCOCO, RefCOCO+ and RefCOCOg with all their sentences

Videos
    davis               DAVIS 2016 and 2017
    youtube_vis         YouTube-VIS 2019 and 2021
    ref_davis, ref_youtube_vos, revos                   referring video segmentation

Prepared datasets
    built               reads the shards of `data build`
    prepared            reads datasets prepared by tensorflow-datasets
    builds/             writes the shards of `data build`

File layouts and error handling
    layouts             the folder layout of each benchmark, by name
    reader_fields       validates the fields that a config gives to a reader
    check               reads every record for `data check`
    check_errors        errors in files: raised, or collected by a check
    record_errors       errors of single records, and their transport through the data stream

Shared by readers: files
    files               reads images and json files
    fields              reads values of records: flags, numbers, ids, names, texts and lists
    labels              label images: one class or object number per pixel
    shards              records of ArrayRecord shards, checked before they are unpacked
    masks               run-length encodings and polygons of json files
    coco_records        images, annotations and categories of a COCO json, by id
    refer_files         refs of a split and their annotations
    lvis_masks          masks of LVIS in place of COCO's
    image_sentences     sentences of RefCOCO, RefCOCO+ and RefCOCOg by image
    excluded_images     leaves the images of a benchmark out of training data
    id_index            looks up records by id and detects duplicate ids
    video_folders       videos stored as folders of frames and masks

Shared by readers: prompts
    per_image           readers with one or several prompts per image
    region_captions     readers of regions with texts
    questions           readers of question files (GQA, POPE)
    choices             text of multiple-choice questions
    class_prompts       class-list prompts, with all or sampled classes
    class_names         class names of semantic segmentation benchmarks
    label_images        readers of semantic segmentation benchmarks
    visual_prompts      visual prompts: kinds, dilation radii, drawing
    random_shapes       random points, polygons, scribbles and blobs on an object
    prompt_masks        applies a function to all masks of a prompt
    regions             transforms visual prompts with their image

Shared by readers: videos
    video_reader        base class with random access to clips
    frame_sampling       frame sampling
    referring_video     expressions about annotated objects (Ref-DAVIS, Ref-YouTube-VOS)
"""

from hyperseg_jax.datasets.ade20k import Ade20k
from hyperseg_jax.datasets.category_boxes import CategoryBoxes
from hyperseg_jax.datasets.cityscapes import Cityscapes
from hyperseg_jax.datasets.class_words import ClassWords
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
from hyperseg_jax.datasets.pseudo_labels import PseudoLabels
from hyperseg_jax.datasets.reasonseg import ReasonSeg
from hyperseg_jax.datasets.ref_davis import RefDavis
from hyperseg_jax.datasets.ref_youtube_vos import RefYouTubeVos
from hyperseg_jax.datasets.refcoco import RefCoco
from hyperseg_jax.datasets.refcoco_captions import RefCocoCaptions
from hyperseg_jax.datasets.refcoco_refs import RefCocoRefs
from hyperseg_jax.datasets.referring_clips import ReferringClips
from hyperseg_jax.datasets.referring_frames import ReferringFrames
from hyperseg_jax.datasets.revos import ReVos
from hyperseg_jax.datasets.scienceqa import ScienceQa
from hyperseg_jax.datasets.segmentation_table import SegmentationTable
from hyperseg_jax.datasets.visual_genome import VisualGenome
from hyperseg_jax.datasets.vqav2 import VqaV2
from hyperseg_jax.datasets.youtube_vis import YouTubeVis

__all__ = [
    "Ade20k",
    "CategoryBoxes",
    "Cityscapes",
    "ClassWords",
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
    "PseudoLabels",
    "ReVos",
    "ReasonSeg",
    "RefCoco",
    "RefCocoCaptions",
    "RefCocoRefs",
    "RefDavis",
    "RefYouTubeVos",
    "ReferringClips",
    "ReferringFrames",
    "ScienceQa",
    "SegmentationTable",
    "VisualGenome",
    "VqaV2",
    "YouTubeVis",
]
