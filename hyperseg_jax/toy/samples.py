"""Writes a few toy images and videos in the layout of every benchmark (datasets/layouts), to test readers and checks.

All splits of an image benchmark have the same images, except that RefCOCOg's val has only the last one, because the training
data of coco_with_sentences lack its images. LVIS has the masks of COCO, a pixel larger. The ground truth is that of the toy
scenes; shapes use class ids of the benchmarks.
"""

from __future__ import annotations

import base64
import io
import json
import os
import pathlib
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from hyperseg_jax.atomic import atomic_folder, is_temporary
from hyperseg_jax.datasets import Ade20k, CocoStuff, class_names, masks
from hyperseg_jax.datasets.choices import LETTERS
from hyperseg_jax.datasets.segmentation_table import write_table
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops.dilation import dilate
from hyperseg_jax.toy import toy_images, video_layouts, writer
from hyperseg_jax.toy.vocabulary import BACKGROUNDS, CATEGORY_IDS, SHAPES, SIZE

YEARS = ("train2017", "val2017", "train2014", "val2014")


def write_samples(out_dir: str | os.PathLike, *, count: int = 2, seed: int = 0) -> list[toy_images.ToyImage]:
    """Writes the files of all benchmarks atomically to a new or empty folder, and returns the images."""
    out = pathlib.Path(out_dir)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; choose a new folder")
    if out.exists() and not all(map(is_temporary, out.iterdir())):
        raise UserError(f"{out}: is not empty; choose a new folder")
    world = toy_images.World(seed, train=0, val=count, compositional=0, clips=0)
    drawn = [toy_images.generate_image(world, "val", k) for k in range(count)]
    records = [writer.build_image_records(world, "val", k, image) for k, image in enumerate(drawn)]
    with atomic_folder(out) as root:
        _write_coco(root, world, drawn, records)
        _write_referring(root, drawn, records)
        _write_reasoning(root, world)
        _write_label_images(root, drawn)
        _write_tables(root)
        _write_regions(root, drawn)
        _write_questions(root, drawn)
        _write_own_data(root, drawn)
        video_layouts.write_video_layouts(root, train=1, val=1, seed=seed)
    return drawn


def _save_image(path: pathlib.Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=writer.JPEG_QUALITY)  # ignored for PNG


def _write_json(path: pathlib.Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _write_json_lines(path: pathlib.Path, records: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def _coco_name(split: str, k: int) -> str:
    return f"COCO_{split}_{k:012d}.jpg" if split.endswith("2014") else f"{k:012d}.jpg"


def _build_instances(
    world: toy_images.World, drawn: list[toy_images.ToyImage], records: list[dict], split: str
) -> dict[str, Any]:
    """Returns the content of COCO's instances json. Every second mask is stored as polygons, the other masks as run-length
    encodings."""
    notes = [note for record in records for note in record["instances"]]
    for note in notes:
        if note["id"] % 2:  # the others use run lengths
            visible_masks = drawn[note["image_id"]].scene.masks[note["id"] - note["image_id"] * 10 - 1]
            note["segmentation"] = _polygons_of(visible_masks)
    return {
        "images": [record["image"] | {"file_name": _coco_name(split, k)} for k, record in enumerate(records)],
        "annotations": notes,
        "categories": [row for row in writer.coco_categories(world, "val") if row["isthing"]],
    }


def _build_lvis(drawn: list[toy_images.ToyImage], split: str) -> dict[str, Any]:
    """Returns the content of an LVIS json. Images alternate between train and val."""
    numbers = [k for k in range(len(drawn)) if (k % 2 == 0) == (split == "train")]
    notes = [
        {"id": 10 * k + n + 1, "image_id": k, "category_id": 1, "segmentation": _polygons_of(dilate(mask, 1))}
        for k in numbers
        for n, mask in enumerate(drawn[k].scene.masks)
    ]
    images = [{"id": k, "height": SIZE, "width": SIZE} for k in numbers]
    return {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "shape"}]}


def _polygons_of(mask: np.ndarray) -> list[list[float]]:
    return [outline.astype(float).reshape(-1).tolist() for outline in masks.trace_polygons(mask)]


