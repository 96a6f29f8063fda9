"""hyperseg import-weights"""

from __future__ import annotations

import argparse
import pathlib

from hyperseg_jax import config as configs
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.limits import set_block
from hyperseg_jax.untrusted.printing import log, make_console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="one or more checkpoints that together contain all weights of the model: a "
        "file or folder, a gs:// path, or a Hugging Face name (owner/name)",
    )
    parser.add_argument(
        "--config",
        required=True,
        help=f"config of the model: a file, or a shipped config: {', '.join(configs.shipped_names())}",
    )
    parser.add_argument("--system", help="the expected system of the config; fails if it has another one")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="the output model folder")
    parser.add_argument(
        "--dtype",
        choices=("source", "float32", "float16", "bfloat16"),
        default="source",
        help="dtype of the written tensors; source: unchanged",
    )
    parser.add_argument("--tokenizer", type=pathlib.Path, help="a tokenizer.json or its folder, if no SOURCE contains one")
    parser.epilog = "--config.x.y=value changes one field of the config. docs/weights.md has the command for each checkpoint."


def run(parsed: argparse.Namespace) -> None:
    from hyperseg_jax.weights.fetch import fetch_checkpoint
    from hyperseg_jax.weights.importing import import_weights

    config = configs.load(parsed.config, parsed.overrides)
    set_block(config.get("limits", {}), parsed.limits)
    if parsed.system not in (None, config.system):
        raise UserError(
            f"--system {parsed.system}: the system of {parsed.config} is {config.system}; give the right config, or no --system"
        )
    paths = [fetch_checkpoint(source) for source in parsed.sources]
    report = import_weights(paths, config, parsed.out, dtype=parsed.dtype, tokenizer=parsed.tokenizer)
    console = make_console()
    console.print(report.table())
    log(console, f"wrote {parsed.out}; use it with hyperseg predict --model or --config.init_from")
