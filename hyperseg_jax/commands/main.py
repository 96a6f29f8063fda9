"""The `hyperseg` command. Each subcommand is a module of this package; invalid input exits with one line and code 2."""

from __future__ import annotations

import argparse
import ast
import importlib
import itertools
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape

from hyperseg_jax import __version__, failures
from hyperseg_jax.cache import set_compilation_cache
from hyperseg_jax.commands.numbers import Parser
from hyperseg_jax.commands.script import script
from hyperseg_jax.errors import UserError
from hyperseg_jax.renamed_fields import FLAGS
from hyperseg_jax.untrusted import limits, stores
from hyperseg_jax.untrusted.json_text import is_text
from hyperseg_jax.untrusted.printing import escaped, make_console, message

VERBS = {
    "quickstart": "segment images, fine-tune, and write an HTML report, in minutes on a CPU",
    "adapt": "train a segmenter of some class names, without images; the same command resumes an interrupted run",
    "train": "train from a config into a workdir; the same command resumes an interrupted run",
    "evaluate": "evaluate a model on benchmarks, or on the validation sets of its config",
    "predict": "segment an image, a video, or a folder of frames by text, classes, points, boxes or scribbles",
    "plan": "estimate memory and communication of a config on a TPU slice with the TPU compiler; no TPU needed",
    "sweep": "run trainings that differ in a few config fields on the available devices",
    "data": "check the files of a benchmark, build ArrayRecord shards, or write toy data or samples",
    "import-weights": "convert public PyTorch checkpoints to a model folder",
    "export-weights": "convert a model to PyTorch, with the parameter names of its authors",
}

WEB_ADDRESS = re.compile(r"(--[\w.-]+=)?https?://\S+$")
"""Matches an argument, or an option with a value, that is a web address."""

BUCKET = re.compile(r"(?:--[\w-]+=)?(\w+://\S+)$")
"""Matches an argument, or an option with a value (not a config field), that is a bucket URL."""
IN_BUCKETS = ("workdir", "workdirs", "sources", "root", "data_root", "out")
"""Arguments that may be a bucket URL, in subcommands that parse them as strings and not as local paths."""

LARGEST = 2**31 - 1
"""Maximum value of options that are numbers."""

