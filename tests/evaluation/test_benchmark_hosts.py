"""Benchmarks evaluated by several processes give the scores, best and worst cases and submission rows of a single process."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).with_name("evaluate_worker.py")
# of 11 examples: a remainder for 2 and 4 hosts
NAMES = ("toy_referring", "toy_panoptic", "toy_instances", "toy_clicks", "toy_video", "toy_packed")


def run_workers(world, folder, processes, **variables):
    """Returns the results; with variables of the environment, [(exit code, standard error)] of the processes."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": "1",
        "PYTHONPATH": str(SCRIPT.parents[2]),
        "OMP_NUM_THREADS": "1",
        "HYPERSEG_COORDINATOR": f"127.0.0.1:{port}",
        "HYPERSEG_PROCESSES": str(processes),
        **variables,
    }
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(world), str(folder), *NAMES],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**env, "HYPERSEG_PROCESS_ID": str(k)},
        )
        for k in range(processes)
    ]
    messages = [process.communicate(timeout=300) for process in started]
    if variables:
        return [(process.returncode, error) for process, (_, error) in zip(started, messages, strict=True)]
    assert [process.returncode for process in started] == [0] * processes, messages
    return json.loads(messages[0][0].splitlines()[-1])


def assert_same_scores(result, expected, fresh=True):
    for name in NAMES:
        assert result[name]["scores"] == pytest.approx(expected[name]["scores"], rel=1e-9), name
        assert result[name]["rows"] == expected[name]["rows"]
        assert not fresh or result[name]["encoded"] == expected[name]["encoded"], name
        assert [(row["index"], row["masks"]) for row in result[name]["cases"]] == [
            (row["index"], row["masks"]) for row in expected[name]["cases"]
        ], name


@pytest.fixture(scope="module")
def single_process(world, tmp_path_factory):
    return run_workers(world, tmp_path_factory.mktemp("alone"), 1)


def test_two_hosts_give_the_scores_of_one(world, single_process, tmp_path):
    assert (
        single_process["toy_referring"]["scores"]["count"] == 11 and 0 < single_process["toy_referring"]["scores"]["giou"] < 1
    )
    assert single_process["toy_instances"]["scores"]["count"] == 11 and single_process["toy_video"]["rows"] == 11
    assert single_process["toy_clicks"]["encoded"] == 3  # the batches: the rounds of clicks about an image encode it once
    assert single_process["toy_packed"]["rows"] > 11 and single_process["toy_clicks"]["scores"]["count"] > 11
    assert_same_scores(run_workers(world, tmp_path / "two", 2), single_process)
    # what two hosts left behind is the whole of it for one
    assert_same_scores(run_workers(world, tmp_path / "two", 1), single_process, fresh=False)


@pytest.mark.slow
def test_four_hosts_give_the_scores_of_one(world, single_process, tmp_path):
    assert_same_scores(run_workers(world, tmp_path / "four", 4), single_process)


def test_sigterm_to_one_host_stops_all_with_their_results_kept(world, single_process, tmp_path):
    results = run_workers(world, tmp_path / "two", 2, TEST_SIGTERM="1", TF_CPP_MIN_LOG_LEVEL="3")
    assert [code for code, _ in results] == [143, 143], results
    stopped = [
        re.fullmatch(rf"error: process {k} \(.*\): toy_referring: stopped after (\d+) of 11 examples; .*\n", error)
        for k, (_, error) in enumerate(results)
    ]
    assert all(stopped), results
    done = json.loads((tmp_path / "two" / "toy_referring.json").read_text())["done"]
    assert 4 <= done < 11 and {int(match[1]) for match in stopped} == {done}
    assert_same_scores(run_workers(world, tmp_path / "two", 2), single_process, fresh=False)
