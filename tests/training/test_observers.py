"""Output of a run: means by task, rates, compilation messages and plots."""

import contextlib
import io
import json
import resource

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from hyperseg_jax.evaluation import score_names
from hyperseg_jax.systems import system as systems
from hyperseg_jax.training import observers, plots
from hyperseg_jax.training.clock import Clock
from hyperseg_jax.training.means import RunningMeans
from hyperseg_jax.training.observers import Observers, read_valid_lines


def end_step(watch, step, loss, task="a"):
    """Ends a step and its interval."""
    watch.add_metrics(task, {"loss": loss})
    watch.end_interval(step, 0.0)


def make_observer(folder, console=None, **options):
    kwargs = {"start": 0, "steps": 100, "console": console or Console(quiet=True), "timer": Clock(), **options}
    return Observers(folder, **kwargs)


def recording_console():
    return Console(record=True, file=io.StringIO(), width=300)


def test_means_are_by_task(tmp_path):
    console, seen = recording_console(), []
    with make_observer(tmp_path, console, on_metrics=lambda step, counters: seen.append((step, counters))) as watch:
        for step, (task, loss) in enumerate([("a", 1.0), ("b", 5.0), ("a", 2.0), ("a", 3.0)], 1):
            watch.add_metrics(task, {"loss": jnp.float32(loss), "bad": jnp.int32(step), "skipped": jnp.int32(0)})
        watch.end_interval(4, 0.0)
        watch.write_pending()
        end_step(watch, 5, 7.0, "b")
    lines = [
        (line["step"], line["task"], line["steps"], line["loss"]) for line in list(read_valid_lines(tmp_path / "metrics.jsonl"))
    ]
    assert lines == [(4, "a", 3, 2.0), (4, "b", 1, 5.0), (5, "b", 1, 7.0)]
    assert seen[0] == (4, {"skipped": 0.0, "bad": 4.0}), "counters are those of the last step, not means"
    assert "step 4  loss 2.000 (a), 5.000 (b)" in console.export_text()


def test_non_finite_steps_are_excluded_from_means():
    means = RunningMeans()
    for loss in (1.0, float("nan"), 4.0, float("inf")):
        means.add("a", {"loss": jnp.float32(loss)})
    means.add("b", {"loss": jnp.float32("nan")})
    messages = means.compute()
    assert messages["a"] == {"steps": 4, "loss": 2.5} and np.isnan(messages["b"]["loss"])


def test_means_resume_bit_equal():
    values = np.random.default_rng(0).normal(size=9).astype(np.float32)
    full, half = RunningMeans(), RunningMeans()
    for k, value in enumerate(values):
        if k == 4:
            half = RunningMeans(json.loads(json.dumps(half.state())))
        for means in (full, half):
            means.add("a", {"loss": jnp.asarray(value), "mask": jnp.asarray(value * 3)})
    assert half.state() == full.state() and half.compute() == full.compute()
    assert full.compute()["a"]["loss"] == pytest.approx(values.mean(), rel=1e-5)


def test_steps_per_second_exclude_compilation_and_validation(tmp_path, advance_clock):
    timer = Clock()
    with make_observer(tmp_path, timer=timer) as watch:
        for task, compiles in [("a", True), ("a", False), ("b", True), ("b", False), ("a", False)]:
            if compiles:
                timer.begin("compile")
                advance_clock(60)
            timer.begin("step")
            advance_clock(0 if compiles else 2)
            watch.add_metrics(task, {"loss": 1.0}, timed=not compiles)
        timer.begin("evaluation")
        advance_clock(500)
        timer.begin("data")
        watch.end_interval(5, 0.0)
        watch.write_pending()
        timer.begin("compile")
        advance_clock(60)
        timer.begin("step")
        watch.add_metrics("c", {"loss": 1.0}, timed=False)
        watch.end_interval(6, 0.0)
    lines = list(read_valid_lines(tmp_path / "metrics.jsonl"))
    assert {line["steps_per_second"] for line in lines[:2]} == {0.5}, "three steps of two seconds"
    assert "steps_per_second" not in lines[2], "no step of this interval tells"