TEXTS = ("text", "text_option", "classes", "stuff")
"""Arguments that are texts, and no names of files."""
WRITTEN = ("--workdir", "--out")
"""Options that name an output folder."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line. arguments: without the program name; None: takes those of the process, sets up its streams and
    signals (see `script`), and ends the process."""
    if arguments is None:
        with script():
            return main(sys.argv[1:])
    arguments = list(arguments)
    with_traceback = failures.settings.with_traceback = "--traceback" in arguments
    arguments, limit_settings = _split_limits([a for a in arguments if a != "--traceback"])
    parser = Parser(
        prog="hyperseg",
        description="Universal image and video segmentation with vision-language models, in JAX.",
        epilog="--traceback with any command shows the traceback of an error; --limits NAME=VALUE changes a resource limit of "
        "input files (pixels=100000000).",
    )
    parser.add_argument("--version", action="version", version=f"hyperseg {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="command")
    chosen = arguments[0] if arguments and arguments[0] in VERBS else None
    for verb, help_text in VERBS.items():
        sub = verbs.add_parser(verb, help=help_text, description=help_text)
        if verb == chosen:  # imports only the module that runs
            module = importlib.import_module(f"hyperseg_jax.commands.{verb.replace('-', '_')}")
            module.add_arguments(sub)
    parsed, extra = parser.parse_known_args(arguments)
    try:
        if invalid := next((text for text in arguments if "\0" in text), None):
            raise UserError(f"{escaped(invalid)}: contains a NUL character; remove it")
        for text in arguments:
            try:
                os.fsencode(text)
            except UnicodeEncodeError as error:  # only from a Python program: a shell passes bytes
                raise UserError(f"{escaped(text)}: contains a lone surrogate; remove it") from error
        for name in TEXTS:  # paths may have any bytes
            if isinstance(value := getattr(parsed, name, None), str) and not is_text(value):
                raise UserError(f"{escaped(value)}: has bytes that are not text in UTF-8; write it in UTF-8")
        for name in WRITTEN:  # such as an unset shell variable; an empty path would mean the current directory
            if f"{name}=" in arguments or (name, "") in itertools.pairwise(arguments):
                raise UserError(f"{name}: is empty; give a folder")
        overrides = [text.removeprefix("--config.") for text in extra if text.startswith("--config.")]
        unknown = [text for text in extra if not text.startswith("--config.")]
        if new := next((FLAGS[name] for text in unknown if (name := text.partition("=")[0]) in FLAGS), None):
            raise UserError(f"{unknown[0]}: was renamed to {new}; use {new}")
        if unknown:
            raise UserError(f"unknown argument {unknown[0]}; see hyperseg {parsed.verb} --help")
        if overrides and not hasattr(parsed, "config"):
            raise UserError(f"--config.{escaped(overrides[0])}: hyperseg {parsed.verb} takes no --config overrides; remove it")
        prompt = getattr(parsed, "text", None)  # a text prompt may contain anything
        if web := next((text for text in arguments if WEB_ADDRESS.match(text) and text != prompt), None):
            raise UserError(f"{web}: web addresses are not supported; download the file, and give its path")
        allowed = [value for name in IN_BUCKETS for value in _list_strings(getattr(parsed, name, None))]
        for text in arguments:
            if (url := BUCKET.match(text)) and text != prompt and url[1] not in allowed:
                stores.check_local(url[1])
        workdir = str(getattr(parsed, "workdir", None) or getattr(parsed, "workdirs", ""))
        stores.check_workdir(workdir, client=not getattr(parsed, "dry_run", False))
        _check_numbers(parsed)
        parsed.overrides = overrides
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        set_compilation_cache(workdir if parsed.verb in ("train", "sweep") else "")
        with limits.temporary_limits(**_parse_limits(parsed, limit_settings)):
            module.run(parsed)
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        failure = failures.describe(error)
        if with_traceback and not isinstance(error, KeyboardInterrupt | BrokenPipeError):
            raise
        if failure.line:
            _print_error(failure.line)
        raise SystemExit(failure.code) from None


def _check_numbers(parsed: argparse.Namespace) -> None:
    """Raises UserError for options with numbers that are negative, not finite, or too large for any option."""
    for name, value in vars(parsed).items():
        if type(value) not in (int, float) or 0 <= value <= LARGEST:
            continue
        is_finite = type(value) is int or math.isfinite(value)  # isfinite fails for integers beyond the largest float
        fix = "give zero or more" if value < 0 else f"give at most {LARGEST}" if is_finite else "give a finite number"
        raise UserError(f"--{name.replace('_', '-')} {escaped(str(value))}: {fix}")


def _list_strings(value: Any) -> list[str]:
    """Returns the strings of an argument with one or more values."""
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]


def _split_limits(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the arguments without --limits NAME=VALUE, and the list of NAME=VALUE."""
    rest: list[str] = []
    settings: list[str] = []
    iterator = iter(arguments)
    for argument in iterator:
        option, equals, text = argument.partition("=")
        if option == "--limits":
            settings.append(text if equals else next(iterator, ""))
        else:
            rest.append(argument)
    return rest, settings


def _parse_limits(parsed: argparse.Namespace, settings: Sequence[str]) -> Mapping[str, Any]:
    """Parses NAME=VALUE settings of limits and returns {name: value}. For adapt, train, sweep and plan, also adds them to the
    config overrides."""
    values: dict[str, Any] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--limits {escaped(text)}: give NAME=VALUE, as in --limits pixels=100000000")
        try:
            values[name] = ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            values[name] = value
    checked = limits.from_fields(values, "--limits")
    parsed.limits = {name: getattr(checked, name) for name in values}
    if parsed.verb in ("adapt", "train", "sweep", "plan"):
        parsed.overrides += [f"limits.{name}={value!r}" for name, value in parsed.limits.items()]
    return parsed.limits


def _print_error(text: str) -> None:
    make_console(stderr=True).print("[bold red]error:[/] " + escape(message(text)), highlight=False, soft_wrap=True)
