"""The table of limits in the documentation."""

import pathlib
import re

from hyperseg_jax.untrusted.limits import Limits

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def test_every_limit_is_documented_with_its_default():
    part = (DOCS / "security.md").read_text().split("## Limits")[1].split("\n## ")[0]
    messages = dict(re.findall(r"^\| `(\w+)` \|[^|]+\| (\S+) \|$", part, re.MULTILINE))
    assert messages == {name: f"{value:,}" if type(value) is int else str(value) for name, value in vars(Limits()).items()}


def test_limits_are_documented_on_one_page():
    assert [page.name for page in sorted(DOCS.glob("*.md")) if "| `mask_pixels` |" in page.read_text()] == ["security.md"]