def test_compilation_is_reported_before_and_after(tmp_path, advance_clock):
    console = recording_console()
    with make_observer(tmp_path, console) as watch:
        with watch.log_compilation("the train step of a"):
            before = console.export_text(clear=False)
            advance_clock(83)
        watch.begin_validation()
        advance_clock(40)
        watch.show_validation_progress("a", 12, 24)
        advance_clock(1)
        watch.show_validation_progress("a", 24, 24)
        advance_clock(9)
        watch.show_validation_progress("b", 12, 12)
        watch.begin_validation()
        watch.show_validation_progress("a", 12, 24)
    messages = console.export_text()
    assert "compiling the train step of a" in before and "compiled" not in before
    assert "compiled the train step of a in 83.0 s" in messages
    assert "validating; the first validation compiles a program for each task" in messages
    assert "validation of a: compiled and ran the first batch in 40.0 s" in messages
    assert "validation of b: compiled and ran the first batch in 9.0 s" in messages
    assert messages.count("ran the first batch") == 2 and messages.count("the first validation") == 1


@pytest.fixture
def plotted(monkeypatch):
    """The panels of each image that was drawn, by its name."""
    result, saved = {}, plots.saved_panels

    @contextlib.contextmanager
    def record_panels(image, *args):
        with saved(image, *args) as panels:
            result[image.name] = panels
            yield panels

    monkeypatch.setattr(plots, "saved_panels", record_panels)
    return result


@pytest.mark.parametrize("kind", ["referring", "video", "region", "panoptic"])
def test_the_plot_draws_the_headline_score_of_every_kind_of_task(tmp_path, kind, plotted):
    """Plots the scores that validation writes for the task, without a fixed list of names."""
    scores = dict.fromkeys(score_names.validation_scores(systems.get("hyperseg").answers, kind), 0.25)
    with make_observer(tmp_path, headlines=score_names.headline_scores()) as watch:
        end_step(watch, 1, 1.0, "mine")
        watch.write_pending()
        watch.scores(1, {"mine": scores})
        watch.scores(2, {"mine": scores})
    (line,) = plotted["loss.png"][0][1].lines
    expected = {"referring": "giou", "video": "jf", "region": "miou", "panoptic": "pq"}[kind]
    assert line.get_label() == f"mine {expected}" and list(line.get_ydata()) == [0.25, 0.25]
    with Image.open(tmp_path / "loss.png") as image:
        assert image.size[0] > 1000
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def gate_metrics(name, values):
    values = np.asarray(values)
    return {"loss": 1.0, f"gates/{name}/mean": values.mean(), f"gates/{name}/mean_square": (values**2).mean()}


def test_mean_and_spread_of_gates_are_written_and_drawn(tmp_path, plotted, monkeypatch):
    """Over all steps of an interval, in the image also over all tasks; a resumed run continues the curve."""
    values = np.random.default_rng(0).normal(0.2, 0.1, (6, 50))
    board = []
    monkeypatch.setattr(observers.Scalars, "write", lambda self, name, value, step: board.append((name, value, step)))
    with make_observer(tmp_path) as watch:
        for task, row in zip("aab", values[:3], strict=True):
            watch.add_metrics(task, gate_metrics("x/gate", row))
        watch.add_metrics("text", {"loss": 1.0})
        watch.end_interval(4, 0.0)
    with make_observer(tmp_path, start=4) as watch:
        watch.add_metrics("b", gate_metrics("x/gate", values[3]))
        watch.end_interval(5, 0.0)
        watch.write_pending()
        watch.scores(5, {"b": {"ciou": 0.5}})
        watch.add_metrics("b", gate_metrics("y/gate", values[4]))
        watch.end_interval(6, 0.0)
    lines = [line for line in read_valid_lines(tmp_path / "metrics.jsonl") if line["kind"] == "train"]
    assert [line.get("gates/x/gate/mean") for line in lines] == pytest.approx(
        [values[:2].mean(), values[2].mean(), None, values[3].mean(), None]
    )
    spreads = [values[:2].std(), values[2].std(), values[3].std()]
    assert [line["gates/x/gate/spread"] for line in lines if "gates/x/gate/spread" in line] == pytest.approx(spreads, rel=1e-4)
    assert not any("mean_square" in line for line in (*map(json.dumps, lines), *(name for name, _, _ in board)))
    written = [(value, step) for name, value, step in board if name == "train/b/gates/x/gate/spread"]
    assert written == [(lines[1]["gates/x/gate/spread"], 4), (lines[3]["gates/x/gate/spread"], 5)]
    panel = plotted["gates.png"][0][0]
    x, y = panel.lines
    assert (x.get_label(), list(x.get_xdata()), y.get_label(), list(y.get_xdata())) == ("x/gate", [4, 5], "y/gate", [6])
    np.testing.assert_allclose(x.get_ydata(), [values[:3].mean(), values[3].mean()], rtol=1e-5)
    band = panel.collections[0].get_paths()[0].vertices
    for step, drawn in ((4, values[:3]), (5, values[3])):
        heights = band[band[:, 0] == step, 1]
        ends = [drawn.mean() - drawn.std(), drawn.mean() + drawn.std()]
        np.testing.assert_allclose([heights.min(), heights.max()], ends, rtol=1e-4)
    with Image.open(tmp_path / "gates.png") as image:
        assert image.size[0] > 800


