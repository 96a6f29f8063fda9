"""What property tests share: damaged JSON and bytes, and the promise that holds for all input: the right value or one line.

def test_damaged_indices(tmp_path):
    fuzz.tried(lambda text: fuzz.kept_promise(lambda: read(written(tmp_path, text))), fuzz.damaged_json(INDEX))

@pytest.mark.slow
def test_damaged_indices_for_long(tmp_path, tried_long):
    tried_long(...the same...)
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

SECONDS, MEMORY = 10.0, 2**30  # of one call, beside what the process has already

NAMES = st.sampled_from(
    ("", "a", "a.b", "__class__", "__dict__", "\x1b[31m", "\ud800", "[red]", "{0.__class__}", "../x", "/dev/zero", "\0")
)
NUMBERS = st.sampled_from((0, 1, -1, 3, 255, 2**31, 2**63, 10**9, 10**40, 1.5, -0.0, 1e308, float("nan"), float("inf")))
ODD = st.one_of(st.none(), st.booleans(), NUMBERS, st.integers(), NAMES, st.text(max_size=20))
VALUES = st.recursive(ODD, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=8)
"""JSON values of all kinds, the inconvenient ones first."""


def placed(path, content):
    """What may stand in the place of a file: its content, or what it is instead. A link leads to "other", two folders up."""
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


def _places(value, path=()):
    """The paths to all containers' members in a JSON value."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, member in members:
        yield (*path, name)
        yield from _places(member, (*path, name))


@st.composite
def damaged(draw, value, most=3):
    """The JSON value with one to `most` members replaced, taken out, doubled under another name or nested deep."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, most))):
        places = list(_places(value))
        if not places:
            break
        *path, last = draw(st.sampled_from(places))
        home = value
        for name in path:
            home = home[name]
        match draw(st.sampled_from(("replace", "replace", "remove", "rename", "scale", "nest", "swap"))):
            case "replace":
                home[last] = draw(VALUES)
            case "remove":
                del home[last]
            case "rename" if isinstance(home, dict):
                home[draw(NAMES)] = home.pop(last)
            case "scale" if isinstance(home[last], int | float):
                home[last] = home[last] * draw(st.sampled_from((-1, 0, 2, 1000, 10**9)))
            case "nest":
                for _ in range(draw(st.sampled_from((1, 2, 90, 400)))):
                    home[last] = [home[last]]
            case "swap":
                other = draw(st.sampled_from(places))
                found = value
                with contextlib.suppress(KeyError, IndexError, TypeError):
                    for name in other:
                        found = found[name]
                    home[last] = copy.deepcopy(found)
    return value


def damaged_json(value, most=3):
    """Bytes of a damaged JSON value; some are no longer JSON, or not UTF-8."""
    whole = damaged(value, most).map(lambda made: json.dumps(made).encode())
    return st.one_of(whole, whole, whole, damaged_bytes(json.dumps(value).encode()))


@st.composite
def damaged_bytes(draw, data, most=4):
    """The bytes with one to `most` places overwritten, cut out, doubled or filled."""
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


def one_line(message):
    """That a message may be shown: one printable line that is not too long."""
    assert message and "\n" not in message and message.isprintable() and len(message) < 2000, ascii(message)


PYTHON = re.compile(
    r"\b[A-Z]\w*(Error|Exception|Interrupt)\b|NoneType|' object |unhashable|must be (real|str|int|integers|a string)|argument"
)
"""What errors of Python and NumPy are called, and how they speak."""


def plain_words(message, names):
    """That a message is in the words of files, and has one of the names of files in it."""
    assert not PYTHON.search(message), message
    assert any(name in message for name in names), message


def kept_promise(call, *, seconds=SECONDS, memory=MEMORY, says=""):
    """What the call returns, or the UserError or BadFile that it raised with one printable line (which holds `says`). Fails on
    any other exception, and beyond the time or memory."""
    began = time.perf_counter()
    try:
        with bounded(seconds, memory):
            value = call()
    except (UserError, BadFile) as error:
        one_line(str(error))
        assert says in str(error), str(error)
        assert not _ran_out(error), "took more memory than it may"
        value = error
    assert time.perf_counter() - began < seconds
    return value


def _ran_out(error):
    """Whether a MemoryError is what an error began with. FFmpeg's own one has a number; it refuses sizes with it as well."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, MemoryError) and not hasattr(error, "errno"):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def bounded(seconds=SECONDS, memory=MEMORY):
    """TimeoutError after so many seconds in Python, and MemoryError where so many bytes more are taken."""

    def late(*_):
        raise TimeoutError(f"took more than {seconds} seconds")

    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limits, handler = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def tried(holds, *strategies, examples=100, seed=0):
    """Calls holds(...) with so many examples drawn from the strategies, the same ones for the same seed."""
    quiet = list(hypothesis.HealthCheck)

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=examples, deadline=None, database=None, suppress_health_check=quiet)
    @hypothesis.given(st.tuples(*strategies))
    def run(drawn):
        holds(*drawn)

    run()


def tried_for(seconds, holds, *strategies, seed=0):
    """tried() with ever new input, until the time is over; how many examples that were."""
    began, rounds, calls = time.monotonic(), 0, 0

    def counted(*drawn):
        nonlocal calls
        calls += 1
        holds(*drawn)

    while not rounds or time.monotonic() - began < seconds:
        tried(counted, *strategies, examples=200, seed=f"{seed} {rounds}")
        rounds += 1
    return calls
