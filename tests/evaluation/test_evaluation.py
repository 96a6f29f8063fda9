"""Validation scores: every prompt of every example counts, even if an example has more prompts than a batch row holds."""

import dataclasses
import weakref

import numpy as np
import pytest
from fake_engine import make_engine, make_outputs

from hyperseg_jax import config as configs
from hyperseg_jax.data.sources import Task
from hyperseg_jax.datasets import record_errors
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation import validation
from hyperseg_jax.evaluation.text_controls import ShuffledTexts
from hyperseg_jax.results import drawing
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.systems import system as systems
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.untrusted import limits

SIDE = 96


def make_examples():
    """Returns examples of one, five and three prompts; only the first target of each is the upper half."""
    upper = np.arange(SIDE)[:, None] < np.full(SIDE, SIDE // 2)
    for k, count in enumerate((1, 5, 3)):
        prompts = tuple(
            Prompt(task="referring", text=f"thing {n}", masks=(~upper if n else upper)[None, None], group=f"g{n}")
            for n in range(count)
        )
        yield Example(f"example {k}", np.zeros((1, SIDE, SIDE, 3), np.uint8), prompts)


@pytest.mark.parametrize("room", [1, 2, 6])
def test_every_prompt_is_scored(monkeypatch, room):
    calls = []

    def predict(params, batch, memory):
        """Predicts the upper half for every prompt."""
        rows, prompts = batch["uses_expression"].shape
        calls.append(int(batch["uses_expression"].sum()))
        logits = np.broadcast_to(np.where(np.arange(24) < 12, 9.0, -9.0)[:, None], (rows, 1, prompts, 1, 24, 24))
        return make_outputs(batch, mask_logits=logits, expression=np.full((rows, 1, prompts, 1), 9.0)), np.zeros(rows)

    monkeypatch.setattr(validation, "BATCH", 2)
    processor = systems.get("hyperseg").processor(configs.load("tiny"), Tokenizer.toy(), {"length": 320, "prompts": room})
    task = Task("referring", None, list(make_examples()), 0, processor)
    done = []
    result = validation.evaluate(
        make_engine(predict), {"referring": task}, progress=lambda name, count, of: done.append((count, of))
    )
    scores = result.scores["referring"]
    assert scores["count"] == 9 and scores["giou"] == pytest.approx(3 / 9, abs=1e-3)
    assert scores["giou/g0"] == pytest.approx(1, abs=1e-3) and all(scores[f"giou/g{n}"] == 0 for n in range(1, 5))
    assert len(result.tiles) == 3 and done[-1] == (3, 3)


def test_queries_that_need_too_much_memory_are_left_out():
    """The element of a record may be larger than that of the config, since its sizes follow the record."""
    processor = systems.get("hyperseg").processor(configs.load("tiny"), Tokenizer.toy(), {"length": 320, "prompts": 6})
    task = Task("referring", None, list(make_examples()), 0, processor)
    messages = []
    with limits.temporary_limits(array=10_000):
        result = validation.evaluate(make_engine(predict_everything), {"referring": task}, log=messages.append)
    assert result.scores["referring"]["unread"] == 3 and "numbers of 4 bytes in a query, and the limit is 10000" in messages[0]


def test_comparisons_of_images_of_any_shape_are_small():
    """A sheet is as wide as its widest tile, and as high as its highest one."""
    prompt = Prompt(task="referring", text="a line", masks=np.ones((1, 1, 16, 20_000), bool))
    frame, masks = np.zeros((16, 20_000, 3), np.uint8), np.ones((1, 16, 20_000), bool)
    tile = drawing.draw_comparison(frame, prompt, list(masks))
    assert tile.shape[1] <= 2 * drawing.TILE and tile.shape[0] <= drawing.TILE


def test_comparisons_of_a_video_show_one_frame():
    masks = np.zeros((1, 2, 20, 20), bool)
    masks[0, 1, :10] = True
    prompt, frame = Prompt("video", text="a line", masks=masks), np.full((20, 20, 3), 90, np.uint8)
    first, last = (drawing.draw_comparison(frame, prompt, [], at=at)[:20, :20] for at in (0, -1))
    assert (first == first[0, 0]).all() and not (last[5] == last[15]).any()


def test_a_class_has_one_colour_in_targets_and_predictions():
    halves = np.zeros((2, 20, 20), bool)
    halves[0, :10], halves[1, 10:] = True, True
    prompt = Prompt("panoptic", classes=("a", "b", "c"), masks=halves[:, None], labels=(2, 0))
    tile = drawing.draw_comparison(np.full((20, 20, 3), 90, np.uint8), prompt, list(halves), labels=(0, 1))
    at = lambda row, panel: tile[row, panel * 20 + 10].tolist()
    assert at(15, 0) == at(5, 1), "class a"
    assert len({tuple(colour) for colour in (at(5, 0), at(15, 0), at(15, 1))}) == 3


def test_shuffled_texts_keep_no_images():
    readable, alive, unread = list(make_examples()), [], []

    class Reader:
        def __len__(self):
            return 4

        def __getitem__(self, index):
            if index == 1:
                raise UserError("it is damaged")
            example = dataclasses.replace(readable[index - (index > 1)])
            alive.append(weakref.ref(example))
            return example

    shuffled = ShuffledTexts(Reader(), 4, lambda index, reason: unread.append((index, reason)))
    assert not any(reference() for reference in alive) and unread == [(1, "it is damaged")]
    before = [prompt.text for example in readable for prompt in example.prompts]
    after = [prompt.text for example in shuffled for prompt in example.prompts]
    assert len(shuffled) == 3 and sorted(after) == sorted(before) and after != before


def predict_everything(params, batch, memory):
    """Predicts every pixel for every prompt."""
    rows, prompts = batch["uses_expression"].shape
    logits = np.full((rows, 1, prompts, 1, 24, 24), 9.0)
    return make_outputs(batch, mask_logits=logits, expression=np.full((rows, 1, prompts, 1), 9.0)), None


def evaluate_referring(examples, **options):
    """Scores of predict_everything on referring prompts."""
    processor = systems.get("hyperseg").processor(configs.load("tiny"), Tokenizer.toy(), {"length": 320, "prompts": 6})
    task = Task("referring", None, examples, 0, processor)
    return validation.evaluate(make_engine(predict_everything), {"referring": task}, **options).scores["referring"]


def test_a_first_record_that_cannot_be_prepared_is_counted():
    first, *rest = make_examples()
    empty = dataclasses.replace(first, prompts=(dataclasses.replace(first.prompts[0], text=" "),))
    messages = []
    scores = evaluate_referring([empty, *rest], log=messages.append)
    assert scores["count"] == 8 and scores["unread"] == 1 and "example 0" in messages[0]


def test_a_record_that_cannot_be_scored_is_counted():
    """No prompt of it is scored, including its valid ones."""
    first, second, third = make_examples()
    *rest, last = second.prompts
    odd = dataclasses.replace(second, prompts=(*rest, dataclasses.replace(last, masks=last.masks[..., :7])))
    messages = []
    scores = evaluate_referring([first, odd, third], log=messages.append)
    assert scores["count"] == 4 and scores["unread"] == 1
    assert "record 1: example 1 4: cannot be scored" in messages[0] and "\n" not in messages[0]


def test_a_first_record_of_an_unsupported_task_does_not_affect_the_others():
    """HyperSeg has no template for captions: such a record counts as unreadable, the others are scored."""
    first, *rest = make_examples()
    odd = dataclasses.replace(first, prompts=(dataclasses.replace(first.prompts[0], task="caption"),))
    scores = evaluate_referring([odd, *rest])
    assert scores["count"] == 8 and scores["unread"] == 1


@pytest.mark.parametrize("thing", [None, "yes", np.zeros(0, int), 0.5])
def test_invalid_thing_flags_make_a_bad_record(thing):
    class Reader:
        __len__ = lambda self: 1
        __getitem__ = record_errors.guard_record(lambda self, index: example)

    prompt = Prompt("panoptic", classes=("a", "b"), things=(True, True), masks=np.zeros((0, 1, 8, 8), bool))
    object.__setattr__(prompt, "things", (True, thing))  # as an incorrect reader would
    example = Example("it", np.zeros((1, 8, 8, 3), np.uint8), (prompt,))
    with pytest.raises(UserError, match="expected a boolean per class; give true or false"):
        Reader()[0]


def test_a_record_of_too_many_frames_for_the_model_is_counted():
    """Small frames take as much memory as large ones once they have the size of the model."""
    first, *others = make_examples()
    many = Example("many", np.zeros((50, 1, 1, 3), np.uint8), (dataclasses.replace(first.prompts[0], masks=None),))
    messages = []
    with limits.temporary_limits(frame_pixels=12 * 49 * SIDE**2):
        scores = evaluate_referring([many, *others], log=messages.append)
    assert scores["count"] == 8 and scores["unread"] == 1
    assert "record 0: many: has 5529600 pixels in 12 queries of 50 frames, and the limit is 5419008" in messages[0]


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ([(1, 100), (1, 200)], "record 1: example 1: has 25600 pixels with sides of at least 128"),
        (
            [(130, 128), (132, 128), (128, 130)],
            "record 1: the canvas of its batch: has 17160 pixels with sides of at least 128",
        ),
        ([(64, 128)] * 3, None),
    ],
)
def test_images_that_need_a_large_canvas_are_counted(sizes, why):
    """An image of one row takes as much memory as one of 128 rows; images of a batch share the canvas."""
    (first, *_), messages = make_examples(), []
    records = [
        Example(
            f"example {k}",
            np.zeros((1, *size, 3), np.uint8),
            (dataclasses.replace(first.prompts[0], masks=np.ones((1, 1, *size), bool)),),
        )
        for k, size in enumerate(sizes)
    ]
    with limits.temporary_limits(pixels=16900):
        scores = evaluate_referring(records, log=messages.append)
    assert scores["count"] == len(sizes) - len(messages) and (why in messages[0] if why else not messages)
