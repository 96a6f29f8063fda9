"""Videos of different lengths are evaluated frame by frame in one batch, with the memory of the previous frame."""

import contextlib
import dataclasses
import json
import os

import fuzz
import jax
import numpy as np
import pytest
from fake_engine import make_engine, make_outputs

from hyperseg_jax import config as configs
from hyperseg_jax.data.sources import Task
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation import benchmark_run, benchmarks, submissions
from hyperseg_jax.evaluation.scoring import Scorer
from hyperseg_jax.ops import run_lengths
from hyperseg_jax.structs import Example, Prediction, Prompt
from hyperseg_jax.systems import system as systems
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.untrusted.bad_file import BadFile

SIDE = 96


def make_video(name, length):
    """Returns a video whose target on frame t is the first 8 * (t + 1) rows."""
    masks = np.arange(SIDE)[None, :, None] < 8 * (np.arange(length)[:, None, None] + 1)
    masks = np.broadcast_to(masks, (length, SIDE, SIDE))
    prompt = Prompt(task="video", text="the rows", masks=masks[None], key=f"{name}/0")
    return Example(name, np.zeros((length, SIDE, SIDE, 3), np.uint8), (prompt,), tuple(str(t) for t in range(length)))


def predict(params, batch, query=None):
    """Predicts 8 more rows than on the previous frame."""
    rows = len(batch["images"])
    seen = np.zeros(rows) if query is None else query
    marked = np.where(np.arange(SIDE)[:, None] < 8 * (seen[:, None, None] + 1), 9.0, -9.0)
    logits = np.broadcast_to(marked, (rows, SIDE, SIDE))[:, None, None, None]
    return make_outputs(batch, mask_logits=logits, expression=np.full((rows, 1, 1, 1), 9.0)), seen + 1


def make_task(examples):
    config = configs.load("tiny")
    return Task("clips", None, examples, 0, systems.get("hyperseg").processor(config, Tokenizer.toy(), {"length": 128}))


BENCHMARK = benchmarks.BENCHMARKS["toy_video"]


def test_videos_of_different_lengths():
    task = make_task([make_video(f"clip{k}", length) for k, length in enumerate((2, 5, 3, 1))])
    result = benchmark_run.run(make_engine(predict), BENCHMARK, task, batch_size=3)
    assert result.scorer.compute()["j"] == 1 and result.scorer.compute()["count"] == 4
    assert [(row["key"], len(row["masks"])) for *_, row in result.rows] == [
        ("clip0/0", 2),
        ("clip1/0", 5),
        ("clip2/0", 3),
        ("clip3/0", 1),
    ]


def test_every_prompt_of_an_example_is_scored():
    """A batch of examples with one, three and two prompts: the memory is kept per prompt."""
    many = []
    for k, count in enumerate((1, 3, 2)):
        one = make_video(f"clip{k}", k + 2)
        prompts = tuple(dataclasses.replace(one.prompts[0], key=f"clip{k}/{n}") for n in range(count))
        many.append(dataclasses.replace(one, prompts=prompts))
    result = benchmark_run.run(make_engine(predict), BENCHMARK, make_task(many), batch_size=2)
    assert result.scorer.compute()["count"] == 6 and result.scorer.compute()["j"] == 1
    keys = [row["key"] for *_, row in result.rows]
    assert keys == ["clip0/0", "clip1/0", "clip1/1", "clip1/2", "clip2/0", "clip2/1"]
    assert [(index, k) for index, k, _ in result.rows] == [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]


def test_a_prompt_longer_than_the_configured_length_is_evaluated():
    lengths = []

    def record_batches(params, batch, query=None):
        lengths.append(batch["layout"]["text_ids"].shape[1])
        return predict(params, batch, query)

    short, long = make_video("short", 1), make_video("long", 1)
    long = dataclasses.replace(long, prompts=(dataclasses.replace(long.prompts[0], text="the rows " * 60),))
    result = benchmark_run.run(make_engine(record_batches), BENCHMARK, make_task([short, long]), batch_size=1)
    assert result.scorer.compute()["count"] == 2 and lengths[0] == 128 < lengths[1] and lengths[1] % 64 == 0


