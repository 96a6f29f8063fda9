"""The golden harness: every test marked @pytest.mark.golden(system, kinds) runs on every case of those kinds.

Cases are folders <root>/<system>/<case> with meta.json, manifest.json, inputs and outputs; roots are this folder and those of
HYPERSEG_GOLDEN (separated by ":"). A test asks for the fixture `case`:

    @pytest.mark.golden("hyperseg", r"swin_.*")
    def test_swin(case):
        case.weights            {PyTorch name: array}, made by the recipe
        case.inputs, case.outputs, case.meta
        case.compare("res2", ours)            against case.outputs["res2"], or a third argument
        case.compare("grad", ours, expected, kind="gradient")
        case.done()                           raises if anything was outside its tolerance, or an output was not compared

One rule for all: |error| <= max(10 x floor, 2e-5 x standard deviation of the expected tensor); integers and bits exact. Without
a measured floor: 1e-4 relative for values, 1e-3 relative for gradients (absolute 1e-6). Every output of a case must be
compared. The run closes with a table of worst errors; --golden-report FILE writes it as a page (docs/fidelity.md).
"""

from __future__ import annotations

import pathlib
import platform
import re

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
    wanted = metafunc.config.getoption("--golden-system", default=None)
    found = find_cases(system) if wanted in (None, system) else {}
    folders = [folder for name, folder in sorted(found.items()) if re.fullmatch(kinds, name)]
    metafunc.parametrize("case", folders, ids=[f"{f.parent.name}-{f.name}" for f in folders], indirect=True)


@pytest.fixture
def case(request: pytest.FixtureRequest) -> GoldenCase:
    made = GoldenCase(request.param)
    request.node.user_properties.append(("golden", made.name))
    yield made
    request.node.user_properties.append(("golden_rows", made.rows))
    request.node.user_properties.append(("golden_notes", made.notes))
    request.node.user_properties.append(("golden_measured", made.measured))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    made = yield
    asked = getattr(item, "callspec", None) is not None and "case" in item.callspec.params
    if asked and made.skipped:  # a case of a kind the project claims is never skipped
        made.outcome, made.longrepr = "failed", f"golden case skipped: {item.nodeid}"
    return made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """An empty parametrisation would count as a skip; leave such tests out (required.txt guards against silent loss)."""
    items[:] = [i for i in items if not (i.get_closest_marker("golden") and "NOTSET" in i.nodeid)]


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    found = report.collect(r for reports in terminalreporter.stats.values() for r in reports if hasattr(r, "when"))
    if not found:
        return
    terminalreporter.section("golden cases: worst tensor, its error, its tolerance")
    for name, result in found.items():
        if result.rows:
            tensor, error, tolerance = result.worst
            told = f"{error:9.2e} <= {tolerance:9.2e}  ({result.count} tensors)"
            terminalreporter.write_line(f"{name:45s} {tensor:38s} {told}")
        for note in result.notes:
            terminalreporter.write_line(f"{'':45s} {note}")
    page = config.getoption("--golden-report")
    if page is not None:
        report.write(pathlib.Path(page), found, f"{platform.machine()}, jax {jax.__version__}, {jax.default_backend()}")
        terminalreporter.write_line(f"wrote {page}")
