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
from hyperseg_jax import renamed_fields
from hyperseg_jax.atomic import clean, write_text
from hyperseg_jax.errors import UserError
from hyperseg_jax.sweeps import devices, grids, results
from hyperseg_jax.sweeps.backends import launchers, local
from hyperseg_jax.sweeps.trials import Metric, Trial
from hyperseg_jax.tables import flatten
from hyperseg_jax.untrusted import paths, printing, stores, strict_json
from hyperseg_jax.untrusted.bad_file import BadFile, failure_reason, naming_path
from hyperseg_jax.untrusted.limits import set_block

TRIALS, RAY = "trials", "ray"  # folders below --out
BACKENDS = ("local", "ray", *launchers.BACKENDS)


class _InOrder(argparse.Action):
    """Appends --grid, --zip and --chain to one list, in the order in which they are given."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None) -> None:
        namespace.sets = [*namespace.sets, (self.option_strings[0], values)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", required=True, help=f"a config file, or a shipped config: {', '.join(configs.shipped_names())}"
    )
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("sweep"), help="the sweep folder; an existing sweep is resumed"
    )
    in_order: dict[str, Any] = {"dest": "sets", "action": _InOrder, "default": []}
    parser.add_argument("--grid", nargs="+", metavar="FIELD=A,B", help="all combinations of the values", **in_order)
    parser.add_argument("--zip", nargs="+", metavar="FIELD=A,B", help="first values together, then second values", **in_order)
    parser.add_argument("--chain", nargs=0, help="starts another set of trials, to be run after the previous one", **in_order)
    parser.add_argument("--metric", help="TASK/NAME of validation, or train/NAME; default: referring/ciou, else train/loss")
    parser.add_argument("--mode", choices=("max", "min"), help="whether higher or lower is better; default: min for train/")
    parser.add_argument("--backend", choices=BACKENDS, default="local", help="how the trials are run")
    parser.add_argument("--per-trial", type=int, metavar="N", help="chips or GPUs per trial (default 1), or CPU cores (2)")
    parser.add_argument(
        "--asha",
        nargs="?",
        type=int,
        const=0,
        metavar="STEPS",
        help="ray: stop poor trials early (ASHA), but not before STEPS steps (default: train.eval_every)",
    )
    parser.add_argument("--asha-factor", type=float, default=3.0, help="reduction factor: 1 in N trials continues at each rung")
    parser.add_argument(
        "--workdirs", default="", help="parent folder of the workdirs, such as gs://bucket/x; default: OUT/trials"
    )
    parser.add_argument(
        "--launch",
        default="",
        metavar="OPTIONS",
        help="gke, slurm: further options of the launch script: --launch='--type v5e-16 --image IMAGE'",
    )
    parser.add_argument("--resubmit", action="store_true", help="gke, slurm: resubmit unfinished trials, whose jobs are dead")
    parser.add_argument("--dry-run", action="store_true", help="print the command of each trial and exit")
    parser.epilog = "--config.x.y=value changes one field in every trial. docs/sweeps.md has examples."


@dataclasses.dataclass(frozen=True)
class _Sweep:
    """A sweep as specified on the command line. base: config without the varied fields. configs: config of each trial."""

    parsed: argparse.Namespace
    base: ml_collections.ConfigDict
    metric: Metric
    trials: Sequence[Trial]
    configs: Sequence[ml_collections.ConfigDict]
    log: Callable[[str], None]


def run(parsed: argparse.Namespace) -> None:
    console = printing.make_console(stderr=True)
    log = functools.partial(printing.log, console)
    base = configs.load(parsed.config, parsed.overrides)
    set_block(base.get("limits", {}))
    metric = _parse_metric(parsed, base)
    sweep = _Sweep(parsed, base, metric, *_make_trials(parsed), log)
    start = _prepare_backend(sweep)
    _check_metric_is_written(sweep, console)
    if parsed.dry_run:
        return
    _check_workdirs(sweep)
    _open_sweep_folder(parsed.out, base, trials=sweep.trials)
    start()
    rows = results.collect_rows(sweep.trials, metric)
    results.save_results(rows, metric, parsed.out, log)
    printing.make_console().print(results.results_table(rows, metric))
    written = [parsed.out / name for name in ("results.json", "results.png") if (parsed.out / name).exists()]
    log(f"wrote {' and '.join(map(str, written))}")
    failed = [row.trial for row in rows if row.status == "failed"]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(rows)} trials failed ({failed[0].last_log_line()}; see {failed[0].log}); "
            "the same command retries them"
        )


def _parse_metric(parsed: argparse.Namespace, base: ml_collections.ConfigDict) -> Metric:
    """Returns the metric of --metric and --mode, or the default one. Raises UserError if the config does not have its task."""
    default = "referring/ciou" if "referring" in base.data.tasks else "train/loss"
    metric = Metric.parse(parsed.metric or default, parsed.mode)
    if metric.task not in ("train", *base.data.tasks):
        raise UserError(
            f"--metric {metric}: {parsed.config} has no task {metric.task}; use one of "
            f"{', '.join(base.data.tasks)}, or train for a training metric"
        )
    return metric


def _check_metric_is_written(sweep: _Sweep, console: Console) -> None:
    """Raises UserError, before hours of training, if training with these configs does not write the metric.

    The scores of a task depend on the kind of its prompts, which is read from its validation records. If these may be on other
    machines (all backends but local), the scores of all kinds of prompts are accepted.
    """
    from hyperseg_jax.data import sources  # imported late, as the three below, since it imports JAX
    from hyperseg_jax.evaluation import score_names
    from hyperseg_jax.systems import system as systems
    from hyperseg_jax.training import checks

    metric = sweep.metric
    field = f"--metric {metric}"
    if metric.task == "train":
        if metric.name not in checks.STEP_METRICS:
            score_names.check_score(field, metric.name, checks.train_metric_names(sweep.configs[0]))
        return
    checked: set[str] = set()  # trials may have different data
    for config in sweep.configs:
        data, where, answers = config.data, f"data.tasks.{metric.task}", systems.get(config.system).answers
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
            records = sources.open_reader(where, block["reader"], fields, sources.resolve_root(data, console))
            kind = score_names.prompt_kind(records, answers)
        else:
            kind = ""
        score_names.check_score(field, metric.name, score_names.validation_scores(answers, kind))


def _make_trials(parsed: argparse.Namespace) -> tuple[list[Trial], list[ml_collections.ConfigDict]]:
    """Returns the trials of --grid, --zip and --chain, and the config of each. Raises UserError if a varied field is not in the
    config or a value has another type."""
    config_name, (file, colon, argument) = parsed.config, parsed.config.partition(":")
    if pathlib.Path(file).is_file() and parsed.backend not in launchers.BACKENDS:  # Ray workers have another working directory
        config_name = f"{pathlib.Path(file).absolute()}{colon}{argument}"
    workdirs = parsed.workdirs.rstrip("/")
    if workdirs and "://" not in workdirs:
        workdirs = str(pathlib.Path(workdirs).absolute())
    trials, trial_configs = [], []
    for values in grids.from_options(parsed.sets):
        overrides = [f"{field}={value}" for field, value in values.items()]
        config = configs.load(parsed.config, [*parsed.overrides, *overrides])
        trial_configs.append(config)
        trials.append(
            Trial(values, config_name, tuple(parsed.overrides), config.train.steps, parsed.out.absolute() / TRIALS, workdirs)
        )
    return trials, trial_configs


def _prepare_backend(sweep: _Sweep) -> Callable[[], None]:
    """Raises UserError for options that the chosen backend does not have. Returns a function that runs the trials on it. With
    --dry-run, also prints the command of each trial."""
    parsed, trials, log = sweep.parsed, sweep.trials, sweep.log
    backend = parsed.backend
    if parsed.asha is not None and backend != "ray":
        raise UserError(f"--asha: --backend {backend} has no early stopping; use --backend ray, which also runs on one machine")
    if parsed.per_trial is not None and backend in launchers.BACKENDS:
        raise UserError(f"--per-trial: not valid with {backend}, where a trial is a job; set its size with --launch")
    if parsed.per_trial is not None and parsed.per_trial < 1:
        raise UserError(f"--per-trial {parsed.per_trial}: give at least 1")
    if parsed.resubmit and backend not in launchers.BACKENDS:
        raise UserError(f"--resubmit: only valid with gke and slurm; remove it, as --backend {backend} resumes by itself")
    if parsed.launch and backend not in launchers.BACKENDS:
        raise UserError(f"--launch: only valid with gke and slurm; remove it, as --backend {backend} uses no launch script")
    if backend in launchers.BACKENDS:
        try:
            options = shlex.split(parsed.launch)
        except ValueError as error:
            raise UserError(f"--launch {printing.escaped(parsed.launch)}: {error}; correct the quotes") from error
        _print_commands(parsed, [launchers.submit_command(trial, backend, options) for trial in trials])
        return lambda: launchers.submit_trials(trials, backend, options, resubmit=parsed.resubmit, log=log)
    _print_commands(parsed, [trial.command() for trial in trials])
    if backend == "local":
        return lambda: _run_locally(trials, parsed.per_trial, log)
    asha = _parse_asha(sweep)
    return lambda: _run_on_ray(sweep, asha)


def _print_commands(parsed: argparse.Namespace, commands: Sequence[Sequence[str]]) -> None:
    """With --dry-run, prints the commands."""
    if parsed.dry_run:
        for command in commands:
            print(printing.printable(shlex.join(command)))


def _run_locally(trials: Sequence[Trial], per_trial: int | None, log: Callable[[str], None]) -> None:
    """Runs the trials on equal shares of the devices of this machine. per_trial: devices per trial; None: the default."""
    shares = devices.split_devices(*devices.detect_devices(), per_trial)
    log(f"{len(trials)} trials, {min(len(shares), len(trials))} at a time: {'; '.join(map(str, shares))}")
    local.run(trials, shares, log=log)


def _parse_asha(sweep: _Sweep) -> tuple[int, float] | None:
    """Returns (first rung in steps, reduction factor) of --asha and --asha-factor; None without --asha."""
    parsed = sweep.parsed
    if parsed.asha is None:
        return None
    grace = parsed.asha or min(config.train.eval_every for config in sweep.configs)
    steps = max(trial.steps for trial in sweep.trials)
    if not 1 <= grace <= steps:
        raise UserError(f"--asha {grace}: give 1 to {steps}, the number of steps of a trial")
    if parsed.asha_factor <= 1:
        raise UserError(f"--asha-factor {parsed.asha_factor}: give more than 1")
    return grace, parsed.asha_factor


def _run_on_ray(sweep: _Sweep, asha: tuple[int, float] | None) -> None:
    """Runs the trials on Ray. asha: result of `_parse_asha`."""
    from hyperseg_jax.sweeps.backends import ray_tune  # imported late, since Ray is an optional dependency

    parsed, early = sweep.parsed, ray_tune.Asha(*asha) if asha else None
    ray_tune.run(sweep.trials, sweep.metric, parsed.out / RAY, per_trial=parsed.per_trial, asha=early, log=sweep.log)


def _check_workdirs(sweep: _Sweep) -> None:
    """Raises UserError if a trial's folder below --workdirs is a link out of it."""
    workdirs = sweep.parsed.workdirs
    if not workdirs or stores.is_url(workdirs):
        return
    clean(pathlib.Path(workdirs))
    with naming_path(f"--workdirs {workdirs}"):
        for trial in sweep.trials:
            paths.join_inside(workdirs, trial.name)