def test_unreadable_records_abort_a_benchmark():
    class Damaged(list):
        def __getitem__(self, index):
            if index == 1:
                raise KeyError("anns")
            return super().__getitem__(index)

    with pytest.raises(UserError, match=r"benchmark clips record 1: is in an unexpected format \(KeyError: 'anns'\)"):
        benchmark_run.run(make_engine(predict), BENCHMARK, make_task(Damaged([make_video("a", 1), make_video("b", 1)])))


def test_unscorable_records_abort_a_benchmark():
    short = make_video("b", 3)
    short = dataclasses.replace(short, prompts=(dataclasses.replace(short.prompts[0], masks=short.prompts[0].masks[:, :2]),))
    with pytest.raises(UserError) as excinfo:
        benchmark_run.run(make_engine(predict), BENCHMARK, make_task([make_video("a", 1), short]))
    fuzz.assert_one_line(str(excinfo.value))
    assert str(excinfo.value).startswith("benchmark clips record 1: b: cannot be scored (prediction (3, 96, 96) and target")
    assert "; correct or remove the record" in str(excinfo.value)


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
def test_unscorable_predictions_are_named_and_not_added(case):
    name, fields, predictions, message = UNSCORABLE[case]
    scorer = Scorer({"chat": name})
    with pytest.raises(UserError, match=r"^it: ") as excinfo:
        scorer.add("it", Prompt(task="chat", **fields), predictions)
    fuzz.assert_one_line(str(excinfo.value))
    assert message in str(excinfo.value) and not scorer.state()


def test_duplicate_keys_are_rejected():
    scorer = Scorer({"panoptic": "tracks"})
    prompt = Prompt(task="panoptic", masks=np.zeros((0, 1, 4, 4), bool))
    scorer.add("a", prompt, [Prediction(NOTHING)])
    with pytest.raises(UserError, match=r"a: cannot be scored \(a: scored twice; add each image once\)"):
        scorer.add("a", prompt, [Prediction(NOTHING)])


@pytest.mark.parametrize(
    ("line", "key", "why"),
    [
        ("toy_video", "b", "b: 'b' is not a key like video/expression; correct it"),
        ("toy_video", "../b/0", "b: '../b/0' cannot be a file name in a zip"),
        ("toy_video", "a/0", "benchmark clips: record 1 repeats the question 'a/0' of record 0; correct its files"),
        ("coco_panoptic", "12a", "b: its image_id is '12a', but the benchmark needs an integer; correct it"),
        ("youtube_vis_2019", "0012", "b: its video id is '0012', but"),
        ("vqav2", "\u0661", "b: its question_id is '\u0661', but"),
        ("mmbench", "", "b: its index is '', but"),
    ],
)
def test_submission_fields_are_checked_before_inference(line, key, why):
    line = dataclasses.replace(BENCHMARK, submission=benchmarks.BENCHMARKS[line].submission)
    first, second = make_video("a", 1), make_video("b", 1)
    first = dataclasses.replace(
        first, prompts=(dataclasses.replace(first.prompts[0], key="a/0" if line == BENCHMARK else "1"),)
    )
    second = dataclasses.replace(second, prompts=(dataclasses.replace(second.prompts[0], key=key),))
    with pytest.raises(UserError) as excinfo:
        benchmark_run.run(make_engine(predict), line, make_task([first, second]), batch_size=1)
    assert why in str(excinfo.value)


def test_videos_with_duplicate_frames_are_rejected_for_submissions():
    twice = dataclasses.replace(make_video("a", 2), frame_names=("0", "0"))
    with pytest.raises(UserError, match="a: its video has two frames with the same name"):
        benchmark_run.run(make_engine(predict), BENCHMARK, make_task([twice]))


def test_a_choice_without_an_index_is_rejected():
    with pytest.raises(UserError, match=r"name#3: its index is 'x1', but the benchmark needs an integer"):
        Scorer({"chat": "multiple_choice"}).add(
            "name#3",
            Prompt(task="chat", text="q\nA. a", answer="A", key="x1"),
            [Prediction(np.zeros((0, 2, 2), bool), texts=("A",))],
        )


