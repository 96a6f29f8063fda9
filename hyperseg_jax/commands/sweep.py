"""hyperseg sweep"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import pathlib
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
from rich.console import Console

from hyperseg_jax import config as configs
from hyperseg_jax.atomic import write_text
from hyperseg_jax.errors import UserError
from hyperseg_jax.sweeps import devices, grids, results
from hyperseg_jax.sweeps.backends import launchers, local
from hyperseg_jax.sweeps.trials import Metric, Trial
from hyperseg_jax.tables import flatten
from hyperseg_jax.untrusted import paths, printing, strict_json
from hyperseg_jax.untrusted.bad_file import BadFile, naming, reason
from hyperseg_jax.untrusted.limits import apply_block

TRIALS, RAY = "trials", "ray"  # folders below --out
BACKENDS = ("local", "ray", *launchers.BACKENDS)


class _InOrder(argparse.Action):
    """Keeps --grid, --zip and --chain in the order they were given."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None) -> None:
        namespace.sets = [*namespace.sets, (self.option_strings[0], values)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help=f"a config file, or a shipped one: {', '.join(configs.shipped())}")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("sweep"), help="its folder; goes on if it has begun")
    in_order: dict[str, Any] = {"dest": "sets", "action": _InOrder, "default": []}
    parser.add_argument("--grid", nargs="+", metavar="FIELD=A,B", help="each value with all others", **in_order)
    parser.add_argument("--zip", nargs="+", metavar="FIELD=A,B", help="first values together, then second values", **in_order)
    parser.add_argument("--chain", nargs=0, help="what follows is another set of trials, after the one before", **in_order)
    parser.add_argument("--metric", help="TASK/NAME of validation, or train/NAME; default: referring/ciou, else train/loss")
    parser.add_argument("--mode", choices=("max", "min"), help="which scores are better; default: min for train/, else max")
    parser.add_argument("--backend", choices=BACKENDS, default="local", help="who runs the trials")
    parser.add_argument("--per-trial", type=int, metavar="N", help="chips or GPUs of a trial (default 1), or cores (2)")
    parser.add_argument(
        "--asha",
        nargs="?",
        type=int,
        const=0,
        metavar="STEPS",
        help="ray: stop poor trials early, none before so many steps (default: train.eval_every)",
    )
    parser.add_argument("--asha-factor", type=float, default=3.0, help="one in so many goes on at each rung")
    parser.add_argument("--workdirs", default="", help="where the workdirs lie, such as gs://bucket/x; default: OUT/trials")
    parser.add_argument(
        "--launch",
        default="",
        metavar="OPTIONS",
        help="gke, slurm: what else the launch script is told: --launch='--type v5e-16 --image IMAGE'",
    )
    parser.add_argument("--resubmit", action="store_true", help="gke, slurm: submit what has not ended again; its job is dead")
    parser.add_argument("--dry-run", action="store_true", help="print each trial's command and stop")
    parser.epilog = "--config.x.y=value changes one field in every trial. docs/sweeps.md has examples."


@dataclasses.dataclass(frozen=True)
class _Sweep:
    """A sweep as it was asked for. configs: of each trial."""

    parsed: argparse.Namespace
    base: ml_collections.ConfigDict
    metric: Metric
    trials: Sequence[Trial]
    configs: Sequence[ml_collections.ConfigDict]
    say: Callable[[str], None]


def run(parsed: argparse.Namespace) -> None:
    console = Console(stderr=True)
    say = functools.partial(printing.say, console)
    base = configs.load(parsed.config, parsed.overrides)
    apply_block(base.get("limits", {}))
    metric = _metric(parsed, base)
    sweep = _Sweep(parsed, base, metric, *_trials(parsed), say)
    start = _starter(sweep)
    _check_score(sweep, console)
    if parsed.dry_run:
        return
    _open(parsed.out, base, trials=sweep.trials)
    start()
    rows = results.collect(sweep.trials, metric)
    results.save(rows, metric, parsed.out)
    Console().print(results.table(rows, metric))
    written = [parsed.out / name for name in ("results.json", "results.png") if (parsed.out / name).exists()]
    say(f"wrote {' and '.join(map(str, written))}")
    failed = [row.trial for row in rows if row.status == "failed"]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(rows)} trials failed ({failed[0].last_log_line()}; see {failed[0].log}); "
            "the same command tries them again"
        )


def _metric(parsed: argparse.Namespace, base: ml_collections.ConfigDict) -> Metric:
    """UserError where the config has no such task, which would show only after hours of training."""
    default = "referring/ciou" if "referring" in base.data.tasks else "train/loss"
    metric = Metric.parse(parsed.metric or default, parsed.mode)
    if metric.task not in ("train", *base.data.tasks):
        raise UserError(
            f"--metric {metric}: {parsed.config} has no task {metric.task}; it has {', '.join(base.data.tasks)}; "
            "train/NAME is of training lines"
        )
    return metric


def _check_score(sweep: _Sweep, console: Console) -> None:
    """UserError where no run of this config writes the metric, which would show only after hours of training. The kind of a
    task's prompts is that of its validation records; where those lie on other machines, the scores of all kinds will do."""
    from hyperseg_jax.data import sources  # late: as the two below, they import JAX
    from hyperseg_jax.evaluation import score_names
    from hyperseg_jax.training import checks

    metric = sweep.metric
    field = f"--metric {metric}"
    if metric.task == "train":
        if metric.name not in checks.STEP_METRICS:
            score_names.check_score(field, metric.name, checks.train_metrics(sweep.configs[0]))
        return
    checked: set[str] = set()  # trials may differ in their data as well
    for config in sweep.configs:
        data, where = config.data, f"data.tasks.{metric.task}"
        block = data.tasks[metric.task].to_dict()
        key = json.dumps([data.get("root"), block], default=str)
        if key in checked:
            continue
        checked.add(key)
        fields = block.get("val")
        if fields is None:
            raise UserError(f"{field}: {where} has no validation records; choose another task, or train/loss")
        if block["reader"] == "toy":
            kind = fields["task"]
        elif sweep.parsed.backend == "local":
            kind = score_names.prompt_kind(sources.open_reader(where, block["reader"], fields, sources.root_of(data, console)))
        else:
            kind = ""
        score_names.check_score(field, metric.name, score_names.validation_scores(kind))


