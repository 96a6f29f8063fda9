"""Relative positions of texts and cells; recorded tables are compared in tests/golden/test_ifseg_parts.py."""

import numpy as np
import pytest

from hyperseg_jax.llms import grid_positions


@pytest.mark.parametrize("buckets", [8, 16, 256])
def test_offsets_of_any_text_are_rows_of_the_table(buckets):
    """OFA's index table ends at 1024 tokens, but it has positions of 1026."""
    table = grid_positions.text_offsets(1026, buckets)
    assert table.min() >= 0 and table.max() <= 2 * buckets - 2
    assert (np.diff(table[:, 0]) >= 0).all() and (np.diff(table[0]) <= 0).all()
    np.testing.assert_array_equal(table[:1024, :1024], grid_positions.text_offsets(1024, buckets))
    np.testing.assert_array_equal(table + table.T, np.full_like(table, 2 * (buckets - 1)))
