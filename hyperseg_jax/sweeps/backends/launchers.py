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


def submit_command(trial: Trial, backend: str, options: Sequence[str] = (), *, root: pathlib.Path = ROOT) -> list[str]:
    """Returns the command that submits a trial. options: extra options of the launch script, such as the slice type.

    Raises UserError if the package is not installed from a checkout with that script.
    """
    script = root / "launch" / f"{backend}.py"
    if not script.is_file():
        raise UserError(f"--backend {backend}: {script} is missing; install hyperseg_jax from a checkout with pip install -e")
    return [sys.executable, str(script), trial.config, trial.workdir, "--name", job_name(trial), *options, *trial.flags()]


def job_name(trial: Trial) -> str:
    """Returns the name of the job of a trial: at most 33 letters, digits and dashes, as Kubernetes requires. It is the same
    each time, and contains the name of the sweep folder."""
    sweep = re.sub(r"[^a-z0-9]+", "-", trial.folder.parent.name.lower()).strip("-")[:20].rstrip("-")
    return f"hs-{sweep + '-' if sweep else ''}{trial.digest}"


def submit_trials(
    trials: Sequence[Trial],
    backend: str,
    options: Sequence[str] = (),
    *,
    resubmit: bool,
    log: Callable[[str], None],
    root: pathlib.Path = ROOT,
) -> None:
    """Submits each trial that has not been submitted yet, and records which submitted trials have finished. Does not wait for
    the jobs.

    resubmit: also submits unfinished trials again, even if their jobs may still be running. Raises UserError if a launch script
    fails.
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
            line = submit_command(trial, backend, options, root=root)
            code = subprocess.run(line, stdout=log_file, stderr=subprocess.STDOUT).returncode
        if code:
            raise UserError(
                f"launch/{backend}.py ended with code {code}: {trial.last_log_line()} (full output in {trial.log}); "
                "earlier submissions are kept; run the same command to submit the rest"
            )
        trial.set_status("submitted")
        log(f"submitted {trial.name} as {job_name(trial)}")
