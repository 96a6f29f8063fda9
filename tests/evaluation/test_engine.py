"""The engine shared by validation, benchmarks and predictors: prefetching, mixed batches, identical masks."""

import dataclasses
import functools
import gc
import json
import shutil
import weakref

import jax
import numpy as np
import pytest
from fake_engine import ANSWERS, make_engine, make_outputs
from PIL import Image

from hyperseg_jax import config as configs
from hyperseg_jax.data import pipeline
from hyperseg_jax.data.pipeline import Unreadable, read_ahead
from hyperseg_jax.data.sources import Task
from hyperseg_jax.datasets import Folder
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation import engine as engines
from hyperseg_jax.evaluation import validation
from hyperseg_jax.evaluation.engine import AnswerOptions, run_protocols
from hyperseg_jax.evaluation.protocols import AllFrames, EvalProtocol
from hyperseg_jax.parallel.feed import Rows
from hyperseg_jax.structs import Example, Prediction, Prompt, Source
from hyperseg_jax.systems import system as systems
from hyperseg_jax.text.tokenizer import Tokenizer

SIDE = 64


class Records(list):
    """Examples of which some raise when read."""

    def __getitem__(self, index):
        if super().__getitem__(index) is None:
            raise KeyError("anns")
        return super().__getitem__(index)


def test_records_are_prefetched():
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
def captions_file(world, tmp_path_factory):
    """A captions.jsonl with sentences without a period, with one, and with surrounding whitespace."""
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
def test_records_are_prefetched_in_order(monkeypatch, captions_file, tmp_path, workers):
    """workers 1: in a process that cannot import this file."""
    monkeypatch.setattr(pipeline, "MIN_RECORDS_FOR_WORKERS", 1)
    shutil.copytree(captions_file, tmp_path / "own")
    records = Folder(tmp_path / "own")
    (tmp_path / "own" / "1.png").write_bytes(b"no image")
    read = list(read_ahead(records, [2, 1, 0], workers=workers))
    assert [read[0].prompts[0].text, read[2].prompts[0].text] == ["the large thing", "the red ring"]
    assert isinstance(read[1], Unreadable) and "1.png" in read[1].reason


def test_evaluate_and_segment_give_the_same_masks(random_model, captions_file, monkeypatch):
    """Validation scores the masks that a user gets, however the sentence is punctuated."""
    processor = systems.get("hyperseg").processor(random_model.config, random_model.tokenizer, {"length": 96})
    task = Task("yours", None, Folder(captions_file), 0, processor)
    scored, add = {}, validation.Scorer.add
    monkeypatch.setattr(
        validation.Scorer,
        "add",
        lambda self, name, prompt, predicted: scored.update({prompt.text: predicted[0]}) or add(self, name, prompt, predicted),
    )
    default = dataclasses.replace(ANSWERS.default, no_target_threshold=None)
    always = dataclasses.replace(random_model.engine, answers=dataclasses.replace(ANSWERS, default=default))
    result = validation.evaluate(always, {"yours": task})
    assert result.scores["yours"]["count"] == 3
    for example in task.val:
        (prompt,) = example.prompts
        (segment,) = random_model.segment(example.frames[0], prompt.text, no_target_threshold=None)
        assert np.array_equal(segment.mask, scored[prompt.text].masks[0]), prompt.text
        assert segment.score == pytest.approx(scored[prompt.text].scores[0], rel=1e-5) and 0 < segment.mask.mean() < 1
        (other,) = random_model.segment(example.frames[0], prompt.text.strip(" .") + " there", no_target_threshold=None)
        assert other.score != segment.score  # the text counts


def test_prompts_are_tokenized_as_in_training(random_model, captions_file):
    """The token ids of an expression are equal in training and in a request, with and without a period."""
    processor = systems.get("hyperseg").processor(random_model.config, random_model.tokenizer, {"length": 96})
    task = Task("yours", Folder(captions_file), None, 1, processor)
    words = lambda layout: np.asarray(layout["text_ids"])[np.asarray(layout["source"]) == Source.EXPRESSION].tolist()
    for example in task.train:
        taught = words(task.prepare(example, np.random.default_rng(0))["layout"])
        (prompt,) = example.prompts
        for text in (prompt.text, prompt.text.strip(" ."), f" {prompt.text.strip(' .')}. "):
            requests, _ = random_model._make_request(Example("it", example.frames, (Prompt("referring", text),)))
            assert words({name: value[0] for name, value in requests.batch["layout"].items()}) == taught
        assert random_model.tokenizer.decode(taught[:-1]).endswith(".")


