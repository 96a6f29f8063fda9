"""Small and complete dictionaries of fairseq, in files as OFA has them."""

import json
import pathlib
from collections.abc import Sequence

import numpy as np
import real_vocabulary

from hyperseg_jax.systems.ifseg import texts
from hyperseg_jax.text import fairseq_dictionary
from hyperseg_jax.text.tokenizer import Tokenizer

SPECIAL = 4


def write_dictionary(folder: pathlib.Path, order: list[str]) -> pathlib.Path:
    """Writes the dict.txt of these tokens in order, into a folder with GPT-2's files."""
    (folder / "dict.txt").write_text("".join(f"{name} {1000 - min(k, 999)}\n" for k, name in enumerate(order)))
    return folder


def write_small(folder: pathlib.Path) -> pathlib.Path:
    """Writes a dictionary of a few letters and merges, in reverse order of their ids."""
    tokens = ["\u0120", "t", "h", "e", "T", "th", "the", "\u0120the", "\u0120t"]
    folder.mkdir(parents=True)
    (folder / "encoder.json").write_text(json.dumps({token: k for k, token in enumerate(tokens)}))
    (folder / "vocab.bpe").write_text("#version: 0.2\nt h\nth e\n\u0120 the\n\u0120 t\n", encoding="utf-8")
    return write_dictionary(folder, [*(str(k) for k in reversed(range(len(tokens)))), "madeupword0000"])


def write_recorded(folder: pathlib.Path, recorded: dict[int, int]) -> pathlib.Path:
    """Writes a dictionary of the published size in which these tokens of GPT-2 have these ids: {token id: id of the
    dictionary}. The real order of the other tokens is not known here."""
    return _write_order(real_vocabulary.write_gpt2(folder), recorded)


def _write_order(folder: pathlib.Path, recorded: dict[int, int]) -> pathlib.Path:
    size = len(json.loads((folder / "vocab.json").read_bytes()))
    order: dict[int, str] = {ours - SPECIAL: str(token) for token, ours in recorded.items()}
    assert len(order) == len(recorded), "two tokens have one id"
    rest = iter([str(k) for k in range(size) if k not in recorded] + [f"madeupword{k:04d}" for k in range(3)])
    return write_dictionary(folder, [order.get(line) or next(rest) for line in range(size + 3)])


def write_published(folder: pathlib.Path) -> pathlib.Path:
    """Writes a dictionary of the published size that gives the prompt its published ids. The other tokens have any order."""
    gpt2 = Tokenizer.load(real_vocabulary.write_gpt2(folder))
    tokens = [token for word in texts.PROMPT.split() for token in gpt2.encode(f" {word}")]
    return _write_order(folder, dict(zip(tokens, texts.PROMPT_IDS, strict=True)))


def load_recorded(folder: pathlib.Path, classes: Sequence[str], source: np.ndarray) -> Tokenizer:
    """Returns OFA's tokenizer with a dictionary that gives the text of these classes its recorded ids. Fails if no dictionary
    does: if the text has another number of tokens, or one of them two ids.

    source: the recorded ids of the text, with start and end token.
    """
    gpt2 = Tokenizer.load(real_vocabulary.write_gpt2(folder / "gpt2"))
    text = " ".join((texts.PROMPT, *classes, texts.UNKNOWN))
    tokens = [token for word in text.split() for token in gpt2.encode(f" {word}")]
    assert (len(tokens) + 2, source[0], source[-1]) == (len(source), 0, 2)
    pairs: dict[int, int] = {}
    for token, number in zip(tokens, source[1:-1].tolist(), strict=True):
        assert pairs.setdefault(token, number) == number, gpt2.decode([token])
    return fairseq_dictionary.load(write_recorded(folder / "ofa", pairs), texts.EXTRA)
