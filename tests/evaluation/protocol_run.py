"""Runs an evaluation protocol without a model."""

import numpy as np

from hyperseg_jax.evaluation.scoring import SCORINGS
from hyperseg_jax.structs import Example

SIDE = 48


def make_block(top, left, height=12, width=12, side=SIDE):
    mask = np.zeros((side, side), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def make_example(*prompts, frames=3):
    return Example("clip", np.zeros((frames, SIDE, SIDE, 3), np.uint8), prompts, tuple(str(t) for t in range(frames)))


def run_protocol(protocol, outputs):
    """Runs a protocol with outputs(step, prompt) as the model; returns the requested examples by step."""
    requests = []
    for step in range(protocol.steps):
        for k in range(protocol.prompts):
            inputs = {}
            prepare = lambda one, inputs=inputs: inputs.setdefault("made", {"example": one})
            requests.append(protocol.prepare_query(step, k, prepare))
            protocol.add_outputs(k, outputs(step, k))
    return requests


def score_protocol(name, protocol):
    scores, scoring = SCORINGS[name].new("official"), SCORINGS[name]
    for prompt, result in protocol.answers():
        scoring.add(scores, protocol.example.name, prompt, result)
    return scores
