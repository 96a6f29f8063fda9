"""launch/tpu_vm.py: the gcloud commands, their flags, and preempted slices, with a fake cloud."""

import os
import re
import signal
import subprocess
import time

import pytest

RUN = ("hyperseg_3b", "gs://bucket/runs/first")
SLICE = ("--type=v5e-16", "--zone=us-west4-a", "--name=first", "--poll=0.2")
# Which flags each command takes, from `gcloud compute tpus GROUP COMMAND --help`, release 528; the wide ones are taken by all.
CREATE = {"--zone", "--accelerator-type", "--spot", "--reserved", "--service-account", "--scopes"}
FLAGS = {
    "tpu-vm create": {*CREATE, "--version"},
    "queued-resources create": {*CREATE, "--runtime-version", "--node-id", "--node-count"},
    "tpu-vm describe": {"--zone"},
    "queued-resources describe": {"--zone"},
    "tpu-vm delete": {"--zone"},
    "queued-resources delete": {"--zone", "--force"},
    "tpu-vm scp": {"--zone", "--worker"},
    "queued-resources scp": {"--zone", "--worker", "--node"},
    "tpu-vm ssh": {"--zone", "--worker", "--command"},
    "queued-resources ssh": {"--zone", "--worker", "--node", "--command"},
}
WIDE = {"--project", "--quiet", "--format"}
# The cloud: `slice` holds the state, `script` what happens at each start of the run: a status, or PREEMPTED and so on.
GCLOUD = """
group, verb = arguments[2:4]
slice, script = state / "slice", state / "script"
log(f"{group} {verb}" + (" run" if "hyperseg_jax.train --config" in arguments[-1] else ""))
if verb == "describe":
    if not slice.exists(): sys.exit("ERROR: (gcloud) NOT_FOUND: Resource 'projects/p' was not found")
    word = slice.read_text()
    if word == "error": slice.write_text("READY"); sys.exit("ERROR: (gcloud) network is down")
    print(word)
elif verb == "create":
    fails = state / "fails"
    left = int(fails.read_text()) if fails.exists() else 0
    if left: fails.write_text(str(left - 1)); sys.exit("ERROR: no more capacity")
    slice.write_text("ACTIVE" if group == "queued-resources" else "READY")
elif verb == "delete":
    if not slice.exists(): sys.exit("ERROR: NOT_FOUND")
    slice.unlink()
elif verb == "ssh" and "hyperseg_jax.train --config" in arguments[-1]:
    first, *rest = script.read_text().split()
    script.write_text(" ".join(rest))
    if first == "hangs":  # the slice is gone and ssh has not noticed
        slice.write_text("PREEMPTED")
        time.sleep(60)
    if first == "waits":
        time.sleep(60)
    if not first.isdigit():
        slice.write_text(first.partition(":")[0])
        sys.exit(int(first.partition(":")[2] or 255))
    sys.exit(int(first))
elif verb == "ssh" and arguments[-1].startswith("--command=pkill"):
    log("stop")
elif verb == "ssh" and arguments[-1].startswith("--command=pgrep"):
    active = state / "active"
    answer = active.read_text() if active.exists() else ""
    if answer: print(answer if answer != "broken" else ""); sys.exit(255 * (answer == "broken"))
elif verb == "ssh":
    install = state / "install"
    left = int(install.read_text()) if install.exists() else 0
    if left: install.write_text(str(left - 1)); sys.exit(1)
"""
INSTALL = ["scp", "ssh", "ssh run"]


def get_flags(command):
    return {word.split("=")[0] for word in command if word.startswith("--")}


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--spot", "--project=mine", "--service-account=trainer@mine.iam.gserviceaccount.com"),
        ("--reserved", "--image=other"),
        ("--queued",),
        ("--queued", "--slices=2", "--spot", "--mount=gs://datasets=/data"),
    ],
)
def test_only_published_flags_are_used(scripts, split_commands, options):
    output = scripts.run("tpu_vm", *RUN, *SLICE, *options, "--dry-run")
    assert output.returncode == 0, output.stderr
    gcloud = [command for command in split_commands(output.stdout) if command[0] == "gcloud"]
    group = "queued-resources" if "--queued" in options else "tpu-vm"
    assert [command[1:4] for command in gcloud] == [["compute", "tpus", group]] * 6
    assert [command[4] for command in gcloud] == ["create", "describe", "scp", "ssh", "ssh", "delete"]
    for command in gcloud:
        assert get_flags(command) <= FLAGS[f"{group} {command[4]}"] | WIDE, command
        assert "--zone=us-west4-a" in command and ("--project=mine" in command) == ("--project=mine" in options)
    create = gcloud[0]
    assert create[5] == "first" and "--accelerator-type=v5litepod-16" in create
    assert set(options) & {"--spot", "--reserved"} == set(create) & {"--spot", "--reserved"}
    if "--queued" not in options:
        assert f"--version={'other' if '--image=other' in options else 'v2-alpha-tpuv5-lite'}" in create
    else:  # exactly one of the two ways to name nodes
        several = "--slices=2" in options
        assert ("--node-count=2" in create, "--node-id=first" in create) == (several, not several)
        assert "--force" in gcloud[-1] and all("--node=all" in command for command in gcloud[2:5])
    assert all("--worker=all" in command for command in gcloud[2:5])


