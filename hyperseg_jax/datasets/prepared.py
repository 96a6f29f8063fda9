"""Reads datasets prepared by tensorflow-datasets in the array_record format, without TensorFlow.

The features of a dataset determine its prompts: objects with refexp and mask (ref_coco) are referring expressions; objects with
mask or segmentation and label (lvis) are class lists of instances; objects with bbox and label (coco, voc) are region captions;
a label image (scene_parse150, oxford_iiit_pet) is a class list of semantic masks.
"""

from __future__ import annotations

import bisect
import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.check_errors import Problem, report_problem
from hyperseg_jax.datasets.class_prompts import ClassLists
from hyperseg_jax.datasets.id_index import note_duplicates
from hyperseg_jax.datasets.labels import MODES, note_grey_mask
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.datasets.shards import OpenShard, OpenShards
from hyperseg_jax.datasets.visual_prompts import box_region
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.untrusted import budget, images, json_text
from hyperseg_jax.untrusted import features as prepared
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.printing import escaped, escaped_value

LABEL_IMAGES = ("annotation", "segmentation_label", "segmentation_mask")
MASKS = ("mask", "segmentation")


class Prepared:
    """Random access to the records of one split, in file order."""

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
        """folder: contains dataset_info.json and features.json, such as lvis/1.4.0. classes: class names of label images, whose
        values start at 1 (0 is void); other datasets include their class names. The other arguments: see
        class_prompts.ClassLists."""
        self._folder, self._split = files.existing_folder(folder), split
        features, info = prepared.read_features(self._folder), prepared.read_info(self._folder)
        if info.format != prepared.FORMAT:
            raise UserError(
                f"{self._folder}: has the format {escaped(info.format)}, which needs TensorFlow; "
                "prepare it again with --file_format=array_record"
            )
        if split not in info.splits:
            raise UserError(f"{self._folder}: no split {split!r}; available splits: {escaped(', '.join(info.splits))}")
        self._files = dict(info.splits[split])
        if not self._files:
            raise UserError(f"{self._folder}: the split {split!r} has no shards; prepare it again")
        inner = features["objects"].parts if "objects" in features else {}
        self._masks = next((name for name in MASKS if name in inner), None)
        self._labels = next((name for name in LABEL_IMAGES if name in features), None)
        names = tuple(classes) or (prepared.read_class_names(self._folder, "objects-label") if "label" in inner else ())
        if self._masks and "refexp" in inner:
            self._kind = "referring"
        elif not names:
            raise UserError(
                f"{self._folder}: its features have no class names; give classes=(...) in the order of the label values"
            )
        else:
            self._kind = "instances" if self._masks else "labels" if self._labels else "captions" if "bbox" in inner else ""
        if not self._kind or "image" not in features:
            found = escaped(", ".join(features)) or "(none)"
            raise UserError(f"{self._folder}: its features {found} lack supported masks, labels or boxes; give another dataset")
        note_duplicates(names, str(self._folder), "class names")
        things = (self._kind == "instances",) * len(names)
        self._class_lists = ClassLists(names, things, max_classes, prompts_per_example, seed)
        self._ends, self._shards = list(itertools.accumulate(self._files.values())), OpenShards()
        self._check_shards()

    def _check_shards(self) -> None:
        """Raises a Problem if a shard is damaged or has another number of records."""
        for path, records in self._files.items():
            files.check_regular(path, "shard")
            try:
                _open_shard(path, records)
            except BadFile as error:
                raise Problem("bad record", f"{path}: {error}") from error

    @property
    def classes(self) -> tuple[str, ...]:
        """All class names; () for referring expressions."""
        return self._class_lists.names

    def __len__(self) -> int:
        return self._ends[-1]

    @guard_record
    def __getitem__(self, index: int) -> Example:
        index = range(len(self))[index]
        where = f"{self._folder} {self._split}#{index}"
        try:
            record = Values(self._read_record(index), where)
        except BadFile as error:
            raise Problem("bad record", f"{where}: {error}") from error
        except Exception as error:  # a damaged record can raise any exception
            why = f"{type(error).__name__}: {escaped(str(error))}"
            raise Problem("bad record", f"{where}: cannot be read ({why}); prepare it again") from error
        pixels = _decode_image(record.single("image"), where)
        budget.charge_frame(pixels.shape, where)
        size = pixels.shape[0], pixels.shape[1]
        key = next((str(record.single(name)) for name in ("image/id", "image/filename") if record.has(name)), str(index))
        if self._kind == "instances":
            object_masks = [_decode_mask(data, size, where) for data in record.values(f"objects/{self._masks}")]
            labels = self._object_labels(record, len(object_masks), where)
            stacked = np.array(object_masks, bool).reshape(-1, *size)
            prompts = self._class_lists.build_prompts(index, stacked, labels, np.zeros(size, bool), key=key)
        elif self._kind == "labels":
            assert self._labels is not None
            numbers = _decode_label_image(record.single(self._labels), size, where).astype(int)
            values = [int(number) for number in np.unique(numbers) if number]
            if values and values[-1] > len(self.classes):
                why = f"has the pixel value {values[-1]}, but there are {len(self.classes)} classes"
                raise Problem("bad mask", f"{where}: {why}; correct the list of classes")
            budget.charge_masks(len(values), size, where)
            masks = np.array([numbers == value for value in values], bool).reshape(-1, *size)
            prompts = self._class_lists.build_prompts(index, masks, [value - 1 for value in values], numbers == 0, key=key)
        else:
            make_prompts = _build_referring_prompts if self._kind == "referring" else self._build_caption_prompts
            prompts = tuple(make_prompts(record, size, where))
        if not prompts:
            raise Problem("bad record", f"{where}: has no objects; remove the record")
        return Example(f"{self._folder.parent.name}:{self._split}#{index}", pixels[None], prompts)

    def _read_record(self, index: int) -> bytes:
        number = bisect.bisect_right(self._ends, index)
        path, records = list(self._files.items())[number]
        return self._shards.get(number, lambda: _open_shard(path, records)).read(index - (self._ends[number] - records))

    def _object_labels(self, record: Values, count: int, where: str) -> list[int]:
        """Returns the class index of each object."""
        labels = list(record.values("objects/label"))
        odd = [label for label in labels if not isinstance(label, int) or not 0 <= label < len(self.classes)]
        if odd or len(labels) != count:
            bad_label = f"has the label {escaped_value(odd[0])}, but there are {len(self.classes)} classes" if odd else ""
            why = bad_label or f"has {count} objects and {len(labels)} labels"
            raise Problem("bad record", f"{where}: {why}; prepare it again")
        return labels

    def _build_caption_prompts(self, record: Values, size: tuple[int, int], where: str) -> Iterator[Prompt]:
        """Yields a caption prompt with all boxes, whose texts are their class names."""
        numbers = list(record.values("objects/bbox"))
        if not json_text.is_list_of_numbers(numbers) or len(numbers) % 4 or not np.isfinite(numbers).all():
            raise Problem("bad record", f"{where}: its boxes are not four numbers each; prepare it again")
        boxes = np.array(numbers, float).reshape(-1, 4)
        regions, captions = [], []
        for (top, left, bottom, right), label in zip(boxes, self._object_labels(record, len(boxes), where), strict=True):
            box = [left * size[1], top * size[0], (right - left) * size[1], (bottom - top) * size[0]]
            if region := box_region(np.round(box, 3).tolist(), size, where):
                regions.append(region)
                captions.append((self.classes[label],))
        if regions:
            yield Prompt(task="caption", regions=tuple(regions), captions=tuple(captions))


