"""Encodes the frames of a record: the original image file if possible, otherwise PNG; downscaled frames are JPEG."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
from PIL import Image

from hyperseg_jax.datasets.files import ImageReads
from hyperseg_jax.datasets.prompt_masks import map_masks
from hyperseg_jax.datasets.regions import rescale_region
from hyperseg_jax.datasets.visual_prompts import thicken_region_mask
from hyperseg_jax.ops.transforms import fit_to_square
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.untrusted import limits, paths
from hyperseg_jax.untrusted.images import BYTES

QUALITY = 95
KEPT_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG")
"""Signatures of image files that are stored unchanged."""


def encode_losslessly(frames: np.ndarray, read: ImageReads) -> list[bytes]:
    """Returns each frame as the unchanged JPEG or PNG file that it was read from, or else encoded as PNG. frames: uint8 [T, H,
    W, 3]. read: the image reads recorded by `files.record_image_reads`."""
    return [
        _encode_losslessly(frame, read[t:] or read) for t, frame in enumerate(frames)
    ]  # the frames of a video were read in order


def _encode_losslessly(frame: np.ndarray, read: ImageReads) -> bytes:
    for path, pixels in read:
        if np.shares_memory(pixels, frame) or np.array_equal(pixels, frame):
            data = paths.read_file(path, limits.current().pixels * BYTES, "pixels")
            if data.startswith(KEPT_SIGNATURES):
                return data
    return _encode_image(frame, "PNG")


def _encode_image(frame: np.ndarray, form: str, **options: int) -> bytes:
    written = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame)).save(written, form, **options)
    return written.getvalue()


def downscale_example(example: Example, long_edge: int) -> Example:
    """Downscales an example to a long edge of at most this many pixels: frames bilinear, masks nearest. A nonempty mask or
    visual prompt keeps at least one pixel."""
    height, width = example.frames.shape[1:3]
    if max(height, width) <= long_edge:
        return example
    size = fit_to_square(height, width, long_edge).filled

    def downscale_masks(_: str, masks: np.ndarray) -> np.ndarray:
        planes = [_downscale_mask(plane, size) for plane in masks.reshape(-1, height, width)]
        return np.array(planes, bool).reshape(*masks.shape[:-2], *size)

    ratio, share = (size[0] / height, size[1] / width), size[0] * size[1] / (height * width)

    def downscale_prompt(prompt: Prompt) -> Prompt:
        regions = tuple(
            rescale_region(thicken_region_mask(region), ratio, lambda mask: _downscale_mask(mask, size))
            for region in prompt.regions
        )
        return map_masks(prompt, downscale_masks, regions=regions, areas=tuple(area * share for area in prompt.areas))

    frames = np.stack([_resize(frame, size, Image.Resampling.BILINEAR) for frame in example.frames])
    return dataclasses.replace(example, frames=frames, prompts=tuple(map(downscale_prompt, example.prompts)))


def _downscale_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    small = _resize(mask.astype(np.uint8), size, Image.Resampling.NEAREST) > 0
    if mask.any() and not small.any():
        row, column = (int(index[0]) * new // old for index, new, old in zip(np.nonzero(mask), size, mask.shape, strict=True))
        small[row, column] = True
    return small


def _resize(pixels: np.ndarray, size: tuple[int, int], rule: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(size[::-1], rule))


def encode_as_jpegs(frames: np.ndarray) -> list[bytes]:
    """Encodes each frame as JPEG with quality 95 and without chroma subsampling (4:4:4)."""
    return [_encode_image(frame, "JPEG", quality=QUALITY, subsampling=0) for frame in frames]
