"""The conversion language: operators (bijections) and weight tables."""

from hyperseg_jax.tables.operators import (
    Constant,
    ConvKernel,
    FusedQKV,
    Identity,
    Operator,
    Reshape,
    Stack,
    Transpose,
)
from hyperseg_jax.tables.table import Row, Table, flatten, unflatten

__all__ = ["Constant", "ConvKernel", "FusedQKV", "Identity", "Operator", "Reshape", "Row", "Stack", "Table", "Transpose",
           "flatten", "unflatten"]  # fmt: skip
