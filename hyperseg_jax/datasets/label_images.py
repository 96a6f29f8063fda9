"""Base class of semantic segmentation readers: an image, its label image, and a mapping from pixel values to classes."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.check_errors import Problem, active_collector, report_problem
from hyperseg_jax.datasets.class_prompts import ClassListReader, ClassLists
from hyperseg_jax.datasets.id_index import IdIndex
from hyperseg_jax.datasets.labels import read_label_image
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.structs import Example
from hyperseg_jax.untrusted import budget

Pair = tuple[tuple[pathlib.Path, str], tuple[pathlib.Path, str]]
"""An image and its label image, each as (folder, file name)."""
Pairs = list[Pair]
VOID, UNKNOWN = -1, -2
VALUES = 2**16


class ImageLabels(ClassListReader):
    """Random access to pairs of images and label images. A prompt has one mask per class of the image; all classes are
    stuff."""

    def __init__(
        self,
        name: str,
        pairs: Pairs,
        classes: Sequence[str],
        values: Mapping[int, int],
        void: Sequence[int],
        *,
        max_classes: int | None = None,
        prompts_per_example: int = 1,
        seed: int = 0,
        chosen: Sequence[str] = (),
    ):
        """pairs: images and label images. values: pixel value -> index in classes. void: pixel values that metrics ignore; any
        other value is an error in the file. The other arguments: see class_prompts.ClassLists."""
        self._name, self._pairs = name, list(pairs)
        names, things = tuple(classes), (False,) * len(classes)
        self._class_lists = ClassLists(names, things, max_classes, prompts_per_example, seed, tuple(chosen))
        self._class_of = np.full(VALUES, UNKNOWN, np.int16)
        self._class_of[list(void)] = VOID
        for value, class_index in values.items():
            self._class_of[value] = class_index

    def __len__(self) -> int:
        return len(self._pairs)

    @guard_record
    def __getitem__(self, index: int) -> Example:
        key, pixels, path, numbers = self._read(index)
        class_map = np.full(pixels.shape[:2], VOID, np.int16) if numbers is None else self._map_to_classes(numbers, path)
        labels = [int(label) for label in np.unique(class_map) if label >= 0]
        masks = masks_by_value(class_map, labels, path)
        prompts = self._class_lists.build_prompts(index, masks, labels, class_map < 0, key=key)
        return Example(f"{self._name}#{index}", pixels[None], prompts)

    def _read(self, index: int) -> tuple[str, np.ndarray, str, np.ndarray | None]:
        """Returns the key of a record, its image, the origin of its labels for messages, and the labels; during a check None if
        they cannot be read."""
        image, pixels, path, numbers = read_image_and_labels(self._pairs[index], f"{self._name}#{index}")
        return image.stem, pixels, str(path), numbers

    def _map_to_classes(self, numbers: np.ndarray, path: str) -> np.ndarray:
        """Returns int16 [H, W]: the class of each pixel, VOID or UNKNOWN."""
        clipped = np.clip(numbers.astype(np.int64), 0, VALUES - 1)
        class_map = self._class_of[clipped]
        unknown = (class_map == UNKNOWN) | (numbers != clipped)
        if unknown.any():
            few = ", ".join(map(str, np.unique(numbers[unknown])[:5]))
            report_problem(
                "bad mask", f"{path}: has pixel values {few}, which are neither a class nor void; use labels of this benchmark"
            )
        return class_map


def read_image_and_labels(pair: Pair, where: str) -> tuple[pathlib.Path, np.ndarray, pathlib.Path, np.ndarray | None]:
    """Reads an image and its label image. Returns their path and pixels: (image path, image, label path, labels). During a
    check, the labels are None if they cannot be read."""
    image, path = (files.join_inside(folder, name, where) for folder, name in pair)
    pixels = files.read_image(image)
    return image, pixels, path, read_label_image(path, (pixels.shape[0], pixels.shape[1]))


def masks_by_value(pixels: np.ndarray, values: Sequence[int], path: str) -> np.ndarray:
    """Returns bool [N, H, W]: the mask of each pixel value. path: the label image, for messages."""
    budget.charge_masks(len(values), pixels.shape, path)
    return np.array([pixels == value for value in values], bool).reshape(-1, *pixels.shape)


def pair_files_in_folders(images: pathlib.Path, pattern: str, labels: pathlib.Path, old: str, new: str) -> Pairs:
    """Pairs the images below a folder that match a pattern with their label images, sorted by name.

    A label image has the same relative path below `labels`, with the suffix `old` replaced by `new`. During a check, label
    images without an image are included as well, so that the missing image is reported.
    """
    paths = set(files.list_files(files.existing_folder(images), pattern))
    if not paths:
        raise Problem("missing file", f"{images}: no {pattern} here; check the folder of the images")
    if active_collector() is not None:
        names = (str(path.relative_to(labels)).removesuffix(new) for path in labels.glob(f"{pattern.removesuffix(old)}{new}"))
        paths |= {images / f"{name}{old}" for name in names}
    return [
        ((images, str(path.relative_to(images))), (labels, f"{str(path.relative_to(images)).removesuffix(old)}{new}"))
        for path in sorted(paths)
    ]


def pair_files_of_list(list_path: pathlib.Path, images: pathlib.Path, labels: pathlib.Path, end: str) -> Pairs:
    """Returns the pairs of images and label images named in a text file, one name per line."""
    if not list_path.is_file():
        raise Problem("missing file", f"{list_path}: no such file; it lists the images of the split")
    names = " ".join(files.read_lines(list_path, "list")).split()
    IdIndex([{"name": name} for name in names], "name", str(list_path)).report_duplicates()
    return [((images, f"{name}.jpg"), (labels, f"{name}{end}")) for name in names]
