"""A batch of unlike prompts on images of unlike shapes is its samples one by one.

The published code answers the first sample of a batch only, crops every mask by that one's padding, and drops samples without
queries out of line (HyperSeg commit 5cfcf52). Here each row keeps its own.
"""

import dataclasses

import jax
import numpy as np
import pytest
from drawn import drawn_params, regions_of

from hyperseg_jax.ops.transforms import fit
from hyperseg_jax.results.mask_resize import canvas, geometry_array, mask_resize, resize_masks
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.systems import system as systems
from hyperseg_jax.systems.hyperseg.markers import TokenCounts, runs
from hyperseg_jax.systems.hyperseg.prompts import tokenize
from hyperseg_jax.text.layout import expanded_length
from hyperseg_jax.text.tokenizer import Tokenizer

SYSTEM = systems.get("hyperseg")
RNG = np.random.default_rng(0)


def example(height, width, **prompt):
    """A clip of two frames and one question about it."""
    frames = RNG.integers(0, 255, (2, height, width, 3), np.uint8)
    return Example(prompt["task"], frames, (Prompt(**prompt),))


def drawn(height, width, count):
    regions = np.zeros((count, height, width), bool)
    for k, region in enumerate(regions):
        region[5 * k : 5 * k + 9, 3 : 20 + 4 * k] = True
    return regions_of(regions)


EXAMPLES = (
    example(40, 60, task="referring", text="the ring."),
    example(90, 50, task="referring", text="the large blue star that is left of the small red square."),
    example(64, 64, task="panoptic", classes=("star", "ring", "grass"), things=(True, True, False)),
    example(30, 71, task="region", regions=drawn(30, 71, 3)),
    example(55, 33, task="video", text="the ring that moves to the right"),
    example(48, 80, task="panoptic", classes=("sky",), things=(False,)),
    example(80, 48, task="region", regions=drawn(80, 48, 1)),
)


@pytest.fixture(scope="module")
def ready(micro):
    """(config, jitted predict, parameters of which none is zero)."""
    config = micro(model__precision__matmul="highest")
    return config, jax.jit(SYSTEM.predict(SYSTEM.build(config), config)), drawn_params(SYSTEM.shapes(config), seed=1)


def processor_for(config, prompts):
    """The least sizes that hold each of the prompts."""
    made = SYSTEM.processor(config, Tokenizer.toy(), {})
    counts = TokenCounts(made.image_tokens, made.fine_grained_tokens, made.queries)
    length = max(expanded_length(runs(tokenize(p, Tokenizer.toy()), counts)) for p in prompts)
    return dataclasses.replace(
        made,
        frames=2,
        targets=0,
        length=length,
        classes=max(len(p.classes) + 1 for p in prompts),
        regions=max(len(p.regions) for p in prompts),
    )


def run(ready, examples, fitting):
    """Outputs [B, T, ...] on the host, in the least sizes that hold the prompts of `fitting`."""
    config, predict, params = ready
    processor = processor_for(config, [e.prompts[0] for e in fitting])
    rows = [processor(example, train=False) for example in examples]
    outputs, memory = predict(params, jax.tree.map(lambda *arrays: np.stack(arrays), *rows), {}, None)
    return jax.device_get({**outputs, "memory": memory})


def answer(example, out, row, frame, size):
    """Mask logits at the picture's own size, and the scores that the prompt asks for."""
    prompt = example.prompts[0]
    kind, count = {"panoptic": ("class", len(prompt.classes) + 1), "region": ("region", len(prompt.regions))}.get(
        prompt.task, ("expression", None)
    )
    masks, (height, width) = out["mask_logits"][row, frame, 0], example.frames.shape[1:3]
    here = mask_resize(geometry_array(fit(height, width, size)), masks.shape[-2:], canvas(height, width))
    logits = np.asarray(resize_masks(masks, here))[:, :height, :width]
    return logits, out[kind][row, frame, 0][..., :count] if count else out[kind][row, frame, 0]


def close(one, other, message):
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max(), err_msg=message)


def test_a_batch_is_its_samples_one_by_one(ready):
    size = ready[0].data.image_size
    together = run(ready, EXAMPLES, EXAMPLES)
    for row, sample in enumerate(EXAMPLES):
        alone = run(ready, [sample], [other for other in EXAMPLES if other.name == sample.name])  # a program for each task
        close(together["memory"][row], alone["memory"][0], f"{sample.name}: next query")
        for frame in range(2):
            ours, wanted = answer(sample, together, row, frame, size), answer(sample, alone, 0, frame, size)
            assert ours[0].shape[1:] == sample.frames.shape[1:3] and np.abs(wanted[0]).max() > 0.1
            for what, a, b in zip(("masks", "scores"), ours, wanted, strict=True):
                close(a, b, f"{sample.name} frame {frame}: {what}")
