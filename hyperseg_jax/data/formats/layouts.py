"""Where the files of each benchmark are expected below one folder (data.root of a config, --root of `hyperseg data check`)."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

from hyperseg_jax.data import formats
from hyperseg_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Layout:
    """One benchmark on disk.

    reader: its class. files: the reader's path arguments, below the root; "." is the root itself. splits: their names;
    {split} stands for them in files and options. options: the reader's other arguments. source: what to download.
    """

    reader: Callable[..., Any]
    files: dict[str, str]
    splits: tuple[str, ...]
    source: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def open(self, root: str | os.PathLike, split: str, **options: Any) -> Any:
        """The reader of a split. options: of the reader's class, in the place of the table's. UserError for missing files."""
        if split not in self.splits:
            raise UserError(f"split={split!r} is unknown; choose one of {', '.join(self.splits)}")
        paths = {name: pathlib.Path(root) / path.format(split=split) for name, path in self.files.items()}
        fixed = {name: value.format(split=split) if isinstance(value, str) else value for name, value in self.options.items()}
        return self.reader(**paths, **{**fixed, **options})

    def sizes(self, root: str | os.PathLike, split: str) -> dict[str, int]:
        """Bytes of those of its files that are no folders, by argument: what tells two releases apart."""
        paths = {name: pathlib.Path(root) / path.format(split=split) for name, path in self.files.items()}
        return {name: path.stat().st_size for name, path in paths.items() if path.is_file()}


def open_benchmark(name: str, split: str, root: str | os.PathLike, **options: Any) -> Any:
    """The reader of a split of a benchmark by its name in LAYOUTS; options: of the reader's class."""
    return find(name).open(root, split, **options)


