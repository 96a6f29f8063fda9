"""hyperseg evaluate with a full standard output: the scores are in --out nevertheless."""

import errno
import io
import json
import pathlib
import sys

import pytest

from hyperseg_jax.commands.main import main
from hyperseg_jax.failures import STANDARD_OUTPUT

MICRO = pathlib.Path(__file__).parents[1] / "micro_config.py"


class FullStream(io.StringIO):
    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device", STANDARD_OUTPUT)


@pytest.mark.parametrize("mode", ["model", "benchmarks"])
def test_scores_are_written_before_the_table(mode, micro, trained, world, tmp_path, monkeypatch, capsys):
    model = {
        "model": ["--model", str(trained)],
        "benchmarks": ["--config", str(MICRO), "--checkpoint", str(trained), "--benchmarks", "toy_referring"],
    }[mode]
    monkeypatch.setattr(sys, "stdout", FullStream())
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *model, "--limit", "2", "--data-root", str(world), "--out", str(tmp_path / "out")])
    assert ended.value.code == 2 and "error: standard output: No space left on device; free space" in capsys.readouterr().err
    assert "referring" in (tmp_path / "out" / "scores.json").read_text()
    assert json.loads((tmp_path / "out" / "scores.json").read_text())
