"""Clips go through frame by frame, each frame fed with what the one before left, whatever the lengths in a batch."""

import dataclasses
import json
import os

import fuzz
import jax
import numpy as np
import pytest
from faked import engine, outputs_of

from hyperseg_jax import config as configs
from hyperseg_jax.data.sources import Task
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation import benchmark_run, benchmarks
from hyperseg_jax.evaluation.scoring import Scorer
from hyperseg_jax.structs import Example, Prediction, Prompt
from hyperseg_jax.systems import system as systems
from hyperseg_jax.text.tokenizer import Tokenizer

SIDE = 96


def clip(name, length):
    """The truth of frame t is its first 8 * (t + 1) rows."""
    masks = np.arange(SIDE)[None, :, None] < 8 * (np.arange(length)[:, None, None] + 1)
    masks = np.broadcast_to(masks, (length, SIDE, SIDE))
    prompt = Prompt(task="video", text="the rows", masks=masks[None], key=f"{name}/0")
    return Example(name, np.zeros((length, SIDE, SIDE, 3), np.uint8), (prompt,), tuple(str(t) for t in range(length)))


def predict(params, batch, query=None):
    """Marks 8 rows more than it did on the frame before."""
    rows = len(batch["images"])
    seen = np.zeros(rows) if query is None else query
    marked = np.where(np.arange(SIDE)[:, None] < 8 * (seen[:, None, None] + 1), 9.0, -9.0)
    logits = np.broadcast_to(marked, (rows, SIDE, SIDE))[:, None, None, None]
    return outputs_of(batch, mask_logits=logits, expression=np.full((rows, 1, 1, 1), 9.0)), seen + 1


def task_of(examples):
    config = configs.load("tiny")
    return Task("clips", None, examples, 0, systems.get("hyperseg").processor(config, Tokenizer.toy(), {"length": 128}))


LINE = benchmarks.BENCHMARKS["toy_video"]


def test_clips_of_many_lengths():
    task = task_of([clip(f"clip{k}", length) for k, length in enumerate((2, 5, 3, 1))])
    found = benchmark_run.run(engine(predict), LINE, task, batch_size=3)
    assert found.scorer.compute()["j"] == 1 and found.scorer.compute()["count"] == 4
    assert [(row["key"], len(row["masks"])) for *_, row in found.rows] == [
        ("clip0/0", 2),
        ("clip1/0", 5),
        ("clip2/0", 3),
        ("clip3/0", 1),
    ]


def test_every_prompt_of_an_example_is_scored():
    """Examples of one, three and two prompts in a batch: what the model saw is fed back to each prompt for itself."""
    many = []
    for k, count in enumerate((1, 3, 2)):
        one = clip(f"clip{k}", k + 2)
        prompts = tuple(dataclasses.replace(one.prompts[0], key=f"clip{k}/{n}") for n in range(count))
        many.append(dataclasses.replace(one, prompts=prompts))
    found = benchmark_run.run(engine(predict), LINE, task_of(many), batch_size=2)
    assert found.scorer.compute()["count"] == 6 and found.scorer.compute()["j"] == 1
    keys = [row["key"] for *_, row in found.rows]
    assert keys == ["clip0/0", "clip1/0", "clip1/1", "clip1/2", "clip2/0", "clip2/1"]
    assert [(index, k) for index, k, _ in found.rows] == [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]


def test_a_prompt_longer_than_the_config_expects_is_answered():
    lengths = []

    def watched(params, batch, query=None):
        lengths.append(batch["layout"]["text_ids"].shape[1])
        return predict(params, batch, query)

    short, long = clip("short", 1), clip("long", 1)
    long = dataclasses.replace(long, prompts=(dataclasses.replace(long.prompts[0], text="the rows " * 60),))
    found = benchmark_run.run(engine(watched), LINE, task_of([short, long]), batch_size=1)
    assert found.scorer.compute()["count"] == 2 and lengths[0] == 128 < lengths[1] and lengths[1] % 64 == 0


def test_a_record_that_cannot_be_read_is_not_left_out_of_a_score():
    class Damaged(list):
        def __getitem__(self, index):
            if index == 1:
                raise KeyError("anns")
            return super().__getitem__(index)

    with pytest.raises(UserError, match=r"benchmark clips record 1: is in an unexpected format \(KeyError: 'anns'\)"):
        benchmark_run.run(engine(predict), LINE, task_of(Damaged([clip("a", 1), clip("b", 1)])))


