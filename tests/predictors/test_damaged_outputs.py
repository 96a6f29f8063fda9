"""Weights that are numbers, but so large that what comes out is none."""

import dataclasses

import numpy as np
import pytest

from hyperseg_jax.errors import UserError

FRAME = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)


def test_outputs_that_are_not_finite_are_no_empty_answer(random_model, monkeypatch):
    whole = random_model.engine.predict

    def overflowing(*given):
        outputs, memory = whole(*given)
        return outputs | {"mask_logits": outputs["mask_logits"].at[..., 0, 0].set(np.nan)}, memory

    assert random_model.segment(FRAME, "the red ring") is not None
    monkeypatch.setattr(random_model, "engine", dataclasses.replace(random_model.engine, predict=overflowing))
    asked = (
        lambda: random_model.segment(FRAME, "the red ring"),
        lambda: random_model.segment_regions(FRAME, [np.ones((40, 60), bool)]),
    )
    for ask in asked:
        with pytest.raises(UserError, match="not finite, so its weights are damaged"):
            ask()
