"""`hyperseg <verb>`: one thin module a verb. Bad input ends in one line and exit code 2."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from hyperseg_jax import __version__
from hyperseg_jax.cache import cache_folder
from hyperseg_jax.commands.script import script
from hyperseg_jax.errors import HostLost, UserError

VERBS = {
    "quickstart": "segment, fine-tune and see it all on one page, in minutes on a CPU",
    "train": "train from a config into a workdir; the same command goes on after a stop",
    "evaluate": "score a model on benchmarks, or on the validation sets of its config",
    "predict": "segment a picture, or a folder of frames, by text, classes, points or boxes",
    "plan": "what a config needs of a TPU slice: memory of each chip and traffic, told by the compiler; no TPU needed",
    "sweep": "many trainings that differ in a few fields, packed on what devices there are",
    "data": "check the files of a benchmark; build shards of it for pods; write the toy world or samples",
    "import-weights": "public PyTorch checkpoints -> a model folder of ours",
    "export-weights": "a model of ours -> PyTorch, under its authors' names",
}

WEB_ADDRESS = re.compile(r"(--[\w.-]+=)?https?://\S+$")
"""An argument, or an option and its value, that is a web address as a whole."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; called with arguments, one command of a larger process."""
    if arguments is None:
        with script():
            return main(sys.argv[1:])
    arguments = list(arguments)
    traceback = "--traceback" in arguments
    arguments = [a for a in arguments if a != "--traceback"]
    parser = argparse.ArgumentParser(
        prog="hyperseg",
        description="Universal image and video segmentation with vision-language models, in JAX.",
        epilog="--traceback with any verb shows where an error came from.",
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
        overrides = [text.removeprefix("--config.") for text in extra if text.startswith("--config.")]
        unknown = [text for text in extra if not text.startswith("--config.")]
        if unknown:
            raise UserError(f"unknown argument {unknown[0]}; see hyperseg {parsed.verb} --help")
        if overrides and not hasattr(parsed, "config"):
            raise UserError(f"hyperseg {parsed.verb} takes no --config overrides")
        said = getattr(parsed, "text", None)  # a prompt may speak of anything
        if web := next((text for text in arguments if WEB_ADDRESS.match(text) and text != said), None):
            raise UserError(f"{web}: web addresses are not read; download it, and give its path")
        parsed.overrides = overrides
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder() / "compiled"))  # a second run starts at once
        module.run(parsed)
    except UserError as error:
        if traceback:
            raise
        _say(str(error))
        raise SystemExit(1 if isinstance(error, HostLost) else 2) from None
    except BrokenPipeError:
        raise SystemExit(1) from None
    except OSError as error:  # a full disk, a missing right: what the verbs did not foresee
        if traceback or error.filename is None:
            raise
        _say(f"{error.filename}: {error.strerror}; --traceback shows where it was used")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        _say("stopped")
        raise SystemExit(130) from None


def _say(text: str) -> None:
    Console(stderr=True).print("[bold red]error:[/] " + escape(text), highlight=False, soft_wrap=True)
