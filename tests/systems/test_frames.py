"""Frames of a video: keys of dropout, and the text that they share."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.structs import Layout
from hyperseg_jax.systems.hyperseg.frames import run_frames
from hyperseg_jax.systems.hyperseg.temporal import Temporal

FRAMES, LENGTH = 3, 4


@flax.struct.dataclass
class Output:
    next_query: jax.Array
    noise: jax.Array
    text: jax.Array | None
    gates: dict


class Noise:
    """A model whose output is the random numbers of dropout."""

    precision = Precision()
    temporal = Temporal()

    def __init__(self):
        self.embedded = 0

    def apply(self, variables, *inputs, rngs=None, method=None, fine_grained_query=None, text=None, **options):
        if method == "embed_text":
            self.embedded += 1
            return jnp.ones((1, LENGTH, 2))
        noise = jnp.zeros(5) if rngs is None else jax.random.uniform(rngs["dropout"], (5,))
        return Output(jnp.zeros((1, 2, 2)), noise, text, {}), {}


def run(model, frames, **options):
    row = np.zeros((1, LENGTH), np.int32)
    batch = {
        "images": np.zeros((1, frames, 8, 8, 3), np.uint8),
        "clip_images": np.zeros((1, frames, 8, 8, 3), np.uint8),
        "frame_valid": np.ones((1, frames), bool),
        "uses_expression": np.ones((1, 1), bool),
        "class_valid": np.zeros((1, 1, 0), bool),
        "regions": np.zeros((1, 1, 0, 8, 8), bool),
        "layout": vars(Layout(row, row, row, row, row, row.astype(bool), row, row)),
    }
    params = {"perceiver": {"query": jnp.zeros((2, 2))}}
    batch = jax.tree.map(jnp.asarray, batch)
    return run_frames(model, params, batch, None, lambda output, t: (output.noise, output.text), **options)[0]


def test_every_frame_has_its_own_dropout():
    key = jax.random.key(0)
    noise, _ = run(Noise(), FRAMES, dropout_key=key)
    expected = [jax.random.uniform(jax.random.fold_in(key, t), (5,)) for t in range(FRAMES)]
    np.testing.assert_array_equal(noise, expected)
    np.testing.assert_array_equal(run(Noise(), 1, dropout_key=key)[0], expected[:1])
    assert not np.any(run(Noise(), FRAMES)[0])


def test_the_text_of_all_frames_is_embedded_once():
    model = Noise()
    assert run(model, FRAMES)[1].shape == (FRAMES, 1, LENGTH, 2)
    assert model.embedded == 1
    assert run(Noise(), 1)[1] is None  # inside the model
