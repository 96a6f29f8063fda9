"""What every verb has in common, and what `hyperseg train` says at its end."""

import pathlib
import subprocess
import sys

import pytest

from hyperseg_jax import __version__
from hyperseg_jax.commands.main import main
from hyperseg_jax.untrusted import limits

ROOT = pathlib.Path(__file__).parents[2]


def test_the_version_is_told_and_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"hyperseg {__version__}\n"
    assert f'version="{__version__}"' in (ROOT / "setup.py").read_text()


@pytest.mark.parametrize("verb", ["train", "sweep", "plan"])
def test_help_names_every_shipped_config(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    names = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
    assert ended.value.code == 0 and ", ".join(names) in shown


def test_the_module_is_the_same_command():
    shown = subprocess.run([sys.executable, "-m", "hyperseg_jax.train", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert shown.returncode == 0 and "--workdir" in shown.stdout


@pytest.mark.parametrize("left_out", ["limits", "limits.pixels"])
def test_limits_that_a_config_leaves_out(left_out, tmp_path, monkeypatch):
    file, seen = tmp_path / "mine.py", []
    tiny = f'runpy.run_path({str(ROOT / "configs" / "tiny.py")!r})["get_config"]()'
    file.write_text(f"import runpy\n\ndef get_config():\n    config = {tiny}\n    del config.{left_out}\n    return config\n")
    monkeypatch.setattr("hyperseg_jax.training.loop.train", lambda config, workdir, console: seen.append(config) or tmp_path)
    main(["train", "--config", str(file), "--workdir", str(tmp_path / "run"), "--limits", "outside=True"])
    assert seen[0].limits.to_dict() == {**limits.block(), "outside": True}


@pytest.mark.parametrize("left", [(), ("loss.png",), ("loss.png", "predictions.png")])
def test_training_names_the_images_that_it_left_and_no_others(left, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hyperseg_jax.training.loop.train", lambda config, workdir, console: tmp_path / "model")
    for name in left:
        (tmp_path / name).touch()
    main(["train", "--config", "tiny", "--workdir", str(tmp_path)])
    told = capsys.readouterr().err
    assert f"model: {tmp_path / 'model'}" in told
    assert {name for name in ("loss.png", "predictions.png") if str(tmp_path / name) in told} == set(left)
