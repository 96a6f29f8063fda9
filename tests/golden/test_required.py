"""Every case listed in required.txt must exist and be claimed by a test."""

import pathlib
import re

import pytest
from golden_case import find_cases

HERE = pathlib.Path(__file__).parent


def read_required() -> list[tuple[str, str, bool]]:
    """Returns (system, case, only in the full set) of each line."""
    lines = (line.split("#")[0].split() for line in (HERE / "required.txt").read_text().splitlines())
    return [(*words[0].split("/"), words[1:] == ["full"]) for words in lines if words]


def find_markers() -> list[tuple[str, str]]:
    """Returns (system, regex) of every golden marker in this folder's tests."""
    pattern = re.compile(r'mark\.golden\(\s*"([a-z]+)",\s*r?"([^"]+)"')
    return [match for path in sorted(HERE.glob("test_*.py")) for match in pattern.findall(path.read_text())]


@pytest.mark.parametrize("system", sorted({system for system, _, _ in read_required()}))
def test_required_cases_run(system, request):
    chosen = request.config.getoption("--golden-system")
    if chosen not in (None, system):
        return
    complete = request.config.getoption("--golden-complete")
    result = find_cases(system)
    expected = [case for s, case, full in read_required() if s == system and (complete or not full)]
    missing = [case for case in expected if case not in result]
    unclaimed = [case for case in expected if not any(s == system and re.fullmatch(kinds, case) for s, kinds in find_markers())]
    assert not missing, f"required cases of {system} not found: {missing}"
    assert not unclaimed, f"required cases of {system} that no test claims: {unclaimed}"
