"""Small files of several formats, and how exports write their values: texts in place of numbers and flags, null, missing
fields."""

import dataclasses
import json

import numpy as np
from PIL import Image

from hyperseg_jax import datasets

SIZE = HEIGHT, WIDTH = 16, 24
MISSING, REFUSED = object(), object()
NAN, INFINITE = float("nan"), float("inf")

POLYGON = [[2, 3, 9, 3, 9, 8, 2, 8]]
AREA = 35
"""The pixels of POLYGON, as pycocotools fills it."""


def as_numbers(value):
    return [(float(value), value), (str(value), value), (f"{value}.0", value)]


NO_NUMBER = [(odd, REFUSED) for odd in ("", "x", "0x1", "1,5", "nan", True, [], {}, NAN, INFINITE)]
NO_TEXT = [(odd, REFUSED) for odd in (3, True, [], {}, "\ud800")]
NOTHING = [(None, REFUSED), (MISSING, REFUSED)]
NO_NAME = [("", REFUSED), (" ", REFUSED), (True, REFUSED), ([], REFUSED), ({}, REFUSED), (NAN, REFUSED), ("\ud800", REFUSED)]
NO_ID = [(odd, REFUSED) for odd in (1.5, True, [], {}, NAN)]
NO_FLAG = [(odd, REFUSED) for odd in ("", "yes", "true", "2", 2, -1, 0.5, NAN, [], {})]
FLAGS = [(1, True), (1.0, True), ("1", True), (0, False), (0.0, False), ("0", False), (False, False), (True, True)]
CORNERS = [[str(number) for number in polygon] for polygon in POLYGON]

KINDS = {  # the kind of a value -> how a sound value may be written, and what it means; REFUSED: it is an error
    "whole number": lambda value: [*as_numbers(value), (value + 0.5, REFUSED), *NO_NUMBER, *NOTHING],
    "area": lambda value: [
        *as_numbers(value),
        ("12.5", 12.5),
        ("3e1", 30),
        (None, AREA),
        (MISSING, AREA),
        (-1, REFUSED),
        *NO_NUMBER,
    ],
    "flag": lambda _: [*FLAGS, *NO_FLAG, *NOTHING],
    "optional flag": lambda _: [*FLAGS, *NO_FLAG, (None, False), (MISSING, False)],
    "no flag": lambda _: [*((odd, False) for odd in (0, 0.0, "0", False, None, MISSING)), *NO_FLAG],
    "own id": lambda value: [(float(value), value), (str(value), value), *NO_ID, *NOTHING],
    "listed id": lambda value: [(float(value), value), (str(value), value), (f"0{value}", REFUSED), ("x", REFUSED), *NO_ID],
    "id": lambda value: [*KINDS["listed id"](value), *NOTHING],
    "optional id": lambda value: [(float(value), value), (str(value), value), (None, REFUSED), *NO_ID],
    "group": lambda value: [(float(value), value), (str(value), value), (None, MISSING), (True, REFUSED), ([], REFUSED)],
    "name": lambda _: [(3, "3"), (1.5, "1.5"), *NO_NAME, *NOTHING],
    "optional name": lambda _: [(3, "3"), ("", MISSING), (None, MISSING), *NO_NAME[1:]],
    "sentence": lambda _: [("", REFUSED), (" ", REFUSED), *NO_TEXT, *NOTHING],
    "text": lambda _: [*NO_TEXT, *NOTHING],
    "answer": lambda _: [*NO_TEXT, (None, REFUSED)],
    "optional text": lambda _: [*NO_TEXT, (None, ""), (MISSING, "")],
    "file": lambda _: [("", REFUSED), ("../x", REFUSED), *NO_TEXT, *NOTHING],
    "frames": lambda value: [([], REFUSED), ([*value, value[0]], REFUSED), ([0, 1], REFUSED), ("a", REFUSED), *NOTHING],
    "polygons": lambda value: (
        [(CORNERS, value)]
        + [(odd, REFUSED) for odd in ([], [[]], "x", 3, {}, [["a"] * 6], [[NAN] * 6], [[True] * 6], [[1, 2, 3, 4]])]
        + NOTHING
    ),
    "points": lambda value: (
        [([[str(x), str(y)] for x, y in value], value)]
        + [(odd, REFUSED) for odd in ([], "x", 3, {}, [[1, 2, 3]] * 3, [["a", "b"]] * 3, [[NAN, 1]] * 3, [[True, 1]] * 3)]
        + NOTHING
    ),
    "track": lambda value: (
        [([CORNERS, None], value), ([POLYGON, []], value), ([POLYGON], REFUSED), ([POLYGON, ""], REFUSED)]
        + [(odd, REFUSED) for odd in ("x", 3, {}, [POLYGON, 0], [POLYGON, False], [POLYGON, {}])]
        + NOTHING
    ),
    "shape": lambda value: [(None, value), (MISSING, value), ("", REFUSED), (0, REFUSED), ("oval", REFUSED), ([], REFUSED)],
    "speaker": lambda _: [("user", REFUSED), (1, REFUSED), *NOTHING],
}


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(path)


