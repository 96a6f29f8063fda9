"""Trains on a TPU slice of a Ray cluster: one actor a host, all of one slice.

  python launch/ray_tpu.py CONFIG gs://BUCKET/RUN --type v5e-16 [--address http://HEAD:8265] [--config.x.y=value ...]

With --address this checkout is sent to the cluster and started there as a Ray job, which outlives this machine; without, the
script itself is the driver, on a host of the cluster. The hosts have this package's requirements installed. When a host is lost
or fails, all are ended and started again, on a slice that is whole, up to --retries times; the run goes on from WORKDIR.
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

GRACE = 300.0  # seconds to save in


class Host:
    """Lives on one host of the slice."""

    process: subprocess.Popen[bytes] | None = None

    def pod(self) -> str | None:
        """The slice that this host belongs to; each of its hosts has one resource of that name."""
        from ray.util.tpu import get_current_pod_name

        return get_current_pod_name()

    def train(self, command: Sequence[str]) -> int:
        self.process = subprocess.Popen([sys.executable, *command[1:]], start_new_session=True)
        return self.process.wait()

    def stop(self, grace: float) -> None:
        """SIGTERM, time to save, then SIGKILL."""
        if self.process is None or self.process.poll() is not None:
            return
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(grace)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


def requests(piece: slices.Slice, pod: str) -> list[dict[str, float]]:
    """What each host's actor takes: all chips of the host, worker 0 the mark of its slice, the others the slice by name."""
    head = {f"TPU-{piece.accelerator}-head": 1.0, "TPU": float(piece.chips)}
    return [head, *({pod: 1.0, "TPU": float(piece.chips)} for _ in range(piece.hosts - 1))]


def attempt(ray: Any, piece: slices.Slice, command: Sequence[str]) -> int:
    """One start on all hosts of one slice: the first status that is not zero, 255 where a host was lost, else zero."""
    actor = ray.remote(Host)
    options = {"max_concurrency": 2, "num_cpus": 1}  # stop() beside train()
    hosts = [actor.options(resources=requests(piece, "")[0], **options).remote()]
    try:
        pod = ray.get(hosts[0].pod.remote())
        hosts += [actor.options(resources=wanted, **options).remote() for wanted in requests(piece, pod)[1:]]
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


def submission(address: str, arguments: Sequence[str]) -> list[str]:
    """The command that starts this script in the cluster, without --address."""
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
    options = common.parser(__doc__)
    options.add_argument("--type", required=True, help="v5e-16, v5p-128, ...")
    options.add_argument("--address", help="a cluster's job server, http://HEAD:8265")
    options.add_argument("--retries", type=int, default=10, help="restarts after a lost or failed host (default: 10)")
    options.add_argument("--pause", type=float, default=30.0, help="seconds between restarts")
    parsed = common.parse(options, arguments)
    piece = slices.get(parsed.type)
    parsed.config = common.check_config(parsed.config)
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
            *parsed.overrides,
        ]
        submit = submission(parsed.address, rest)
        if parsed.dry_run:
            common.show(submit)
            return 0
        common.require("ray", "pip install 'ray[default]'")
        return common.call(submit)
    if parsed.dry_run:
        for k, wanted in enumerate(requests(piece, "SLICE")):
            print(f"# actor {k}: {' '.join(f'{key}={count:g}' for key, count in wanted.items())}")
            print(shlex.join(command))
        return 0
    try:
        import ray
    except ImportError:
        raise common.LaunchError("ray is not installed; pip install 'ray[default]'") from None
    ray.init(address="auto", namespace=parsed.name)
    status = attempt(ray, piece, command)
    for left in reversed(range(parsed.retries)):
        if status in (0, 2):  # the end, or bad input, which nothing mends
            break
        print(f"{parsed.name}: ended with status {status}; starting again, {left} more times after that", flush=True)
        time.sleep(parsed.pause)
        status = attempt(ray, piece, command)
    return status


if __name__ == "__main__":
    common.main(run)
