"""Text answers."""

import jax
import numpy as np
import pytest

from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Layout, Prompt, Source
from hyperseg_jax.systems.hyperseg import model as wiring
from hyperseg_jax.systems.hyperseg import processor
from hyperseg_jax.systems.pixels import normalize_for_llm

FRAME = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)


def generate_without_cache(model, question, count):
    """Generates the answer's ids with a full forward pass per token."""
    module = wiring.build_model(model.config)
    prepare = processor.make_processor(model.config, model.tokenizer, {"length": 160, "targets": 0})
    arrays = prepare(Example("it", FRAME[None], (Prompt("chat", question),)), train=False)
    layout = Layout(**{name: np.array(value)[None] for name, value in arrays["layout"].items()})
    clip = normalize_for_llm(arrays["clip_images"])

    @jax.jit
    def logits(params, layout):
        full = lambda m: m.language_head(m.llm(m.question_stream(m.image_tokens(clip), layout)))
        return module.apply({"params": params}, method=full)

    ids = []
    for _ in range(count):
        end = int((layout.source[0] != Source.PADDING).sum())
        best = np.asarray(logits(model.params, layout))[0, end - 1, : model.tokenizer.vocab_size].argmax()
        ids.append(int(best))
        for field, value in (("text_ids", best), ("source", Source.TEXT), ("mask", True), ("prompt", 1), ("position", end)):
            getattr(layout, field)[0, end] = value
    return ids


def test_answers_are_greedy(random_model):
    ids = generate_without_cache(random_model, "what is left of the ring?", 8)
    assert len(set(ids)) > 2 and random_model.tokenizer.eos_id not in ids
    assert random_model.chat(FRAME, "what is left of the ring?", max_new_tokens=8) == random_model.tokenizer.decode(ids).strip()
    assert (
        random_model.chat(FRAME, "what is left of the ring?", max_new_tokens=3)
        == random_model.tokenizer.decode(ids[:3]).strip()
    )


def test_the_answer_depends_on_image_and_question(random_model):
    inputs = random_model.chat(FRAME, "what is this?", max_new_tokens=8)
    assert inputs != random_model.chat(255 - FRAME, "what is this?", max_new_tokens=8)
    assert inputs != random_model.chat(FRAME, "how many stars are there?", max_new_tokens=8)


def test_invalid_questions_are_rejected(random_model):
    with pytest.raises(UserError, match="needs a text"):
        random_model.chat(FRAME, "  ")
    with pytest.raises(UserError, match="max_new_tokens = 0"):
        random_model.chat(FRAME, "what is this?", max_new_tokens=0)