MASK = run_lengths.encode(np.ones((SIDE, SIDE), bool))
CASE = {"value": 1.0, "index": 0, "prompt": 0, "text": "", "masks": [MASK], "labels": [0]}
ROW = {
    "key": "a/0",
    "question": "the rows",
    "text": "",
    "labels": [],
    "scores": [],
    "frames": ["0", "1"],
    "height": SIDE,
    "width": SIDE,
}
ROW |= {"masks": [[MASK], [MASK]]}
LARGE = ROW | {"frames": ["0"], "height": 8192, "width": 8192}
SCORES = {"clips": {"options": {}, "sums": {"": [1.0, 1.0, 1.0, 0.0, 0.0]}}}
STATE = {"done": 1, "scores": SCORES, "cases": [CASE], "rows": [[0, 0, ROW]]}
DAMAGED_MASKS = (
    *(5, {}, {"size": [SIDE, SIDE]}, {"size": [48, 192], "counts": MASK["counts"]}, {**MASK, "counts": "zz"}),
    *({**MASK, "counts": counts} for counts in ([SIDE], [10**30], [[0, 1]], None, "")),
)
ASKED = {"benchmark": "clips", "rules": "official", "examples": 2}


def run_with_state(saved, messages):
    """Evaluates two videos with the given state file and returns the score."""
    task = make_task([make_video("a", 2), make_video("b", 1)])
    result = benchmark_run.run(make_engine(predict), BENCHMARK, task, state_file=saved, batch_size=2, log=messages.append)
    assert result.scorer.compute()["j"] == 1 and result.scorer.compute()["count"] == 2
    return result.resumed


