"""Trains on one TPU slice of a Ray cluster, with one actor on each of its hosts.

  python launch/ray_tpu.py CONFIG gs://BUCKET/RUN --type v5e-16 [--address http://HEAD:8265] [--config.x.y=value ...]

With --address, this checkout is uploaded to the cluster and this script runs there as a Ray job, independent of this machine.
Without it, the script must run on a host of the cluster. The hosts need the dependencies of this package. When a host is lost
or fails, all are stopped and restarted on a complete slice, up to --retries times; the run resumes from WORKDIR.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import common
import slices

GRACE = 300.0  # seconds for saving a checkpoint between SIGTERM and SIGKILL


class Host:
    """The actor on one host of the slice. It runs the training as a subprocess."""

    process: subprocess.Popen[bytes] | None = None

    def slice_name(self) -> str | None:
        """Returns the name of the slice of this host. Each host of the slice has one Ray resource of this name."""
        from ray.util.tpu import get_current_pod_name

        return get_current_pod_name()

    def train(self, command: Sequence[str]) -> int:
        """Runs the training with the Python of this actor, and returns its exit status."""
        self.process = subprocess.Popen([sys.executable, *command[1:]], start_new_session=True)
        return self.process.wait()

    def stop(self, grace: float) -> None:
        """Stops the training with SIGTERM, and with SIGKILL if it still runs after `grace` seconds."""
        if self.process is None or self.process.poll() is not None:
            return
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(grace)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


def actor_resources(piece: slices.Slice, pod: str) -> list[dict[str, float]]:
    """Returns the Ray resources of each host's actor: all chips of the host, and a resource that selects the slice.

    The first actor takes the "head" resource, which only host 0 of a slice has; the others take the resource named after its
    slice. pod: name of the slice.
    """
    head = {f"TPU-{piece.accelerator}-head": 1.0, "TPU": float(piece.chips)}
    return [head, *({pod: 1.0, "TPU": float(piece.chips)} for _ in range(piece.hosts - 1))]


def run_once(ray: Any, piece: slices.Slice, command: Sequence[str]) -> int:
    """Runs the training once, on all hosts of a slice. Returns the first non-zero exit status, 255 if a host was lost, or 0."""
    actor = ray.remote(Host)
    options = {"max_concurrency": 2, "num_cpus": 1}  # stop() runs while train() waits
    hosts = [actor.options(resources=actor_resources(piece, "")[0], **options).remote()]
    try:
        pod = ray.get(hosts[0].slice_name.remote())
        hosts += [actor.options(resources=wanted, **options).remote() for wanted in actor_resources(piece, pod)[1:]]
        waiting = [host.train.remote(command) for host in hosts]
        while waiting:
            done, waiting = ray.wait(waiting)
            if status := ray.get(done[0]):
                return 128 - status if status < 0 else status
        return 0
    except ray.exceptions.RayActorError as error:
        print(f"a host was lost: {error}", file=sys.stderr, flush=True)
        return 255
    finally:
        ray.wait([host.stop.remote(GRACE) for host in hosts], num_returns=len(hosts))
        for host in hosts:
            ray.kill(host)


def submit_command(address: str, arguments: Sequence[str]) -> list[str]:
    """Returns the command that uploads this checkout and runs this script with `arguments` as a Ray job of the cluster."""
    return [
        "ray",
        "job",
        "submit",
        f"--address={address}",
        f"--working-dir={common.ROOT}",
        "--",
        "python",
        "launch/ray_tpu.py",
        *arguments,
    ]


def run(arguments: Sequence[str]) -> int:
    options = common.make_parser(__doc__)
    options.add_argument("--type", required=True, help="v5e-16, v5p-128, ...")
    options.add_argument("--address", help="address of the cluster's job server, http://HEAD:8265")
    options.add_argument("--retries", type=int, default=10, help="restarts after a lost or failed host (default: 10)")
    options.add_argument("--pause", type=float, default=30.0, help="seconds between restarts")
    parsed = common.parse_arguments(options, arguments)
    piece = slices.find_slice(parsed.type)
    parsed.config = common.config_path_on_hosts(parsed.config)
    common.check_workdir(parsed.workdir, ())
    command = common.train_command(parsed)
    if parsed.address:
        rest = [
            parsed.config,
            parsed.workdir,
            f"--name={parsed.name}",
            f"--type={parsed.type}",
            f"--retries={parsed.retries}",
            f"--pause={parsed.pause}",
            *common.train_flags(parsed),
            *parsed.overrides,
        ]
        submit = submit_command(parsed.address, rest)
        if parsed.dry_run:
            common.print_command(submit)
            return 0
        common.require_program("ray", "pip install 'ray[default]'")
        return common.run_command(submit)
    common.make_check_job(parsed)  # with --address, the submitted script does this
    if parsed.dry_run:
        for k, wanted in enumerate(actor_resources(piece, "SLICE")):
            print(f"# actor {k}: {' '.join(f'{key}={count:g}' for key, count in wanted.items())}")
            print(shlex.join(command))
        return 0
    try:
        import ray
    except ImportError:
        raise common.LaunchError("ray is not installed; pip install 'ray[default]'") from None
    try:
        ray.init(address="auto", namespace=parsed.name)
    except Exception as error:  # Ray raises many types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise common.LaunchError(
            f"cannot connect to a Ray cluster ({reason}); run this script on a host of the cluster, or give --address"
        ) from error
    status = run_once(ray, piece, command)
    for left in reversed(range(parsed.retries)):
        if status in (0, 2):  # finished, or invalid input, for which a restart does not help
            break
        print(f"{parsed.name}: exited with status {status}; restarting; restarts left: {left}", flush=True)
        time.sleep(parsed.pause)
        status = run_once(ray, piece, command)
    return status


if __name__ == "__main__":
    common.main(run)
