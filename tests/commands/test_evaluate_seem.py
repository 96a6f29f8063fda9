"""hyperseg evaluate --benchmarks with a SEEM model folder, on sample files of every benchmark that it is evaluated on."""

import json
import pathlib

import numpy as np
import pytest
from sample_inputs import random_params
from seem_config import small_config

from hyperseg_jax.commands.main import main
from hyperseg_jax.evaluation import clicks
from hyperseg_jax.evaluation.benchmarks import BENCHMARKS
from hyperseg_jax.systems import system as systems
from hyperseg_jax.toy.samples import write_samples
from hyperseg_jax.weights import model_folder

CONFIG = """import runpy
def get_config():
    return runpy.run_path({path!r})["small_config"]().unlock()
"""
CLICKS = [name for name in BENCHMARKS if name.startswith("voc_clicks")]
OTHERS = ["coco_panoptic", "coco_semantic", "coco_panoptic_instances", "refcocog_first", "davis2016", "davis2017"]
HEADLINES = {"coco_panoptic": "pq", "coco_semantic": "miou", "coco_panoptic_instances": "ap", "refcocog_first": "ciou"}


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    """evaluate(names, *arguments) -> scores.json of a small model with random weights."""
    config, system = small_config(), systems.get("seem")
    model_folder.save_model(tmp_path / "model", config, system.tokenizer(config), random_params(system.shapes(config), seed=3))
    (tmp_path / "config.py").write_text(CONFIG.format(path=str(pathlib.Path(__file__).parents[1] / "seem_config.py")))
    write_samples(tmp_path / "data")
    monkeypatch.setattr(clicks, "LIMIT", 3)

    def run(names, *more):
        paths = {"config": "config.py", "checkpoint": "model", "data-root": "data", "out": "out"}
        given = [text for name, path in paths.items() for text in (f"--{name}", str(tmp_path / path))]
        main(["evaluate", *given, "--benchmarks", ",".join(names), "--batch-size", "2", *more])
        return json.loads((tmp_path / "out" / "scores.json").read_text())

    return run


def test_clicks_and_videos(evaluate, capsys):
    """With the scores of trivial predictions and the published ones beside them."""
    report = evaluate(["voc_clicks", "voc_clicks_box", "davis2017"], "--limit", "1", "--baselines")
    assert set(report["scores"]["voc_clicks"]) >= {"noc@50", "noc@80", "noc@85", "noc@90", "iou@1", "iou@3", "iou@5"}
    assert {name: list(of) for name, of in report["baselines"].items()} == {
        "voc_clicks": ["disc", "mean_mask"],
        "voc_clicks_box": ["disc", "mean_mask"],
        "davis2017": ["first_frame"],
    }
    assert {row["benchmark"] for row in report["published"]} == {"voc_clicks"}
    table = capsys.readouterr().out
    assert "mean_mask" in table and "first_frame" in table and "SEEM v1" in table


@pytest.mark.slow
def test_every_benchmark(evaluate):
    report = evaluate(CLICKS + OTHERS)
    assert list(report["scores"]) == CLICKS + OTHERS and len(CLICKS) == 6
    for name, scores in report["scores"].items():
        headline = "iou@1" if name in CLICKS else HEADLINES.get(name, "jf")
        assert np.isfinite(list(scores.values())).all() and 0 <= scores[headline] <= 1