@dataclasses.dataclass(frozen=True)
class Format:
    """content: of the json files, by name. values: (file, keys of the value, its kind, the record as messages name it)."""

    content: dict
    values: list
    open_reader: object
    write_others: object

    def write(self, folder, content):
        for name, value in content.items():
            lines = name.endswith(".jsonl")
            (folder / name).write_text("\n".join(map(json.dumps, value)) if lines else json.dumps(value))


IMAGES = [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}]
CATEGORIES = [{"id": 1, "name": "bar"}, {"id": 2, "name": "disc"}]


def annotation(number, **others):
    sound = {"id": number, "image_id": 1, "category_id": 1, "segmentation": POLYGON, "area": AREA, "iscrowd": False}
    return sound | others


def write_one(folder):
    write_image(folder / "a.png")


COCO = Format(
    {"coco.json": {"images": IMAGES, "annotations": [annotation(5), annotation(6)], "categories": CATEGORIES}},
    [
        ("coco.json", ("images", 0, "id"), "own id", "images#0"),
        ("coco.json", ("images", 0, "file_name"), "file", "images#0"),
        ("coco.json", ("images", 0, "height"), "whole number", "images#0"),
        ("coco.json", ("annotations", 1, "id"), "optional id", "annotations#1"),
        ("coco.json", ("annotations", 1, "image_id"), "id", "annotations#1"),
        ("coco.json", ("annotations", 1, "category_id"), "whole number", "annotations#1"),
        ("coco.json", ("annotations", 1, "segmentation"), "polygons", "annotations#1"),
        ("coco.json", ("annotations", 1, "area"), "area", "annotations#1"),
        ("coco.json", ("annotations", 1, "iscrowd"), "optional flag", "annotations#1"),
        ("coco.json", ("categories", 1, "id"), "whole number", "categories#1"),
        ("coco.json", ("categories", 1, "name"), "name", "categories#1"),
    ],
    lambda folder: datasets.CocoInstances(folder / "coco.json", folder),
    write_one,
)


def write_panoptic(folder):
    write_image(folder / "a.png")
    ids = np.zeros((*SIZE, 3), np.uint8)
    ids[..., 0] = 7
    ids[3:8, 2:9, 0] = 8
    (folder / "ids").mkdir(exist_ok=True)
    Image.fromarray(ids).save(folder / "ids" / "a.png")


