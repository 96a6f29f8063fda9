"""Multi-process runs agree with one process, stop together, and resume after any interruption."""

import os
import pathlib
import re
import resource
import shutil
import signal
import time

import numpy as np
import pytest
from process_run import STEPS, Run

from hyperseg_jax.training.observers import read_valid_lines

TESTS = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="session")
def single_run(shared, world):
    """An uninterrupted run of one process with two devices."""
    folder = shared("alone", lambda folder: Run(folder, world, 1, devices=2).done())
    run = Run.__new__(Run)
    run.workdir, run.notes = folder / "run", folder / "rows"
    return run


def copy_run(single_run, tmp_path, step):
    """Returns a folder with a copy of that run just after the save of a step."""
    shutil.copytree(single_run.workdir, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        if int(path.name) > step:
            shutil.rmtree(path)
    return tmp_path


def assert_agree(run, single_run, *, first=1e-5, later=1e-2):
    """Asserts bit-equal batches, the first loss to 1e-5, all steps to 1e-2, and scores within the parameters' differences."""
    assert run.rows() == single_run.rows()
    ours, theirs = run.losses(), single_run.losses()
    assert ours.keys() == theirs.keys() and ours[1] == pytest.approx(theirs[1], rel=first)
    assert list(ours.values()) == pytest.approx(list(theirs.values()), rel=later)
    scores, expected = run.scores(), single_run.scores()
    assert scores["count"] == expected["count"] == 12 and 0 < expected["ciou"] < 1
    assert scores == pytest.approx(expected, rel=2e-2)


def test_two_processes_stop_together_and_agree_with_one(single_run, world, tmp_path):
    """SIGTERM to one: both save at the same step and exit with 0; the same command resumes and agrees with one process."""
    stopped = Run(tmp_path, world, 2, pause=0.05).wait_until(3)
    stopped.processes[1].send_signal(signal.SIGTERM)
    stopped.done()
    (step,) = stopped.saved()[-1:]
    assert 3 < step < STEPS and f"stopped at step {step}" in stopped.output()
    resumed = Run(tmp_path, world, 2).done()
    assert f"resuming at step {step}" in resumed.output()
    assert_agree(resumed, single_run)
    for name, array in resumed.model().items():
        np.testing.assert_allclose(array, single_run.model()[name], atol=1e-3)


def models_are_equal(one, other):
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="session")
def two_process_run(shared, world):
    """An uninterrupted run of two processes."""
    folder = shared("pair", lambda folder: Run(folder, world, 2).done())
    run = Run.__new__(Run)
    run.workdir, run.notes = folder / "run", folder / "rows"
    return run


def damage_images(world, folder):
    """Returns the toy world with three of its 24 training images truncated."""
    root = shutil.copytree(world, folder)
    for path in sorted((root / "coco" / "train").iterdir())[:3]:
        path.write_bytes(path.read_bytes()[:200])
    return root


@pytest.mark.slow
def test_too_many_unreadable_records_of_one_host_stop_all_at_one_step(world, tmp_path):
    run = Run(
        tmp_path, damage_images(world, tmp_path / "world"), 2, data__max_unreadable_share=0.0, data__length_buckets=(64, 88)
    )
    assert run.exit_codes() == [2, 2], run.output()
    messages = [re.search(r"\d+ of \d+ training records could not be read.*", log.read_text())[0] for log in run.logs]
    assert messages[0] == messages[1] and str(tmp_path / "world" / "coco" / "train") in messages[0]
    assert (run.workdir / "unreadable_records.txt").exists()


@pytest.mark.slow
def test_unreadable_records_of_one_host_are_reported_on_all(world, tmp_path):
    run = Run(
        tmp_path,
        damage_images(world, tmp_path / "world"),
        2,
        train__steps=10,
        data__max_unreadable_share=0.9,
        data__length_buckets=(64, 88),
    ).done()
    counts = [int(line["bad"]) for line in list(read_valid_lines(run.workdir / "metrics.jsonl")) if line["kind"] == "train"]
    logged_records = [int(line.split("\t")[0]) for line in (run.workdir / "unreadable_records.txt").read_text().splitlines()]
    assert [sum(at < 8 * step for at in logged_records) for step in range(1, 11)] == counts
    assert {at % 8 // 4 for at in logged_records} == {0, 1}, "only one of the hosts had bad records"
    assert run.output().count("training records could not be read and are ignored") == 1


@pytest.mark.slow
def test_four_processes_and_workers_agree_with_one(single_run, world, tmp_path):
    assert_agree(Run(tmp_path, world, 4, data__workers=1).done(), single_run)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["data", "fsdp_tensor"])
def test_other_meshes_agree_with_one(single_run, world, tmp_path, preset):
    """With tensor 2 on two processes of two devices, each row is on one process; with four in one axis, on both."""
    sizes = {"train__mesh__fsdp": 1, "train__mesh__tensor": 4} if preset == "fsdp_tensor" else {}
    assert_agree(Run(tmp_path, world, 2, devices=2, train__preset=preset, **sizes).done(), single_run)


@pytest.mark.slow
def test_resume_on_the_same_mesh_is_bit_equal(two_process_run, world, tmp_path):
    resumed = Run(copy_run(two_process_run, tmp_path, 16), world, 2, data__workers=1).done()
    assert "resuming at step 16" in resumed.output()
    assert models_are_equal(resumed.model(), two_process_run.model()) and resumed.losses() == two_process_run.losses()


