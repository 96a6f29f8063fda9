"""Host cost of an answer: mask selection on the device, against the same rule on the host with all masks at full size.

    python benchmarks/answers.py [--side 1024] [--queries 100] [--rounds 5]

One expression for one image. Both take mask logits at a quarter of the model's input of 1024 px, and give the same mask except
for pixels near zero. The device part, which runs on the CPU here, is timed separately from the host's post-processing."""

from __future__ import annotations

import argparse
import os
import time
import tracemalloc

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from hyperseg_jax.ops.transforms import Geometry, fit_to_square
from hyperseg_jax.results.mask_resize import canvas_size, geometry_array, make_mask_resize
from hyperseg_jax.structs import Prompt
from hyperseg_jax.systems import system as systems

INPUT, STRIDE = 1024, 4


def interpolation_matrix(source: int, target: int) -> np.ndarray:
    """Returns the matrix float32 [target, source] of torch's bilinear interpolation."""
    at = np.maximum((np.arange(target) + 0.5) * source / target - 0.5, 0)
    low = np.minimum(at.astype(int), source - 1)
    matrix = np.zeros((target, source), np.float32)
    np.add.at(matrix, (np.arange(target), low), 1 - (at - low))
    np.add.at(matrix, (np.arange(target), np.minimum(low + 1, source - 1)), at - low)
    return matrix


def select_on_host(masks: np.ndarray, scores: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Resizes every mask to the image and returns the best: bool [H, W]."""
    resize = lambda x, size: interpolation_matrix(x.shape[-2], size[0]) @ x @ interpolation_matrix(x.shape[-1], size[1]).T
    full = resize(resize(masks, geometry.padded)[:, : geometry.filled[0], : geometry.filled[1]], geometry.original)
    chance = lambda x: 0.5 * (np.tanh(0.5 * x) + 1)
    quality = (chance(full) * (full > 0)).sum((1, 2)) / ((full > 0).sum((1, 2)) + 1e-6)
    return full[np.argmax(chance(scores) * quality)] > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=1024, help="of the image, pixels")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parsed = parser.parse_args()

    answers, rng = systems.get("hyperseg").answers, np.random.default_rng(0)
    geometry, prompt = fit_to_square(parsed.side * 3 // 4, parsed.side, INPUT), Prompt("referring", "it")
    noise = rng.normal(0, 2, (parsed.queries, 8, 8)).astype(np.float32)
    cells = INPUT // STRIDE
    masks = interpolation_matrix(8, cells) @ noise @ interpolation_matrix(8, cells).T  # smooth blobs
    scores = rng.normal(-3, 2, parsed.queries).astype(np.float32)
    outputs = {"mask_logits": masks, "expression": scores, "asked": np.asarray(True)}
    answer, size = answers.find("expression"), canvas_size(*geometry.original)

    def select(outputs: dict[str, jax.Array], geometry: jax.Array) -> dict[str, jax.Array]:
        return answer.select(outputs, make_mask_resize(geometry, masks.shape[1:], size), answers.default.segment_thresholds())

    jitted, loaded = jax.jit(select), jax.device_put(outputs)
    selected = jax.block_until_ready(jitted(loaded, geometry_array(geometry)))
    always = answers.published

    def finish(selected: dict[str, jax.Array]) -> np.ndarray:
        return answer.predict({name: np.asarray(value) for name, value in selected.items()}, prompt, geometry, always).masks[0]

    old, new = select_on_host(masks, scores, geometry), finish(selected)
    print(f"{parsed.queries} queries, image {geometry.original}: {(old != new).sum()} of {old.size} pixels differ")

    times: dict[str, list[float]] = {"host, all queries": [], "device part": [], "host part": []}
    for _ in range(parsed.rounds):
        began = time.perf_counter()
        select_on_host(masks, scores, geometry)
        times["host, all queries"].append(time.perf_counter() - began)
        began = time.perf_counter()
        selected = jax.block_until_ready(jitted(loaded, geometry_array(geometry)))
        times["device part"].append(time.perf_counter() - began)
        began = time.perf_counter()
        finish(selected)
        times["host part"].append(time.perf_counter() - began)
    peaks = {}
    for name, work in (
        ("host, all queries", lambda: select_on_host(masks, scores, geometry)),
        ("host part", lambda: finish(selected)),
    ):
        tracemalloc.start()
        work()
        peaks[name] = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
    for name, seconds in times.items():
        print(f"{name:20s} {1e3 * np.median(seconds):9.2f} ms {peaks.get(name, float('nan')):9.1f} MB at most")
    ratios = np.divide(times["host, all queries"], times["host part"])
    print(f"the host's time, all queries against selected: {np.median(ratios):.0f} ({ratios.min():.0f} to {ratios.max():.0f})")


if __name__ == "__main__":
    main()
