"""The benchmark registry: every entry refers to existing readers, fields, protocols and scores."""

import inspect
import json
import pathlib
import re

import pytest

from hyperseg_jax.data.sources import READERS, open_reader
from hyperseg_jax.datasets import layouts, revos
from hyperseg_jax.evaluation.benchmarks import BENCHMARKS
from hyperseg_jax.evaluation.scoring import SCORINGS
from hyperseg_jax.evaluation.submissions import WRITERS
from hyperseg_jax.metrics.average_precision import NAMES as AP_NAMES
from hyperseg_jax.metrics.average_precision import MaskAP
from hyperseg_jax.metrics.published import REPORTED_RESULTS
from hyperseg_jax.structs import TASKS
from hyperseg_jax.systems import system as systems
from hyperseg_jax.text.expressions import join_sentences
from hyperseg_jax.toy.samples import write_samples

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_entries_refer_to_existing_parts(name):
    line = BENCHMARKS[name]
    assert line.task in TASKS and line.scoring in SCORINGS and (line.submission in WRITERS or not line.submission)
    assert (SCORINGS[line.scoring].kind in systems.get("hyperseg").answers.kinds) == (line.task not in ("chat", "caption"))
    inspect.signature(READERS[line.reader]).bind(**line.fields)
    if line.reader == "benchmark":
        assert line.fields["split"] in layouts.find_layout(line.fields["name"]).splits


def test_every_benchmark_is_documented():
    rows = " ".join(line for line in DOCS.read_text().splitlines() if line.startswith("| `"))
    assert not [name for name in BENCHMARKS if f"`{name}`" not in rows]


def read_published_table():
    """Returns {(benchmark, metric): score} of the table of the page."""
    scores = {}
    for line in DOCS.read_text().partition("## Published scores")[2].splitlines():
        if line.startswith("| `") and line.endswith("| |"):
            named, metrics, values, *_ = line.removeprefix("| ").split(" | ")
            group = "".join(f"/{word}" for word in re.findall(r", ([a-z]+)$", named))
            columns = [metric.lower().replace("&", "") + group for metric in metrics.split(", ")]
            keys = [(name, metric) for name in re.findall("`(.+?)`", named) for metric in columns]
            scores |= dict(zip(keys, map(float, values.split(", ")), strict=True))
    return scores


def test_the_page_has_the_published_numbers_of_instructseg():
    rows = {(row.benchmark, row.metric): row.value for row in REPORTED_RESULTS if row.model == "InstructSeg-3B"}
    assert read_published_table() == rows


def test_reasonseg_is_scored_by_the_first_question_and_refcoco_by_all_sentences(tmp_path):
    """As the numbers beside ours (LISA, HyperSeg, InstructSeg)."""
    write_samples(tmp_path)
    read = lambda name: open_reader(name, BENCHMARKS[name].reader, BENCHMARKS[name].fields, str(tmp_path))
    for split in ("reasonseg", "reasonseg_test"):
        assert [example.prompts[0].text.endswith("again") for example in read(split)] == [False]
    file = tmp_path / "refcoco" / "refcoco_val.json"
    records = json.loads(file.read_text())
    records[0]["instruction"] = [{"sent": "the red ring"}, {"sent": "the ring on the left"}]
    file.write_text(json.dumps(records))
    examples = read("refcoco")
    (prompt,) = examples[0].prompts
    assert len(examples) == len(records) and prompt.text == join_sentences(["the red ring", "the ring on the left"])
    assert "red ring" in prompt.text and "on the left" in prompt.text


def test_published_numbers_belong_to_reported_scores():
    for row in REPORTED_RESULTS:
        metric, _, group = row.metric.partition("/")
        scores = SCORINGS[BENCHMARKS[row.benchmark].scoring].new("official")
        assert metric in (AP_NAMES if isinstance(scores, MaskAP) else scores.names()), row
        assert not group or (row.benchmark == "revos" and group in revos.TYPES.values()), row
        assert 0 < row.value < (1000 if metric == "cider" else 100) and row.source
    keys = [(row.benchmark, row.metric, row.model) for row in REPORTED_RESULTS]
    assert len(set(keys)) == len(keys)
