"""Memory of a process that segments a long stream of frames: it stays flat, whatever the length.

    python benchmarks/streaming.py [--model tiny] [--frames 10000] [--every 1000]

Prints the resident memory after each `every` frames. The frames are those of one toy video, forwards and backwards without end;
each is drawn again, as a camera would deliver it."""

from __future__ import annotations

import argparse
import itertools
import os
import pathlib
import time
from collections.abc import Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

import hyperseg_jax
from hyperseg_jax.toy import toy_images


def stream(count: int) -> Iterator[np.ndarray]:
    """Yields frames of a toy video, uint8 [H, W, 3]."""
    _, frames, _ = toy_images.generate_video(toy_images.World(videos="occlusion"), "val", 0)
    yield from (frame.copy() for frame in itertools.islice(itertools.cycle([*frames, *frames[::-1]]), count))


def resident_mebibytes() -> float:
    """Returns the resident memory of this process (Linux)."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=1_000)
    parsed = parser.parse_args()
    model, start = hyperseg_jax.load(parsed.model), time.perf_counter()
    for number, (_, _) in enumerate(model.segment_video(stream(parsed.frames), "the red ring"), 1):
        if number % parsed.every == 0:
            rate = number / (time.perf_counter() - start)
            print(f"{number:7d} frames: {resident_mebibytes():7.1f} MiB, {rate:.1f} frames a second", flush=True)


if __name__ == "__main__":
    main()
