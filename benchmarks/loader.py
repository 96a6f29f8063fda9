"""Our stream of batches against torch's DataLoader: images per second, with the same decoder, resize, workers and files.

The files are generated: 640 x 480 (like COCO) of smooth and fine noise, as JPEG of about COCO's bytes per image.
Both convert each to uint8 [size, size, 3] with the same decoder and resize of Pillow, in batches, in random order (torch's
opens and converts like torchvision's loader). Ours reads the files, and then a build of them
(`hyperseg data build --long-edge size`).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
import psutil
import torch
from PIL import Image

from hyperseg_jax.data.mixture import Mixture
from hyperseg_jax.data.pipeline import Stream
from hyperseg_jax.datasets import Gqa
from hyperseg_jax.datasets.builds.build import Plan, build_split
from hyperseg_jax.datasets.built import Built
from hyperseg_jax.ops.transforms import fit_to_square, resize_and_pad
from hyperseg_jax.untrusted import images

HEIGHT, WIDTH = 480, 640
DRAWN = 400
Batches = Callable[[], contextlib.AbstractContextManager[Iterator[Any]]]


def write_files(folder: pathlib.Path, count: int) -> tuple[pathlib.Path, pathlib.Path]:
    """Returns (GQA-like json with a question per image; folder of the images, DRAWN distinct ones under many names)."""
    images = folder / "images"
    images.mkdir()
    rng, rows = np.random.default_rng(0), {}
    for k in range(count):
        rows[str(k)] = {"imageId": f"{k:06d}", "question": "what is this?", "answer": "noise"}
        if k >= DRAWN:
            os.link(images / f"{k % DRAWN:06d}.jpg", images / f"{k:06d}.jpg")
            continue
        smooth = rng.integers(0, 256, (HEIGHT // 40, WIDTH // 40, 3), np.uint8)
        base = np.asarray(Image.fromarray(smooth).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.int16)
        fine = base + rng.normal(scale=9, size=base.shape).astype(np.int16)
        Image.fromarray(fine.clip(0, 255).astype(np.uint8)).save(images / f"{k:06d}.jpg", quality=92)
    path = folder / "questions.json"
    path.write_text(json.dumps(rows))
    return path, images


@dataclasses.dataclass(frozen=True)
class ImageTask:
    """A task as our stream requires it."""

    train: Any
    size: int
    ratio: int = 1

    def prepare(self, example: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"images": resize(example.frames[0], self.size)}


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resizes uint8 [H, W, 3] to [size, size, 3]."""
    return resize_and_pad(pixels, fit_to_square(*pixels.shape[:2], size), 0)


class ImageFiles(torch.utils.data.Dataset):
    """The same images as a torch dataset."""

    def __init__(self, images: pathlib.Path, size: int):
        self._paths, self._size = sorted(map(str, images.iterdir())), size

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"images": torch.from_numpy(resize(images.read_rgb(pathlib.Path(self._paths[index])), self._size))}


def make_our_batches(reader: Any, size: int, batch: int, workers: int) -> Batches:
    return lambda: Stream(Mixture({"images": ImageTask(reader, size)}, batch, seed=0), batch, workers=workers)


def make_torch_batches(images: pathlib.Path, size: int, batch: int, workers: int) -> Batches:
    @contextlib.contextmanager
    def open_batches() -> Iterator[Iterator[Any]]:
        order = torch.utils.data.RandomSampler(ImageFiles(images, size), replacement=True, num_samples=10**9)
        loader = torch.utils.data.DataLoader(ImageFiles(images, size), batch, sampler=order, num_workers=workers)
        batches = iter(loader)
        yield batches
        del batches  # stops its workers

    return open_batches


def list_workers() -> list[psutil.Process]:
    """Returns the worker processes of this process, without shared-memory trackers."""
    result = psutil.Process().children(recursive=True)
    return [one for one in result if "resource_tracker" not in " ".join(one.cmdline())]


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """Returns the CPU seconds of this process and its workers."""
    return sum(sum(one.cpu_times()[:2]) for one in [psutil.Process(), *processes])