def _with_coco_categories(record: dict[str, Any]) -> dict[str, Any]:
    """Returns an annotation of COCO panoptic in which shapes and backgrounds have the ids of COCO's things and stuff."""
    things, stuff = class_names.COCO_THING_IDS, tuple(class_names.COCO_PANOPTIC_STUFF)
    coco_ids = {
        number: stuff[list(BACKGROUNDS).index(name)] if name in BACKGROUNDS else things[number - 1]
        for name, number in CATEGORY_IDS.items()
    }
    return record | {
        "segments_info": [segment | {"category_id": coco_ids[segment["category_id"]]} for segment in record["segments_info"]]
    }


def _write_coco(root: pathlib.Path, world: toy_images.World, drawn: list[toy_images.ToyImage], records: list[dict]) -> None:
    notes = root / "coco" / "annotations"
    for split in YEARS:
        for k, image in enumerate(drawn):
            _save_image(root / "coco" / split / _coco_name(split, k), image.pixels)
    for split in YEARS[:2]:
        _write_json(notes / f"instances_{split}.json", _build_instances(world, drawn, records, split))
        _write_json(
            notes / f"panoptic_{split}.json",
            {
                "images": [record["image"] for record in records],
                "annotations": [_with_coco_categories(record["panoptic"]) for record in records],
                "categories": [
                    {"id": number, "name": name, "isthing": int(number in class_names.COCO_THING_IDS)}
                    for number, name in class_names.COCO_PANOPTIC.items()
                ],
            },
        )
        (notes / f"panoptic_{split}").mkdir()
        for k, (image, record) in enumerate(zip(drawn, records, strict=True)):
            visible_masks = image.scene.masks
            segments = np.concatenate([visible_masks, ~visible_masks.any(0, keepdims=True)])
            numbers = [segment["id"] for segment in record["panoptic"]["segments_info"]]
            writer.encode_panoptic(segments, numbers).save(notes / f"panoptic_{split}" / f"{k:012d}.png")
    for split in ("train", "val"):
        _write_json(root / "lvis" / f"lvis_v1_{split}.json", _build_lvis(drawn, split))
        _write_json(root / "interactive" / f"coco_interactive_{split}.json", [record["interactive"] for record in records])
    _write_json(
        root / "llava" / "llava_v1_5_mix665k.json",
        [record["llava"] | {"image": f"coco/train2017/{k:012d}.jpg"} for k, record in enumerate(records)]
        + [{"id": "text", "conversations": records[0]["llava"]["conversations"]}],
    )
    for k, image in enumerate(drawn):
        _save_image(root / "llava" / "images" / "coco" / "train2017" / f"{k:012d}.jpg", image.pixels)


def _write_referring(root: pathlib.Path, drawn: list[toy_images.ToyImage], records: list[dict]) -> None:
    world = toy_images.World(val=len(drawn))
    instances = _build_instances(world, drawn, records, "train2014")
    refs: dict[str, list[dict]] = {"one": [], "any": []}
    for k, image in enumerate(drawn):
        for expression in image.expressions:
            target_ids = [k * 10 + target + 1 for target in expression.targets]
            words = expression.text.split()
            common = {
                "image_id": k,
                "file_name": _coco_name("train2014", k),
                "category_id": 1,
                "sentences": [{"sent": expression.text, "raw": expression.text, "tokens": words, "sent_id": k}],
            }
            if len(target_ids) == 1:
                refs["one"].append(common | {"ann_id": target_ids[0], "ref_id": len(refs["one"])})
            target_fields = {"ann_id": target_ids or [-1], "no_target": not target_ids, "ref_id": len(refs["any"])}
            refs["any"].append(common | target_fields)
    for folder, file, splits, protocol in (
        ("refcoco", "refs(unc).p", ("train", "val", "testA", "testB"), 0),
        ("refcoco+", "refs(unc).p", ("train", "val", "testA", "testB"), 2),
        ("refcocog", "refs(umd).p", ("train", "val", "test"), 2),
    ):
        dataset = root / "refer" / folder
        _write_json(dataset / "instances.json", instances)
        split_refs = [
            ref | {"split": split}
            for split in splits
            for ref in refs["one"]
            if (folder, split) != ("refcocog", "val") or ref["image_id"] == len(drawn) - 1
        ]
        (dataset / file).write_bytes(pickle.dumps(split_refs, protocol))
    _write_json(root / "refer" / "grefcoco" / "instances.json", instances)
    splits = ("train", "val", "testA", "testB")
    _write_json(
        root / "refer" / "grefcoco" / "grefs(unc).json", [ref | {"split": split} for split in splits for ref in refs["any"]]
    )
    rows = [row for record in records for row in record["refcoco"]]
    rows = [
        row | {"image_info": row["image_info"] | {"file_name": _coco_name("train2014", row["image_info"]["id"])}}
        for row in rows
    ]
    for split in (*splits, "test"):
        for name in ("refcoco", "refcoco+", "refcocog"):
            _write_json(root / "refcoco" / f"{name}_{split}.json", [{"new_img_id": k, **row} for k, row in enumerate(rows)])


