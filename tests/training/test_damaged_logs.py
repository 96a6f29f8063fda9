"""Any content of metrics.jsonl lets a run resume, with the valid lines kept. Run facts are validated."""

import io
import json
import os
import socket
import time

import fuzz
import jax
import pytest
from rich.console import Console

from hyperseg_jax.data import mixture
from hyperseg_jax.parallel.watchdog import Watchdog
from hyperseg_jax.sweeps.trials import Metric, available_metrics
from hyperseg_jax.training import clock, observers, plots
from hyperseg_jax.training.checkpoint import check_run_metadata
from hyperseg_jax.training.clock import Clock
from hyperseg_jax.training.loop import train
from hyperseg_jax.training.means import RunningMeans
from hyperseg_jax.training.observers import Observers, lost_seconds, read_valid_lines

VALID = [
    {"kind": "train", "step": 1, "task": "a", "loss": float("nan"), "steps": 1, "seconds": {"step": 1.5, "data": 0.5}},
    {"kind": "validation", "step": 2, "task": "a", "ciou": 0.5},
    {"kind": "train", "step": 3, "task": "a", "loss": 1.0, "steps": 2, "seconds": {"step": 2.5, "data": 0.5}},
]
TEXT = "".join(json.dumps(line) + "\n" for line in VALID).encode()
DAMAGE = [
    b"\xff\xfe\n",
    b"[" * 100_000 + b"\n",
    b"null\n[]\n3\n",
    b'{"step": 1}\n{"kind": "train", "step": "1", "task": "a"}\n',
    b'{"kind": "train", "step": 1, "task": "a"}\n\n{"kind": "train", "step": 1, "task": "a", "loss": [1]}\n',
    b'{"kind": "train", "step": 1, "task": "a", "loss": 1, "seconds": 5}\n{"a": 1, "a": 2}\n',
    b'{"kind": "train", "step": 1, "task": "a", "loss": 1e300}\n{"kind": "train", "step": 1, "task": "a", "loss": -1e300}\n',
    b'{"kind": "train", "step": 1, "task": "a", "loss": 1, "steps": 0}\n' + b"9" * 5000 + b"\n",
]


def resume_run(folder):
    """Resumes a run at step 2 in a folder; returns its output and the remaining lines."""
    console = Console(record=True, file=io.StringIO(), width=300)
    with Observers(folder, start=2, steps=9, console=console, timer=Clock(), headlines=("ciou",)) as watch:
        lost_seconds(folder / "metrics.jsonl", {"step": 1.0})
        watch.scores(2, {"b": {"ciou": 0.25}})
    return console.export_text(), list(read_valid_lines(folder / "metrics.jsonl"))


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_lines_are_reported_once_and_valid_ones_kept(tmp_path, damage):
    (tmp_path / "metrics.jsonl").write_bytes(damage + TEXT)
    output, lines = resume_run(tmp_path)
    assert ("damaged lines are removed" in output) == (len(damage.split()) > 1)
    assert [(line["step"], line["task"]) for line in lines] == [(1, "a"), (2, "a"), (2, "b")]
    assert (tmp_path / "loss.png").exists()


def test_invalid_logs_are_moved_aside(tmp_path, monkeypatch):
    file = tmp_path / "metrics.jsonl"
    for make in (lambda: os.mkfifo(file), lambda: file.symlink_to("/dev/zero"), file.mkdir):
        make()
        with fuzz.limit_resources(seconds=20):
            assert lost_seconds(file, {}) == 0
            output, lines = resume_run(tmp_path)
        assert "was not a metrics log" in output and [line["task"] for line in lines] == ["b"]
        file.unlink()
    assert len(list(tmp_path.glob("metrics.jsonl.damaged-*"))) == 3
    monkeypatch.setattr(observers, "MAX_LOG_BYTES", len(TEXT) - 1)
    file.write_bytes(TEXT)
    assert "was not a metrics log" in resume_run(tmp_path)[0]


FACTS = {"format": 1, "global_next_index": 8, "system": "hyperseg", "seconds": {"step": 1.0}, "bad": 0, "untold": None}