def test_the_shell_text_for_the_hosts_is_valid(scripts, split_commands):
    output = scripts.run("tpu_vm", *RUN, *SLICE, "--mount=gs://datasets=/data", "--config.data.root=/data/a b", "--dry-run")
    words = [word for command in split_commands(output.stdout) for word in command]
    texts = [word.removeprefix("--command=") for word in words if word.startswith("--command=")]
    assert len(texts) == 2
    for text in texts:
        assert subprocess.run(["bash", "-n", "-c", text], check=False).returncode == 0
    assert "gcsfuse --implicit-dirs datasets /data" in texts[0] and "hyperseg_jax[tpu,cloud]" in texts[0]


def test_the_archive_contains_the_installation_files(scripts, split_commands, tmp_path):
    output = scripts.run("tpu_vm", *RUN, *SLICE, "--dry-run")
    (pack,) = [command for command in split_commands(output.stdout) if command[0] == "tar"]
    pack[2] = str(tmp_path / "sources.tar.gz")
    subprocess.run(pack, check=True)
    names = set(subprocess.run(["tar", "-tzf", pack[2]], capture_output=True, text=True, check=True).stdout.split())
    assert {"setup.py", "pyproject.toml", "README.md", "configs/tiny.py", "hyperseg_jax/train.py"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".git", "tests"))]


def run_and_watch(scripts, story, *options, **files):
    scripts.program("gcloud", GCLOUD)
    (scripts.folder / "script").write_text(story)
    for name, text in files.items():
        (scripts.folder / name).write_text(text)
    output = scripts.run("tpu_vm", *RUN, *SLICE, *options)
    calls = [re.sub(r"^(tpu-vm|queued-resources) ", "", call) for call in scripts.calls()]
    return output, [call for call in calls if call != "describe"]  # how often it looks is a matter of time


@pytest.mark.parametrize("options", [(), ("--queued",)])
def test_an_uninterrupted_run(scripts, options):
    output, calls = run_and_watch(scripts, "0", *options)
    assert output.returncode == 0, output.stderr
    assert calls == ["create", *INSTALL, "delete"]
    assert not (scripts.folder / "slice").exists()


@pytest.mark.parametrize("gone", ["PREEMPTED", "SUSPENDED", "PREEMPTED:0", "TERMINATED:143"])
def test_preempted_slices_are_recreated(scripts, gone):
    """Also if training saved and exited with 0 during the preemption, which is not the end of the run."""
    output, calls = run_and_watch(scripts, f"{gone} {gone} 0", "--retries=0")
    assert output.returncode == 0, output.stderr
    repeated = ["delete", "create", *INSTALL]
    assert calls == ["create", *INSTALL, *repeated, *repeated, "delete"]
    assert output.stdout.count(f"first is {gone.split(':')[0]}; creating it again") == 2
    # the very same line each time, so the same workdir
    assert len({line for line in output.stdout.splitlines() if "hyperseg_jax.train --config" in line}) == 1


def test_hanging_connections_time_out(scripts):
    began = time.monotonic()
    output, calls = run_and_watch(scripts, "hangs 0")
    assert output.returncode == 0 and calls.count("create") == 2 and time.monotonic() - began < 30


def test_existing_slices_are_used(scripts):
    output, calls = run_and_watch(scripts, "0", "--keep", slice="READY")
    assert output.returncode == 0 and calls == INSTALL
    assert (scripts.folder / "slice").exists()


