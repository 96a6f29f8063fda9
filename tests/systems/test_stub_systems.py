"""Stub systems train, validate, evaluate, predict, export, import and are planned: shared rooms do not depend on a system."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from pebble import PEBBLE
from safetensors.numpy import load_file
from scribe import SCRIBE, Names
from write_config import write_config

from hyperseg_jax import config as configs
from hyperseg_jax.data import sources
from hyperseg_jax.datasets import VisualGenome
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation import benchmark_run, benchmarks
from hyperseg_jax.evaluation.engine import AnswerOptions
from hyperseg_jax.planning import compile as planning
from hyperseg_jax.predictors.model import Model
from hyperseg_jax.results.answers import Thresholds
from hyperseg_jax.structs import Example, Prompt, Region
from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import Table
from hyperseg_jax.toy.samples import write_samples
from hyperseg_jax.training.loop import train
from hyperseg_jax.weights.exporting import export_weights
from hyperseg_jax.weights.importing import import_weights

systems.register(PEBBLE)
systems.register(SCRIBE)


def test_data_fields_may_have_system_specific_types():
    tasks = {"referring": {"reader": "toy", "ratio": 1}}
    configs.check_fields({"system": "pebble", "data": {"image_size": (64, 96), "buckets": "none", "tasks": tasks}}, "")
    with pytest.raises(UserError, match=r"data\.workers = 'many'"):
        configs.check_fields({"system": "pebble", "data": {"workers": "many", "tasks": tasks}}, "")


HEADLINES = {"referring": "giou", "video": "jf", "region": "miou", "panoptic": "pq"}


@pytest.fixture(scope="module")
def config(world, tmp_path_factory):
    read = lambda **fields: {
        "reader": "toy",
        "ratio": 1,
        **{part: {"folder": "{root}", "split": part, **fields} for part in ("train", "val")},
    }
    tasks = {
        "referring": {
            **read(task="referring", group_by_image=True, prompts_per_example=2),
            "height": 64,
            "width": 96,
            "prompts": 2,
        },
        "video": {**read(task="video", frames=2), "frames": 2},
        "region": {**read(task="region", kinds=("mask",), max_regions=3), "regions": 3},
        "panoptic": {**read(task="panoptic", max_classes=4), "classes": 4},
    }
    model, often = {"width": 8, "vocabulary": 640}, {"steps": 12, "save_every": 6, "eval_every": 12}
    return write_config(tmp_path_factory.mktemp("own"), "pebble", model, world, tasks, **often)


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pebbles") / "run"
    train(config, folder)
    return folder


def test_training_and_validation(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert {line["task"] for line in lines if line["kind"] == "train"} == {"referring", "video", "region", "panoptic"}
    scores = {line["task"]: line for line in lines if line["kind"] == "validation"}
    assert {name: 0 <= scores[task][name] <= 1 for task, name in HEADLINES.items()} == dict.fromkeys(HEADLINES.values(), True)
    assert (workdir / "predictions.png").exists() and (workdir / "loss.png").exists()


def test_prediction_at_any_size(workdir):
    model, rng = Model.load(workdir), np.random.default_rng(0)
    for size in ((40, 70), (200, 130)):
        (segment,) = model.segment(rng.integers(0, 255, (*size, 3), np.uint8), "the red ring")
        assert segment.mask.shape == size and 0 <= segment.score <= 1
    frames = rng.integers(0, 255, (3, 60, 60, 3), np.uint8)
    assert len(list(model.segment_video(frames, "the star that moves"))) == 3
    segments = model.segment_classes(frames[0], ["ring", "star"], threshold=0.0, overlap=0.0)
    assert len(segments) and {segment.label for segment in segments} <= {"ring", "star"}
    with pytest.raises(UserError, match="does not support answers of kind 'soft_expression'"):
        model.segment(frames[0], "the ring", soft=True)


def test_cached_encodings_change_nothing(workdir):
    """Class names, and regions drawn on another image than the segmented one."""
    model, rng = Model.load(workdir), np.random.default_rng(0)
    one, other = rng.integers(0, 255, (2, 1, 64, 64, 3), np.uint8)
    region = Prompt("region", regions=(Region.from_box(10, 10, 40, 30),))
    requests = [Example("it", one, (region,)), Example("it", one, (region,), drawn_on=other[0])]
    requests.append(Example("it", one, (Prompt("panoptic", classes=("ring", "star"), things=(True, True)),)))
    kinds, masks = ("regions", "regions", "panoptic"), []
    encoded, jitted = [], dict(model.engine.feature_cache._jitted)
    for name, function in jitted.items():
        model.engine.feature_cache._jitted[name] = lambda *args, n=name, f=function: encoded.append(n) or f(*args)
    for example, kind in zip(requests, kinds, strict=True):
        request, _ = model._make_request(example)
        options = AnswerOptions(kind, Thresholds(None, 0.0, 0.0))
        result, _ = model.engine.select(request, options)
        full, _ = model.engine.select(dataclasses.replace(request, cache_features=False), options)
        jax.tree.map(np.testing.assert_array_equal, result, full)
        masks.append(result)
    assert encoded == ["image", "example", "vocabulary", "example", "example", "vocabulary"]
    assert not np.array_equal(masks[0]["mask"], masks[1]["mask"])


def test_a_frame_uses_the_memory_of_the_previous_one(workdir):
    """In a video, the second frame differs from its prediction as an image; the first does not."""
    model, frames = Model.load(workdir), np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    prompt, options = Prompt("video", "the star that moves"), AnswerOptions("expression", Thresholds(None, 0.5, 0.8))

    def prompted(frame, memory):
        request, _ = model._make_request(Example("it", frame[None], (prompt,)))
        return model.engine.select(request, options, memory)

    first, memory = prompted(frames[0], None)
    alone, _ = prompted(frames[1], None)
    second_frame, _ = prompted(frames[1], memory)
    apply = functools.partial(model.engine.predict, model.params)
    batch = model._make_request(Example("it", frames, (prompt,)))[0].batch
    full, _ = apply(batch, {}, None)
    one, kept = apply(model._make_request(Example("it", frames[:1], (prompt,)))[0].batch, {}, None)
    other, _ = apply(model._make_request(Example("it", frames[1:], (prompt,)))[0].batch, {}, kept)
    for t, output in enumerate((one, other)):
        np.testing.assert_allclose(full["mask_logits"][:, t], output["mask_logits"][:, 0], rtol=1e-5, atol=1e-6)
    assert float(alone["score"].item()) != float(second_frame["score"].item()) and not np.array_equal(
        alone["mask"], second_frame["mask"]
    )
    messages = [prediction for _, prediction in model.segment_video(frames, "the star that moves")]
    assert [result[0].score for result in messages] == pytest.approx(
        [first["score"].item(), second_frame["score"].item()], rel=1e-6
    )


@pytest.mark.parametrize("interactive", [False, True])
def test_segment_rounds_encode_the_image_once(workdir, interactive):
    model, image = Model.load(workdir), np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    first, second = Region.from_box(10, 10, 40, 30), Region.from_box(30, 30, 60, 60)
    model.engine = dataclasses.replace(model.engine, interactive=interactive)
    one, two_rounds = model.segment_rounds(image, [[first], [first, second]], labels=())
    assert (one[0].label, [segment.label for segment in two_rounds]) == ("region 1", ["region 1", "region 2"])
    alone = model.segment_regions(image, [first, second])
    assert len(alone) == len(two_rounds) == 2
    assert ([segment.score for segment in alone] == [segment.score for segment in two_rounds]) != interactive
    assert sum(map(len, model.engine.feature_cache._cached.values())) <= 2 * 3


def test_benchmark_evaluation(config, workdir):
    model, system = Model.load(workdir), systems.get("pebble")
    line = benchmarks.BENCHMARKS["toy_referring"]
    task = benchmarks.open_task("toy_referring", line, config, system, config.data.root)
    result = benchmark_run.run(model.engine, line, task, limit=3, batch_size=2)
    assert result.scorer.compute()["count"] >= 3


def test_export_fails_for_parameters_without_a_table_row(workdir, tmp_path, monkeypatch):
    table = Table(row for row in PEBBLE.weight_table(None) if row.names != ("momentum",))
    partial = dataclasses.replace(systems.get("pebble"), weight_table=lambda config: table)
    monkeypatch.setattr(systems, "get", lambda name: partial)
    with pytest.raises(UserError, match="pebble has no names for momentum; add them to its weight table"):
        export_weights(str(workdir), str(tmp_path / "theirs"))
    assert not (tmp_path / "theirs").exists()


def test_systems_of_installed_packages(monkeypatch):
    class Point:
        """An entry point of an installed package."""

        load = staticmethod(lambda: dataclasses.replace(PEBBLE, name="cobble"))

    result = lambda group, name: [Point()] if (group, name) == ("hyperseg_jax.systems", "cobble") else []
    monkeypatch.setattr(systems.importlib.metadata, "entry_points", result)
    monkeypatch.setattr(systems, "_registered", dict(systems._registered))
    assert systems.get("cobble").name == "cobble"
    with pytest.raises(UserError, match=r"'gravel' is not known; .* or install the package that provides it"):
        systems.get("gravel")


def test_export_and_import(config, workdir, tmp_path):
    export_weights(workdir, tmp_path / "theirs")
    tensors = load_file(next((tmp_path / "theirs").glob("*.safetensors")))
    assert set(tensors) == {"stem.weight", "words.weight", "momentum"} and tensors["stem.weight"].shape == (8, 3, 4, 4)
    import_weights([tmp_path / "theirs"], config, tmp_path / "ours")
    repeated, first = Model.load(tmp_path / "ours"), Model.load(workdir)
    jax.tree.map(np.testing.assert_array_equal, repeated.params, first.params)


def test_planning(config):
    wide = config.copy_and_resolve_references().unlock()
    wide.train.update({"preset": "data", "batch_size": 8})
    result = planning.compile_step(wide, "referring", jax.devices()[:8])
    assert result.memory.needed > 0 and result.mesh == {"data": 8}


NAMES = ("ring", "star", "square", "disc", "triangle", "cross")


def read_words(names: str = "", regions: str = "") -> Names | VisualGenome:
    """Reader of the scribe system: names for training, or image regions to describe."""
    return Names(names) if names else VisualGenome(regions, "val")


sources.register_reader("words", read_words)


@pytest.fixture(scope="module")
def scribe(tmp_path_factory):
    """Config and workdir of a training on names."""
    root = tmp_path_factory.mktemp("scribes")
    write_samples(root / "data", count=3)
    (root / "data" / "names.txt").write_text("".join(f"the {name}\n" for name in NAMES) * 8)
    task = {"reader": "words", "ratio": 1, "train": {"names": "{root}/names.txt"}, "val": {"regions": "{root}/visual_genome"}}
    often = {"steps": 200, "save_every": 100, "eval_every": 200, "log_every": 50}
    model = {"width": 16, "vocabulary": 640}
    config = write_config(root, "scribe", model, root / "data", {"caption": {**task, "prompts": 2}}, **often)
    train(config, root / "run")
    return config, root / "run"


def test_training_on_words(scribe):
    lines = [json.loads(line) for line in (scribe[1] / "metrics.jsonl").read_text().splitlines()]
    losses = [line["text"] for line in lines if line["kind"] == "train"]
    assert losses[-1] < 0.5 * losses[0]
    (scores,) = (line for line in lines if line["kind"] == "validation")
    assert 0 <= scores["rouge_l"] <= 1 and scores["count"] >= 9 and scores["cider"] >= 0


def test_text_generation_for_regions(scribe):
    config, folder = scribe
    model, rng = Model.load(folder), np.random.default_rng(0)
    image = rng.integers(0, 255, (60, 80, 3), np.uint8)
    image[:, :40] //= 4
    regions = np.zeros((3, 60, 80), bool)
    regions[0, :, :40] = regions[1, :, 40:] = regions[2, :, :40] = True
    texts = model.caption_regions(image, regions, max_new_tokens=4)
    assert len(texts) == 3 and texts[0] == texts[2] and all(isinstance(text, str) and text for text in texts)
    with pytest.raises(UserError, match="does not support answers of kind 'expression'; supported: none"):
        model.segment(image, "the ring")
    line = benchmarks.Benchmark("caption", "captions", "words", {"regions": "{root}/visual_genome"})
    task = benchmarks.open_task("captions", line, config, systems.get("scribe"), config.data.root)
    result = benchmark_run.run(model.engine, line, task, batch_size=2)
    assert result.scorer.compute()["count"] == sum(len(example.prompts[0].regions) for example in task.val) >= 9


def test_export_import_and_planning_of_scribe(scribe, tmp_path):
    config, folder = scribe
    export_weights(folder, tmp_path / "theirs")
    assert load_file(next((tmp_path / "theirs").glob("*.safetensors")))["colour.weight"].shape == (16, 3)
    import_weights([tmp_path / "theirs"], config, tmp_path / "ours")
    jax.tree.map(np.testing.assert_array_equal, Model.load(tmp_path / "ours").params, Model.load(folder).params)
    wide = config.copy_and_resolve_references().unlock()
    wide.train.update({"preset": "data", "batch_size": 8})
    assert planning.compile_step(wide, "caption", jax.devices()[:8]).memory.needed > 0
