"""hyperseg export-weights"""

from __future__ import annotations

import argparse
import contextlib
import functools
import pathlib

from rich.console import Console

from hyperseg_jax import config as configs
from hyperseg_jax.atomic import scratch_folder
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import stores
from hyperseg_jax.untrusted.printing import log, make_console, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workdir", nargs="?", metavar="WORKDIR", help="a workdir, a model folder, or a shipped model")
    parser.add_argument(
        "--format",
        choices=("hf", "peft", "state-dict", "model"),
        default="hf",
        help="hf: safetensors with the parameter names of the authors; peft: only the LoRA adapter; state-dict: one .pth file; "
        "model: a model folder of this package, from a checkpoint of a run",
    )
    parser.add_argument(
        "--step",
        type=int,
        help="export the checkpoint of this step of WORKDIR; default: its model, or its newest checkpoint if that is newer",
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
        "--strict-authors",
        action="store_true",
        help="fail if the code of the authors lacks a parameter, or computes something else",
    )
    parser.add_argument("--print-table", action="store_true", help="print our and the authors' parameter names, and exit")
    parser.add_argument(
        "--config", help=f"with --print-table: a config file, or a shipped config: {', '.join(configs.shipped_names())}"
    )


def run(parsed: argparse.Namespace) -> None:
    from hyperseg_jax.weights import exporting, model_folder

    console = make_console()
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
    if parsed.format == "model":
        _write_model(parsed, parsed.out or pathlib.Path(parsed.workdir) / "export-model", console)
        return
    out = parsed.out or pathlib.Path(parsed.workdir) / f"export-{parsed.part or parsed.format}"
    with contextlib.ExitStack() as stack:
        source = parsed.workdir
        if parsed.step is not None or stores.is_url(source) or model_folder.is_unfinished_run(source):
            source = stack.enter_context(scratch_folder()) / "model"
            _write_model(parsed, source, console)
        else:
            source = model_folder.find_model_folder(source)
            of_run = source == pathlib.Path(parsed.workdir) / "model"
            log(console, f"exporting {source}" + (f": the model of step {model_folder.last_step(source)}" if of_run else ""))
        report = exporting.export_weights(
            source, out, format=parsed.format, part=parsed.part, dtype=parsed.dtype, strict_authors=parsed.strict_authors
        )
    for name, explanation in report.extras.items():
        log(console, f"extra name: {name} ({explanation})")
    for reason in dict.fromkeys(report.untrained.values()):
        count = sum(why == reason for why in report.untrained.values())
        log(console, f"untrained: {count} tensors ({reason})")
    for field, value in report.recorded.items():
        log(console, f"{field} = {value}, which the tensors do not show")
    for field, (value, meaning) in report.departures.items():
        log(console, f"not the released architecture: {field} = {value} ({meaning})")
    merged = ", LoRA merged" if report.merged else ""
    log(console, f"{report.out}: {report.names} tensors{merged}")


def _write_model(parsed: argparse.Namespace, out: pathlib.Path, console: Console) -> None:
    """Writes the model folder of a checkpoint of WORKDIR."""
    from hyperseg_jax.training.model_export import write_model

    if parsed.format == "model" and (parsed.part or parsed.dtype != "source" or parsed.strict_authors):
        raise UserError("--format model writes the parameters unchanged; remove --part, --dtype and --strict-authors")
    step = write_model(parsed.workdir, out, step=parsed.step, log=functools.partial(log, console))
    log(console, f"{out}: the model of step {step}" if parsed.format == "model" else f"exporting the checkpoint of step {step}")
