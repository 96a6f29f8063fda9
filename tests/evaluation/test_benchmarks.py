"""The table of benchmarks: every line names what exists, with the fields that its reader takes."""

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
def test_a_line_names_what_exists(name):
    line = BENCHMARKS[name]
    assert line.task in TASKS and line.scoring in SCORINGS and (line.submission in WRITERS or not line.submission)
    assert (SCORINGS[line.scoring].kind in systems.get("hyperseg").answers.kinds) == (line.task != "chat")
    inspect.signature(READERS[line.reader]).bind(**line.fields)
    if line.reader == "benchmark":
        assert line.fields["split"] in layouts.find_layout(line.fields["name"]).splits


def test_the_page_has_every_benchmark():
    rows = " ".join(line for line in DOCS.read_text().splitlines() if line.startswith("| `"))
    assert not [name for name in BENCHMARKS if f"`{name}`" not in rows]


def test_published_numbers_are_of_scores_that_we_give():
    metrics = {row.metric for row in REPORTED_RESULTS if row.benchmark in BENCHMARKS}
    assert {"pq", "ap", "miou", "ciou", "giou", "precision@0.5", "noc@85", "noc@90"} == metrics
    assert all(0 < row.value < 100 and row.source for row in REPORTED_RESULTS)
