"""Finite weights that are so large that outputs are not finite."""

import dataclasses

import numpy as np
import pytest

from hyperseg_jax.errors import UserError

FRAME = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)


def test_non_finite_outputs_raise(random_model, monkeypatch):
    full = random_model.engine.predict

    def overflowing(*args):
        outputs, memory = full(*args)
        return outputs | {"mask_logits": outputs["mask_logits"].at[..., 0, 0].set(np.nan)}, memory

    assert random_model.segment(FRAME, "the red ring") is not None
    monkeypatch.setattr(random_model, "engine", dataclasses.replace(random_model.engine, predict=overflowing))
    requests = (
        lambda: random_model.segment(FRAME, "the red ring"),
        lambda: random_model.segment_regions(FRAME, [np.ones((40, 60), bool)]),
    )
    for request in requests:
        with pytest.raises(UserError, match="not finite, so its weights are damaged"):
            request()
