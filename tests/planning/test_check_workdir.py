"""`hyperseg train --check` with a workdir: what a resumption would refuse, and the disk that the run still needs."""

import os
import pathlib
import shutil

import pytest
from checkpoint_states import make_state, replace_by_pipe
from rich.console import Console
from run_check import run_check

from hyperseg_jax.errors import UserError
from hyperseg_jax.planning import check
from hyperseg_jax.training import checks
from hyperseg_jax.training.workdir import Workdir


@pytest.fixture
def workdir(trained, tmp_path):
    """A workdir with checkpoints of the steps 25 and 30."""
    return shutil.copytree(trained, tmp_path / "run")


def list_files(folder):
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


def test_an_existing_run_is_checked_like_its_resumption(workdir, micro):
    changed = micro(loss__text_weight=0.25)
    with pytest.raises(UserError, match="--accept-changes"):
        run_check(changed, workdir=workdir)
    assert "ready" in run_check(changed, workdir=workdir, accept_changes=True)
    before = list_files(workdir)
    output = run_check(micro(init_from="gone"), workdir=workdir, topology="v6e:1x1")  # the state comes from a checkpoint
    assert "the run resumes at step 30" in output and "ready" in output and list_files(workdir) == before


def test_everything_that_a_resumption_refuses_is_listed(workdir, micro, monkeypatch):
    monkeypatch.setattr(checks, "count_records", lambda tasks: {"referring": 5})
    saved = (workdir / "tokenizer.json").read_text()
    (workdir / "tokenizer.json").write_text(saved.replace("farthe", "ehtraf", 1))
    with pytest.raises(UserError) as error:
        run_check(micro(train__steps=10), workdir=workdir)
    for part in (
        "was trained with another tokenizer",
        "train.steps = 10: the run in ",
        "is at step 30; give at least as many",
        "records saved, 5 found",
    ):
        assert part in str(error.value), part


def test_arrays_of_other_types_are_refused(workdir, micro):
    with pytest.raises(UserError) as error:
        run_check(micro(train__frozen_type="bfloat16"), workdir=workdir)
    assert "another config (train.frozen_type: '' saved, 'bfloat16' given)" in str(error.value)
    assert "no checkpoint fits this config" in str(error.value) and "expected bfloat16" in str(error.value)


def test_a_damaged_only_checkpoint_is_refused_and_kept(workdir, micro):
    shutil.rmtree(workdir / "checkpoints" / "30")
    replace_by_pipe(workdir / "checkpoints" / "25" / "_CHECKPOINT_METADATA")
    before = list_files(workdir)
    with pytest.raises(UserError, match=r"checkpoints: 25 is not a readable checkpoint .*; remove it, or give another"):
        run_check(micro(), workdir=workdir)
    assert list_files(workdir) == before


def test_missing_frozen_parameters_are_a_problem_and_are_not_created(workdir, micro):
    shutil.rmtree(workdir / "checkpoints" / "frozen")
    with pytest.raises(UserError, match=r"no checkpoint fits this config .*the frozen parameters in .*frozen/0: "):
        run_check(micro(), workdir=workdir)
    assert not (workdir / "checkpoints" / "frozen").exists()


@pytest.fixture
def disk_problem(micro, monkeypatch):
    """f(folder, free): the problem with the disk of a workdir, "" if there is none. keep is 2; sizes are in units of a part."""
    state = make_state()
    sizes = {"checkpoint": check._checkpoint_bytes(state), "frozen": 12, "model": check._count_bytes(state.params)}
    assert check._count_bytes(state.frozen) == sizes["frozen"]

    def find(folder, *, checkpoints=0, frozen=0, model=1, more=0):
        free = checkpoints * sizes["checkpoint"] + frozen * sizes["frozen"] + model * sizes["model"] + more
        monkeypatch.setattr(check.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**15, 0, free))
        report = check._Report(Console(quiet=True))
        with Workdir(folder) as run_dir:
            check._report_disk(micro(), state, run_dir, report)
        return "".join(report.problems)

    return find


def needs_exactly(disk_problem, folder, **parts):
    return "GB of free disk" in disk_problem(folder, **parts, more=-1) and not disk_problem(folder, **parts)


def test_saved_parts_count_for_the_disk_and_other_files_do_not(disk_problem, tmp_path):
    run = tmp_path / "run"
    assert needs_exactly(disk_problem, run, checkpoints=3, frozen=1)
    run.mkdir()
    with (run / "datasets.zip").open("w") as file:
        os.truncate(file.fileno(), 10**12)
    for name in ("export-hf", "checkpoints/7.damaged-0", "checkpoints/8.orbax-checkpoint-tmp"):
        (run / name).mkdir(parents=True)
    assert needs_exactly(disk_problem, run, checkpoints=3, frozen=1)
    for name in ("checkpoints/5", "checkpoints/frozen/0", "model"):
        (run / name).mkdir(parents=True)
    assert needs_exactly(disk_problem, run, checkpoints=2)
    for step in range(10, 20):  # the next one is written before an old one is removed
        (run / "checkpoints" / str(step)).mkdir()
    assert needs_exactly(disk_problem, run, checkpoints=1)


def test_files_may_vanish_during_the_check(disk_problem, tmp_path, monkeypatch):
    """Another run in the workdir replaces and removes files."""
    (tmp_path / "run" / "checkpoints" / "5").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "5" / "vanishing").write_text("")
    is_file = pathlib.Path.is_file

    def vanish(path):
        present = is_file(path)
        if path.name == "vanishing":
            path.unlink(missing_ok=True)
        return present

    monkeypatch.setattr(pathlib.Path, "is_file", vanish)
    assert needs_exactly(disk_problem, tmp_path / "run", checkpoints=2, frozen=1)


def test_a_folder_that_cannot_be_written_is_a_problem(disk_problem, tmp_path, monkeypatch):
    monkeypatch.setattr(check.os, "access", lambda path, mode: False)
    assert "run: cannot be written; give another folder" in disk_problem(tmp_path / "run", more=10**9)
