"""Trains on Cloud TPU VMs through gcloud: creates the slice, installs this checkout on all hosts, trains, and restarts.

  python launch/tpu_vm.py CONFIG gs://BUCKET/RUN --type v5e-16 --zone us-west4-a [--queued] [--spot] [--config.x.y=value ...]

A preempted slice is deleted and created again, and the run resumes from WORKDIR. The slice is deleted after a successful run,
unless --keep is given, and kept after a failed one. Ctrl-C saves a checkpoint, stops the run and keeps the slice; the same
command resumes. This script must run all the time: start it in tmux, or on a small VM.
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
UNREACHABLE = "unreachable"  # gcloud got no answer; the state of the slice is unknown
# Matches the training process, but not a shell whose command contains this pattern.
RUNNING = "'^[^ ]*python -m hyperseg_jax[.]train'"
STOP = (  # shell script that stops training on a host, after up to 300 s for saving a checkpoint
    f"pkill -TERM -f {RUNNING}\n"
    f"for second in $(seq 300); do pgrep -f {RUNNING} >/dev/null || break; sleep 1; done\n"
    f"pkill -KILL -f {RUNNING}\n"
)
ACTIVE = "a-run-is-active"
LIST_ACTIVE = f"pgrep -f {RUNNING} >/dev/null && echo {ACTIVE}; true"


class Tpu:
    """The gcloud commands for one slice (a TPU VM), or for one queued resource of one or several slices."""

    def __init__(self, parsed: argparse.Namespace):
        self.name, self.parsed, self.slice = parsed.name, parsed, slices.find_slice(parsed.type)
        self.group = ["gcloud", "compute", "tpus", "queued-resources" if parsed.queued else "tpu-vm"]
        self.place = [f"--zone={parsed.zone}", *([f"--project={parsed.project}"] if parsed.project else [])]
        self.everywhere = ["--worker=all", *(["--node=all"] if parsed.queued else [])]
        self.answered = False

    def create_command(self) -> list[str]:
        parsed, image = self.parsed, self.parsed.image or self.slice.image
        flags = [f"--accelerator-type={self.slice.accelerator}"]
        if parsed.queued:
            nodes = f"--node-id={self.name}" if parsed.slices == 1 else f"--node-count={parsed.slices}"
            flags += [f"--runtime-version={image}", nodes]
        else:
            flags += [f"--version={image}"]
        flags += [f"--{word}" for word in ("spot", "reserved") if getattr(parsed, word)]
        flags += [f"--service-account={parsed.service_account}"] if parsed.service_account else []
        # The service account determines the permissions; without this scope, the VM may not use those on the bucket.
        return [
            *self.group,
            "create",
            self.name,
            *self.place,
            *flags,
            "--scopes=https://www.googleapis.com/auth/cloud-platform",
        ]

    def delete_command(self) -> list[str]:
        force = ["--force"] if self.parsed.queued else []  # deletes its nodes as well
        return [*self.group, "delete", self.name, *self.place, *force, "--quiet"]

    def describe_command(self) -> list[str]:
        field = "state.state" if self.parsed.queued else "state"
        return [*self.group, "describe", self.name, *self.place, f"--format=value({field})"]

    def copy_command(self, path: str) -> list[str]:
        return [*self.group, "scp", path, f"{self.name}:{FOLDER}.tar.gz", *self.place, *self.everywhere]

    def ssh_command(self, command: str) -> list[str]:
        return [*self.group, "ssh", self.name, *self.place, *self.everywhere, f"--command={command}"]

    def state(self) -> str | None:
        """Returns the state of the slice as reported by gcloud, such as READY; None if there is no such slice, UNREACHABLE if
        gcloud fails. Raises LaunchError if gcloud has never succeeded."""
        result = subprocess.run(self.describe_command(), capture_output=True, text=True, check=False)
        missing = "NOT_FOUND" in result.stderr
        if result.returncode and not missing:
            reason = " ".join(result.stderr.split())
            if not self.answered:  # probably missing permissions or a wrong zone, not a network failure
                raise common.LaunchError(
                    f"gcloud cannot read the state of {self.name} ({reason}); check --zone, --project and your permissions"
                )
            print(
                f"gcloud cannot read the state of {self.name} at the moment ({reason}); trying again",
                file=sys.stderr,
                flush=True,
            )
            return UNREACHABLE
        self.answered = True
        return None if missing else result.stdout.strip()


def pack_command(path: str) -> list[str]:
    return ["tar", "-czf", path, "-C", str(common.ROOT), "--exclude=__pycache__", *common.SOURCES]


def install_script(mounts: Sequence[common.Mount]) -> str:
    """Returns the shell script that installs the package and mounts the buckets on a host. Its system Python is 3.10, so uv
    installs 3.11."""
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


def start_script(parsed: argparse.Namespace) -> str:
    """Returns the shell script that stops an earlier training on a host, if one is still running, and trains or checks."""
    enter = f"export PATH=~/hyperseg_env/bin:$PATH\ncd {FOLDER} || exit 1\n"
    stop = "" if parsed.check else STOP
    return stop + enter + common.script_with_stop_status(common.train_command(parsed))


def install_everywhere(tpu: Tpu) -> bool:
    """Copies this checkout to all hosts and installs it. Returns whether that succeeded."""
    with tempfile.TemporaryDirectory() as folder:
        archive = str(pathlib.Path(folder) / f"{FOLDER}.tar.gz")
        if status := subprocess.run(pack_command(archive), check=False).returncode:
            raise common.LaunchError(f"tar cannot pack the checkout (status {status}); see the output above")
        return not common.run_command(tpu.copy_command(archive)) and not common.run_command(
            tpu.ssh_command(install_script(tpu.parsed.mount))
        )


def check_idle(tpu: Tpu) -> None:
    """Raises LaunchError if a run is active on the slice, or if a host cannot be reached."""
    command = tpu.ssh_command(LIST_ACTIVE)
    common.print_command(command)
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if ACTIVE in result.stdout.split():
        raise common.LaunchError(f"--check: a run is active on {tpu.name}; check on another slice, or when it has ended")
    if result.returncode:
        raise common.LaunchError(
            f"--check: {tpu.name} cannot be reached by ssh (status {result.returncode}; see the output above); correct the "
            "connection, and run the same command again"
        )


def train_once(tpu: Tpu, poll: float) -> int:
    """Trains on all hosts. Returns the exit status, or 255 as soon as the slice is not up anymore, as ssh may then hang."""
    command = tpu.ssh_command(start_script(tpu.parsed))
    common.print_command(command)
    process = subprocess.Popen(command)
    try:
        while True:
            try:
                return process.wait(poll)
            except subprocess.TimeoutExpired:
                if tpu.state() not in (*UP, UNREACHABLE):
                    return 255
    except KeyboardInterrupt:
        what = "the check" if tpu.parsed.check else "the run"
        again = "starts again" if tpu.parsed.check else "resumes"
        print(f"stopping {what}; {tpu.name} is kept, and the same command {again}", flush=True)
        common.run_command(tpu.ssh_command(STOP))
        raise
    finally:
        if process.poll() is None:
            process.kill()


def run_to_end(tpu: Tpu, retries: int, poll: float) -> int:
    """Creates the slice and trains, again after each preemption, until the run ends. Returns the exit status.

    Gives up after more than `retries` consecutive failures other than preemption, and after status 2 of training, which means
    invalid input. Once the slice has been up, failures to create it again do not count.
    """
    failures, been_up = 0, False
    while failures <= retries:
        state = tpu.state()
        if state in UP:
            been_up = True
            if tpu.parsed.check:
                check_idle(tpu)
            status = train_once(tpu, poll) if install_everywhere(tpu) else 1
            still = tpu.state()
            if status == 2 or (status == 0 and still in UP):
                return status
            failures = failures + 1 if still in UP else 0
        elif state is None or state in GONE:
            if state:
                what = "the check starts again" if tpu.parsed.check else f"the run resumes from {tpu.parsed.workdir}"
                print(f"{tpu.name} is {state}; creating it again; {what}", flush=True)
            failed = (
                (state and common.run_command(tpu.delete_command()))
                or common.run_command(tpu.create_command())
                or state == "FAILED"
            )
            failures += bool(failed) and not been_up
        time.sleep(poll)
    print(f"error: {failures} consecutive failures; see the output above", file=sys.stderr)
    return 1


def print_dry_run(tpu: Tpu) -> None:
    """Prints the commands of a run without running them."""
    archive = f"{FOLDER}.tar.gz"
    common.print_command(tpu.create_command())
    print(f"# until it is {'ACTIVE' if tpu.parsed.queued else 'READY'}:")
    common.print_command(tpu.describe_command())
    for command in (
        pack_command(archive),
        tpu.copy_command(archive),
        tpu.ssh_command(install_script(tpu.parsed.mount)),
        tpu.ssh_command(start_script(tpu.parsed)),
    ):
        common.print_command(command)
    kept = " (kept)" if tpu.parsed.keep else ""
    print(f"# if its state is one of {', '.join(GONE)}: delete, and start over; when the run has ended{kept}:")
    if not tpu.parsed.keep:
        common.print_command(tpu.delete_command())


def run(arguments: Sequence[str]) -> int:
    options = common.make_parser(__doc__)
    options.add_argument("--type", required=True, help="v5e-16, v5p-128, ...")
    options.add_argument("--zone", required=True)
    options.add_argument("--project", help="Google Cloud project (default: that of gcloud)")
    options.add_argument("--queued", action="store_true", help="wait for capacity as a queued resource")
    options.add_argument(
        "--slices", type=int, default=1, help="number of slices in one run, connected by the network; needs --queued"
    )
    options.add_argument("--spot", action="store_true", help="cheaper, and may be preempted at any time")
    options.add_argument("--reserved", action="store_true", help="use a reservation")
    options.add_argument("--service-account", help="e-mail of the service account of the hosts")
    options.add_argument("--image", help="TPU VM software version (default: by type)")
    options.add_argument("--retries", type=int, default=3, help="consecutive restarts after failures other than preemption")
    options.add_argument("--poll", type=float, default=30.0, help="seconds between checks of the slice's state")
    options.add_argument("--keep", action="store_true", help="keep the slice after the run has ended")
    common.add_mounts(options)
    parsed = common.parse_arguments(options, arguments)
    if parsed.slices < 1 or (parsed.slices > 1 and not parsed.queued):
        raise common.LaunchError(f"--slices {parsed.slices}: must be at least 1, and several slices require --queued")
    if parsed.spot and parsed.reserved:
        raise common.LaunchError("--spot and --reserved exclude each other; leave one out")
    parsed.config = common.config_path_on_hosts(parsed.config)
    common.check_workdir(parsed.workdir, parsed.mount)
    parsed.keep = parsed.keep or parsed.check  # the run comes next
    tpu = Tpu(parsed)
    if parsed.dry_run:
        print_dry_run(tpu)
        return 0
    common.require_program("gcloud", "see https://cloud.google.com/sdk/docs/install")
    status = run_to_end(tpu, 0 if parsed.check else parsed.retries, parsed.poll)
    if status == 0 and not parsed.keep:
        return common.run_command(tpu.delete_command())
    if status:
        print(f"to delete it: {shlex.join(tpu.delete_command())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    common.main(run)
