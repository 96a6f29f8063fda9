"""`hyperseg <verb>`: one thin module a verb. Bad input ends in one line and exit code 2."""

from __future__ import annotations

import argparse
import ast
import importlib
import itertools
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from hyperseg_jax import __version__
from hyperseg_jax.cache import cache_folder
from hyperseg_jax.commands.script import script
from hyperseg_jax.errors import ENDING, HostLost, UserError
from hyperseg_jax.renamed_fields import FLAGS
from hyperseg_jax.untrusted import limits, stores
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.printing import first_line, printable, shown

VERBS = {
    "quickstart": "segment, fine-tune and see it all on one page, in minutes on a CPU",
    "train": "train from a config into a workdir; the same command goes on after a stop",
    "evaluate": "score a model on benchmarks, or on the validation sets of its config",
    "predict": "segment an image, or a folder of frames, by text, classes, points or boxes",
    "plan": "what a config needs of a TPU slice: memory of each chip and traffic, told by the compiler; no TPU needed",
    "sweep": "many trainings that differ in a few fields, packed on what devices there are",
    "data": "check the files of a benchmark; build shards of it for pods; write the toy world or samples",
    "import-weights": "public PyTorch checkpoints -> a model folder of ours",
    "export-weights": "a model of ours -> PyTorch, under its authors' names",
}

WEB_ADDRESS = re.compile(r"(--[\w.-]+=)?https?://\S+$")
"""An argument, or an option and its value, that is a web address as a whole."""

BUCKET = re.compile(r"(?:--[\w-]+=)?(\w+://\S+)$")
"""An argument, or an option that is no field of a config and its value, that is an address of a store as a whole."""
IN_BUCKETS = ("workdir", "workdirs", "sources", "root", "data_root", "out")
"""What may lie in a bucket, where a verb takes it as a text and not as a path of this machine."""

WRITTEN = ("--workdir", "--out")
"""Options that name a folder to write into."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; called with arguments, one command of a larger process."""
    if arguments is None:
        with script():
            return main(sys.argv[1:])
    arguments = list(arguments)
    traceback = "--traceback" in arguments
    arguments, given = _without_limits([a for a in arguments if a != "--traceback"])
    parser = argparse.ArgumentParser(
        prog="hyperseg",
        description="Universal image and video segmentation with vision-language models, in JAX.",
        epilog="--traceback with any verb shows where an error came from; --limits NAME=VALUE changes one of the limits on "
        "what files may ask for (pixels=100000000).",
    )
    parser.add_argument("--version", action="version", version=f"hyperseg {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")
    chosen = arguments[0] if arguments and arguments[0] in VERBS else None
    for verb, help_text in VERBS.items():
        sub = verbs.add_parser(verb, help=help_text, description=help_text)
        if verb == chosen:  # only the verb that runs is imported
            module = importlib.import_module(f"hyperseg_jax.commands.{verb.replace('-', '_')}")
            module.add_arguments(sub)
    parsed, extra = parser.parse_known_args(arguments)
    try:
        if odd := next((text for text in arguments if "\0" in text), None):
            raise UserError(f"{shown(odd)}: holds a NUL, which no path or text can; leave it out")
        for name in WRITTEN:  # of a shell's variable that is not set; it would mean the working folder
            if f"{name}=" in arguments or (name, "") in itertools.pairwise(arguments):
                raise UserError(f"{name}: is empty; give a folder")
        overrides = [text.removeprefix("--config.") for text in extra if text.startswith("--config.")]
        unknown = [text for text in extra if not text.startswith("--config.")]
        if new := next((FLAGS[name] for text in unknown if (name := text.partition("=")[0]) in FLAGS), None):
            raise UserError(f"{unknown[0]}: is named {new} now; give {new}")
        if unknown:
            raise UserError(f"unknown argument {unknown[0]}; see hyperseg {parsed.verb} --help")
        if overrides and not hasattr(parsed, "config"):
            raise UserError(f"hyperseg {parsed.verb} takes no --config overrides")
        said = getattr(parsed, "text", None)  # a prompt may speak of anything
        if web := next((text for text in arguments if WEB_ADDRESS.match(text) and text != said), None):
            raise UserError(f"{web}: web addresses are not read; download it, and give its path")
        taken = [value for name in IN_BUCKETS for value in _texts(getattr(parsed, name, None))]
        for text in arguments:
            if (url := BUCKET.match(text)) and text != said and url[1] not in taken:
                stores.check_local(url[1])
        home = str(getattr(parsed, "workdir", None) or getattr(parsed, "workdirs", ""))
        if stores.is_url(home):
            stores.check_url(home)
        parsed.overrides = overrides
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder() / "compiled"))  # a second run starts at once
        with limits.applied(**_limits_of(parsed, given)):
            module.run(parsed)
    except (UserError, BadFile) as error:
        if traceback:
            raise
        _say(str(error))
        raise SystemExit(1 if isinstance(error, HostLost) else 2) from None
    except BrokenPipeError:
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        _say("stopped")
        raise SystemExit(130) from None
    except ENDING:
        raise
    except BaseException as error:
        if traceback:
            raise
        if isinstance(error, OSError) and error.filename is not None:  # a full disk, a missing right
            _say(f"{os.fsdecode(error.filename)}: {error.strerror}; --traceback shows where it was used")
            raise SystemExit(2) from None
        _say(_fault(error))
        raise SystemExit(1) from None


def _texts(value: Any) -> list[str]:
    """The texts among one or more values of an argument."""
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]


def _without_limits(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without --limits NAME=VALUE, and each NAME=VALUE."""
    rest: list[str] = []
    given: list[str] = []
    waiting = iter(arguments)
    for one in waiting:
        option, equals, text = one.partition("=")
        if option == "--limits":
            given.append(text if equals else next(waiting, ""))
        else:
            rest.append(one)
    return rest, given


def _limits_of(parsed: argparse.Namespace, given: Sequence[str]) -> Mapping[str, Any]:
    """The limits that were given. What trains or plans has them in its config."""
    values: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--limits {shown(text)}: give NAME=VALUE, as in --limits pixels=100000000")
        try:
            values[name] = ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            values[name] = value
    made = limits.of(values, "--limits")
    parsed.limits = {name: getattr(made, name) for name in values}
    if parsed.verb in ("train", "sweep", "plan"):
        parsed.overrides += [f"limits.{name}={value!r}" for name, value in parsed.limits.items()]
    return parsed.limits


def _fault(error: BaseException) -> str:
    told = f"{type(error).__name__}: {shown(first_line(error))}"
    return f"this is a fault of hyperseg, not of what you gave it ({told}); --traceback shows where; please report it"


def _say(text: str) -> None:
    Console(stderr=True).print("[bold red]error:[/] " + escape(printable(text)), highlight=False, soft_wrap=True)
