"""Behaviour shared by all launch scripts: arguments, dry runs without effects, one-line errors."""

import os
import shlex
import subprocess

import pytest

WAYS = {  # the options that each needs, and the program that it calls
    "tpu_vm": (["--type=v5e-16", "--zone=us-west4-a"], "gcloud"),
    "gke": (["--type=v5e-16", "--image=image:1"], "kubectl"),
    "skypilot": (["--type=v5e-16"], "sky"),
    "slurm": (["--time=1:00:00"], "sbatch"),
    "ray_tpu": (["--type=v5e-16", "--address=http://head:8265"], "ray"),
}
ALL = {**WAYS, "local": ([], None)}
RUN = ("tiny", "gs://bucket/runs/First Run")
TRAIN = [
    "-m",
    "hyperseg_jax.train",
    "--config",
    "tiny",
    "--workdir",
    "gs://bucket/runs/First Run",
    "--config.train.steps=5",
    "--config.data.root=a b",
]


@pytest.mark.parametrize("way", [way for way in ALL if way != "ray_tpu"])
def test_all_scripts_start_the_same_command(scripts, way):
    output = scripts.run(way, *RUN, *ALL[way][0], "--config.train.steps=5", "--dry-run", "--config.data.root=a b")
    assert output.returncode == 0, output.stderr
    # tpu_vm shows the line inside a quoted --command
    words = [line for line in output.stdout.replace("'\"'\"'", "'").splitlines() if "hyperseg_jax.train --config" in line]
    assert shlex.split(words[-1].rstrip("& "))[-len(TRAIN) :] == TRAIN


@pytest.mark.parametrize("way", ALL)
def test_all_scripts_offer_the_check(scripts, way):
    output = scripts.run(way, *RUN, *ALL[way][0], "--dry-run", "--check", "--accept-changes")
    assert output.returncode == 0 and "--check --accept-changes" in output.stdout, output.stderr


@pytest.mark.parametrize("way", ALL)
def test_dry_runs_call_no_programs(scripts, way):
    before = sorted(scripts.folder.rglob("*"))
    output = scripts.run(way, *RUN, *ALL[way][0], "--dry-run", system=False)
    assert output.returncode == 0 and "tiny" in output.stdout and not output.stderr
    assert sorted(scripts.folder.rglob("*")) == before


@pytest.mark.parametrize("way", WAYS)
def test_missing_programs_are_one_line(scripts, way):
    options, program = WAYS[way]
    output = scripts.run(way, *RUN, *options, system=False)
    assert output.returncode == 2 and len(output.stderr.splitlines()) == 1
    assert output.stderr.startswith(f"error: {program} is not installed; ")


def test_ray_inside_a_cluster_needs_its_package(scripts):
    (scripts.folder / "ray.py").write_text("raise ImportError('none')")
    output = scripts.run("ray_tpu", *RUN, "--type=v5e-16", PYTHONPATH=str(scripts.folder))
    assert output.returncode == 2 and output.stderr == "error: ray is not installed; pip install 'ray[default]'\n"


def test_ray_without_a_cluster(scripts):
    (scripts.folder / "ray.py").write_text("def init(**_): raise ConnectionError('Could not find any\\nRay instance')")
    output = scripts.run("ray_tpu", *RUN, "--type=v5e-16", PYTHONPATH=str(scripts.folder))
    assert output.returncode == 2 and output.stderr == (
        "error: cannot connect to a Ray cluster (Could not find any); run this script on a host of the cluster, or give "
        "--address\n"
    )


@pytest.mark.parametrize("way", ALL)
@pytest.mark.parametrize("extra", ["--stpes=5", "--dry", "--config.train.steps", "--name=Big_Name", "third"])
def test_unknown_and_incomplete_options_are_errors(scripts, way, extra):
    output = scripts.run(way, *RUN, *ALL[way][0], "--dry-run", extra)
    assert output.returncode == 2 and not output.stdout
    assert extra.split("=")[0] in output.stderr.splitlines()[-1]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("workdir", ["runs/first", "gs://bucket", "gs:///first"])
def test_unshared_workdirs_are_refused(scripts, way, workdir):
    output = scripts.run(way, "tiny", workdir, *WAYS[way][0], "--dry-run")
    assert output.returncode == 2 and output.stderr.startswith(f"error: WORKDIR {workdir}: ")


@pytest.mark.parametrize("way", ["tpu_vm", "gke", "skypilot"])
def test_workdirs_below_a_mount_are_accepted(scripts, way):
    options = [*WAYS[way][0], "--dry-run", "--mount=gs://bucket=/mnt/bucket"]
    output = scripts.run(way, "tiny", "/mnt/bucket/runs", *options)
    assert output.returncode == 0 and "/mnt/bucket" in output.stdout.replace("/mnt/bucket/runs", "")
    assert scripts.run(way, "tiny", "/mnt/bucketruns", *options).returncode == 2
    wrong = scripts.run(way, "tiny", "/mnt/bucket/runs", *options, "--mount=bucket:/mnt")
    assert wrong.returncode == 2 and "gs://BUCKET=/PATH" in wrong.stderr


