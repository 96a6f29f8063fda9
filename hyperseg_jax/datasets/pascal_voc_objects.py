"""Pascal VOC 2012 for interactive segmentation: JPEGImages/*.jpg, SegmentationObject/*.png, ImageSets/Segmentation/{split}.txt.

The png values are object ids; 0 is background and 255 the object border, which metrics ignore.
"""

from __future__ import annotations

import os

import numpy as np

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.check_errors import report_problem
from hyperseg_jax.datasets.label_images import masks_by_value, pair_files_of_list, read_image_and_labels
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.datasets.visual_prompts import draw_marks
from hyperseg_jax.structs import Example, Prompt, Region
from hyperseg_jax.untrusted import budget

BORDER = 255


class PascalVocObjects:
    """Random access to the images of a split, in the order of its list, with a region prompt: a point in each object."""

    def __init__(self, folder: str | os.PathLike, split: str, *, seed: int = 0):
        """folder: VOCdevkit/VOC2012. split: "train", "val" or "trainval". seed: seed of the random points."""
        names, images = files.subpath(folder, "ImageSets", "Segmentation", f"{split}.txt"), files.subpath(folder, "JPEGImages")
        self._pairs = pair_files_of_list(names, images, files.subpath(folder, "SegmentationObject"), ".png")
        self._name, self._seed = f"voc_objects:{split}", seed

    def __len__(self) -> int:
        return len(self._pairs)

    @guard_record
    def __getitem__(self, index: int) -> Example:
        image, pixels, path, labels = read_image_and_labels(self._pairs[index], f"{self._name}#{index}")
        object_ids = np.zeros(pixels.shape[:2], np.uint8) if labels is None else labels
        visible = [int(number) for number in np.unique(object_ids) if number not in (0, BORDER)]
        masks = masks_by_value(object_ids, visible, str(path))
        budget.charge_masks(len(visible), object_ids.shape, str(path))  # for the marks
        if not visible and labels is not None:
            report_problem("bad mask", f"{path}: shows no object; remove the image from the list of its split")
        rng = np.random.default_rng([self._seed, index])
        points = []
        for mask in masks:
            budget.check_time(str(path))
            points.append(np.argwhere(draw_marks(mask, rng)["point"])[0] + 0.5)  # pixel centre
        prompt = Prompt(
            task="region",
            masks=masks[:, None],
            labels=tuple(range(len(masks))),
            regions=tuple(Region.from_point(x, y) for y, x in points),
            ignore=(object_ids == BORDER)[None],
            key=image.stem,
        )
        return Example(f"{self._name}#{index}", pixels[None], (prompt,))
