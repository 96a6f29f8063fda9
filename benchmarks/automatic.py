"""SAM's automatic mode at real size: prompt points a second, beside transformers' SamModel on the same weights.

    python benchmarks/automatic.py [--config sam_vitb] [--points 64] [--rounds 3]

Both sides get the same encoded image of 1024 px, decode the same points in one batch, resize all candidates to the image, and
measure their stability and boxes; all thresholds are off. Weights are random."""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import torch
import transformers

from hyperseg_jax import config as configs
from hyperseg_jax.predictors.model import Model
from hyperseg_jax.structs import Region
from hyperseg_jax.systems import system as systems
from hyperseg_jax.systems.sam.checkpoints import hf_config

HEIGHT, WIDTH = 768, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="sam_vitb")
    parser.add_argument("--points", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parsed = parser.parse_args()

    config, system = configs.load(parsed.config), systems.get("sam")
    torch.manual_seed(0)
    theirs = transformers.SamModel(transformers.SamConfig(**hf_config(config))).eval()
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    model = Model(config, None, system.weight_table(config).to_flax(state, system.shapes(config)))
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    points = rng.uniform(0, (WIDTH, HEIGHT), (parsed.points, 2)).astype(np.float32)
    request, _ = model.request_of_regions(image, [Region.from_point(WIDTH / 2, HEIGHT / 2)])
    features = jax.block_until_ready(model.engine.encode_image(request))
    encoded = torch.from_numpy(np.asarray(features["image"]).transpose(0, 3, 1, 2).copy())

    def run_ours() -> tuple[float, np.ndarray]:
        start = time.perf_counter()
        thresholds, valid = np.array([0, 0, 1], np.float32), np.ones(len(points), bool)
        found = model.engine.propose_masks(request, features, points, valid, thresholds)
        masks, *_ = (np.asarray(field) for field in (found.packed, found.boxes, found.stability, found.scores))
        return time.perf_counter() - start, np.unpackbits(masks, axis=-1).astype(bool)

    def run_theirs() -> tuple[float, np.ndarray]:
        start = time.perf_counter()
        with torch.no_grad():
            prompts = torch.from_numpy(points)[None, :, None]
            low = theirs(image_embeddings=encoded, input_points=prompts, multimask_output=True).pred_masks[0]
            large = torch.nn.functional.interpolate(low, (1024, 1024), mode="bilinear", align_corners=False)
            large = large[..., :HEIGHT, :WIDTH]
            large = torch.nn.functional.interpolate(large, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
            large = large.flatten(0, 1)
            masks = large > 0
            stability = (large > 1).sum((-1, -2)) / (large > -1).sum((-1, -2))
            sides = [masks.any(axis) for axis in (-2, -1)]
            boxes = [(side.int().argmax(-1), side.flip(-1).int().argmax(-1)) for side in sides]
            assert len(stability) == len(boxes[0][0])
        return time.perf_counter() - start, masks.numpy()

    (_, ours), (_, expected) = run_ours(), run_theirs()  # compiles ours
    differ = float((ours != expected).mean())
    assert differ < 1e-3, "both must agree"
    pairs = [(run_theirs()[0], run_ours()[0]) for _ in range(parsed.rounds)]
    ratios = sorted(peer / own for peer, own in pairs)
    peer, own = (np.median(times) for times in zip(*pairs, strict=True))
    print(f"{parsed.config}, {len(points)} points, image {WIDTH} x {HEIGHT}: pixels that differ {differ:.1e}")
    print(f"transformers {len(points) / peer:.2f} points/s, ours {len(points) / own:.2f} points/s")
    print(f"ratio {np.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
