"""Names, values and messages are printed on one short line."""

import pathlib
import re
import time

from rich.table import Table

import hyperseg_jax
from hyperseg_jax.datasets.check_errors import Problem
from hyperseg_jax.untrusted.printing import (
    escape_markup,
    escaped,
    escaped_value,
    listed,
    log,
    make_console,
    message,
    one_line,
)


def test_messages_are_printable_and_short():
    messages = str(Problem("bad record", "a\x1b[31m\n\ud800\u202e" + "x" * 10_000 + "; mend it"))
    assert messages.isprintable() and messages.startswith("a\\x1b[31m\\n\\ud800\\u202e") and messages.endswith("; mend it")
    assert len(messages) < 1500 and one_line("caf\u00e9 \U0001f600 \u4e2d [red]") == "caf\u00e9 \U0001f600 \u4e2d [red]"


def test_names_cannot_add_lines_to_a_message():
    """Only lines of a list stay lines, which are indented."""
    listed_names = listed(["a\nerror: fake", "b"])
    assert message("x.json: bad\nerror: fake\r\n\nerror") == "x.json: bad\\nerror: fake\\r\\n\\nerror"
    assert message(f"x: bad:{listed_names}") == "x: bad:\n  a\\nerror: fake\n  b"


def test_short_names_and_paths_are_not_truncated(tmp_path):
    assert one_line(tmp_path) == str(tmp_path) and escaped("a" * 200) == "a" * 200
    assert len(escaped("a" * 10**6 + "end")) < 250 and escaped("a" * 10**6 + "end").endswith("end")


def test_names_are_printed_as_they_are(capsys):
    """Rich replaces the codes of emojis, even without markup."""
    console = make_console()
    log(console, "no:bomb:.png [red]x[/]")
    table = Table("file:bomb:")
    table.add_row(escape_markup("a:bomb:[b]"))
    console.print(table)
    printed = capsys.readouterr().out
    assert printed.startswith("no:bomb:.png [red]x[/]\n") and "file:bomb:" in printed and "a:bomb:[b]" in printed


def test_all_consoles_print_names_as_they_are():
    package = pathlib.Path(hyperseg_jax.__file__).parent
    made = re.compile(r"(?<![\w.])Console\(")
    files = [path.relative_to(package).as_posix() for path in package.rglob("*.py") if made.search(path.read_text())]
    assert files == ["untrusted/printing.py"]


def test_values_are_abbreviated():
    deep: list = []
    for _ in range(500):
        deep = [deep]
    began = time.monotonic()
    for value in ("x" * 10**7, ["x" * 10**7] * 1000, {"a\x1b": "\ud800"}, deep, 10**4000, 10**6000, float("nan"), b"x" * 10**6):
        messages = escaped_value(value)
        assert messages.isprintable() and len(messages) < 250
    assert time.monotonic() - began < 1
    assert [escaped_value(value) for value in ("3", 3, [1, "a"], None)] == ["'3'", "3", "[1, 'a']", "None"]
