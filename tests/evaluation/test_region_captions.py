"""Benchmarks of region captions, from files to scores, with texts that depend on the region alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scribe import SCRIBE, SIDE
from write_config import write_config

from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation import benchmark_run, benchmarks, protocols
from hyperseg_jax.evaluation.benchmarks import BENCHMARKS
from hyperseg_jax.evaluation.caption_tools import Tools
from hyperseg_jax.evaluation.engine import Engine
from hyperseg_jax.evaluation.scoring import Scorer
from hyperseg_jax.evaluation.validation import evaluate
from hyperseg_jax.results.answers import Answer, Answers, Thresholds
from hyperseg_jax.results.mask_resize import resize_masks
from hyperseg_jax.structs import Example, Prediction, Prompt, Region
from hyperseg_jax.systems import system as systems
from hyperseg_jax.toy.samples import write_samples

systems.register(SCRIBE)
NAMES = [name for name, line in BENCHMARKS.items() if line.task == "caption"]
FIRST = 300


@pytest.fixture(scope="module")
def samples(tmp_path_factory, world):
    """The root folders of all data: of real layouts, and of a toy world."""
    root = tmp_path_factory.mktemp("samples")
    write_samples(root / "data", count=3)
    return {"benchmark": root / "data", "toy": world}


@pytest.fixture(scope="module")
def config(samples, tmp_path_factory):
    task = {"reader": "toy", "ratio": 1, "train": {"folder": "{root}", "task": "caption", "split": "train"}}
    root = tmp_path_factory.mktemp("config")
    return write_config(root, "scribe", {"width": 4, "vocabulary": 640}, samples["toy"], {"caption": task})


def write(params, batch, features, seeds, decoding):
    """Generates one word for each region, by its pixels."""
    regions = np.asarray(batch["regions"])
    codes = (regions * np.arange(regions.shape[-1] ** 2).reshape(regions.shape[-2:])).sum((-2, -1)) % 300
    return np.stack([FIRST + codes, np.full_like(codes, decoding.end_id)], -1)


def predict(params, batch, features, memory):
    """Predicts the marked pixels of each region."""
    return {"mask_logits": jnp.where(jnp.asarray(batch["regions"]), 8.0, -8.0)[:, None]}, None


def select(outputs, resize, thresholds):
    return {"mask": resize_masks(outputs["mask_logits"], resize) > 0}


def cut(selected, prompt, geometry, thresholds):
    height, width = geometry.original
    return Prediction(selected["mask"][: len(prompt.regions), :height, :width])


THRESHOLDS = Thresholds(None, 0.5, 0.8)
ENGINE = Engine(predict, write, Answers({"regions": Answer(select, cut)}, THRESHOLDS, THRESHOLDS), None)


def open_task(name, config, samples):
    line = BENCHMARKS[name]
    return benchmarks.open_task(name, line, config, systems.get("scribe"), str(samples[line.reader]))


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_of_captions(samples, config, tmp_path, name):
    task, line = open_task(name, config, samples), BENCHMARKS[name]
    first, repeated = (
        benchmark_run.run(ENGINE, line, task, batch_size=2, limit=3, state_file=tmp_path / "kept.json") for _ in range(2)
    )
    scores = first.scorer.compute()
    regions = sum(len(task.val[k].prompts[0].regions) for k in range(first.done))
    assert scores["count"] == regions >= 5 and 0 <= scores["rouge_l"] <= 1 and scores["cider"] >= 0
    assert repeated.resumed == first.done and repeated.scorer.compute() == scores
    kinds = {region.kind for region in task.val[0].prompts[0].regions}
    assert kinds == {"point" if name.endswith(("point", "centre")) and "predicted" not in name else "box"}
    first.cases.save_sheet(tmp_path / "sheet.png", task.val)
    assert (tmp_path / "sheet.png").exists() and not first.rows


def run_captions(task, line, **options):
    result = benchmark_run.run(ENGINE, line, task, batch_size=2, **options)
    return result.scorer.state()["captions"]["examples"]


def test_texts_belong_to_their_regions_in_any_number_of_queries(samples, config, monkeypatch):
    """Each example is asked in several queries, which are encoded as one image; padding has no text."""
    task, line = open_task("toy_captions", config, samples), BENCHMARKS["toy_captions"]
    whole = run_captions(task, line)
    regions = {example.name: example.prompts[0].captions for example in task.val}
    assert {name: tuple(tuple(truth) for _, truth in rows) for name, rows in whole.items()} == regions
    assert len({text for rows in whole.values() for text, _ in rows}) > 10  # else nothing was told
    for most in (1, 2, 4):
        monkeypatch.setattr(protocols, "REGIONS", most)
        assert run_captions(task, line) == whole
    queries = protocols.RegionTexts(task.val[0], lambda prompt, outputs: Prediction(np.zeros((0, 1, 1), bool)))
    sizes = [len(queries.prompt_at(k).regions) for k in range(queries.prompts)]
    assert sum(sizes) == len(task.val[0].prompts[0].regions) and max(sizes) <= 4 and queries.steps == 1
    asked = queries.prepare_query(0, 0, lambda example: example.prompts[0])
    assert asked.captions == () and len(asked.regions) == sizes[0]


def test_points_in_predicted_masks(samples, config, monkeypatch):
    """The texts are of points in the masks that were predicted from the boxes, in any number of queries."""
    name, asked = "toy_captions_predicted_point", []

    def record(params, batch, *inputs):
        asked.append(np.array(batch["regions"]))
        return write(params, batch, *inputs)

    task, line, engine = open_task(name, config, samples), BENCHMARKS[name], dataclasses.replace(ENGINE, write=record)
    run = lambda: benchmark_run.run(engine, line, task, batch_size=1, limit=1).scorer.state()["captions_of_predicted_points"]
    first, (marks,) = run(), asked
    assert first == run()
    (prompt,), size = task.val[0].prompts, task.val[0].frames.shape[1]
    boxes = [region.boxes[0] * SIDE / size for region in prompt.regions]
    for (left, top, right, bottom), mark in zip(boxes, marks[0, 0], strict=False):
        (y, x), area = np.argwhere(mark).mean(0) + 0.5, (right - left) * (bottom - top)
        assert left - 1 <= x <= right + 1 and top - 1 <= y <= bottom + 1 and 0 < mark.sum() < area
    monkeypatch.setattr(protocols, "REGIONS", 2)
    asked.clear()
    assert len(run()["examples"][task.val[0].name]) == len(boxes) and len(asked) == -(-len(boxes) // 2)
    nothing = dataclasses.replace(ENGINE, predict=lambda *_: ({"mask_logits": jnp.full((1, 1, 1, 16, SIDE, SIDE), -8.0)}, None))
    monkeypatch.setattr(protocols, "REGIONS", 16)
    empty = benchmark_run.run(nothing, line, task, batch_size=1, limit=1).scorer.compute()
    boxed = benchmark_run.run(ENGINE, BENCHMARKS["toy_captions"], task, batch_size=1, limit=1).scorer.compute()
    assert empty == boxed  # without a mask, a region keeps its box
    with pytest.raises(UserError, match="this system predicts no masks; request text instead"):
        benchmark_run.run(dataclasses.replace(ENGINE, predict=None), line, task)


def test_validation_scores_captions(samples, config):
    task = open_task("toy_captions", config, samples)
    scores = evaluate(ENGINE, {"caption": task}).scores["caption"]
    assert scores == benchmark_run.run(ENGINE, BENCHMARKS["toy_captions"], task, batch_size=2).scorer.compute()
    limited = evaluate(ENGINE, {"caption": task}, limit=2).scores["caption"]
    assert 0 < limited["count"] < scores["count"]


def test_controls_come_with_the_final_scores(samples, config, monkeypatch):
    monkeypatch.setenv("PATH", "")
    task, line = open_task("toy_captions", config, samples), BENCHMARKS["toy_captions"]
    result, lines = benchmark_run.run(ENGINE, line, task), []
    final = result.scorer.finish(Tools(), lines.append)
    assert final["cider_blind"] > 1 > result.scorer.compute()["cider"] and len(lines) == 2
    assert Scorer({"caption": "captions"}).finish(Tools(), lines.append) == {}
    truth = Scorer({"caption": "captions"})
    for example in task.val:
        (prompt,) = example.prompts
        texts = tuple(texts[0] for texts in prompt.captions)
        truth.add(example.name, prompt, [Prediction(np.zeros((0, 1, 1), bool), texts=texts)])
    final = truth.finish(Tools(), lines.append)
    assert truth.compute()["cider"] > 2 * final["cider_blind"] > 2 * final["cider_swapped"] > 0


def test_captions_that_cannot_be_scored(samples, config):
    task = open_task("toy_captions", config, samples)
    unknown = [
        dataclasses.replace(example, prompts=(dataclasses.replace(example.prompts[0], captions=()),)) for example in task.val
    ]
    with pytest.raises(
        UserError, match=r"record 0: a caption prompt without captions cannot be scored; its reader must return"
    ):
        benchmark_run.run(ENGINE, BENCHMARKS["toy_captions"], dataclasses.replace(task, val=unknown))
    silent = dataclasses.replace(ENGINE, write=None)
    with pytest.raises(UserError, match="this system writes no text; request masks instead"):
        benchmark_run.run(silent, BENCHMARKS["toy_captions"], task)


def test_one_prompt_without_regions_has_one_text():
    example = Example(
        "it",
        np.zeros((1, 8, 8, 3), np.uint8),
        (Prompt("caption"), Prompt("caption", regions=(Region.from_box(0, 0, 4, 4),) * 3)),
    )
    texts = iter(("a", "b", "c", "d"))
    protocol = protocols.RegionTexts(
        example, lambda prompt, n: Prediction(np.zeros((0, 8, 8), bool), texts=tuple(next(texts) for _ in range(n)))
    )
    for k, count in enumerate((1, 3)):
        protocol.add_outputs(k, count)
    assert [prediction.texts for _, (prediction,) in protocol.answers()] == [("a",), ("b", "c", "d")]
    assert jax.tree.leaves([prediction.masks.shape for _, (prediction,) in protocol.answers()]) == [0, 8, 8] * 2
