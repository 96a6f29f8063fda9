"""The tables of contents of the data rooms."""

import importlib
import pathlib
import re

import pytest


@pytest.mark.parametrize("room", ["datasets", "datasets.builds", "toy", "data"])
def test_the_table_of_contents_names_each_file_once(room):
    module = importlib.import_module(f"hyperseg_jax.{room}")
    there = {path.stem for path in pathlib.Path(module.__file__).parent.iterdir() if path.suffix == ".py"} - {"__init__"}
    heads = [re.split(r"  +", line.strip())[0] for line in module.__doc__.splitlines()[1:]]
    named = [name for head in heads for name in head.split(", ") if name in there]
    assert sorted(named) == sorted(there)
