"""Every case and file listed in required.txt must exist and be claimed by a test."""

import pathlib
import re

import pytest
from golden_case import find_cases, find_files

HERE = pathlib.Path(__file__).parent


def read_required() -> list[tuple[str, str, bool]]:
    """Returns (system, case or file, only in the full set) of each line."""
    lines = (line.split("#")[0].split() for line in (HERE / "required.txt").read_text().splitlines())
    return [(*words[0].split("/", 1), words[1:] == ["full"]) for words in lines if words]


def find_markers() -> list[tuple[str, str]]:
    """Returns (system, regex) of every golden marker in this folder's tests."""
    pattern = re.compile(r'mark\.golden\(\s*"([a-z]+)",\s*r?"([^"]+)"')
    return [match for path in sorted(HERE.glob("test_*.py")) for match in pattern.findall(path.read_text())]


def is_found(system: str, name: str) -> bool:
    """Returns whether a case, or a file such as "full_manifest.json", is in one of the roots."""
    return bool(find_files(system, name)) if name.endswith(".json") else name in find_cases(system)


def is_claimed(system: str, name: str) -> bool:
    """Returns whether a test runs on a case, or opens a file by its name."""
    if name.endswith(".json"):
        return any(f'find_files("{system}", "{name}")' in path.read_text() for path in HERE.glob("test_*.py"))
    return any(s == system and re.fullmatch(kinds, name) for s, kinds in find_markers())


def test_the_selection_of_instructseg_is_small():
    """A clone has at most 3 MB of its cases on disk; the rest is in the full set."""
    assert sum(path.stat().st_blocks * 512 for path in (HERE / "instructseg").rglob("*") if path.is_file()) < 3_000_000


@pytest.mark.parametrize("system", sorted({system for system, _, _ in read_required()}))
def test_required_cases_run(system, request):
    chosen = request.config.getoption("--golden-system")
    if chosen not in (None, system):
        return
    complete = request.config.getoption("--golden-complete")
    expected = [name for s, name, full in read_required() if s == system and (complete or not full)]
    missing = [name for name in expected if not is_found(system, name)]
    unclaimed = [name for name in expected if not is_claimed(system, name)]
    assert not missing, f"required cases of {system} not found: {missing}"
    assert not unclaimed, f"required cases of {system} that no test claims: {unclaimed}"
