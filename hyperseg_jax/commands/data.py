"""hyperseg data"""

from __future__ import annotations

import argparse
import os
import pathlib

from rich.console import Console

from hyperseg_jax.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("toy",), help="toy: pictures and clips of shapes in the true benchmark formats")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="a new folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=2000, help="pictures to train on")
    parser.add_argument("--val", type=int, default=200, help="pictures to validate on")
    parser.add_argument("--clips", type=int, default=200, help="clips, a tenth of them for validation")
    parser.add_argument("--level", choices=("default", "hard"), default="default")
    parser.add_argument("--kinds", choices=("known", "held_back"), default="known",
                        help="held_back: every picture shows the colour or shape kept out of the usual splits")  # fmt: skip


def run(parsed: argparse.Namespace) -> None:
    from hyperseg_jax.data import toy

    for name in ("train", "val", "clips"):
        if getattr(parsed, name) < 0:
            raise UserError(f"--{name} {getattr(parsed, name)}: give zero or more")
    console = Console(stderr=True)
    toy.write(parsed.out, seed=parsed.seed, train=parsed.train, val=parsed.val, clips=parsed.clips, level=parsed.level,
              kinds=parsed.kinds, workers=min(4, os.cpu_count() or 1),
              say=lambda line: console.print(line, highlight=False))  # fmt: skip
