"""launch/local.py with real processes; PYTHON names a fake training."""

import os
import signal
import subprocess
import sys
import time

import pytest

PRINT_SCRIPT = """
import os
words = [os.environ.get("HYPERSEG_" + word, "-") for word in ("COORDINATOR", "PROCESS_ID", "PROCESSES")]
print(*words, os.environ.get("JAX_NUM_CPU_DEVICES", "-"), *arguments)
"""
WAIT_SCRIPT = """
import os, signal
number = os.environ.get("HYPERSEG_PROCESS_ID", "0")
def stop(signum, frame):
    log(f"{number} got {signum}")
    print("saved")
    raise SystemExit(0)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
log(f"{number} up")
"""
WAIT_FOREVER_SCRIPT = WAIT_SCRIPT + "time.sleep(60)\n"
ONE_FAILS = (
    WAIT_SCRIPT
    + """
while number == "1" and len((state / "calls").read_text().splitlines()) < 3: time.sleep(0.01)
if number == "1": sys.exit(7)
time.sleep(60)
"""
)
ONE_FAILS_ONE_HANGS = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.environ["HYPERSEG_PROCESS_ID"] == "0": os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60)
"""


def run_local(scripts, *arguments):
    return scripts.run("local", "tiny", "my run", *arguments, PYTHON=str(scripts.bin / "python"))


def test_one_process_replaces_the_script(scripts):
    scripts.program("python", PRINT_SCRIPT + "print(os.getpid())\nsys.exit(3)")
    process = subprocess.Popen(
        scripts.command("local", "tiny", "my run", "--cpu-devices=4", "--config.a=b c"),
        text=True,
        env=scripts.environment(PYTHON=str(scripts.bin / "python")),
        stdout=subprocess.PIPE,
    )
    lines = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 3
    assert lines[1:] == ["- - - 4 -m hyperseg_jax.train --config tiny --workdir my run --config.a=b c", str(process.pid)]


def test_the_interpreter_is_that_of_the_script(scripts):
    output = scripts.run("local", "tiny", "my run", "--dry-run")
    assert output.stdout.startswith(f"{sys.executable} -m hyperseg_jax.train ")


@pytest.mark.parametrize("name", ["/nonexistent", "folder", "text"])
@pytest.mark.parametrize("processes", [1, 2])
def test_an_interpreter_that_is_none(scripts, name, processes):
    (scripts.folder / "folder").mkdir()
    (scripts.folder / "text").write_text("")
    python = str(scripts.folder / name)
    output = scripts.run("local", "tiny", "my run", f"--processes={processes}", PYTHON=python)
    assert output.returncode == 2
    assert output.stderr == f"error: PYTHON={python}: is not a program; give the path of a Python interpreter\n"


def test_an_interpreter_that_cannot_start(scripts):
    (scripts.bin / "python").write_bytes(b"\x7fELF")
    (scripts.bin / "python").chmod(0o755)
    for processes in (1, 2):
        output = run_local(scripts, f"--processes={processes}")
        assert output.returncode == 2 and len(output.stderr.splitlines()) == 1
        assert output.stderr.startswith(f"error: {scripts.bin / 'python'}: Exec format error; ")


def test_processes_continue_when_the_output_is_closed(scripts):
    scripts.program("python", "for k in range(20000): print('a line')\nlog('done')")
    process = subprocess.Popen(
        scripts.command("local", "tiny", "my run", "--processes=2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=scripts.environment(PYTHON=str(scripts.bin / "python")),
    )
    for _ in range(2):  # its commands
        process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 0 and process.stderr.read() == b"" and scripts.calls() == ["done", "done"]
    process.stderr.close()


def test_processes_get_addresses_and_ids(scripts):
    scripts.program("python", PRINT_SCRIPT)
    output = run_local(scripts, "--processes=3", "--name=trial")
    assert output.returncode == 0, output.stderr
    lines = sorted(line for line in output.stdout.splitlines() if line.startswith("trial."))
    coordinator = lines[0].split()[1]
    assert coordinator.startswith("127.0.0.1:")
    for k, line in enumerate(lines):
        assert line == f"trial.{k}| {coordinator} {k} 3 - -m hyperseg_jax.train --config tiny --workdir my run"
    assert len(lines) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_forwarded_to_all(scripts, number):
    scripts.program("python", WAIT_FOREVER_SCRIPT)
    process = subprocess.Popen(
        scripts.command("local", "tiny", "run", "--processes=2"),
        text=True,
        stdout=subprocess.PIPE,
        env=scripts.environment(PYTHON=str(scripts.bin / "python")),
    )
    deadline = time.monotonic() + 30
    while len(scripts.calls()) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, number)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == 0 and output.count("| saved") == 2
    assert sorted(scripts.calls())[1::2] == [f"{k} up" for k in range(2)]
    assert sorted(scripts.calls())[0::2] == [f"{k} got {number}" for k in range(2)]


def test_a_failing_process_stops_the_others(scripts):
    scripts.program("python", ONE_FAILS)
    output = run_local(scripts, "--processes=3")
    assert output.returncode == 7 and "process 1 ended with status 7" in output.stderr
    assert sorted(call for call in scripts.calls() if "got" in call) == ["0 got 15", "2 got 15"]


def test_hanging_processes_are_killed(scripts):
    scripts.program("python", ONE_FAILS_ONE_HANGS)
    began = time.monotonic()
    output = run_local(scripts, "--processes=2", "--grace=0.3")
    assert output.returncode == 128 + signal.SIGKILL and time.monotonic() - began < 30
    assert "process 0 ended with status -9" in output.stderr
