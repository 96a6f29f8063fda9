"""The shell wrapper of a run on a preemptible host."""

import signal
import subprocess
import time

import pytest


def start(command):
    import common

    return subprocess.Popen(["bash", "-c", common.script_with_stop_status(command)], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("status", [0, 2, 137])
def test_the_status_is_that_of_the_run(launch_modules, status):
    process = start(["bash", "-c", f"echo 'a  b'; exit {status}"])
    assert process.communicate(timeout=30)[0] == "a  b\n" and process.returncode == status


def test_a_stopped_run_saves_and_is_not_finished(launch_modules):
    process = start(["bash", "-c", "trap 'sleep 0.3; echo saved; exit 0' TERM; echo up; while true; do sleep 0.05; done"])
    assert process.stdout.readline() == "up\n"
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == "saved\n" and process.returncode == 143
    assert time.monotonic() - began >= 0.3  # it waited


def test_yaml_text_round_trip(launch_modules):
    import common
    import yaml

    value = {
        "plain": "a/b.c-d",
        "number": "4",
        "exponent": "1e3",
        "date": "2026-01-01",
        "word": "yes",
        "none": "null",
        "colon": "a: b",
        "hash": "a #b",
        "empty": "",
        "quotes": 'it\'s "so"',
        "count": 4,
        "flag": True,
        "off": False,
        "path": "/a/b",
        "home": "~",
        "version": "1.10",
        "hex": "0x1f",
        "octal": "010",
        "infinity": ".inf",
        "dash": "-c",
        "topology": "4x4",
        "lines": "if a; then\n  b\n\nfi\n",
        "list": ["x", 1, {"a": "b", "c": ["d", {"e": "f"}]}],
        "inner": {"deep": {"er": ["y"]}},
        "nothing": {},
        "none of them": [],
    }
    assert yaml.safe_load(common.yaml_text(value)) == value
