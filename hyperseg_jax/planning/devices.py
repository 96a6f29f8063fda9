"""Describes the devices of a run: those of this process group, or of a TPU slice that need not exist."""

from __future__ import annotations

import dataclasses
import math
import re

import jax

from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel.presets import GENERATIONS
from hyperseg_jax.untrusted.printing import escaped

MEMORY = {"v4": 31.5e9, "v5e": 16.9e9, "v5p": 102e9, "v6e": 33.8e9, "tpu7x": 101.7e9}
"""Usable memory of a device in bytes: 63/64 of the memory that Google's pages name for v4, v5e and v6e; all 95 GiB of the page
for v5p; 94.75 of the 96 GiB of half a chip for tpu7x."""
SIDES = {"v4": 3, "v5e": 2, "v5p": 3, "v6e": 2, "tpu7x": 3}
"""Number of dimensions of a slice."""
DEVICES_PER_CHIP = {"tpu7x": 2}
"""For generations whose chips are several devices in JAX."""
CHIPS_PER_HOST = 4
SINGLE_HOST = {"v5e": 8, "v6e": 8}
"""The largest number of chips of a generation that one host may have."""


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of a run.

    kind: Device.device_kind of JAX. count: number of devices. hosts: number of processes. slices: number of TPU slices.
    memory: bytes of one device; None if unknown.
    """

    kind: str
    count: int
    hosts: int
    slices: int = 1
    memory: float | None = None


def local_devices() -> Devices:
    """Returns the devices of the running processes."""
    devices = jax.devices()
    stats = (jax.local_devices()[0].memory_stats() or {}) if devices[0].platform != "cpu" else {}
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    return Devices(devices[0].device_kind, len(devices), jax.process_count(), slices, stats.get("bytes_limit"))


def slice_of_topology(topology: str) -> Devices:
    """Returns the devices of a TPU slice. topology: generation, then number of chips along each side ("v5e:4x4"). Raises
    UserError if it has another form."""
    match = re.fullmatch(r"(\w+):([1-9]\d{0,2}(?:x[1-9]\d{0,2}){1,2})", topology, re.ASCII)
    if match is None or match[1] not in MEMORY or match[2].count("x") + 1 != SIDES[match[1]]:
        raise UserError(
            f"--topology {escaped(topology)}: unknown; give a generation ({', '.join(MEMORY)}) and the chips along each side "
            "(v5e:4x4)"
        )
    generation, chips = match[1], math.prod(int(side) for side in match[2].split("x"))
    kind = next(kind for kind, name in GENERATIONS.items() if name == generation)
    hosts = 1 if chips <= SINGLE_HOST.get(generation, CHIPS_PER_HOST) else chips // CHIPS_PER_HOST
    return Devices(kind, chips * DEVICES_PER_CHIP.get(generation, 1), hosts, 1, MEMORY[generation])
