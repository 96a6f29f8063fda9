"""Slow: toy trainings beat every trivial baseline. One seed only, since a run takes half an hour."""

import json
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


@pytest.fixture(scope="module")
def larger_world(tmp_path_factory):
    """Images for objects and captions, which need more than texts do."""
    folder = tmp_path_factory.mktemp("toys") / "world"
    return toy.write_world(folder, train=6000, val=200, compositional=0, clips=4, log=lambda _: None)


def hyperseg(*arguments):
    """Runs a command of the package with XLA's optimizations: a step takes a third of the time."""
    command = "from hyperseg_jax.commands.main import main; main()"
    subprocess.run([sys.executable, "-c", command, *map(str, arguments)], env=os.environ | {"XLA_FLAGS": ""}, check=True)


def train(config_name, steps, world, workdir, **changed):
    """Returns the engine and the tasks of a run of a shipped config; changed: fields of the config besides steps, data and
    evaluation interval."""
    changed |= {"train.steps": steps, "data.root": world, "train.eval_examples": 8, "train.eval_every": steps}
    overrides = [f"{name}={value}" for name, value in changed.items()]
    hyperseg("train", "--config", config_name, "--workdir", workdir, *(f"--config.{one}" for one in overrides))
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


def evaluate_benchmarks(config_name, world, workdir, *names, **changed):
    """Returns the scores of benchmarks and of their baselines. changed: fields of the config."""
    out = workdir / "-".join(["scores", *map(str, changed.values())])
    sources = ["--config", config_name, "--checkpoint", workdir, "--data-root", world]
    sources += [f"--config.{field}={value}" for field, value in changed.items()]
    hyperseg("evaluate", *sources, "--benchmarks", ",".join(names), "--baselines", "--out", out)
    content = json.loads((out / "scores.json").read_text())
    print(json.dumps({key: content[key] for key in ("scores", "baselines")}, indent=1))
    return content["scores"], content["baselines"]


@pytest.mark.slow
def test_seem_beats_what_needs_no_model(larger_world, tmp_path):
    """Clicks beside a disc and the mean mask around them, classes beside the most frequent one, and phrases beside what ignores
    them."""
    engine, tasks = train("seem_tiny", 2500, larger_world, tmp_path)
    scores, baselines = evaluate_benchmarks("seem_tiny", larger_world, tmp_path, "toy_clicks", "toy_panoptic")
    clicks, trivial = scores["toy_clicks"], baselines["toy_clicks"].values()
    assert clicks["noc@50"] < 0.8 * min(each["noc@50"] for each in trivial)
    assert all(clicks[name] < min(each[name] for each in trivial) - 0.5 for name in ("noc@85", "noc@90"))
    assert all(clicks[name] > 1.1 * max(each[name] for each in trivial) for name in ("iou@1", "iou@3", "iou@5"))
    assert scores["toy_panoptic"]["pq"] > 2 * max(each["pq"] for each in baselines["toy_panoptic"].values())
    controls = referring_with_controls(engine, tasks["referring"])
    print(controls.lines())
    assert beats_text_blind(controls), controls.lines()


@pytest.mark.slow
def test_sca_describes_regions_in_two_stages(larger_world, tmp_path):
    """Masks and category names, then captions, beside captions of other regions and the best ones that ignore the region."""
    names, captions = tmp_path / "names", tmp_path / "captions"
    train("sca_tiny_weak", 1500, larger_world, names)
    train("sca_tiny", 2000, larger_world, captions, init_from=names)
    scores = evaluate_benchmarks("sca_tiny", larger_world, captions, "toy_captions")[0]["toy_captions"]
    assert scores["cider"] > 1.2 * max(scores["cider_blind"], scores["cider_swapped"]), scores


@pytest.mark.slow
def test_ifseg_segments_without_a_mask_of_training(larger_world, tmp_path):
    """Captions teach words to the image encoder, and images of words teach class names to the rest. All 47 classes are listed
    for every image. Beside the most frequent class, and what captions alone have taught."""
    words, adapted = tmp_path / "words", tmp_path / "adapted"
    train("ifseg_tiny_captions", 4000, larger_world, words)
    classes = ",".join(toy.open_reader(larger_world, "panoptic", "val").classes)
    recipe = [f"--config.{field}" for field in ("optimizer.learning_rate=1e-3", "train.preset=single")]
    hyperseg("adapt", "--model", words, "--classes", classes, "--out", adapted, "--steps", 1000, "--batch-size", 8, *recipe)

    def score(workdir, scores, rounds):
        fields = {"model.scores": scores, "model.smoothing.rounds": rounds}
        by_name = evaluate_benchmarks("ifseg_tiny_captions", larger_world, workdir, "toy_semantic_all", **fields)
        own, trivial = (each["toy_semantic_all"] for each in by_name)
        return own["miou"], max(each["miou"] for each in trivial.values())

    found = {rounds: score(adapted, "decoder", rounds)[0] for rounds in (0, 25)}
    captions, most_frequent = score(words, "embedding", 0)
    print(f"mIoU {found[0]:.3f}, smoothed {found[25]:.3f}; of captions alone {captions:.3f}; constant {most_frequent:.3f}")
    assert found[0] > 10 * most_frequent and captions > 10 * most_frequent
    assert found[0] > 0.8 * captions
