"""A batch of different prompts on images of different shapes equals its samples one by one.

The published code post-processes only the first sample of a batch, crops every mask by its padding, and misaligns samples
without queries (HyperSeg commit 5cfcf52). Here each row uses its own.
"""

import dataclasses

import jax
import numpy as np
import pytest
from sample_inputs import make_regions, random_params

from hyperseg_jax.ops.transforms import fit_to_square
from hyperseg_jax.results.mask_resize import canvas_size, geometry_array, make_mask_resize, resize_masks
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.systems import system as systems
from hyperseg_jax.systems.hyperseg.prompts import tokenize_prompt
from hyperseg_jax.systems.psalm.markers import TokenCounts, expand_to_runs
from hyperseg_jax.text.layout import expanded_length
from hyperseg_jax.text.tokenizer import Tokenizer

SYSTEM = systems.get("hyperseg")
RNG = np.random.default_rng(0)


def make_example(height, width, **prompt):
    """Returns a video of two frames with one prompt."""
    frames = RNG.integers(0, 255, (2, height, width, 3), np.uint8)
    return Example(prompt["task"], frames, (Prompt(**prompt),))


def make_test_regions(height, width, count):
    regions = np.zeros((count, height, width), bool)
    for k, region in enumerate(regions):
        region[5 * k : 5 * k + 9, 3 : 20 + 4 * k] = True
    return make_regions(regions)


EXAMPLES = (
    make_example(40, 60, task="referring", text="the ring."),
    make_example(90, 50, task="referring", text="the large blue star that is left of the small red square."),
    make_example(64, 64, task="panoptic", classes=("star", "ring", "grass"), things=(True, True, False)),
    make_example(30, 71, task="region", regions=make_test_regions(30, 71, 3)),
    make_example(55, 33, task="video", text="the ring that moves to the right"),
    make_example(48, 80, task="panoptic", classes=("sky",), things=(False,)),
    make_example(80, 48, task="region", regions=make_test_regions(80, 48, 1)),
)


@pytest.fixture(scope="module")
def system(micro):
    """(config, jitted predict, nonzero parameters)."""
    config = micro(model__precision__matmul="highest")
    return config, jax.jit(SYSTEM.predict(SYSTEM.build(config), config)), random_params(SYSTEM.shapes(config), seed=1)


def processor_for(config, prompts):
    """Returns a processor with the smallest sizes that hold each of the prompts."""
    result = SYSTEM.processor(config, Tokenizer.toy(), {})
    counts = TokenCounts(result.image_tokens, result.fine_grained_tokens, result.queries)
    length = max(expanded_length(expand_to_runs(tokenize_prompt(p, Tokenizer.toy()), counts)) for p in prompts)
    return dataclasses.replace(
        result,
        frames=2,
        targets=0,
        length=length,
        classes=max(len(p.classes) + 1 for p in prompts),
        regions=max(len(p.regions) for p in prompts),
    )


def predict_batch(system, examples, fitting):
    """Returns outputs [B, T, ...] on the host, with the smallest sizes that hold the prompts of `fitting`."""
    config, predict, params = system
    processor = processor_for(config, [e.prompts[0] for e in fitting])
    rows = [processor(example, train=False) for example in examples]
    outputs, memory = predict(params, jax.tree.map(lambda *arrays: np.stack(arrays), *rows), {}, None)
    return jax.device_get({**outputs, "memory": memory.query})


def select_outputs(example, out, row, frame, size):
    """Returns the mask logits at the image's size, and the scores of the prompt."""
    prompt = example.prompts[0]
    kind, count = {"panoptic": ("class", len(prompt.classes) + 1), "region": ("region", len(prompt.regions))}.get(
        prompt.task, ("expression", None)
    )
    masks, (height, width) = out["mask_logits"][row, frame, 0], example.frames.shape[1:3]
    resize = make_mask_resize(geometry_array(fit_to_square(height, width, size)), masks.shape[-2:], canvas_size(height, width))
    logits = np.asarray(resize_masks(masks, resize))[:, :height, :width]
    return logits, out[kind][row, frame, 0][..., :count] if count else out[kind][row, frame, 0]


def assert_close(one, other, message):
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max(), err_msg=message)


def test_a_batch_equals_its_samples(system):
    size = system[0].data.image_size
    together = predict_batch(system, EXAMPLES, EXAMPLES)
    for row, sample in enumerate(EXAMPLES):
        alone = predict_batch(
            system, [sample], [other for other in EXAMPLES if other.name == sample.name]
        )  # one program per task
        assert_close(together["memory"][row], alone["memory"][0], f"{sample.name}: next query")
        for frame in range(2):
            ours, expected = select_outputs(sample, together, row, frame, size), select_outputs(sample, alone, 0, frame, size)
            assert ours[0].shape[1:] == sample.frames.shape[1:3] and np.abs(expected[0]).max() > 0.1
            for what, a, b in zip(("masks", "scores"), ours, expected, strict=True):
                assert_close(a, b, f"{sample.name} frame {frame}: {what}")
