"""Trains on a Cloud TPU slice as a managed job of SkyPilot, which finds capacity and restarts the job after preemption.

  python launch/skypilot.py CONFIG gs://BUCKET/RUN --type v5e-16 [--infra gcp/us-west4] [--spot] [--config.x.y=value ...]

This checkout is installed on every host of the slice. After a restart, the run resumes from WORKDIR.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import common
import slices

SETUP = """\
python3 -m pip install --quiet --user uv
test -d ~/hyperseg_env || python3 -m uv venv --quiet --python 3.11 ~/hyperseg_env
python3 -m uv pip install --quiet --python ~/hyperseg_env/bin/python -e '.[tpu,cloud]'
"""


def task_config(parsed: argparse.Namespace) -> dict[str, Any]:
    """Returns the SkyPilot task. On a slice of several hosts, SkyPilot runs its `setup` and `run` on each."""
    piece = slices.find_slice(parsed.type)
    resources = {
        "infra": parsed.infra,
        "accelerators": {f"tpu-{piece.accelerator}": 1},
        "accelerator_args": {"runtime_version": piece.image},
        "use_spot": parsed.spot,
        "job_recovery": {"max_restarts_on_errors": parsed.retries},
    }
    mounts = {mount.path: {"source": f"gs://{mount.bucket}", "mode": "MOUNT"} for mount in parsed.mount}
    command = "export PATH=~/hyperseg_env/bin:$PATH\n" + common.script_with_stop_status(common.train_command(parsed))
    return {
        "name": parsed.name,
        "num_nodes": 1,
        "resources": resources,
        "workdir": str(common.ROOT),
        **({"file_mounts": mounts} if mounts else {}),
        "setup": SETUP,
        "run": command,
    }


def run(arguments: Sequence[str]) -> int:
    options = common.make_parser(__doc__)
    options.add_argument("--type", required=True, help="v5e-16, v5p-128, ...")
    options.add_argument("--infra", default="gcp", help="gcp, gcp/REGION or gcp/REGION/ZONE (default: gcp)")
    options.add_argument("--spot", action="store_true", help="cheaper, and may be preempted at any time")
    options.add_argument("--retries", type=int, default=3, help="restarts after failures other than preemption")
    options.add_argument("--wait", action="store_true", help="follow the output until the run has ended")
    common.add_mounts(options)
    parsed = common.parse_arguments(options, arguments)
    common.make_check_job(parsed)
    parsed.config = common.config_path_on_hosts(parsed.config)
    common.check_workdir(parsed.workdir, parsed.mount)
    text = common.yaml_text(task_config(parsed))
    command = ["sky", "jobs", "launch", "--yes", f"--name={parsed.name}", *([] if parsed.wait else ["--detach-run"])]
    if parsed.dry_run:
        print(text, end="")
        common.print_command([*command, f"{parsed.name}.yaml"])
        return 0
    common.require_program("sky", "pip install 'skypilot[gcp]', then sky check gcp")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / f"{parsed.name}.yaml"
        path.write_text(text)
        return common.run_command([*command, str(path)])


if __name__ == "__main__":
    common.main(run)