@pytest.mark.parametrize("task", ["$\\frac{$", "$" + "{" * 90 + "$", "\ud800", "a\x1b[31m", "x" * 5000, "t"])
def test_unusual_names_and_losses_are_plotted_or_reported(tmp_path, task):
    """matplotlib would parse text between two dollar signs as a formula."""
    for losses in ((1.0, 2.0), (1e38, -1e38), (float("inf"), float("nan"))):
        lines = [
            {"kind": "train", "step": step, "task": name, "loss": x} for step, x in enumerate(losses) for name in ("a", task)
        ]
        lines = [line | {f"gates/{task}/{moment}": line["loss"] for moment in ("mean", "spread")} for line in lines]
        lines += [{"kind": "validation", "step": step, "task": task, **score} for step, score in enumerate(({}, {"ciou": 0.5}))]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for image in ("loss.png", "gates.png"):
            (tmp_path / image).unlink(missing_ok=True)
        output, _ = resume_run(tmp_path)
        for image in ("loss.png", "gates.png"):
            messages = f"{image}: cannot be drawn" in output
            assert (tmp_path / image).is_file() != messages and not (messages and losses == (1.0, 2.0))


@pytest.mark.parametrize("task", ["\u6f22\u5b57", "\U0001f600 \u0b95", "\u0f40" * 200])
def test_names_without_glyphs_give_no_warnings(tmp_path, recwarn, task):
    """matplotlib's font lacks many letters, and a long name leaves no space for the curves."""
    lines = [{"kind": "train", "step": step, "task": task, "loss": 1.0} for step in (1, 2)]
    lines += [{"kind": "validation", "step": 2, "task": task, "ciou": 0.5}]
    plots.plot_losses(lines, tmp_path / "loss.png", ("ciou",))
    assert (tmp_path / "loss.png").is_file() and [str(warning.message) for warning in recwarn] == []


def test_many_tasks_are_plotted(tmp_path):
    """A task that is dropped from the training curves keeps its validation scores."""
    lines = [{"kind": "validation", "step": 1, "task": "zz", "ciou": 0.5}]
    lines += [{"kind": "train", "step": 1, "task": name, "loss": 1.0} for name in (*map("t{:03}".format, range(50)), "zz")]
    train, validation = plots._collect_curves(lines, ("ciou",))
    assert len(train) == 50 and "zz" not in train and list(validation) == ["zz"]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "cannot be drawn" not in resume_run(tmp_path)[0] and (tmp_path / "loss.png").is_file()


def test_many_gates_are_plotted():
    names = [*map("g{:03}".format, range(60)), "a"]
    lines = [
        {"kind": "train", "step": 1, "task": "t", f"gates/{name}/mean": 0.5, f"gates/{name}/spread": 0.1} for name in names
    ]
    gates = plots._collect_gates(
        [*lines, {"kind": "train", "step": 1, "task": "t", "gates/": 1, "gates/mean": 1, "gates//mean": 2}]
    )
    assert sorted(gates) == ["a", *names[:49]]


def test_a_failed_plot_does_not_end_a_run(tmp_path, monkeypatch):
    def fail(*args):
        raise KeyError("a bug\nof the plot")

    monkeypatch.setattr(observers, "plot_losses", fail)
    output, lines = resume_run(tmp_path)
    assert "loss.png: was not drawn (KeyError: 'a bug\\nof the plot')" in output and lines


