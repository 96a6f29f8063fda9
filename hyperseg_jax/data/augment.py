"""Random augmentation of training examples that keeps their meaning.

Images are cropped and flipped here and resized only once, by ops/transforms. Masks, drawn prompts, ignored pixels, crowds and
the foreground are transformed with their image. All frames of a clip share the same random parameters.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from hyperseg_jax.datasets.prompt_masks import map_masks
from hyperseg_jax.datasets.regions import Window, crop_region, flip_region, has_positive_mark
from hyperseg_jax.datasets.visual_prompts import draw_marks, thicken_region_mask
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import KINDS, Example, Prompt, Region
from hyperseg_jax.text import sides
from hyperseg_jax.untrusted import budget

MAX_TRIES = 10
"""Attempts to draw a crop window that keeps the targets; if all fail, the image is not cropped."""
SINGLE_TARGET_TASKS = ("referring", "reasoning", "video")
"""Tasks whose text refers to one mask. A crop must contain all of its pixels."""
MULTI_TARGET_TASKS = ("panoptic", "region", "caption")
"""Tasks with several masks or regions. A crop may lose some of them. Images of other tasks are not cropped."""
FLIPPED_TEXTS = ("swap", "skip", "keep")
"""What a flip does with texts, see Augment."""

_WHERE = "the regions of the example"  # for messages about limits
_WRITING = re.compile(
    r"\b(words?|letters?|numbers?|numerals?|digits?|text|writing|written|spelled|says|reads|logo)\b", re.IGNORECASE
)
"""Words for writing, which cannot be read in a mirrored image."""
Texts = tuple[str, ...]
_POSITION_WORDS = re.compile(
    r"\b(left|right|top|bottom|upper|lower|middle|cent(er|re)|corner|edge|side|first|second|third|fourth|"
    r"fifth|1st|2nd|3rd|4th|5th|last|between|behind|front|back|background|foreground|above|below|under|over|"
    r"beside|next|near|nearer|nearest|closer|closest|far|farther|farthest|further|furthest|leftmost|"
    r"rightmost|topmost|uppermost|lowest|highest)\b",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Augment:
    """The random augmentation of training examples.

    horizontal_flip: probability of a horizontal flip.
    scale: (minimum, maximum) long edge of the image as a fraction of the padded square, sampled uniformly (large-scale jitter,
        (0.1, 2.0) in Mask2Former and SEEM). A larger image is cropped at a random position, a smaller one is padded.
    crop: (minimum, maximum) fraction of each side that is kept, sampled uniformly and applied before the jitter.
    marks: kinds of marks. For each region of a region prompt, a mark of one of these kinds is drawn from its target mask. ()
        keeps the marks of the reader.
    point_radius, scribble_radius: dilation of points and scribbles in pixels; None scales it with the size of the crop.
    flipped_texts: "swap" also swaps left and right in the texts of a flipped example, and does not flip it if it is not known
        what they then say (text/sides); "skip" flips it only if they are known to name no side and no writing; "keep" flips
        without a change of the texts.
    """

    horizontal_flip: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    crop: tuple[float, float] = (1.0, 1.0)
    marks: tuple[str, ...] = ()
    point_radius: int | None = None
    scribble_radius: int | None = None
    flipped_texts: str = "swap"

    def __post_init__(self) -> None:
        if not 0 <= self.horizontal_flip <= 1:
            raise UserError(f"horizontal_flip = {self.horizontal_flip}: give a probability from 0 to 1")
        if self.flipped_texts not in FLIPPED_TEXTS:
            raise UserError(f"flipped_texts = {self.flipped_texts!r}: choose one of {', '.join(FLIPPED_TEXTS)}")
        for name, most in (("scale", 10.0), ("crop", 1.0)):
            span = getattr(self, name)
            if len(span) != 2 or not 0 < span[0] <= span[1] <= most:
                raise UserError(f"{name} = {tuple(span)}: give two numbers above 0 and up to {most:g}, the smaller first")
        if unknown := [kind for kind in self.marks if kind not in KINDS]:
            raise UserError(f"marks = {unknown}: choose some of {', '.join(KINDS)}")

    def __call__(self, example: Example, rng: np.random.Generator) -> tuple[Example, float]:
        """Returns the augmented example and the fraction of the padded square that its long edge is to fill.

        An example whose regions are drawn on another image, or that has no pixels, is only flipped: crops and new marks would
        apply to this image instead of the other one.
        """
        if self.horizontal_flip and rng.random() < self.horizontal_flip:
            example = self._flip(example)
        fill = 1.0
        if example.drawn_on is not None or not example.frames.size:
            return example, fill
        if (*self.scale, *self.crop) != (1.0,) * 4:
            example, fill = self._crop_and_scale(example, rng)
        if self.marks:
            example = _map_prompts(example, lambda prompt: self._redraw_marks(prompt, rng))
        return example, fill

    def _flip(self, example: Example) -> Example:
        """Returns the flipped example, or the example itself if its texts do not allow a flip."""
        changes: dict[str, Callable[[Texts], Texts]] = {"swap": swap_sides, "skip": _check_mirrored, "keep": tuple}
        try:
            return flip_horizontally(example, changes[self.flipped_texts])
        except UnknownSidesError:
            return example

    def _crop_and_scale(self, example: Example, rng: np.random.Generator) -> tuple[Example, float]:
        """Returns the example with a random crop, and the fraction of the padded square for its long edge. Class lists decide
        where an image may be cropped; other prompts of such an example that lose their meaning are left out."""
        size = example.frames.shape[1:3]
        lists = [prompt for prompt in example.prompts if prompt.task == "panoptic"]
        others = [prompt for prompt in example.prompts if prompt.task != "panoptic"]
        fill = 1.0
        for _ in range(MAX_TRIES):
            scale = rng.uniform(*self.scale)
            sides = np.maximum(np.rint(size * rng.uniform(*self.crop, 2)), 1).astype(int)
            sides = np.minimum(sides, max(1, round(sides.max() / max(scale, 1.0))))  # limited to the padded square
            top, left = (int(rng.integers(full - side + 1)) for full, side in zip(size, sides, strict=True))
            window, fill = (slice(top, top + sides[0]), slice(left, left + sides[1])), min(scale, 1.0)
            if all(crop_keeps_meaning(prompt, window, size) for prompt in lists or others):
                kept = [prompt for prompt in others if crop_keeps_meaning(prompt, window, size)]
                return crop_example(dataclasses.replace(example, prompts=(*lists, *kept)), window), fill
        return example, fill

    def _redraw_marks(self, prompt: Prompt, rng: np.random.Generator) -> Prompt:
        """Replaces each region of a region prompt by a random mark drawn from its target mask, if it has one."""
        if prompt.task != "region" or prompt.masks is None:
            return prompt
        regions = list(prompt.regions)
        radii = {"point": self.point_radius, "scribble": self.scribble_radius}
        for region in range(len(regions)):
            budget.check_time(_WHERE)
            target = prompt.masks[np.array(prompt.labels) == region, 0].any(0)
            if target.any():
                kind = self.marks[int(rng.integers(len(self.marks)))]
                regions[region] = Region.from_mask(draw_marks(target, rng)[kind], kind, radii.get(kind, 0))
        return dataclasses.replace(prompt, regions=tuple(regions))


def crop_keeps_meaning(prompt: Prompt, window: Window, size: tuple[int, int]) -> bool:
    """Returns whether a prompt keeps its meaning when its image is cropped to a window.

    Texts that describe a position ("left of", "the second") and questions need the whole image. For other texts, the window
    must contain every pixel of the target. For lists of classes or regions, at least one target must be visible.
    """
    if (window[0].stop - window[0].start, window[1].stop - window[1].start) == tuple(size):
        return True
    masks = np.zeros((0, *size), bool) if prompt.masks is None else prompt.masks
    inside = masks[..., window[0], window[1]]
    if prompt.task in SINGLE_TARGET_TASKS:
        return not _POSITION_WORDS.search(prompt.text) and int(inside.sum()) == int(masks.sum())
    if prompt.task in ("region", "caption") and prompt.regions:
        return bool(_visible_regions(prompt, window).any())
    return prompt.task in MULTI_TARGET_TASKS and bool(inside.any() or not masks.any())


def crop_example(example: Example, window: Window) -> Example:
    """Returns the example cropped to a window. Masks and regions outside the window are dropped; labels are renumbered."""

    def crop_prompt(prompt: Prompt) -> Prompt:
        if prompt.task in MULTI_TARGET_TASKS:
            prompt = _drop_invisible_objects(prompt, window)
        regions = tuple(_cropped_mark(region, window) for region in prompt.regions)
        return map_masks(prompt, lambda _, mask: mask[..., window[0], window[1]], regions=regions, areas=())

    frames = np.ascontiguousarray(example.frames[:, window[0], window[1]])
    return _map_prompts(dataclasses.replace(example, frames=frames), crop_prompt)


def _cropped_mark(region: Region, window: Window) -> Region:
    """Dilates and crops a region; points and lines would be lost in a smaller image."""
    budget.check_time(_WHERE)
    return crop_region(thicken_region_mask(region), window)


def _visible_regions(prompt: Prompt, window: Window) -> np.ndarray:
    """Returns bool [R]: regions with a mark inside the window and, if they have a target mask, part of the target."""
    seen = np.array([has_positive_mark(_cropped_mark(region, window)) for region in prompt.regions], bool)
    if prompt.masks is not None:
        inside = np.asarray(prompt.masks[..., window[0], window[1]].any((1, 2, 3)) | ~prompt.masks.any((1, 2, 3)))
        for label, visible in zip(prompt.labels, inside, strict=True):
            seen[label] &= visible
    return seen


def _drop_invisible_objects(prompt: Prompt, window: Window) -> Prompt:
    """Returns the prompt without the targets and regions that are not in the window; labels are renumbered."""
    if prompt.task in ("region", "caption"):
        seen = _visible_regions(prompt, window)
        new_label = np.cumsum(seen) - 1
        kept_masks = [n for n, label in enumerate(prompt.labels) if seen[label]]
        labels = tuple(int(new_label[prompt.labels[n]]) for n in kept_masks)
        kept = np.flatnonzero(seen)
        regions = tuple(prompt.regions[k] for k in kept)
        captions = tuple(prompt.captions[k] for k in kept) if prompt.captions else ()
        targets = None if prompt.masks is None else prompt.masks[kept_masks]
        return dataclasses.replace(prompt, labels=labels, regions=regions, captions=captions, masks=targets)
    changed: dict[str, Any] = {}
    for name, labels_name in (("masks", "labels"), ("crowds", "crowd_labels")):
        if (masks := getattr(prompt, name)) is not None:
            kept = np.flatnonzero(masks[..., window[0], window[1]].any((1, 2, 3)))
            changed |= {name: masks[kept], labels_name: tuple(getattr(prompt, labels_name)[n] for n in kept)}
    return dataclasses.replace(prompt, **changed)


def _map_prompts(example: Example, change: Callable[[Prompt], Prompt]) -> Example:
    """Returns the example with each of its prompts changed."""
    return dataclasses.replace(example, prompts=tuple(change(prompt) for prompt in example.prompts))


class UnknownSidesError(ValueError):
    """It is not known what a text says about the mirrored image."""


def swap_sides(texts: Texts) -> Texts:
    """Returns texts of one language with left and right swapped. Raises UnknownSidesError."""
    if (swapped := sides.swap(texts)) is None:
        raise UnknownSidesError
    return swapped


def _check_mirrored(texts: Texts) -> Texts:
    """Returns the texts. Raises UnknownSidesError unless they are known to be true of the mirrored image."""
    if swap_sides(texts) != texts or any(map(_WRITING.search, texts)):
        raise UnknownSidesError
    return texts


def flip_horizontally(example: Example, change: Callable[[Texts], Texts] = swap_sides) -> Example:
    """Flips frames, masks, regions and the image that regions are drawn on; changes the texts, by default left and right are
    swapped. change: f(texts of one language). Raises UnknownSidesError of `change`."""
    width = example.frames.shape[2] if example.drawn_on is None else example.drawn_on.shape[1]

    def each(texts: Texts) -> Texts:
        return tuple(new for text in texts for new in change((text,)))

    def flip_prompt(prompt: Prompt) -> Prompt:
        text, answer = each((prompt.text, prompt.answer))
        names = change((*prompt.classes, *(prompt.entities or ())))
        return map_masks(
            prompt,
            lambda _, mask: mask[..., ::-1],
            regions=tuple(flip_region(region, width) for region in prompt.regions),
            text=text,
            answer=answer,
            history=tuple(map(each, prompt.history)),
            captions=tuple(map(each, prompt.captions)),
            answers=each(prompt.answers),
            classes=names[: len(prompt.classes)],
            entities=None if prompt.entities is None else names[len(prompt.classes) :],
        )

    frames = np.ascontiguousarray(example.frames[:, :, ::-1])
    drawn_on = None if example.drawn_on is None else np.ascontiguousarray(example.drawn_on[:, ::-1])
    return _map_prompts(dataclasses.replace(example, frames=frames, drawn_on=drawn_on), flip_prompt)