@pytest.mark.slow
@pytest.mark.parametrize(
    "processes, devices, fields",
    [
        (1, 1, {"train__preset": "single"}),
        (4, 1, {"train__preset": "fsdp"}),
        (2, 2, {"train__preset": "data_fsdp", "train__mesh__fsdp": 2, "data__workers": 2}),
    ],
)
def test_resume_on_another_mesh_gives_the_same_rows_and_losses(two_process_run, world, tmp_path, processes, devices, fields):
    run = Run(copy_run(two_process_run, tmp_path, 8), world, processes, devices=devices, **fields).done()
    fed = run.rows()
    assert fed == {element: digests for element, digests in two_process_run.rows().items() if element >= 8 * 8}
    ours, theirs = run.losses(), two_process_run.losses()
    assert ours[9] == pytest.approx(theirs[9], rel=1e-5)
    assert [ours[k] for k in range(9, STEPS + 1)] == pytest.approx([theirs[k] for k in range(9, STEPS + 1)], rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_stops_the_others_and_the_run_resumes(single_run, world, tmp_path, victim):
    killed = Run(tmp_path, world, 2, pause=0.1, train__save_every=2).wait_until(7)
    began = time.monotonic()
    killed.processes[victim].kill()
    codes = killed.exit_codes(60)
    assert time.monotonic() - began < 45 and codes[victim] == -signal.SIGKILL and codes[1 - victim] != 0
    assert "error: process" in killed.output() or "another task died" in killed.output()
    steps = max(killed.losses())
    resumed = Run(tmp_path, world, 2, train__save_every=2).done()
    resumed_step = int(resumed.output().split("resuming at step ")[1].split()[0])
    assert steps - 4 <= resumed_step <= steps, "more was lost than the steps since the last save, or one under way"
    assert_agree(resumed, single_run)


@pytest.mark.slow
def test_a_hanging_process_stops_the_others(world, tmp_path):
    """Its connections stay open: only the heartbeat detects it."""
    run = Run(tmp_path, world, 2, pause=0.1).wait_until(2)
    run.processes[1].send_signal(signal.SIGSTOP)
    began = time.monotonic()
    code = run.processes[0].wait(60)
    run.processes[1].kill()
    assert code != 0 and time.monotonic() - began < 45
    assert "another task died" in run.output() or "error: process 0" in run.output()


@pytest.mark.slow
def test_ctrl_c_on_one_process_with_workers_stops_all(world, tmp_path):
    stopped = Run(tmp_path, world, 2, pause=0.1, data__workers=2).wait_until(2)
    os.killpg(stopped.processes[0].pid, signal.SIGINT)  # like a terminal: the workers receive it as well
    stopped.done()
    assert "stopped at step" in stopped.output() and "Traceback" not in stopped.output()


@pytest.mark.slow
def test_ctrl_c_with_workers_in_one_process_ends_cleanly(world, tmp_path):
    stopped = Run(tmp_path, world, 1, pause=0.1, data__workers=2).wait_until(2)
    os.killpg(stopped.processes[0].pid, signal.SIGINT)
    stopped.done()
    assert "stopped at step" in stopped.output() and "Traceback" not in stopped.output()


@pytest.mark.slow
def test_missing_hosts_are_named(world, tmp_path):
    run = Run(tmp_path, world, 4, only=(0, 2), hosts__start=15)
    assert run.exit_codes(60) == [1, 1]
    assert run.output().count("after 15 s, process 1, 3 of 4 did not reach the start") == 2


@pytest.mark.slow
def test_a_damaged_checkpoint_is_skipped_by_all(two_process_run, world, tmp_path):
    folder = copy_run(two_process_run, tmp_path, 16)
    shutil.rmtree(folder / "run" / "checkpoints" / "16" / "params" / "d")
    resumed = Run(folder, world, 2).done()
    assert (
        "/16: cannot be read completely, trying the previous one" in resumed.output()
        and "resuming at step 8" in resumed.output()
    )
    assert models_are_equal(resumed.model(), two_process_run.model()) and resumed.saved() == [8, 16, 24, 28]


def limit_file_size(process, size):
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_full_disk_of_one_host_fails_the_save_and_training_goes_on(single_run, world, tmp_path, victim):
    """Files of that process are limited to 200 kB until step 12; the save of step 8 fails, that of 16 succeeds."""
    run = Run(tmp_path, world, 2, pause=0.4, hosts__barrier=5, hosts__heartbeat=60).wait_until(2)
    limit_file_size(run.processes[victim], 200_000)
    run.wait_until(12)
    limit_file_size(run.processes[victim], resource.RLIM_INFINITY)
    run.done()
    assert "the save of step 8 failed" in run.output() and f"process {victim}" in run.output()
    assert run.saved() == [16, 24, 28]
    assert_agree(run, single_run)


@pytest.mark.slow
def test_when_the_last_save_fails_the_run_ends_with_an_error(world, tmp_path):
    run = Run(tmp_path, world, 2, pause=0.1, hosts__barrier=5, hosts__heartbeat=60).wait_until(17)
    limit_file_size(run.processes[0], 1_000_000)  # less than a checkpoint, more than the log
    assert run.exit_codes() == [2, 2], run.output()
    assert "the last save failed" in run.output() and "the same command again" in run.output()
    resumed = Run(tmp_path, world, 2).done()
    assert "resuming at step 16" in resumed.output()


@pytest.mark.slow
def test_a_workdir_that_cannot_be_written_is_one_line(world, tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    run = Run(tmp_path, world, 2)
    assert run.exit_codes() == [2, 2] and "cannot be written" in run.output() and "Traceback" not in run.output()
