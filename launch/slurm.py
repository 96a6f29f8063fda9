"""Trains on a Slurm cluster, with one process per host.

  python launch/slurm.py CONFIG WORKDIR --nodes 4 --time 24:00:00 [--gpus 8] [--setup LINE] [--config.x.y=value ...]

LINE is a shell command that activates the environment of this package, as in ". env/bin/activate". WORKDIR is in a bucket, or
an absolute path on a file system that all hosts share. The run saves before its time limit and is queued again, also after a
host has failed; each time it resumes from WORKDIR.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

import common


def batch_script(parsed: argparse.Namespace) -> str:
    """Returns the batch script for sbatch. Before the time limit, Slurm sends SIGUSR1 to this script only,
    which makes all hosts save and then queues the job again. A check is not queued again."""
    options = {
        "job-name": parsed.name,
        "nodes": parsed.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": parsed.cpus,
        "gpus-per-node": parsed.gpus,
        "time": parsed.time,
        "partition": parsed.partition,
        "account": parsed.account,
        "output": parsed.output,
        "open-mode": "append",
        "signal": None if parsed.check else f"B:USR1@{parsed.save_seconds}",
    }
    lines = ["#!/bin/bash", *(f"#SBATCH --{key}={value}" for key, value in options.items() if value is not None)]
    setup = [parsed.setup] if parsed.setup else []
    command = shlex.join(["srun", "--kill-on-bad-exit=1", *common.train_command(parsed)])
    if parsed.check:
        lines += ["#SBATCH --no-requeue", *setup, command]
    else:
        lines += [
            "#SBATCH --requeue",
            "stopped=",
            """trap 'stopped=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1""",
            *setup,
            f"{command} &",
            "wait $!; status=$?",
            "while kill -0 $! 2>/dev/null; do wait $!; status=$?; done",
            'if [ -n "$stopped" ]; then exec scontrol requeue "$SLURM_JOB_ID"; fi',
            "exit $status",
        ]
    return "\n".join(lines) + "\n"


def run(arguments: Sequence[str]) -> int:
    options = common.make_parser(__doc__)
    options.add_argument("--nodes", type=int, default=1, help="hosts (default: 1)")
    options.add_argument(
        "--time", required=True, help="time limit of one job, in Slurm's format: 24:00:00; the run resumes in further jobs"
    )
    options.add_argument("--gpus", type=int, help="GPUs on each host")
    options.add_argument("--cpus", type=int, help="CPU cores on each host")
    options.add_argument("--partition")
    options.add_argument("--account")
    options.add_argument("--setup", help="shell command to run first, such as activating an environment")
    options.add_argument("--output", default="%x-%j.log", help="log file (default: NAME-JOB.log)")
    options.add_argument("--save-seconds", type=int, default=300, help="seconds before the time limit at which the run saves")
    options.add_argument("--wait", action="store_true", help="return when the job has ended, with its status")
    parsed = common.parse_arguments(options, arguments)
    common.make_check_job(parsed)
    if parsed.nodes < 1:
        raise common.LaunchError(f"--nodes {parsed.nodes}: must be at least 1")
    if not parsed.workdir.startswith("/") and not common.is_bucket_path(parsed.workdir):
        raise common.LaunchError(f"WORKDIR {parsed.workdir}: give gs://BUCKET/PATH, or an absolute path that all hosts share")
    if parsed.config.endswith(".py"):
        parsed.config = str(common.config_file(parsed.config))
    command, text = ["sbatch", *(["--wait"] if parsed.wait else [])], batch_script(parsed)
    if parsed.dry_run:
        print(text, end="")
        common.print_command(command)
        return 0
    common.require_program("sbatch", "run this script on a login node of the cluster")
    return common.run_command(command, text)


if __name__ == "__main__":
    common.main(run)
