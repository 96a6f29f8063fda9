"""Packed prompts give the results of separate prompts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sample_inputs import make_regions

from hyperseg_jax.errors import UserError
from hyperseg_jax.llms.phi import Phi
from hyperseg_jax.llms.splice import pool, splice
from hyperseg_jax.structs import Prompt
from hyperseg_jax.structs import Source as S
from hyperseg_jax.systems.hyperseg.prompts import tokenize_prompt
from hyperseg_jax.systems.psalm.markers import TokenCounts, expand_to_runs
from hyperseg_jax.text.layout import expand_runs, pack_layouts
from hyperseg_jax.text.tokenizer import Tokenizer

COUNTS = TokenCounts(9, 3, 4)
REGIONS = np.zeros((2, 8, 8), bool)
PROMPTS = (
    Prompt("referring", text="the red ring"),
    Prompt("referring", text="the large blue square left of the star"),
    Prompt("panoptic", classes=("red ring", "grass")),
    Prompt("region", regions=make_regions(REGIONS)),
)


def make_layouts(length=120):
    tokenizer = Tokenizer.toy()
    return [
        expand_runs(expand_to_runs(tokenize_prompt(prompt, tokenizer, template="v0", train=True), COUNTS), length)
        for prompt in PROMPTS
    ]


def test_packed_prompts_equal_separate_prompts():
    alone, packed = make_layouts(), pack_layouts(make_layouts(), 200)
    used = [int((layout.source != 0).sum()) for layout in alone]
    assert int((packed.source != 0).sum()) < sum(used) - 2 * (COUNTS.image + COUNTS.resampled)
    model = Phi(600, 32, 48, 2, 4, rotary_fraction=0.5)
    rng = np.random.default_rng(0)
    width = lambda *shape: jnp.asarray(rng.standard_normal((*shape, 32)), jnp.float32)
    image, fine_grained, regions, queries = width(1, 9), width(1, 3), width(1, 4, 2), width(4)

    def run(params, layout, regions, count):
        text = model.apply({"params": params}, layout.text_ids, method="embed")
        banks = {S.IMAGE: image, S.QUERY: queries, S.RESAMPLED: fine_grained, S.REGION: regions}
        stream = splice(layout, text, banks)
        hidden = model.apply({"params": params}, stream)
        counts = {S.QUERY: 4, S.RESAMPLED: 3, S.EXPRESSION: 1, S.CLASS: 3, S.REGION: 2}
        return pool(hidden, layout, counts, num_prompts=count, shared=(S.RESAMPLED,))

    batched = lambda layout: jax.tree.map(lambda x: jnp.asarray(x)[None], layout)
    first = batched(alone[0])
    stream = splice(first, width(1, 120), {S.IMAGE: image, S.QUERY: queries, S.RESAMPLED: fine_grained})
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), stream))["params"]
    together = run(params, batched(packed), regions, len(PROMPTS))
    for k, layout in enumerate(alone):
        single = run(params, batched(layout), regions[:, k : k + 1], 1)
        for name in (S.QUERY, S.EXPRESSION, S.CLASS, S.REGION):
            np.testing.assert_allclose(together[name][:, k], single[name][:, 0], atol=2e-5, err_msg=f"{name} of prompt {k}")
        np.testing.assert_allclose(together[S.RESAMPLED], single[S.RESAMPLED], atol=2e-5)
    assert float(jnp.abs(together[S.QUERY][0, 0] - together[S.QUERY][0, 1]).max()) > 0.01


def test_labels_of_packed_prompts():
    packed = pack_layouts(make_layouts(), 200)
    assert sorted(packed.labels[packed.labels != -100]) == sorted(
        label for layout in make_layouts() for label in layout.labels[layout.labels != -100]
    )


def test_too_short_lengths_report_the_fix():
    with pytest.raises(UserError, match=r"need .* positions, the layout has 60"):
        pack_layouts(make_layouts(), 60)
