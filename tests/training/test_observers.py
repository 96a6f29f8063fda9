"""What a run shows and leaves behind: means by task, rates, what is compiled, plots."""

import io
import json
import resource

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from hyperseg_jax.evaluation import score_names
from hyperseg_jax.training import plots
from hyperseg_jax.training.clock import Clock
from hyperseg_jax.training.means import RunningMeans
from hyperseg_jax.training.observers import Observers, read_metrics


def end(watch, step, loss, task="a"):
    """A step that is an interval of its own."""
    watch.add_metrics(task, {"loss": loss})
    watch.end_interval(step, 0.0)


def observed(folder, console=None, **options):
    given = {"start": 0, "steps": 100, "console": console or Console(quiet=True), "timer": Clock(), **options}
    return Observers(folder, **given)


def recorded():
    return Console(record=True, file=io.StringIO(), width=300)


def test_every_task_of_an_interval_has_its_mean(tmp_path):
    console, seen = recorded(), []
    with observed(tmp_path, console, on_metrics=lambda step, counters: seen.append((step, counters))) as watch:
        for step, (task, loss) in enumerate([("a", 1.0), ("b", 5.0), ("a", 2.0), ("a", 3.0)], 1):
            watch.add_metrics(task, {"loss": jnp.float32(loss), "bad": jnp.int32(step), "skipped": jnp.int32(0)})
        watch.end_interval(4, 0.0)
        watch.write_pending()
        end(watch, 5, 7.0, "b")
    lines = [(line["step"], line["task"], line["steps"], line["loss"]) for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert lines == [(4, "a", 3, 2.0), (4, "b", 1, 5.0), (5, "b", 1, 7.0)]
    assert seen[0] == (4, {"skipped": 0.0, "bad": 4.0}), "counters are those of the last step, not means"
    assert "step 4  loss 2.000 (a), 5.000 (b)" in console.export_text()


def test_a_step_that_is_not_finite_is_in_no_mean():
    means = RunningMeans()
    for loss in (1.0, float("nan"), 4.0, float("inf")):
        means.add("a", {"loss": jnp.float32(loss)})
    means.add("b", {"loss": jnp.float32("nan")})
    told = means.compute()
    assert told["a"] == {"steps": 4, "loss": 2.5} and np.isnan(told["b"]["loss"])


def test_means_go_on_from_their_state_bit_equal():
    values = np.random.default_rng(0).normal(size=9).astype(np.float32)
    whole, half = RunningMeans(), RunningMeans()
    for k, value in enumerate(values):
        if k == 4:
            half = RunningMeans(json.loads(json.dumps(half.state())))
        for means in (whole, half):
            means.add("a", {"loss": jnp.asarray(value), "mask": jnp.asarray(value * 3)})
    assert half.state() == whole.state() and half.compute() == whole.compute()
    assert whole.compute()["a"]["loss"] == pytest.approx(values.mean(), rel=1e-5)


def test_steps_a_second_leave_out_compilation_and_validation(tmp_path, seconds):
    timer = Clock()
    with observed(tmp_path, timer=timer) as watch:
        for task, compiles in [("a", True), ("a", False), ("b", True), ("b", False), ("a", False)]:
            if compiles:
                timer.begin("compile")
                seconds(60)
            timer.begin("step")
            seconds(0 if compiles else 2)
            watch.add_metrics(task, {"loss": 1.0}, timed=not compiles)
        timer.begin("evaluation")
        seconds(500)
        timer.begin("data")
        watch.end_interval(5, 0.0)
        watch.write_pending()
        timer.begin("compile")
        seconds(60)
        timer.begin("step")
        watch.add_metrics("c", {"loss": 1.0}, timed=False)
        watch.end_interval(6, 0.0)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert {line["steps_per_second"] for line in lines[:2]} == {0.5}, "three steps of two seconds"
    assert "steps_per_second" not in lines[2], "no step of this interval tells"


def test_what_is_compiled_is_said_before_and_how_long_it_took_after(tmp_path, seconds):
    console = recorded()
    with observed(tmp_path, console) as watch:
        with watch.compiling("the train step of a"):
            before = console.export_text(clear=False)
            seconds(83)
        watch.begin_validation()
        seconds(40)
        watch.validating("a", 12, 24)
        seconds(1)
        watch.validating("a", 24, 24)
        seconds(9)
        watch.validating("b", 12, 12)
        watch.begin_validation()
        watch.validating("a", 12, 24)
    told = console.export_text()
    assert "compiling the train step of a" in before and "compiled" not in before
    assert "compiled the train step of a in 83.0 s" in told
    assert "validating; the first validation compiles a program for each task" in told
    assert "validation of a: compiled and ran the first batch in 40.0 s" in told
    assert "validation of b: compiled and ran the first batch in 9.0 s" in told
    assert told.count("ran the first batch") == 2 and told.count("the first validation") == 1


@pytest.mark.parametrize("kind", ["referring", "video", "region", "panoptic"])
def test_the_plot_draws_the_headline_score_of_every_kind_of_task(tmp_path, kind, monkeypatch):
    """The scores that validation writes for the task, and no list of names of our own."""
    drawn = []
    saved = plots.saved_panels

    def looked_at(*given):
        context = saved(*given)
        panels = context.__enter__()
        drawn.append(panels)
        return type("Context", (), {"__enter__": lambda _: panels, "__exit__": lambda _, *e: context.__exit__(*e)})()

    monkeypatch.setattr(plots, "saved_panels", looked_at)
    scores = dict.fromkeys(score_names.validation_scores(kind), 0.25)
    with observed(tmp_path, headlines=score_names.headlines()) as watch:
        end(watch, 1, 1.0, "mine")
        watch.write_pending()
        watch.scores(1, {"mine": scores})
        watch.scores(2, {"mine": scores})
    (line,) = drawn[0][0][1].lines
    wanted = {"referring": "giou", "video": "jf", "region": "miou", "panoptic": "pq"}[kind]
    assert line.get_label() == f"mine {wanted}" and list(line.get_ydata()) == [0.25, 0.25]
    with Image.open(tmp_path / "loss.png") as image:
        assert image.size[0] > 1000
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_lines_after_the_checkpoint_and_torn_lines_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"kind": "train", "step": step, "task": "a", "loss": 1.0}) for step in (1, 2, 3)]
    path.write_text("\n".join([*rows, '{"kind": "tr']))
    with observed(tmp_path, start=2, steps=5) as watch:
        end(watch, 3, 0.5)
    assert [(line["step"], line["loss"]) for line in read_metrics(path)] == [(1, 1.0), (2, 1.0), (3, 0.5)]


def test_a_full_disk_costs_lines_and_not_the_run(tmp_path):
    console = Console(record=True, file=io.StringIO(), width=300)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with observed(tmp_path, console) as watch:
        end(watch, 1, 1.0)
        watch.write_pending()
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))
        try:
            for step in range(2, 40):
                end(watch, step, 1.0)
                watch.write_pending()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        end(watch, 40, 1.0)
    assert console.export_text().count("metrics cannot be written (File too large)") == 1
    steps = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps[0] == 1 and steps[-1] == 40


def test_a_profile_of_chosen_steps_lands_in_the_tensorboard_folder(tmp_path):
    written = lambda: [path for path in (tmp_path / "tensorboard").rglob("*.xplane.pb")]
    with observed(tmp_path, profiled=(3, 4)) as watch:
        for step in range(1, 7):
            watch.profile(step)
            jnp.arange(3).block_until_ready()
            assert len(written()) == (step > 4)
    assert written()[0].relative_to(tmp_path / "tensorboard").parts[:2] == ("plugins", "profile")