def _write_reasoning(root: pathlib.Path, world: toy_images.World) -> None:
    explanations = []
    for split in ("train", "val", "test"):
        scene, pixels, question = toy_images.generate_reasoning_image(world, "val", 0)
        _save_image(root / "reasonseg" / split / "0.jpg", pixels)
        shapes = [
            {"label": "target", "points": outline.tolist()}
            for target in question.targets
            for outline in masks.trace_polygons(scene.masks[target])
        ]
        shapes.append({"label": "ignore", "points": [[0, 0], [5, 0], [5, 5], [0, 5]]})
        texts = [question.text, f"{question.text} again"]
        _write_json(root / "reasonseg" / split / "0.json", {"text": texts, "is_sentence": True, "shapes": shapes})
        explanations = [{"image": "0.jpg", "query": question.text, "outputs": question.answer}]
    _write_json(root / "reasonseg" / "explanatory" / "train.json", explanations)


def _semantic_map(image: toy_images.ToyImage, numbers: Sequence[int], background_label: int) -> np.ndarray:
    """Returns a label image in which each shape has one of the label ids, by its category."""
    labels = np.full((SIZE, SIZE), background_label, np.uint8)
    for thing, mask in zip(image.scene.things, image.scene.masks, strict=True):
        labels[mask] = numbers[CATEGORY_IDS[thing.name] % len(numbers)]
    return labels


def _instance_map(image: toy_images.ToyImage) -> np.ndarray:
    """Returns an instance image: objects are numbered from 1, the first row is border (255)."""
    owner = np.zeros((SIZE, SIZE), np.uint8)
    for number, mask in enumerate(image.scene.masks, 1):
        owner[mask] = number
    owner[0] = 255
    return owner


def _write_label_images(root: pathlib.Path, drawn: list[toy_images.ToyImage]) -> None:
    voc, context = root / "VOCdevkit" / "VOC2012", root / "VOCdevkit" / "VOC2010"
    names = "".join(f"2012_{k:06d}\n" for k in range(len(drawn)))
    for dataset, folder in ((voc, "Segmentation"), (context, "SegmentationContext")):
        (dataset / "ImageSets" / folder).mkdir(parents=True)
        for split in ("train", "val"):
            (dataset / "ImageSets" / folder / f"{split}.txt").write_text(names)
    for k, image in enumerate(drawn):
        for split in ("training", "validation"):
            dataset, name = root / "ADEChallengeData2016", f"ADE_{split}_{k:08d}"
            _save_image(dataset / "images" / split / f"{name}.jpg", image.pixels)
            _save_image(dataset / "annotations" / split / f"{name}.png", _semantic_map(image, range(1, 151), 0))
        for split in ("train", "val"):
            name = f"town_{k:06d}_000019"
            _save_image(root / "cityscapes" / "leftImg8bit" / split / "town" / f"{name}_leftImg8bit.png", image.pixels)
            labels = _semantic_map(image, class_names.CITYSCAPES_IDS, 7)
            _save_image(root / "cityscapes" / "gtFine" / split / "town" / f"{name}_gtFine_labelIds.png", labels)
        for split in YEARS[:2]:
            labels = _semantic_map(image, class_names.COCO_STUFF_IDS, 255)
            _save_image(root / "coco" / "stuffthingmaps" / split / f"{k:012d}.png", labels)
        labels = _semantic_map(image, range(1, 21), 0)
        labels[0] = 255
        coloured = Image.fromarray(labels).convert("P")  # label ids as palette indices
        for dataset in (voc, context):
            _save_image(dataset / "JPEGImages" / f"2012_{k:06d}.jpg", image.pixels)
        (voc / "SegmentationClass").mkdir(exist_ok=True)
        coloured.save(voc / "SegmentationClass" / f"2012_{k:06d}.png")
        _save_image(voc / "SegmentationObject" / f"2012_{k:06d}.png", _instance_map(image))
        _save_image(context / "SegmentationClassContext" / f"2012_{k:06d}.png", _semantic_map(image, range(1, 60), 0))


