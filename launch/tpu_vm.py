"""Trains on Cloud TPU VMs through gcloud: creates the slice, installs this checkout on every host, runs, watches.

  python launch/tpu_vm.py CONFIG gs://BUCKET/RUN --type v5e-16 --zone us-west4-a [--queued] [--spot] [--config.x.y=value ...]

A slice that is preempted is deleted and created again, and the run goes on from WORKDIR. The slice is deleted when the run has
ended well, unless --keep; it stays when the run fails. Ctrl-C stops the run with a checkpoint and leaves the slice; the same
line goes on. This script must stay up to watch: start it in tmux, or on a small VM.
"""

from __future__ import annotations

import argparse
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import common
import slices

FOLDER = "hyperseg_jax"  # in the home folder of each host
UP, GONE = ("READY", "ACTIVE"), ("PREEMPTED", "TERMINATED", "STOPPED", "SUSPENDED", "FAILED")  # GONE: delete and create again
UNREACHABLE = "unreachable"  # gcloud got no answer: says nothing about the slice
RUNNING = "'^[^ ]*python -m hyperseg_jax[.]train'"  # not the shell whose text names it
STOP = (  # with time for a checkpoint
    f"pkill -TERM -f {RUNNING}\n"
    f"for second in $(seq 300); do pgrep -f {RUNNING} >/dev/null || break; sleep 1; done\n"
    f"pkill -KILL -f {RUNNING}\n"
)


class Tpu:
    """The gcloud commands for one slice (a TPU VM), or for one queued resource of one or several slices."""

    def __init__(self, parsed: argparse.Namespace):
        self.name, self.parsed, self.slice = parsed.name, parsed, slices.get(parsed.type)
        self.group = ["gcloud", "compute", "tpus", "queued-resources" if parsed.queued else "tpu-vm"]
        self.place = [f"--zone={parsed.zone}", *([f"--project={parsed.project}"] if parsed.project else [])]
        self.everywhere = ["--worker=all", *(["--node=all"] if parsed.queued else [])]
        self.answered = False

    def create(self) -> list[str]:
        parsed, image = self.parsed, self.parsed.image or self.slice.image
        flags = [f"--accelerator-type={self.slice.accelerator}"]
        if parsed.queued:
            nodes = f"--node-id={self.name}" if parsed.slices == 1 else f"--node-count={parsed.slices}"
            flags += [f"--runtime-version={image}", nodes]
        else:
            flags += [f"--version={image}"]
        flags += [f"--{word}" for word in ("spot", "reserved") if getattr(parsed, word)]
        flags += [f"--service-account={parsed.service_account}"] if parsed.service_account else []
        # The rights are the service account's; without this scope a VM may not use those that it has on the bucket.
        return [
            *self.group,
            "create",
            self.name,
            *self.place,
            *flags,
            "--scopes=https://www.googleapis.com/auth/cloud-platform",
        ]

    def delete(self) -> list[str]:
        force = ["--force"] if self.parsed.queued else []  # with its nodes
        return [*self.group, "delete", self.name, *self.place, *force, "--quiet"]

    def describe(self) -> list[str]:
        field = "state.state" if self.parsed.queued else "state"
        return [*self.group, "describe", self.name, *self.place, f"--format=value({field})"]

    def copy(self, path: str) -> list[str]:
        return [*self.group, "scp", path, f"{self.name}:{FOLDER}.tar.gz", *self.place, *self.everywhere]

    def ssh(self, command: str) -> list[str]:
        return [*self.group, "ssh", self.name, *self.place, *self.everywhere, f"--command={command}"]

    def state(self) -> str | None:
        """READY (or ACTIVE), another state of the published enumerations, UNREACHABLE, or None where there is no such slice."""
        shown = subprocess.run(self.describe(), capture_output=True, text=True, check=False)
        missing = "NOT_FOUND" in shown.stderr
        if shown.returncode and not missing:
            reason = " ".join(shown.stderr.split())
            if not self.answered:  # wrong rights or a wrong zone rather than a bad line
                raise common.LaunchError(f"gcloud cannot look for {self.name}: {reason}")
            print(f"gcloud cannot see {self.name} now: {reason}", file=sys.stderr, flush=True)
            return UNREACHABLE
        self.answered = True
        return None if missing else shown.stdout.strip()


def pack(path: str) -> list[str]:
    return ["tar", "-czf", path, "-C", str(common.ROOT), "--exclude=__pycache__", *common.SOURCES]


def install(mounts: Sequence[common.Mount]) -> str:
    """Shell text for one host. The hosts' own Python is 3.10; uv brings 3.11."""
    lines = [
        "set -e",
        f"rm -rf {FOLDER} && mkdir {FOLDER} && tar -xzf {FOLDER}.tar.gz -C {FOLDER}",
        "python3 -m pip install --quiet --user uv",
        "test -d hyperseg_env || python3 -m uv venv --quiet --python 3.11 hyperseg_env",
        f"python3 -m uv pip install --quiet --python hyperseg_env/bin/python -e './{FOLDER}[tpu,cloud]'",
    ]
    if mounts:
        key, packages = "/usr/share/keyrings/cloud.google.asc", "https://packages.cloud.google.com/apt"
        lines += [
            "if ! command -v gcsfuse >/dev/null; then",
            f"  curl -sS {packages}/doc/apt-key.gpg | sudo tee {key} >/dev/null",
            f'  echo "deb [signed-by={key}] {packages} gcsfuse-$(lsb_release -cs) main" |'
            " sudo tee /etc/apt/sources.list.d/gcsfuse.list",
            "  sudo apt-get -qq update && sudo apt-get -qq install -y gcsfuse",
            "fi",
        ]
    for mount in mounts:
        lines += [
            f"sudo mkdir -p {mount.path} && sudo chown $USER {mount.path}",
            f"mountpoint -q {mount.path} || gcsfuse --implicit-dirs {mount.bucket} {mount.path}",
        ]
    return "\n".join(lines)


