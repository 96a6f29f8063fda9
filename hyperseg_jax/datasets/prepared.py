"""Datasets that tensorflow-datasets has prepared in the array_record format, read without TensorFlow.

What a record becomes follows from its features: objects with refexp and mask (ref_coco): referring expressions; objects with a
mask or segmentation and a label (lvis): class lists of instances; objects with bbox and label (coco, voc): captions of regions;
a label picture (scene_parse150, oxford_iiit_pet): class lists of regions.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.class_prompts import ClassLists
from hyperseg_jax.datasets.problems import Problem, complain
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt

OWN_FEATURES = "tensorflow_datasets.core.features."
CLASS_KEYS = ("pythonClassName", "python_class_name", "type")
LABEL_PICTURES = ("annotation", "segmentation_label", "segmentation_mask")
MASKS = ("mask", "segmentation")


class Prepared:
    """Random access to the records of one split, in their order on disk."""

    def __init__(
        self,
        folder: str | os.PathLike,
        split: str,
        *,
        classes: Sequence[str] = (),
        max_classes: int | None = None,
        prompts_per_example: int = 1,
        seed: int = 0,
    ):
        """folder: with dataset_info.json and features.json, such as lvis/1.4.0. classes: those of label pictures, whose
        numbers begin at 1 (0 is void); other datasets have their own list. The rest: see class_prompts.ClassLists."""
        self._folder, self._split = files.existing_folder(folder), split
        _refuse_foreign_classes(self._folder / "features.json")
        info = files.Json(self._folder / "dataset_info.json", dict).content
        if info.get("fileFormat") != "array_record":
            raise UserError(
                f"{self._folder}: is in the format {info.get('fileFormat')}, which needs TensorFlow; "
                "prepare it again with --file_format=array_record"
            )
        self._open()
        features = dict(self._features.items())
        inner = dict(features["objects"].feature.items()) if "objects" in features else {}
        self._masks = next((name for name in MASKS if name in inner), None)
        self._labels = next((name for name in LABEL_PICTURES if name in features), None)
        names = tuple(classes) or tuple(getattr(inner.get("label"), "names", None) or ())
        if self._masks and "refexp" in inner:
            self._kind = "referring"
        elif not names:
            raise UserError(f"{self._folder}: its features name no classes; give classes=(...) in the order of its numbers")
        else:
            self._kind = "instances" if self._masks else "labels" if self._labels else "captions" if "bbox" in inner else ""
        if not self._kind or "image" not in features:
            raise UserError(f"{self._folder}: has features {', '.join(features)}; none is read here as masks, labels or boxes")
        things = (self._kind == "instances",) * len(names)
        self._lists = ClassLists(names, things, max_classes, prompts_per_example, seed)

    def _open(self) -> None:
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(self._folder)
        if self._split not in builder.info.splits:
            raise UserError(f"{self._folder}: no split {self._split!r}; it has {', '.join(builder.info.splits)}")
        self._features = builder.info.features
        self._source = builder.as_data_source(split=self._split)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_features", "_source")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    @property
    def classes(self) -> tuple[str, ...]:
        """Every class; () for referring expressions."""
        return self._lists.names

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        where = f"{self._folder} {self._split}#{index}"
        try:
            record = self._source[index]
        except Exception as error:  # of every kind on a damaged record
            why = f"{type(error).__name__}: {error}"
            raise Problem("bad record", f"{where}: cannot be read ({why}); prepare it again") from error
        pixels = np.asarray(record["image"])
        size = pixels.shape[0], pixels.shape[1]
        key = str(record.get("image/id", record.get("image/filename", index)))
        if self._kind == "instances":
            objects = record["objects"]
            found = np.array([_mask(mask, size, where) for mask in objects[self._masks]], bool).reshape(-1, *size)
            labels = [int(label) for label in objects["label"]]
            prompts = self._lists.prompts(index, found, labels, np.zeros(size, bool), key=key)
        elif self._kind == "labels":
            numbers = np.asarray(record[self._labels]).reshape(size).astype(int)
            shown = [int(number) for number in np.unique(numbers) if number]
            if shown and shown[-1] > len(self.classes):
                few = f"{shown[-1]}, and classes has {len(self.classes)}"
                raise Problem("bad mask", f"{where}: has pixels of {few}; correct the list")
            found = np.array([numbers == number for number in shown], bool).reshape(-1, *size)
            prompts = self._lists.prompts(index, found, [number - 1 for number in shown], numbers == 0, key=key)
        else:
            make = _referring if self._kind == "referring" else self._captions
            prompts = tuple(make(record["objects"], size, where))
        if not prompts:
            raise Problem("bad record", f"{where}: has no objects; leave the record out")
        return Example(f"{self._folder.parent.name}:{self._split}#{index}", np.broadcast_to(pixels, (*size, 3))[None], prompts)

    def _captions(self, objects: dict[str, Any], size: tuple[int, int], where: str) -> Iterator[Prompt]:
        for (top, left, bottom, right), label in zip(objects["bbox"], objects["label"], strict=True):
            box = [left * size[1], top * size[0], (right - left) * size[1], (bottom - top) * size[0]]
            region = files.box_mask(np.round(box, 3), size, where)
            yield Prompt(task="caption", answer=self.classes[int(label)], regions=region[None], kinds=("box",))


def _referring(objects: dict[str, Any], size: tuple[int, int], where: str) -> Iterator[Prompt]:
    spoken = objects["refexp"]
    for mask, numbers, texts in zip(objects["mask"], spoken["refexp_id"], spoken["raw"], strict=True):
        target = _mask(mask, size, where)[None, None]
        for number, text in zip(numbers, texts, strict=True):
            words = text.decode("utf-8") if isinstance(text, bytes) else str(text)
            yield Prompt(task="referring", text=words.strip(), masks=target, key=str(number))


def _mask(mask: np.ndarray, size: tuple[int, int], where: str) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.shape[:2] == size:
        return np.asarray(mask.reshape(*size, -1).any(-1))
    complain(
        "wrong size",
        f"{where}: a mask is {mask.shape[1]}x{mask.shape[0]} pixels, its picture {size[1]}x{size[0]}; prepare it again",
    )
    return np.zeros(size, bool)


def _refuse_foreign_classes(path: pathlib.Path) -> None:
    """tensorflow-datasets would import what the file names as a class."""
    waiting = [files.Json(path, dict).content]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            for key in CLASS_KEYS:
                name = part.get(key)
                if isinstance(name, str) and not name.startswith(OWN_FEATURES):
                    raise UserError(
                        f"{path}: names the class {name!r}, which is not of tensorflow-datasets; "
                        "do not open this folder with other tools either"
                    )
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
