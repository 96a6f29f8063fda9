"""The golden harness: every test marked @pytest.mark.golden(system, kinds) runs on every case of those kinds.

Cases are folders <root>/<system>/<case> with meta.json, manifest.json, inputs and outputs; roots are this folder and those of
HYPERSEG_GOLDEN (separated by ":"). A test asks for the fixture `case`:

    @pytest.mark.golden("hyperseg", r"swin_.*")
    def test_swin(case):
        case.weights            {PyTorch name: array}, made by the recipe
        case.inputs, case.outputs, case.meta
        case.compare("res2", ours)            against case.outputs["res2"], or a third argument
        case.compare("grad", ours, expected, kind="gradient")
        case.check()                          raises if anything was outside its tolerance, or an output was not compared

One rule for all: |error| <= max(10 x floor, 2e-5 x standard deviation of the expected tensor); integers and bits exact. Without
a measured floor: 1e-4 relative for values, 1e-3 relative for gradients (absolute 1e-6). Every output of a case must be
compared. The run ends with a table of the worst errors; --golden-report FILE writes it as a page (docs/fidelity.md).
"""

from __future__ import annotations

import pathlib
import platform
import re
import subprocess

import jax
import pytest
import report
from golden_case import GoldenCase, find_cases


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "golden(system, kinds): runs on every golden case whose name matches the regex `kinds`")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("golden")
    if marker is None:
        return
    system, kinds = marker.args
    selected_system = metafunc.config.getoption("--golden-system", default=None)
    result = find_cases(system) if selected_system in (None, system) else {}
    folders = [folder for name, folder in sorted(result.items()) if re.fullmatch(kinds, name)]
    metafunc.parametrize("case", folders, ids=[f"{f.parent.name}-{f.name}" for f in folders], indirect=True)


@pytest.fixture
def case(request: pytest.FixtureRequest) -> GoldenCase:
    result = GoldenCase(request.param)
    request.node.user_properties.append(("golden", result.name))
    yield result
    request.node.user_properties.append(("golden_rows", result.rows))
    request.node.user_properties.append(("golden_notes", result.notes))
    request.node.user_properties.append(("golden_measured", result.measured))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    result = yield
    is_golden = getattr(item, "callspec", None) is not None and "case" in item.callspec.params
    if is_golden and result.skipped:  # golden cases must not be skipped
        result.outcome, result.longrepr = "failed", f"golden case skipped: {item.nodeid}"
    return result


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deselects golden tests without cases, which pytest would report as skipped (test_required.py detects missing cases)."""
    items[:] = [i for i in items if not (i.get_closest_marker("golden") and "NOTSET" in i.nodeid)]


def _read_commit() -> str:
    """Returns the short hash of the checked-out commit, with a + if files were changed since; "unknown" outside of git."""
    git = lambda *words: subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.strip()
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if git("status", "--porcelain", "-uno") else "")


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    results = report.collect(r for reports in terminalreporter.stats.values() for r in reports if hasattr(r, "when"))
    if not results:
        return
    terminalreporter.section("golden cases: worst tensor, its error, its tolerance")
    for name, result in results.items():
        if result.rows:
            tensor, error, tolerance = result.worst
            summary = f"{error:9.2e} <= {tolerance:9.2e}  ({result.count} tensors)"
            terminalreporter.write_line(f"{name:45s} {tensor:38s} {summary}")
        for note in result.notes:
            terminalreporter.write_line(f"{'':45s} {note}")
    page = config.getoption("--golden-report")
    if page is not None:
        machine = f"{platform.machine()}, jax {jax.__version__}, {jax.default_backend()}"
        report.write(pathlib.Path(page), results, f"commit {_read_commit()}, on {machine}")
        terminalreporter.write_line(f"wrote {page}")