SEGMENTS = [{"id": 7, "category_id": 1, "iscrowd": False}, {"id": 8, "category_id": 2, "iscrowd": False}]
PANOPTIC = Format(
    {
        "panoptic.json": {
            "images": IMAGES,
            "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": SEGMENTS}],
            "categories": [row | {"isthing": True} for row in CATEGORIES],
        }
    },
    [
        ("panoptic.json", ("images", 0, "id"), "own id", "images#0"),
        ("panoptic.json", ("images", 0, "file_name"), "file", "images#0"),
        ("panoptic.json", ("images", 0, "width"), "whole number", "images#0"),
        ("panoptic.json", ("annotations", 0, "image_id"), "id", "annotations#0"),
        ("panoptic.json", ("annotations", 0, "segments_info", 1, "id"), "whole number", "annotations#0 segments_info#1"),
        (
            "panoptic.json",
            ("annotations", 0, "segments_info", 1, "category_id"),
            "whole number",
            "annotations#0 segments_info#1",
        ),
        ("panoptic.json", ("annotations", 0, "segments_info", 1, "iscrowd"), "optional flag", "annotations#0 segments_info#1"),
        ("panoptic.json", ("categories", 1, "isthing"), "flag", "categories#1"),
        ("panoptic.json", ("categories", 1, "name"), "name", "categories#1"),
    ],
    lambda folder: datasets.CocoPanoptic(folder / "panoptic.json", folder, folder / "ids"),
    write_panoptic,
)