def _open_shard(path: pathlib.Path, records: int) -> OpenShard:
    return OpenShard(path, records, prepared.INFO, compressed=True)


def _build_referring_prompts(record: Values, size: tuple[int, int], where: str) -> Iterator[Prompt]:
    """Yields a referring prompt for each expression of each object."""
    numbers, texts = (record.rows(f"objects/refexp/{name}") for name in ("refexp_id", "raw"))
    for mask, object_numbers, object_texts in zip(record.values("objects/mask"), numbers, texts, strict=True):
        target = _decode_mask(mask, size, where)[None, None]
        for number, text in zip(object_numbers, object_texts, strict=True):
            budget.charge_masks(1, size, where)  # expressions share the mask here, but not in a batch
            yield Prompt(task="referring", text=_decode_text(text, where).strip(), masks=target, key=str(number))


class Values:
    """The values of a tf.train.Example by name: lists of numbers or of bytes (texts and image files)."""

    def __init__(self, data: bytes, where: str) -> None:
        from tensorflow_datasets.proto import tf_example_pb2

        self._values, self._where = tf_example_pb2.Example.FromString(data).features.feature, where

    def has(self, name: str) -> bool:
        return name in self._values

    def values(self, name: str) -> Sequence[Any]:
        if not self.has(name):
            raise Problem("bad record", f"{self._where}: field {name!r} is missing; prepare it again")
        kind = self._values[name].WhichOneof("kind")
        return getattr(self._values[name], kind).value if kind else ()

    def single(self, name: str) -> Any:
        """Returns the only value of a field; decodes the text fields image/*."""
        values = self.values(name)
        if len(values) != 1:
            why = f"field {name!r} has {len(values)} values, expected 1"
            raise Problem("bad record", f"{self._where}: {why}; prepare it again")
        is_text = name.startswith("image/") and isinstance(values[0], bytes)
        return _decode_text(values[0], self._where) if is_text else values[0]

    def rows(self, name: str) -> Iterator[Iterator[Any]]:
        """Yields the rows of a ragged field, stored as concatenated values and row lengths. Values are read one at a time.
        Raises a Problem if the lengths do not match the values."""
        flat, lengths = self.values(f"{name}/ragged_flat_values"), self.values(f"{name}/ragged_row_lengths_0")
        if min(lengths, default=0) < 0 or sum(lengths) != len(flat):
            why = f"the row lengths of field {name!r} do not match its values"
            raise Problem("bad record", f"{self._where}: {why}; prepare it again")
        start = 0
        for length in lengths:
            yield (flat[k] for k in range(start, start + length))
            start += length


