"""Trains the toy tokenizer with the fixed parts of HyperSeg's prompts.

`python -m hyperseg_jax.systems.hyperseg.toy_tokenizer` rewrites its file."""

from __future__ import annotations

from hyperseg_jax.systems.hyperseg.prompts import ANSWERS, QUESTIONS
from hyperseg_jax.systems.psalm.rounds import fixed_phrases
from hyperseg_jax.systems.psalm.templates import SEG
from hyperseg_jax.text.tokenizer import TOY_FILE, Tokenizer
from hyperseg_jax.toy import corpus


def prompt_phrases() -> set[str]:
    """Returns the texts that become single tokens: the fixed parts of all prompts, and the separators of class lists."""
    return {", ", ".\n"} | fixed_phrases((question, ANSWERS[task]) for task, question in QUESTIONS.items())


def train_toy_tokenizer() -> Tokenizer:
    """Trains the toy tokenizer; the result is deterministic."""
    return corpus.train_tokenizer(prompt_phrases(), (SEG,))


if __name__ == "__main__":
    TOY_FILE.parent.mkdir(exist_ok=True)
    train_toy_tokenizer().save(TOY_FILE.parent)
    (TOY_FILE.parent / "tokenizer.json").replace(TOY_FILE)
    print(f"wrote {TOY_FILE}")
