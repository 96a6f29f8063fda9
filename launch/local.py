"""Trains on this machine. The same command resumes a stopped or killed run.

  python launch/local.py CONFIG WORKDIR [--processes N] [--dry-run] [--config.x.y=value ...]

--config.train.preset=data uses several devices in one process. --processes N starts N processes that form one run, like N hosts
of a pod. The environment variable PYTHON selects another interpreter.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

import common

MOST_PROCESSES = 1024


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def process_environments(processes: int, cpu_devices: int | None) -> list[dict[str, str]]:
    """Returns the environment variables to add for each process.

    cpu_devices: number of virtual CPU devices of each process; None: trains on the default devices.
    """
    devices = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(cpu_devices)} if cpu_devices else {}
    if processes == 1:
        return [devices]
    coordinator = f"127.0.0.1:{free_port()}"
    return [
        {
            "HYPERSEG_COORDINATOR": coordinator,
            "HYPERSEG_PROCESS_ID": str(k),
            "HYPERSEG_PROCESSES": str(processes),
            "PYTHONUNBUFFERED": "1",
            **devices,
        }
        for k in range(processes)
    ]


def _copy_output(process: subprocess.Popen[bytes], prefix: bytes) -> None:
    """Copies the output of a process to standard output, with a prefix before each line. If that is closed or full, reads on
    without copying, so that the process does not wait. Runs in a thread."""
    assert process.stdout is not None
    for line in process.stdout:
        with contextlib.suppress(OSError, AttributeError):
            sys.stdout.buffer.write(prefix + line.rstrip(b"\n") + b"\n")
            sys.stdout.buffer.flush()


def run_processes(command: Sequence[str], environments: Sequence[Mapping[str, str]], name: str, grace: float) -> int:
    """Runs one process for each environment. Returns the exit status of the first process that fails, or 0.

    SIGINT and SIGTERM are forwarded to all processes. After one has failed, the others get SIGTERM, and SIGKILL after `grace`
    seconds.
    """
    running = [
        subprocess.Popen(
            command, env={**os.environ, **extra}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        for extra in environments
    ]
    copies = [
        threading.Thread(target=_copy_output, args=(process, f"{name}.{k}| ".encode())) for k, process in enumerate(running)
    ]
    for copy in copies:
        copy.start()

    def send(number: int, _frame: object = None) -> None:
        for process in running:
            if process.poll() is None:
                process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, send)
    first, kill_at = 0, float("inf")
    while any(process.poll() is None for process in running):
        time.sleep(0.05)
        failed = next((k for k, process in enumerate(running) if process.poll()), None)
        if failed is not None and not first:
            first, kill_at = running[failed].returncode, time.monotonic() + grace
            print(f"{name}: process {failed} ended with status {first}; ending the others", file=sys.stderr, flush=True)
            send(signal.SIGTERM)
        if time.monotonic() > kill_at:
            send(signal.SIGKILL)
    for copy in copies:
        copy.join()
    status = first or next((process.returncode for process in running if process.returncode), 0)
    return 128 - status if status < 0 else status


def run(arguments: Sequence[str]) -> int:
    options = common.make_parser(__doc__)
    options.add_argument("--processes", type=int, default=1, help="number of processes (default: 1)")
    options.add_argument(
        "--cpu-devices", type=int, help="train on the CPU, with this number of virtual devices in each process"
    )
    options.add_argument("--grace", type=float, default=30.0, help="seconds between SIGTERM and SIGKILL once one has failed")
    parsed = common.parse_arguments(options, arguments)
    if parsed.processes > MOST_PROCESSES:
        raise common.LaunchError(f"--processes {parsed.processes}: give at most {MOST_PROCESSES}")
    if parsed.processes < 1 or (parsed.cpu_devices is not None and parsed.cpu_devices < 1):
        raise common.LaunchError(f"--processes {parsed.processes}, --cpu-devices {parsed.cpu_devices}: must be at least 1")
    command = common.train_command(parsed, os.environ.get("PYTHON") or sys.executable)
    extras = process_environments(parsed.processes, parsed.cpu_devices)
    for extra in extras:
        common.print_command([*(["env"] if extra else []), *(f"{key}={value}" for key, value in extra.items()), *command])
    if parsed.dry_run:
        return 0
    if not shutil.which(command[0]):
        raise common.LaunchError(f"PYTHON={command[0]}: is not a program; give the path of a Python interpreter")
    if parsed.processes == 1:
        os.environ.update(extras[0])
        try:
            os.execvp(command[0], command)
        except OSError as error:  # does not name the program
            raise OSError(error.errno, error.strerror, command[0]) from error
    return run_processes(command, extras, parsed.name, parsed.grace)


if __name__ == "__main__":
    common.main(run)