@pytest.mark.parametrize("way", WAYS)
def test_missing_config_files_are_reported_before_the_start(scripts, way):
    output = scripts.run(way, "absent.py", RUN[1], *WAYS[way][0], "--dry-run")
    assert output.returncode == 2 and "absent.py" in output.stderr and len(output.stderr.splitlines()) == 1


@pytest.mark.parametrize("way", ["tpu_vm", "gke", "skypilot", "ray_tpu"])
def test_config_files_outside_the_checkout_are_refused(scripts, way):
    config = scripts.folder / "mine.py"
    config.write_text("")
    output = scripts.run(way, str(config), RUN[1], *WAYS[way][0], "--dry-run")
    assert output.returncode == 2 and "is not copied to the hosts" in output.stderr


def test_the_default_name_is_that_of_the_workdir(scripts):
    for args, name in ((["--name=mine"], "mine"), ([], "hyperseg-first-run")):
        assert f"--job-name={name}\n" in scripts.run("slurm", *RUN, "--time=1:00:00", "--dry-run", *args).stdout


def test_wrong_counts_are_errors(scripts):
    for way, wrong in (
        ("local", ["--processes=0"]),
        ("local", ["--processes=1025"]),
        ("local", ["--cpu-devices=0"]),
        ("slurm", ["--nodes=0"]),
        ("tpu_vm", ["--slices=2"]),
        ("tpu_vm", ["--spot", "--reserved"]),
        ("gke", ["--slices=0"]),
        ("gke", ["--type=v5e-8", "--slices=2"]),
        ("skypilot", ["--type=v5e-9"]),
    ):
        output = scripts.run(way, *RUN, *ALL[way][0], "--dry-run", *wrong)
        assert output.returncode == 2 and len(output.stderr.splitlines()) == 1, (way, wrong)
    assert "v5e-16" in output.stderr and "v5p-128" in output.stderr and "v6e-256" in output.stderr


NUMBERS = {
    "local": ("--processes", "--cpu-devices", "--grace"),
    "slurm": ("--nodes", "--gpus", "--cpus", "--save-seconds"),
    "tpu_vm": ("--slices", "--retries", "--poll"),
    "gke": ("--slices", "--restarts", "--poll"),
    "skypilot": ("--retries",),
    "ray_tpu": ("--retries", "--pause"),
}


@pytest.mark.parametrize("way, option", [(way, option) for way, options in NUMBERS.items() for option in options])
def test_numbers_that_no_option_takes(scripts, way, option):
    """They are refused before a program is called."""
    is_fraction = option in ("--grace", "--poll", "--pause")
    for text in ("-1", "9" * 30, *(("nan", "inf", "-inf") if is_fraction else ())):
        output = scripts.run(way, *RUN, *ALL[way][0], f"{option}={text}", system=False)
        assert output.returncode == 2 and not output.stdout, text
        (message,) = output.stderr.splitlines()
        assert message.startswith(f"error: {option} {float(text) if is_fraction else text}: give "), message


@pytest.mark.parametrize("text", ["1_0", "\u0661"])
def test_numbers_in_other_digits_are_refused(scripts, text):
    output = scripts.run("local", *RUN, *ALL["local"][0], f"--grace={text}", system=False)
    assert output.returncode == 2 and not output.stdout and f"--grace: invalid float value: '{text}'" in output.stderr


@pytest.mark.parametrize("way", WAYS)
def test_long_names_of_config_files(scripts, way):
    output = scripts.run(way, "x" * 300 + ".py", RUN[1], *WAYS[way][0], "--dry-run")
    assert output.returncode == 2 and not output.stdout
    (message,) = output.stderr.splitlines()
    assert message.startswith("error: CONFIG xxx") and "no such file; give a config file" in message and len(message) < 400


@pytest.mark.parametrize("way", ALL)
def test_closed_and_full_outputs(scripts, way):
    command = scripts.command(way, *RUN, *ALL[way][0], "--dry-run")
    with open("/dev/full", "w") as full:
        output = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=scripts.environment(), timeout=60)
    assert output.returncode == 2
    assert output.stderr == "error: standard output: No space left on device; free space, or redirect it elsewhere\n"
    reader, writer = os.pipe()
    os.close(reader)
    output = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=scripts.environment(), timeout=60)
    os.close(writer)
    assert (output.returncode, output.stderr) == (1, "")


@pytest.mark.parametrize("way", ALL)
@pytest.mark.parametrize("text", ["a\nb", "\x1b[2J", "a\x85b", "\u2028", "\x7f", "\udcff"])
def test_what_cannot_be_printed_is_one_line(scripts, way, text):
    for place in (["--config.data.root=" + text], ["--name", text]):
        output = scripts.run(way, *RUN, *ALL[way][0], "--dry-run", *place)
        assert output.returncode == 2 and not output.stdout
        (messages,) = output.stderr.splitlines()
        assert messages.isprintable() and "has a character that cannot be printed, such as a line break; remove it" in messages
