"""Pascal VOC 2012 for interactive segmentation: JPEGImages/*.jpg, SegmentationObject/*.png, ImageSets/Segmentation/{split}.txt.

The pngs number the objects of an image; 0 is background and 255 their border, which no score counts.
"""

from __future__ import annotations

import os

import numpy as np

from hyperseg_jax.datasets import files
from hyperseg_jax.datasets.check_errors import complain
from hyperseg_jax.datasets.label_images import listed, masks_of, read_pair
from hyperseg_jax.datasets.record_errors import one_record
from hyperseg_jax.datasets.visual_prompts import draw_marks
from hyperseg_jax.structs import Example, Prompt, Region
from hyperseg_jax.untrusted import budget

BORDER = 255


class PascalVocObjects:
    """Random access to the images of a split, in the order of its list: a region prompt with a point in every object."""

    def __init__(self, folder: str | os.PathLike, split: str, *, seed: int = 0):
        """folder: VOCdevkit/VOC2012. split: "train", "val" or "trainval". seed: of the points."""
        names, images = files.part(folder, "ImageSets", "Segmentation", f"{split}.txt"), files.part(folder, "JPEGImages")
        self._pairs = listed(names, images, files.part(folder, "SegmentationObject"), ".png")
        self._name, self._seed = f"voc_objects:{split}", seed

    def __len__(self) -> int:
        return len(self._pairs)

    @one_record
    def __getitem__(self, index: int) -> Example:
        image, pixels, path, labels = read_pair(self._pairs[index], f"{self._name}#{index}")
        owner = np.zeros(pixels.shape[:2], np.uint8) if labels is None else labels
        shown = [int(number) for number in np.unique(owner) if number not in (0, BORDER)]
        masks = masks_of(owner, shown, path)
        budget.charge(len(shown), owner.shape, str(path))  # a point for each
        if not shown and labels is not None:
            complain("bad mask", f"{path}: shows no object; leave the image out of the list of its split")
        rng = np.random.default_rng([self._seed, index])
        points = [np.argwhere(draw_marks(mask, rng)["point"])[0] + 0.5 for mask in masks]  # the centre of a pixel
        prompt = Prompt(
            task="region",
            masks=masks[:, None],
            labels=tuple(range(len(masks))),
            regions=tuple(Region.from_point(x, y) for y, x in points),
            ignore=(owner == BORDER)[None],
            key=image.stem,
        )
        return Example(f"{self._name}#{index}", pixels[None], (prompt,))