def _write_tables(root: pathlib.Path) -> None:
    """Writes the tables of IFSeg from the label images."""
    stuff = root / "coco" / "val2017", root / "coco" / "stuffthingmaps" / "val2017"
    readers: dict[str, Any] = {
        "ade20k": Ade20k(root / "ADEChallengeData2016", "validation"),
        "coco_stuff": CocoStuff(*stuff, names="words"),
        "coco_unseen": CocoStuff(*stuff, names="words", subset="unseen"),
    }
    (root / "ifseg").mkdir()
    for name, reader in readers.items():
        write_table(reader, root / "ifseg" / f"{name}.tsv")


def _bounding_boxes(image: toy_images.ToyImage) -> list[list[int]]:
    return [writer.bounding_box(mask) for mask in image.scene.masks]


def _write_regions(root: pathlib.Path, drawn: list[toy_images.ToyImage]) -> None:
    folder_path = root / "visual_genome"
    descriptions, data, annotations = [], [], []
    images: list[dict[str, Any]] = []
    for k, image in enumerate(drawn):
        _save_image(folder_path / ("VG_100K_2" if k % 2 else "VG_100K") / f"{k + 1}.jpg", image.pixels)
        data.append({"image_id": k + 1, "width": SIZE, "height": SIZE, "url": "", "coco_id": None})
        regions = []
        images.append({"id": k, "file_name": f"images/v1/patch0/objects365_v1_{k:08d}.jpg", "width": SIZE, "height": SIZE})
        for number, (thing, box) in enumerate(zip(image.scene.things, _bounding_boxes(image), strict=True)):
            box_fields = dict(zip(("x", "y", "width", "height"), box, strict=True))
            regions.append({"region_id": 100 * k + number, "image_id": k + 1, "phrase": f"the {thing.name} ", **box_fields})
            annotations.append(
                {
                    "id": 100 * k + number,
                    "image_id": k,
                    "category_id": CATEGORY_IDS[thing.name],
                    "bbox": box,
                    "iscrowd": 0,
                    "area": box[2] * box[3],
                }
            )
        descriptions.append({"id": k + 1, "regions": regions})
    _write_json(folder_path / "image_data.json", data)
    _write_json(folder_path / "region_descriptions.json", descriptions)
    numbers = [row["image_id"] for row in data]
    _write_json(folder_path / "densecap_splits.json", {split: numbers for split in ("train", "val", "test")})
    categories = [{"id": number, "name": name} for name, number in CATEGORY_IDS.items()]
    for split in ("train", "val"):
        for k, image in enumerate(drawn):
            _save_image(root / "objects365" / split / "patch0" / f"objects365_v1_{k:08d}.jpg", image.pixels)
        boxes = {"annotations": annotations, "categories": categories}
        _write_json(root / "objects365" / f"zhiyuan_objv2_{split}.json", boxes | {"images": images})
        crawled = [row | {"file_name": f"images/n07745046/{row['id']}.jpg"} for row in images]
        for row, image in zip(crawled, drawn, strict=True):
            _save_image(root / "V3Det" / row["file_name"], image.pixels)
        _write_json(root / "V3Det" / "annotations" / f"v3det_2023_v1_{split}.json", boxes | {"images": crawled})


