"""hyperseg plan"""

from __future__ import annotations

import argparse
import os

from rich.console import Console
from rich.table import Table

from hyperseg_jax.commands import config as configs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="a config file, or the name of a shipped one (hyperseg_3b)")
    parser.add_argument("--topology", required=True, help="the TPU slice: generation and chips along each side (v5e:4x4)")
    parser.add_argument("--task", action="append", help="a task of the config; give it again for more (default: all)")
    parser.epilog = ("--config.x.y=value changes one field of the config. Needs no TPU, but its compiler: "
                     "pip install 'hyperseg-jax[tpu]'. A task of hyperseg_3b takes minutes and several GB.")  # fmt: skip


def run(parsed: argparse.Namespace) -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the slice is described, not looked for
    from hyperseg_jax.planning import compile as planning
    from hyperseg_jax.planning import topologies

    config = configs.load(parsed.config, parsed.overrides)
    console = Console()
    devices = topologies.devices(parsed.topology)
    table = Table("task", "preset", "examples a chip", "GB a chip", "at once", "collectives", "fits",
                  title=f"{parsed.config} on {parsed.topology}")  # fmt: skip
    problems = []
    for task in parsed.task or list(config.data.tasks):
        with console.status(f"compiling the {task} step"):
            found = planning.plan(config, task, devices)
        mesh = " x ".join(f"{name} {size}" for name, size in found.mesh.items())
        memory = [f"{n / 1e9:.2f}" for n in (found.memory.needed, found.memory.peak)] if found.memory else ["-", "-"]
        said = ", ".join(f"{count} {kind}" for kind, count in found.collectives.items())
        table.add_row(task, f"{found.preset}: {mesh}", f"{found.examples:g}", *memory, said, "no" if found.problem else "yes")
        problems += [f"{task}: {found.problem}"] if found.problem else []
    console.print(table)
    for problem in problems:
        console.print(problem, highlight=False, markup=False)
    if problems:
        raise SystemExit(1)