def test_a_record_that_cannot_be_scored_ends_the_run_in_one_line():
    short = clip("b", 3)
    short = dataclasses.replace(short, prompts=(dataclasses.replace(short.prompts[0], masks=short.prompts[0].masks[:, :2]),))
    with pytest.raises(UserError) as told:
        benchmark_run.run(engine(predict), LINE, task_of([clip("a", 1), short]))
    fuzz.one_line(str(told.value))
    assert str(told.value).startswith("benchmark clips record 1: b: cannot be scored (prediction (3, 96, 96) and target")
    assert "; correct or remove the record" in str(told.value)


NOTHING = np.zeros((0, 4, 4), bool)
UNSCORABLE = {  # scoring, prompt, predictions by frame, message
    "no answer": ("vqa", {"answers": ()}, [Prediction(NOTHING, texts=("a",))], "0 true answers; leave-one-out needs"),
    "one answer": ("vqa", {"answers": ("a",)}, [Prediction(NOTHING, texts=("a",))], "1 true answers; leave-one-out needs"),
    "two frames": (
        "davis",
        {"masks": np.ones((1, 2, 4, 4), bool)},
        [Prediction(np.ones((1, 4, 4), bool))] * 2,
        "2 frames, but",
    ),
    "21 objects": (
        "ref_davis",
        {"masks": np.ones((21, 3, 4, 4), bool)},
        [Prediction(np.ones((21, 4, 4), bool))] * 3,
        "21 proposals; DAVIS allows 20",
    ),
    "no prediction": ("exact", {}, [], "it: is in an unexpected format"),
}


@pytest.mark.parametrize("case", UNSCORABLE)
def test_what_cannot_be_scored_is_named_and_nothing_is_added(case):
    name, fields, predictions, message = UNSCORABLE[case]
    scorer = Scorer({"chat": name})
    with pytest.raises(UserError, match=r"^it: ") as told:
        scorer.add("it", Prompt(task="chat", **fields), predictions)
    fuzz.one_line(str(told.value))
    assert message in str(told.value) and not scorer.state()


def test_a_name_that_is_scored_twice_is_one_line():
    scorer = Scorer({"panoptic": "tracks"})
    prompt = Prompt(task="panoptic", masks=np.zeros((0, 1, 4, 4), bool))
    scorer.add("a", prompt, [Prediction(NOTHING)])
    with pytest.raises(UserError, match=r"a: cannot be scored \(a: scored twice; add each image once\)"):
        scorer.add("a", prompt, [Prediction(NOTHING)])


@pytest.mark.parametrize(
    ("line", "key", "why"),
    [
        ("toy_video", "b", "b: 'b' is not video/expression; correct it"),
        ("toy_video", "../b/0", "b: '../b/0' cannot be a file name in a zip"),
        ("toy_video", "a/0", "benchmark clips: record 1 repeats the question 'a/0' of record 0; correct its files"),
        ("coco_panoptic", "12a", "b: its image_id is '12a', but the benchmark needs an integer; correct it"),
        ("youtube_vis_2019", "0012", "b: its video id is '0012', but"),
        ("vqav2", "\u0661", "b: its question_id is '\u0661', but"),
        ("mmbench", "", "b: its index is '', but"),
    ],
)
def test_what_the_server_needs_is_looked_at_before_the_model_is_asked(line, key, why):
    line = dataclasses.replace(LINE, submission=benchmarks.BENCHMARKS[line].submission)
    first, second = clip("a", 1), clip("b", 1)
    first = dataclasses.replace(first, prompts=(dataclasses.replace(first.prompts[0], key="a/0" if line == LINE else "1"),))
    second = dataclasses.replace(second, prompts=(dataclasses.replace(second.prompts[0], key=key),))
    with pytest.raises(UserError) as told:
        benchmark_run.run(engine(predict), line, task_of([first, second]), batch_size=1)
    assert why in str(told.value)


def test_a_video_that_lists_a_frame_twice_goes_into_no_zip():
    twice = dataclasses.replace(clip("a", 2), frame_names=("0", "0"))
    with pytest.raises(UserError, match="a: its video has two frames with the same name"):
        benchmark_run.run(engine(predict), LINE, task_of([twice]))


def test_a_choice_without_a_number_is_one_line():
    with pytest.raises(UserError, match=r"name#3: its index is 'x1', but the benchmark needs an integer"):
        Scorer({"chat": "multiple_choice"}).add(
            "name#3",
            Prompt(task="chat", text="q\nA. a", answer="A", key="x1"),
            [Prediction(np.zeros((0, 2, 2), bool), texts=("A",))],
        )


