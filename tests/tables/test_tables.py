"""Operators are bijections; tables report all mismatches."""

import ml_dtypes
import numpy as np
import pytest

from hyperseg_jax.errors import UserError
from hyperseg_jax.tables import (
    ConvKernel,
    Copies,
    FusedColumns,
    FusedQKV,
    Identity,
    PaddedRows,
    Row,
    Squeeze,
    Stack,
    Table,
    Transpose,
    ZeroBias,
    flatten,
    unflatten,
)

OPERATORS = [
    (Identity(), [(3, 4)]),
    (Transpose(), [(5, 3)]),
    (ConvKernel(), [(6, 4, 3, 2)]),
    (Copies(("table",)), [(3, 4)]),
    (FusedColumns(), [(5, 12)]),
    (FusedColumns(), [(12,)]),
    (FusedQKV(transpose=True), [(12, 5)]),
    (FusedQKV(transpose=False), [(12,)]),
    (FusedQKV(transpose=True, parts=2), [(8, 3)]),
    (Stack(Transpose(), 3), [(5, 2)] * 3),
    (Stack(FusedQKV(transpose=True), 2), [(6, 4)] * 2),
    (PaddedRows(3, 3, "table"), [(3, 2)]),
    (Squeeze(), [(1, 4, 2)]),
]


def test_shapes_that_would_lose_numbers_are_refused():
    with pytest.raises(ValueError, match="squeeze"):
        Squeeze().to_flax((np.zeros((3, 4)),))
    with pytest.raises(UserError, match=r"fc.bias: has shape \(3,\), and its weight \(2, 4\)"):
        ZeroBias("fc.bias").to_flax((np.zeros((2, 4)), np.zeros(3)))


@pytest.mark.parametrize(("operator", "shapes"), OPERATORS, ids=[repr(o) for o, _ in OPERATORS])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_operators_are_bijections(operator, shapes, dtype):
    rng = np.random.default_rng(0)
    tensors = tuple(rng.standard_normal(shape).astype(dtype) for shape in shapes)
    restored = operator.to_torch(operator.to_flax(tensors))
    assert len(restored) == len(tensors)
    for one, other in zip(tensors, restored, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    ("operator", "zeros", "message"),
    [
        (PaddedRows(3, 5, "embed"), lambda w, zero: (np.concatenate([w, zero(2, 4)]),), r"^embed: only the first 3 rows"),
        (ZeroBias("head.bias"), lambda w, zero: (w, zero(3)), r"^head\.bias: not zero"),
    ],
    ids=["PaddedRows", "ZeroBias"],
)
def test_implied_zeros_round_trip_and_other_values_are_refused(operator, zeros, message, dtype):
    weight = np.random.default_rng(0).standard_normal((3, 4)).astype(dtype)
    tensors = zeros(weight, lambda *shape: np.zeros(shape, dtype))
    for one, other in zip(operator.to_torch(operator.to_flax(tensors)), tensors, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    tensors[-1][-1:] = 1e-7 if dtype is not np.float16 else 1e-4
    with pytest.raises(UserError, match=message):
        operator.to_flax(tensors)
    with pytest.raises(UserError, match=r"t: 4 rows, the config expects 5"):
        PaddedRows(3, 5, "t").to_flax((np.zeros((4, 2)),))


def make_table() -> Table:
    layer = Table([Row("up/kernel", "layers.{i}.fc.weight", Transpose()), Row("up/bias", "layers.{i}.fc.bias", Identity())])
    return layer.stacked(2).with_prefix("layers/", "model.") + Table([Row("scale", "scale", Identity())])


def make_tensors() -> dict:
    rng = np.random.default_rng(1)
    result = {f"model.layers.{i}.fc.weight": rng.standard_normal((4, 3)) for i in range(2)}
    return result | {f"model.layers.{i}.fc.bias": rng.standard_normal(4) for i in range(2)} | {"scale": np.ones(1)}


def test_round_trip_and_stacking():
    params = make_table().to_flax(make_tensors())
    assert params["layers"]["up"]["kernel"].shape == (2, 3, 4)
    np.testing.assert_array_equal(params["layers"]["up"]["kernel"][1], make_tensors()["model.layers.1.fc.weight"].T)
    restored = make_table().to_torch(params)
    assert restored.keys() == make_tensors().keys()
    assert all(np.array_equal(restored[name], value) for name, value in make_tensors().items())


def test_all_mismatches_are_listed():
    expected = {
        "layers": {"up": {"kernel": np.zeros((2, 3, 5)), "bias": np.zeros((2, 4))}},
        "scale": np.zeros(1),
        "extra": np.zeros(2),
    }
    inputs = make_tensors() | {"stray": np.zeros(1)}
    del inputs["model.layers.0.fc.bias"]
    with pytest.raises(UserError) as error:
        make_table().to_flax(inputs, expected)
    for part in (
        "missing in the source: model.layers.0.fc.bias",
        "unexpected in the source: stray",
        "not filled by the table: extra",
        "layers/up/kernel: shape (2, 3, 4)",
    ):
        assert part in str(error.value)


def test_rules_allow_names():
    inputs = make_tensors() | {"head.weight": np.zeros(1)}
    del inputs["scale"]
    params = make_table().to_flax(inputs, ignore=[r"head\..*"], optional=["scale"])
    assert "scale" not in params


def test_duplicate_names_are_errors():
    with pytest.raises(ValueError, match="duplicate"):
        make_table() + make_table()


def test_flatten_is_inverted():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert unflatten(flatten(tree)) == tree
