"""Names that a model wrote are matched with a class list by their words."""

import pytest

from hyperseg_jax.results.names import match_names
from hyperseg_jax.structs import WrittenName


@pytest.mark.parametrize(
    ("name", "label"),
    [("traffic light", 1), ("Traffic  Light", 1), ("bat", 0), ("Bat", 2), ("BAT", 0), ("lights", None), ("", None)],
)
def test_the_class_of_a_name(name, label):
    assert match_names([name], ("bat", "traffic light", "Bat")) == (WrittenName(name, label),)