def test_failures_are_retried_then_reported(scripts):
    output, calls = run_and_watch(scripts, "1 1 1 0", "--retries=2")
    assert output.returncode == 1 and calls.count("ssh run") == 3 and "delete" not in calls
    assert (
        "3 consecutive failures" in output.stderr and "to delete it: gcloud compute tpus tpu-vm delete first" in output.stderr
    )
    assert run_and_watch(scripts, "1 1 0", "--retries=2")[0].returncode == 0


def test_preemptions_do_not_count_as_failures(scripts):
    assert run_and_watch(scripts, "1 PREEMPTED 1 PREEMPTED 1 0", "--retries=1")[0].returncode == 0


def test_invalid_input_is_not_retried(scripts):
    output, calls = run_and_watch(scripts, "2 0")
    assert output.returncode == 2 and calls.count("ssh run") == 1


def test_installation_errors_count_as_failures(scripts):
    output, calls = run_and_watch(scripts, "0", "--retries=1", install="1")
    assert output.returncode == 0 and calls == ["create", "scp", "ssh", *INSTALL, "delete"]


def test_capacity_is_awaited_after_a_preemption(scripts):
    output, calls = run_and_watch(scripts, "0", "--retries=1", fails="5")
    assert output.returncode == 1 and calls.count("create") == 2  # it never was: perhaps the zone is wrong
    scripts.log.unlink()
    output, calls = run_and_watch(scripts, "PREEMPTED 0", "--retries=1", fails="5", slice="READY")
    assert output.returncode == 0 and calls.count("create") == 6


def test_network_failures_are_retried(scripts):
    assert run_and_watch(scripts, "error:0 0")[0].returncode == 0
    (scripts.folder / "slice").write_text("error")
    output, _ = run_and_watch(scripts, "0")
    assert output.returncode == 2 and output.stderr.count("\n") == 1
    assert output.stderr.startswith("error: gcloud cannot read the state of first (ERROR: (gcloud) network is down); ")


def test_a_check_uses_the_slice_and_keeps_it(scripts, split_commands):
    """It is not repeated after a failure, and stops nothing."""
    output, calls = run_and_watch(scripts, "0", "--check")
    assert output.returncode == 0 and calls == ["create", "ssh", *INSTALL] and (scripts.folder / "slice").exists()
    started = [text for text in output.stdout.split("gcloud compute") if "hyperseg_jax.train --config" in text]
    assert len(started) == 1 and "--check" in started[0] and "pkill" not in started[0]
    scripts.log.unlink()
    output, calls = run_and_watch(scripts, "1 0", "--check", "--retries=3")
    assert output.returncode == 1 and calls == ["ssh", *INSTALL] and (scripts.folder / "slice").exists()


def test_a_preempted_check_starts_again(scripts):
    output, calls = run_and_watch(scripts, "PREEMPTED 0", "--check")
    assert output.returncode == 0 and calls.count("create") == 2
    assert "first is PREEMPTED; creating it again; the check starts again" in output.stdout and "resumes" not in output.stdout


@pytest.mark.parametrize(
    ("active", "why"),
    [
        ("a-run-is-active", "a run is active on first; check on another slice"),
        ("broken", "first cannot be reached by ssh (sta"),
    ],
)
def test_a_check_does_not_disturb_an_active_run(scripts, active, why):
    output, calls = run_and_watch(scripts, "0", "--check", slice="READY", active=active)
    assert output.returncode == 2 and calls == ["ssh"] and (scripts.folder / "slice").exists()
    (message,) = output.stderr.splitlines()
    assert message.startswith(f"error: --check: {why}")


def test_an_active_run_is_found_by_its_command(launch_modules, tmp_path):
    """And not the shell that looks for it. The name of the module is changed: other runs may be active on this machine."""
    import tpu_vm

    name = tmp_path.name.replace("_", "-")
    script = tpu_vm.LIST_ACTIVE.replace("hyperseg_jax[.]train", f"{name}[.]train")
    find = lambda: subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert find() == []
    process = subprocess.Popen([f"python -m {name}.train", "60"], executable="/bin/sleep")
    try:
        assert find() == [tpu_vm.ACTIVE]
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_stops_the_run_and_keeps_the_slice(scripts, number):
    scripts.program("gcloud", GCLOUD)
    (scripts.folder / "script").write_text("waits")
    process = subprocess.Popen(
        scripts.command("tpu_vm", *RUN, *SLICE),
        env=scripts.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while "tpu-vm ssh run" not in scripts.calls() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, number)
    process.communicate(timeout=30)
    assert process.returncode == 130 and scripts.calls()[-1] == "stop"
    assert (scripts.folder / "slice").read_text() == "READY"
