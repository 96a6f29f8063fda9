"""A failing process notifies the others, which exit immediately with one line and the same code."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import jax
import pytest

from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import placement

WORKER = pathlib.Path(__file__).parent / "failing_worker.py"


def run_workers(*arguments):
    """Returns the exit codes and the standard errors of two processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    env = {**os.environ, "PYTHONPATH": str(WORKER.parents[2]), "HYPERSEG_COORDINATOR": address, "HYPERSEG_PROCESSES": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env={**env, "HYPERSEG_PROCESS_ID": str(k)},
        )
        for k in (0, 1)
    ]
    try:
        errors = [process.communicate(timeout=80)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], errors


INTERNAL = "internal error of hyperseg, not caused by your input (ValueError: the file is bad); --traceback shows where"


@pytest.mark.parametrize(
    ("victim", "kind", "code", "line"),
    [
        (0, "UserError", 2, "the file is bad"),
        (1, "ValueError", 1, f"{INTERNAL}; please report it"),
        (0, "disk", 2, "a/b: No space left on device; free disk space, or give a folder on another disk; --traceback shows "),
        (1, "BadFile", 2, "is bad; correct it"),
        (1, "SIGINT", 130, "stopped"),
        (0, "SIGTERM", 143, "stopped"),
    ],
)
def test_all_processes_exit_with_one_line(victim, kind, code, line):
    began = time.monotonic()
    codes, errors = run_workers(kind, str(victim))
    assert codes == [code, code] and time.monotonic() - began < 40, errors
    (own,), (other,) = errors[victim].splitlines(), errors[1 - victim].splitlines()
    assert own.startswith(f"error: process {victim} (") and f"): {line}" in own
    assert other.startswith(f"error: process {1 - victim} (") and f"process {victim} (" in other
    assert f") has failed: {line}" in other


def test_errors_of_all_processes_are_printed_by_each():
    codes, errors = run_workers("UserError", "2")
    assert codes == [2, 2] and [text.count("\n") for text in errors] == [1, 1]
    assert all(f"error: process {k} (" in text and "): the file is bad" in text for k, text in enumerate(errors))


def test_ctrl_c_to_all_processes_is_one_line_each():
    codes, errors = run_workers("SIGINT", "2")
    assert codes == [130, 130] and all(text.endswith("): stopped\n") and text.count("\n") == 1 for text in errors), errors


def test_single_device_presets_need_one_process(monkeypatch):
    """Like `hyperseg evaluate` with the config tiny on two hosts: the second has no device in the mesh."""
    placement.make("single")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match=r"train\.preset = 'single': .* has 2 processes; add --config\.train\.preset=data"):
        placement.make("single")
