"""The toy tokenizer, with the fixed parts of HyperSeg's prompts. `python -m hyperseg_jax.systems.hyperseg.toy_tokenizer` writes
it again."""

from __future__ import annotations

import re

from hyperseg_jax.systems.hyperseg.prompts import ANSWERS, QUESTIONS, SEG, TEMPLATES
from hyperseg_jax.text.tokenizer import TOY_FILE, Tokenizer
from hyperseg_jax.toy import corpus

_SLOTS = re.compile(r"<[a-z]+>|\{[a-z]+\}|\[SEG\]")


def phrases() -> set[str]:
    """The fixed parts of every prompt, and what stands between the names of a class list."""
    fixed = {", ", ".\n", " ASSISTANT:"}
    openings = {template.split("{question}")[0] for template in TEMPLATES.values()}
    for task, question in QUESTIONS.items():
        parts = _SLOTS.split(question)
        fixed |= {opening + parts[0] for opening in openings} | {*parts[1:], *_SLOTS.split(ANSWERS[task])}
    return {phrase for phrase in fixed if len(phrase) > 1}


def train() -> Tokenizer:
    """The toy tokenizer; the same on every run."""
    return corpus.train(phrases(), (SEG,))


if __name__ == "__main__":
    TOY_FILE.parent.mkdir(exist_ok=True)
    train().save(TOY_FILE.parent)
    (TOY_FILE.parent / "tokenizer.json").replace(TOY_FILE)
    print(f"wrote {TOY_FILE}")
