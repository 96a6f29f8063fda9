"""Universal image and video segmentation with vision-language models, in JAX.

import hyperseg_jax
model = hyperseg_jax.load("tiny")
for segment in model.segment("image.jpg", "the red ring left of the square"):
    print(segment.label, segment.score, segment.mask.sum())
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyperseg_jax.predictors.model import Model

__version__ = "0.1.0"


def load(name: str | os.PathLike) -> Model:
    """Loads a model: a workdir of `hyperseg train`, a model folder, or the name of a shipped model ("tiny")."""
    from hyperseg_jax.predictors.model import load as load_model  # imported late to keep `import hyperseg_jax` fast

    return load_model(name)
