"""The measure of padding agrees with counting by hand, and proposes a length that holds."""

import dataclasses
import io

import numpy as np
import pytest
from rich.console import Console

from hyperseg_jax.data import padding
from hyperseg_jax.data.features import Sizes
from hyperseg_jax.data.sources import Task
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.text.layout import TokenCounts, expanded_length
from hyperseg_jax.text.prompts import tokenize
from hyperseg_jax.text.tokenizer import Tokenizer

SIZES = Sizes(32, 16, 9, 4, 4, prompts=2, length=200, targets=4, template="short")
COUNTS = TokenCounts(9, 4, 4)


def example(text):
    masks = np.ones((1, 1, 20, 40), bool)
    return Example(text, np.zeros((1, 20, 40, 3), np.uint8), (Prompt("referring", text=text, masks=masks),))


class Records(list):
    def __getitem__(self, index):
        if not (found := super().__getitem__(index)):
            raise KeyError("anns")
        return example(found)


def task(*texts):
    return Task("a", Records(texts), None, 1, SIZES, Tokenizer.toy())


def length(text):
    return expanded_length(tokenize(example(text).prompts[0], Tokenizer.toy(), template="short", train=True), COUNTS)


def test_padding_by_hand():
    short, long = "the ring", "the large blue square left of the small red star"
    found = padding.measure(task(short, long, ""), seed=0, batch_size=1, cuts=(length(short), 500))
    used = np.array([length(short), length(long)])
    assert (found.read, found.length, found.longest) == (2, 200, used[1])
    assert found.fault.startswith("record 2: is of another make")
    assert found.tokens == pytest.approx(1 - used.mean() / 200)
    assert found.prompts == 0.5 and found.targets == 0.75 and found.pixels == 0.5
    assert found.after_cuts == pytest.approx(1 - used.mean() / np.mean([used[0], 200]), abs=0.05)
    assert found.proposed % 16 == 0 and 0 <= found.proposed - used[1] < 16
    tight = dataclasses.replace(task(short, long), sizes=dataclasses.replace(SIZES, length=found.proposed))
    assert padding.measure(tight, seed=0, batch_size=1).read == 2
    tighter = dataclasses.replace(task(short, long), sizes=dataclasses.replace(SIZES, length=found.longest - 1))
    assert "need" in padding.measure(tighter, seed=0, batch_size=1).fault
    many = padding.measure(task(short, long), seed=0, batch_size=64, cuts=(length(short),))
    assert many.after_cuts == pytest.approx(found.tokens)


def test_the_table_has_a_line_a_task():
    found = {"a": padding.measure(task("the ring"), seed=0, batch_size=2), "b": padding.measure(task(""), seed=0, batch_size=2)}
    assert found["b"].read == 0 and "KeyError" in found["b"].fault
    console = Console(file=io.StringIO(), width=120)
    console.print(padding.table(found))
    told = console.file.getvalue()
    assert "would do" in told and "after cuts" not in told and f"{100 * found['a'].tokens:.0f} %" in told
