"""Systems from files under tests alone train, validate, evaluate, predict, export, come back, and are planned for: shared rooms
know no system."""

import json

import jax
import numpy as np
import pytest
from pebble import PEBBLE
from safetensors.numpy import load_file

from hyperseg_jax import config as configs
from hyperseg_jax.evaluation import benchmark_run, benchmarks
from hyperseg_jax.planning import compile as planning
from hyperseg_jax.predictors.model import Model
from hyperseg_jax.systems import system as systems
from hyperseg_jax.training.loop import train
from hyperseg_jax.weights.exporting import export_weights
from hyperseg_jax.weights.importing import import_weights

systems.register(PEBBLE)


@pytest.fixture(scope="module")
def config(world, tmp_path_factory):
    """A config file of its own, as a user would write it."""
    tiny = configs.load("tiny").unlock()
    shared = {name: tiny[name].to_dict() for name in ("hosts", "train", "optimizer")}
    shared["train"] |= {"steps": 12, "batch_size": 4, "log_every": 4, "save_every": 6, "eval_every": 12, "eval_examples": 4}
    shared["optimizer"] |= {"groups": ({"pattern": ".*"},), "learning_rate": 1e-2, "warmup_steps": 2}
    task = {"folder": "{root}", "task": "referring", "group_by_image": True, "prompts_per_example": 2}
    clip = {"folder": "{root}", "task": "video", "frames": 2}
    data = {name: tiny.data[name] for name in ("workers", "mirror", "augment", "cuts", "batches", "bad_share", "first", "toy")}
    data = {name: value.to_dict() if hasattr(value, "to_dict") else value for name, value in data.items()}
    data |= {
        "root": str(world),
        "first": {"task": "", "share": 0.0},
        "tasks": {
            "referring": {
                "reader": "toy",
                "ratio": 1,
                "train": {**task, "split": "train"},
                "val": {**task, "split": "val"},
                "height": 64,
                "width": 96,
                "prompts": 2,
            },
            "video": {
                "reader": "toy",
                "ratio": 1,
                "train": {**clip, "split": "train"},
                "val": {**clip, "split": "val"},
                "frames": 2,
            },
        },
    }
    fields = {
        "system": "pebble",
        "seed": 0,
        "init_from": "",
        "init_fresh": (),
        "model": {"width": 8, "vocabulary": 640},
        "loss": {},
        "data": data,
        **shared,
    }
    file = tmp_path_factory.mktemp("own") / "pebbles.py"
    file.write_text(f"import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict({fields!r})\n")
    return configs.load(str(file))


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    home = tmp_path_factory.mktemp("pebbles") / "run"
    train(config, home)
    return home


def test_it_trains_and_validates(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert {line["task"] for line in lines if line["kind"] == "train"} == {"referring", "video"}
    scores = {line["task"]: line for line in lines if line["kind"] == "validation"}
    assert 0 <= scores["referring"]["giou"] <= 1 and 0 <= scores["video"]["jf"] <= 1
    assert (workdir / "predictions.png").exists() and (workdir / "loss.png").exists()


def test_it_predicts_at_any_size(workdir):
    model, rng = Model.load(workdir), np.random.default_rng(0)
    for size in ((40, 70), (200, 130)):
        (segment,) = model.segment(rng.integers(0, 255, (*size, 3), np.uint8), "the red ring")
        assert segment.mask.shape == size and 0 <= segment.score <= 1
    frames = rng.integers(0, 255, (3, 60, 60, 3), np.uint8)
    assert len(list(model.segment_clip(frames, "the star that moves"))) == 3
    with pytest.raises(Exception, match="no answer of the kind 'panoptic'"):
        model.segment_classes(frames[0], ["ring"])


def test_a_benchmark_is_evaluated(config, workdir):
    model, system = Model.load(workdir), systems.get("pebble")
    line = benchmarks.BENCHMARKS["toy_referring"]
    task = benchmarks.open_task("toy_referring", line, config, system, config.data.root)
    found = benchmark_run.run(model.engine, line, task, limit=3, batch_size=2)
    assert found.scorer.compute()["count"] >= 3


def test_it_is_exported_and_comes_back(config, workdir, tmp_path):
    export_weights(workdir, tmp_path / "theirs")
    tensors = load_file(next((tmp_path / "theirs").glob("*.safetensors")))
    assert set(tensors) == {"stem.weight", "words.weight", "momentum"} and tensors["stem.weight"].shape == (8, 3, 4, 4)
    import_weights([tmp_path / "theirs"], config, tmp_path / "ours")
    again, first = Model.load(tmp_path / "ours"), Model.load(workdir)
    jax.tree.map(np.testing.assert_array_equal, again.params, first.params)


def test_it_is_planned_for(config):
    wide = config.copy_and_resolve_references().unlock()
    wide.train.update({"preset": "data", "batch_size": 8})
    found = planning.plan(wide, "referring", jax.devices()[:8])
    assert found.memory.needed > 0 and found.mesh == {"data": 8}
