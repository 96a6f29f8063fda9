"""The measure of padding agrees with counting by hand, and proposes a length that holds."""

import dataclasses
import io

import numpy as np
import pytest
from rich.console import Console

from hyperseg_jax.data import padding
from hyperseg_jax.data.sources import Task
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.systems.hyperseg.markers import TokenCounts, runs
from hyperseg_jax.systems.hyperseg.processor import HyperSegProcessor
from hyperseg_jax.systems.hyperseg.prompts import normalize, tokenize
from hyperseg_jax.text.layout import expanded_length
from hyperseg_jax.text.tokenizer import Tokenizer

PROCESSOR = HyperSegProcessor(Tokenizer.toy(), 32, 16, 9, 4, 4, prompts=2, length=200, targets=4, template="short")
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
    return Task("a", Records(texts), None, 1, PROCESSOR)


def length(text):
    return expanded_length(
        runs(tokenize(normalize(example(text).prompts[0]), Tokenizer.toy(), template="short", train=True), COUNTS)
    )


SHORT, LONG = "the ring", "the large blue square left of the small red star"


def test_padding_by_hand():
    found = padding.measure(task(SHORT, LONG, ""), seed=0)
    used = [length(SHORT), length(LONG)]
    assert (sorted(found.used), found.length) == (used, 200) and found.error.startswith("record 2: is in an unexpected format")
    assert found.padding_fractions == {"prompts": 0.5, "targets": 0.75, "pixels": 0.5}
    enough = -(-used[1] // 16) * 16
    part = lambda room: f"{100 * (1 - np.mean(used) / room):.0f} %"
    assert found.cells((), 1) == ["200", str(used[1]), str(enough), part(200)]
    one, many = (found.cells((used[0], 500), size)[-1] for size in (1, 64))
    assert many == part(200) and int(one[:-2]) == pytest.approx(100 * (1 - np.mean(used) / np.mean([used[0], 200])), abs=5)
    sized = lambda n: dataclasses.replace(task(SHORT, LONG), processor=dataclasses.replace(PROCESSOR, length=n))
    assert len(padding.measure(sized(enough), seed=0).used) == 2
    assert "need" in padding.measure(sized(used[1] - 1), seed=0).error


def test_the_table_has_a_line_a_task_and_one_of_mixed_batches():
    found = {"a": padding.measure(task(SHORT), seed=0), "b": padding.measure(task(LONG), seed=0)}
    none = padding.measure(task(""), seed=0)
    assert not none.used and "KeyError" in none.error

    def told(**options):
        console = Console(file=io.StringIO(), width=120)
        console.print(padding.table(found, {"a": 3, "b": 1}, batch_size=8, **options))
        return console.file.getvalue()

    apart = told(length_buckets=(), mixed=False)
    assert "would do" in apart and "in buckets" not in apart and f"{100 * (1 - length(LONG) / 200):.0f} %" in apart
    together = told(length_buckets=(length(SHORT),), mixed=True)
    (line,) = [line for line in together.splitlines() if "mixed" in line]
    assert f"{100 * (1 - (3 * length(SHORT) + length(LONG)) / 800):.0f} %" in line and "in buckets" in together
