"""Weight conversion between PyTorch and Flax, in both directions. NumPy only.

operators    bijections between PyTorch tensors and Flax arrays: transpose, fuse, stack, ...
table        rows of (Flax paths, PyTorch names, operator), applied both ways and checked for completeness
checkpoints  public source checkpoints, parts for transformers and adapters for PEFT
"""

from hyperseg_jax.tables.checkpoints import Adapters, FileName, Part, PublishedField, Rule, SourceCheckpoint, find_first_rule
from hyperseg_jax.tables.operators import (
    Constant,
    ConvKernel,
    Copies,
    FusedColumns,
    FusedQKV,
    Identity,
    Operator,
    PaddedRows,
    SplitRows,
    Squeeze,
    Stack,
    Transpose,
    TransposedConvKernel,
    ZeroBias,
)
from hyperseg_jax.tables.table import Piece, Row, Table, flatten, unflatten

__all__ = [
    "Adapters",
    "Constant",
    "ConvKernel",
    "Copies",
    "FileName",
    "FusedColumns",
    "FusedQKV",
    "Identity",
    "Operator",
    "PaddedRows",
    "Part",
    "Piece",
    "PublishedField",
    "Row",
    "Rule",
    "SourceCheckpoint",
    "SplitRows",
    "Squeeze",
    "Stack",
    "Table",
    "Transpose",
    "TransposedConvKernel",
    "ZeroBias",
    "find_first_rule",
    "flatten",
    "unflatten",
]
