"""Base class of readers of region captions: one prompt per image, with its regions and the texts of each."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from hyperseg_jax.datasets.check_errors import report_problem
from hyperseg_jax.datasets.per_image import PerImage
from hyperseg_jax.datasets.visual_prompts import box_region
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Prompt, Region

MARKS = ("box", "centre", "point", "mask_point")
"""How a region is marked: by its box, the centre of the box, a random point in the box, or a random pixel of its mask."""


@dataclasses.dataclass(frozen=True)
class DescribedRegion:
    """A region of a file. box: [x, y, width, height], not yet checked. texts: its captions. where: location in the file, for
    messages. mask: decodes its mask, bool [H, W]; None if the file has no masks."""

    box: object
    texts: tuple[str, ...]
    where: str
    mask: Callable[[], np.ndarray] | None = None


class RegionCaptions(PerImage):
    """Random access to the images of a file that have regions. Subclasses implement `_regions` and `_image_path_and_size`."""

    def _set_images(self, count: int, mark: str, seed: int, errors: Mapping[int, UserError], masks: bool = False) -> None:
        """count: number of images. mark: one of MARKS. seed: of random points. errors: of damaged images, which raise them.
        masks: prompts also have the masks of their regions."""
        if mark not in MARKS:
            raise UserError(f"mark={mark!r} is unknown; choose one of {', '.join(MARKS)}")
        self._mark, self._seed, self._masks = mark, seed, masks
        self._group_prompts(count, lambda n: n, 1, errors)

    @abc.abstractmethod
    def _regions(self, n: int, size: tuple[int, int]) -> Iterator[DescribedRegion]:
        """Yields the regions of image n in file order. size: (height, width) of the image."""

    @abc.abstractmethod
    def _image_key(self, n: int) -> str:
        """Returns the id of image n."""

    def _build_prompt(self, n: int, size: tuple[int, int]) -> Prompt:
        regions, captions, masks = [], [], list[np.ndarray]()
        for k, row in enumerate(self._regions(n, size)):
            region = box_region(row.box, size, row.where)
            if region is None:  # reported by a check
                continue
            marked = self._marked(region, row, n, k, size)
            if marked is not None:
                regions.append(marked)
                captions.append(row.texts)
                masks += [_decode(row)[None]] if self._masks else []
        prompt = Prompt("caption", regions=tuple(regions), captions=tuple(captions), key=self._image_key(n))
        if self._masks:
            stacked = np.array(masks, bool).reshape(len(regions), 1, *size)
            prompt = dataclasses.replace(prompt, masks=stacked, labels=tuple(range(len(regions))))
        return prompt

    def _marked(self, region: Region, row: DescribedRegion, n: int, k: int, size: tuple[int, int]) -> Region | None:
        """Returns region k of image n as it is marked. size: (height, width) of the image. Reports a problem and returns None
        if the region has no mask to draw from."""
        if self._mark == "box":
            return region
        (left, top, right, bottom) = region.boxes[0].tolist()
        if self._mark == "centre":
            return _point_inside((left + right) / 2, (top + bottom) / 2, size)
        rng = np.random.default_rng([self._seed, n, k])
        if self._mark == "point":
            return _point_inside(rng.uniform(left, right), rng.uniform(top, bottom), size)
        pixels = np.argwhere(_decode(row))
        if not len(pixels):
            report_problem("bad mask", f"{row.where}: its mask is empty; correct or remove it")
            return None
        y, x = pixels[int(rng.integers(len(pixels)))] + 0.5
        return Region.from_point(float(x), float(y))


def _decode(row: DescribedRegion) -> np.ndarray:
    """Returns the mask of a region, bool [H, W]. Raises UserError if it has none."""
    if row.mask is None:
        raise UserError(f"{row.where}: mark='mask_point' and masks=True need a mask, and this dataset has none; omit them")
    return row.mask()


def _point_inside(x: float, y: float, size: tuple[int, int]) -> Region:
    """Returns a point of a box, moved to a pixel of the image: an empty box may be at its right or lower border."""
    height, width = size
    return Region.from_point(min(x, width - 0.5), min(y, height - 0.5))
