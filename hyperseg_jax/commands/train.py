"""hyperseg train"""

from __future__ import annotations

import argparse
import pathlib

from rich.console import Console

from hyperseg_jax.commands import config as configs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="a config file, or the name of a shipped one (tiny)")
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="where the run lives; resumes if it has begun")
    parser.epilog = "--config.x.y=value changes one field of the config."


def run(parsed: argparse.Namespace) -> None:
    from hyperseg_jax.training.loop import train

    console = Console(stderr=True)
    model = train(configs.load(parsed.config, parsed.overrides), parsed.workdir, console=console)
    loss, sheet = (parsed.workdir / name for name in ("loss.png", "predictions.png"))
    console.print(f"model: {model}\nloss curve: {loss}  predictions: {sheet}", highlight=False)
