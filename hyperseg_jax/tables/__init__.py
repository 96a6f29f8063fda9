"""The language of weight conversion, in both directions. NumPy only.

operators  bijections between PyTorch tensors and ours: transpose, fuse, stack, ...
table      rows of (our paths, their names, operator), applied both ways and checked for completeness
published  what is known of a public checkpoint beyond its table; what transformers and PEFT can hold of a system
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
from hyperseg_jax.tables.published import Adapters, Part, Published, Rule, first_rule
from hyperseg_jax.tables.table import Piece, Row, Table, flatten, unflatten

__all__ = [
    "Adapters",
    "Constant",
    "ConvKernel",
    "FusedQKV",
    "Identity",
    "Operator",
    "PaddedRows",
    "Part",
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
