"""Writes the table of compiled train steps in docs/pods.md.

Each row is a task of a recipe, compiled ahead of time for a TPU slice. Compiled rows are kept in pod_table.json with the commit
they were compiled at; only rows that are missing or lack a figure are compiled, one at a time, which takes 10 to 45 minutes and
up to 15 GB each. The compiler refuses a step that does not fit into memory. Nothing is compiled while files of the checkout
differ from the commit, except for the two that this script writes.

    pip install -e '.[tpu]'
    python benchmarks/pod_table.py                      # compiles the missing rows
    python benchmarks/pod_table.py --only panoptic      # of these, the rows whose name contains this text
    python benchmarks/pod_table.py --again panoptic     # compiles the rows whose name contains this text once more
    python benchmarks/pod_table.py --only-write         # writes the table from the compiled rows
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import subprocess
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # keeps JAX from looking for a TPU

ROOT = pathlib.Path(__file__).resolve().parents[1]
COMPILED, PAGE = ROOT / "benchmarks" / "pod_table.json", ROOT / "docs" / "pods.md"
BEGIN, END = "<!-- written by benchmarks/pod_table.py -->", "<!-- end of the table -->"
COLUMNS = (
    *("recipe", "task", "preset", "examples per chip", "peak GB", "upper bound GB", "GB read and written", "collectives"),
    *("compile CPU min", "commit"),
)
SIZES = ("peak_gb", "bound_gb", "moved_gb", "collectives")
LORA_TASKS = ("referring", "panoptic", "region", "reasoning", "video", "chat")
ROWS = [
    *(("hyperseg_3b_lora:v5e-16", "v5e:4x4", task) for task in LORA_TASKS),
    *(("hyperseg_3b:v5e-16", "v5e:4x4", task) for task in ("referring", "panoptic")),
    *(("hyperseg_3b_full:v5p-128", "v5p:4x4x4", task) for task in ("referring", "panoptic")),
    ("instructseg_3b:v5e-16", "v5e:4x4", "video"),  # its largest program
    ("instructseg_3b:v5p-128", "v5p:4x4x4", "video"),
]


def compile_row(config_name: str, topology: str, task: str) -> dict[str, Any]:
    """Compiles the step of a task, and returns its row."""
    from hyperseg_jax import config as configs
    from hyperseg_jax.planning import compile as planning
    from hyperseg_jax.planning import topologies

    plan = planning.compile_step(configs.load(config_name), task, topologies.slice_devices(topology))
    row = {"preset": plan.preset, "examples": plan.examples, "compile_seconds": round(plan.seconds), "problem": plan.problem}
    if plan.memory is not None:
        row |= {"peak_gb": round(plan.memory.peak / 1e9, 2), "bound_gb": round(plan.memory.needed / 1e9, 2)}
        row |= {"moved_gb": round(plan.cost.bytes / 1e9, 1), "collectives": dict(plan.collectives)}
    return row


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Returns the table in Markdown."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for config_name, topology, task in ROWS:
        row = rows.get(row_name(config_name, topology, task))
        if row is None:
            lines.append(f"| {config_name} | {task} |" + " |" * (len(COLUMNS) - 3) + " not compiled yet |")
            continue
        collectives = ", ".join(f"{count} {kind}" for kind, count in row.get("collectives", {}).items()) or "none"
        missing = "does not fit" if row["problem"] else ""
        sizes = [f"{row.get(name, missing)}" for name in ("peak_gb", "bound_gb", "moved_gb")]
        cells = [config_name, task, row["preset"], f"{row['examples']:g}", *sizes, collectives]
        lines.append(f"| {' | '.join(cells)} | {row['compile_seconds'] / 60:.0f} | {row['commit']} |")
    return "\n".join(lines)


def is_complete(row: dict[str, Any]) -> bool:
    """Returns whether a compiled row has all figures of the table."""
    figures = ("preset", "examples", "compile_seconds", "commit", *(() if row.get("problem") else SIZES))
    return all(name in row for name in figures)


def clean_commit() -> str:
    """Returns the commit of the checkout. Exits if other files than those written here differ from it, or if the package
    is imported from elsewhere."""
    import hyperseg_jax

    if not pathlib.Path(hyperseg_jax.__file__).is_relative_to(ROOT):
        raise SystemExit(f"{hyperseg_jax.__file__} is not the package of this checkout; install it with pip install -e .")
    git = lambda *arguments: subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    own = (f":(exclude){path.relative_to(ROOT).as_posix()}" for path in (COMPILED, PAGE))
    if changed := git("status", "--porcelain", "--", ".", *own).splitlines():
        raise SystemExit(f"{changed[0][3:]} differs from the commit that a row would name; commit or remove it")
    return git("rev-parse", "--short", "HEAD").strip()


def rows_to_compile(rows: dict[str, dict[str, Any]], only: str, again: str) -> list[tuple[str, str, str]]:
    """Returns the rows of ROWS to compile. rows: those that were compiled. only, again: see the options."""
    names = {row_name(*row): row for row in ROWS}
    missing = [name for name in names if name not in rows or not is_complete(rows[name]) or (again and again in name)]
    return [names[name] for name in missing if only in name]


def row_name(config_name: str, topology: str, task: str) -> str:
    return f"{config_name} {topology} {task}"


def write_page(rows: dict[str, dict[str, Any]]) -> None:
    """Replaces the table in docs/pods.md."""
    text = PAGE.read_text()
    head, _, rest = text.partition(BEGIN)
    _, found, tail = rest.partition(END)
    if not found:
        raise SystemExit(f"{PAGE}: lacks the lines {BEGIN} and {END}")
    PAGE.write_text(f"{head}{BEGIN}\n\n{table(rows)}\n\n{END}{tail}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="compile only rows whose name contains this text")
    parser.add_argument("--again", default="", help="compile rows again whose name contains this text")
    parser.add_argument("--only-write", action="store_true", help="compile nothing")
    parsed = parser.parse_args()
    rows: dict[str, dict[str, Any]] = json.loads(COMPILED.read_text()) if COMPILED.exists() else {}
    for row in () if parsed.only_write else rows_to_compile(rows, parsed.only, parsed.again):
        name, commit = row_name(*row), clean_commit()
        print(f"compiling {name}", flush=True)
        # A process for each row, so that its memory is freed.
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
            rows[name] = executor.submit(compile_row, *row).result() | {"commit": commit}
        print(json.dumps(rows[name]), flush=True)
        COMPILED.write_text(json.dumps(rows, indent=1) + "\n")
    write_page(rows)


if __name__ == "__main__":
    main()
