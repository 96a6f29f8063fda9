"""The losses of instances: which frames of a clip are compared, padding, and the heads that they need."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperseg_jax.errors import UserError
from hyperseg_jax.losses.instances import FrameInstances, InstanceCriterion, count_pairs
from hyperseg_jax.losses.reidentification import choose_queries
from hyperseg_jax.structs import MaskPrediction

CRITERION = InstanceCriterion(box_weight=5.0, giou_weight=2.0, box_iou_weight=1.0, reid_weight=2.0, reid_cosine_weight=3.0)
FRAMES, ROWS, QUERIES, TARGETS, WIDTH, CLASSES = 3, 2, 12, 3, 6, 4
LABELS = np.array([[0, 2, 1], [1, 1, 3]], np.int32)


def make_frames(seed=0):
    """Returns the instances of a clip: query n is on target n, which in row 1 the last frame does not show."""
    rng = np.random.default_rng(seed)
    true = np.concatenate([rng.uniform(0.3, 0.7, (FRAMES, ROWS, TARGETS, 2)), np.full((FRAMES, ROWS, TARGETS, 2), 0.2)], -1)
    boxes = np.concatenate([rng.uniform(0, 1, (FRAMES, ROWS, QUERIES, 2)), np.full((FRAMES, ROWS, QUERIES, 2), 0.1)], -1)
    boxes[:, :, :TARGETS] = true + 0.01
    visible = np.ones((FRAMES, ROWS, TARGETS), bool)
    visible[2, 1] = False
    return FrameInstances(
        jnp.asarray(rng.standard_normal((FRAMES, ROWS, QUERIES, WIDTH)), jnp.float32),
        jnp.asarray(boxes, jnp.float32),
        jnp.asarray(rng.dirichlet(np.ones(CLASSES), (FRAMES, ROWS, QUERIES)), jnp.float32),
        jnp.asarray(np.broadcast_to(np.arange(TARGETS), (FRAMES, ROWS, TARGETS)), jnp.int32),
        jnp.asarray(true, jnp.float32),
        jnp.asarray(visible),
    )


identity_terms = jax.jit(
    lambda frames, labels: CRITERION.identity_terms(frames, labels, count_pairs(frames.visible).sum(), key=jax.random.key(0))
)


def test_every_frame_is_compared_with_all_others_that_show_the_target():
    """The contrast is the mean over (key frame, reference frame, target) of log(1 + sum of exp(negative - positive))."""
    frames = make_frames()
    expected = []
    for row in range(ROWS):
        for t in range(FRAMES):
            boxes, classes = frames.boxes[t, row], frames.class_probability[t, row]
            chosen = choose_queries(boxes, classes, frames.target_boxes[t, row], LABELS[row], frames.visible[t, row])
            for key_frame in range(FRAMES):
                for n in np.flatnonzero(frames.visible[t, row] & frames.visible[key_frame, row] & (key_frame != t)):
                    product = np.asarray(frames.embeddings[t, row] @ frames.embeddings[key_frame, row, n], np.float64)
                    pairs = product[chosen.negative[n]][None] - product[chosen.positive[n]][:, None]
                    expected.append(np.log(1 + np.exp(pairs).sum()))
    assert len(expected) == 3 * 6 + 3 * 2 == int(count_pairs(frames.visible).sum())
    np.testing.assert_allclose(identity_terms(frames, LABELS)["reid"], np.mean(expected), rtol=1e-5)


def test_what_is_not_visible_or_not_matched_has_no_effect():
    """A padding frame and a padding target, with arbitrary contents, change neither the losses nor other gradients."""
    frames = make_frames()
    hidden = frames.replace(visible=frames.visible.at[2].set(False).at[:, :, 2].set(False))
    other = make_frames(seed=1)
    changed = jax.tree.map(lambda ours, theirs: ours.at[2].set(theirs[2]), hidden, other.replace(visible=hidden.visible))
    changed = changed.replace(target_boxes=changed.target_boxes.at[:, :, 2].set(other.target_boxes[:, :, 2]))
    assert float(count_pairs(hidden.visible).sum()) == 2 * 2 * 2
    for name, value in identity_terms(hidden, LABELS).items():
        np.testing.assert_allclose(identity_terms(changed, LABELS)[name], value, rtol=1e-6)
    gradient = jax.grad(lambda x: identity_terms(changed.replace(embeddings=x), LABELS)["reid"])(changed.embeddings)
    assert np.isfinite(gradient).all() and not gradient[2].any() and gradient[:2].any()


def test_a_clip_that_shows_nothing_twice_has_zero_loss():
    frames = make_frames()
    terms = identity_terms(frames.replace(visible=frames.visible.at[1:].set(False)), LABELS)
    assert {name: float(value) for name, value in terms.items()} == {"reid": 0, "reid_cosine": 0}


def test_boxes_of_all_stages_are_trained_at_visible_targets():
    """Stage 0 matches target 1 to query 3, the final one to query 2; target 0 is not visible."""
    rng = np.random.default_rng(0)
    boxes = jnp.asarray(rng.uniform(0.2, 0.8, (2, 1, 5, 4)), jnp.float32)
    quality = jnp.asarray(rng.standard_normal((2, 1, 5)), jnp.float32)
    stages = ({"boxes": boxes[0], "scores": {"box_iou": quality[0]}},)
    prediction = MaskPrediction(jnp.zeros((1, 5, 2, 2)), {"box_iou": quality[1]}, boxes[1], stages=stages)
    matched = jnp.asarray([[[0, 3]], [[1, 2]]], jnp.int32)
    true = jnp.asarray([[[0.5, 0.5, 0.2, 0.2], [0.4, 0.4, 0.3, 0.3]]])
    terms = CRITERION.box_terms(prediction, matched, true, jnp.asarray([[False, True]]), jnp.float32(2))
    expected = [np.abs(boxes[s, 0, q] - true[0, 1]).sum() / 2 for s, q in ((0, 3), (1, 2))]
    np.testing.assert_allclose(terms["box"], expected, rtol=1e-6)
    assert terms.keys() == {"box", "giou", "box_iou"} and all(values.shape == (2,) for values in terms.values())
    unmatched = CRITERION.box_terms(prediction, -jnp.ones_like(matched), true, jnp.ones((1, 2), bool), jnp.float32(2))
    assert not any(values.any() for values in unmatched.values())


@pytest.mark.parametrize(
    ("fields", "heads", "message"),
    [
        ({"box_weight": 5.0}, (), "loss.box_weight = 5.0, but the decoder has no head 'box'; add it to its heads"),
        ({"box_weight": 5.0, "reid_weight": 2.0}, ("box",), "loss.reid_weight = 2.0, but the decoder has no head 'reid'"),
        ({"reid_weight": 2.0}, ("box", "reid"), "which nothing trains; set loss.box_weight"),
    ],
)
def test_missing_heads_are_named(fields, heads, message):
    with pytest.raises(UserError) as excinfo:
        InstanceCriterion.from_fields(fields, heads)
    assert message in str(excinfo.value)
    assert not InstanceCriterion.from_fields(dict.fromkeys(fields, 0.0), ()).trains_boxes
