"""Parameters without meaning, for tests: drawn in moments, where a model's own initializers take long to compile."""

import jax
import numpy as np


def drawn_params(shapes, seed, spread=0.4):
    """Nested float32 arrays of the given shapes, none of them zero. Norms scale by about one, embeddings are of size one."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        values = rng.standard_normal(leaf.shape).astype(np.float32) * (1 if name == "embedding" else spread)
        return values + 1 if name == "scale" else values

    return jax.tree_util.tree_map_with_path(draw, shapes)