EXPRESSION = AnswerOptions("expression", ANSWERS.default)


def make_video(name, length, prompts=1):
    """Returns a video whose target is the upper rows, 8 more on each frame."""
    masks = np.arange(SIDE)[None, :, None] < 8 * (np.arange(length)[:, None, None] + 1)
    masks = np.broadcast_to(masks, (length, SIDE, SIDE))
    requests = tuple(Prompt(task="video", text=f"the rows {k}", masks=masks[None]) for k in range(prompts))
    return Example(name, np.zeros((length, SIDE, SIDE, 3), np.uint8), requests)


def rows_by_frame(params, batch, memory):
    """Predicts 8 more rows on each frame of a video."""
    rows, frames = batch["images"].shape[:2]
    prompts = batch["uses_expression"].shape[1]
    marked = np.where(np.arange(SIDE)[:, None] < 8 * (np.arange(frames)[:, None, None] + 1), 9.0, -9.0)
    logits = np.broadcast_to(marked[None, :, None, None], (rows, frames, prompts, 1, SIDE, SIDE))
    return make_outputs(batch, mask_logits=logits, expression=np.full((rows, frames, prompts, 1), 9.0)), 0.0


def make_task(examples, **sizes):
    processor = systems.get("hyperseg").processor(configs.load("tiny"), Tokenizer.toy(), {"length": 128, **sizes})
    return Task("videos", None, examples, 0, dataclasses.replace(processor, image_size=SIDE))


def test_videos_of_different_lengths_are_validated_in_one_batch():
    task = make_task([make_video("a", 2), make_video("b", 5, prompts=3), make_video("c", 1)], prompts=2)
    scores = validation.evaluate(make_engine(rows_by_frame), {"videos": task}).scores["videos"]
    assert scores["count"] == 5 and scores["j"] == 1


def test_an_example_with_an_invalid_prompt_is_not_scored():
    first, second = make_video("a", 1, prompts=2), make_video("b", 1)
    empty = dataclasses.replace(first.prompts[1], text=" ")
    task = make_task([dataclasses.replace(first, prompts=(first.prompts[0], empty)), second], prompts=1)
    messages = []
    result = validation.evaluate(make_engine(rows_by_frame), {"videos": task}, log=messages.append).scores["videos"]
    assert result["count"] == 1 and result["unread"] == 1 and len(messages) == 1 and "record 0" in messages[0]


def test_errors_that_stop_an_evaluation_are_raised_once():
    def refuse(index, reason):
        raise UserError(f"record {index}: {reason}")

    task = make_task(Records([make_video("a", 1), None]))
    protocol = lambda example: AllFrames(
        example, lambda prompt, outputs: Prediction(np.zeros((0, SIDE, SIDE), bool)), group_size=1
    )
    answered = run_protocols(
        make_engine(rows_by_frame), task, task.val, protocol, count=2, options=EXPRESSION, on_unreadable=refuse
    )
    with pytest.raises(UserError) as stopped:
        list(answered)
    assert str(stopped.value).startswith("record 1: ") and str(stopped.value).count("record 1") == 1


def test_a_prompt_is_tokenized_once():
    """The tokens that measure the length are reused for every frame."""
    from hyperseg_jax.evaluation import benchmark_run, benchmarks

    one = dataclasses.replace(make_video("a", 3), frame_names=("0", "1", "2"))
    one = dataclasses.replace(one, prompts=(dataclasses.replace(one.prompts[0], text="rows never seen", key="a/0"),))
    task, texts = make_task([one]), []
    encode = task.processor.tokenizer._encode
    counted = functools.lru_cache(lambda text: texts.append(text) or encode(text))
    task.processor.tokenizer._ids = counted
    benchmark_run.run(make_engine(rows_by_frame), benchmarks.BENCHMARKS["toy_video"], task)
    assert texts.count("rows never seen") == 1 and len(texts) == len(set(texts))


def test_a_prediction_holds_its_segments():
    masks = np.zeros((2, 4, 4), bool)
    masks[0, :2], masks[1, 1:3] = True, True
    prediction = Prediction(masks, (0, 1), (0.9, 0.4), ("cat", "dog"))
    assert [(s.label, s.score, int(s.mask.sum())) for s in prediction] == [("cat", 0.9, 8), ("dog", 0.4, 8)]
    assert len(prediction) == 2 and prediction[1].label == "dog" and prediction.union.sum() == 12
    assert prediction.ids.tolist() == [[1] * 4, [2] * 4, [2] * 4, [0] * 4]
    nothing = Prediction(np.zeros((0, 4, 4), np.float32))
    assert not nothing and nothing.union.shape == (4, 4) and nothing.union.dtype == np.float32 and not nothing.ids.any()


