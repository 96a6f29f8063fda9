"""Boxes of segments, and the losses of boxes and of their predicted quality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperseg_jax.losses.boxes import box_ious, box_losses, quality_loss, segment_boxes


def test_boxes_surround_the_pixels_of_their_plane():
    """Against the extent of the pixels, on a map that is not square; a number in another plane is another target."""
    rng = np.random.default_rng(0)
    segments = (rng.integers(0, 40, (2, 2, 12, 20)) * rng.integers(0, 2, (2, 2, 12, 20))).astype(np.uint8)
    planes = np.array([[0, 1, 1, 0], [1, 1, 0, 0]], np.int32)
    segments[0, 0][segments[0, 0] == 4] = 0  # the last target has no pixel
    boxes, seen = jax.jit(segment_boxes)(segments, planes)
    assert not seen[0, 3] and not boxes[0, 3].any() and seen.sum() >= 5
    for row in range(2):
        for n in range(4):
            y, x = np.nonzero(segments[row, planes[row, n]] == n + 1)
            assert seen[row, n] == (len(x) > 0)
            if len(x):
                left, right, top, bottom = x.min() / 20, (x.max() + 1) / 20, y.min() / 12, (y.max() + 1) / 12
                expected = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
                np.testing.assert_allclose(boxes[row, n], expected, atol=1e-6)


def test_box_losses_equal_their_formulas():
    ours, true = jnp.asarray([[0.3, 0.2, 0.2, 0.2], [0.8, 0.8, 0.2, 0.2]]), jnp.asarray([[0.2, 0.2, 0.2, 0.2]] * 2)
    distance, overlap = box_losses(ours, true)
    np.testing.assert_allclose(distance, [0.1, 1.2], atol=1e-6)
    hull = 0.8**2
    np.testing.assert_allclose(overlap, [1 - 1 / 3, 1 + (hull - 0.08) / hull], atol=1e-5)


def test_quality_is_trained_towards_the_iou():
    """The cross-entropy is least where the sigmoid equals the IoU, and does not move the box."""
    box, true = jnp.asarray([[0.3, 0.2, 0.2, 0.2]]), jnp.asarray([[0.2, 0.2, 0.2, 0.2]])
    best = jnp.log(jnp.asarray([1 / 3]) / (1 - 1 / 3))
    to_logit, to_box = jax.grad(lambda logit, box: quality_loss(logit, box, true).sum(), (0, 1))(best, box)
    np.testing.assert_allclose(to_logit, 0, atol=1e-5)
    assert not to_box.any()
    assert quality_loss(best + 1, box, true)[0] > quality_loss(best, box, true)[0]


@pytest.mark.parametrize("box", [[0.5, 0.5, 0.0, 0.0], [0.2, 0.2, 0.2, 0.2], [0.9, 0.9, 0.1, 0.1]])
def test_gradients_are_finite(box):
    """For a box without area, the target's box, and a box far from it."""
    true = jnp.asarray([[0.2, 0.2, 0.2, 0.2]])
    gradient = jax.grad(lambda x: sum(map(jnp.sum, box_losses(x, true))) + sum(map(jnp.sum, box_ious(x, true))))
    assert np.isfinite(gradient(jnp.asarray([box]))).all()
