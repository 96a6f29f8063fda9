"""Segment maps against a mask for each target: bytes and CPU time of one panoptic training element of HyperSeg-3B.

The image is 640 x 480 (like COCO), divided into disjoint segments, with COCO's list of 133 classes. The alternative resizes
and pads each mask separately. Both create the same images, tokens and labels, which is part of their time. The toy tokenizer
replaces Phi's; it needs more tokens for the class list, so the sequence is longer.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from PIL import Image

from hyperseg_jax import config as configs
from hyperseg_jax.data import sources
from hyperseg_jax.data.processor import Batch, Processor
from hyperseg_jax.datasets.class_names import COCO_THINGS
from hyperseg_jax.ops.transforms import Geometry
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.systems import system as systems
from hyperseg_jax.text.tokenizer import Tokenizer

HEIGHT, WIDTH = 480, 640
COCO_PANOPTIC_STUFF = """banner, blanket, bridge, cardboard, counter, curtain, door-stuff, floor-wood, flower, fruit,
    gravel, house, light, mirror-stuff, net, pillow, platform, playingfield, railroad, river, road, roof, sand, sea,
    shelf, snow, stairs, tent, towel, wall-brick, wall-stone, wall-tile, wall-wood, water-other, window-blind,
    window-other, tree-merged, fence-merged, ceiling-merged, sky-other-merged, cabinet-merged, table-merged,
    floor-other-merged, pavement-merged, mountain-merged, grass-merged, dirt-merged, paper-merged, food-other-merged,
    building-other-merged, rock-merged, wall-other-merged, rug-merged"""


def make_example(segments: int) -> Example:
    """Returns a noise image whose segments are the Voronoi cells of random points."""
    rng = np.random.default_rng(segments)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    centres = rng.random((segments, 2)) * (HEIGHT, WIDTH)
    owner = np.stack([(y - row) ** 2 + (x - column) ** 2 for row, column in centres]).argmin(0)
    stuff = tuple(" ".join(name.split()) for name in COCO_PANOPTIC_STUFF.split(","))
    prompt = Prompt(
        "panoptic",
        classes=COCO_THINGS + stuff,
        things=(True,) * len(COCO_THINGS) + (False,) * len(stuff),
        masks=np.stack([owner == n for n in range(segments)])[:, None],
        labels=tuple(rng.integers(0, len(COCO_THINGS + stuff), segments).tolist()),
    )
    return Example("an image", rng.integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8), (prompt,))


def prepare_with_maps(processor: Processor, example: Example) -> Batch:
    return processor(example, train=True)


def prepare_with_masks(processor: Processor, example: Example, targets: int) -> Batch:
    """Returns the element with masks bool [K, N, T, S, S] instead of the maps."""
    (prompt,) = example.prompts
    bare = dataclasses.replace(example, prompts=(dataclasses.replace(prompt, masks=None, labels=()),))
    result, geometry = processor(bare, train=True), processor.geometry(HEIGHT, WIDTH)
    masks = np.zeros((targets, 1, *geometry.padded), bool)
    for n, mask in enumerate(prompt.masks):
        masks[n, 0] = resize_mask(mask[0], geometry)
    valid = np.array([n < len(prompt.masks) and bool(masks[n].any()) for n in range(targets)])
    left_out = ("segments", "planes")
    return {
        **{name: value for name, value in result.items() if name not in left_out},
        "masks": np.stack([masks]),
        "valid": valid[None],
    }


def resize_mask(mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    (height, width), padded = geometry.filled, np.zeros(geometry.padded, bool)
    image = Image.fromarray(mask.astype(np.uint8))
    padded[:height, :width] = np.asarray(image.resize((width, height), Image.Resampling.NEAREST)) > 0
    return padded


def measure_seconds(function: Callable[[], Batch]) -> float:
    """Returns the CPU seconds of a call."""
    began = time.process_time()
    function()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", type=int, nargs="+", default=[11, 30, 60, 100], help="COCO has 11 an image on average")
    parser.add_argument("--rounds", type=int, default=7)
    parsed = parser.parse_args()
    config = configs.load("hyperseg_3b")
    processor = sources.make_processor(config, systems.get(config.system), Tokenizer.toy(), "panoptic", length=4096)
    targets = config.data.tasks.panoptic.targets
    for segments in parsed.segments:
        inputs = make_example(segments)
        ways = (
            lambda inputs=inputs: prepare_with_maps(processor, inputs),
            lambda inputs=inputs: prepare_with_masks(processor, inputs, targets),
        )
        maps, masks = (way() for way in ways)
        numbers = np.arange(1, targets + 1)[:, None, None, None]
        if not np.array_equal(maps["segments"][0] == numbers, masks["masks"][0]) or (maps["valid"] != masks["valid"]).any():
            raise SystemExit(f"{segments} segments: the two ways have different masks; nothing was measured")
        times = [tuple(map(measure_seconds, ways)) for _ in range(parsed.rounds)]
        ratios = sorted(masks_ms / maps_ms for maps_ms, masks_ms in times)
        maps_ms, masks_ms = (statistics.median(column) * 1e3 for column in zip(*times, strict=True))
        megabytes = [sum(leaf.nbytes for leaf in jax.tree.leaves(one)) / 1e6 for one in (maps, masks)]
        print(
            f"{segments:3} segments: maps {megabytes[0]:6.2f} MB {maps_ms:6.1f} ms, "
            f"masks {megabytes[1]:6.2f} MB {masks_ms:6.1f} ms, "
            f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