def test_a_host_without_an_example_runs_the_same_steps(monkeypatch):
    """Its row holds a placeholder example of the length of the other hosts, which exceeds the configured length."""

    class SecondRow:
        """The feed of a host that feeds the second of two rows."""

        divisible_size = staticmethod(lambda expected: 2)
        rows = staticmethod(lambda size: Rows(2, (1,), (True,)))
        put = staticmethod(lambda batch, rows: batch)
        local_rows = staticmethod(np.asarray)
        map_shards = staticmethod(lambda function: function)

    long = make_video("a", 1)
    long = dataclasses.replace(long, prompts=(dataclasses.replace(long.prompts[0], text="the rows " * 60),))
    lengths = []

    def record_calls(params, batch, memory):
        lengths.append(batch["layout"]["text_ids"].shape)
        return rows_by_frame(params, batch, memory)

    monkeypatch.setattr(
        engines.hosts,
        "exchange",
        lambda what, own: [json.dumps([1, 1, [[0, [SIDE, SIDE]]], {"length": 448, "targets": 0}]), own],
    )
    protocol = lambda example: EvalProtocol(example, lambda prompt, outputs: Prediction(np.zeros((0, SIDE, SIDE), bool)))
    answered = run_protocols(
        make_engine(record_calls, feed=SecondRow()),
        make_task([long]),
        [long],
        protocol,
        count=1,
        options=EXPRESSION,
        on_unreadable=pytest.fail,
    )
    assert [(done, list(protocols)) for done, protocols in answered] == [(1, [])] and lengths == [(1, 448)]


def test_examples_are_released_before_the_next_batch():
    alive, counts = weakref.WeakSet(), []

    def protocol(example):
        result = AllFrames(example, lambda prompt, outputs: Prediction(np.zeros((0, SIDE, SIDE), bool)), group_size=1)
        alive.add(result)
        return result

    def record_calls(params, batch, memory):
        gc.collect()
        counts.append(len(alive))
        return rows_by_frame(params, batch, memory)

    task = make_task([make_video(str(k), 1) for k in range(6)])
    answered = run_protocols(
        make_engine(record_calls),
        task,
        task.val,
        protocol,
        count=6,
        batch_size=2,
        options=EXPRESSION,
        on_unreadable=pytest.fail,
    )
    for _, protocols in answered:
        for _, one in protocols:
            list(one.answers())
    assert counts == [2, 2 + 1, 2 + 1]  # one is the caller's loop variable


@pytest.mark.parametrize("uses_memory", [False, True])
def test_memory_is_passed_only_if_the_protocol_uses_it(uses_memory):
    class Steps(EvalProtocol):
        pass

    Steps.uses_memory = uses_memory
    recorded = []

    def record_calls(params, batch, memory):
        recorded.append(memory)
        outputs, _ = rows_by_frame(params, batch, memory)
        return outputs, len(recorded)

    protocol = lambda example: Steps(example, lambda prompt, outputs: Prediction(np.zeros((0, SIDE, SIDE), bool)))
    task = make_task([make_video("a", 3)])
    kwargs = {"count": 1, "batch_size": 1, "options": EXPRESSION, "on_unreadable": pytest.fail}
    for _, answered in run_protocols(make_engine(record_calls), task, task.val, protocol, **kwargs):
        list(answered)
    assert recorded == ([None, 1, 2] if uses_memory else [None, None, None])


def test_image_sizes_on_the_same_canvas_share_a_program(random_model):
    saved = engines._jit_selection.cache_info
    rng = np.random.default_rng(0)
    random_model.segment(rng.integers(0, 255, (90, 100, 3), np.uint8), "the red ring")
    compiled, known = [], saved().misses
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
    try:
        for size in ((128, 70), (65, 128), (33, 110)):
            random_model.segment(rng.integers(0, 255, (*size, 3), np.uint8), "the red ring")
    finally:
        jax.monitoring.clear_event_listeners()
    assert saved().misses == known and not [name for name in compiled if "backend_compile" in name]


def test_a_thin_image_is_refused_before_it_takes_memory(random_model):
    thin = np.zeros((1, 600_000, 3), np.uint8)
    with pytest.raises(UserError, match=r"the image: has 76800000 pixels with sides of at least 128, .*limits\.pixels"):
        random_model.segment(thin, "the red ring")