@pytest.mark.parametrize(
    "changed",
    [
        *({"format": None}, {"global_next_index": -1}, {"global_next_index": "8"}, {"seconds": None}, {"bad": 1.5}),
        *({"seconds": {"step": float("nan")}}, {"untold": []}, {"untold": {"a": 5}}),
        *({"untold": {"a": {"steps": 1, "sums": sums}}} for sums in ({"loss": [1.0]}, {}, {"loss": [10**400, 1]})),
        *({"untold": {"a": {"steps": 1, "sums": {"loss": [1.0, 1.0], name: [1.0, 1.0]}}}} for name in ("task", "\x1b[31m")),
        *({"global_next_index": 2**31}, {"bad": 2**40}, {"bad": 9}, {"seconds": {"step": 2e12}}),
        {"untold": {"a": {"steps": 9, "sums": {"loss": [1.0, 1.0]}}}},
        {"untold": {f"{k}": {"steps": 1, "sums": {"loss": [1.0, 1.0]}} for k in range(10_001)}},
        *({"untold": {"a": {"steps": 1, "sums": {"loss": pair}}}} for pair in ([1e308, 1], [1.0, 2])),
        {"untold": {"\ud800": {"steps": 1, "sums": {"loss": [1.0, 1.0]}}}},
    ],
)
def test_damaged_run_facts_make_a_checkpoint_unreadable(changed):
    check_run_metadata(FACTS)
    check_run_metadata({**FACTS, "untold": {"[/a]": {"steps": 1, "sums": {"loss": [1.0, 1.0], "dice": [0.5, 1.0]}}}})
    with pytest.raises(ValueError, match="its run metadata has no"):
        check_run_metadata({**FACTS, **changed})


@pytest.mark.parametrize("seconds", [2e12, 1e16, 1e300, 2**53, -1, float("nan"), float("inf")])
def test_impossible_seconds_do_not_reach_the_checkpoints(tmp_path, seconds):
    """They were added to those of the run, whose checkpoints could not be read again."""
    line = {**VALID[0], "step": 3, "seconds": {"step": seconds}}
    (tmp_path / "metrics.jsonl").write_bytes(TEXT + json.dumps(line).encode())
    timer = Clock()
    timer.resume({"step": 1.0}, lost_seconds(tmp_path / "metrics.jsonl", {"step": 1.0}))
    check_run_metadata({**FACTS, "seconds": timer.read()})
    assert 2.0 <= sum(timer.read().values()) < 60


def test_a_run_from_the_largest_facts_writes_facts_that_can_be_read(tmp_path):
    """What a run adds to the facts of a checkpoint must not make them invalid."""
    index = mixture.MAX_ELEMENTS - 1
    task = {"steps": index, "sums": {"loss": [3e38, 1.0]}}
    facts = {**FACTS, "global_next_index": index, "bad": index, "untold": {"a": task}}
    facts["seconds"] = dict.fromkeys(clock.SHARES, clock.MOST_SECONDS)
    check_run_metadata(facts)
    line = {**VALID[0], "seconds": {f"s{k}": clock.MOST_SECONDS for k in range(99)}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line))
    timer, means = Clock(), RunningMeans(facts["untold"])
    timer.resume(facts["seconds"], lost_seconds(tmp_path / "metrics.jsonl", facts["seconds"]))
    means.add("a", {"loss": 3e38})
    changed = {"seconds": timer.read(), "untold": means.state(), "global_next_index": index + 1, "bad": index + 1}
    check_run_metadata({**facts, **changed})


def test_lines_stay_readable_when_a_log_is_rewritten(tmp_path):
    """JSON can be spelled in several lengths: 1e38 and "é" became longer than a line may be."""
    file = tmp_path / "metrics.jsonl"
    line = '{"kind": "train", "step": 1, "task": "a", "loss": 1' + "".join(f', "é{k}": 1e38' for k in range(4000)) + "}\n"
    assert len(line.encode()) < observers.MAX_LINE_BYTES
    file.write_text(line)
    for _ in range(2):
        assert observers._truncate_metrics(file, 2) == "" and len(list(read_valid_lines(file))) == 1


def make_property(folder):
    """Returns the property of any log: its lines are valid, and a run resumes."""

    def check(data):
        (folder / "metrics.jsonl").write_bytes(data)
        with fuzz.limit_resources(seconds=20):
            lines = list(read_valid_lines(folder / "metrics.jsonl"))
            assert all(type(line["step"]) is int and line["kind"] and type(line["task"]) is str for line in lines)
            assert lost_seconds(folder / "metrics.jsonl", {"step": 1.0}) >= 0
            observers._truncate_metrics(folder / "metrics.jsonl", 2)
            assert all(line["step"] <= 2 for line in list(read_valid_lines(folder / "metrics.jsonl")))

    return check


