"""Tracebacks of tasks that Orbax leaves behind are dropped, and no others."""

import logging
import sys
import types

import pytest

from hyperseg_jax.training import orbax_messages


def make_coroutine(file):
    names = {}
    exec(compile("async def read(): pass", file, "exec"), names)
    return names["read"]()


@pytest.mark.parametrize(
    ("error", "file", "shown"),
    [
        (RuntimeError("Event loop is closed"), None, False),
        (RuntimeError("Event loop is closed"), "/site-packages/mine.py", True),
        (RuntimeError("of the user"), None, True),
        (ValueError("x"), "/site-packages/orbax/read.py", False),
        (ValueError("x"), "/site-packages/mine.py", True),
    ],
)
def test_unraisable_exceptions(monkeypatch, error, file, shown):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    for _ in range(3):
        orbax_messages.drop_task_messages()
    coroutine = file and make_coroutine(file)
    sys.unraisablehook(types.SimpleNamespace(object=coroutine, exc_value=error, exc_type=type(error)))
    if coroutine:
        coroutine.close()
    assert len(seen) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Task exception was never retrieved\nfuture: <Task finished coro=<read() done, defined at /lib/orbax/a.py:3>>", False),
        ("Future exception was never retrieved\nfuture: <Future exception=ValueError('... [tensorstore_spec=...]')>", False),
        ("Task exception was never retrieved\nfuture: <Task finished coro=<f() done, defined at mine.py:3>>", True),
    ],
)
def test_messages_of_asyncio(caplog, text, shown):
    orbax_messages.drop_task_messages()
    with caplog.at_level(logging.ERROR, "asyncio"):
        logging.getLogger("asyncio").error(text)
    assert len(caplog.records) == shown
