"""The benchmark registry: every entry refers to existing readers, fields, protocols and scores."""

import inspect
import json
import pathlib

import pytest

from hyperseg_jax.data.sources import READERS, open_reader
from hyperseg_jax.datasets import layouts
from hyperseg_jax.evaluation.benchmarks import BENCHMARKS
from hyperseg_jax.evaluation.scoring import SCORINGS
from hyperseg_jax.evaluation.submissions import WRITERS
from hyperseg_jax.metrics.published import REPORTED_RESULTS
from hyperseg_jax.structs import TASKS
from hyperseg_jax.systems import system as systems
from hyperseg_jax.toy.samples import write_samples

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


def test_the_page_has_all_published_numbers_of_instructseg():
    rows = [line for line in DOCS.read_text().splitlines() if line.startswith("| `") and line.endswith("| |")]
    for row in REPORTED_RESULTS:
        if row.model == "InstructSeg-3B":
            assert any(f"`{row.benchmark}`" in line and str(row.value) in line for line in rows), row


def test_reasonseg_is_scored_by_the_first_question_and_refcoco_by_all_sentences(tmp_path):
    """As the numbers beside ours (LISA, HyperSeg, InstructSeg)."""
    write_samples(tmp_path)
    read = lambda name: open_reader(name, BENCHMARKS[name].reader, BENCHMARKS[name].fields, str(tmp_path))
    for split in ("reasonseg", "reasonseg_test"):
        assert [example.prompts[0].text.endswith("again") for example in read(split)] == [False]
    records = json.loads((tmp_path / "refcoco" / "refcoco_val.json").read_text())
    assert len(read("refcoco")) == len(records)


def test_published_numbers_belong_to_reported_scores():
    metrics = {row.metric for row in REPORTED_RESULTS if row.benchmark in BENCHMARKS}
    of_revos = {f"{name}/{group}" for name in ("j", "f", "jf") for group in ("reasoning", "referring")}
    others = {"pq", "ap", "miou", "ciou", "giou", "precision@0.5", "noc@85", "noc@90", "j", "f", "jf", "accuracy"}
    assert metrics == others | of_revos and all(row.benchmark in BENCHMARKS for row in REPORTED_RESULTS)
    assert all(0 < row.value < 100 and row.source for row in REPORTED_RESULTS)
