"""What all launch scripts have in common: arguments, dry runs that change nothing, errors of one line."""

import shlex

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
def test_every_way_starts_the_same_command(scripts, way):
    shown = scripts.run(way, *RUN, *ALL[way][0], "--config.train.steps=5", "--dry-run", "--config.data.root=a b")
    assert shown.returncode == 0, shown.stderr
    # tpu_vm shows the line inside a quoted --command
    words = [line for line in shown.stdout.replace("'\"'\"'", "'").splitlines() if "hyperseg_jax.train --config" in line]
    assert shlex.split(words[-1].rstrip("& "))[-len(TRAIN) :] == TRAIN


@pytest.mark.parametrize("way", ALL)
def test_a_dry_run_calls_nothing_and_needs_nothing(scripts, way):
    before = sorted(scripts.folder.rglob("*"))
    shown = scripts.run(way, *RUN, *ALL[way][0], "--dry-run", system=False)
    assert shown.returncode == 0 and "tiny" in shown.stdout and not shown.stderr
    assert sorted(scripts.folder.rglob("*")) == before


@pytest.mark.parametrize("way", WAYS)
def test_a_missing_program_is_one_line(scripts, way):
    options, program = WAYS[way]
    shown = scripts.run(way, *RUN, *options, system=False)
    assert shown.returncode == 2 and len(shown.stderr.splitlines()) == 1
    assert shown.stderr.startswith(f"error: {program} is not installed; ")


def test_ray_inside_a_cluster_needs_its_package(scripts):
    (scripts.folder / "ray.py").write_text("raise ImportError('none')")
    shown = scripts.run("ray_tpu", *RUN, "--type=v5e-16", PYTHONPATH=str(scripts.folder))
    assert shown.returncode == 2 and shown.stderr == "error: ray is not installed; pip install 'ray[default]'\n"


@pytest.mark.parametrize("way", ALL)
@pytest.mark.parametrize("extra", ["--stpes=5", "--dry", "--config.train.steps", "--name=Big_Name", "third"])
def test_unknown_and_half_options_are_errors(scripts, way, extra):
    shown = scripts.run(way, *RUN, *ALL[way][0], "--dry-run", extra)
    assert shown.returncode == 2 and not shown.stdout
    assert extra.split("=")[0] in shown.stderr.splitlines()[-1]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("workdir", ["runs/first", "gs://bucket", "gs:///first"])
def test_a_workdir_that_no_host_shares_is_refused(scripts, way, workdir):
    shown = scripts.run(way, "tiny", workdir, *WAYS[way][0], "--dry-run")
    assert shown.returncode == 2 and shown.stderr.startswith(f"error: WORKDIR {workdir}: ")


@pytest.mark.parametrize("way", ["tpu_vm", "gke", "skypilot"])
def test_a_workdir_below_a_mount_is_fine(scripts, way):
    options = [*WAYS[way][0], "--dry-run", "--mount=gs://bucket=/mnt/bucket"]
    shown = scripts.run(way, "tiny", "/mnt/bucket/runs", *options)
    assert shown.returncode == 0 and "/mnt/bucket" in shown.stdout.replace("/mnt/bucket/runs", "")
    assert scripts.run(way, "tiny", "/mnt/bucketruns", *options).returncode == 2
    wrong = scripts.run(way, "tiny", "/mnt/bucket/runs", *options, "--mount=bucket:/mnt")
    assert wrong.returncode == 2 and "gs://BUCKET=/PATH" in wrong.stderr


@pytest.mark.parametrize("way", WAYS)
def test_a_config_file_is_found_before_anything_starts(scripts, way):
    shown = scripts.run(way, "absent.py", RUN[1], *WAYS[way][0], "--dry-run")
    assert shown.returncode == 2 and "absent.py" in shown.stderr and len(shown.stderr.splitlines()) == 1


@pytest.mark.parametrize("way", ["tpu_vm", "gke", "skypilot", "ray_tpu"])
def test_a_config_file_that_does_not_travel_is_refused(scripts, way):
    config = scripts.folder / "mine.py"
    config.write_text("")
    shown = scripts.run(way, str(config), RUN[1], *WAYS[way][0], "--dry-run")
    assert shown.returncode == 2 and "travels to the hosts" in shown.stderr


def test_the_name_comes_from_the_workdir(scripts):
    for given, name in ((["--name=mine"], "mine"), ([], "hyperseg-first-run")):
        assert f"--job-name={name}\n" in scripts.run("slurm", *RUN, "--time=1:00:00", "--dry-run", *given).stdout


def test_wrong_counts_are_errors(scripts):
    for way, wrong in (
        ("local", ["--processes=0"]),
        ("local", ["--cpu-devices=0"]),
        ("slurm", ["--nodes=0"]),
        ("tpu_vm", ["--slices=2"]),
        ("tpu_vm", ["--spot", "--reserved"]),
        ("gke", ["--slices=0"]),
        ("gke", ["--type=v5e-8", "--slices=2"]),
        ("skypilot", ["--type=v5e-9"]),
    ):
        shown = scripts.run(way, *RUN, *ALL[way][0], "--dry-run", *wrong)
        assert shown.returncode == 2 and len(shown.stderr.splitlines()) == 1, (way, wrong)
    assert "v5e-16" in shown.stderr and "v5p-128" in shown.stderr and "v6e-256" in shown.stderr


@pytest.mark.parametrize("way", ALL)
@pytest.mark.parametrize("text", ["a\nb", "\x1b[2J", "a\x85b", "\u2028", "\x7f", "\udcff"])
def test_what_cannot_be_printed_is_one_line(scripts, way, text):
    for place in (["--config.data.root=" + text], ["--name", text]):
        shown = scripts.run(way, *RUN, *ALL[way][0], "--dry-run", *place)
        assert shown.returncode == 2 and not shown.stdout
        (told,) = shown.stderr.splitlines()
        assert told.isprintable() and "has a character that cannot be printed, such as a line break; remove it" in told
