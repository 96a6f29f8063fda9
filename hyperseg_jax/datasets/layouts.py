"""The expected file layout of each benchmark below one folder (data.root of a config, --root of `hyperseg data check`)."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from hyperseg_jax import datasets
from hyperseg_jax.datasets import record_errors
from hyperseg_jax.datasets.files import subpath
from hyperseg_jax.datasets.reader_fields import check_fields
from hyperseg_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class FolderLayout:
    """The files of one benchmark.

    reader: the reader class. files: path arguments of the reader, relative to the root ("." is the root); a tuple is a list of
    paths. splits: names of the splits; {split} in files and options is replaced by the name. options: other arguments of the
    reader. source: where to download the data. split_files: additional files of single splits, by split.
    """

    reader: Callable[..., Any]
    files: dict[str, str | tuple[str, ...]]
    splits: tuple[str, ...]
    source: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    split_files: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)

    def open(self, root: str | os.PathLike, split: str, **options: Any) -> Any:
        """Opens the reader of a split. options: override the default options of the layout. Raises UserError for missing
        files."""
        if split not in self.splits:
            raise UserError(f"split={split!r} is unknown; choose one of {', '.join(self.splits)}")
        files = self.files | self.split_files.get(split, {})
        fixed = {name: value.format(split=split) if isinstance(value, str) else value for name, value in self.options.items()}
        self.check_options(f"the reader {self.reader.__name__}", split, options)
        with record_errors.opening_reader(f"{self.reader.__name__} in {root}"):
            place = lambda path: subpath(root, path.format(split=split))
            paths = {name: place(path) if isinstance(path, str) else list(map(place, path)) for name, path in files.items()}
            return self.reader(**paths, **{**fixed, **options})

    def check_options(self, what: str, split: str, options: Mapping[str, Any]) -> None:
        """Raises UserError if the reader does not have these options. what: description of the reader for messages."""
        fixed = self.files | self.split_files.get(split, {})
        check_fields(what, self.reader, {**self.options, **options}, fixed=fixed)

    def paths(self, split: str) -> list[str]:
        """Returns the paths of a split relative to the root, with {split}."""
        listed = (self.files | self.split_files.get(split, {})).values()
        return [path for entry in listed for path in ((entry,) if isinstance(entry, str) else entry)]

    def sizes(self, root: str | os.PathLike, split: str) -> dict[str, int]:
        """Returns the size in bytes of each file argument (not folders), to distinguish releases; of a list of files, their
        sum."""
        entries = {name: (path,) if isinstance(path, str) else path for name, path in self.files.items()}
        paths = {name: [pathlib.Path(root) / path.format(split=split) for path in listed] for name, listed in entries.items()}
        return {
            name: sum(path.stat().st_size for path in listed)
            for name, listed in paths.items()
            if all(path.is_file() for path in listed)
        }


def open_benchmark(name: str, split: str, root: str | os.PathLike, **options: Any) -> Any:
    """Opens the reader of a benchmark split. name: a key of LAYOUTS. options: arguments of the reader class."""
    return find_layout(name).open(root, split, **options)


def find_layout(name: str) -> FolderLayout:
    """Returns the layout of a benchmark. Raises UserError with all names if it is unknown."""
    if name not in LAYOUTS:
        raise UserError(f"benchmark {name!r} is unknown; use one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


_COCO = "coco/{split}"
_OF_2017, _OF_2014 = ("train2017", "val2017"), ("train2014", "val2014")
_SPLIT = {"split": "{split}"}
_COCO_SITE = "cocodataset.org"
_REFER = "github.com/lichengunc/refer, images of cocodataset.org"
_UNC, _UMD = ("train", "val", "testA", "testB"), ("train", "val", "test")
_ALL = ("all",)


_TRAIN_VAL, _TRAIN_VALID = ("train", "val"), ("train", "valid")
_DAVIS = "davischallenge.org"
_YOUTUBE_VIS = "youtube-vos.org/dataset/vis"


def _refer_layout(
    folder: str,
    file: str,
    splits: tuple[str, ...],
    source: str = _REFER,
    reader: Callable[..., Any] = datasets.RefCocoRefs,
) -> FolderLayout:
    """Returns the layout of a benchmark in the format of the REFER tools."""
    paths: dict[str, str | tuple[str, ...]] = {
        "refs_path": f"refer/{folder}/{file}",
        "instances_path": f"refer/{folder}/instances.json",
        "image_root": "coco/train2014",
    }
    return FolderLayout(reader, paths, splits, source, _SPLIT)


LAYOUTS: dict[str, FolderLayout] = {
    "coco_panoptic": FolderLayout(
        datasets.CocoPanoptic,
        {
            "json_path": "coco/annotations/panoptic_{split}.json",
            "image_root": _COCO,
            "png_root": "coco/annotations/panoptic_{split}",
        },
        _OF_2017,
        _COCO_SITE,
    ),
    "coco_with_sentences": FolderLayout(
        datasets.CocoPanoptic,
        {
            "json_path": "coco/annotations/panoptic_{split}.json",
            "image_root": _COCO,
            "png_root": "coco/annotations/panoptic_{split}",
            "lvis_paths": ("lvis/lvis_v1_train.json", "lvis/lvis_v1_val.json"),
            "refs_paths": ("refer/refcoco/refs(unc).p", "refer/refcoco+/refs(unc).p", "refer/refcocog/refs(umd).p"),
            "excluded_refs": "refer/refcocog/refs(umd).p",
        },
        ("train2017",),
        f"{_COCO_SITE}, lvisdataset.org, github.com/lichengunc/refer; without the images of RefCOCOg's val",
    ),
    "coco_instances": FolderLayout(
        datasets.CocoInstances,
        {"json_path": "coco/annotations/instances_{split}.json", "image_root": _COCO},
        _OF_2017,
        _COCO_SITE,
    ),
    "coco_visual_prompts": FolderLayout(
        datasets.CocoVisualPrompts,
        {"json_path": "coco/annotations/instances_{split}.json", "image_root": _COCO},
        _OF_2017,
        f"{_COCO_SITE}; the marks are generated by the reader",
    ),
    "coco_stuff": FolderLayout(
        datasets.CocoStuff,
        {"image_root": _COCO, "label_root": "coco/stuffthingmaps/{split}"},
        _OF_2017,
        "github.com/nightrome/cocostuff (stuffthingmaps_trainval2017.zip)",
    ),
    "coco_stuff_words": FolderLayout(
        datasets.CocoStuff,
        {"image_root": _COCO, "label_root": "coco/stuffthingmaps/{split}"},
        _OF_2017,
        "the same, with the class names of IFSeg's authors",
        {"names": "words"},
    ),
    "interactive": FolderLayout(
        datasets.CocoInteractive,
        {"json_path": "interactive/coco_interactive_{split}.json", "image_root": "coco/{split}2017"},
        ("train", "val"),
        "github.com/zamling/PSALM",
    ),
    "refcoco": _refer_layout("refcoco", "refs(unc).p", _UNC),
    "refcoco+": _refer_layout("refcoco+", "refs(unc).p", _UNC),
    "refcocog": _refer_layout("refcocog", "refs(umd).p", _UMD),
    "grefcoco": _refer_layout("grefcoco", "grefs(unc).json", _UNC, "github.com/henghuiding/gRefCOCO"),
    "refcoco_json": FolderLayout(
        datasets.RefCoco,
        {"json_path": "refcoco/refcoco_{split}.json", "image_root": "coco/train2014"},
        _UNC,
        "github.com/zamling/PSALM",
    ),
    "reasonseg": FolderLayout(
        datasets.ReasonSeg, {"folder": "reasonseg/{split}"}, _UMD, "github.com/dvlab-research/LISA", {"sentences": "each"}
    ),
    "ade20k": FolderLayout(
        datasets.Ade20k, {"folder": "ADEChallengeData2016"}, ("training", "validation"), "sceneparsing.csail.mit.edu", _SPLIT
    ),
    "ade20k_raw": FolderLayout(
        datasets.Ade20k,
        {"folder": "ADEChallengeData2016"},
        ("training", "validation"),
        "the same, if its label images have 0 to 149 for the classes",
        {**_SPLIT, "labels": "raw"},
    ),
    "ifseg_table": FolderLayout(
        datasets.SegmentationTable,
        {"table_path": "ifseg/{split}.tsv"},
        ("ade20k", "coco_stuff", "coco_unseen"),
        "github.com/alinlab/ifseg, or written by `hyperseg data table`",
        {"benchmark": "{split}"},
    ),
    "cityscapes": FolderLayout(
        datasets.Cityscapes,
        {"folder": "cityscapes"},
        ("train", "val"),
        "cityscapes-dataset.com (leftImg8bit, gtFine; with a login)",
        _SPLIT,
    ),
    "pascal_context59": FolderLayout(
        datasets.PascalContext59,
        {"folder": "VOCdevkit/VOC2010"},
        ("train", "val"),
        "host.robots.ox.ac.uk/pascal/VOC/voc2010, cs.stanford.edu/~roozbeh/pascal-context",
        _SPLIT,
    ),
    "pascal_voc20": FolderLayout(
        datasets.PascalVoc20,
        {"folder": "VOCdevkit/VOC2012"},
        ("train", "val"),
        "host.robots.ox.ac.uk/pascal/VOC/voc2012",
        _SPLIT,
    ),
    "pascal_voc_objects": FolderLayout(
        datasets.PascalVocObjects,
        {"folder": "VOCdevkit/VOC2012"},
        ("train", "val"),
        "host.robots.ox.ac.uk/pascal/VOC/voc2012",
        _SPLIT,
    ),
    "visual_genome": FolderLayout(
        datasets.VisualGenome,
        {"folder": "visual_genome"},
        ("train", "val", "test"),
        "homes.cs.washington.edu/~ranjay/visualgenome, github.com/jcjohnson/densecap (densecap_splits.json)",
        _SPLIT,
    ),
    "objects365": FolderLayout(
        datasets.Objects365,
        {"json_path": "objects365/zhiyuan_objv2_{split}.json", "image_root": "objects365/{split}"},
        _TRAIN_VAL,
        "objects365.org",
    ),
    "coco_boxes": FolderLayout(
        datasets.CategoryBoxes,
        {"json_path": "coco/annotations/instances_{split}.json", "image_root": _COCO},
        _OF_2017,
        _COCO_SITE,
    ),
    "v3det": FolderLayout(
        datasets.CategoryBoxes,
        {"json_path": "V3Det/annotations/v3det_2023_v1_{split}.json", "image_root": "V3Det"},
        _TRAIN_VAL,
        "github.com/V3Det/V3Det",
    ),
    "refcoco_captions": _refer_layout("refcoco", "refs(unc).p", _UNC, reader=datasets.RefCocoCaptions),
    "refcoco+_captions": _refer_layout("refcoco+", "refs(unc).p", _UNC, reader=datasets.RefCocoCaptions),
    "refcocog_captions": _refer_layout("refcocog", "refs(umd).p", _UMD, reader=datasets.RefCocoCaptions),
    "llava": FolderLayout(
        datasets.Llava,
        {"json_path": "llava/llava_v1_5_mix665k.json", "image_root": "llava/images"},
        ("train",),
        "huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K",
    ),
    "vqav2": FolderLayout(
        datasets.VqaV2,
        {
            "questions_path": "vqav2/v2_OpenEnded_mscoco_{split}_questions.json",
            "annotations_path": "vqav2/v2_mscoco_{split}_annotations.json",
            "image_root": _COCO,
        },
        _OF_2014,
        "visualqa.org",
    ),
    "gqa": FolderLayout(
        datasets.Gqa,
        {"json_path": "gqa/{split}_questions.json", "image_root": "gqa/images"},
        ("train_balanced", "val_balanced", "testdev_balanced"),
        "cs.stanford.edu/people/dorarad/gqa",
    ),
    "pope": FolderLayout(
        datasets.Pope,
        {"json_path": "pope/coco_pope_{split}.json", "image_root": "coco/val2014"},
        ("random", "popular", "adversarial"),
        "github.com/RUCAIBox/POPE",
    ),
    "scienceqa": FolderLayout(
        datasets.ScienceQa, {"folder": "scienceqa"}, ("train", "val", "test"), "github.com/lupantech/ScienceQA", _SPLIT
    ),
    "mmbench": FolderLayout(
        datasets.MmBench,
        {"table_path": "mmbench/MMBench_{split}.tsv"},
        ("DEV_EN", "TEST_EN"),
        "github.com/open-compass/MMBench",
    ),
    "davis2016": FolderLayout(datasets.Davis2016, {"root": "davis2016"}, _TRAIN_VAL, f"{_DAVIS} (DAVIS 2016)", _SPLIT),
    "davis2017": FolderLayout(
        datasets.Davis2017, {"root": "davis2017"}, _TRAIN_VAL, f"{_DAVIS} (semi-supervised 480p)", _SPLIT
    ),
    "davis2017_unsupervised": FolderLayout(
        datasets.Davis2017,
        {"root": "davis2017"},
        _TRAIN_VAL,
        f"{_DAVIS} (unsupervised 480p, unpacked over the other)",
        {**_SPLIT, "task": "unsupervised"},
    ),
    "ref_davis": FolderLayout(
        datasets.RefDavis,
        {"root": "davis2017", "text_root": "davis2017/davis_text_annotations"},
        _TRAIN_VAL,
        f"{_DAVIS} (unsupervised 480p); mpi-inf.mpg.de, Khoreva et al. 2018 (davis_text_annotations)",
        _SPLIT,
    ),
    "ref_youtube_vos": FolderLayout(
        datasets.RefYouTubeVos,
        {
            "meta_path": "ref_youtube_vos/meta_expressions/{split}/meta_expressions.json",
            "frame_root": "ref_youtube_vos/{split}/JPEGImages",
        },
        _TRAIN_VALID,
        "youtube-vos.org/dataset/rvos",
        split_files={"train": {"mask_root": "ref_youtube_vos/train/Annotations"}},
    ),
    "youtube_vis_2019": FolderLayout(
        datasets.YouTubeVis,
        {"json_path": "youtube_vis_2019/{split}.json", "frame_root": "youtube_vis_2019/{split}/JPEGImages"},
        _TRAIN_VALID,
        _YOUTUBE_VIS,
    ),
    "youtube_vis_2021": FolderLayout(
        datasets.YouTubeVis,
        {"json_path": "youtube_vis_2021/{split}/instances.json", "frame_root": "youtube_vis_2021/{split}/JPEGImages"},
        _TRAIN_VALID,
        _YOUTUBE_VIS,
    ),
    "revos": FolderLayout(
        datasets.ReVos,
        {
            "meta_path": "revos/meta_expressions_{split}_.json",
            "mask_path": "revos/mask_dict.json",
            "frame_root": "revos/JPEGImages",
        },
        _TRAIN_VALID,
        "github.com/cilinyan/ReVOS-api",
        split_files={"valid": {"foreground_path": "revos/mask_dict_foreground.json"}},
    ),
    "folder": FolderLayout(datasets.Folder, {"folder": "."}, _ALL, "your own data: captions.jsonl, images and masks"),
    "labelme": FolderLayout(datasets.LabelMe, {"folder": "."}, _ALL, "your own data: a LabelMe folder"),
    "coco_json": FolderLayout(
        datasets.CocoInstances,
        {"json_path": "annotations.json", "image_root": "images"},
        _ALL,
        "your own data: a json in the format of COCO instances",
    ),
}