CASE = {"value": 1.0, "index": 0, "prompt": 0, "text": "", "masks": []}
ROW = {"key": "a", "question": "", "text": "", "labels": [], "scores": [], "frames": ["0"], "height": 8192, "width": 8192}
STATE = {"done": 1, "scores": {"clips": {"options": {}, "sums": {"": [1.0, 1.0, 1.0]}}}, "cases": [], "rows": []}
ASKED = {"benchmark": "clips", "rules": "official", "examples": 2}


def resumed(kept, said):
    """The scores over two clips where `kept` holds a state."""
    task = task_of([clip("a", 2), clip("b", 1)])
    found = benchmark_run.run(engine(predict), LINE, task, state_file=kept, batch_size=2, log=said.append)
    assert found.scorer.compute()["j"] == 1 and found.scorer.compute()["count"] == 2
    return found.resumed


@pytest.mark.parametrize(
    "damage",
    [
        *({"done": value} for value in (0, -1, 3, True, "1", None, 1e3)),
        *({"scores": value} for value in ([], {"clips": []}, {"referring": {"options": {}, "sums": {}}}, {"odd": {}})),
        *(
            {"scores": {"clips": {"options": {}, "sums": {"": row}}}}
            for row in ([1e999] * 3, [1.0], [[1.0, 1.0, 1.0]], [1, 1, "x"], [])
        ),
        {"scores": {"clips": {"options": {"rules": "x"}, "sums": {}}}},
        *(
            {"cases": [value]}
            for value in (5, {}, CASE | {"index": 2}, CASE | {"value": 10**400}, CASE | {"text": "x" * 10**5})
        ),
        *({"rows": [[0, 0, ROW | {"masks": masks}]]} for masks in ([[{}] * 120], [5], [[{}] * 60] * 9)),
        {"rows": [[0, 0, ROW | {"masks": [[]], "frames": ["0"] * 100}]]},
        *({"rows": [value]} for value in (5, [0, 0], [0, 0, {}], [2, 0, {}], [0, -1, {}])),
        {"scores": {"clips": {"options": {}, "sums": {"": [float("nan")] * 3}}}},
        *("{", "[]", '{"asked": []}', "[" * 100_000, "pipe", "endless"),
    ],
)
def test_a_state_that_no_evaluation_wrote_is_told_and_all_is_scored_anew(tmp_path, damage):
    kept, said = tmp_path / "clips.json", []
    if damage == "pipe":
        os.mkfifo(kept)
    elif damage == "endless":
        kept.symlink_to("/dev/zero")
    else:
        kept.write_text(damage if isinstance(damage, str) else json.dumps({"asked": ASKED, **STATE, **damage}))
    jax.devices()  # their first use takes memory
    with fuzz.bounded(seconds=60):
        assert resumed(kept, said) == 0
    assert len(said) == 1 and "clips.json: is not a partial evaluation (" in said[0] and "clips.json.damaged-0" in said[0]
    assert json.loads(kept.read_text())["done"] == 2


def test_a_state_is_gone_on_from(tmp_path):
    kept, said = tmp_path / "clips.json", []
    kept.write_text(json.dumps({"asked": ASKED, **STATE}))
    assert resumed(kept, said) == 1 and not said
    assert resumed(kept, said) == 2 and not said
    kept.write_text(json.dumps({"asked": {**ASKED, "rules": "a\x1bb"}, **STATE}))
    with pytest.raises(UserError, match=r"is from an evaluation with rules = 'a\\x1bb', not 'official'"):
        resumed(kept, said)


def test_a_state_with_a_score_of_a_diverged_model_is_gone_on_from(tmp_path):
    """A prediction's score may be NaN; what is added up may not."""
    state = {**STATE, "rows": [[0, 0, ROW | {"scores": [float("nan")], "masks": [[]]}]]}
    (tmp_path / "clips.json").write_text(json.dumps({"asked": ASKED, **state}))
    assert resumed(tmp_path / "clips.json", said := []) == 1 and not said


def test_a_state_that_has_seen_what_comes_is_one_line(tmp_path, monkeypatch):
    def twice(self, state):
        raise ValueError("b: scored twice; add each image once")

    kept = tmp_path / "clips.json"
    kept.write_text(json.dumps({"asked": ASKED, **STATE}))
    whole = benchmark_run.PartialResults.merge
    merges = iter((whole, whole, twice))  # of the check, of the state, of what comes
    monkeypatch.setattr(benchmark_run.PartialResults, "merge", lambda self, state: next(merges)(self, state))
    with pytest.raises(UserError, match=r"clips\.json: does not fit the examples .b: scored twice.*remove it to start again"):
        resumed(kept, [])
