"""hyperseg evaluate writes the scores of the workdir's own validation, with controls beside them."""

import json

from hyperseg_jax.commands.main import main
from hyperseg_jax.training.observers import read_metrics


def test_scores_of_a_workdir(trained, tmp_path, capsys):
    main(["evaluate", "--model", str(trained), "--limit", "4", "--out", str(tmp_path / "out")])
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())["referring"]
    (last,) = (line for line in read_metrics(trained / "metrics.jsonl") if line["kind"] == "validation")
    assert scores["count"] == last["count"]
    assert abs(scores["ciou"] - last["ciou"]) < 1e-3
    assert {"ciou_shuffled", "ciou_blind"} <= scores.keys()
    assert (tmp_path / "out" / "predictions.png").stat().st_size > 1000
    assert "referring" in capsys.readouterr().out
