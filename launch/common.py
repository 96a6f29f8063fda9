"""Code that all launch scripts share: their arguments, the training command, YAML output, and errors of one line."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import math
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = ("hyperseg_jax", "configs", "setup.py", "pyproject.toml", "README.md")  # files of the checkout to install on hosts
LARGEST = 2**31 - 1  # of all numbers; Kubernetes stores them in 32 bits
UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # Unicode categories: control characters, surrogates, line and paragraph separators


class LaunchError(Exception):
    """Invalid input or a missing program. The script prints the message as one line and exits with code 2."""


class _Output(io.FileIO):
    """Standard output. Only the first write error is raised; later writes are dropped, so that the script can exit with one
    line."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        if self.failure is None:
            try:
                return super().write(data)
            except OSError as error:
                self.failure = error
                raise
        return len(data)


class Mount:
    """The value gs://BUCKET=/PATH of --mount: a bucket that is mounted as a folder on every host."""

    def __init__(self, text: str):
        match = re.fullmatch(r"gs://([a-z0-9][a-z0-9._-]+)/?=(/[\w./-]*\w)/?", text)
        if not match:
            raise argparse.ArgumentTypeError(f"{text!r}: give gs://BUCKET=/PATH")
        self.bucket, self.path = match.groups()


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """Returns a parser of CONFIG, WORKDIR, --name and --dry-run, to which each script adds its own options.

    doc: docstring of the script, shown by --help.
    """
    result = argparse.ArgumentParser(
        description=doc,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="--config.x.y=value changes one field of the config.",
    )
    for kind in (int, float):
        result.register("type", kind, functools.partial(_parse_number, kind))
    result.add_argument("config", metavar="CONFIG", help="a config file, or the name of a shipped one (tiny)")
    result.add_argument("workdir", metavar="WORKDIR", help="folder or bucket of the run; the same command resumes it")
    result.add_argument("--name", help="name of the run or job (default: from WORKDIR)")
    result.add_argument("--dry-run", action="store_true", help="print the commands without running them")
    result.add_argument(
        "--check",
        action="store_true",
        help="check the run on its hosts up to the first step, without running it: config, data, memory, disk",
    )
    result.add_argument(
        "--accept-changes", action="store_true", help="resume with another data mixture, other losses or another learning rate"
    )
    return result


def _parse_number(kind: type[int] | type[float], text: str) -> float:
    """Returns the number of a text without what int and float accept besides: underscores, and the digits of other scripts."""
    if not text.isascii() or "_" in text:
        raise ValueError
    return kind(text)


def add_mounts(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--mount",
        metavar="gs://BUCKET=/PATH",
        type=Mount,
        action="append",
        default=[],
        help="mount a bucket as a folder on every host (for datasets); repeatable",
    )


