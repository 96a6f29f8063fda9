"""COCO panoptic: {images, annotations: [{image_id, file_name, segments_info}], categories: [{id, name, isthing}]}.

A pixel of the png belongs to the segment R + 256 G + 65536 B; 0 is void.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib

import numpy as np

from hyperseg_jax.data.formats import files
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt


class CocoPanoptic:
    """Random access to the pictures of one json file, in its order, each with class-list prompts."""

    def __init__(
        self,
        json_path: str | os.PathLike,
        image_root: str | os.PathLike,
        png_root: str | os.PathLike,
        *,
        max_classes: int | None = None,
        prompts_per_example: int = 1,
        seed: int = 0,
    ):
        """max_classes: the class list of a prompt is what the picture shows and classes it does not show, up to this
        number (shown classes beyond it are left out and their pixels ignored), in random order, drawn from seed,
        index and prompt. None: every class, in the order of the file, as an evaluation wants it.
        prompts_per_example: class lists of one picture.
        """
        if max_classes is not None and max_classes < 1:
            raise UserError(f"max_classes={max_classes} is too few; give at least 1, or none for every class")
        if prompts_per_example < 1:
            raise UserError(f"prompts_per_example={prompts_per_example} is too few; give at least 1")
        self._file = files.Json(json_path, dict)
        self._images = files.existing_folder(image_root)
        self._pngs = files.existing_folder(png_root)
        self._max_classes = max_classes
        self._prompts = prompts_per_example
        self._seed = seed
        path = str(self._file.path)
        content = self._file.content
        self._categories = {
            files.field(row, "id", f"{path} categories"): (
                files.field(row, "name", f"{path} categories"),
                bool(files.field(row, "isthing", f"{path} categories")),
            )
            for row in files.field(content, "categories", path)
        }
        self._picture_of = {
            files.field(image, "id", f"{path} images"): k
            for k, image in enumerate(files.field(content, "images", path))
        }
        self._length = len(files.field(content, "annotations", path))

    @property
    def classes(self) -> tuple[str, ...]:
        """Every class, in the order of the file."""
        return tuple(name for name, _ in self._categories.values())

    @property
    def things(self) -> tuple[bool, ...]:
        """For each class, whether its instances are counted apart."""
        return tuple(thing for _, thing in self._categories.values())

    @property
    def category_ids(self) -> tuple[int, ...]:
        """For each class, its number in the file."""
        return tuple(self._categories)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        where = f"{self._file.path} annotations#{index}"
        note = self._file.content["annotations"][index]
        number = files.field(note, "image_id", where)
        if number not in self._picture_of:
            raise UserError(f"{where}: image_id {number} is not among the images of the file; correct or remove it")
        image = self._file.content["images"][self._picture_of[number]]
        size = int(files.field(image, "height", where)), int(files.field(image, "width", where))
        pixels = files.read_picture(self._images / files.field(image, "file_name", where), size)
        segments, numbers, ignore, crowds = self._segments(note, size, where)
        made = (self._prompt(index, k, segments, numbers, ignore, crowds) for k in range(self._prompts))
        prompts = tuple(dataclasses.replace(prompt, key=str(number)) for prompt in made)
        return Example(f"{self._file.path.name}#{index}", pixels[None], prompts)

    def _segments(
        self, note: dict, size: tuple[int, int], where: str
    ) -> tuple[np.ndarray, list[int], np.ndarray, dict[int, np.ndarray]]:
        """Masks [N, H, W], the category id of each, the pixels of crowds and of no segment, and the crowd of each category."""
        png = self._pngs / pathlib.Path(files.field(note, "file_name", where)).name
        coded = files.read_picture(png, size).astype(np.int32)
        owner = coded[..., 0] + 256 * coded[..., 1] + 65536 * coded[..., 2]
        ignore = owner == 0
        segments, numbers, crowds = [], [], {}
        for info in files.field(note, "segments_info", where):
            mask = owner == files.field(info, "id", f"{where} segments_info")
            category = files.field(info, "category_id", f"{where} segments_info")
            if category not in self._categories:
                raise UserError(f"{where}: category_id {category} is not among the categories of the file; correct it")
            if not mask.any():
                raise UserError(f"{png}: has no pixel of segment {info['id']} that {where} lists; write the pair again")
            if info.get("iscrowd"):
                ignore |= mask
                crowds[category] = mask  # the last of a class counts, as in COCO's tool
            else:
                segments.append(mask)
                numbers.append(category)
        return np.array(segments, bool).reshape(-1, *size), numbers, ignore, crowds

    def _prompt(
        self, index: int, k: int, segments: np.ndarray, numbers: list[int], ignore: np.ndarray, crowds: dict[int, np.ndarray]
    ) -> Prompt:
        chosen = list(self._categories)
        if self._max_classes is not None:
            rng = np.random.default_rng([self._seed, index, k])
            shown = list(dict.fromkeys(numbers))
            others = [category for category in chosen if category not in shown]
            shown, others = ([group[i] for i in rng.permutation(len(group))] for group in (shown, others))
            chosen = (shown + others)[: self._max_classes]
            chosen = [chosen[i] for i in rng.permutation(len(chosen))]
        place = {category: i for i, category in enumerate(chosen)}
        kept = [i for i, category in enumerate(numbers) if category in place]
        left_out = np.array([category not in place for category in numbers], bool)
        hidden = ignore | segments[left_out].any(0)
        massed = [category for category in crowds if category in place]
        return Prompt(
            task="panoptic",
            classes=tuple(self._categories[category][0] for category in chosen),
            things=tuple(self._categories[category][1] for category in chosen),
            masks=segments[kept][:, None],
            labels=tuple(place[numbers[i]] for i in kept),
            ignore=hidden[None] if hidden.any() else None,
            crowds=np.stack([crowds[category] for category in massed])[:, None] if massed else None,
            crowd_labels=tuple(place[category] for category in massed),
        )
