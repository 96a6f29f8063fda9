"""hyperseg export-weights"""

from __future__ import annotations

import argparse
import pathlib

from rich.console import Console

from hyperseg_jax import config as configs
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.printing import printable, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workdir", nargs="?", metavar="WORKDIR", help="a workdir, a model folder, or a shipped model")
    parser.add_argument(
        "--format",
        choices=("hf", "peft", "state-dict"),
        default="hf",
        help="hf: safetensors in the authors' names; peft: the adapter; state-dict: one file",
    )
    parser.add_argument("--part", help="only the part that a transformers class can hold, such as phi, siglip or swin")
    parser.add_argument("--out", type=pathlib.Path, help="the folder to write; default: WORKDIR/export-FORMAT")
    parser.add_argument("--dtype", choices=("source", "float32", "float16", "bfloat16"), default="source")
    parser.add_argument("--strict-authors", action="store_true", help="refuse what the authors' names cannot hold")
    parser.add_argument("--print-table", action="store_true", help="with --config: print every name, ours and theirs, and stop")
    parser.add_argument("--config", help=f"with --print-table: a config file, or a shipped one: {', '.join(configs.shipped())}")


def run(parsed: argparse.Namespace) -> None:
    from hyperseg_jax.weights import exporting, model_folder

    console = Console()
    if parsed.print_table:
        if not (parsed.config or parsed.workdir):
            raise UserError("--print-table: give --config, or a WORKDIR")
        config = (
            configs.load(parsed.config, parsed.overrides)
            if parsed.config
            else model_folder.read_config(model_folder.find(parsed.workdir))
        )
        for line in exporting.conversion_lines(config):
            print(printable(line))
        return
    if parsed.config or parsed.overrides:
        raise UserError("--config goes with --print-table only; an export follows the config of its WORKDIR")
    if not parsed.workdir:
        raise UserError("give the WORKDIR to export, or --print-table with --config")
    if parsed.out is None and not pathlib.Path(parsed.workdir).is_dir():
        raise UserError(f"{parsed.workdir} is no folder of yours; say where to write with --out")
    out = parsed.out or pathlib.Path(parsed.workdir) / f"export-{parsed.part or parsed.format}"
    report = exporting.export_weights(
        parsed.workdir, out, format=parsed.format, part=parsed.part, dtype=parsed.dtype, strict_authors=parsed.strict_authors
    )
    for name, why in report.extras.items():
        say(console, f"extra name: {name} ({why})")
    merged = ", LoRA merged" if report.merged else ""
    say(console, f"{report.out}: {report.names} tensors{merged}")
