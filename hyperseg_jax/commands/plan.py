"""hyperseg plan"""

from __future__ import annotations

import argparse
import os

from rich.console import Console
from rich.table import Table

from hyperseg_jax import config as configs
from hyperseg_jax.untrusted.limits import apply_block
from hyperseg_jax.untrusted.printing import cell, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help=f"a config file, or a shipped one: {', '.join(configs.shipped())}")
    parser.add_argument("--topology", required=True, help="the TPU slice: generation and chips along each side (v5e:4x4)")
    parser.add_argument("--task", action="append", help="a task of the config; give it again for more (default: all)")
    parser.epilog = (
        "--config.x.y=value changes one field of the config. Needs no TPU, but its compiler: "
        "pip install 'hyperseg-jax[tpu]'. A task of hyperseg_3b takes minutes and several GB."
    )


def run(parsed: argparse.Namespace) -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the slice is described, not looked for
    from hyperseg_jax.data import sources
    from hyperseg_jax.planning import compile as planning
    from hyperseg_jax.planning import topologies

    config = configs.load(parsed.config, parsed.overrides)
    apply_block(config.get("limits", {}))
    console = Console()
    devices = topologies.devices(parsed.topology)
    title = cell(f"{parsed.config} on {parsed.topology}")
    table = Table("task", "examples a chip", "GB a chip at peak", "at most", "fits", title=title)
    problems: list[str] = []
    told: dict[str, None] = {}  # lines, each once
    for task in parsed.task or sources.programs(config):
        with console.status(f"compiling the {task} step"):
            found = planning.plan(config, task, devices)
        mesh = " x ".join(f"{name} {size}" for name, size in found.mesh.items())
        memory = [f"{n / 1e9:.2f}" for n in (found.memory.peak, found.memory.needed)] if found.memory else ["-", "-"]
        told[f"preset {found.preset}: {mesh}"] = None
        if not found.problem:
            counts = ", ".join(f"{count} {kind}" for kind, count in found.collectives.items())
            told[f"{task} exchanges: {counts or 'nothing'}"] = None
        table.add_row(task, f"{found.examples:g}", *memory, "no" if found.problem else "yes")
        problems += [f"{task}: {found.problem}"] if found.problem else []
    console.print(table)
    for line in told:
        say(console, line)
    for problem in problems:
        say(console, problem)
    if problems:
        raise SystemExit(1)
