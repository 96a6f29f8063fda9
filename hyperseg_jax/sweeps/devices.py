"""Splits the accelerators or CPU cores of this machine into equal shares, one for each running trial."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from hyperseg_jax.errors import UserError

CPU_SHARE = 2  # cores of a trial on a machine without accelerators
# Number of chips of a process -> TPU_CHIPS_PER_PROCESS_BOUNDS of libtpu.
TPU_BOXES = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}
# Runs in a subprocess, because JAX would keep the devices allocated. A chip may appear as two devices, so chips are counted.
PROBE = (
    "import jax; d = jax.local_devices(); "
    "print(jax.default_backend(), len({getattr(x, 'coords', x.id) and tuple(getattr(x, 'coords', (x.id,))) for x in d}))"
)


@dataclasses.dataclass(frozen=True)
class Share:
    """The devices of one trial. environment: variables that select its accelerators. cores: its CPU cores; () for all."""

    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cores: tuple[int, ...] = ()

    def __str__(self) -> str:
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return " ".join([*variables, *([f"cores={','.join(map(str, self.cores))}"] if self.cores else [])])


def detect_devices() -> tuple[str, tuple[str, ...]]:
    """Returns (platform, device ids) of this machine: "cpu" with core ids, "gpu" or "tpu" with chip ids. Asks JAX in a
    subprocess, which frees the devices again."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return "cpu", _core_ids()
    probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    if probe.returncode:
        errors = probe.stderr.strip().splitlines()
        raise UserError(
            f"JAX finds no devices ({errors[-1] if errors else 'no reason given'}); set JAX_PLATFORMS=cpu to use CPU cores"
        )
    platform, count = probe.stdout.split()[-2:]
    if platform == "cpu":
        return "cpu", _core_ids()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES" if platform == "gpu" else "TPU_VISIBLE_CHIPS")
    return platform, tuple(visible.split(",")) if visible else tuple(map(str, range(int(count))))


def split_devices(platform: str, ids: Sequence[str], per_trial: int | None) -> list[Share]:
    """Splits the devices into shares of `per_trial` devices or cores; None: the default size. Leftover devices stay idle."""
    size = default_share_size(platform, len(ids)) if per_trial is None else per_trial
    unit = "cores" if platform == "cpu" else f"{platform.upper()}s"
    if not 1 <= size <= len(ids):
        raise UserError(f"--per-trial {size}: this machine has {len(ids)} {unit}; give 1 to {len(ids)}")
    if platform == "tpu" and size not in TPU_BOXES:
        raise UserError(
            f"--per-trial {size}: a process cannot use {size} TPU chips; give one of {', '.join(map(str, TPU_BOXES))}"
        )
    groups = [tuple(ids[start : start + size]) for start in range(0, len(ids) - size + 1, size)]
    return [_make_share(platform, group, all_devices=len(group) == len(ids)) for group in groups]


def default_share_size(platform: str, count: int) -> int:
    """Returns the default number of devices of a trial: one accelerator, or CPU_SHARE cores."""
    return min(CPU_SHARE, count) if platform == "cpu" else 1


def _make_share(platform: str, ids: tuple[str, ...], *, all_devices: bool) -> Share:
    """Returns the share of these devices. all_devices: they are all devices of this machine."""
    if platform == "cpu":
        return Share(cores=tuple(map(int, ids)))
    if platform == "gpu":
        return Share({"CUDA_VISIBLE_DEVICES": ",".join(ids)})
    if all_devices:  # libtpu knows the topology of a full host
        return Share()
    return Share(
        {"TPU_VISIBLE_CHIPS": ",".join(ids), "TPU_CHIPS_PER_PROCESS_BOUNDS": TPU_BOXES[len(ids)], "TPU_PROCESS_BOUNDS": "1,1,1"}
    )


def _core_ids() -> tuple[str, ...]:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return tuple(map(str, cores))
