"""Decoder properties beyond the golden cases: shared images, fully masked rows, initialization, precision."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperseg_jax.decoders import mask2former, pixel_decoder
from hyperseg_jax.layers.deformable_attention import DeformableAttention, cell_centers
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.structs import Pyramid

WIDTH, QUERIES, LAYERS = 16, 5, 2


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def random_inputs(rng, batch=2, prompts=3):
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    levels = tuple(draw(batch, 2 * s, 3 * s, WIDTH) for s in (1, 2, 4))
    embeddings = {
        "expression": draw(batch, prompts, WIDTH),
        "class": draw(batch, prompts, 4, WIDTH),
        "region": draw(batch, prompts, 2, WIDTH),
    }
    return draw(batch, 16, 24, WIDTH), levels, draw(batch, prompts, QUERIES, WIDTH), embeddings


def make_decoder(**options):
    return mask2former.MaskedAttentionDecoder(WIDTH, WIDTH, 2, 24, LAYERS, QUERIES, **options)


def random_params(module, *args):
    """Returns random parameters without compiling init."""
    rng = np.random.default_rng(1)
    shapes = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), *args))
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) / x.shape[0] ** 0.5, x.dtype), shapes)


def test_shared_images_equal_repeated_images(rng):
    features, levels, queries, embeddings = random_inputs(rng)
    module = make_decoder()
    params = random_params(module, features, levels, queries, embeddings)
    run = jax.jit(module.apply)
    shared = run(params, features, levels, queries, embeddings)
    repeat = lambda x: jnp.repeat(x, 3, axis=0)
    rows = lambda x: x.reshape(-1, *x.shape[2:])
    alone = run(params, repeat(features), jax.tree.map(repeat, levels), rows(queries), jax.tree.map(rows, embeddings))
    assert shared.mask_logits.shape == (6, QUERIES, 16, 24)
    np.testing.assert_array_equal(alone.mask_features, repeat(shared.mask_features))
    chex.assert_trees_all_close(shared.replace(mask_features=None), alone.replace(mask_features=None), rtol=1e-7, atol=2e-5)


def test_all_parameters_have_gradients_and_all_kinds_have_scores(rng):
    args = random_inputs(rng)
    module = make_decoder()
    params = random_params(module, *args)

    def loss(params):
        result = module.apply(params, *args)
        return sum(
            jnp.square(x).sum() for x in jax.tree.leaves((result.mask_logits, result.scores, result.boxes, result.embeddings))
        )

    result = jax.eval_shape(module.apply, params, *args)
    assert {kind: score.shape for kind, score in result.scores.items()} == {
        "expression": (6, QUERIES),
        "class": (6, QUERIES, 4),
        "region": (6, QUERIES, 2),
        "box_iou": (6, QUERIES),
    }
    gradients = jax.jit(jax.grad(loss))(params)
    still = [jax.tree_util.keystr(path) for path, x in jax.tree_util.tree_leaves_with_path(gradients) if not np.any(x)]
    assert all("key']['bias" in path for path in still), still  # a key bias shifts all scores equally


def test_fully_masked_queries_attend_everywhere(rng):
    args = random_inputs(rng)
    module = make_decoder()
    params = random_params(module, *args)
    sizes = [x.shape[1] * x.shape[2] for x in args[1][:LAYERS]]
    run = jax.jit(module.apply)
    constant_mask = lambda blocked: tuple(jnp.full((6, QUERIES, size), blocked) for size in sizes)
    closed, opened = (run(params, *args, constant_mask(blocked)) for blocked in (True, False))
    np.testing.assert_allclose(closed.mask_logits, opened.mask_logits, atol=1e-6)
    assert all(stage["attention_mask"].all() for stage in closed.stages)  # the reported mask is the one before unmasking


def test_attention_masks_are_float32_and_bfloat16_is_close(rng):
    args = random_inputs(rng)
    exact, half = make_decoder(), make_decoder(precision=Precision(compute="bfloat16"))
    params = random_params(exact, *args)
    sizes = [x.shape[1] * x.shape[2] for x in args[1][:LAYERS]]
    open_ = tuple(jnp.zeros((6, QUERIES, size), bool) for size in sizes)
    full, low = (jax.jit(module.apply)(params, *args, open_) for module in (exact, half))
    assert low.mask_logits.dtype == jnp.float32
    np.testing.assert_allclose(low.mask_logits, full.mask_logits, atol=0.1 * float(jnp.std(full.mask_logits)))
    lowered = jax.jit(half.apply).lower(params, *args).as_text()
    assert any("dot_general" in line and f"x{sizes[-1]}xf32>" in line for line in lowered.splitlines())


def test_unknown_kinds_are_errors(rng):
    features, levels, queries, embeddings = random_inputs(rng)
    with pytest.raises(ValueError, match="colour"):
        make_decoder(heads=("colour",)).init(jax.random.key(0), features, levels, queries, embeddings)
    with pytest.raises(ValueError, match="region"):
        make_decoder(score_kinds=("expression",)).init(jax.random.key(0), features, levels, queries, embeddings)


def test_deformable_attention_initialization(rng):
    """Initially every query averages its rays: on a constant map the output is that of a linear layer."""
    shapes = ((16, 16), (8, 8))
    module = DeformableAttention(4, 2, shapes)
    query = jnp.asarray(rng.normal(size=(1, 320, WIDTH)), jnp.float32)
    params = nn.unbox(jax.jit(module.init)(jax.random.key(0), query, query, cell_centers(shapes)))["params"]
    bias = params["sampling_offsets"]["bias"].reshape(4, 2, 2, 2)
    np.testing.assert_allclose(bias[:, 0, 1], [[2, 0], [0, 2], [-2, 0], [0, -2]], atol=1e-6)
    assert not np.any(params["sampling_offsets"]["kernel"])
    constant = jnp.ones((1, 320, WIDTH))
    out = jax.jit(lambda p: module.apply({"params": p}, query, constant, cell_centers(shapes)))(params)
    middle = 7 * 16 + 7  # its rays stay inside both maps
    value, last = params["value"], params["out"]
    expected = (constant @ value["kernel"] + value["bias"]) @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(out[:, middle], expected[:, middle], atol=1e-5)


def test_pixel_decoder_gives_features_and_maps_of_any_size(rng):
    module = pixel_decoder.DeformablePixelDecoder(WIDTH, 12, 2, 24, 1, 2, 4)
    sizes = ((13, 10), (7, 5), (4, 3), (2, 2))
    levels = tuple(jnp.asarray(rng.normal(size=(2, *size, 6)), jnp.float32) for size in sizes)
    pyramid = Pyramid(levels, (4, 8, 16, 32))
    params = random_params(module, pyramid)
    run = lambda p: module.apply(p, pyramid)
    features, maps = jax.jit(run)(params)
    assert features.shape == (2, 13, 10, 12)
    assert [x.shape for x in maps] == [(2, *size, WIDTH) for size in sizes[:0:-1]]
    gradients = jax.jit(jax.grad(lambda p: sum(jnp.square(x).sum() for x in jax.tree.leaves(run(p)))))(params)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradients))
