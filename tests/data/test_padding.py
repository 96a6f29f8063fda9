"""Padding statistics equal a manual count, and the proposed length is sufficient."""

import dataclasses
import io

import numpy as np
import pytest
from rich.console import Console

from hyperseg_jax.data import padding
from hyperseg_jax.data.sources import Task
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.systems.hyperseg.processor import HyperSegProcessor
from hyperseg_jax.systems.hyperseg.prompts import normalize_prompt, tokenize_prompt
from hyperseg_jax.systems.psalm.markers import TokenCounts, expand_to_runs
from hyperseg_jax.text.layout import expanded_length
from hyperseg_jax.text.tokenizer import Tokenizer

PROCESSOR = HyperSegProcessor(Tokenizer.toy(), 32, 16, 9, 4, 4, prompts=2, length=200, targets=4, template="short")
COUNTS = TokenCounts(9, 4, 4)


def make_example(text):
    masks = np.ones((1, 1, 20, 40), bool)
    return Example(text, np.zeros((1, 20, 40, 3), np.uint8), (Prompt("referring", text=text, masks=masks),))


class Records(list):
    def __getitem__(self, index):
        if not (result := super().__getitem__(index)):
            raise KeyError("anns")
        return make_example(result)


def make_task(*texts):
    return Task("a", Records(texts), None, 1, PROCESSOR)


def count_tokens(text):
    return expanded_length(
        expand_to_runs(
            tokenize_prompt(normalize_prompt(make_example(text).prompts[0]), Tokenizer.toy(), template="short", train=True),
            COUNTS,
        )
    )


SHORT, LONG = "the ring", "the large blue square left of the small red star"


def test_padding_statistics():
    result = padding.measure_padding(make_task(SHORT, LONG, ""), seed=0)
    used = [count_tokens(SHORT), count_tokens(LONG)]
    assert (sorted(result.used), result.length) == (used, 200) and result.error.startswith(
        "record 2: is in an unexpected format"
    )
    assert result.padding_fractions == {"prompts": 0.5, "targets": 0.75, "pixels": 0.5}
    enough = -(-used[1] // 16) * 16
    part = lambda room: f"{100 * (1 - np.mean(used) / room):.0f} %"
    assert result.cells((), 1) == ["200", str(used[1]), str(enough), part(200)]
    one, many = (result.cells((used[0], 500), size)[-1] for size in (1, 64))
    assert many == part(200) and int(one[:-2]) == pytest.approx(100 * (1 - np.mean(used) / np.mean([used[0], 200])), abs=5)
    sized = lambda n: dataclasses.replace(make_task(SHORT, LONG), processor=dataclasses.replace(PROCESSOR, length=n))
    assert len(padding.measure_padding(sized(enough), seed=0).used) == 2
    assert "need" in padding.measure_padding(sized(used[1] - 1), seed=0).error


def test_the_table_has_a_line_per_task_and_for_mixed_batches():
    result = {"a": padding.measure_padding(make_task(SHORT), seed=0), "b": padding.measure_padding(make_task(LONG), seed=0)}
    none = padding.measure_padding(make_task(""), seed=0)
    assert not none.used and "KeyError" in none.error

    def print_table(**options):
        console = Console(file=io.StringIO(), width=120)
        console.print(padding.padding_table(result, {"a": 3, "b": 1}, batch_size=8, **options))
        return console.file.getvalue()

    separate = print_table(length_buckets=(), mixed=False)
    assert (
        "would do" in separate and "in buckets" not in separate and f"{100 * (1 - count_tokens(LONG) / 200):.0f} %" in separate
    )
    mixed = print_table(length_buckets=(count_tokens(SHORT),), mixed=True)
    (line,) = [line for line in mixed.splitlines() if "mixed" in line]
    assert f"{100 * (1 - (3 * count_tokens(SHORT) + count_tokens(LONG)) / 800):.0f} %" in line and "in buckets" in mixed
