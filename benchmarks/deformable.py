"""Our deformable sampling against PyTorch's grid_sample formula on the CPU: forward, and forward with backward."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # PyTorch runs on the CPU as well

import jax
import numpy as np
import torch
import torch.nn.functional as F

from hyperseg_jax.ops.deformable import Shapes, deformable_sampling

HEADS, CHANNELS, POINTS = 8, 32, 4  # of the published pixel decoder


def random_inputs(shapes: Shapes, batch: int) -> list[np.ndarray]:
    """Returns values, locations, weights and a cotangent; every cell is a query with points a few cells around it."""
    rng = np.random.default_rng(0)
    cells = [(np.stack(np.mgrid[:h, :w][::-1], -1).reshape(-1, 2) + 0.5) / (w, h) for h, w in shapes]
    centres = np.concatenate(cells)[None, :, None, None, None]
    area = centres.shape[1]
    sizes = np.array([(w, h) for h, w in shapes])[:, None]
    moves = rng.normal(scale=2.0, size=(batch, area, HEADS, len(shapes), POINTS, 2)) / sizes
    weights = rng.dirichlet(np.ones(len(shapes) * POINTS), (batch, area, HEADS)).reshape(moves.shape[:-1])
    value = rng.normal(size=(batch, area, HEADS, CHANNELS))
    cotangent = rng.normal(size=(batch, area, HEADS * CHANNELS))
    return [np.asarray(x, np.float32) for x in (value, centres + moves, weights, cotangent)]


def sample_with_torch(value: Any, locations: Any, weights: Any, shapes: Shapes) -> Any:
    """ms_deform_attn_core_pytorch, the published formula without a compiled extension."""
    batch, queries = locations.shape[:2]
    samples = []
    for level, ((height, width), maps) in enumerate(zip(shapes, value.split([h * w for h, w in shapes], 1), strict=True)):
        maps = maps.permute(0, 2, 3, 1).reshape(batch * HEADS, CHANNELS, height, width)
        grid = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
        samples.append(F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    shares = weights.transpose(1, 2).reshape(batch * HEADS, 1, queries, -1)
    mixed = (torch.stack(samples, dim=-2).flatten(-2) * shares).sum(-1)
    return mixed.reshape(batch, HEADS * CHANNELS, queries).transpose(1, 2)


def make_pair(shapes: Shapes, arrays: list[np.ndarray], backward: bool) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Returns (ours, PyTorch's) as functions without arguments that block until their result arrays are ready."""
    *inputs, cotangent = arrays

    def forward(*args: Any) -> Any:
        return deformable_sampling(args[0], shapes, *args[1:])

    def forward_backward(*args: Any) -> Any:
        out, pull = jax.vjp(forward, *args)
        return out, *pull(cotangent)

    program = jax.jit(forward_backward if backward else lambda *args: (forward(*args),))
    leaves = [torch.tensor(x, requires_grad=backward) for x in inputs]
    upstream = torch.tensor(cotangent)

    def run_torch() -> list[np.ndarray]:
        if not backward:
            with torch.no_grad():
                return [sample_with_torch(*leaves, shapes).numpy()]
        out = sample_with_torch(*leaves, shapes)
        return [out.detach().numpy(), *(g.numpy() for g in torch.autograd.grad(out, leaves, upstream))]

    return lambda: jax.block_until_ready(program(*inputs)), run_torch


def measure_seconds(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=512, help="side of the image; levels at strides 32, 16 and 8")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parsed = parser.parse_args()
    shapes = tuple((parsed.side // stride,) * 2 for stride in (32, 16, 8))
    arrays = random_inputs(shapes, parsed.batch)
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    print(
        f"side {parsed.side}, batch {parsed.batch}, {arrays[0].shape[1]} queries, {cores} cores, "
        f"jax {jax.__version__}, torch {torch.__version__}; compilation left out"
    )
    for name, backward in (("forward", False), ("forward and backward", True)):
        ours, run_torch = make_pair(shapes, arrays, backward)
        worst = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours(), run_torch(), strict=True))
        if worst > 1e-3:
            raise SystemExit(f"{name}: the two differ by {worst:.1e} of the largest value; nothing was measured")
        times = [(measure_seconds(ours), measure_seconds(run_torch)) for _ in range(parsed.rounds)]
        ratios = sorted(torch_time / ours_time for ours_time, torch_time in times)
        ours_time, torch_time = (statistics.median(column) for column in zip(*times, strict=True))
        print(
            f"{name:22} ours {ours_time * 1e3:8.1f} ms   grid_sample {torch_time * 1e3:8.1f} ms   "
            f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}), agree to {worst:.0e}"
        )


if __name__ == "__main__":
    main()