def _trials(parsed: argparse.Namespace) -> tuple[list[Trial], list[ml_collections.ConfigDict]]:
    """All trials with their configs. UserError where a field is not in the config or takes another type."""
    named, (file, colon, argument) = parsed.config, parsed.config.partition(":")
    if pathlib.Path(file).is_file() and parsed.backend not in launchers.BACKENDS:  # workers of Ray stand elsewhere
        named = f"{pathlib.Path(file).absolute()}{colon}{argument}"
    workdirs = parsed.workdirs.rstrip("/")
    if workdirs and "://" not in workdirs:
        workdirs = str(pathlib.Path(workdirs).absolute())
    trials, made = [], []
    for values in grids.from_options(parsed.sets):
        varied = [f"{field}={value}" for field, value in values.items()]
        made.append(configs.load(parsed.config, [*parsed.overrides, *varied]))
        trials.append(
            Trial(values, named, tuple(parsed.overrides), made[-1].train.steps, parsed.out.absolute() / TRIALS, workdirs)
        )
    return trials, made


def _starter(sweep: _Sweep) -> Callable[[], None]:
    """What runs the trials on the chosen backend, its options checked. With --dry-run it has printed their commands."""
    parsed, trials, say = sweep.parsed, sweep.trials, sweep.say
    backend = parsed.backend
    if parsed.asha is not None and backend != "ray":
        raise UserError(f"--asha: --backend {backend} has no early stopping; use --backend ray, on one machine as well")
    if parsed.per_trial is not None and (backend in launchers.BACKENDS or parsed.per_trial < 1):
        raise UserError(f"--per-trial {parsed.per_trial}: give one or more; with gke and slurm a trial is a job")
    if parsed.resubmit and backend not in launchers.BACKENDS:
        raise UserError(f"--resubmit: is for gke and slurm; --backend {backend} goes on by itself")
    if parsed.launch and backend not in launchers.BACKENDS:
        raise UserError(f"--launch: is for gke and slurm; --backend {backend} uses no launch script")
    if backend in launchers.BACKENDS:
        try:
            options = shlex.split(parsed.launch)
        except ValueError as error:
            raise UserError(f"--launch {printing.shown(parsed.launch)}: {error}; close the quotation") from error
        _show(parsed, [launchers.command(trial, backend, options) for trial in trials])
        return lambda: launchers.run(trials, backend, options, resubmit=parsed.resubmit, log=say)
    _show(parsed, [trial.command() for trial in trials])
    if backend == "local":
        return lambda: _run_here(trials, parsed.per_trial, say)
    return lambda: _run_on_ray(sweep)


def _show(parsed: argparse.Namespace, commands: Sequence[Sequence[str]]) -> None:
    if parsed.dry_run:
        for command in commands:
            print(printing.printable(shlex.join(command)))


def _run_here(trials: Sequence[Trial], per_trial: int | None, say: Callable[[str], None]) -> None:
    shares = devices.shares(*devices.detect(), per_trial)
    say(f"{len(trials)} trials, {min(len(shares), len(trials))} at a time: {'; '.join(map(str, shares))}")
    local.run(trials, shares, log=say)


def _run_on_ray(sweep: _Sweep) -> None:
    from hyperseg_jax.sweeps.backends import ray_tune  # late: Ray is an extra

    parsed, trials = sweep.parsed, sweep.trials
    asha = None
    if parsed.asha is not None:
        grace = parsed.asha or min(config.train.eval_every for config in sweep.configs)
        steps = max(trial.steps for trial in trials)
        if not 1 <= grace <= steps:
            raise UserError(f"--asha {grace}: give 1 to {steps}, the steps of a trial")
        if parsed.asha_factor <= 1:
            raise UserError(f"--asha-factor {parsed.asha_factor}: give more than 1")
        asha = ray_tune.Asha(grace, parsed.asha_factor)
    ray_tune.run(trials, sweep.metric, parsed.out / RAY, per_trial=parsed.per_trial, asha=asha, log=sweep.say)


def _open(out: pathlib.Path, base: ml_collections.ConfigDict, trials: Sequence[Trial]) -> None:
    """Makes the folder and writes sweep.json, or checks that the one there is of the same config, and that no folder in it that
    is written into is a link to elsewhere."""
    with naming(out):
        for name in (RAY, TRIALS, *(f"{TRIALS}/{trial.name}" for trial in trials)):
            paths.inside(out, name)
    path, config = out / "sweep.json", json.loads(json.dumps(base.to_dict()))
    if path.exists():
        try:
            kept = strict_json.parse(strict_json.contents(paths.own(path)), "its content").get("config")
        except (BadFile, OSError) as error:
            raise UserError(f"{path}: {reason(error)}; give another --out") from error
        if not isinstance(kept, dict):
            raise UserError(f"{path}: is not of a sweep; give another --out")
        there, here = (flatten({**fields, "limits": {}}) for fields in (kept, config))  # limits may change when it goes on
        if other := configs.differences(there, here):
            raise UserError(f"--out {out}: holds a sweep of another config ({other}); give another --out")
    try:
        (out / TRIALS).mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"format": 1, "config": config}, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror}); give another folder") from error
