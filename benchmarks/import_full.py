"""Import and export of a full-size HyperSeg-3B against a plain copy of the same files.

    python benchmarks/import_full.py FOLDER [--config hyperseg_3b_released]

Creates random weights of every published name and shape in FOLDER (float16, sharded safetensors, 6.7 GB; three times that is
needed in total), copies the files, imports them, exports them, and compares checksums of every tensor. The commands run as
separate processes, like a user's; their anonymous resident memory is read from /proc while they run.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import pathlib
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from hyperseg_jax import config as configs
from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import flatten
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.weights.safetensors_writer import write_sharded
from hyperseg_jax.weights.tensor_file import open_checkpoint


def write_weights(folder: pathlib.Path, config_name: str) -> None:
    """Writes random published weights, float16 of magnitude below 2."""
    config = configs.load(config_name)
    system = systems.get(config.system)
    expected = flatten(system.shapes(config))
    described: dict[str, tuple[tuple[int, ...], Any]] = {}
    constants = {}
    for row in system.weight_table(config):
        for _, indices, names, operator in row.pieces():
            shapes_only = tuple(
                np.broadcast_to(np.zeros((), np.int8), expected[path].shape[len(indices) :]) for path in row.paths
            )
            for name, tensor in zip(names, operator.to_torch(shapes_only), strict=True):
                if not row.paths:
                    constants[name] = tensor
                described[name] = (tensor.shape, np.float16 if row.paths else tensor.dtype)

    def random_tensors(name: str) -> Iterator[tuple[str, np.ndarray]]:
        shape, rng = described[name][0], np.random.default_rng(zlib.crc32(name.encode()))
        bits = np.frombuffer(rng.bytes(2 * math.prod(shape)), np.uint16) & 0xBFFF
        yield name, constants[name] if name in constants else bits.view(np.float16).reshape(shape)

    folder.mkdir(parents=True)
    write_sharded(folder, described, random_tensors, described)
    Tokenizer.toy().save(folder)


def compute_checksums(folder: pathlib.Path) -> dict[str, str]:
    """Returns a checksum of the dtype, shape and bytes of every tensor."""
    result = {}
    with open_checkpoint(folder) as file:
        for name, info in file.tensors.items():
            digest = hashlib.blake2b(f"{info.dtype}{info.shape}".encode(), digest_size=16)
            digest.update(np.ascontiguousarray(file.read(name)).reshape(-1).view(np.uint8))
            result[name] = digest.hexdigest()
    return result


def measure_command(arguments: list[str]) -> tuple[float, float]:
    """Returns (seconds, peak RssAnon in GB) of a `hyperseg` command."""
    os.sync()
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(
        [sys.executable, "-c", "from hyperseg_jax.commands.main import main; main()", *arguments], stdout=subprocess.DEVNULL
    )
    while process.poll() is None:
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        result = [int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")]
        peak = max([peak, *result])
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"hyperseg {arguments[0]} failed")
    return time.perf_counter() - start, peak * 1024 / 1e9


def measure_copy(source: pathlib.Path, target: pathlib.Path) -> float:
    os.sync()  # flush earlier writes, which would slow down the copy
    start = time.perf_counter()
    shutil.copytree(source, target)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--config", default="hyperseg_3b_released")
    parsed = parser.parse_args()
    source, copy, ours, back = (parsed.folder / name for name in ("published", "copy", "ours", "back"))
    if not source.exists():
        write_weights(source, parsed.config)
    size = sum(file.stat().st_size for file in source.iterdir()) / 1e9
    print(f"{size:.2f} GB, {len(compute_checksums(source))} tensors")
    for folder in (copy, ours, back):
        shutil.rmtree(folder, ignore_errors=True)
    first = measure_copy(source, copy)
    shutil.rmtree(copy)
    copy_seconds = measure_copy(source, copy)
    shutil.rmtree(copy)
    print(f"plain copy   {copy_seconds:6.1f} s  {size / copy_seconds:5.2f} GB/s (before that {first:.1f} s)")
    for verb, arguments in (
        ("import", ["import-weights", str(source), "--config", parsed.config, "--out", str(ours)]),
        ("export", ["export-weights", str(ours), "--out", str(back)]),
    ):
        seconds, peak = measure_command(arguments)
        print(
            f"{verb}       {seconds:6.1f} s  {size / seconds:5.2f} GB/s  {seconds / copy_seconds:.2f} x the copy, "
            f"peak RssAnon {peak:.2f} GB"
        )
    equal = compute_checksums(source) == compute_checksums(back)
    print(f"every tensor equal after the round trip: {equal}")
    raise SystemExit(not equal)


if __name__ == "__main__":
    main()