@pytest.mark.parametrize(
    "damage",
    [
        *({"done": value} for value in (0, -1, 3, True, "1", None, 1e3)),
        *({"scores": value} for value in ([], {"clips": []}, {"referring": {"options": {}, "sums": {}}}, {"odd": {}})),
        *(
            {"scores": {"clips": {"options": {}, "sums": {"": row}}}}
            for row in ([1e999] * 5, [1.0], [[1.0, 1.0, 1.0, 0.0, 0.0]], [1, 1, "x", 0, 0], [])
        ),
        {"scores": {"clips": {"options": {"rules": "x"}, "sums": {}}}},
        *(
            {"cases": [value]}
            for value in (5, {}, CASE | {"index": 1}, CASE | {"value": 10**400}, CASE | {"text": "x" * 10**5})
        ),
        *(
            {"cases": [CASE | change]}
            for change in ({"prompt": 1}, {"labels": [0, 1]}, {"labels": ["0"]}, *({"masks": [mask]} for mask in DAMAGED_MASKS))
        ),
        *({"cases": value} for value in ([CASE] * 2, [CASE] * 100, {})),
        *({"rows": [[0, 0, LARGE | {"masks": masks}]]} for masks in ([[{}] * 120], [5], [[{}] * 60] * 9)),
        {"rows": [[0, 0, LARGE | {"masks": [[]], "frames": ["0"] * 100}]]},
        *({"rows": [[0, 0, ROW | {"masks": [[MASK], [mask]]}]]} for mask in DAMAGED_MASKS),
        *(
            {"rows": [[0, 0, ROW | change]]}
            for change in (
                {"height": SIDE // 2, "width": SIDE * 2},
                {"masks": [[MASK]]},
                {"frames": ["0", "../1"]},
                {"frames": ["0", "0"]},
                {"key": "a"},
                {"key": "other/7"},
                {"question": "the columns"},
                {"frames": ["x", "y"]},
                {"frames": ["0"], "masks": [[MASK]]},
                {"height": 1, "width": SIDE**2, "masks": [[{**MASK, "size": [1, SIDE**2]}]] * 2},
            )
        ),
        {
            "rows": [[0, 0, ROW], [0, 1, ROW | {"key": "a/1"}]],
            "scores": {"clips": {"options": {}, "sums": {"": [2.0, 2.0, 2.0, 0.0, 0.0]}}},
        },
        *({"rows": value} for value in ([], [[1, 0, ROW]], [[0, 1, ROW]], [[0, 0, ROW]] * 2)),
        *({"rows": [[0, 0, ROW], [index, k, ROW | {"key": "b/0"}]]} for index, k in ((0, 1), (0, 2), (1, 0))),
        {"scores": {}},
        {"done": 2, "rows": [[0, 0, ROW], [1, 0, ROW | {"key": "b/0"}]]},
        *({"rows": [value]} for value in (5, [0, 0], [0, 0, {}], [2, 0, {}], [0, -1, {}])),
        {"scores": {"clips": {"options": {}, "sums": {"": [float("nan")] * 5}}}},
        *("{", "[]", '{"asked": []}', "[" * 100_000, "pipe", "endless"),
    ],
)
def test_invalid_states_are_reported_and_ignored(tmp_path, damage):
    saved, messages = tmp_path / "clips.json", []
    if damage == "pipe":
        os.mkfifo(saved)
    elif damage == "endless":
        saved.symlink_to("/dev/zero")
    else:
        saved.write_text(damage if isinstance(damage, str) else json.dumps({"asked": ASKED, **STATE, **damage}))
    jax.devices()  # the first use allocates memory
    with fuzz.limit_resources(seconds=60):
        assert run_with_state(saved, messages) == 0
    assert (
        len(messages) == 1
        and "clips.json: is not a partial evaluation (" in messages[0]
        and "clips.json.damaged-0" in messages[0]
    )
    assert json.loads(saved.read_text())["done"] == 2


def test_evaluation_resumes_from_a_state(tmp_path):
    saved, messages = tmp_path / "clips.json", []
    saved.write_text(json.dumps({"asked": ASKED, **STATE}))
    assert run_with_state(saved, messages) == 1 and not messages
    assert run_with_state(saved, messages) == 2 and not messages
    saved.write_text(json.dumps({"asked": {**ASKED, "rules": "a\x1bb"}, **STATE}))
    with pytest.raises(UserError, match=r"is from an evaluation with rules = 'a\\x1bb', not 'official'"):
        run_with_state(saved, messages)


def test_answers_must_be_to_all_prompts(tmp_path):
    """A partial evaluation that lacks a prompt of an example would give a submission without its answer."""
    video, saved, messages = make_video("a", 2), tmp_path / "clips.json", []
    video = dataclasses.replace(video, prompts=(video.prompts[0], dataclasses.replace(video.prompts[0], key="a/1")))
    saved.write_text(json.dumps({"asked": ASKED, **STATE}))
    task = make_task([video, make_video("b", 1)])
    result = benchmark_run.run(make_engine(predict), BENCHMARK, task, state_file=saved, batch_size=2, log=messages.append)
    assert [row["key"] for *_, row in result.rows] == ["a/0", "a/1", "b/0"] and not result.resumed
    assert "its answers to example 0 are to other questions" in messages[0]


def test_states_with_nan_prediction_scores_resume(tmp_path):
    """A prediction's score may be NaN; accumulated sums may not."""
    state = {**STATE, "rows": [[0, 0, ROW | {"scores": [float("nan")]}]]}
    (tmp_path / "clips.json").write_text(json.dumps({"asked": ASKED, **state}))
    assert run_with_state(tmp_path / "clips.json", output := []) == 1 and not output


def test_states_that_already_contain_the_next_example_are_rejected(tmp_path, monkeypatch):
    def twice(self, state):
        raise ValueError("b: scored twice; add each image once")

    saved = tmp_path / "clips.json"
    saved.write_text(json.dumps({"asked": ASKED, **STATE}))
    full = benchmark_run.PartialResults.merge
    merges = iter((full, full, twice))  # of the check, of the state, of what comes
    monkeypatch.setattr(benchmark_run.PartialResults, "merge", lambda self, state: next(merges)(self, state))
    with pytest.raises(UserError, match=r"clips\.json: does not fit the examples .b: scored twice.*remove it to start again"):
        run_with_state(saved, [])


@pytest.mark.parametrize(
    ("submission", "change", "why"),
    [
        ("coco_panoptic", {"labels": [0]}, ""),
        ("coco_panoptic", {"labels": []}, "has masks without labels or scores"),
        ("coco_panoptic", {"labels": [2]}, "has a label that is not a class"),
        ("coco_panoptic", {"labels": [0], "key": "1.5"}, "its image_id is '1.5', but the benchmark needs an integer"),
        ("youtube_vis", {"labels": [1], "scores": [0.5]}, ""),
        ("youtube_vis", {"labels": [1], "scores": []}, "has masks without labels or scores"),
        ("youtube_vis", {"labels": [1], "scores": [0.5], "masks": [[MASK], []]}, "has masks without labels or scores"),
    ],
)
def test_answers_with_classes_are_checked(submission, change, why):
    class Classes:
        category_ids = (10, 20)

    rows = [[0, 0, ROW | {"key": "7"} | change]]
    with pytest.raises(BadFile, match=why) if why else contextlib.nullcontext():
        submissions.check_rows(submission, rows, 1, Classes())
