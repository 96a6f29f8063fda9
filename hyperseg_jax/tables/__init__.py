"""The conversion language: operators (bijections) and weight tables."""

from hyperseg_jax.tables.operators import (
    Constant,
    ConvKernel,
    FusedQKV,
    Identity,
    Operator,
    PaddedRows,
    Reshape,
    Stack,
    Transpose,
    ZeroBias,
)
from hyperseg_jax.tables.published import Published, Rule, first_rule
from hyperseg_jax.tables.table import Piece, Row, Table, flatten, unflatten

__all__ = [
    "Constant",
    "ConvKernel",
    "FusedQKV",
    "Identity",
    "Operator",
    "PaddedRows",
    "Piece",
    "Published",
    "Reshape",
    "Row",
    "Rule",
    "Stack",
    "Table",
    "Transpose",
    "ZeroBias",
    "first_rule",
    "flatten",
    "unflatten",
]
