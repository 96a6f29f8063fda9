"""The script of the table of compiled steps: which rows it compiles, and the commit that it names. Nothing is compiled."""

import importlib.util
import pathlib
import subprocess

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "pod_table.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("pod_table", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_that_lack_a_figure_are_compiled(script):
    row = {"preset": "lora", "examples": 2.0, "compile_seconds": 9, "problem": "", "commit": "abc"}
    full = row | {"peak_gb": 1.0, "bound_gb": 2.0, "moved_gb": 3.0, "collectives": {}}
    every = [script.row_name(*each) for each in script.ROWS]
    rows = dict.fromkeys(every, full)
    assert script.rows_to_compile(rows, "", "") == []
    rows[every[0]] = row | {"problem": "RESOURCE_EXHAUSTED"}
    rows[every[1]] = {name: value for name, value in full.items() if name != "moved_gb"}
    del rows[every[2]]
    selected = lambda only, again: [script.row_name(*each) for each in script.rows_to_compile(rows, only, again)]
    assert selected("", "") == every[1:3]
    assert selected(every[2], "") == [every[2]]
    assert selected("", every[4]) == [every[1], every[2], every[4]]
    assert selected(every[4], every[4]) == [every[4]]


def test_the_commit_is_that_of_the_code(script, tmp_path, monkeypatch):
    def git(*arguments):
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", *author, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    git("init", "--quiet")
    for name in ("code.py", "table.json", "page.md"):
        (tmp_path / name).write_text("old")
    git("add", ".")
    git("commit", "--quiet", "--message=one")
    for name, path in {"COMPILED": "table.json", "PAGE": "page.md"}.items():
        monkeypatch.setattr(script, name, tmp_path / path)
        (tmp_path / path).write_text("new")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="is not the package of this checkout"):
        script.clean_commit()
    monkeypatch.setattr("hyperseg_jax.__file__", str(tmp_path / "hyperseg_jax" / "__init__.py"))
    assert script.clean_commit() == git("rev-parse", "--short", "HEAD").strip()
    (tmp_path / "code.py").write_text("new")
    with pytest.raises(SystemExit, match=r"^code.py differs from the commit that a row would name"):
        script.clean_commit()
