"""required.txt lists the cases that must run: one that is missing, or that no test claims, fails."""

import pathlib
import re

import pytest
from golden_case import find_cases

HERE = pathlib.Path(__file__).parent


def required() -> list[tuple[str, str, bool]]:
    """(system, case, only in the full set) of each line."""
    lines = (line.split("#")[0].split() for line in (HERE / "required.txt").read_text().splitlines())
    return [(*words[0].split("/"), words[1:] == ["full"]) for words in lines if words]


def claims() -> list[tuple[str, str]]:
    """(system, regex) of every golden marker in the tests beside this file."""
    pattern = re.compile(r'mark\.golden\(\s*"([a-z]+)",\s*r?"([^"]+)"')
    return [match for path in sorted(HERE.glob("test_*.py")) for match in pattern.findall(path.read_text())]


@pytest.mark.parametrize("system", sorted({system for system, _, _ in required()}))
def test_required_cases_run(system, request):
    chosen = request.config.getoption("--golden-system")
    if chosen not in (None, system):
        return
    complete = request.config.getoption("--golden-complete")
    found = find_cases(system)
    wanted = [case for s, case, full in required() if s == system and (complete or not full)]
    missing = [case for case in wanted if case not in found]
    unclaimed = [case for case in wanted if not any(s == system and re.fullmatch(kinds, case) for s, kinds in claims())]
    assert not missing, f"required cases of {system} not found: {missing}"
    assert not unclaimed, f"required cases of {system} that no test claims: {unclaimed}"
