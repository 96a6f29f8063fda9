"""The benchmark registry: every entry refers to existing readers, fields, protocols and scores."""

import inspect
import pathlib

import pytest

from hyperseg_jax.data.sources import READERS
from hyperseg_jax.datasets import layouts
from hyperseg_jax.evaluation.benchmarks import BENCHMARKS
from hyperseg_jax.evaluation.scoring import SCORINGS
from hyperseg_jax.evaluation.submissions import WRITERS
from hyperseg_jax.metrics.published import REPORTED_RESULTS
from hyperseg_jax.structs import TASKS
from hyperseg_jax.systems import system as systems

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_entries_refer_to_existing_parts(name):
    line = BENCHMARKS[name]
    assert line.task in TASKS and line.scoring in SCORINGS and (line.submission in WRITERS or not line.submission)
    assert (SCORINGS[line.scoring].kind in systems.get("hyperseg").answers.kinds) == (line.task != "chat")
    inspect.signature(READERS[line.reader]).bind(**line.fields)
    if line.reader == "benchmark":
        assert line.fields["split"] in layouts.find_layout(line.fields["name"]).splits


def test_every_benchmark_is_documented():
    rows = " ".join(line for line in DOCS.read_text().splitlines() if line.startswith("| `"))
    assert not [name for name in BENCHMARKS if f"`{name}`" not in rows]


def test_published_numbers_belong_to_reported_scores():
    metrics = {row.metric for row in REPORTED_RESULTS if row.benchmark in BENCHMARKS}
    assert {"pq", "ap", "miou", "ciou", "giou", "precision@0.5", "noc@85", "noc@90", "jf"} == metrics
    assert all(0 < row.value < 100 and row.source for row in REPORTED_RESULTS)