def _decode_text(value: Any, where: str) -> str:
    """Decodes a text. Raises a Problem if it is a number or not UTF-8."""
    try:
        if isinstance(value, bytes):
            return value.decode()
    except UnicodeDecodeError:
        pass
    raise Problem("bad record", f"{where}: found {escaped_value(value)}, expected a text in UTF-8; prepare it again")


def _check_bytes(data: Any) -> bytes:
    """Returns the content of an image file. Raises BadFile for a number, of which bytes() would make that many zeros."""
    if not isinstance(data, bytes):
        raise BadFile(f"is {escaped_value(data)}, but an image file was expected", "prepare it again")
    return data


def _decode_image(data: Any, where: str) -> np.ndarray:
    try:
        return images.read_rgb(_check_bytes(data))
    except BadFile as error:
        raise Problem("unreadable image", f"{where}: its image {error}") from error


def _decode_label_image(data: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """Decodes a label image, [H, W]. If its size differs from that of the image, reports a problem; a check continues with
    zeros."""
    try:
        pixels = images.read_numbers(_check_bytes(data), MODES, "mask")
    except BadFile as error:
        raise Problem("bad mask", f"{where}: a mask {error}") from error
    return _check_size(pixels, size, where)


def _decode_mask(data: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """Decodes a black and white mask, bool [H, W]; sizes as in `_decode_label_image`."""
    budget.charge_masks(1, size, where)
    try:
        mask, is_grey = images.read_mask(_check_bytes(data))
    except BadFile as error:
        raise Problem("bad mask", f"{where}: a mask {error}") from error
    if is_grey:
        note_grey_mask(where)
    return _check_size(mask, size, where)


def _check_size(pixels: np.ndarray, size: tuple[int, int], where: str) -> np.ndarray:
    """Returns the pixels of a mask. Reports a problem and returns zeros if its size differs from that of the image."""
    if pixels.shape == size:
        return pixels
    report_problem(
        "wrong size",
        f"{where}: a mask is {pixels.shape[1]}x{pixels.shape[0]} pixels, its image {size[1]}x{size[0]}; prepare it again",
    )
    return np.zeros_like(pixels, shape=size)