def _open_sweep_folder(out: pathlib.Path, base: ml_collections.ConfigDict, trials: Sequence[Trial]) -> None:
    """Creates the sweep folder and writes sweep.json with the config. Raises UserError if the folder contains a sweep of
    another config, or a link out of the folder in place of an output folder."""
    with naming_path(out):
        clean(out)
        for name in (RAY, TRIALS):
            paths.join_inside(out, name)
        clean(out / TRIALS)
        for trial in trials:
            paths.join_inside(out / TRIALS, trial.name)
    path, config = out / "sweep.json", json.loads(json.dumps(base.to_dict()))
    if path.exists():
        try:
            saved_config = strict_json.parse(strict_json.read_bytes(paths.check_link(path)), "its content").get("config")
        except (BadFile, OSError) as error:
            raise UserError(f"{path}: {failure_reason(error)}; give another --out") from error
        if not isinstance(saved_config, dict):
            raise UserError(f"{path}: is not a sweep file; give another --out")
        saved, given = (
            flatten({**fields, "limits": {}}) for fields in (renamed_fields.migrate(saved_config), config)
        )  # limits may change on resume
        if difference := configs.describe_differences(saved, given):
            raise UserError(f"--out {out}: contains a sweep of another config ({difference}); give another --out")
    try:
        (out / TRIALS).mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"format": 1, "config": config}, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror}); give another folder") from error
