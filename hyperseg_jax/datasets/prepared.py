"""Datasets that tensorflow-datasets has prepared in the array_record format, read without TensorFlow.

What a record becomes follows from its features: objects with refexp and mask (ref_coco): referring expressions; objects with a
mask or segmentation and a label (lvis): class lists of instances; objects with bbox and label (coco, voc): captions of regions;
a label image (scene_parse150, oxford_iiit_pet): class lists of regions.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.check_errors import Problem, report_problem
from hyperseg_jax.datasets.class_prompts import ClassLists
from hyperseg_jax.datasets.labels import MODES
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.datasets.visual_prompts import box_regions
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.untrusted import budget, images
from hyperseg_jax.untrusted import features as prepared
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.printing import shown, shown_value

LABEL_IMAGES = ("annotation", "segmentation_label", "segmentation_mask")
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
        """folder: with dataset_info.json and features.json, such as lvis/1.4.0. classes: those of label images, whose
        numbers begin at 1 (0 is void); other datasets have their own list. The rest: see class_prompts.ClassLists."""
        self._folder, self._split = files.existing_folder(folder), split
        features, info = prepared.read_features(self._folder), prepared.read_info(self._folder)
        if info.format != prepared.FORMAT:
            raise UserError(
                f"{self._folder}: is in the format {shown(info.format)}, which needs TensorFlow; "
                "prepare it again with --file_format=array_record"
            )
        if split not in info.splits:
            raise UserError(f"{self._folder}: no split {split!r}; it has {shown(', '.join(info.splits))}")
        self._files = info.splits[split]
        inner = features["objects"].parts if "objects" in features else {}
        self._masks = next((name for name in MASKS if name in inner), None)
        self._labels = next((name for name in LABEL_IMAGES if name in features), None)
        names = tuple(classes) or (prepared.read_labels(self._folder, "objects-label") if "label" in inner else ())
        if self._masks and "refexp" in inner:
            self._kind = "referring"
        elif not names:
            raise UserError(f"{self._folder}: its features name no classes; give classes=(...) in the order of its numbers")
        else:
            self._kind = "instances" if self._masks else "labels" if self._labels else "captions" if "bbox" in inner else ""
        if not self._kind or "image" not in features:
            raise UserError(f"{self._folder}: has features {', '.join(features)}; none is read here as masks, labels or boxes")
        things = (self._kind == "instances",) * len(names)
        self._class_lists = ClassLists(names, things, max_classes, prompts_per_example, seed)
        self._open()

    def _open(self) -> None:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        for path in self._files:
            files.check_regular(path, "shard")
        self._source = ArrayRecordDataSource([str(path) for path in self._files])
        if len(self._source) != sum(self._files.values()):
            why = f"has {len(self._source)} records, and {prepared.INFO} says {sum(self._files.values())}"
            raise Problem("bad record", f"{self._folder} {self._split}: {why}; prepare it again")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_source"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    @property
    def classes(self) -> tuple[str, ...]:
        """Every class; () for referring expressions."""
        return self._class_lists.names

    def __len__(self) -> int:
        return len(self._source)

    @guard_record
    def __getitem__(self, index: int) -> Example:
        where = f"{self._folder} {self._split}#{index}"
        try:
            record = Values(self._source[index], where)
        except Exception as error:  # of every kind on a damaged record
            why = f"{type(error).__name__}: {shown(str(error))}"
            raise Problem("bad record", f"{where}: cannot be read ({why}); prepare it again") from error
        pixels = _image(record.one("image"), where)
        budget.charge_frame(pixels.shape, where)
        size = pixels.shape[0], pixels.shape[1]
        key = next((str(record.one(name)) for name in ("image/id", "image/filename") if record.has(name)), str(index))
        if self._kind == "instances":
            found = [_mask(data, size, where) for data in record.many(f"objects/{self._masks}")]
            labels = self._object_labels(record, len(found), where)
            stacked = np.array(found, bool).reshape(-1, *size)
            prompts = self._class_lists.prompts(index, stacked, labels, np.zeros(size, bool), key=key)
        elif self._kind == "labels":
            assert self._labels is not None
            numbers = _numbers(record.one(self._labels), size, where).astype(int)
            shown_labels = [int(number) for number in np.unique(numbers) if number]
            if shown_labels and shown_labels[-1] > len(self.classes):
                few = f"{shown_labels[-1]}, and classes has {len(self.classes)}"
                raise Problem("bad mask", f"{where}: has pixels of {few}; correct the list")
            budget.charge(len(shown_labels), size, where)
            masks = np.array([numbers == number for number in shown_labels], bool).reshape(-1, *size)
            prompts = self._class_lists.prompts(index, masks, [number - 1 for number in shown_labels], numbers == 0, key=key)
        else:
            make = _referring if self._kind == "referring" else self._captions
            prompts = tuple(make(record, size, where))
        if not prompts:
            raise Problem("bad record", f"{where}: has no objects; leave the record out")
        return Example(f"{self._folder.parent.name}:{self._split}#{index}", pixels[None], prompts)

    def _object_labels(self, record: Values, count: int, where: str) -> list[int]:
        """The class of each object."""
        labels = list(record.many("objects/label"))
        odd = [label for label in labels if not isinstance(label, int) or not 0 <= label < len(self.classes)]
        if odd or len(labels) != count:
            of_classes = f"has the label {shown_value(odd[0])}, and there are {len(self.classes)} classes" if odd else ""
            why = of_classes or f"has {count} objects and {len(labels)} labels"
            raise Problem("bad record", f"{where}: {why}; prepare it again")
        return labels

    def _captions(self, record: Values, size: tuple[int, int], where: str) -> Iterator[Prompt]:
        boxes = np.asarray(record.many("objects/bbox"), float).reshape(-1, 4)
        for (top, left, bottom, right), label in zip(boxes, self._object_labels(record, len(boxes), where), strict=True):
            box = [left * size[1], top * size[0], (right - left) * size[1], (bottom - top) * size[0]]
            yield Prompt(task="caption", answer=self.classes[label], regions=box_regions(np.round(box, 3), size, where))


def _referring(record: Values, size: tuple[int, int], where: str) -> Iterator[Prompt]:
    numbers, texts = (record.rows(f"objects/refexp/{name}") for name in ("refexp_id", "raw"))
    for mask, own, spoken in zip(record.many("objects/mask"), numbers, texts, strict=True):
        target = _mask(mask, size, where)[None, None]
        for number, text in zip(own, spoken, strict=True):
            yield Prompt(task="referring", text=_text(text).strip(), masks=target, key=str(number))


class Values:
    """The values of a record, a tf.train.Example: numbers, or bytes of texts and of image files, in lists by name."""

    def __init__(self, data: bytes, where: str) -> None:
        from tensorflow_datasets.proto import tf_example_pb2

        self._values, self._where = tf_example_pb2.Example.FromString(data).features.feature, where

    def has(self, name: str) -> bool:
        return name in self._values

    def many(self, name: str) -> Sequence[Any]:
        if not self.has(name):
            raise Problem("bad record", f"{self._where}: has no {name!r}; prepare it again")
        kind = self._values[name].WhichOneof("kind")
        return getattr(self._values[name], kind).value if kind else ()

    def one(self, name: str) -> Any:
        """The only value; a text where it is one."""
        found = self.many(name)
        if len(found) != 1:
            why = f"has {len(found)} values of {name!r} where one belongs"
            raise Problem("bad record", f"{self._where}: {why}; prepare it again")
        return _text(found[0]) if name.startswith("image/") else found[0]

    def rows(self, name: str) -> Iterator[Sequence[Any]]:
        """Lists in a list: the values one after the other, and the length of each."""
        flat, at = self.many(f"{name}/ragged_flat_values"), 0
        for length in self.many(f"{name}/ragged_row_lengths_0"):
            yield flat[at : at + max(0, length)]
            at += max(0, length)


def _text(value: Any) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def _image(data: Any, where: str) -> np.ndarray:
    try:
        return images.colours(bytes(data))
    except (BadFile, TypeError) as error:
        raise Problem("unreadable image", f"{where}: its image {error}") from error


def _numbers(data: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """A label image or mask; other than the size of its image is a problem, and empty while a check goes on."""
    try:
        found = images.numbers(bytes(data), MODES, "mask")
    except (BadFile, TypeError) as error:
        raise Problem("bad mask", f"{where}: a mask {error}") from error
    if found.shape == size:
        return found
    report_problem(
        "wrong size",
        f"{where}: a mask is {found.shape[1]}x{found.shape[0]} pixels, its image {size[1]}x{size[0]}; prepare it again",
    )
    return np.zeros(size, np.uint8)


def _mask(data: Any, size: tuple[int, int], where: str) -> np.ndarray:
    budget.charge(1, size, where)
    return _numbers(data, size, where) > 0
