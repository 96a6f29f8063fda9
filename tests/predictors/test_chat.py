"""Answers in words."""

import jax
import numpy as np
import pytest

from hyperseg_jax.data.features import to_arrays
from hyperseg_jax.errors import UserError
from hyperseg_jax.predictors.model import Model
from hyperseg_jax.structs import Example, Layout, Prompt, Source
from hyperseg_jax.systems import hyperseg
from hyperseg_jax.systems import system as systems
from hyperseg_jax.text.tokenizer import Tokenizer

FRAME = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)


@pytest.fixture(scope="module")
def model(micro):
    config, system = micro(), systems.get("hyperseg")
    module = system.build(config)
    fresh = jax.jit(lambda key: system.init_plain(module, config, key))(jax.random.key(0))
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda x: np.asarray(x) + 0.3 * rng.standard_normal(x.shape).astype(np.float32), fresh)
    return Model(config, Tokenizer.toy(), params)


def one_by_one(model, question, count):
    """The answer's ids by a whole forward pass for each token."""
    module = hyperseg.build(model.config)
    sizes = hyperseg.batch_spec(model.config, {"length": 160, "targets": 0})
    arrays = to_arrays(Example("it", FRAME[None], (Prompt("chat", question),)), sizes, model.tokenizer, train=False)
    layout = Layout(**{name: np.array(value)[None] for name, value in arrays["layout"].items()})
    _, clip = hyperseg.normalise(arrays["images"], arrays["clip_images"])

    @jax.jit
    def logits(params, layout):
        return module.apply({"params": params}, method=lambda m: m.language_head(m.llm(m.conversation(clip, layout))))

    ids = []
    for _ in range(count):
        end = int((layout.source[0] != Source.PADDING).sum())
        best = np.asarray(logits(model.params, layout))[0, end - 1, : model.tokenizer.vocab_size].argmax()
        ids.append(int(best))
        for field, value in (("text_ids", best), ("source", Source.TEXT), ("mask", True), ("prompt", 1), ("position", end)):
            getattr(layout, field)[0, end] = value
    return ids


def test_an_answer_is_the_most_probable_text(model):
    ids = one_by_one(model, "what is left of the ring?", 8)
    assert len(set(ids)) > 2 and model.tokenizer.eos_id not in ids
    assert model.chat(FRAME, "what is left of the ring?", max_new_tokens=8) == model.tokenizer.decode(ids).strip()
    assert model.chat(FRAME, "what is left of the ring?", max_new_tokens=3) == model.tokenizer.decode(ids[:3]).strip()


def test_the_answer_depends_on_picture_and_question(model):
    given = model.chat(FRAME, "what is this?", max_new_tokens=8)
    assert given != model.chat(255 - FRAME, "what is this?", max_new_tokens=8)
    assert given != model.chat(FRAME, "how many stars are there?", max_new_tokens=8)


def test_bad_questions_are_named(model):
    with pytest.raises(UserError, match="needs a text"):
        model.chat(FRAME, "  ")
    with pytest.raises(UserError, match="max_new_tokens = 0"):
        model.chat(FRAME, "what is this?", max_new_tokens=0)
