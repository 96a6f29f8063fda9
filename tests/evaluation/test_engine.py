"""The engine that validation, benchmarks and predictors share: reading ahead, batches of unlike examples, the same masks."""

import dataclasses
import functools
import gc
import json
import shutil
import weakref

import jax
import numpy as np
import pytest
from faked import ANSWERS, engine, outputs_of
from PIL import Image

from hyperseg_jax import config as configs
from hyperseg_jax.data import pipeline
from hyperseg_jax.data.pipeline import Unreadable, read_ahead
from hyperseg_jax.data.sources import Task
from hyperseg_jax.datasets import Folder
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation import engine as engines
from hyperseg_jax.evaluation import validation
from hyperseg_jax.evaluation.engine import AnswerOptions, predictions
from hyperseg_jax.evaluation.protocols import AllFrames, EvalProtocol
from hyperseg_jax.parallel.feed import Rows
from hyperseg_jax.structs import Example, Prediction, Prompt, Source
from hyperseg_jax.systems import system as systems
from hyperseg_jax.text.tokenizer import Tokenizer

SIDE = 64


class Records(list):
    """Examples of which some cannot be read."""

    def __getitem__(self, index):
        if super().__getitem__(index) is None:
            raise KeyError("anns")
        return super().__getitem__(index)


def test_records_are_read_before_they_are_asked_for():
    import threading

    third = threading.Event()

    class Watched(list):
        def __getitem__(self, index):
            if index == 2:
                third.set()
            return super().__getitem__(index)

    stream = read_ahead(Watched(range(9)), range(9))
    assert next(stream) == 0 and third.wait(10)
    stream.close()


@pytest.fixture(scope="module")
def own_data(world, tmp_path_factory):
    """captions.jsonl whose sentences are written as people write: without a period, with one, with space around."""
    folder, texts = tmp_path_factory.mktemp("own"), ("the red ring", "the blue star.", " the large thing ")
    lines = []
    for k, (path, text) in enumerate(zip(sorted((world / "coco" / "val").iterdir()), texts, strict=False)):
        shutil.copy(path, folder / f"{k}.png")
        with Image.open(path) as opened:
            mask = np.zeros((opened.height, opened.width), np.uint8)
        mask[20:90, 30:120] = 255
        Image.fromarray(mask).save(folder / f"{k}_mask.png")
        lines.append(json.dumps({"image": f"{k}.png", "text": text, "mask": f"{k}_mask.png"}))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_records_are_read_ahead_in_order(monkeypatch, own_data, tmp_path, workers):
    """workers 1: in a process that cannot import this file."""
    monkeypatch.setattr(pipeline, "MIN_RECORDS_FOR_WORKERS", 1)
    shutil.copytree(own_data, tmp_path / "own")
    records = Folder(tmp_path / "own")
    (tmp_path / "own" / "1.png").write_bytes(b"no image")
    read = list(read_ahead(records, [2, 1, 0], workers=workers))
    assert [read[0].prompts[0].text, read[2].prompts[0].text] == ["the large thing", "the red ring"]
    assert isinstance(read[1], Unreadable) and "1.png" in read[1].reason


def test_evaluate_and_segment_give_the_same_masks(random_model, own_data, monkeypatch):
    """What is scored is what a user gets, in whatever way the sentence was written down."""
    processor = systems.get("hyperseg").processor(random_model.config, random_model.tokenizer, {"length": 96})
    task = Task("yours", None, Folder(own_data), 0, processor)
    scored, add = {}, validation.Scorer.add
    monkeypatch.setattr(
        validation.Scorer,
        "add",
        lambda self, name, prompt, predicted: scored.update({prompt.text: predicted[0]}) or add(self, name, prompt, predicted),
    )
    default = dataclasses.replace(ANSWERS.default, no_target_threshold=None)
    always = dataclasses.replace(random_model.engine, answers=dataclasses.replace(ANSWERS, default=default))
    found = validation.evaluate(always, {"yours": task})
    assert found.scores["yours"]["count"] == 3
    for example in task.val:
        (prompt,) = example.prompts
        (segment,) = random_model.segment(example.frames[0], prompt.text, no_target_threshold=None)
        assert np.array_equal(segment.mask, scored[prompt.text].masks[0]), prompt.text
        assert segment.score == pytest.approx(scored[prompt.text].scores[0], rel=1e-5) and 0 < segment.mask.mean() < 1
        (other,) = random_model.segment(example.frames[0], prompt.text.strip(" .") + " there", no_target_threshold=None)
        assert other.score != segment.score  # the text counts