def log_strategy():
    lines = [fuzz.damaged_json(line) for line in VALID]
    return fuzz.st.tuples(*lines).map(b"\n".join) | fuzz.damaged_bytes(TEXT)


def test_random_logs(tmp_path):
    fuzz.run_property(make_property(tmp_path), log_strategy(), examples=100)


@pytest.mark.slow
def test_random_logs_for_long(tmp_path, run_property_long):
    run_property_long(make_property(tmp_path), log_strategy())


def test_a_log_is_read_line_by_line(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(TEXT + b"[" * 3 * observers.MAX_LINE_BYTES + b"\n" + TEXT)
    assert len(list(read_valid_lines(file))) == 6
    os.truncate(file, 2**26)  # a sparse file of zeros
    with fuzz.limit_resources(seconds=60, memory=2**25):
        assert lost_seconds(file, {"step": 1.0}) == 2.0
        observers._truncate_metrics(file, 2)
    assert len(list(read_valid_lines(file))) == 4 and file.stat().st_size < 2000


def test_long_logs_use_little_memory(tmp_path):
    """20 MB, which would take 200 MB as lists of lines."""
    file = tmp_path / "metrics.jsonl"
    many = {f"m{k}": 0.5 for k in range(100)}
    with file.open("w") as log:
        for step in range(15_000):
            log.write(json.dumps({"kind": "train", "step": step, "task": f"t{step % 70:02}", "loss": 1.0, **many}) + "\n")
            if step % 100 == 0:
                line = {"kind": "validation", "step": step, "task": "a", "giou": 0.1, **({} if step else {"ciou": 0.2})}
                log.write(json.dumps(line) + "\n")
    with fuzz.limit_resources(seconds=120, memory=2**25):
        train, validation = plots._collect_curves(observers.read_valid_lines(file), ("ciou", "giou"))
        assert sorted(train) == [f"t{k:02}" for k in range(50)] and train["t00"]["loss"][0].tolist() == list(
            range(0, 15_000, 70)
        )
        assert list(validation["a"]) == ["giou"] and len(validation["a"]["giou"][1]) == 150
        assert len(Metric("train", "m5", "min").scores(observers.read_valid_lines(file))) == 15_000
        assert available_metrics(observers.read_valid_lines(file), 3) == ["a/ciou", "a/giou", "train/loss"]


def test_a_log_linked_outside_the_workdir_is_moved_aside(tmp_path):
    workdir, other = tmp_path / "run", tmp_path / "other.jsonl"
    workdir.mkdir()
    other.write_bytes(TEXT)
    (workdir / "metrics.jsonl").symlink_to(other)
    assert list(read_valid_lines(workdir / "metrics.jsonl")) == []
    output, lines = resume_run(workdir)
    assert "was not a metrics log" in output and [line["task"] for line in lines] == ["b"] and other.read_bytes() == TEXT


@pytest.mark.parametrize("name", ["plugins", "plugins/profile"])
def test_a_profile_stays_in_the_workdir(tmp_path, monkeypatch, name):
    workdir, other = tmp_path / "run", tmp_path / "other"
    link = workdir / "tensorboard" / name
    link.parent.mkdir(parents=True)
    other.mkdir()
    link.symlink_to(other)
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: None)
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: None)
    console = Console(record=True, file=io.StringIO(), width=300)
    with Observers(workdir, start=0, steps=9, console=console, timer=Clock(), profiled=(1, 2)) as watch:
        watch.profile(1)
    assert "was not a folder of this run" in console.export_text() and not link.is_symlink() and not list(other.iterdir())


@pytest.mark.parametrize("make", ["link", "pipe", "file"])
def test_scalars_stay_in_the_workdir(tmp_path, make):
    workdir, other = tmp_path / "run", tmp_path / "other"
    workdir.mkdir()
    other.mkdir()
    match make:
        case "link":
            (workdir / "tensorboard").symlink_to(other)
        case "pipe":
            os.mkfifo(workdir / "tensorboard")
        case "file":
            (workdir / "tensorboard").write_text("")
    with fuzz.limit_resources(seconds=60):
        output, _ = resume_run(workdir)
    assert "tensorboard.damaged-0: was not a folder of this run" in output
    assert list((workdir / "tensorboard").iterdir()) and not list(other.iterdir())


