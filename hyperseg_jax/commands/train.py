"""hyperseg train"""

from __future__ import annotations

import argparse

from rich.console import Console

from hyperseg_jax import config as configs
from hyperseg_jax.untrusted.printing import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help=f"a config file, or a shipped one: {', '.join(configs.shipped())}")
    parser.add_argument(
        "--workdir", required=True, help="where the run lives, a folder or a bucket (gs://name/run); resumes if it has begun"
    )
    add_host_arguments(parser)
    parser.epilog = "--config.x.y=value changes one field of the config."


def add_host_arguments(parser: argparse.ArgumentParser) -> None:
    """How the processes of a run on many hosts find each other."""
    many = parser.add_argument_group("many hosts", "the same command on each; TPU pods, GKE and Slurm need none of these")
    many.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0 (or HYPERSEG_COORDINATOR)")
    many.add_argument("--process-id", type=int, metavar="I", help="of this process, from 0 (or HYPERSEG_PROCESS_ID)")
    many.add_argument("--processes", type=int, metavar="N", help="how many there are (or HYPERSEG_PROCESSES)")


def run(parsed: argparse.Namespace) -> None:
    from hyperseg_jax.parallel import hosts
    from hyperseg_jax.training.loop import train

    config = configs.load(parsed.config, parsed.overrides)
    hosts.join(
        hosts.Timeouts(**config.hosts), coordinator=parsed.coordinator, process_id=parsed.process_id, processes=parsed.processes
    )
    console = Console(stderr=True, quiet=not hosts.is_primary())
    with hosts.exit_on_error():
        model = train(config, parsed.workdir, console=console)
    left = {what: model.parent / name for what, name in (("loss curve", "loss.png"), ("predictions", "predictions.png"))}
    images = "  ".join(f"{what}: {path}" for what, path in left.items() if path.exists())
    say(console, f"model: {model}" + (f"\n{images}" if images else ""))
    hosts.shut_down()
