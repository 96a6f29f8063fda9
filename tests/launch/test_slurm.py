"""launch/slurm.py: the options of its script, and the script, run with fake Slurm programs."""

import os
import pathlib
import re
import signal
import subprocess
import time

import pytest

HERE = pathlib.Path(__file__).parent
FULL = [
    "--nodes=4",
    "--time=24:00:00",
    "--gpus=8",
    "--cpus=32",
    "--partition=gpu",
    "--account=vision",
    "--setup=. env/bin/activate",
    "--name=first",
]
# Options of sbatch with a value, from its manual, as far as they concern a job of several hosts; --requeue has none.
OPTIONS = {
    "job-name": r"[\w-]+",
    "nodes": r"\d+",
    "ntasks-per-node": r"\d+",
    "cpus-per-task": r"\d+",
    "gpus-per-node": r"(\w+:)?\d+",
    "time": r"(\d+-)?\d+(:\d+){0,2}",
    "partition": r"[\w,-]+",
    "account": r"[\w-]+",
    "output": r"\S+",
    "open-mode": "append|truncate",
    "signal": r"([RB]+:)?(\d+|[A-Z]+\d?)(@\d+)?",
}
SRUN = """
import signal
log("srun " + " ".join(arguments))
def stop(*_):
    log("saved")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
(state / "srun").write_text(str(__import__("os").getpid()))
log("up")
time.sleep(float((state / "seconds").read_text()))
sys.exit(int((state / "status").read_text()))
"""
SCANCEL = """
import os, signal
log("scancel " + " ".join(arguments))
os.kill(int((state / "srun").read_text()), signal.SIGTERM)
"""


def render(scripts, *options):
    output = scripts.run("slurm", "tiny", "/shared/runs/first", "--config.a=b c", *options, "--dry-run")
    assert output.returncode == 0, output.stderr
    text, _, command = output.stdout.rpartition("sbatch")
    return text, ("sbatch" + command).split()


def test_script_equals_the_recorded_one(scripts):
    text, command = render(scripts, *FULL)
    assert text == (HERE / "golden" / "slurm.sh").read_text() and command == ["sbatch"]


@pytest.mark.parametrize("options", [FULL, ["--time=30"]])
def test_every_option_is_published(scripts, options):
    text, _ = render(scripts, *options)
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert "requeue" in lines
    for key, _, value in (line.partition("=") for line in lines if line != "requeue"):
        assert re.fullmatch(OPTIONS[key], value), (key, value)
    first = next(line for line in text.splitlines()[1:] if not line.startswith("#SBATCH"))
    assert first == "stopped=" and "None" not in text  # sbatch reads its options up to the first command


def test_config_files_are_found_from_any_folder(scripts):
    config = scripts.folder / "mine.py"
    config.write_text("")
    relative = os.path.relpath(config)
    assert f"--config {config} " in scripts.run("slurm", relative, "/shared/run", "--time=1", "--dry-run").stdout


def test_sbatch_gets_the_shown_script(scripts):
    scripts.program("sbatch", "log('sbatch ' + ' '.join(arguments)); (state / 'job').write_text(sys.stdin.read()); sys.exit(3)")
    output = scripts.run("slurm", "tiny", "/shared/runs/first", "--config.a=b c", *FULL, "--wait")
    assert output.returncode == 3 and scripts.calls() == ["sbatch --wait"]
    assert (scripts.folder / "job").read_text() == render(scripts, *FULL)[0]


def start_job(scripts, seconds, status):
    """Starts the script as a job."""
    for name, text in (("srun", SRUN), ("scancel", SCANCEL), ("scontrol", "log('scontrol ' + ' '.join(arguments))")):
        scripts.program(name, text)
    (scripts.folder / "seconds").write_text(str(seconds))
    (scripts.folder / "status").write_text(str(status))
    return subprocess.Popen(["bash", "-c", render(scripts, "--time=30")[0]], env=scripts.environment(SLURM_JOB_ID="77"))


@pytest.mark.parametrize("status", [0, 5])
def test_finished_jobs_are_not_requeued(scripts, status):
    assert start_job(scripts, 0.1, status).wait(30) == status
    assert scripts.calls()[1:] == ["up"]
    assert scripts.calls()[0] == (
        "srun --kill-on-bad-exit=1 python -m hyperseg_jax.train --config tiny --workdir /shared/runs/first --config.a=b c"
    )


def test_timed_out_jobs_save_and_are_requeued(scripts):
    process = start_job(scripts, 60, 0)
    deadline = time.monotonic() + 30
    while "up" not in scripts.calls() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == 0
    assert scripts.calls()[2:] == ["scancel --signal=TERM 77", "saved", "scontrol requeue 77"]


def test_a_check_is_not_queued_again(scripts):
    text, _ = render(scripts, "--time=30", "--check", "--setup=. env/bin/activate")
    assert "--job-name=hyperseg-first-check\n" in text and text.count("requeue") == text.count("--no-requeue") == 1
    assert "USR1" not in text and text.splitlines()[-2] == ". env/bin/activate"
    for status in (0, 2):
        scripts.program("srun", f"log('srun'); sys.exit({status})")
        assert (
            subprocess.run(["bash", "-c", text.replace(". env", "true . env")], env=scripts.environment()).returncode == status
        )