def test_a_model_is_asked_in_the_words_that_it_was_taught(random_model, own_data):
    """The expression's ids in a training example and in a request, with and without a period."""
    processor = systems.get("hyperseg").processor(random_model.config, random_model.tokenizer, {"length": 96})
    task = Task("yours", Folder(own_data), None, 1, processor)
    words = lambda layout: np.asarray(layout["text_ids"])[np.asarray(layout["source"]) == Source.EXPRESSION].tolist()
    for example in task.train:
        taught = words(task.prepare(example, np.random.default_rng(0))["layout"])
        (prompt,) = example.prompts
        for text in (prompt.text, prompt.text.strip(" ."), f" {prompt.text.strip(' .')}. "):
            asked, _ = random_model._request(Example("it", example.frames, (Prompt("referring", text),)))
            assert words({name: value[0] for name, value in asked.batch["layout"].items()}) == taught
        assert random_model.tokenizer.decode(taught[:-1]).endswith(".")


EXPRESSION = AnswerOptions("expression", ANSWERS.default)


def video(name, length, prompts=1):
    """The target of every prompt are the upper rows, 8 more on each frame."""
    masks = np.arange(SIDE)[None, :, None] < 8 * (np.arange(length)[:, None, None] + 1)
    masks = np.broadcast_to(masks, (length, SIDE, SIDE))
    asked = tuple(Prompt(task="video", text=f"the rows {k}", masks=masks[None]) for k in range(prompts))
    return Example(name, np.zeros((length, SIDE, SIDE, 3), np.uint8), asked)


def rows_by_frame(params, batch, memory):
    """Marks 8 rows more on each frame of a video."""
    rows, frames = batch["images"].shape[:2]
    prompts = batch["uses_expression"].shape[1]
    marked = np.where(np.arange(SIDE)[:, None] < 8 * (np.arange(frames)[:, None, None] + 1), 9.0, -9.0)
    logits = np.broadcast_to(marked[None, :, None, None], (rows, frames, prompts, 1, SIDE, SIDE))
    return outputs_of(batch, mask_logits=logits, expression=np.full((rows, frames, prompts, 1), 9.0)), 0.0


def task_of(examples, **sizes):
    processor = systems.get("hyperseg").processor(configs.load("tiny"), Tokenizer.toy(), {"length": 128, **sizes})
    return Task("videos", None, examples, 0, dataclasses.replace(processor, image_size=SIDE))


def test_videos_of_unlike_lengths_are_validated_in_one_batch():
    task = task_of([video("a", 2), video("b", 5, prompts=3), video("c", 1)], prompts=2)
    scores = validation.evaluate(engine(rows_by_frame), {"videos": task}).scores["videos"]
    assert scores["count"] == 5 and scores["j"] == 1


def test_an_example_whose_last_prompt_cannot_be_asked_is_in_no_score():
    first, second = video("a", 1, prompts=2), video("b", 1)
    empty = dataclasses.replace(first.prompts[1], text=" ")
    task = task_of([dataclasses.replace(first, prompts=(first.prompts[0], empty)), second], prompts=1)
    told = []
    found = validation.evaluate(engine(rows_by_frame), {"videos": task}, log=told.append).scores["videos"]
    assert found["count"] == 1 and found["unread"] == 1 and len(told) == 1 and "record 0" in told[0]


def test_what_stops_an_evaluation_is_told_once():
    def refuse(index, reason):
        raise UserError(f"record {index}: {reason}")

    task = task_of(Records([video("a", 1), None]))
    protocol = lambda example: AllFrames(
        example, lambda prompt, outputs: Prediction(np.zeros((0, SIDE, SIDE), bool)), group_size=1
    )
    answered = predictions(engine(rows_by_frame), task, task.val, protocol, count=2, options=EXPRESSION, unread=refuse)
    with pytest.raises(UserError) as stopped:
        list(answered)
    assert str(stopped.value).startswith("record 1: ") and str(stopped.value).count("record 1") == 1


def test_a_prompt_is_tokenized_once():
    """It is measured, and then asked about every frame."""
    from hyperseg_jax.evaluation import benchmark_run, benchmarks

    one = dataclasses.replace(video("a", 3), frame_names=("0", "1", "2"))
    one = dataclasses.replace(one, prompts=(dataclasses.replace(one.prompts[0], text="rows never seen", key="a/0"),))
    task, texts = task_of([one]), []
    encode = task.processor.tokenizer._encode
    counted = functools.lru_cache(lambda text: texts.append(text) or encode(text))
    task.processor.tokenizer._ids = counted
    benchmark_run.run(engine(rows_by_frame), benchmarks.BENCHMARKS["toy_video"], task)
    assert texts.count("rows never seen") == 1 and len(texts) == len(set(texts))


