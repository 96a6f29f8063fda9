"""hyperseg import-weights"""

from __future__ import annotations

import argparse
import pathlib

from rich.console import Console

from hyperseg_jax import config as configs
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.limits import apply_block
from hyperseg_jax.untrusted.printing import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="a checkpoint, or several that together fill the model: a "
        "file or folder, a gs:// path, or a Hugging Face name (owner/name)",
    )
    parser.add_argument(
        "--config", required=True, help=f"to fill: a config file, or a shipped one: {', '.join(configs.shipped())}"
    )
    parser.add_argument("--system", help="the system that you expect the config to be of")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="the model folder to write")
    parser.add_argument(
        "--dtype",
        choices=("source", "float32", "float16", "bfloat16"),
        default="source",
        help="type of the written tensors; source keeps that of each",
    )
    parser.add_argument("--tokenizer", type=pathlib.Path, help="a tokenizer.json or its folder, where no SOURCE holds one")
    parser.epilog = "--config.x.y=value changes one field of the config. docs/weights.md has the command for each checkpoint."


def run(parsed: argparse.Namespace) -> None:
    from hyperseg_jax.weights.fetch import fetch
    from hyperseg_jax.weights.importing import import_weights

    config = configs.load(parsed.config, parsed.overrides)
    apply_block(config.get("limits", {}), parsed.limits)
    if parsed.system not in (None, config.system):
        raise UserError(f"--system {parsed.system}: {parsed.config} is a config of {config.system}")
    paths = [fetch(source) for source in parsed.sources]
    report = import_weights(paths, config, parsed.out, dtype=parsed.dtype, tokenizer=parsed.tokenizer)
    console = Console()
    console.print(report.table())
    say(console, f"{parsed.out}: for hyperseg predict --model, and for --config.init_from")
