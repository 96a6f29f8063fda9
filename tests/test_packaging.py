"""An installed wheel works without the repository: configs by name, assets, the console script."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "hyperseg_jax", "configs")
SHOW = """
import pathlib, hyperseg_jax
from hyperseg_jax import config
from hyperseg_jax.text.tokenizer import Tokenizer
package = pathlib.Path(hyperseg_jax.__file__).parent
folder = config.shipped_folder()
print(package, folder, (package / "py.typed").is_file(), config.load("tiny").system, Tokenizer.toy().vocab_size > 0)
"""


def run(*command: object, **options: object) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, **options)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the installed wheel, and an environment that imports from it first."""
    folder = tmp_path_factory.mktemp("wheel")
    source, site = folder / "source", folder / "site"
    source.mkdir()
    for name in SOURCES:  # a copy, so that the build does not write to the checkout
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
    built = run(*pip, "wheel", "--no-index", "--no-build-isolation", "--no-deps", "-w", folder, source)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    placed = run(*pip, "install", "--no-index", "--no-deps", "--target", site, wheel)
    assert placed.returncode == 0, placed.stderr
    return site, os.environ | {"PYTHONPATH": str(site)}


def test_configs_and_assets_are_installed(installed, tmp_path):
    site, environment = installed
    output = run(sys.executable, "-c", SHOW, cwd=tmp_path, env=environment)
    package = site / "hyperseg_jax"
    assert output.stdout.split() == [str(package), str(package / "configs"), "True", "hyperseg", "True"], output.stderr
    shipped = {path.name for path in (package / "configs").glob("*.py")}
    assert shipped == {path.name for path in (ROOT / "configs").glob("*.py")}


def test_the_command_finds_a_config_by_name(installed, tmp_path):
    site, environment = installed
    command = (site / "bin" / "hyperseg", "train", "--workdir", tmp_path / "w")
    typo = run(*command, "--config", "tiny", "--config.train.step=1", cwd=tmp_path, env=environment)
    assert typo.returncode == 2 and "did you mean train.steps" in typo.stderr, typo.stderr
    unknown = run(*command, "--config", "huge", cwd=tmp_path, env=environment)
    assert (
        unknown.returncode == 2 and "no such file or shipped config; give" in unknown.stderr and "hyperseg_3b" in unknown.stderr
    ), unknown.stderr
    assert not (tmp_path / "w").exists()
