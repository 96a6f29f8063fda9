"""The table of limits in the documentation."""

import pathlib
import re

from hyperseg_jax.untrusted.limits import Limits

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def test_the_table_has_every_limit_with_its_default():
    part = (DOCS / "security.md").read_text().split("## Limits")[1].split("\n## ")[0]
    told = dict(re.findall(r"^\| `(\w+)` \|[^|]+\| (\S+) \|$", part, re.MULTILINE))
    assert told == {name: f"{value:,}" if type(value) is int else str(value) for name, value in vars(Limits()).items()}


def test_no_other_page_has_a_table_of_limits():
    assert [page.name for page in sorted(DOCS.glob("*.md")) if "| `mask_pixels` |" in page.read_text()] == ["security.md"]
