"""Loss terms against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F

from hyperseg_jax.losses import ClassScores, ScoreTargets, text_cross_entropy, text_cross_entropy_in_chunks
from hyperseg_jax.losses.masks import bce_cost, dice_cost, mask_bce, mask_dice
from hyperseg_jax.losses.scores import weighted_bce


def test_text_cross_entropy_equals_torch():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 9, 11)).astype(np.float32)
    labels = rng.integers(0, 11, (2, 9))
    labels[:, :4] = -100
    theirs = torch.tensor(logits, requires_grad=True)
    expected = F.cross_entropy(theirs[:, :-1].reshape(-1, 11), torch.tensor(labels)[:, 1:].reshape(-1))
    expected.backward()
    ours, gradient = jax.value_and_grad(text_cross_entropy)(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(ours, expected.item(), rtol=1e-6)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), atol=1e-7)
    np.testing.assert_allclose(text_cross_entropy(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(20.0)), ours * 10 / 20)


def test_chunked_text_loss_equals_the_full_one():
    rng = np.random.default_rng(0)
    hidden, kernel = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((2, 9, 4), (4, 11)))
    labels = jnp.asarray(rng.integers(0, 11, (2, 9))).at[:, :4].set(-100)
    head = lambda kernel, hidden: hidden @ kernel
    at_once = jax.value_and_grad(lambda *args: text_cross_entropy(head(*args), labels), (0, 1))
    expected, gradients = at_once(kernel, hidden)
    for chunk in (4, 9, 100):
        in_chunks = jax.value_and_grad(lambda *args, n=chunk: text_cross_entropy_in_chunks(head, *args, labels, n), (0, 1))
        result, theirs = jax.jit(in_chunks)(kernel, hidden)
        np.testing.assert_allclose(result, expected, rtol=1e-6)
        for one, other in zip(gradients, theirs, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


def test_text_loss_without_labels_is_zero():
    loss, gradient = jax.value_and_grad(text_cross_entropy)(jnp.ones((1, 4, 5)), jnp.full((1, 4), -100))
    assert loss == 0
    assert not np.any(gradient)


def test_weighted_bce_equals_torch():
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=50).astype(np.float32) * 20, rng.random(50) < 0.3
    for weight in (3.0, 1.0, -0.4):
        expected = F.binary_cross_entropy_with_logits(
            torch.tensor(logits), torch.tensor(target, dtype=torch.float32), pos_weight=torch.tensor(weight), reduction="none"
        )
        np.testing.assert_allclose(weighted_bce(jnp.asarray(logits), target, weight), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_costs_equal_the_losses_of_all_pairs():
    rng = np.random.default_rng(0)
    logits, expected = rng.normal(size=(2, 5, 30)).astype(np.float32) * 5, rng.random((2, 3, 30)).astype(np.float32)
    pairs = jnp.asarray(logits)[:, :, None], jnp.asarray(expected)[:, None]
    np.testing.assert_allclose(bce_cost(logits, expected), mask_bce(*pairs), rtol=1e-5)
    np.testing.assert_allclose(dice_cost(logits, expected), mask_dice(*pairs), rtol=1e-5)


def test_class_loss_equals_torch_cross_entropy():
    rng = np.random.default_rng(0)
    queries, classes = 6, 4
    logits = rng.normal(size=(1, queries, classes)).astype(np.float32)
    score_targets = ScoreTargets(np.ones((1, 2), bool), np.asarray([[2, 0]]), np.ones(1, bool))
    matched = np.asarray([4, 1])[None, :, None] == np.arange(queries)
    labels = torch.full((queries,), classes - 1)
    labels[4], labels[1] = 2, 0
    weights = torch.tensor([1.0, 1.0, 1.0, 0.1])
    expected = F.cross_entropy(torch.tensor(logits[0]), labels, weights)
    ours, counts = ClassScores(), ClassScores().count(score_targets, queries)
    np.testing.assert_allclose(ours.loss(jnp.asarray(logits), matched, score_targets, counts), expected.item(), rtol=1e-6)