def start(parsed: argparse.Namespace) -> str:
    """Shell text for one host: ends what an earlier start left running there, then trains."""
    enter = f"export PATH=~/hyperseg_env/bin:$PATH\ncd {FOLDER} || exit 1\n"
    return STOP + enter + common.guarded(common.train_command(parsed))


def install_everywhere(tpu: Tpu) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        archive = str(pathlib.Path(folder) / f"{FOLDER}.tar.gz")
        subprocess.run(pack(archive), check=True)
        return not common.call(tpu.copy(archive)) and not common.call(tpu.ssh(install(tpu.parsed.mount)))


def train(tpu: Tpu, poll: float) -> int:
    """Runs on all hosts; gives the status, or 255 as soon as the slice is no longer up (ssh may hang for long then)."""
    command = tpu.ssh(start(tpu.parsed))
    common.show(command)
    process = subprocess.Popen(command)
    try:
        while True:
            try:
                return process.wait(poll)
            except subprocess.TimeoutExpired:
                if tpu.state() not in (*UP, UNREACHABLE):
                    return 255
    except KeyboardInterrupt:
        print(f"stopping the run; {tpu.name} stays, the same command goes on", flush=True)
        common.call(tpu.ssh(STOP))
        raise
    finally:
        if process.poll() is None:
            process.kill()


def watch(tpu: Tpu, retries: int, poll: float) -> int:
    """Brings the run to its end through preemptions; gives up after `retries` failures in a row that are no preemption.

    Once the slice has been up, creating it again is tried without end. Status 2 of training is bad input: nothing mends that.
    """
    failures, been_up = 0, False
    while failures <= retries:
        state = tpu.state()
        if state in UP:
            been_up = True
            status = train(tpu, poll) if install_everywhere(tpu) else 1
            still = tpu.state()
            if status == 2 or (status == 0 and still in UP):
                return status
            failures = failures + 1 if still in UP else 0
        elif state is None or state in GONE:
            if state:
                print(f"{tpu.name} is {state}; creating it again, the run goes on from {tpu.parsed.workdir}", flush=True)
            failed = (state and common.call(tpu.delete())) or common.call(tpu.create()) or state == "FAILED"
            failures += bool(failed) and not been_up
        time.sleep(poll)
    print(f"error: {failures} failures in a row", file=sys.stderr)
    return 1


def dry_run(tpu: Tpu) -> None:
    archive = f"{FOLDER}.tar.gz"
    common.show(tpu.create())
    print(f"# until it is {'ACTIVE' if tpu.parsed.queued else 'READY'}:")
    common.show(tpu.describe())
    for command in (pack(archive), tpu.copy(archive), tpu.ssh(install(tpu.parsed.mount)), tpu.ssh(start(tpu.parsed))):
        common.show(command)
    kept = " (kept)" if tpu.parsed.keep else ""
    print(f"# when it is one of {', '.join(GONE)}: delete, and from the top; when the run has ended{kept}:")
    if not tpu.parsed.keep:
        common.show(tpu.delete())


def run(arguments: Sequence[str]) -> int:
    options = common.parser(__doc__)
    options.add_argument("--type", required=True, help="v5e-16, v5p-128, ...")
    options.add_argument("--zone", required=True)
    options.add_argument("--project", help="default: gcloud's")
    options.add_argument("--queued", action="store_true", help="wait for capacity as a queued resource")
    options.add_argument(
        "--slices", type=int, default=1, help="number of slices in one run, connected by the network; needs --queued"
    )
    options.add_argument("--spot", action="store_true", help="cheaper, and may be preempted at any time")
    options.add_argument("--reserved", action="store_true", help="from a reservation")
    options.add_argument("--service-account", help="e-mail of the service account of the hosts")
    options.add_argument("--image", help="TPU VM software version (default: by type)")
    options.add_argument("--retries", type=int, default=3, help="consecutive restarts after failures other than preemption")
    options.add_argument("--poll", type=float, default=30.0, help="seconds between checks of the slice's state")
    options.add_argument("--keep", action="store_true", help="keep the slice after the run has ended")
    common.add_mounts(options)
    parsed = common.parse(options, arguments)
    if parsed.slices < 1 or (parsed.slices > 1 and not parsed.queued):
        raise common.LaunchError(f"--slices {parsed.slices}: several slices come as one queued resource; add --queued")
    if parsed.spot and parsed.reserved:
        raise common.LaunchError("--spot and --reserved exclude each other; leave one out")
    parsed.config = common.check_config(parsed.config)
    common.check_workdir(parsed.workdir, parsed.mount)
    tpu = Tpu(parsed)
    if parsed.dry_run:
        dry_run(tpu)
        return 0
    common.require("gcloud", "see https://cloud.google.com/sdk/docs/install")
    status = watch(tpu, parsed.retries, parsed.poll)
    if status == 0 and not parsed.keep:
        return common.call(tpu.delete())
    if status:
        print(f"to delete it: {shlex.join(tpu.delete())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    common.main(run)
