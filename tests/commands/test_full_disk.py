"""A full disk stops a command with one line that names a file, without partial files."""

import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import pytest

from hyperseg_jax.commands.main import main


@pytest.fixture
def limit_files():
    """limit_files(size): limits the file size of this process and its children."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


COMMANDS = {
    "samples": "data samples --out out",
    "toy": "data toy --out out --train 4 --val 2 --clips 1",
    "export": "export-weights MODEL --out out",
    "state dict": "export-weights MODEL --out out --format state-dict",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_full_disks_are_one_line_without_partial_files(name, zero_model, limit_files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    limit_files(200)
    with pytest.raises(SystemExit) as ended:
        main([word.replace("MODEL", str(zero_model)) for word in COMMANDS[name].split()])
    output = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert output[-1].startswith("error: ") and "out" in output[-1] and "too large" in output[-1], output
    assert not list(tmp_path.iterdir())


def test_killed_toy_generation_leaves_no_worker_and_restarts(tmp_path):
    code = (
        "import sys; from hyperseg_jax import toy\n"
        "if __name__ == '__main__': toy.write_world(sys.argv[1], train=300, val=2, clips=0, workers=1)"
    )
    script, world = tmp_path / "draws.py", tmp_path / "world"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, script, world], start_new_session=True, env=environment)
    while not list(tmp_path.glob(".world.hyperseg-*/new/world/coco/train/*.jpg")) and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    ended = time.monotonic() + 20
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < ended:
            os.killpg(process.pid, 0)
            time.sleep(0.05)
    assert not world.exists() and list(tmp_path.glob(".world.hyperseg-*"))
    main(["data", "toy", "--out", str(world), "--train", "1", "--val", "1", "--clips", "0"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["draws.py", "world"]
