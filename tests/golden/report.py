"""Result tables of the golden tests: on the terminal, and as docs/fidelity.md (pytest --golden-report FILE)."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable

Row = tuple[str, float, float]  # tensor, error, tolerance


@dataclasses.dataclass
class CaseResult:
    """Comparisons, notes and measurements of all tests of one case."""

    rows: list[Row] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    measured: list[tuple[str, dict[str, float]]] = dataclasses.field(default_factory=list)
    failed: bool = False

    @property
    def count(self) -> int:
        """Number of distinct tensors; some are compared by several tests."""
        return len({name for name, *_ in self.rows})

    @property
    def worst(self) -> Row:
        return max(self.rows, key=lambda row: row[1] / row[2] if row[2] else row[1])


def collect(reports: Iterable) -> dict[str, CaseResult]:
    """Returns {case: result} of a run's pytest reports, sorted by name."""
    results: dict[str, CaseResult] = {}
    for report in reports:
        properties = dict(getattr(report, "user_properties", ()))
        if "golden" not in properties:
            continue
        result = results.setdefault(properties["golden"], CaseResult())
        result.failed |= report.failed
        if report.when == "teardown":
            result.rows += map(tuple, properties["golden_rows"])
            result.notes += properties["golden_notes"]
            result.measured += properties["golden_measured"]
    return dict(sorted(results.items()))


PAGE = """# Fidelity to the published code

Each recorded case runs with the weights and inputs of the published PyTorch system, converted by our weight tables. One
tolerance rule holds for all cases: an error may be at most 10 times the float32-float64 difference of the reference (its
floor), or 2e-5 standard deviations of the tensor if that is larger; integers and bits are exact. Cases without a floor: 1e-4
relative, gradients 1e-3. Where logits are thresholded to bits, a bit may differ only next to the threshold, and is noted: in
attention masks within 10 floors of the logits, in outputs within one floor, where the float32 and float64 runs of the
reference need not agree either.

Exceptions, all noted where they are used: the floor of a single number counts as none if it is at most one rounding of float32.
In InstructSeg's end-to-end cases, which do not have the attention masks, outputs of the stages after a mask logit next to the
threshold may differ by 5e-3, and elements of gradients by 2e-5, as two runs of the published code do (in float64, ours differ
from the recorded gradients by up to 7e-6). Hidden states at padding and end tokens are not compared: nothing depends on them.
After four optimizer steps, changes of parameters are compared by their norms, within 10 times the relative floor of the case.

Written by this command at {platform}:

```sh
XLA_FLAGS= HYPERSEG_GOLDEN=/path/to/golden pytest -n 0 tests/golden --golden-complete --golden-report docs/fidelity.md
```

With an empty XLA_FLAGS, programs are compiled as for users; other tests disable compiler passes (tests/conftest.py).

## float32

For each case, the tensor whose error is closest to its tolerance.

| case | tensors | tensor | error | tolerance | |
|---|---:|---|---:|---:|---|
{cases}

{notes}

## bfloat16

The end-to-end cases computed in bfloat16 (parameters float32) against the float32 outputs of the published code. These models
have random weights: their queries depend on hard attention masks, so that one rounded bit can change a whole mask. Differences
are root mean squares in standard deviations of the expected tensor; IoU is that of the binary masks, over all queries.

| case | mask logits | scores | mean IoU | median IoU |
|---|---:|---:|---:|---:|
{measured}
"""


def write(path: pathlib.Path, results: dict[str, CaseResult], platform: str) -> None:
    """Writes the page atomically."""
    cases, notes, measured = [], [], []
    for name, result in results.items():
        if result.rows:
            tensor, error, tolerance = result.worst
            status = "FAILED" if result.failed else "" if not result.notes else f"[{len(notes) + 1}]"
            if result.notes:
                notes.append(f"{len(notes) + 1}. " + "; ".join(result.notes))
            cases.append(f"| {name} | {result.count} | `{tensor}` | {error:.1e} | {tolerance:.1e} | {status} |")
        for label, values in result.measured:
            cells = " | ".join(f"{values[key]:.3g}" for key in ("mask logits", "scores", "mean IoU", "median IoU"))
            measured.append(f"| {name}{' ' + label if label else ''} | {cells} |")
    page = PAGE.format(platform=platform, cases="\n".join(cases), notes="\n".join(notes), measured="\n".join(measured))
    part = path.with_name(f".{path.name}.part")
    part.write_text(page, encoding="utf-8")
    part.replace(path)
