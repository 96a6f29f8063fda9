"""GKE and Slurm: submits each trial as a job through the scripts in launch/; the cluster schedules the jobs."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Sequence

import hyperseg_jax
from hyperseg_jax.errors import UserError
from hyperseg_jax.sweeps.trials import DONE, Trial

BACKENDS = ("gke", "slurm")
ROOT = pathlib.Path(hyperseg_jax.__file__).parent.parent


def command(trial: Trial, backend: str, options: Sequence[str] = (), *, root: pathlib.Path = ROOT) -> list[str]:
    """Returns the command that submits a trial. options: extra options of the launch script, such as the slice type.

    Raises UserError if the package is not installed from a checkout with that script.
    """
    script = root / "launch" / f"{backend}.py"
    if not script.is_file():
        raise UserError(
            f"--backend {backend}: needs launch/{backend}.py, which {root} does not have; run from a checkout, "
            "installed with pip install -e"
        )
    return [sys.executable, str(script), trial.config, trial.workdir, "--name", job_name(trial), *options, *trial.flags()]


def job_name(trial: Trial) -> str:
    """Returns a job name for Kubernetes: at most 33 letters, digits and dashes, deterministic for a sweep and trial."""
    sweep = re.sub(r"[^a-z0-9]+", "-", trial.folder.parent.name.lower()).strip("-")[:20].rstrip("-")
    return f"hs-{sweep + '-' if sweep else ''}{trial.digest}"


def run(
    trials: Sequence[Trial],
    backend: str,
    options: Sequence[str] = (),
    *,
    resubmit: bool,
    log: Callable[[str], None],
    root: pathlib.Path = ROOT,
) -> None:
    """Submits the trials that are not submitted yet, and records those that have finished since.

    resubmit: whether to submit unfinished trials again, even if their jobs may still run.
    """
    for trial in trials:
        if trial.status() not in DONE and trial.is_complete():
            trial.set_status("finished")
    for trial in trials:
        status = trial.status()
        if status in DONE or (status == "submitted" and not resubmit):
            log(f"{status} {trial.name}")
            continue
        with trial.open_log() as log_file:
            line = command(trial, backend, options, root=root)
            code = subprocess.run(line, stdout=log_file, stderr=subprocess.STDOUT).returncode
        if code:
            raise UserError(
                f"launch/{backend}.py ended with code {code}: {trial.last_log_line()} (full output in {trial.log}); "
                "earlier submissions are kept; run the same command to submit the rest"
            )
        trial.set_status("submitted")
        log(f"submitted {trial.name} as {job_name(trial)}")
