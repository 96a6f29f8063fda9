"""Behaviour shared by all commands, and the final messages of `hyperseg train`."""

import errno
import os
import pathlib
import re
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from hyperseg_jax import __version__, cache
from hyperseg_jax.commands.main import main
from hyperseg_jax.failures import STANDARD_OUTPUT
from hyperseg_jax.untrusted import limits

ROOT = pathlib.Path(__file__).parents[2]


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"hyperseg {__version__}\n"
    assert f'version="{__version__}"' in (ROOT / "setup.py").read_text()


@pytest.mark.parametrize("verb", ["train", "sweep", "plan"])
def test_help_names_every_shipped_config(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    output = " ".join(capsys.readouterr().out.split())
    names = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
    assert ended.value.code == 0 and ", ".join(names) in output


def test_the_module_is_the_same_command():
    output = subprocess.run([sys.executable, "-m", "hyperseg_jax.train", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert output.returncode == 0 and "--workdir" in output.stdout


@pytest.mark.parametrize("left_out", ["limits", "limits.pixels"])
def test_configs_without_limits(left_out, tmp_path, monkeypatch):
    file, recorded = tmp_path / "mine.py", []
    tiny = f'runpy.run_path({str(ROOT / "configs" / "tiny.py")!r})["get_config"]()'
    file.write_text(f"import runpy\n\ndef get_config():\n    config = {tiny}\n    del config.{left_out}\n    return config\n")
    monkeypatch.setattr(
        "hyperseg_jax.training.loop.train", lambda config, workdir, **options: recorded.append(config) or tmp_path
    )
    main(["train", "--config", str(file), "--workdir", str(tmp_path / "run"), "--limits", "outside=True"])
    assert recorded[0].limits.to_dict() == {**limits.default_block(), "outside": True}


@pytest.mark.parametrize("left", [(), ("loss.png",), ("loss.png", "gates.png", "predictions.png")])
def test_training_names_the_written_images(left, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hyperseg_jax.training.loop.train", lambda config, workdir, **options: tmp_path / "model")
    for name in ("model", *left):
        (tmp_path / name).touch()
    main(["train", "--config", "tiny", "--workdir", str(tmp_path)])
    messages = capsys.readouterr().err
    assert f"model: {tmp_path / 'model'}" in messages
    assert {name for name in ("loss.png", "gates.png", "predictions.png") if str(tmp_path / name) in messages} == set(left)


@pytest.mark.parametrize(
    ("workdir", "mine", "expected"),
    [
        ("gs://bucket/run/", None, "gs://bucket/run/compiled"),
        ("run", None, "cache/compiled"),
        ("", None, "cache/compiled"),
        ("gs://bucket/run", "mine", "mine"),
    ],
)
def test_compiled_programs_are_kept_with_the_run_in_a_bucket(workdir, mine, expected, monkeypatch):
    """A recreated slice finds them there; the disk of the old one is lost."""
    monkeypatch.setenv("HYPERSEG_CACHE", "cache")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    if mine:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", mine)
    cache.set_compilation_cache(workdir)
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == expected


def exhaust_the_device():
    """Lets XLA fail to allocate 16 TB."""
    jnp.zeros((2**42,), jnp.float32).block_until_ready()


def raise_error(error):
    raise error


FAILURES = {
    "device memory": (exhaust_the_device, r"there is not enough memory \(RESOURCE_EXHAUSTED: .*\); use a smaller model"),
    "memory": (lambda: np.zeros(2**55), r"there is not enough memory \(Unable to allocate .*\); use a smaller model"),
    "memory without a message": (lambda: raise_error(MemoryError()), r"there is not enough memory \(MemoryError\); use a"),
    "disk": (
        lambda: raise_error(OSError(errno.ENOSPC, "No space left on device", "a/b")),
        "a/b: No .*; free disk space, or give",
    ),
    "disk without a name": (lambda: raise_error(OSError(errno.ENOSPC, "No space left")), "a file: No .*; free disk space, or"),
    "quota": (lambda: raise_error(OSError(errno.EDQUOT, "Quota exceeded", "b")), "b: Quota exceeded; free disk space"),
    "full output": (
        lambda: raise_error(OSError(errno.ENOSPC, "No space left on device", STANDARD_OUTPUT)),
        "standard output: No space left on device; free space, or redirect it elsewhere\n",
    ),
    "closed output": (
        lambda: raise_error(OSError(errno.EBADF, "Bad file descriptor", STANDARD_OUTPUT)),
        "standard output: Bad file descriptor; free space, or redirect it elsewhere\n",
    ),
    "permission": (lambda: raise_error(OSError(errno.EACCES, "denied", "b")), "b: denied; give another folder, or change"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_too_little_memory_or_disk_is_one_line_with_a_fix(name, monkeypatch, capsys):
    fail, message = FAILURES[name]
    monkeypatch.setattr("hyperseg_jax.commands.data.run", lambda parsed: fail())
    with pytest.raises(SystemExit) as ended:
        main(["data", "samples", "--out", "out"])
    output = capsys.readouterr().err
    assert ended.value.code == 2 and output.count("\n") == 1 and re.match(f"error: {message}", output), output
