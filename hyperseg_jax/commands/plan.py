"""hyperseg plan"""

from __future__ import annotations

import argparse
import os

from rich.table import Table

from hyperseg_jax import config as configs
from hyperseg_jax.untrusted.limits import set_block
from hyperseg_jax.untrusted.printing import escape_markup, log, make_console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", required=True, help=f"a config file, or a shipped config: {', '.join(configs.shipped_names())}"
    )
    parser.add_argument("--topology", required=True, help="the TPU slice: generation and chips along each side (v5e:4x4)")
    parser.add_argument("--task", action="append", help="a task of the config; repeatable; default: all")
    parser.epilog = (
        "--config.x.y=value changes one field of the config. Requires the TPU compiler, but no TPU: "
        "pip install 'hyperseg-jax[tpu]'. A task of hyperseg_3b takes minutes and several GB."
    )


def run(parsed: argparse.Namespace) -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # keeps JAX from looking for a TPU
    from hyperseg_jax.data import sources
    from hyperseg_jax.planning import compile as planning
    from hyperseg_jax.planning import topologies

    config = configs.load(parsed.config, parsed.overrides)
    set_block(config.get("limits", {}))
    console = make_console()
    devices = topologies.slice_devices(parsed.topology)
    title = escape_markup(f"{parsed.config} on {parsed.topology}")
    table = Table("task", "examples per chip", "peak GB per chip", "upper bound", "fits", title=title)
    problems: list[str] = []
    messages: dict[str, None] = {}  # unique messages, in order
    for task in parsed.task or sources.program_names(config):
        with console.status(f"compiling the {task} step"):
            plan = planning.compile_step(config, task, devices)
        mesh = " x ".join(f"{name} {size}" for name, size in plan.mesh.items())
        memory = [f"{n / 1e9:.2f}" for n in (plan.memory.peak, plan.memory.needed)] if plan.memory else ["-", "-"]
        messages[f"preset {plan.preset}: {mesh}"] = None
        if not plan.problem:
            counts = ", ".join(f"{count} {kind}" for kind, count in plan.collectives.items())
            messages[f"{task} collectives: {counts or 'none'}"] = None
        table.add_row(task, f"{plan.examples:g}", *memory, "no" if plan.problem else "yes")
        problems += [f"{task}: {plan.problem}"] if plan.problem else []
    console.print(table)
    for line in messages:
        log(console, line)
    for problem in problems:
        log(console, problem)
    if problems:
        raise SystemExit(1)
