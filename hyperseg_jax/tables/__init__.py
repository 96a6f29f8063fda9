"""The language of weight conversion, in both directions. NumPy only.

operators  bijections between PyTorch tensors and ours: transpose, fuse, stack, ...
table      rows of (our paths, their names, operator), applied both ways and checked for completeness
published  what is known of a public checkpoint beyond its table: where it is, and how to recognise it
"""

from hyperseg_jax.tables.operators import (
    Constant,
    ConvKernel,
    FusedQKV,
    Identity,
    Operator,
    PaddedRows,
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
