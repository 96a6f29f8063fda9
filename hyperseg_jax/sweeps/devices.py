"""The accelerators or cores of this machine, cut into equal shares, one for each trial at a time."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from hyperseg_jax.errors import UserError

CPU_SHARE = 2  # cores of a trial where there is no accelerator
# Chips of a process -> the box they form, in the words of libtpu.
TPU_BOXES = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}
# Asked of a process that ends at once, since JAX keeps what it has seen; a chip may show as two devices.
PROBE = (
    "import jax; d = jax.local_devices(); "
    "print(jax.default_backend(), len({getattr(x, 'coords', x.id) and tuple(getattr(x, 'coords', (x.id,))) for x in d}))"
)


@dataclasses.dataclass(frozen=True)
class Share:
    """What one trial sees: environment variables for accelerators, cores (none: all) without any."""

    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cores: tuple[int, ...] = ()

    def __str__(self) -> str:
        told = [f"{name}={value}" for name, value in self.environment.items()]
        return " ".join([*told, *([f"cores={','.join(map(str, self.cores))}"] if self.cores else [])])


def detect() -> tuple[str, tuple[str, ...]]:
    """(cpu, gpu or tpu; the ids that a share is made of) on this machine, as JAX sees it."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return "cpu", _cores()
    asked = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    if asked.returncode:
        told = asked.stderr.strip().splitlines()
        raise UserError(f"JAX finds no devices ({told[-1] if told else 'no reason given'}); set JAX_PLATFORMS=cpu for cores")
    platform, count = asked.stdout.split()[-2:]
    if platform == "cpu":
        return "cpu", _cores()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES" if platform == "gpu" else "TPU_VISIBLE_CHIPS")
    return platform, tuple(visible.split(",")) if visible else tuple(map(str, range(int(count))))


def shares(platform: str, ids: Sequence[str], per_trial: int | None) -> list[Share]:
    """Equal shares of `per_trial` devices or cores; what is left over stays idle."""
    size = default_share(platform, len(ids)) if per_trial is None else per_trial
    thing = "cores" if platform == "cpu" else f"{platform.upper()}s"
    if not 1 <= size <= len(ids):
        raise UserError(f"--per-trial {size}: this machine has {len(ids)} {thing}; give 1 to {len(ids)}")
    if platform == "tpu" and size not in TPU_BOXES:
        raise UserError(f"--per-trial {size}: TPU chips go to a process by {', '.join(map(str, TPU_BOXES))}")
    cuts = [tuple(ids[start : start + size]) for start in range(0, len(ids) - size + 1, size)]
    return [_share(platform, cut, whole=len(cut) == len(ids)) for cut in cuts]


def default_share(platform: str, count: int) -> int:
    """One accelerator, or a few cores."""
    return min(CPU_SHARE, count) if platform == "cpu" else 1


def _share(platform: str, ids: tuple[str, ...], *, whole: bool) -> Share:
    if platform == "cpu":
        return Share(cores=tuple(map(int, ids)))
    if platform == "gpu":
        return Share({"CUDA_VISIBLE_DEVICES": ",".join(ids)})
    if whole:  # libtpu knows the shape of a whole host
        return Share()
    return Share(
        {"TPU_VISIBLE_CHIPS": ",".join(ids), "TPU_CHIPS_PER_PROCESS_BOUNDS": TPU_BOXES[len(ids)], "TPU_PROCESS_BOUNDS": "1,1,1"}
    )


def _cores() -> tuple[str, ...]:
    there = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return tuple(map(str, there))