def read_memory(process: psutil.Process, field: str = "RssAnon", file: str = "status") -> float:
    """Returns a memory field of a process from /proc, in MiB."""
    for line in pathlib.Path(f"/proc/{process.pid}/{file}").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"/proc/{process.pid}/{file} has no {field}")


@dataclasses.dataclass(frozen=True)
class Measurement:
    """rate: images per second. a_core: images per CPU second, workers and consumer together. pss: peak MiB of all workers, with
    shared pages divided among their users."""

    rate: float
    a_core: float
    pss: float


def measure(batches: Batches, count: int, batch: int) -> Measurement:
    """Measures batches, without the start of the workers and the first batches."""
    with batches() as stream:
        for _ in range(4):
            next(stream)
        workers, peak = list_workers(), 0.0
        cpu, began = cpu_seconds(workers), time.perf_counter()
        for k in range(count // batch):
            count_read = next(stream)["images"]
            assert len(count_read) == batch
            if k % 8 == 0:
                peak = max(peak, sum(read_memory(one, "Pss", "smaps_rollup") for one in workers))
        seconds = time.perf_counter() - began
        cpu = cpu_seconds(workers) - cpu
    return Measurement(count / seconds, count / cpu, peak)


def compare(methods: dict[str, Batches], count: int, batch: int, rounds: int) -> None:
    """Measures every method in turn, `rounds` times; ratios are within a round, relative to the first method."""
    result: dict[str, list[Measurement]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, way in methods.items():
            result[name].append(measure(way, count, batch))
    first = result[next(iter(methods))]
    for name, runs in result.items():
        line = f"{name:28}"
        for what in ("rate", "a_core"):
            ratios = sorted(getattr(run, what) / getattr(one, what) for run, one in zip(runs, first, strict=True))
            value, label = statistics.median(getattr(run, what) for run in runs), {"rate": "/s", "a_core": "/core s"}[what]
            line += f"  {value:7.1f}{label} ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"{line}  workers {max(run.pss for run in runs):5.0f} MiB", flush=True)


def print_memory(batches: Batches, samples: int, batch: int) -> None:
    """Prints the private memory (RssAnon) of each worker over time."""
    with batches() as stream:
        output = {round(samples // batch * part / 10): part for part in range(1, 11)}
        for k in range(1, samples // batch + 1):
            next(stream)
            if k in output:
                each = ", ".join(f"{read_memory(one):.1f}" for one in list_workers())
                print(f"after {k * batch:6d} samples: workers hold {each} MiB of their own", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512, help="side of the padded square that images become")
    parser.add_argument("--files", type=int, default=4000, help="names of images to write")
    parser.add_argument("--images", type=int, default=1600, help="images to read a measurement")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--flat", type=int, default=0, metavar="SAMPLES", help="watch the memory of our workers instead")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path, images = write_files(pathlib.Path(scratch), parsed.files)
        files = Gqa(path, images)
        plan = Plan({"name": "noise", "split": "train"}, long_edge=parsed.size)
        build_split(files, f"{scratch}/build/train", plan, workers=parsed.workers)
        built = Built(f"{scratch}/build", "train")
        each = sum(one.stat().st_size for one in images.iterdir()) / parsed.files / 1024
        print(
            f"{parsed.files} images of {WIDTH} x {HEIGHT}, {each:.0f} KiB each, to {parsed.size} x {parsed.size}; "
            f"batches of {parsed.batch}, {parsed.workers} workers, {len(os.sched_getaffinity(0))} cores, "
            f"torch {torch.__version__}"
        )
        kinds = {"files": files, "a build": built}
        loaded = (parsed.size, parsed.batch, parsed.workers)
        streams = {f"ours, {name}": make_our_batches(reader, *loaded) for name, reader in kinds.items()}
        if parsed.flat:
            for name, stream in streams.items():
                print(name)
                print_memory(stream, parsed.flat, parsed.batch)
        else:
            theirs = make_torch_batches(images, *loaded)
            compare({"torch, files": theirs, **streams}, parsed.images, parsed.batch, parsed.rounds)


if __name__ == "__main__":
    main()
