"""launch/ray_tpu.py with a fake Ray whose actors are threads."""

import shlex

import pytest

RUN = ("tiny", "gs://bucket/runs/first")
# `script` has for each start what happens on the four hosts of a v5e-16 slice: a status, `lost` or `waits`.
RAY = """
import pathlib, threading, time
from ray import exceptions
state = pathlib.Path(__file__).parents[1]
lock = threading.Lock()
made = []

def log(words):
    with lock, open(state / "calls", "a") as file: file.write(words + "\\n")

def init(**options): log(f"init {options['address']} {options['namespace']}")

class Reference:
    def __init__(self, function, *arguments):
        self.done, self.value, self.error = threading.Event(), None, None
        def run():
            try: self.value = function(*arguments)
            except Exception as error: self.error = error
            self.done.set()
        threading.Thread(target=run, daemon=True).start()

def get(reference):
    reference.done.wait()
    if reference.error: raise reference.error
    return reference.value

def wait(references, num_returns=1):
    while sum(one.done.is_set() for one in references) < num_returns: time.sleep(0.01)
    done = [one for one in references if one.done.is_set()][:num_returns]
    return done, [one for one in references if one not in done]

def kill(actor): log(f"kill {actor.number}")

class Method:
    def __init__(self, function): self.function = function
    def remote(self, *arguments): return Reference(self.function, *arguments)

class Actor:
    def __init__(self, number, happens):
        self.number, self.happens, self.stopped = number, happens, threading.Event()
        self.slice_name, self.train, self.stop = Method(lambda: "slice-a"), Method(self._train), Method(self._stop)
    def _train(self, command):
        log(f"train {self.number} " + " ".join(command))
        if self.happens == "lost": raise exceptions.RayActorError("the host has gone")
        if self.happens == "waits": self.stopped.wait(); return -15
        return int(self.happens)
    def _stop(self, grace):
        log(f"stop {self.number}")
        self.stopped.set()

class Options:
    def __init__(self, options): self.options = options
    def remote(self):
        number = len(made) % 4
        if number == 0: self.__class__.story = (state / "script").read_text().split("|")[len(made) // 4].split()
        made.append(number)
        log("actor " + " ".join(f"{key}={count:g}" for key, count in sorted(self.options["resources"].items())))
        assert self.options["max_concurrency"] >= 2
        return Actor(number, self.__class__.story[number])

class remote:
    def __init__(self, kind): pass
    def options(self, **options): return Options(options)
"""
HEAD, OTHER = "actor TPU=4 TPU-v5litepod-16-head=1", "actor TPU=4 slice-a=1"


def start(scripts, story, *options):
    package = scripts.folder / "ray"
    package.mkdir()
    (package / "__init__.py").write_text(RAY)
    (package / "exceptions.py").write_text("class RayActorError(Exception): pass\n")
    (scripts.folder / "script").write_text(story)
    return scripts.run("ray_tpu", *RUN, "--type=v5e-16", "--pause=0", *options, PYTHONPATH=str(scripts.folder))


def test_one_actor_per_host(scripts):
    output = start(scripts, "0 0 0 0", "--config.a=b c")
    assert output.returncode == 0, output.stderr
    calls = scripts.calls()
    assert calls[:5] == ["init auto hyperseg-first", HEAD, OTHER, OTHER, OTHER]
    line = "python -m hyperseg_jax.train --config tiny --workdir gs://bucket/runs/first --config.a=b c"
    assert sorted(call for call in calls if call.startswith("train")) == [f"train {k} {line}" for k in range(4)]


@pytest.mark.parametrize("broken", ["waits lost waits waits", "waits waits waits 143"])
def test_a_lost_host_restarts_all(scripts, broken):
    output = start(scripts, f"{broken}|{broken}|0 0 0 0", "--retries=2")
    assert output.returncode == 0, output.stderr
    calls = scripts.calls()
    assert calls.count(HEAD) == 3 and calls.count(OTHER) == 9
    for number in range(4):  # stopped with time to save, and then its place given back, before the next start
        ends = [f"stop {number}", f"kill {number}"]
        assert [call for call in calls if call in ends] == ends * 3
    assert calls.index("kill 3") < calls.index(HEAD, calls.index(HEAD) + 1)


def test_the_last_status_is_returned_after_all_retries(scripts):
    output = start(scripts, "0 7 waits waits|0 lost waits waits|0 0 0 0", "--retries=1")
    assert output.returncode == 255 and scripts.calls().count(HEAD) == 2


def test_invalid_input_is_not_retried(scripts):
    assert start(scripts, "2 2 2 2|0 0 0 0").returncode == 2
    assert scripts.calls().count(HEAD) == 1


def test_an_address_submits_a_job(scripts):
    scripts.program("ray", "log(__import__('shlex').join(arguments)); sys.exit(4)")
    options = ("--type=v5p-128", "--address=http://head:8265", "--name=full", "--retries=3", "--config.a=b c")
    output = scripts.run("ray_tpu", *RUN, *options)
    assert output.returncode == 4
    (words,) = map(shlex.split, scripts.calls())
    assert words[:3] == ["job", "submit", "--address=http://head:8265"] and words[3].startswith("--working-dir=")
    assert words[4:7] == ["--", "python", "launch/ray_tpu.py"]
    # what the cluster runs is this script with the same meaning
    inside = scripts.run("ray_tpu", *words[7:], "--dry-run")
    here = scripts.run("ray_tpu", *RUN, *(option for option in options if "--address" not in option), "--dry-run")
    assert inside.stdout == here.stdout and inside.stdout.count("--config.a=b c") == 16


def test_a_check_is_started_once_with_a_name_of_its_own(scripts):
    """Also if it is submitted: the script in the cluster makes it a check, not both of them."""
    scripts.program("ray", "log(__import__('shlex').join(arguments))")
    scripts.run("ray_tpu", *RUN, "--type=v5e-16", "--address=http://head:8265", "--name=full", "--retries=3", "--check")
    (words,) = map(shlex.split, scripts.calls())
    assert "--name=full" in words and "--check" in words and "--retries=3" in words
    scripts.log.unlink()
    assert start(scripts, "7 7 7 7|0 0 0 0", *words[9:]).returncode == 7
    assert scripts.calls()[0] == "init auto full-check" and scripts.calls().count(HEAD) == 1