def _write_questions(root: pathlib.Path, drawn: list[toy_images.ToyImage]) -> None:
    questions = [(k, question, answer) for k, image in enumerate(drawn) for question, answer in image.conversation]
    shapes = [[thing.shape for thing in image.scene.things] for image in drawn]
    for split in YEARS[2:]:
        _write_json(
            root / "vqav2" / f"v2_OpenEnded_mscoco_{split}_questions.json",
            {
                "questions": [
                    {"question_id": n, "image_id": k, "question": question} for n, (k, question, _) in enumerate(questions)
                ]
            },
        )
        _write_json(
            root / "vqav2" / f"v2_mscoco_{split}_annotations.json",
            {
                "annotations": [
                    {
                        "question_id": n,
                        "image_id": k,
                        "answer_type": "other",
                        "multiple_choice_answer": answer,
                        "answers": [
                            {"answer": answer, "answer_confidence": "yes", "answer_id": person} for person in range(1, 11)
                        ],
                    }
                    for n, (k, _, answer) in enumerate(questions)
                ]
            },
        )
    for split in ("train_balanced", "val_balanced", "testdev_balanced"):
        _write_json(
            root / "gqa" / f"{split}_questions.json",
            {
                f"{n:08d}": {"imageId": f"n{k}", "question": question, "answer": answer, "types": {"structural": "query"}}
                for n, (k, question, answer) in enumerate(questions)
            },
        )
    for kind in ("random", "popular", "adversarial"):
        _write_json_lines(
            root / "pope" / f"coco_pope_{kind}.json",
            [
                {
                    "question_id": n,
                    "image": _coco_name("val2014", n % len(drawn)),
                    "text": f"Is there a {shape} in the image?",
                    "label": "yes" if shape in shapes[n % len(drawn)] else "no",
                }
                for n, shape in enumerate(SHAPES)
            ],
        )
    problems: dict[str, dict] = {}
    table = [["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image"]]
    for k, image in enumerate(drawn):
        _save_image(root / "gqa" / "images" / f"n{k}.jpg", image.pixels)
        jpeg = io.BytesIO()
        Image.fromarray(image.pixels).save(jpeg, "JPEG", quality=writer.JPEG_QUALITY)
        choices = [shapes[k][0], *(shape for shape in SHAPES if shape not in shapes[k])][:4]
        for split in ("train", "val", "test"):
            problems[f"{split}{k}"] = {
                "question": "Which shape is there?",
                "choices": choices,
                "answer": 0,
                "hint": "One of them is.",
                "image": "image.png",
                "subject": "natural science",
                "split": split,
            }
            _save_image(root / "scienceqa" / "images" / split / f"{split}{k}" / "image.png", image.pixels)
        options = [*choices[: 4 - 2 * (k % 2)], "", ""][:4]  # every second question has two options
        row = [str(k), '"Which shape\nis ""there""?"', "nan", *options, LETTERS[0], "shapes"]
        table += [[*row, base64.b64encode(jpeg.getvalue()).decode()], [str(10**6 + k), *row[1:], str(k)]]
    for split in ("train", "val", "test"):
        problems[f"{split}_text"] = problems[f"{split}0"] | {"image": None}
    _write_json(root / "scienceqa" / "problems.json", problems)
    _write_json(
        root / "scienceqa" / "pid_splits.json",
        {split: [key for key, problem in problems.items() if problem["split"] == split] for split in ("train", "val", "test")},
    )
    (root / "mmbench").mkdir()
    for split in ("DEV_EN", "TEST_EN"):
        (root / "mmbench" / f"MMBench_{split}.tsv").write_text("".join("\t".join(row) + "\n" for row in table))


def _write_own_data(root: pathlib.Path, drawn: list[toy_images.ToyImage]) -> None:
    captions = []
    for k, image in enumerate(drawn):
        name = f"{k:04d}.jpg"
        for folder in ("folder/images", "labelme", "coco_json/images"):
            _save_image(root / "yours" / folder / name, image.pixels)
        for number, mask in enumerate(image.scene.masks):
            _save_image(
                root / "yours" / "folder" / "masks" / f"{k:04d}_{number}.png", mask.astype(np.uint8) * (1, 255)[number % 2]
            )
        for expression in image.expressions:
            files = [f"masks/{k:04d}_{target}.png" for target in expression.targets]
            captions.append(
                {
                    "image": f"images/{name}",
                    "text": expression.text,
                    "group": expression.group,
                    "mask": files or None,
                    "split": "val" if k == len(drawn) - 1 else "train",
                }
            )
        shapes = []
        for number, (thing, mask) in enumerate(zip(image.scene.things, image.scene.masks, strict=True)):
            shapes += [
                {"label": thing.name, "points": outline.tolist(), "shape_type": "polygon", "group_id": number}
                for outline in masks.trace_polygons(mask)
            ]
        _write_json(
            root / "yours" / "labelme" / f"{k:04d}.json",
            {"imagePath": name, "imageHeight": SIZE, "imageWidth": SIZE, "shapes": shapes},
        )
    _write_json_lines(root / "yours" / "folder" / "captions.jsonl", captions)
    records = [writer.build_image_records(toy_images.World(), "val", k, image) for k, image in enumerate(drawn)]
    _write_json(
        root / "yours" / "coco_json" / "annotations.json",
        {
            "images": [record["image"] | {"file_name": f"{k:04d}.jpg"} for k, record in enumerate(records)],
            "annotations": [note for record in records for note in record["instances"]],
            "categories": writer.coco_categories(toy_images.World(), "val"),
        },
    )
