import numpy as np
import pytest

from hyperseg_jax.ops.dilation import dilate


def one_by_one(mask, radius):
    """The mask, moved by each offset of the disc."""
    height, width = mask.shape
    padded, grown = np.pad(mask, radius), np.zeros_like(mask)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if dy**2 + dx**2 <= radius**2:
                grown |= padded[radius + dy :, radius + dx :][:height, :width]
    return grown


@pytest.mark.parametrize("radius", [0, 1, 2, 5, 8, 17])
def test_as_if_each_offset_were_tried(rng, radius):
    masks = [rng.random((23, 40)) < share for share in (0.002, 0.02, 0.3)]
    masks += [np.eye(30, dtype=bool), np.zeros((5, 9), bool), np.ones((3, 4), bool)]
    corner = np.zeros((31, 20), bool)
    corner[0, 19] = True
    for mask in (*masks, corner):
        before = mask.copy()
        assert np.array_equal(dilate(mask, radius), one_by_one(mask, radius))
        assert np.array_equal(mask, before)


def test_a_point_of_a_photograph_visits_its_surroundings_only(monkeypatch):
    """The disc of a point in 12 megapixels: no array but the result is as large as the image."""
    photograph, sizes, pad = np.zeros((3000, 4000), bool), [], np.pad
    photograph[2000, 30] = True
    monkeypatch.setattr(np, "pad", lambda part, *given: sizes.append(part.shape) or pad(part, *given))
    rows, columns = np.ogrid[:3000, :4000]
    assert np.array_equal(dilate(photograph, 62), (rows - 2000) ** 2 + (columns - 30) ** 2 <= 62**2)
    assert sizes == [(125, 93)]
