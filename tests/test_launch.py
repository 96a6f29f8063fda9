"""The launch scripts say what they would run."""

import pathlib
import shlex
import subprocess

LAUNCH = pathlib.Path(__file__).parent.parent / "launch"


def launch(script, *arguments):
    return subprocess.run(["bash", LAUNCH / script, *arguments], capture_output=True, text=True)


def test_local_passes_flags_through():
    shown = launch("local.sh", "tiny", "my run", "--config.train.steps=5", "--dry-run", "--config.data.root=a b")
    assert shown.returncode == 0, shown.stderr
    assert shlex.split(shown.stdout)[1:] == [
        "-m", "hyperseg_jax.train", "--config", "tiny", "--workdir", "my run", "--config.train.steps=5",
        "--config.data.root=a b",
    ]  # fmt: skip


def test_local_says_how_it_is_called():
    for arguments in ((), ("tiny",), ("--dry-run", "tiny")):
        shown = launch("local.sh", *arguments)
        assert shown.returncode == 2 and "launch/local.sh CONFIG WORKDIR" in shown.stderr and not shown.stdout
