"""hyperseg train"""

from __future__ import annotations

import argparse

from hyperseg_jax import config as configs
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.printing import log, make_console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", required=True, help=f"a config file, or a shipped config: {', '.join(configs.shipped_names())}"
    )
    parser.add_argument("--workdir", help="folder or bucket (gs://name/run) of the run; an existing run is resumed")
    parser.add_argument(
        "--check",
        action="store_true",
        help="check everything up to the first step without running it: config, data, shapes, memory and disk; exit code 0, "
        "or 2 with a list of all problems; --workdir is optional",
    )
    parser.add_argument(
        "--topology",
        help="with --check: a TPU slice (v5e:4x4) to calculate the memory for; default: the devices of this machine",
    )
    parser.add_argument(
        "--accept-changes",
        action="store_true",
        help="resume although the data mixture, the losses or the learning rate have changed since the run was started",
    )
    add_host_arguments(parser)
    parser.epilog = "--config.x.y=value changes one field of the config."


def add_host_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options by which the processes of a multi-host run find each other."""
    many = parser.add_argument_group("multiple hosts", "run the same command on each; not needed on TPU pods, GKE and Slurm")
    many.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0 (or HYPERSEG_COORDINATOR)")
    many.add_argument("--process-id", type=int, metavar="I", help="id of this process, from 0 (or HYPERSEG_PROCESS_ID)")
    many.add_argument("--processes", type=int, metavar="N", help="number of processes (or HYPERSEG_PROCESSES)")


def run(parsed: argparse.Namespace) -> None:
    from hyperseg_jax.parallel import hosts
    from hyperseg_jax.training.loop import train

    if not (parsed.workdir or parsed.check):
        raise UserError("--workdir is missing; give the folder or bucket of the run")
    if parsed.topology and not parsed.check:
        raise UserError("--topology is only valid with --check; remove it")
    config = configs.load(parsed.config, parsed.overrides)
    hosts.connect(
        hosts.Timeouts(**config.hosts), coordinator=parsed.coordinator, process_id=parsed.process_id, processes=parsed.processes
    )
    if parsed.check:
        with hosts.exit_on_error():
            from hyperseg_jax.planning.check import check_run

            hosts.end_on_sigterm()
            check_run(
                config,
                workdir=parsed.workdir or "",
                accept_changes=parsed.accept_changes,
                topology=parsed.topology or "",
                console=make_console(stderr=True, quiet=not hosts.is_primary()),
            )
        hosts.shut_down()
        return
    with hosts.exit_on_error():
        console = make_console(stderr=True, quiet=not hosts.is_primary())
        model = train(config, parsed.workdir, console=console, accept_changes=parsed.accept_changes)
        names = (("loss curve", "loss.png"), ("gates", "gates.png"), ("predictions", "predictions.png"))
        plots = {title: model.parent / name for title, name in names}
        images = "  ".join(f"{title}: {path}" for title, path in plots.items() if path.is_file())
        for line in filter(None, (f"model: {model}" if model.exists() else "", images)):  # a stopped run has no model
            log(console, line)
    hosts.shut_down()
