"""The report page of the golden tests."""

import types

import report


def test_report_page(tmp_path):
    def make_report(name, rows=(), notes=(), measured=(), failed=False, when="teardown"):
        properties = [("golden", name), ("golden_rows", rows), ("golden_notes", notes), ("golden_measured", measured)]
        return types.SimpleNamespace(user_properties=properties, failed=failed, when=when)

    numbers = {"mask logits": 0.01, "scores": 0.02, "mean IoU": 0.9, "median IoU": 0.95}
    result = report.collect(
        [
            make_report("s/b", [("near", 9e-6, 1e-5), ("far", 1e-4, 1e-2)], ["2 bits flipped"]),
            make_report("s/b", measured=[("frame1", numbers)]),
            make_report("s/a", [("bits", 0.0, 0.0)]),
            make_report("s/a", failed=True, when="call"),
            types.SimpleNamespace(when="call"),
        ]
    )
    report.write(tmp_path / "page.md", result, "a machine")
    lines = (tmp_path / "page.md").read_text().splitlines()
    assert "| s/a | 1 | `bits` | 0.0e+00 | 0.0e+00 | FAILED |" in lines
    assert "| s/b | 2 | `near` | 9.0e-06 | 1.0e-05 | [1] |" in lines and "1. 2 bits flipped" in lines
    assert "| s/b frame1 | 0.01 | 0.02 | 0.9 | 0.95 |" in lines
    assert lines.index("| s/a | 1 | `bits` | 0.0e+00 | 0.0e+00 | FAILED |") < lines.index("1. 2 bits flipped")
