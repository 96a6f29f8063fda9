"""hyperseg export-weights"""

from __future__ import annotations

import argparse
import pathlib

from rich.console import Console

from hyperseg_jax import config as configs
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.printing import log, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workdir", nargs="?", metavar="WORKDIR", help="a workdir, a model folder, or a shipped model")
    parser.add_argument(
        "--format",
        choices=("hf", "peft", "state-dict"),
        default="hf",
        help="hf: safetensors with the parameter names of the authors; peft: only the LoRA adapter; state-dict: one .pth file",
    )
    parser.add_argument("--part", help="export only one component as a transformers model, such as phi, siglip or swin")
    parser.add_argument("--out", type=pathlib.Path, help="the output folder; default: WORKDIR/export-FORMAT")
    parser.add_argument(
        "--dtype",
        choices=("source", "float32", "float16", "bfloat16"),
        default="source",
        help="dtype of the written tensors; source: unchanged",
    )
    parser.add_argument(
        "--strict-authors", action="store_true", help="fail if a parameter has no counterpart in the code of the authors"
    )
    parser.add_argument("--print-table", action="store_true", help="print our and the authors' parameter names, and exit")
    parser.add_argument(
        "--config", help=f"with --print-table: a config file, or a shipped config: {', '.join(configs.shipped_names())}"
    )


def run(parsed: argparse.Namespace) -> None:
    from hyperseg_jax.weights import exporting, model_folder

    console = Console()
    if parsed.print_table:
        if not (parsed.config or parsed.workdir):
            raise UserError("--print-table needs a config; give --config or a WORKDIR")
        config = (
            configs.load(parsed.config, parsed.overrides)
            if parsed.config
            else model_folder.read_config(model_folder.find_model_folder(parsed.workdir))
        )
        for line in exporting.conversion_lines(config):
            print(printable(line))
        return
    if parsed.config or parsed.overrides:
        raise UserError(
            "--config is only valid with --print-table, as an export uses the config of its WORKDIR; remove --config"
        )
    if not parsed.workdir:
        raise UserError("nothing to export; give a WORKDIR, or --print-table with --config")
    if parsed.out is None and not pathlib.Path(parsed.workdir).is_dir():
        raise UserError(f"{parsed.workdir}: is not a local folder; give the output folder with --out")
    out = parsed.out or pathlib.Path(parsed.workdir) / f"export-{parsed.part or parsed.format}"
    report = exporting.export_weights(
        parsed.workdir, out, format=parsed.format, part=parsed.part, dtype=parsed.dtype, strict_authors=parsed.strict_authors
    )
    for name, explanation in report.extras.items():
        log(console, f"extra name: {name} ({explanation})")
    merged = ", LoRA merged" if report.merged else ""
    log(console, f"{report.out}: {report.names} tensors{merged}")
