"""Helpers of property tests: damaged JSON and bytes, and the property of all readers: a valid result or a one-line error.

def test_damaged_indices(tmp_path):
    fuzz.run_property(lambda text: fuzz.check_call(lambda: read(write(tmp_path, text))), fuzz.damaged_json(INDEX))

@pytest.mark.slow
def test_damaged_indices_for_long(tmp_path, run_property_long):
    run_property_long(...the same arguments...)
"""

import contextlib
import copy
import json
import os
import pathlib
import re
import resource
import signal
import time

import hypothesis
import hypothesis.strategies as st

from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted.bad_file import BadFile

SECONDS, MEMORY = 10.0, 2**30  # limits of one call; memory in addition to that of the process
WAITING = 8  # limit of the elapsed time, as a multiple of that of the CPU time

NAMES = st.sampled_from(
    ("", "a", "a.b", "__class__", "__dict__", "\x1b[31m", "\ud800", "[red]", "{0.__class__}", "../x", "/dev/zero", "\0")
)
NUMBERS = st.sampled_from((0, 1, -1, 3, 255, 2**31, 2**63, 10**9, 10**40, 1.5, -0.0, 1e308, float("nan"), float("inf")))
ODD = st.one_of(st.none(), st.booleans(), NUMBERS, st.integers(), NAMES, st.text(max_size=20))
VALUES = st.recursive(ODD, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=8)
"""JSON values of all types, unusual ones first."""


def write_content(path, content):
    """Writes a file, or replaces it by a special one: content is text, "link" (to "other", two folders up), "pipe", "endless"
    or "folder"."""
    match content:
        case "link":
            path.symlink_to(path.parents[1] / "other")
        case "pipe":
            os.mkfifo(path)
        case "endless":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case _:
            path.write_text(content)


def member_paths(value, path=()):
    """Yields the paths of all members in a JSON value."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, member in members:
        yield (*path, name)
        yield from member_paths(member, (*path, name))


@st.composite
def damaged(draw, value, most=3):
    """Changes one to `most` members of a JSON value: replaced, removed, renamed, scaled, swapped or deeply nested."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, most))):
        positions = list(member_paths(value))
        if not positions:
            break
        *path, last = draw(st.sampled_from(positions))
        parent = value
        for name in path:
            parent = parent[name]
        match draw(st.sampled_from(("replace", "replace", "remove", "rename", "scale", "nest", "swap"))):
            case "replace":
                parent[last] = draw(VALUES)
            case "remove":
                del parent[last]
            case "rename" if isinstance(parent, dict):
                parent[draw(NAMES)] = parent.pop(last)
            case "scale" if isinstance(parent[last], int | float):
                parent[last] = parent[last] * draw(st.sampled_from((-1, 0, 2, 1000, 10**9)))
            case "nest":
                for _ in range(draw(st.sampled_from((1, 2, 90, 400)))):
                    parent[last] = [parent[last]]
            case "swap":
                other = draw(st.sampled_from(positions))
                result = value
                with contextlib.suppress(KeyError, IndexError, TypeError):
                    for name in other:
                        result = result[name]
                    parent[last] = copy.deepcopy(result)
    return value


def damaged_json(value, most=3):
    """Returns a strategy for bytes of a damaged JSON value; some are invalid JSON or UTF-8."""
    full = damaged(value, most).map(lambda result: json.dumps(result).encode())
    return st.one_of(full, full, full, damaged_bytes(json.dumps(value).encode()))


@st.composite
def damaged_bytes(draw, data, most=4):
    """Overwrites, removes, duplicates or inserts bytes at one to `most` positions."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, most))):
        at, size = draw(st.integers(0, len(data))), draw(st.sampled_from((1, 1, 2, 4, 16, 100)))
        match draw(st.sampled_from(("overwrite", "overwrite", "insert", "cut", "double", "end"))):
            case "overwrite":
                new = draw(st.binary(min_size=1, max_size=size))
                data[at : at + len(new)] = new
            case "insert":
                data[at:at] = draw(st.binary(max_size=size))
            case "cut":
                del data[at : at + size]
            case "double":
                data[at:at] = data[at : at + size]
            case "end":
                del data[at:]
    return bytes(data)


def assert_one_line(message):
    """Asserts that a message is one printable line of bounded length."""
    assert message and "\n" not in message and message.isprintable() and len(message) < 2000, ascii(message)


PYTHON = re.compile(
    r"\b[A-Z]\w*(Error|Exception|Interrupt)\b|NoneType|' object |unhashable|must be (real|str|int|integers|a string)|argument"
)
"""Terms of Python's and NumPy's own error messages."""


def assert_plain_words(message, names):
    """Asserts that a message has no Python terms and names one of the files."""
    assert not PYTHON.search(message), message
    assert any(name in message for name in names), message


def check_call(call, *, seconds=SECONDS, memory=MEMORY, says=""):
    """Returns the result of the call, or the UserError or BadFile that it raised with one printable line that contains `says`.
    Fails on other exceptions, and beyond the time or memory limit."""
    began = time.process_time()
    try:
        with limit_resources(seconds, memory):
            value = call()
    except (UserError, BadFile) as error:
        assert_one_line(str(error))
        assert says in str(error), str(error)
        assert not is_memory_error(error), "exceeded the memory limit"
        value = error
    assert time.process_time() - began < seconds
    return value


def is_memory_error(error):
    """Returns whether an error was caused by a MemoryError. FFmpeg's has an errno, and is also raised for refused sizes."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, MemoryError) and not hasattr(error, "errno"):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def limit_resources(seconds=SECONDS, memory=MEMORY):
    """Raises TimeoutError after `seconds` of CPU time or WAITING times as long, and MemoryError for allocations beyond `memory`
    more bytes. Other processes on the machine hardly change the CPU time."""

    def raise_timeout(*_):
        raise TimeoutError(f"took more than {seconds} seconds")

    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    handlers = {kind: signal.signal(kind, raise_timeout) for kind in (signal.SIGALRM, signal.SIGPROF)}
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, limits[1]))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WAITING * seconds)
    try:
        yield
    finally:
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
        for kind, handler in handlers.items():
            signal.signal(kind, handler)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def run_property(prop, *strategies, examples=100, seed=0):
    """Calls prop(...) with `examples` samples of the strategies, reproducible by seed."""
    quiet = list(hypothesis.HealthCheck)

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=examples, deadline=None, database=None, suppress_health_check=quiet)
    @hypothesis.given(st.tuples(*strategies))
    def run(drawn):
        prop(*drawn)

    run()


def run_property_for(seconds, prop, *strategies, seed=0):
    """Runs run_property() with new samples until the time is over; returns the number of samples."""
    began, rounds, calls = time.monotonic(), 0, 0

    def count_calls(*drawn):
        nonlocal calls
        calls += 1
        prop(*drawn)

    while not rounds or time.monotonic() - began < seconds:
        run_property(count_calls, *strategies, examples=200, seed=f"{seed} {rounds}")
        rounds += 1
    return calls
