"""The TPU slices by name: v5e-16, v5p-128, ...

The number counts chips for v5e and v6e, and TensorCores, two per chip, for v4, v5p and tpu7x (Ironwood). Sources, as of 2026:
Google's pages on each generation (topologies, VMs), "Plan TPUs in GKE" (machine types, node labels), "TPU software versions"
(images): https://cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x,runtimes}, and of GKE
https://cloud.google.com/kubernetes-engine/docs/concepts/{plan-tpus,tpu-ironwood}
"""

from __future__ import annotations

import dataclasses
import math

from common import LaunchError


@dataclasses.dataclass(frozen=True)
class Generation:
    """A TPU generation: its names in several tools, and its slices."""

    accelerator: str  # accelerator type of gcloud, SkyPilot and Ray, without the size; "" if only GKE has the generation
    label: str  # cloud.google.com/gke-tpu-accelerator
    machine: str  # GKE machine type, without the number of chips per host
    image: str  # TPU VM software version
    cores: int  # number of TensorCores per chip that the name counts
    topologies: tuple[str, ...]


GENERATIONS = {
    "v4": Generation(
        "v4",
        "tpu-v4-podslice",
        "ct4p-hightpu",
        "tpu-ubuntu2204-base",
        2,
        ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16"),
    ),
    "v5e": Generation(
        "v5litepod",
        "tpu-v5-lite-podslice",
        "ct5lp-hightpu",
        "v2-alpha-tpuv5-lite",
        1,
        ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    ),
    "v5p": Generation(
        "v5p",
        "tpu-v5p-slice",
        "ct5p-hightpu",
        "v2-alpha-tpuv5",
        2,
        (
            "2x2x1",
            "2x2x2",
            "2x2x4",
            "2x4x4",
            "4x4x4",
            "4x4x8",
            "4x4x12",
            "4x8x8",
            "4x8x12",
            "8x8x8",
            "8x8x12",
            "8x8x16",
            "8x12x16",
            "8x16x16",
            "12x16x16",
            "16x16x16",
        ),
    ),
    "v6e": Generation(
        "v6e",
        "tpu-v6e-slice",
        "ct6e-standard",
        "v2-alpha-tpuv6e",
        1,
        ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    ),
    "tpu7x": Generation(
        "",
        "tpu7x",
        "tpu7x-standard",
        "",
        2,
        ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A TPU slice: its size, and its names in several tools."""

    name: str  # v5e-16
    topology: str  # 4x4
    hosts: int  # VMs, one process on each
    chips: int  # number of chips of one host
    accelerator: str  # v5litepod-16: the accelerator type of gcloud; "" if only GKE has the slice
    label: str
    machine: str  # ct5lp-hightpu-4t
    image: str


def _make_slice(name: str, generation: Generation, topology: str) -> Slice:
    total = math.prod(int(side) for side in topology.split("x"))
    # v5e and v6e slices of up to 8 chips have a single host; all others have hosts of 4 chips.
    chips = min(total, 8) if generation.cores == 1 and total <= 8 else 4
    size = total * generation.cores
    return Slice(
        f"{name}-{size}",
        topology,
        total // chips,
        chips,
        f"{generation.accelerator}-{size}" if generation.accelerator else "",
        generation.label,
        f"{generation.machine}-{chips}t",
        generation.image,
    )


SLICES = {
    piece.name: piece
    for name, generation in GENERATIONS.items()
    for topology in generation.topologies
    for piece in [_make_slice(name, generation, topology)]
}


def find_slice(name: str, gke: bool = False) -> Slice:
    """Returns the slice of this name. gke: whether it is for GKE. Raises LaunchError listing all names if it is unknown, or if
    only GKE has it."""
    if name not in SLICES:
        raise LaunchError(
            f"--type {name}: no such TPU slice; use one of {', '.join(SLICES)} (v4, v5p and tpu7x count two cores per chip)"
        )
    if not gke and not SLICES[name].accelerator:
        raise LaunchError(f"--type {name}: only GKE has these slices; use launch/gke.py")
    return SLICES[name]
