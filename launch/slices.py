"""The TPU slices that runs are started on, by the name that people use: v5e-16, v5p-128, ...

v5e and v6e are named by chips, v4 and v5p by TensorCores, two a chip. Facts from Google's pages on each generation (topologies,
VMs), "Plan TPUs in GKE" (machine types, node labels) and "TPU software versions" (images), as of 2026:
https://cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,runtimes}, https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus
"""

from __future__ import annotations

import dataclasses
import math

from common import LaunchError


@dataclasses.dataclass(frozen=True)
class Generation:
    accelerator: str  # what gcloud, SkyPilot and Ray call it before the size
    label: str  # cloud.google.com/gke-tpu-accelerator
    machine: str  # GKE machine type, before the number of chips a host
    image: str  # TPU VM software version
    cores: int  # TensorCores a chip in names
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
}


@dataclasses.dataclass(frozen=True)
class Slice:
    name: str  # v5e-16
    topology: str  # 4x4
    hosts: int  # VMs, one process on each
    chips: int  # on one host
    accelerator: str  # v5litepod-16: the accelerator type of gcloud
    label: str
    machine: str  # ct5lp-hightpu-4t
    image: str


def _slice(name: str, generation: Generation, topology: str) -> Slice:
    total = math.prod(int(side) for side in topology.split("x"))
    # Slices of up to 8 chips of v5e and v6e are one VM; all others have 4 chips on each.
    chips = min(total, 8) if generation.cores == 1 and total <= 8 else 4
    size = total * generation.cores
    return Slice(
        f"{name}-{size}",
        topology,
        total // chips,
        chips,
        f"{generation.accelerator}-{size}",
        generation.label,
        f"{generation.machine}-{chips}t",
        generation.image,
    )


SLICES = {
    made.name: made
    for name, generation in GENERATIONS.items()
    for topology in generation.topologies
    for made in [_slice(name, generation, topology)]
}


def get(name: str) -> Slice:
    """The slice of a name; LaunchError lists the known ones."""
    if name not in SLICES:
        raise LaunchError(f"--type {name}: no such TPU slice; known: {', '.join(SLICES)} (v4 and v5p count two cores a chip)")
    return SLICES[name]
