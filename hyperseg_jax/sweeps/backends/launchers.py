"""GKE and Slurm: each trial is a job of its own, handed to the project's launch script; the cluster's queue packs them."""

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
    """The launch script's line for a trial; options: what else the script is told, such as the type of a slice.

    UserError where there is no checkout with that script.
    """
    script = root / "launch" / f"{backend}.py"
    if not script.is_file():
        raise UserError(
            f"--backend {backend}: needs launch/{backend}.py, and {root} has none; run from a checkout, "
            "installed with pip install -e"
        )
    return [sys.executable, str(script), trial.config, trial.workdir, "--name", job_name(trial), *options, *trial.flags()]


def job_name(trial: Trial) -> str:
    """Of letters, digits and dashes, at most 33 of them, as Kubernetes wants it; the same for the same sweep and trial."""
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
    """Submits what has not been submitted, and notes what has come to its end since.

    resubmit: submits again what was submitted and has not ended, whether its job lives or not.
    """
    for trial in trials:
        if trial.status() not in DONE and trial.is_complete():
            trial.set_status("finished")
    for trial in trials:
        status = trial.status()
        if status in DONE or (status == "submitted" and not resubmit):
            log(f"{status} {trial.name}")
            continue
        with trial.open_log() as log:
            line = command(trial, backend, options, root=root)
            code = subprocess.run(line, stdout=log, stderr=subprocess.STDOUT).returncode
        if code:
            raise UserError(
                f"launch/{backend}.py ended with code {code}: {trial.last_log_line()} (all of it in {trial.log}); "
                "what was submitted before stays so, the same command submits the rest"
            )
        trial.set_status("submitted")
        log(f"submitted {trial.name} as {job_name(trial)}")
