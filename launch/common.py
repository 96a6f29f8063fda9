"""What the launch scripts share: arguments, the command of a run, how they print, and how they end on bad input."""

from __future__ import annotations

import argparse
import json
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
SOURCES = ("hyperseg_jax", "configs", "setup.py", "pyproject.toml", "README.md")  # what an installation needs of the checkout


UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # controls, halves of letters, breaks of lines and paragraphs


class LaunchError(Exception):
    """Bad input or a missing program: one line that names the fix, exit code 2."""


class Mount:
    """`gs://BUCKET=/PATH`: a bucket shown as a folder on every host."""

    def __init__(self, text: str):
        match = re.fullmatch(r"gs://([a-z0-9][a-z0-9._-]+)/?=(/[\w./-]*\w)/?", text)
        if not match:
            raise argparse.ArgumentTypeError(f"{text!r} is not of the form gs://BUCKET=/PATH")
        self.bucket, self.path = match.groups()


def parser(doc: str | None) -> argparse.ArgumentParser:
    """CONFIG, WORKDIR, --name and --dry-run, described by the script's docstring; scripts add their own options."""
    made = argparse.ArgumentParser(
        description=doc,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="--config.x.y=value changes one field of the config.",
    )
    made.add_argument("config", metavar="CONFIG", help="a config file, or the name of a shipped one (tiny)")
    made.add_argument("workdir", metavar="WORKDIR", help="folder or bucket of the run; the same command resumes it")
    made.add_argument("--name", help="name of the run or job (default: from WORKDIR)")
    made.add_argument("--dry-run", action="store_true", help="print the commands without running them")
    return made


def add_mounts(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--mount",
        metavar="gs://BUCKET=/PATH",
        type=Mount,
        action="append",
        default=[],
        help="mount a bucket as a folder on every host (for datasets); repeatable",
    )


def parse(options: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """The parsed arguments; `overrides` holds each --config.x.y=value, `name` fits clusters. Unknown options exit with 2."""
    for text in arguments:
        if any(unicodedata.category(letter) in UNPRINTABLE for letter in text):
            raise LaunchError(f"{text!a}: has a character that cannot be printed, such as a line break; remove it")
    overrides = [text for text in arguments if text.startswith("--config.")]  # argparse would split values with spaces
    parsed = options.parse_args([text for text in arguments if not text.startswith("--config.")])
    for text in overrides:
        if "=" not in text:
            options.error(f"{text}: write {text}=value, as one word")
    parsed.overrides = overrides
    parsed.name = parsed.name or _name(parsed.workdir)
    # Kubernetes and TPUs take lower case; a JobSet's pods add a suffix to the name, and 63 letters are their limit.
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", parsed.name):
        options.error(f"--name {parsed.name}: use a-z, 0-9 and -, a letter first, 40 at most")
    return parsed


def _name(workdir: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", workdir.rstrip("/").rsplit("/", 1)[-1].lower())
    return f"hyperseg-{words.strip('-') or 'run'}"[:40].rstrip("-")


def train_command(parsed: argparse.Namespace, python: str = "python") -> list[str]:
    """The one command that every way of starting runs, on each host."""
    return [python, "-m", "hyperseg_jax.train", "--config", parsed.config, "--workdir", parsed.workdir, *parsed.overrides]


def guarded(command: Sequence[str]) -> str:
    """Shell text that runs a command, passes SIGTERM on, waits for it to save, and then ends with 143.

    Training that is told to stop saves and ends with 0; whoever watches must not take that for a finished run.
    """
    return (
        "stopped=\n"
        "trap 'stopped=143; kill -TERM $! 2>/dev/null' TERM\n"
        f"{shlex.join(command)} &\n"
        "wait $!; status=$?\n"
        "while kill -0 $! 2>/dev/null; do wait $!; status=$?; done\n"
        "exit ${stopped:-$status}\n"
    )


def check_config(config: str) -> str:
    """CONFIG as the hosts see it: a shipped name, or a path from the root of this checkout."""
    if not config.endswith(".py"):
        return config
    path = pathlib.Path(config).resolve()
    if not path.is_file():
        raise LaunchError(f"CONFIG {config}: no such file")
    if not any(path.is_relative_to(ROOT / source) for source in SOURCES):
        raise LaunchError(f"CONFIG {config}: only {ROOT / 'configs'} travels to the hosts; put the file there")
    return str(path.relative_to(ROOT))


def in_bucket(workdir: str) -> bool:
    return re.match(r"gs://[^/]+/.", workdir) is not None


def check_workdir(workdir: str, mounts: Sequence[Mount]) -> None:
    """A workdir that outlives the machine: in a bucket, or below a mount of one."""
    folder = pathlib.PurePosixPath(workdir)
    if in_bucket(workdir) or any(folder.is_relative_to(mount.path) for mount in mounts):
        return
    raise LaunchError(f"WORKDIR {workdir}: the disk of a preempted host is lost; give gs://BUCKET/PATH, or a path in a --mount")


def require(program: str, advice: str) -> None:
    if not shutil.which(program):
        raise LaunchError(f"{program} is not installed; {advice}")


def show(command: Sequence[str]) -> None:
    print(shlex.join(command), flush=True)


def call(command: Sequence[str], text: str | None = None) -> int:
    """Shows a command, runs it with `text` as its input, and gives its exit status."""
    show(command)
    return subprocess.run(command, input=text, text=True, check=False).returncode


def yaml_text(value: Any, indent: int = 0) -> str:
    """Maps, lists, text, integers and booleans as YAML, in the order given; texts of several lines as blocks."""
    pad, lines = "  " * indent, []
    keyed = isinstance(value, Mapping)
    entries = [(f"{_scalar(key)}:", one) for key, one in value.items()] if keyed else [("-", one) for one in value]
    for lead, one in entries:
        if isinstance(one, str) and "\n" in one:
            lines += [f"{pad}{lead} |", *(f"{pad}  {line}" for line in one.rstrip("\n").split("\n"))]
        elif isinstance(one, (Mapping, list)) and one:
            inner = yaml_text(one, indent + 1)
            lines.append(f"{pad}{lead} {inner.strip()}" if lead == "-" else f"{pad}{lead}\n{inner.rstrip()}")
        else:
            lines.append(f"{pad}{lead} {_scalar(one)}")
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    """Plain where no reader of YAML could take it for anything else, quoted as in JSON otherwise."""
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z/~][\w./~-]*", value)
    word = plain and value.lower() not in ("true", "false", "yes", "no", "on", "off", "null", "y", "n", "~")
    return value if word else json.dumps(value)


def main(run: Callable[[Sequence[str]], int]) -> None:
    """Runs a script; LaunchError is one line and exit code 2. SIGTERM ends a script as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # raises KeyboardInterrupt, also where Ctrl-C is ignored
    try:
        status = run(sys.argv[1:])
    except LaunchError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        status = 130
    raise SystemExit(status)
