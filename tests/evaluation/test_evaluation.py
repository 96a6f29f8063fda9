"""Scores of a model on its own tasks: every prompt of every example counts, also where a batch has room for fewer."""

import dataclasses

import numpy as np
import pytest
from faked import engine, outputs_of

from hyperseg_jax import config as configs
from hyperseg_jax.data.sources import Task
from hyperseg_jax.datasets import record_errors
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation import validation
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.systems import system as systems
from hyperseg_jax.text.tokenizer import Tokenizer

SIDE = 96


def examples():
    """One, five and three prompts; of each example only the first has its truth in the upper half."""
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
        """The upper half to every prompt."""
        rows, prompts = batch["uses_expression"].shape
        calls.append(int(batch["uses_expression"].sum()))
        logits = np.broadcast_to(np.where(np.arange(24) < 12, 9.0, -9.0)[:, None], (rows, 1, prompts, 1, 24, 24))
        return outputs_of(batch, mask_logits=logits, expression=np.full((rows, 1, prompts, 1), 9.0)), np.zeros(rows)

    monkeypatch.setattr(validation, "BATCH", 2)
    processor = systems.get("hyperseg").processor(configs.load("tiny"), Tokenizer.toy(), {"length": 320, "prompts": room})
    task = Task("referring", None, list(examples()), 0, processor)
    done = []
    made = validation.evaluate(engine(predict), {"referring": task}, progress=lambda name, count, of: done.append((count, of)))
    scores = made.scores["referring"]
    assert scores["count"] == 9 and scores["giou"] == pytest.approx(3 / 9, abs=1e-3)
    assert scores["giou/g0"] == pytest.approx(1, abs=1e-3) and all(scores[f"giou/g{n}"] == 0 for n in range(1, 5))
    assert len(made.tiles) == 3 and done[-1] == (3, 3)


def predict_everything(params, batch, memory):
    """Marks every pixel for every prompt."""
    rows, prompts = batch["uses_expression"].shape
    logits = np.full((rows, 1, prompts, 1, 24, 24), 9.0)
    return outputs_of(batch, mask_logits=logits, expression=np.full((rows, 1, prompts, 1), 9.0)), None


def evaluate_referring(examples, **options):
    """Scores of predict_everything on referring prompts."""
    processor = systems.get("hyperseg").processor(configs.load("tiny"), Tokenizer.toy(), {"length": 320, "prompts": 6})
    task = Task("referring", None, examples, 0, processor)
    return validation.evaluate(engine(predict_everything), {"referring": task}, **options).scores["referring"]


def test_a_first_record_that_cannot_be_prepared_is_counted():
    first, *others = examples()
    empty = dataclasses.replace(first, prompts=(dataclasses.replace(first.prompts[0], text=" "),))
    messages = []
    scores = evaluate_referring([empty, *others], log=messages.append)
    assert scores["count"] == 8 and scores["unread"] == 1 and "example 0" in messages[0]


def test_a_record_that_cannot_be_scored_is_counted():
    """All of it: its first prompts alone would be a part of an example."""
    first, second, third = examples()
    *others, last = second.prompts
    odd = dataclasses.replace(second, prompts=(*others, dataclasses.replace(last, masks=last.masks[..., :7])))
    messages = []
    scores = evaluate_referring([first, odd, third], log=messages.append)
    assert scores["count"] == 4 and scores["unread"] == 1
    assert "record 1: example 1 4: cannot be scored" in messages[0] and "\n" not in messages[0]


def test_a_first_record_of_a_kind_that_is_not_asked_does_not_decide_how_all_are_asked():
    """HyperSeg has no words for captions: such a record is unread, and the others are asked for masks."""
    first, *others = examples()
    odd = dataclasses.replace(first, prompts=(dataclasses.replace(first.prompts[0], task="caption"),))
    scores = evaluate_referring([odd, *others])
    assert scores["count"] == 8 and scores["unread"] == 1


@pytest.mark.parametrize("thing", [None, "yes", np.zeros(0, int), 0.5])
def test_a_class_that_is_neither_thing_nor_stuff_is_a_bad_record(thing):
    class Reader:
        __len__ = lambda self: 1
        __getitem__ = record_errors.guard_record(lambda self, index: example)

    prompt = Prompt("panoptic", classes=("a", "b"), things=(True, True), masks=np.zeros((0, 1, 8, 8), bool))
    object.__setattr__(prompt, "things", (True, thing))  # as a careless reader would make it
    example = Example("it", np.zeros((1, 8, 8, 3), np.uint8), (prompt,))
    with pytest.raises(UserError, match="expected a boolean per class; give true or false"):
        Reader()[0]