def test_no_image_of_gates_without_gates(tmp_path):
    with make_observer(tmp_path) as watch:
        end_step(watch, 1, 1.0)
    assert (tmp_path / "loss.png").exists() and not (tmp_path / "gates.png").exists()


def test_lines_after_the_checkpoint_and_truncated_lines_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"kind": "train", "step": step, "task": "a", "loss": 1.0}) for step in (1, 2, 3)]
    path.write_text("\n".join([*rows, '{"kind": "tr']))
    with make_observer(tmp_path, start=2, steps=5) as watch:
        end_step(watch, 3, 0.5)
    assert [(line["step"], line["loss"]) for line in list(read_valid_lines(path))] == [(1, 1.0), (2, 1.0), (3, 0.5)]


def test_a_folder_in_the_place_of_the_plot_is_moved_aside(tmp_path):
    console = Console(record=True, file=io.StringIO(), width=300)
    (tmp_path / "loss.png").mkdir()
    with make_observer(tmp_path, console) as watch:
        end_step(watch, 1, 1.0)
    assert f"{tmp_path}/loss.png.damaged-0: was not an image; starting a new one" in console.export_text()
    assert (tmp_path / "loss.png").is_file() and (tmp_path / "loss.png.damaged-0").is_dir()


def test_a_full_disk_loses_lines_but_not_the_run(tmp_path):
    console = Console(record=True, file=io.StringIO(), width=300)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with make_observer(tmp_path, console) as watch:
        end_step(watch, 1, 1.0)
        watch.write_pending()
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))
        try:
            for step in range(2, 40):
                end_step(watch, step, 1.0)
                watch.write_pending()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        end_step(watch, 40, 1.0)
    assert console.export_text().count("metrics cannot be written (File too large)") == 1
    steps = [line["step"] for line in list(read_valid_lines(tmp_path / "metrics.jsonl"))]
    assert steps[0] == 1 and steps[-1] == 40


def test_a_profile_of_chosen_steps_lands_in_the_tensorboard_folder(tmp_path):
    list_profiles = lambda: [path for path in (tmp_path / "tensorboard").rglob("*.xplane.pb")]
    with make_observer(tmp_path, profiled=(3, 4)) as watch:
        for step in range(1, 7):
            watch.profile(step)
            jnp.arange(3).block_until_ready()
            assert len(list_profiles()) == (step > 4)
    assert list_profiles()[0].relative_to(tmp_path / "tensorboard").parts[:2] == ("plugins", "profile")


def test_scores_of_many_groups_fit_a_line(tmp_path):
    console = recording_console()
    groups = {f"ciou/group {k}\nerror: made up": 0.5 for k in range(3000)}
    with make_observer(tmp_path, console) as watch:
        watch.scores(4, {"referring": {**groups, "ciou": 0.25}})
    (line,) = read_valid_lines(tmp_path / "metrics.jsonl")
    assert line["ciou"] == 0.25 and 100 < sum("/" in name for name in line) < 3000
    printed = console.export_text()
    assert "scores of groups are left out" in printed and "\nerror: made up" not in printed
