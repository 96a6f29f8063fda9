"""Grid combinators and their command-line syntax."""

import pytest

from hyperseg_jax.errors import UserError
from hyperseg_jax.sweeps import grids

A, B = grids.parse_values("a=1,2"), grids.parse_values("b=x,y")


def test_prod_is_the_cartesian_product():
    assert grids.product(A, B) == [{"a": "1", "b": "x"}, {"a": "1", "b": "y"}, {"a": "2", "b": "x"}, {"a": "2", "b": "y"}]
    assert grids.product(A) == A and grids.product() == [{}]


def test_zip_pairs_values():
    assert grids.zip_grids(A, B) == [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]
    with pytest.raises(UserError, match=r"fields have different numbers of values \(2 of a, 3 of c\)"):
        grids.zip_grids(A, grids.parse_values("c=1,2,3"))


def test_chain_concatenates_without_duplicates():
    assert grids.chain_grids(A, B, [{"a": "2"}]) == [{"a": "1"}, {"a": "2"}, {"b": "x"}, {"b": "y"}]


def test_combinators_nest():
    nested = grids.chain_grids(grids.product(grids.zip_grids(A, B), grids.parse_values("c=5,6")), grids.parse_values("d=7"))
    assert [tuple(member.values()) for member in nested] == [
        ("1", "x", "5"),
        ("1", "x", "6"),
        ("2", "y", "5"),
        ("2", "y", "6"),
        ("7",),
    ]


def test_values_respect_brackets_and_quotes():
    assert grids.parse_values("betas=(0.9, 0.98),[1,(2,3)]") == [{"betas": "(0.9, 0.98)"}, {"betas": "[1,(2,3)]"}]
    assert grids.parse_values("name='a,b','(',c") == [{"name": "'a,b'"}, {"name": "'('"}, {"name": "c"}]


def test_options_are_a_chain_of_products():
    one = [("--grid", ["a=1,2"]), ("--grid", ["b=x,y"])]
    assert grids.from_options(one) == grids.from_options([("--grid", ["a=1,2", "b=x,y"])]) == grids.product(A, B)
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
