"""OFA's layers over image cells: some rows of the grid at a time, with the same result and less memory."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.llms import ofa
from hyperseg_jax.llms.grid_positions import Canvas

HEADS, WIDTH, TEXT = 2, 8, 3
FIELDS = (HEADS, 16, 0.0, True, Precision(matmul="highest"))
KINDS = ("encoder", "decoder")


def make_layer(kind, grid, used):
    """Returns a layer as f(params, x) -> states, with random params and x."""
    rng = np.random.default_rng(0)
    cells = grid[0] * grid[1]
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape, np.float32))
    canvas = Canvas(np.array([used], np.int32), grid)
    texts = np.ones((1, TEXT), bool)
    resize = canvas.resize_from((4, 4))
    if kind == "encoder":
        layer, length = ofa.EncoderLayer(*FIELDS, text_buckets=4, side=6), cells + TEXT
        valid = jnp.concatenate([canvas.valid, texts], axis=1)
        rest = (jnp.zeros(()), tuple(draw(1, length, HEADS, WIDTH // HEADS) for _ in range(2)), valid, canvas, resize)
    else:
        layer, length = ofa.SegmentationLayer(*FIELDS, side=4), cells + 1
        places = tuple(draw(1, count, HEADS, WIDTH // HEADS) for count in (length, length, length, TEXT))
        rest = (jnp.zeros(()), draw(1, TEXT, WIDTH), places, texts, canvas, resize)
    x = draw(1, length, WIDTH)
    shapes = nn.meta.unbox(jax.eval_shape(layer.init, jax.random.key(0), x, *rest))
    params = jax.tree.map(lambda leaf: draw(*leaf.shape), shapes)
    return lambda params, x: layer.apply(params, x, *rest)[0], params, x


def with_gradients(apply):
    """Returns f(params, x) -> ((mean square of the states, states), its gradients)."""

    def score(params, x):
        states = apply(params, x)
        return (states**2).mean(), states

    return jax.value_and_grad(score, argnums=(0, 1), has_aux=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("used", [(6, 5), (4, 3)])
def test_rows_at_a_time_give_the_same_states_and_gradients(kind, used, monkeypatch):
    apply, params, x = make_layer(kind, (6, 5), used)
    results = []
    for chunk in (30, 10):  # 6 and 2 rows at a time
        monkeypatch.setattr(ofa, "CHUNK", chunk)
        results.append(jax.jit(with_gradients(apply))(params, x))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(results[0][1])) > 0.01


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("graph", [lambda apply: apply, with_gradients], ids=["states", "gradients"])
def test_no_array_of_all_pairs_is_in_memory(kind, graph, monkeypatch):
    """Neither biases nor weights, at 512 x 2048 px: 32 x 128 cells."""
    monkeypatch.setattr(ofa, "CHUNK", 256)
    apply, params, x = make_layer(kind, (32, 128), (32, 128))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, x))
    temporary = jax.jit(graph(apply)).lower(*shapes).compile().memory_analysis().temp_size_in_bytes
    pairs = 4 * HEADS * x.shape[1] ** 2
    assert temporary < pairs / 2


@pytest.mark.parametrize(("grid", "rows"), [((32, 32), 32), ((32, 128), 8), ((64, 64), 16), ((7, 200), 1), ((3, 2000), 1)])
def test_the_rows_of_a_chunk_divide_the_grid(grid, rows):
    assert ofa._chunk_rows(grid) == rows


@pytest.mark.parametrize(("layers", "kept", "spread"), [(1, 32, 0), (2, 16, 9)])
def test_stochastic_depth_rises_from_none(layers, kept, spread):
    """A single layer is never left out; the second of two is left out for half of the examples."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape, np.float32))
    given = draw(32, 4, WIDTH), draw(32, TEXT, WIDTH), np.ones((32, TEXT), bool), Canvas.full((2, 2))
    encoder = ofa.OfaEncoder(WIDTH, 16, layers, HEADS, drop_path=0.5, side=4, base=(2, 2), num_positions=TEXT)
    shapes = nn.meta.unbox(jax.eval_shape(encoder.init, jax.random.key(0), *given))["params"]
    params = jax.tree.map(lambda leaf: draw(*leaf.shape), shapes)
    silence = lambda part: jax.tree.map(lambda leaf: leaf.at[-1].set(0), part)  # of the last layer
    stack = {**params["layers"], "attended_norm": silence(params["layers"]["attended_norm"])}

    def run(stack, **rngs):
        variables = {"params": {**params, "layers": stack}}
        return encoder.apply(variables, *given, deterministic=not rngs, rngs=rngs)[0]

    found = jax.jit(run)(stack, dropout=jax.random.key(1))
    without = jax.jit(run)({**stack, "down": silence(stack["down"])})
    left_out = np.isclose(found, without, atol=1e-5).all(axis=(1, 2))
    assert abs((~left_out).sum() - kept) <= spread
