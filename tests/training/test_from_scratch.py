"""Slow: toy trainings beat every baseline that ignores the text. One seed only, since a run takes half an hour."""

import os
import subprocess
import sys

import pytest
from rich.console import Console

from hyperseg_jax import config as configs
from hyperseg_jax import toy
from hyperseg_jax.data import sources
from hyperseg_jax.evaluation.text_controls import ShuffledTexts, referring_with_controls
from hyperseg_jax.evaluation.validation import evaluate
from hyperseg_jax.predictors.model import Model
from hyperseg_jax.systems import system as systems


@pytest.fixture(scope="module")
def small_world(tmp_path_factory):
    """The default toy world with fewer training images: 200 training videos and 40 for validation."""
    folder = tmp_path_factory.mktemp("toys") / "world"
    return toy.write_world(folder, train=2000, val=100, compositional=0, log=lambda _: None)


def train(config_name, steps, world, workdir, **changed):
    """Returns the engine and the tasks of a run of a shipped config; changed: fields of the config besides steps, data and
    evaluation interval."""
    changed |= {"train.steps": steps, "data.root": world, "train.eval_examples": 8, "train.eval_every": steps}
    overrides = [f"{name}={value}" for name, value in changed.items()]
    command = "from hyperseg_jax.commands.main import main; main()"
    arguments = ["train", "--config", config_name, "--workdir", workdir, *(f"--config.{one}" for one in overrides)]
    subprocess.run(
        [sys.executable, "-c", command, *arguments],
        env=os.environ | {"XLA_FLAGS": ""},  # with XLA's optimizations: a step takes a third of the time
        check=True,
    )
    config = configs.load(config_name, overrides)
    tasks = sources.build_tasks(config, systems.get(config.system), console=Console(quiet=True))
    return Model.load(workdir).engine, tasks


def beats_text_blind(controls):
    """Returns whether the scores are better than the best text-blind baseline and than with shuffled texts."""
    return controls.ciou > controls.blind_ciou and controls.ciou > controls.shuffled_ciou


@pytest.mark.slow
def test_training_from_scratch_beats_every_text_blind_baseline(small_world, tmp_path):
    """After a thousand steps the margin is still within the variation between runs."""
    engine, tasks = train("tiny", 1600, small_world, tmp_path)
    controls = referring_with_controls(engine, tasks["referring"])
    print(controls.lines())
    assert beats_text_blind(controls), controls.lines()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["published", "multi_granularity"])
def test_both_text_fusions_beat_every_text_blind_baseline(small_world, tmp_path, form):
    """InstructSeg starts from `tiny`, as its authors start from trained parents; its fusion and object perceiver are new."""
    engine, tasks = train("instructseg_tiny", 600, small_world, tmp_path, **{"model.text_fusion.form": form})
    controls = referring_with_controls(engine, tasks["referring"])
    videos = {"video": tasks["video"]}
    scores = [evaluate(engine, videos, tiles=0, change=change).scores["video"]["jf"] for change in (None, ShuffledTexts)]
    print(controls.lines(), f"J&F of videos {scores[0]:.3f}, with shuffled texts {scores[1]:.3f}")
    assert beats_text_blind(controls), controls.lines()
    assert scores[0] > 1.5 * scores[1], scores
