"""A process that fails tells the others, which end at once with one line and the same code."""

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

ONE = pathlib.Path(__file__).parent / "one_that_fails.py"


def run(*arguments):
    """The exit codes and the standard errors of two processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    env = {**os.environ, "PYTHONPATH": str(ONE.parents[2]), "HYPERSEG_COORDINATOR": address, "HYPERSEG_PROCESSES": "2"}
    both = [
        subprocess.Popen(
            [sys.executable, str(ONE), *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env={**env, "HYPERSEG_PROCESS_ID": str(k)},
        )
        for k in (0, 1)
    ]
    try:
        told = [process.communicate(timeout=80)[1] for process in both]
    finally:
        for process in both:
            process.kill()
    return [process.returncode for process in both], told


@pytest.mark.parametrize(("victim", "kind", "code"), [(0, "UserError", 2), (1, "ValueError", 1)])
def test_the_others_end_with_one_line(victim, kind, code):
    began = time.monotonic()
    codes, told = run(kind, str(victim))
    assert codes == [code, code] and time.monotonic() - began < 40, told
    why = "the file is bad" if kind == "UserError" else "ValueError: the file is bad"
    assert f"error: process {victim} (" in told[victim] and f"): {why}\n" in told[victim]
    (line,) = told[1 - victim].splitlines()
    assert line.startswith(f"error: process {1 - victim} (") and f"process {victim} (" in line
    assert line.endswith(f") has failed: {why}")


def test_what_all_find_is_told_by_each():
    codes, told = run("UserError", "2")
    assert codes == [2, 2] and [text.count("\n") for text in told] == [1, 1]
    assert all(f"error: process {k} (" in text and "): the file is bad" in text for k, text in enumerate(told))


def test_one_device_is_no_run_of_several_processes(monkeypatch):
    """As `hyperseg evaluate` with the config tiny on two hosts: the second has no device in the mesh."""
    placement.make("single")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match=r"train\.preset = 'single': .* has 2 processes; add --config\.train\.preset=data"):
        placement.make("single")