@pytest.mark.parametrize("make", ["link", "dangling link", "file"])
def test_scalars_are_written_to_a_new_file(tmp_path, monkeypatch, make):
    """The name of the events file was predictable, so that a link of this name was followed."""
    workdir, other = tmp_path / "run", tmp_path / "other"
    (workdir / "tensorboard").mkdir(parents=True)
    now = 1_800_000_000
    monkeypatch.setattr(time, "time", lambda: now + 0.5)
    taken = workdir / "tensorboard" / f"events.out.tfevents.{now}.{socket.gethostname()}"
    if make != "dangling link":
        other.write_text("precious")
    other.rename(taken) if make == "file" else taken.symlink_to(other)
    resume_run(workdir)
    assert len(list((workdir / "tensorboard").iterdir())) == 2
    assert not other.exists() if make == "dangling link" else taken.read_text() == "precious"


def test_a_profile_is_written_to_a_new_folder(tmp_path, monkeypatch):
    workdir, other = tmp_path / "run", tmp_path / "other"
    profiles = workdir / "tensorboard" / "plugins" / "profile"
    profiles.mkdir(parents=True)
    other.mkdir()
    (profiles / "2026_01_01_00_00_00").symlink_to(other)

    def stop_trace():
        """Writes a file as JAX does, with a name that depends on the time only."""
        folder = traced[0] / "plugins" / "profile" / "2026_01_01_00_00_00"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "host.xplane.pb").write_text("a profile")

    traced = []
    monkeypatch.setattr(jax.profiler, "start_trace", traced.append)
    monkeypatch.setattr(jax.profiler, "stop_trace", stop_trace)
    with Observers(workdir, start=0, steps=9, console=Console(quiet=True), timer=Clock(), profiled=(1, 2)) as watch:
        for step in (1, 2, 3):
            watch.profile(step)
    assert not list(other.iterdir())
    assert [path.read_text() for path in profiles.glob("*/host.xplane.pb")] == ["a profile"]


@pytest.mark.parametrize("linked", [False, True])
def test_a_profile_of_a_killed_run_is_removed(tmp_path, linked):
    """Also if the next start of the run records no profile."""
    profiles = tmp_path / "run" / "tensorboard" / "plugins" / "profile"
    profiles.parent.mkdir(parents=True)
    if linked:
        (tmp_path / "other").mkdir()
        profiles.symlink_to(tmp_path / "other")
    part = profiles / f".2026.hyperseg-{'0' * 8}-aaaaaaaa"
    (part / "new").mkdir(parents=True)
    for path in (part / "new", part):
        os.utime(path, (1e9, 1e9))
    resume_run(tmp_path / "run")
    assert part.exists() == linked


def test_folders_with_the_names_of_logs_are_moved_aside(small_system, micro, tmp_path):
    names = ("sharding.txt", "loss.png", "predictions.png", "metrics.jsonl", "unreadable_records.txt")
    for name in names:
        (tmp_path / name / "x").mkdir(parents=True)
    console = Console(record=True, file=io.StringIO(), width=300)
    train(micro(train__steps=2, train__eval_every=2), tmp_path, console=console)
    output = console.export_text()
    assert all((tmp_path / name).is_file() for name in names[:-1])
    assert all((tmp_path / f"{name}.damaged-0" / "x").is_dir() for name in names)
    assert all(f"{tmp_path / name}.damaged-0: was not a" in output for name in names)


def test_a_folder_in_the_place_of_the_stacks_is_moved_aside(tmp_path, capfd):
    file = tmp_path / "stacks-0.txt"
    file.mkdir()
    with Watchdog(0.2, file) as watchdog:
        watchdog.beat()
        time.sleep(0.6)
    assert "nothing has finished" in file.read_text() and "not written" not in capfd.readouterr().err
