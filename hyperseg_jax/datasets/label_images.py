"""What semantic benchmarks share: an image, a label image beside it, and a table from its numbers to classes."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.check_errors import Problem, active_collector, report_problem
from hyperseg_jax.datasets.class_prompts import ClassListReader, ClassLists
from hyperseg_jax.datasets.labels import read_labels
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.structs import Example
from hyperseg_jax.untrusted import budget

Pair = tuple[tuple[pathlib.Path, str], tuple[pathlib.Path, str]]
"""An image and its label image, each a folder and a name in it."""
Pairs = list[Pair]
VOID, UNKNOWN = -1, -2
VALUES = 2**16


class ImageLabels(ClassListReader):
    """Random access to pairs of files. A prompt has one mask a class that the image shows; no class counts instances."""

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
    ):
        """pairs: image and label image. values: number of a pixel -> place in classes. void: numbers of pixels that no
        score counts; any other number is a fault of the file. The rest: see class_prompts.ClassLists."""
        self._name, self._pairs = name, list(pairs)
        self._class_lists = ClassLists(tuple(classes), (False,) * len(classes), max_classes, prompts_per_example, seed)
        self._class_of = np.full(VALUES, UNKNOWN, np.int16)
        self._class_of[list(void)] = VOID
        for value, place in values.items():
            self._class_of[value] = place

    def __len__(self) -> int:
        return len(self._pairs)

    @guard_record
    def __getitem__(self, index: int) -> Example:
        image, pixels, path, numbers = read_pair(self._pairs[index], f"{self._name}#{index}")
        owner = np.full(pixels.shape[:2], VOID, np.int16) if numbers is None else self._owner(numbers, path)
        labels = [int(label) for label in np.unique(owner) if label >= 0]
        masks = masks_by_value(owner, labels, path)
        prompts = self._class_lists.prompts(index, masks, labels, owner < 0, key=image.stem)
        return Example(f"{self._name}#{index}", pixels[None], prompts)

    def _owner(self, numbers: np.ndarray, path: pathlib.Path) -> np.ndarray:
        """int16 [H, W]: the class of each pixel, VOID or UNKNOWN."""
        clipped = np.clip(numbers.astype(np.int64), 0, VALUES - 1)
        owner = self._class_of[clipped]
        unknown = (owner == UNKNOWN) | (numbers != clipped)
        if unknown.any():
            few = ", ".join(map(str, np.unique(numbers[unknown])[:5]))
            report_problem("bad mask", f"{path}: has pixels of {few}, which is no class and not void; is it of this benchmark?")
        return owner


def read_pair(pair: Pair, where: str) -> tuple[pathlib.Path, np.ndarray, pathlib.Path, np.ndarray | None]:
    """An image's path and pixels, its label image's path and numbers (None where a check goes on without them)."""
    image, path = (files.inside(folder, name, where) for folder, name in pair)
    pixels = files.read_image(image)
    return image, pixels, path, read_labels(path, (pixels.shape[0], pixels.shape[1]))


def masks_by_value(owner: np.ndarray, numbers: Sequence[int], path: pathlib.Path) -> np.ndarray:
    """bool [N, H, W]: the pixels of each number. path: of the label image."""
    budget.charge(len(numbers), owner.shape, str(path))
    return np.array([owner == number for number in numbers], bool).reshape(-1, *owner.shape)


def pairs_in_folders(images: pathlib.Path, pattern: str, labels: pathlib.Path, old: str, new: str) -> Pairs:
    """Pairs of the images below a folder that match, in order of their names, and their labels: the same place below
    another folder, with the end of the name replaced. A check also misses the images of labels that stand alone."""
    found = set(files.list_files(files.existing_folder(images), pattern))
    if not found:
        raise Problem("missing file", f"{images}: no {pattern} here; check the folder of the images")
    if active_collector() is not None:
        alone = (str(path.relative_to(labels)).removesuffix(new) for path in labels.glob(f"{pattern.removesuffix(old)}{new}"))
        found |= {images / f"{name}{old}" for name in alone}
    return [
        ((images, str(path.relative_to(images))), (labels, f"{str(path.relative_to(images)).removesuffix(old)}{new}"))
        for path in sorted(found)
    ]


def pairs_from_list(list_path: pathlib.Path, images: pathlib.Path, labels: pathlib.Path, end: str) -> Pairs:
    """Pairs of the names in a text file, one a line."""
    if not list_path.is_file():
        raise Problem("missing file", f"{list_path}: no such file; it lists the images of the split")
    names = " ".join(files.read_lines(list_path, "list")).split()
    return [((images, f"{name}.jpg"), (labels, f"{name}{end}")) for name in names]
