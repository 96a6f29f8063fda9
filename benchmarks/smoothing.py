"""Smoothing of class probabilities over similar cells, beside PyTorch; and the memory of OFA's position biases.

    python benchmarks/smoothing.py [--sides 512 1024] [--neighbours 3 10] [--rounds 25] [--repeats 7] [--no-biases]

Both sides smooth the same probabilities of 171 classes over cells of 16 px with features of 1024 channels, with one thread for
each processor (`taskset -c 0 python ...`: one). PyTorch computes the published rule, with all similarities in one matrix.
Memory is that of temporaries and results, processor time that of all threads. The second part compiles a layer of OFA-Base's
encoder for an image of 512 x 2048 px, some rows of cells at a time as ours and all at once. Inputs and weights are random."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import torch

from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.llms import ofa
from hyperseg_jax.llms.grid_positions import Canvas
from hyperseg_jax.ops.neighbours import nearest_cells, smooth

CLASSES, CHANNELS, STRIDE = 171, 1024, 16
MB = 2**20
HEADS, WIDTH, TEXT = 12, 768, 240
"""Of OFA-Base, with the class names of COCO-Stuff."""


def smooth_in_torch(features: torch.Tensor, probabilities: torch.Tensor, count: int, rounds: int) -> torch.Tensor:
    """The published rule: float32 [N, classes]."""
    unit = torch.nn.functional.normalize(features, dim=1)
    nearest = (unit @ unit.T).topk(count, dim=1).indices
    for _ in range(rounds):
        probabilities = probabilities[nearest].mean(dim=1)
    return probabilities


def peak_in_torch(work: Callable[[], Any]) -> int:
    """Returns the largest number of bytes that PyTorch holds at once, without the inputs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = work()
    del result
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(path))
        events = [event for event in json.loads(path.read_text())["traceEvents"] if event["name"] == "[memory]"]
    changes = [event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])]
    return int(np.cumsum(changes).max())


def time_pairs(works: tuple[Callable[[], Any], Callable[[], Any]], repeats: int) -> tuple[np.ndarray, str]:
    """Runs both in turns. Returns the median seconds of each, and the ratios of the first to the second with their ranges."""
    clocks = {"ratio": time.perf_counter, "of processor time": time.process_time}
    read = lambda: np.array([clock() for clock in clocks.values()])
    seconds = np.empty((repeats, 2, len(clocks)))
    for turn in seconds:
        for k, work in enumerate(works):
            began = read()
            work()
            turn[k] = read() - began
    ratios = np.sort(seconds[:, 0] / seconds[:, 1], axis=0)
    texts = [f"{name} {np.median(r):.2f} ({r[0]:.2f} to {r[-1]:.2f})" for name, r in zip(clocks, ratios.T, strict=True)]
    return np.median(seconds[..., 0], axis=0), ", ".join(texts)


def measure_smoothing(side: int, count: int, rounds: int, repeats: int) -> None:
    rng = np.random.default_rng(0)
    cells = (side // STRIDE) ** 2
    features = rng.standard_normal((cells, CHANNELS), np.float32)
    probabilities = np.asarray(jax.nn.softmax(rng.standard_normal((cells, CLASSES), np.float32)))
    given = jax.device_put((features, probabilities))
    tensors = torch.from_numpy(features.copy()), torch.from_numpy(probabilities.copy())
    ours = jax.jit(lambda features, probabilities: smooth(probabilities, nearest_cells(features, count), rounds))
    compiled = ours.lower(*given).compile()

    def run_ours() -> np.ndarray:
        return np.asarray(jax.block_until_ready(compiled(*given)))

    def run_torch() -> np.ndarray:
        return smooth_in_torch(*tensors, count, rounds).numpy()

    differ = np.abs(run_ours() - run_torch()).max()
    assert differ < 1e-5, "both must agree"
    peak = peak_in_torch(run_torch)
    (peer, own), ratio = time_pairs((run_torch, run_ours), repeats)
    stats = compiled.memory_analysis()
    needed = stats.temp_size_in_bytes + stats.output_size_in_bytes
    print(f"{side} px, {cells} cells, {count} neighbours, {rounds} rounds: probabilities differ by at most {differ:.1e}")
    print(f"  PyTorch {1e3 * peer:.1f} ms, ours {1e3 * own:.1f} ms, {ratio}")
    print(f"  MB: all similarities {4 * cells**2 / MB:.1f}, PyTorch at most {peak / MB:.1f}, ours {needed / MB:.1f}")


def measure_biases(repeats: int) -> None:
    canvas = Canvas(np.array([[32, 128]], np.int32), (32, 128))
    cells = 32 * 128
    length, rng = cells + TEXT, np.random.default_rng(0)
    layer = ofa.EncoderLayer(HEADS, 4 * WIDTH, 0.0, True, Precision())
    places = tuple(rng.standard_normal((1, length, HEADS, WIDTH // HEADS), np.float32) for _ in range(2))
    valid = np.ones((1, length), bool)
    arrays = rng.standard_normal((1, length, WIDTH), np.float32), np.float32(0), places, valid, canvas

    def apply(params: Any, x: Any, drop: Any, places: Any, valid: Any, canvas: Canvas) -> jax.Array:
        return layer.apply(params, x, drop, places, valid, canvas, canvas.resize_from((32, 32)))[0]

    params = jax.jit(lambda: layer.init(jax.random.key(0), *arrays, canvas.resize_from((32, 32))))()
    programs = {}
    published = ofa.CHUNK
    for chunk in (cells, published):
        ofa.CHUNK = chunk
        programs[chunk] = jax.jit(lambda *given: apply(*given)).lower(params, *arrays).compile()
    whole, chunked = (lambda program=program: jax.block_until_ready(program(params, *arrays)) for program in programs.values())
    differ = float(jnp.abs(whole() - chunked()).max())
    assert differ < 1e-3, "both must agree"
    (at_once, own), ratio = time_pairs((whole, chunked), repeats)
    memory = [program.memory_analysis().temp_size_in_bytes / MB for program in programs.values()]
    print(
        f"a layer of OFA-Base's encoder, 512 x 2048 px, {cells} cells and {TEXT} tokens: outputs differ by at most {differ:.1e}"
    )
    print(f"  all cells at once {at_once:.2f} s, {published} at a time {own:.2f} s, {ratio}")
    print(f"  MB: biases of all pairs {4 * HEADS * length**2 / MB:.0f}; temporary {memory[0]:.0f}, {memory[1]:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024], help="of the image, pixels")
    parser.add_argument("--neighbours", type=int, nargs="+", default=[3, 10])
    parser.add_argument("--rounds", type=int, default=25, help="of averaging")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no-biases", action="store_true", help="leave out the second part")
    parsed = parser.parse_args()

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    for side in parsed.sides:
        for count in parsed.neighbours:
            measure_smoothing(side, count, parsed.rounds, parsed.repeats)
    if not parsed.no_biases:
        measure_biases(parsed.repeats)


if __name__ == "__main__":
    main()
