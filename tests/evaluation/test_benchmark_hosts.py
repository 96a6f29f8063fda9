"""Benchmarks scored by several real processes: the scores, the best and worst cases and the servers' rows of one process."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).with_name("one_of_evaluation.py")
# of 11 examples: a remainder for 2 and 4 hosts
NAMES = ("toy_referring", "toy_panoptic", "toy_instances", "toy_clicks", "toy_video", "toy_packed")


def scored(world, folder, processes):
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
    told = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0] * processes, told
    return json.loads(told[0][0].splitlines()[-1])


def same(found, expected, fresh=True):
    for name in NAMES:
        assert found[name]["scores"] == pytest.approx(expected[name]["scores"], rel=1e-9), name
        assert found[name]["rows"] == expected[name]["rows"]
        assert not fresh or found[name]["encoded"] == expected[name]["encoded"], name
        assert [(row["index"], row["masks"]) for row in found[name]["cases"]] == [
            (row["index"], row["masks"]) for row in expected[name]["cases"]
        ], name


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory):
    return scored(world, tmp_path_factory.mktemp("alone"), 1)


def test_two_hosts(world, alone, tmp_path):
    assert alone["toy_referring"]["scores"]["count"] == 11 and 0 < alone["toy_referring"]["scores"]["giou"] < 1
    assert alone["toy_instances"]["scores"]["count"] == 11 and alone["toy_video"]["rows"] == 11
    assert alone["toy_clicks"]["encoded"] == 3  # the batches: the rounds of clicks about an image encode it once
    assert alone["toy_packed"]["rows"] > 11 and alone["toy_clicks"]["scores"]["count"] > 11
    same(scored(world, tmp_path / "two", 2), alone)
    # what two hosts left behind is the whole of it for one
    same(scored(world, tmp_path / "two", 1), alone, fresh=False)


@pytest.mark.slow
def test_four_hosts(world, alone, tmp_path):
    same(scored(world, tmp_path / "four", 4), alone)
