"""Samples clips from records with full videos, by the same rules as the readers of video benchmarks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from hyperseg_jax.datasets.builds.records import PER_FRAME_MASKS, Record
from hyperseg_jax.datasets.frame_sampling import Sampling
from hyperseg_jax.datasets.prompt_masks import map_masks
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt, Region


def sample_clip(record: Record, sampling: Sampling, rng: np.random.Generator, where: str) -> Example:
    """Returns a clip sampled with rng.

    Class-list prompts keep the objects visible in the clip. Region prompts keep the objects visible in its first frame, which
    shows at least one if possible. Expressions keep all objects; a key frame shows one of them. Videos without public masks are
    not sampled.
    """
    prompts = record.prompts
    region = any(prompt.task == "region" for prompt in prompts)
    if sampling.frames is None or (region and any(prompt.masks is None for prompt in prompts)):
        return record.example()
    times = _sample_frame_indices(record, prompts, sampling, rng)
    return record.example([int(t) for t in times], [_cut_prompt_to_clip(record, prompt, times, where) for prompt in prompts])


def _sample_frame_indices(
    record: Record, prompts: Sequence[Prompt], sampling: Sampling, rng: np.random.Generator
) -> np.ndarray:
    """Samples the frames of a clip, see `sample_clip`. If the first frame of a region clip cannot show an object, the clip
    starts at the first frame of the video."""
    objects = [numbers for prompt in prompts for numbers in (prompt.masks, prompt.crowds) if numbers is not None]
    tracks = [record.is_nonempty(numbers) for numbers in objects if len(numbers)]
    only_expressions = all(prompt.task not in ("region", "panoptic") for prompt in prompts)
    if not tracks or (only_expressions and not sampling.has_key_frame):
        return sampling.sample_frame_indices(len(record), rng)
    seen = np.asarray(np.concatenate(tracks).any(0))
    region = prompts[0].task == "region"
    times = sampling.sample_frame_indices_showing(len(record), rng, lambda t: bool(seen[t]), key=0 if region else None)
    if region and not seen[times[0]]:
        return np.minimum(np.arange(len(times)), len(record) - 1)
    return times


def _cut_prompt_to_clip(record: Record, prompt: Prompt, times: np.ndarray, where: str) -> Prompt:
    """Returns the prompt with the masks of these frames; drops the objects that `sample_clip` does not keep."""

    def select_frames(name: str, numbers: np.ndarray) -> np.ndarray | None:
        selected = numbers[..., times] if name in PER_FRAME_MASKS else numbers
        return None if name == "ignore" and not record.is_nonempty(selected).any() else selected

    part = map_masks(prompt, select_frames)
    if prompt.task not in ("region", "panoptic") or prompt.masks is None or part.masks is None:
        return part
    seen = record.is_nonempty(part.masks)
    kept = np.flatnonzero(seen[:, 0] if prompt.task == "region" else seen.any(1))
    masks = part.masks[kept]
    if prompt.task == "panoptic":
        return dataclasses.replace(part, masks=masks, labels=tuple(prompt.labels[n] for n in kept))
    if not _are_mask_regions(prompt.regions, prompt.masks[:, 0]):
        raise UserError(
            f"{where}: its regions are not the objects of its first frame, so clips cannot be sampled; remove `frames`"
        )
    pairs = zip(kept, masks, strict=True)
    regions = tuple(dataclasses.replace(prompt.regions[n], mask=numbers[0, ...]) for n, numbers in pairs)
    return dataclasses.replace(part, masks=masks, labels=tuple(range(len(kept))), regions=regions)


def _are_mask_regions(regions: Sequence[Region], planes: np.ndarray) -> bool:
    """Returns whether the regions are exactly these masks, without other marks. planes: plane numbers of the masks, int [R]."""
    marked = any(len(region.points) or len(region.boxes) or region.scribbles for region in regions)
    return not marked and [region.mask for region in regions] == planes.tolist()
