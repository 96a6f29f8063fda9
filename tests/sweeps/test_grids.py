"""Grid combinators and their command-line syntax."""

import pytest

from hyperseg_jax.errors import UserError
from hyperseg_jax.sweeps import grids

A, B = grids.values("a=1,2"), grids.values("b=x,y")


def test_prod_is_the_cartesian_product():
    assert grids.prod(A, B) == [{"a": "1", "b": "x"}, {"a": "1", "b": "y"}, {"a": "2", "b": "x"}, {"a": "2", "b": "y"}]
    assert grids.prod(A) == A and grids.prod() == [{}]


def test_zip_pairs_values():
    assert grids.zipped(A, B) == [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]
    with pytest.raises(UserError, match=r"all fields need the same number of values \(2 of a, 3 of c\)"):
        grids.zipped(A, grids.values("c=1,2,3"))


def test_chain_concatenates_without_duplicates():
    assert grids.chain(A, B, [{"a": "2"}]) == [{"a": "1"}, {"a": "2"}, {"b": "x"}, {"b": "y"}]


def test_combinators_nest():
    nested = grids.chain(grids.prod(grids.zipped(A, B), grids.values("c=5,6")), grids.values("d=7"))
    assert [tuple(member.values()) for member in nested] == [
        ("1", "x", "5"),
        ("1", "x", "6"),
        ("2", "y", "5"),
        ("2", "y", "6"),
        ("7",),
    ]


def test_values_respect_brackets_and_quotes():
    assert grids.values("betas=(0.9, 0.98),[1,(2,3)]") == [{"betas": "(0.9, 0.98)"}, {"betas": "[1,(2,3)]"}]
    assert grids.values("name='a,b','(',c") == [{"name": "'a,b'"}, {"name": "'('"}, {"name": "c"}]


def test_options_are_a_chain_of_products():
    one = [("--grid", ["a=1,2"]), ("--grid", ["b=x,y"])]
    assert grids.from_options(one) == grids.from_options([("--grid", ["a=1,2", "b=x,y"])]) == grids.prod(A, B)
    both = [("--zip", ["a=1,2", "b=x,y"]), ("--grid", ["c=5"]), ("--chain", []), ("--grid", ["a=9"])]
    assert grids.from_options(both) == [{"a": "1", "b": "x", "c": "5"}, {"a": "2", "b": "y", "c": "5"}, {"a": "9"}]


@pytest.mark.parametrize(
    "options, message",
    [
        ([("--grid", ["a"])], "a: give a field and its values"),
        ([("--grid", ["a="])], "a=: give a field and its values"),
        ([("--grid", ["a=1,,2"])], "a=1,,2: give"),
        ([("--grid", ["a=1"]), ("--zip", ["a=2"])], "a: appears twice"),
        ([], "give fields to vary"),
        ([("--grid", ["a=1"]), ("--chain", [])], "--chain separates two grids"),
    ],
)
def test_invalid_grids_are_rejected(options, message):
    with pytest.raises(UserError, match=message):
        grids.from_options(options)
