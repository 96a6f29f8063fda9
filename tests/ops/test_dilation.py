import numpy as np
import pytest

from hyperseg_jax.ops.dilation import dilate


def dilate_by_shifts(mask, radius):
    """Dilates by shifting the mask by each offset of the disc."""
    height, width = mask.shape
    padded, grown = np.pad(mask, radius), np.zeros_like(mask)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if dy**2 + dx**2 <= radius**2:
                grown |= padded[radius + dy :, radius + dx :][:height, :width]
    return grown


@pytest.mark.parametrize("radius", [0, 1, 2, 5, 8, 17])
def test_dilation_equals_shifting_by_each_offset(rng, radius):
    masks = [rng.random((23, 40)) < share for share in (0.002, 0.02, 0.3)]
    masks += [np.eye(30, dtype=bool), np.zeros((5, 9), bool), np.ones((3, 4), bool)]
    corner = np.zeros((31, 20), bool)
    corner[0, 19] = True
    for mask in (*masks, corner):
        original = mask.copy()
        assert np.array_equal(dilate(mask, radius), dilate_by_shifts(mask, radius))
        assert np.array_equal(mask, original)


def test_dilation_of_a_point_is_local(monkeypatch):
    """Dilation of a point in 12 megapixels: only the result has the size of the image."""
    photograph, sizes, pad = np.zeros((3000, 4000), bool), [], np.pad
    photograph[2000, 30] = True
    monkeypatch.setattr(np, "pad", lambda part, *args: sizes.append(part.shape) or pad(part, *args))
    rows, columns = np.ogrid[:3000, :4000]
    assert np.array_equal(dilate(photograph, 62), (rows - 2000) ** 2 + (columns - 30) ** 2 <= 62**2)
    assert sizes == [(125, 93)]
