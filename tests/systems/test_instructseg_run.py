"""InstructSeg trains, validates, resumes, evaluates and predicts by the shared rooms."""

import copy
import json

import numpy as np
import pytest
from instructseg_config import small_config

from hyperseg_jax import config as configs
from hyperseg_jax.data import sources
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation import benchmark_run, benchmarks
from hyperseg_jax.predictors.model import Model
from hyperseg_jax.systems import system as systems
from hyperseg_jax.toy.samples import write_samples
from hyperseg_jax.training.loop import train
from hyperseg_jax.weights import model_folder

SYSTEM = systems.get("instructseg")


@pytest.fixture(scope="module")
def workdir(world, tmp_path_factory):
    frozen = {"pattern": r"(clip_encoder|mask_encoder|projector)/.*", "rate": 0.0, "decay": 0.0}
    fields = {"data__root": str(world), "train__steps": 6, "train__batch_size": 2, "train__log_every": 1}
    fields |= {"train__save_every": 3, "train__eval_every": 6, "train__eval_examples": 2, "optimizer__warmup_steps": 2}
    config = small_config(**fields).unlock()
    config.optimizer.param_groups = (frozen, *config.optimizer.param_groups)
    for name, ratio in {"referring": 1, "reasoning": 0, "video": 1, "chat": 1}.items():
        config.data.tasks[name].ratio = ratio
    folder = tmp_path_factory.mktemp("instructseg") / "run"
    train(config.lock(), folder)
    return folder


def test_training_and_validation(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    trained = {line["task"]: set(line) for line in lines if line["kind"] == "train"}
    assert trained.keys() == {"referring", "video", "chat"}
    assert "mask" in trained["video"] and "text" not in trained["video"] and "text" in trained["chat"]
    scores = {line["task"]: line for line in lines if line["kind"] == "validation"}
    assert 0 <= scores["referring"]["giou"] <= 1 and 0 <= scores["video"]["jf"] <= 1 and "reasoning" in scores
    assert (workdir / "predictions.png").exists()


def test_a_run_starts_from_another_system():
    """From the modules that it shares with `tiny`; without the lists of the others, it is refused."""
    config = configs.load("instructseg_tiny").unlock()
    with pytest.raises(UserError, match="unknown: perceiver/"):
        initial_params(config, init_ignored=())
    with pytest.raises(UserError, match="missing: fused_projector/bias"):
        initial_params(config, init_optional=())
    params = initial_params(config)
    assert params["llm"]["tokens"]["embedding"].shape == (576, 128) and "perceiver" not in params


def initial_params(config, **fields):
    config = copy.deepcopy(config)
    config.update(fields)
    lists = {"optional": config.init_optional, "ignored": config.init_ignored}
    return model_folder.load_params("tiny", SYSTEM.shapes(config), **lists)


def test_the_recipe_reads_the_sets_of_the_authors(tmp_path):
    """RefCOCO, RefCOCO+ and RefCOCOg; of each video of ReVOS an expression with objects."""
    write_samples(tmp_path)
    train = {
        name: sources.open_reader(name, task.reader, task.train.to_dict(), str(tmp_path))
        for name, task in configs.load("instructseg_3b").data.tasks.items()
    }
    referring = train["referring"]
    assert {referring[k].name.split("_train")[0] for k in range(len(referring))} == {"refcoco", "refcoco+", "refcocog"}
    videos = json.loads((tmp_path / "revos" / "meta_expressions_train_.json").read_text())["videos"]
    assert len(train["video"]) == len(videos) < sum(len(video["expressions"]) for video in videos.values())
    assert all(train["video"][k].prompts[0].masks.any() for k in range(len(videos)))


def test_prediction_and_chat(workdir):
    model, rng = Model.load(workdir), np.random.default_rng(0)
    (segment,) = model.segment(rng.integers(0, 255, (40, 70, 3), np.uint8), "the red ring", no_target_threshold=None)
    assert segment.mask.shape == (40, 70) and 0 <= segment.score <= 1
    frames = rng.integers(0, 255, (6, 30, 40, 3), np.uint8)
    for reasoning in (False, True):
        results = list(model.segment_video(frames, "what moves?", reasoning=reasoning, no_target_threshold=None))
        assert [len(prediction) for _, prediction in results] == [1] * 6
        np.testing.assert_array_equal(np.stack([frame for frame, _ in results]), frames)
    assert isinstance(model.chat(frames[0], "What is it?", max_new_tokens=3), str)


def test_benchmarks(workdir):
    model = Model.load(workdir)
    for name, score in (("toy_referring", "giou"), ("toy_video", "jf"), ("toy_reasoning", "giou")):
        benchmark = benchmarks.BENCHMARKS[name]
        task = benchmarks.open_task(name, benchmark, model.config, SYSTEM, model.config.data.root)
        result = benchmark_run.run(model.engine, benchmark, task, limit=2, batch_size=2)
        assert 0 <= result.scorer.compute()[score] <= 1 and result.done == 2