REFCOCO = Format(
    {
        "refs.json": [
            {
                "image_info": {"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
                "instruction": [{"sent": "a bar"}, {"sent": "the bar"}],
                "anns": [{"image_id": 1, "segmentation": POLYGON}, {"image_id": 1, "segmentation": POLYGON}],
                "no_target": False,
                "group": "one",
            }
        ]
    },
    [
        ("refs.json", (0, "image_info", "id"), "optional id", "refs.json#0"),
        ("refs.json", (0, "image_info", "file_name"), "file", "refs.json#0"),
        ("refs.json", (0, "image_info", "height"), "whole number", "refs.json#0"),
        ("refs.json", (0, "instruction", 1, "sent"), "text", "refs.json#0 instruction#1"),
        ("refs.json", (0, "anns", 1, "segmentation"), "polygons", "refs.json#0 anns#1"),
        ("refs.json", (0, "anns", 1, "image_id"), "optional id", "refs.json#0 anns#1"),
        ("refs.json", (0, "no_target"), "no flag", "refs.json#0"),
        ("refs.json", (0, "group"), "optional name", "refs.json#0"),
    ],
    lambda folder: datasets.RefCoco(folder / "refs.json", folder),
    write_one,
)

REFS = Format(
    {
        "refs.json": [
            {"ref_id": 3, "ann_id": [5, 6], "image_id": 1, "split": "val", "sentences": [{"sent": "a bar"}, {"sent": "both"}]},
            {"ref_id": 4, "ann_id": [5], "image_id": 1, "split": "val", "sentences": [{"sent": "a bar"}]},
        ],
        "instances.json": COCO.content["coco.json"],
    },
    [
        ("refs.json", (0, "ref_id"), "optional id", "refs.json#0"),
        ("refs.json", (0, "ann_id", 1), "listed id", "refs.json#0"),
        ("refs.json", (0, "image_id"), "id", "refs.json#0"),
        ("refs.json", (0, "split"), "text", "refs.json#0"),
        ("refs.json", (0, "sentences", 1, "sent"), "sentence", "refs.json#0"),
        ("instances.json", ("annotations", 1, "id"), "id", ""),
        ("instances.json", ("annotations", 1, "image_id"), "id", "annotations#1"),
        ("instances.json", ("annotations", 1, "segmentation"), "polygons", "annotations#1"),
        ("instances.json", ("images", 0, "file_name"), "file", "image 1"),
        ("instances.json", ("images", 0, "height"), "whole number", "image 1"),
    ],
    lambda folder: datasets.RefCocoRefs(folder / "refs.json", folder / "instances.json", folder, split="val"),
    write_one,
)

LABELME = Format(
    {
        "a.json": {
            "imagePath": "a.png",
            "imageHeight": HEIGHT,
            "imageWidth": WIDTH,
            "shapes": [
                {"label": "bar", "points": [[2, 3], [9, 3], [9, 8]], "shape_type": "polygon", "group_id": 1},
                {"label": "bar", "points": [[12, 3], [15, 3], [15, 8]], "shape_type": "polygon", "group_id": 1},
                {"label": "disc", "points": [[2, 3], [9, 3], [9, 8]], "shape_type": "polygon", "group_id": None},
            ],
        }
    },
    [
        ("a.json", ("imagePath",), "file", "a.json"),
        ("a.json", ("imageHeight",), "whole number", "a.json"),
        ("a.json", ("imageWidth",), "whole number", "a.json"),
        ("a.json", ("shapes", 1, "label"), "name", "shapes#1"),
        ("a.json", ("shapes", 1, "points"), "points", "shapes#1"),
        ("a.json", ("shapes", 1, "shape_type"), "shape", "shapes#1"),
        ("a.json", ("shapes", 1, "group_id"), "group", "shapes#1"),
    ],
    lambda folder: datasets.LabelMe(folder),
    write_one,
)


def write_mask(folder):
    write_image(folder / "a.png")
    mask = np.zeros(SIZE, np.uint8)
    mask[3:8, 2:9] = 255
    Image.fromarray(mask).save(folder / "m.png")


LINE = {"image": "a.png", "text": "a bar", "mask": "m.png", "answer": "it is long", "group": "easy", "split": "train"}
CAPTIONS = Format(
    {"captions.jsonl": [LINE, dict(LINE)]},
    [
        ("captions.jsonl", (1, "image"), "file", "captions.jsonl line 2"),
        ("captions.jsonl", (1, "text"), "sentence", "captions.jsonl line 2"),
        ("captions.jsonl", (1, "mask"), "mask", "captions.jsonl line 2"),
        ("captions.jsonl", (1, "answer"), "optional text", "captions.jsonl line 2"),
        ("captions.jsonl", (1, "group"), "optional name", "captions.jsonl line 2"),
        ("captions.jsonl", (1, "split"), "optional name", "captions.jsonl line 2"),
    ],
    lambda folder: datasets.Folder(folder, task="reasoning"),
    write_mask,
)
KINDS["mask"] = lambda value: [
    ([value], value),
    ([value, value], value),
    ([], None),
    *((odd, REFUSED) for odd in ("", "../x", 3, True, {}, [3], [None], [""], "\ud800", MISSING)),
]


def write_clip(folder):
    for name in ("0", "1"):
        write_image(folder / "v" / f"{name}.jpg")


YOUTUBE_VIS = Format(
    {
        "clips.json": {
            "videos": [{"id": 1, "height": HEIGHT, "width": WIDTH, "file_names": ["v/0.jpg", "v/1.jpg"]}],
            "categories": CATEGORIES,
            "annotations": [
                {"id": n, "video_id": 1, "category_id": 1, "iscrowd": False, "segmentations": [POLYGON, None]} for n in (5, 6)
            ],
        }
    },
    [
        ("clips.json", ("videos", 0, "id"), "own id", "videos#0"),
        ("clips.json", ("videos", 0, "height"), "whole number", "video 1"),
        ("clips.json", ("videos", 0, "file_names"), "frames", "video 1"),
        ("clips.json", ("annotations", 1, "id"), "optional id", "annotations#1"),
        ("clips.json", ("annotations", 1, "video_id"), "id", "annotations#1"),
        ("clips.json", ("annotations", 1, "category_id"), "whole number", "annotations#1"),
        ("clips.json", ("annotations", 1, "iscrowd"), "optional flag", "annotations#1"),
        ("clips.json", ("annotations", 1, "segmentations"), "track", "annotations#1"),
        ("clips.json", ("categories", 1, "name"), "name", "categories#1"),
    ],
    lambda folder: datasets.YouTubeVis(folder / "clips.json", folder),
    write_clip,
)


def write_clip_and_masks(folder):
    write_clip(folder)
    (folder / "masks" / "v").mkdir(parents=True, exist_ok=True)
    for name in ("0", "1"):
        ids = np.zeros(SIZE, np.uint8)
        ids[3:8, 2:9] = 1
        Image.fromarray(ids).save(folder / "masks" / "v" / f"{name}.png")


REF_YOUTUBE_VOS = Format(
    {
        "meta.json": {
            "videos": {
                "v": {
                    "frames": ["0", "1"],
                    "expressions": {"0": {"exp": "a bar", "obj_id": 1}, "1": {"exp": "the bar", "obj_id": 1}},
                }
            }
        }
    },
    [
        ("meta.json", ("videos", "v", "frames"), "frames", "meta.json v"),
        ("meta.json", ("videos", "v", "expressions", "1", "exp"), "sentence", "meta.json v 1"),
        ("meta.json", ("videos", "v", "expressions", "1", "obj_id"), "whole number", "meta.json v 1"),
    ],
    lambda folder: datasets.RefYouTubeVos(folder / "meta.json", folder, folder / "masks"),
    write_clip_and_masks,
)

TURNS = [("human", "<image>\nWhat?"), ("gpt", "A bar."), ("human", "Where?"), ("gpt", "Left.")]
LLAVA = Format(
    {"llava.json": [{"id": "a", "image": "a.png", "conversations": [{"from": who, "value": text} for who, text in TURNS]}]},
    [
        ("llava.json", (0, "image"), "image", "llava.json#0"),
        ("llava.json", (0, "conversations", 2, "value"), "text", "llava.json#0 conversations#2"),
        ("llava.json", (0, "conversations", 3, "value"), "text", "llava.json#0 conversations#3"),
        ("llava.json", (0, "conversations", 3, "from"), "speaker", "llava.json#0 conversations#3"),
    ],
    lambda folder: datasets.Llava(folder / "llava.json", folder),
    write_one,
)
KINDS["image"] = lambda _: [("", REFUSED), ("../x", REFUSED), *NO_TEXT]

VQA = Format(
    {
        "questions.json": {"questions": [{"question_id": 8, "image_id": 1, "question": "What?"}]},
        "answers.json": {
            "annotations": [
                {
                    "question_id": 8,
                    "image_id": 1,
                    "multiple_choice_answer": "bar",
                    "answer_type": "other",
                    "answers": [{"answer": "bar"}, {"answer": "disc"}],
                }
            ]
        },
    },
    [
        ("questions.json", ("questions", 0, "question_id"), "id", "questions#0"),
        ("questions.json", ("questions", 0, "image_id"), "whole number", "questions#0"),
        ("questions.json", ("questions", 0, "question"), "sentence", "questions#0"),
        ("answers.json", ("annotations", 0, "image_id"), "optional id", "question_id 8"),
        ("answers.json", ("annotations", 0, "multiple_choice_answer"), "answer", "question_id 8"),
        ("answers.json", ("annotations", 0, "answer_type"), "optional name", "question_id 8"),
        ("answers.json", ("annotations", 0, "answers", 1, "answer"), "text", "question_id 8"),
    ],
    lambda folder: datasets.VqaV2(folder / "questions.json", folder / "val2014", annotations_path=folder / "answers.json"),
    lambda folder: write_image(folder / "val2014" / "COCO_val2014_000000000001.jpg"),
)

FORMATS = {
    "coco": COCO,
    "panoptic": PANOPTIC,
    "refcoco": REFCOCO,
    "refs": REFS,
    "labelme": LABELME,
    "captions": CAPTIONS,
    "youtube_vis": YOUTUBE_VIS,
    "ref_youtube_vos": REF_YOUTUBE_VOS,
    "llava": LLAVA,
    "vqa": VQA,
}
