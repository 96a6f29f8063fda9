"""Text answers."""

import jax
import numpy as np
import pytest
from beam_search import search

from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Layout, Prompt, Source
from hyperseg_jax.systems.hyperseg import model as wiring
from hyperseg_jax.systems.hyperseg import processor
from hyperseg_jax.systems.pixels import normalize_for_llm

FRAME = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)


class WithoutCache:
    """The logits of a question about FRAME and the first tokens of its answer, by a full forward pass."""

    def __init__(self, model, question):
        module = wiring.build_model(model.config)
        prepare = processor.make_processor(model.config, model.tokenizer, {"length": 160, "targets": 0})
        arrays = prepare(Example("it", FRAME[None], (Prompt("chat", question),)), train=False)
        self.layout = {name: np.array(value)[None] for name, value in arrays["layout"].items()}
        self.params, self.size = model.params, model.tokenizer.vocab_size
        clip = normalize_for_llm(arrays["clip_images"])

        @jax.jit
        def logits(params, layout):
            full = lambda m: m.language_head(m.llm(m.question_stream(m.image_tokens(clip), layout)))
            return module.apply({"params": params}, method=full)

        self.logits = logits

    def __call__(self, ids):
        layout = Layout(**{name: value.copy() for name, value in self.layout.items()})
        end = int((layout.source[0] != Source.PADDING).sum())
        for k, number in enumerate(ids):
            new = {"text_ids": number, "source": Source.TEXT, "mask": True, "prompt": 1, "position": end + k}
            for field, value in new.items():
                getattr(layout, field)[0, end + k] = value
        return np.asarray(self.logits(self.params, layout))[0, end + len(ids) - 1]


def test_answers_are_greedy(random_model):
    logits, ids = WithoutCache(random_model, "what is left of the ring?"), []
    for _ in range(8):
        ids.append(int(logits(ids)[: random_model.tokenizer.vocab_size].argmax()))
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


def test_answers_of_beam_search(random_model):
    question, tokenizer = "what is left of the ring?", random_model.tokenizer
    logits = WithoutCache(random_model, question)

    def log_probabilities(texts):
        rows = np.asarray(jax.nn.log_softmax(np.stack([logits(ids) for ids in texts])))
        return rows[:, : tokenizer.vocab_size]

    ids = search(log_probabilities, beams=3, steps=5, length_penalty=0.5, end=tokenizer.eos_id)
    options = {"max_new_tokens": 5, "beams": 3, "length_penalty": 0.5}
    found = random_model.chat(FRAME, question, kind="beams", **options)
    assert found == tokenizer.decode([k for k in ids if k != tokenizer.eos_id]).strip()
    assert found != random_model.chat(FRAME, question, max_new_tokens=5)


def test_sampled_answers(random_model):
    ask = lambda **options: random_model.chat(FRAME, "what is this?", max_new_tokens=8, **options)
    hot = {"kind": "sampling", "temperature": 3.0}
    assert ask(seed=1, **hot) == ask(seed=1, **hot)
    assert len({ask(seed=seed, **hot) for seed in range(4)} | {ask()}) == 5
    assert ask(kind="sampling", top_k=1, seed=3) == ask(kind="sampling", temperature=1e-4) == ask()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_beams": 3}, "num_beams is no option of text generation; use some of kind, max_new_tokens, temperature"),
        ({"kind": "sampling", "top_p": 2.0}, "top_p = 2.0: must be a number from 1e-06 to 1"),
        ({"seed": -1}, "seed = -1: must be in 0 to 4294967295"),
    ],
)
def test_invalid_options_are_rejected(random_model, options, message):
    with pytest.raises(UserError, match=message):
        random_model.chat(FRAME, "what is this?", **options)
