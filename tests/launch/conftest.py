"""Fixtures that run the launch scripts with fake programs."""

import os
import pathlib
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


class Scripts:
    """Runs launch/NAME.py with a PATH that contains only fake programs and the system's shell tools."""

    def __init__(self, folder):
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir()
        self.log = folder / "calls"

    def program(self, name, text):
        """Writes a fake program in Python, which may use `log(words)`, `state` (a persistent folder) and `arguments`."""
        head = f"""#!{sys.executable} -IS
import pathlib, sys, time
arguments, state = sys.argv[1:], pathlib.Path({str(self.folder)!r})
def log(words):
    with open(state / "calls", "a") as file:
        file.write(words + "\\n")
"""
        path = self.bin / name
        path.write_text(head + text)
        path.chmod(0o755)

    def environment(self, **extra):
        path = f"{self.bin}:/usr/bin:/bin" if extra.pop("system", True) else str(self.bin)
        kept = {name: value for name, value in os.environ.items() if name != "PYTHON"}  # read by launch/local.py
        return {**kept, "PATH": path, **extra}

    def command(self, script, *arguments):
        """Returns the command of a script. -S: without installed packages, which the scripts do not need."""
        return [sys.executable, "-S", str(ROOT / "launch" / f"{script}.py"), *arguments]

    def run(self, script, *arguments, **extra):
        return subprocess.run(
            self.command(script, *arguments), capture_output=True, text=True, timeout=60, env=self.environment(**extra)
        )

    def calls(self):
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def scripts(tmp_path):
    return Scripts(tmp_path)


@pytest.fixture
def launch_modules(monkeypatch):
    """Lets a test import the scripts' modules."""
    monkeypatch.syspath_prepend(str(ROOT / "launch"))


def parse_commands(text):
    """Splits the shell-quoted commands of a text; a command may span lines."""
    lines, full = [], ""
    for line in text.splitlines():
        if not full and (not line or line.startswith("#")):
            continue
        full += line
        try:
            lines.append(shlex.split(full))
            full = ""
        except ValueError:  # an open quote
            full += "\n"
    assert not full
    return lines


@pytest.fixture
def split_commands():
    return parse_commands
