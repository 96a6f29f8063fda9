"""Pixels at the encoders' sizes against the published data code."""

import numpy as np
import pytest

from hyperseg_jax.ops.transforms import fit_to_square, resize_and_pad, stretch_mask_to_square, stretch_to_square
from hyperseg_jax.systems.pixels import GREY, normalize_for_llm, normalize_for_masks


@pytest.mark.golden("hyperseg", r"preprocess.*")
def test_preprocess(case):
    size, clip_size = case.config["IMAGE_SIZE"], case.config["siglip_size"]
    for shape in sorted(name.removeprefix("image_") for name in case.inputs if name.startswith("image_")):
        frame, drawn = case.inputs[f"image_{shape}"], case.inputs[f"region_{shape}"]
        geometry = fit_to_square(*frame.shape[:2], size)
        image = normalize_for_masks(resize_and_pad(frame, geometry, GREY))
        clip_image = normalize_for_llm(stretch_to_square(frame, clip_size))
        padding = np.ones(geometry.padded, bool)
        padding[: geometry.filled[0], : geometry.filled[1]] = False
        case.compare(f"{shape}_image", np.moveaxis(np.asarray(image), -1, 0))
        case.compare(f"{shape}_siglip", np.moveaxis(np.asarray(clip_image), -1, 0))
        case.compare(f"{shape}_padding_mask", padding)
        case.compare(f"{shape}_region_mask_siglip", stretch_mask_to_square(drawn > 0, clip_size)[None])
    case.check()
