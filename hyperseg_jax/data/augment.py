"""Random changes of a training example that keep its meaning.

Pixels are cut and flipped here; they are resized once, by transforms. Masks, drawn prompts, ignored pixels, crowds and the
foreground follow their image, and the frames of a clip share each draw.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from hyperseg_jax.datasets.prompt_masks import change_masks
from hyperseg_jax.datasets.regions import Window, cropped, flipped, points_at_something
from hyperseg_jax.datasets.visual_prompts import draw_marks, thickened
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import KINDS, Example, Prompt, Region

TRIES = 10
"""Draws of a window that keeps what is asked for; then the image stays whole."""
NAMED = ("referring", "reasoning", "video")
"""Tasks whose text means one mask, which a window keeps to the last pixel."""
LISTED = ("panoptic", "region")
"""Tasks with a mask for each entry, of which a window may lose some. Images of other tasks stay whole."""

_SIDES = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}
_PATTERN = re.compile(r"\b(leftmost|rightmost|left|right)\b", re.IGNORECASE)
_PLACES = re.compile(
    r"\b(left|right|top|bottom|upper|lower|middle|cent(er|re)|corner|edge|side|first|second|third|fourth|"
    r"fifth|1st|2nd|3rd|4th|5th|last|between|behind|front|back|background|foreground|above|below|under|over|"
    r"beside|next|near|nearer|nearest|closer|closest|far|farther|farthest|further|furthest|leftmost|"
    r"rightmost|topmost|uppermost|lowest|highest)\b",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Augment:
    """What is drawn for a training example.

    horizontal_flip: chance that it is flipped, left and right in its texts swapped.
    scale: (smallest, largest) long edge of the image as a part of the padded square, drawn evenly: large-scale jitter, (0.1,
        2.0) in Mask2Former and SEEM. What is larger than the square is cut at a place drawn at random, what is smaller padded.
    crop: (smallest, largest) part of each side that stays, drawn evenly, before the jitter.
    marks: kinds of marks, one of which is drawn anew for each region of a region prompt from its target; () keeps the reader's.
    point_radius, scribble_radius: pixels by which those are thickened; None: in proportion to the image that is left.
    """

    horizontal_flip: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    crop: tuple[float, float] = (1.0, 1.0)
    marks: tuple[str, ...] = ()
    point_radius: int | None = None
    scribble_radius: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.horizontal_flip <= 1:
            raise UserError(f"horizontal_flip = {self.horizontal_flip}: give a chance, from 0 to 1")
        for name, most in (("scale", 10.0), ("crop", 1.0)):
            span = getattr(self, name)
            if len(span) != 2 or not 0 < span[0] <= span[1] <= most:
                raise UserError(f"{name} = {tuple(span)}: give two numbers above 0 and up to {most:g}, the smaller first")
        if unknown := [kind for kind in self.marks if kind not in KINDS]:
            raise UserError(f"marks = {unknown}: choose some of {', '.join(KINDS)}")

    def __call__(self, example: Example, rng: np.random.Generator) -> tuple[Example, float]:
        """The changed example, and the part of the padded square that its long edge is to fill. Where its regions are drawn on
        another image, it is only flipped: windows and new marks would be of this one. So is one without pixels."""
        if self.horizontal_flip and rng.random() < self.horizontal_flip:
            example = flip_horizontally(example)
        fill = 1.0
        if example.drawn_on is not None or not example.frames.size:
            return example, fill
        if (*self.scale, *self.crop) != (1.0,) * 4:
            example, fill = self._windowed(example, rng)
        if self.marks:
            example = _of_prompts(example, lambda prompt: self._marked(prompt, rng))
        return example, fill

    def _windowed(self, example: Example, rng: np.random.Generator) -> tuple[Example, float]:
        size = example.frames.shape[1:3]
        fill = 1.0
        for _ in range(TRIES):
            scale = rng.uniform(*self.scale)
            sides = np.maximum(np.rint(size * rng.uniform(*self.crop, 2)), 1).astype(int)
            sides = np.minimum(sides, max(1, round(sides.max() / max(scale, 1.0))))  # what the square holds
            top, left = (int(rng.integers(have - side + 1)) for have, side in zip(size, sides, strict=True))
            window, fill = (slice(top, top + sides[0]), slice(left, left + sides[1])), min(scale, 1.0)
            if all(may_lose(prompt, window, size) for prompt in example.prompts):
                return cut(example, window), fill
        return example, fill

    def _marked(self, prompt: Prompt, rng: np.random.Generator) -> Prompt:
        if prompt.task != "region" or prompt.masks is None:
            return prompt
        regions = list(prompt.regions)
        radii = {"point": self.point_radius, "scribble": self.scribble_radius}
        for region in range(len(regions)):
            target = prompt.masks[np.array(prompt.labels) == region, 0].any(0)
            if target.any():
                kind = self.marks[int(rng.integers(len(self.marks)))]
                regions[region] = Region.from_mask(draw_marks(target, rng)[kind], kind, radii.get(kind, 0))
        return dataclasses.replace(prompt, regions=tuple(regions))


def may_lose(prompt: Prompt, window: Window, size: tuple[int, int]) -> bool:
    """Whether a prompt means the same on the part of its image that a window shows.

    A text that places things ("left of", "the second") means the whole image, and so does a question to be answered. What
    another text means must be there to the last pixel. Of a list of classes or regions something must be left.
    """
    if (window[0].stop - window[0].start, window[1].stop - window[1].start) == tuple(size):
        return True
    given = np.zeros((0, *size), bool) if prompt.masks is None else prompt.masks
    inside = given[..., window[0], window[1]]
    if prompt.task in NAMED:
        return not _PLACES.search(prompt.text) and int(inside.sum()) == int(given.sum())
    if prompt.task == "region" and prompt.regions:
        return bool(_seen_regions(prompt, window).any())
    return prompt.task in LISTED and bool(inside.any() or not given.any())


def cut(example: Example, window: Window) -> Example:
    """The part of an example that a window shows. Entries of class lists and regions that it does not show are dropped, with
    the labels of the others changed accordingly."""

    def of_prompt(prompt: Prompt) -> Prompt:
        if prompt.task in LISTED:
            prompt = _without_unseen(prompt, window)
        regions = tuple(cropped(thickened(region), window) for region in prompt.regions)
        return change_masks(prompt, lambda _, mask: mask[..., window[0], window[1]], regions=regions, areas=())

    frames = np.ascontiguousarray(example.frames[:, window[0], window[1]])
    return _of_prompts(dataclasses.replace(example, frames=frames), of_prompt)


def _seen_regions(prompt: Prompt, window: Window) -> np.ndarray:
    """bool [R]: whose mark is in a window, and some of whose target, where it has one."""
    seen = np.array([points_at_something(cropped(thickened(region), window)) for region in prompt.regions], bool)
    if prompt.masks is not None:
        inside = np.asarray(prompt.masks[..., window[0], window[1]].any((1, 2, 3)) | ~prompt.masks.any((1, 2, 3)))
        for label, there in zip(prompt.labels, inside, strict=True):
            seen[label] &= there
    return seen


def _without_unseen(prompt: Prompt, window: Window) -> Prompt:
    if prompt.task == "region":
        seen = _seen_regions(prompt, window)
        place = np.cumsum(seen) - 1
        kept = [n for n, label in enumerate(prompt.labels) if seen[label]]
        labels = tuple(int(place[prompt.labels[n]]) for n in kept)
        regions = tuple(region for region, there in zip(prompt.regions, seen, strict=True) if there)
        targets = None if prompt.masks is None else prompt.masks[kept]
        return dataclasses.replace(prompt, labels=labels, regions=regions, masks=targets)
    changed: dict[str, Any] = {}
    for name, numbers in (("masks", "labels"), ("crowds", "crowd_labels")):
        if (given := getattr(prompt, name)) is not None:
            left = np.flatnonzero(given[..., window[0], window[1]].any((1, 2, 3)))
            changed |= {name: given[left], numbers: tuple(getattr(prompt, numbers)[n] for n in left)}
    return dataclasses.replace(prompt, **changed)


def _of_prompts(example: Example, change: Callable[[Prompt], Prompt]) -> Example:
    return dataclasses.replace(example, prompts=tuple(change(prompt) for prompt in example.prompts))


def swap_left_and_right(text: str) -> str:
    """ "Left of the star" -> "Right of the star"."""
    return _PATTERN.sub(_other_side, text)


def _other_side(match: re.Match[str]) -> str:
    word, other = match[0], _SIDES[match[0].lower()]
    return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other


def flip_horizontally(example: Example) -> Example:
    """The image, its masks and its regions, with the image that they are drawn on, flipped left to right, with the words for
    the sides swapped."""
    width = example.frames.shape[2] if example.drawn_on is None else example.drawn_on.shape[1]

    def of_prompt(prompt: Prompt) -> Prompt:
        return change_masks(
            prompt,
            lambda _, mask: mask[..., ::-1],
            regions=tuple(flipped(region, width) for region in prompt.regions),
            text=swap_left_and_right(prompt.text),
            answer=swap_left_and_right(prompt.answer),
            answers=tuple(map(swap_left_and_right, prompt.answers)),
            classes=tuple(map(swap_left_and_right, prompt.classes)),
        )

    frames = np.ascontiguousarray(example.frames[:, :, ::-1])
    other = None if example.drawn_on is None else np.ascontiguousarray(example.drawn_on[:, ::-1])
    return _of_prompts(dataclasses.replace(example, frames=frames, drawn_on=other), of_prompt)