def test_a_prediction_is_its_segments():
    masks = np.zeros((2, 4, 4), bool)
    masks[0, :2], masks[1, 1:3] = True, True
    prediction = Prediction(masks, (0, 1), (0.9, 0.4), ("cat", "dog"))
    assert [(s.label, s.score, int(s.mask.sum())) for s in prediction] == [("cat", 0.9, 8), ("dog", 0.4, 8)]
    assert len(prediction) == 2 and prediction[1].label == "dog" and prediction.union.sum() == 12
    assert prediction.ids.tolist() == [[1] * 4, [2] * 4, [2] * 4, [0] * 4]
    nothing = Prediction(np.zeros((0, 4, 4), np.float32))
    assert not nothing and nothing.union.shape == (4, 4) and nothing.union.dtype == np.float32 and not nothing.ids.any()


def test_a_host_without_an_example_asks_as_the_others_do(monkeypatch):
    """Its row is filled with a spare example, which is as long as theirs: longer than the config's length."""

    class SecondRow:
        """The feed of a host that holds the second of two rows."""

        size = staticmethod(lambda wanted: 2)
        rows = staticmethod(lambda size: Rows(2, (1,), (True,)))
        put = staticmethod(lambda batch, rows: batch)
        local_rows = staticmethod(np.asarray)
        map_shards = staticmethod(lambda function: function)

    long = video("a", 1)
    long = dataclasses.replace(long, prompts=(dataclasses.replace(long.prompts[0], text="the rows " * 60),))
    lengths = []

    def watched(params, batch, memory):
        lengths.append(batch["layout"]["text_ids"].shape)
        return rows_by_frame(params, batch, memory)

    monkeypatch.setattr(
        engines.hosts, "exchange", lambda what, own: [json.dumps([1, 1, 128, 128, {"length": 448, "targets": 0}]), own]
    )
    protocol = lambda example: EvalProtocol(example, lambda prompt, outputs: Prediction(np.zeros((0, SIDE, SIDE), bool)))
    answered = predictions(
        engine(watched, feed=SecondRow()), task_of([long]), [long], protocol, count=1, options=EXPRESSION, unread=pytest.fail
    )
    assert [(done, list(protocols)) for done, protocols in answered] == [(1, [])] and lengths == [(1, 448)]


def test_examples_are_let_go_before_the_next_batch_is_asked():
    alive, counts = weakref.WeakSet(), []

    def protocol(example):
        made = AllFrames(example, lambda prompt, outputs: Prediction(np.zeros((0, SIDE, SIDE), bool)), group_size=1)
        alive.add(made)
        return made

    def watched(params, batch, memory):
        gc.collect()
        counts.append(len(alive))
        return rows_by_frame(params, batch, memory)

    task = task_of([video(str(k), 1) for k in range(6)])
    answered = predictions(
        engine(watched), task, task.val, protocol, count=6, batch_size=2, options=EXPRESSION, unread=pytest.fail
    )
    for _, protocols in answered:
        for _, one in protocols:
            list(one.answers())
    assert counts == [2, 2 + 1, 2 + 1]  # one is the caller's loop variable


@pytest.mark.parametrize("uses_memory", [False, True])
def test_a_step_sees_the_one_before_only_where_its_protocol_says_so(uses_memory):
    class Steps(EvalProtocol):
        pass

    Steps.uses_memory = uses_memory
    seen = []

    def watched(params, batch, memory):
        seen.append(memory)
        outputs, _ = rows_by_frame(params, batch, memory)
        return outputs, len(seen)

    protocol = lambda example: Steps(example, lambda prompt, outputs: Prediction(np.zeros((0, SIDE, SIDE), bool)))
    task = task_of([video("a", 3)])
    given = {"count": 1, "batch_size": 1, "options": EXPRESSION, "unread": pytest.fail}
    for _, answered in predictions(engine(watched), task, task.val, protocol, **given):
        list(answered)
    assert seen == ([None, 1, 2] if uses_memory else [None, None, None])


def test_an_image_of_another_size_on_a_known_canvas_compiles_nothing(random_model):
    kept = engines._selector.cache_info
    rng = np.random.default_rng(0)
    random_model.segment(rng.integers(0, 255, (90, 100, 3), np.uint8), "the red ring")
    compiled, known = [], kept().misses
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
    try:
        for size in ((128, 70), (65, 128), (33, 110)):
            random_model.segment(rng.integers(0, 255, (*size, 3), np.uint8), "the red ring")
    finally:
        jax.monitoring.clear_event_listeners()
    assert kept().misses == known and not [name for name in compiled if "backend_compile" in name]
