"""How the launch scripts are called in these tests, and stand-ins for the programs that they call."""

import os
import pathlib
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


class Scripts:
    """Runs launch/NAME.py with a PATH of its own: stand-ins, and of the machine only its shell tools."""

    def __init__(self, folder):
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir()
        self.log = folder / "calls"

    def program(self, name, text):
        """A stand-in written in Python; it may use `log(words)`, `state` (a folder that stays) and `arguments`."""
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
        """-S: without installed packages, which the scripts do not need."""
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


def commands(text):
    """The shell-quoted command lines of a text, split; a command may span lines."""
    lines, whole = [], ""
    for line in text.splitlines():
        if not whole and (not line or line.startswith("#")):
            continue
        whole += line
        try:
            lines.append(shlex.split(whole))
            whole = ""
        except ValueError:  # an open quote
            whole += "\n"
    assert not whole
    return lines


@pytest.fixture
def split():
    return commands