def parse_arguments(options: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the arguments. Invalid ones exit with code 2, also numbers that are negative, not finite, or above LARGEST.

    Adds `overrides`, the list of all --config.x.y=value, and fills in `name`, which is checked to be valid as a job name.
    """
    for text in arguments:
        if any(unicodedata.category(letter) in UNPRINTABLE for letter in text):
            raise LaunchError(f"{text!a}: has a character that cannot be printed, such as a line break; remove it")
    overrides = [
        text for text in arguments if text.startswith("--config.")
    ]  # argparse reads a value with spaces as two arguments
    parsed = options.parse_args([text for text in arguments if not text.startswith("--config.")])
    for text in overrides:
        if "=" not in text:
            options.error(f"{text}: give a value, as in {text}=1")
    for name, value in vars(parsed).items():
        if type(value) in (int, float) and not 0 <= value <= LARGEST:
            fix = f"at most {LARGEST}" if value > LARGEST and math.isfinite(value) else "zero or more, and finite"
            raise LaunchError(f"--{name.replace('_', '-')} {value}: give {fix}")
    parsed.overrides = overrides
    parsed.name = parsed.name or _default_name(parsed.workdir)
    # Kubernetes and Cloud TPU require lower case. Pods append a suffix to the name of a JobSet, and may have 63 characters.
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", parsed.name):
        options.error(f"--name {parsed.name}: give at most 40 characters of a-z, 0-9 and -, starting with a letter")
    return parsed


def _default_name(workdir: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", workdir.rstrip("/").rsplit("/", 1)[-1].lower())
    return f"hyperseg-{words.strip('-') or 'run'}"[:40].rstrip("-")


def train_command(parsed: argparse.Namespace, python: str = "python") -> list[str]:
    """Returns the training command, which all launch scripts run on each host."""
    paths = ["--config", parsed.config, "--workdir", parsed.workdir]
    return [python, "-m", "hyperseg_jax.train", *paths, *train_flags(parsed), *parsed.overrides]


def make_check_job(parsed: argparse.Namespace) -> None:
    """With --check, gives the job a name of its own, since a job with the name of the run may be active, and no restarts."""
    if parsed.check:
        parsed.name = f"{parsed.name[:34].rstrip('-')}-check"
        for name in ("restarts", "retries"):
            if hasattr(parsed, name):
                setattr(parsed, name, 0)


def train_flags(parsed: argparse.Namespace) -> list[str]:
    """Returns the flags of the training command that were given."""
    return [*(["--check"] if parsed.check else []), *(["--accept-changes"] if parsed.accept_changes else [])]


def script_with_stop_status(command: Sequence[str]) -> str:
    """Returns a shell script that runs a command and exits with its status, or with 143 after SIGTERM.

    On SIGTERM, training saves a checkpoint and exits with 0, which a cluster would take for a finished run. The script
    therefore forwards SIGTERM, waits for the command to save, and exits with 143.
    """
    return (
        "stopped=\n"
        "trap 'stopped=143; kill -TERM $! 2>/dev/null' TERM\n"
        f"{shlex.join(command)} &\n"
        "wait $!; status=$?\n"
        "while kill -0 $! 2>/dev/null; do wait $!; status=$?; done\n"
        "exit ${stopped:-$status}\n"
    )


def config_file(config: str) -> pathlib.Path:
    """Returns the absolute path of CONFIG. Raises LaunchError if there is no such file."""
    if not os.path.isfile(config):  # returns False for names that are too long, where pathlib raises
        name = config if len(config) <= 200 else f"{config[:150]} ... {config[-50:]}"
        raise LaunchError(f"CONFIG {name}: no such file; give a config file, or the name of a shipped config")
    return pathlib.Path(config).resolve()


def config_path_on_hosts(config: str) -> str:
    """Returns CONFIG as given on the hosts: the name of a shipped config, or a path relative to the checkout.

    Raises LaunchError if a file does not exist, or is not in a folder that is copied to the hosts.
    """
    if not config.endswith(".py"):
        return config
    path = config_file(config)
    if not any(path.is_relative_to(ROOT / source) for source in SOURCES):
        raise LaunchError(f"CONFIG {config}: is not copied to the hosts; move the file to {ROOT / 'configs'}")
    return str(path.relative_to(ROOT))


def is_bucket_path(workdir: str) -> bool:
    """Returns whether this is gs://BUCKET/PATH."""
    return re.match(r"gs://[^/]+/.", workdir) is not None


def check_workdir(workdir: str, mounts: Sequence[Mount]) -> None:
    """Raises LaunchError unless the workdir is in a bucket or a mounted bucket: the disk of a host is lost with the host."""
    folder = pathlib.PurePosixPath(workdir)
    if is_bucket_path(workdir) or any(folder.is_relative_to(mount.path) for mount in mounts):
        return
    raise LaunchError(
        f"WORKDIR {workdir}: would be lost with the disk of a preempted host; give gs://BUCKET/PATH, or a path below a --mount"
    )


def require_program(program: str, advice: str) -> None:
    """Raises LaunchError if a program is not installed. advice: how to install it."""
    if not shutil.which(program):
        raise LaunchError(f"{program} is not installed; {advice}")


def print_command(command: Sequence[str]) -> None:
    print(shlex.join(command), flush=True)


def run_command(command: Sequence[str], text: str | None = None) -> int:
    """Prints a command, runs it with `text` as its standard input, and returns its exit status."""
    print_command(command)
    return subprocess.run(command, input=text, text=True, check=False).returncode


def yaml_text(value: Any, indent: int = 0) -> str:
    """Formats nested mappings and lists of strings, integers and booleans as YAML, in the given order."""
    pad, lines = "  " * indent, []
    keyed = isinstance(value, Mapping)
    entries = [(f"{_yaml_scalar(key)}:", item) for key, item in value.items()] if keyed else [("-", item) for item in value]
    for lead, item in entries:
        if isinstance(item, str) and "\n" in item:  # a literal block
            lines += [f"{pad}{lead} |", *(f"{pad}  {line}" for line in item.rstrip("\n").split("\n"))]
        elif isinstance(item, (Mapping, list)) and item:
            inner = yaml_text(item, indent + 1)
            lines.append(f"{pad}{lead} {inner.strip()}" if lead == "-" else f"{pad}{lead}\n{inner.rstrip()}")
        else:
            lines.append(f"{pad}{lead} {_yaml_scalar(item)}")
    return "\n".join(lines) + "\n"


def _yaml_scalar(value: Any) -> str:
    """Formats a scalar: a string without quotes if it can only be read as a string, all other values as JSON."""
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z/~][\w./~-]*", value)
    is_unambiguous = plain and value.lower() not in ("true", "false", "yes", "no", "on", "off", "null", "y", "n", "~")
    return value if is_unambiguous else json.dumps(value)


def main(run: Callable[[Sequence[str]], int]) -> None:
    """Runs a script and exits with the status that `run` returns; after a LaunchError, or an error of a file, program or
    standard output, with code 2 and one line; after a closed pipe silently with code 1.

    SIGTERM ends the script like Ctrl-C.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # raises KeyboardInterrupt, also where Ctrl-C is ignored
    output = _Output(1, "w", closefd=False) if sys.stdout is not None else None
    if output is not None:
        encoding, errors = sys.stdout.encoding, sys.stdout.errors
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(output), encoding, errors, line_buffering=True)
    failure, status = "", 2
    try:
        status = run(sys.argv[1:])
    except LaunchError as error:
        failure = str(error)
    except OSError as error:
        if output is not None and error is output.failure:
            failure = f"standard output: {error.strerror}; free space, or redirect it elsewhere"
            if isinstance(error, BrokenPipeError):
                failure, status = "", 1
        else:
            name = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
            failure = f"{name}{error.strerror or error}; check that it exists and may be used"
    except KeyboardInterrupt:
        status = 130
    if failure:
        with contextlib.suppress(OSError):
            print(f"error: {failure}", file=sys.stderr)
    raise SystemExit(status)