def find(name: str) -> Layout:
    """The layout of that name, or a UserError that lists all."""
    if name not in LAYOUTS:
        raise UserError(f"benchmark {name!r} is unknown; use one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


_COCO = "coco/{split}"
_OF_2017, _OF_2014 = ("train2017", "val2017"), ("train2014", "val2014")
_SPLIT = {"split": "{split}"}
_COCO_SITE = "cocodataset.org"
_REFER = "github.com/lichengunc/refer, pictures of cocodataset.org"
_UNC, _UMD = ("train", "val", "testA", "testB"), ("train", "val", "test")
_ALL = ("all",)


def _refs(folder: str, file: str, splits: tuple[str, ...], source: str = _REFER) -> Layout:
    paths = {"refs_path": f"refer/{folder}/{file}", "instances_path": f"refer/{folder}/instances.json",
             "image_root": "coco/train2014"}  # fmt: skip
    return Layout(formats.RefCocoRefs, paths, splits, source, _SPLIT)


LAYOUTS: dict[str, Layout] = {
    "coco_panoptic": Layout(
        formats.CocoPanoptic,
        {
            "json_path": "coco/annotations/panoptic_{split}.json",
            "image_root": _COCO,
            "png_root": "coco/annotations/panoptic_{split}",
        },
        _OF_2017,
        _COCO_SITE,
    ),
    "coco_instances": Layout(
        formats.CocoInstances,
        {"json_path": "coco/annotations/instances_{split}.json", "image_root": _COCO},
        _OF_2017,
        _COCO_SITE,
    ),
    "coco_marks": Layout(
        formats.CocoMarks,
        {"json_path": "coco/annotations/instances_{split}.json", "image_root": _COCO},
        _OF_2017,
        f"{_COCO_SITE}; the marks are drawn by the reader",
    ),
    "coco_stuff": Layout(
        formats.CocoStuff,
        {"image_root": _COCO, "label_root": "coco/stuffthingmaps/{split}"},
        _OF_2017,
        "github.com/nightrome/cocostuff (stuffthingmaps_trainval2017.zip)",
    ),
    "interactive": Layout(
        formats.CocoInteractive,
        {"json_path": "interactive/coco_interactive_{split}.json", "image_root": "coco/{split}2017"},
        ("train", "val"),
        "github.com/zamling/PSALM",
    ),
    "refcoco": _refs("refcoco", "refs(unc).p", _UNC),
    "refcoco+": _refs("refcoco+", "refs(unc).p", _UNC),
    "refcocog": _refs("refcocog", "refs(umd).p", _UMD),
    "grefcoco": _refs("grefcoco", "grefs(unc).json", _UNC, "github.com/henghuiding/gRefCOCO"),
    "refcoco_json": Layout(
        formats.RefCoco,
        {"json_path": "refcoco/refcoco_{split}.json", "image_root": "coco/train2014"},
        _UNC,
        "github.com/zamling/PSALM",
    ),
    "reasonseg": Layout(
        formats.ReasonSeg, {"folder": "reasonseg/{split}"}, _UMD, "github.com/dvlab-research/LISA", {"sentences": "each"}
    ),
    "ade20k": Layout(
        formats.Ade20k, {"folder": "ADEChallengeData2016"}, ("training", "validation"), "sceneparsing.csail.mit.edu", _SPLIT
    ),
    "cityscapes": Layout(
        formats.Cityscapes,
        {"folder": "cityscapes"},
        ("train", "val"),
        "cityscapes-dataset.com (leftImg8bit, gtFine; with a login)",
        _SPLIT,
    ),
    "pascal_context59": Layout(
        formats.PascalContext59,
        {"folder": "VOCdevkit/VOC2010"},
        ("train", "val"),
        "host.robots.ox.ac.uk/pascal/VOC/voc2010, cs.stanford.edu/~roozbeh/pascal-context",
        _SPLIT,
    ),
    "pascal_voc20": Layout(
        formats.PascalVoc20,
        {"folder": "VOCdevkit/VOC2012"},
        ("train", "val"),
        "host.robots.ox.ac.uk/pascal/VOC/voc2012",
        _SPLIT,
    ),
    "visual_genome": Layout(
        formats.VisualGenome,
        {"folder": "visual_genome"},
        ("train", "val", "test"),
        "homes.cs.washington.edu/~ranjay/visualgenome, github.com/jcjohnson/densecap (densecap_splits.json)",
        _SPLIT,
    ),
    "objects365": Layout(
        formats.Objects365,
        {"json_path": "objects365/zhiyuan_objv2_{split}.json", "image_root": "objects365/{split}"},
        ("train", "val"),
        "objects365.org",
    ),
    "llava": Layout(
        formats.Llava,
        {"json_path": "llava/llava_v1_5_mix665k.json", "image_root": "llava/images"},
        ("train",),
        "huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K",
    ),
    "vqav2": Layout(
        formats.VqaV2,
        {
            "questions_path": "vqav2/v2_OpenEnded_mscoco_{split}_questions.json",
            "annotations_path": "vqav2/v2_mscoco_{split}_annotations.json",
            "image_root": _COCO,
        },
        _OF_2014,
        "visualqa.org",
    ),
    "gqa": Layout(
        formats.Gqa,
        {"json_path": "gqa/{split}_questions.json", "image_root": "gqa/images"},
        ("train_balanced", "val_balanced", "testdev_balanced"),
        "cs.stanford.edu/people/dorarad/gqa",
    ),
    "pope": Layout(
        formats.Pope,
        {"json_path": "pope/coco_pope_{split}.json", "image_root": "coco/val2014"},
        ("random", "popular", "adversarial"),
        "github.com/RUCAIBox/POPE",
    ),
    "scienceqa": Layout(
        formats.ScienceQa, {"folder": "scienceqa"}, ("train", "val", "test"), "github.com/lupantech/ScienceQA", _SPLIT
    ),
    "mmbench": Layout(
        formats.MmBench,
        {"table_path": "mmbench/MMBench_{split}.tsv"},
        ("DEV_EN", "TEST_EN"),
        "github.com/open-compass/MMBench",
    ),
    "folder": Layout(formats.Folder, {"folder": "."}, _ALL, "yours: captions.jsonl, pictures and masks"),
    "labelme": Layout(formats.LabelMe, {"folder": "."}, _ALL, "yours: the folder that LabelMe wrote"),
    "coco_json": Layout(
        formats.CocoInstances,
        {"json_path": "annotations.json", "image_root": "images"},
        _ALL,
        "yours: a json as of COCO instances",
    ),
}  # fmt: skip
