"""The vocabulary of OFA, and class lists as its token ids."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Sequence

import ml_collections
import numpy as np
from jaxtyping import Int32

from hyperseg_jax.datasets.class_prompts import SYNONYM
from hyperseg_jax.errors import UserError
from hyperseg_jax.systems.ifseg.model import BINS, END, PADDING, START
from hyperseg_jax.systems.tokenizer_path import tokenizer_path
from hyperseg_jax.text import fairseq_dictionary
from hyperseg_jax.text.tokenizer import TOY_FILE, Tokenizer
from hyperseg_jax.untrusted.printing import escaped_value

PROMPT = "what is the segmentation map of the image? object:"
PROMPT_IDS = (99, 16, 5, 2835, 1258, 5456, 9, 5, 2274, 116, 7626, 35)
"""Its token ids in the vocabulary of the English OFA."""
UNKNOWN = "unknown"
"""What stands behind the classes of every text; it is no class."""
CODES = 8192
"""Number of OFA's tokens of image codes."""
GPT2_TOKENS = 50257
"""A vocabulary with at least as many is that of OFA; smaller ones are for small models."""
EXTRA = ("<mask>", *(f"<code_{k}>" for k in range(CODES)), *(f"<bin_{k}>" for k in range(BINS)))
"""OFA's tokens after those of the dictionary. IFSeg's "<seg_k>" come next; they number classes and have no embeddings."""


def load_tokenizer(config: ml_collections.ConfigDict, path: str | os.PathLike[str] | None = None) -> Tokenizer:
    """Loads the tokenizer in a file or folder; data.tokenizer by default, where {root} is data.root. A folder has OFA's
    dict.txt, encoder.json and vocab.bpe, or the tokenizer.json of a model folder; "toy" is the toy tokenizer in the numbering
    of fairseq.

    Raises UserError if it has another numbering than OFA's, or if the model has no embedding for some of its ids.
    """
    file = pathlib.Path(tokenizer_path(config, path))
    if file == TOY_FILE:
        loaded = _toy_tokenizer()
    elif fairseq_dictionary.is_in(file):
        loaded = fairseq_dictionary.load(file, EXTRA)
    else:
        loaded = Tokenizer.load(file, eos=fairseq_dictionary.END)
    start, padding, end, _ = fairseq_dictionary.SPECIAL
    if (loaded.id_of(start), loaded.id_of(padding), loaded.eos_id) != (START, PADDING, END):
        raise UserError(f"{file}: {start}, {padding} and {end} do not have the ids 0, 1 and 2; {fairseq_dictionary.ENGLISH}")
    if loaded.vocab_size >= GPT2_TOKENS and tuple(loaded.encode(PROMPT)) != PROMPT_IDS:
        raise UserError(f"{file}: numbers the tokens of {PROMPT!r} in another way than OFA; {fairseq_dictionary.ENGLISH}")
    loaded.check_fits(config.model.vocab_size, "model.vocab_size")
    return loaded


def _toy_tokenizer() -> Tokenizer:
    """Returns the toy tokenizer without its phrases, in the numbering of fairseq."""
    model = json.loads(TOY_FILE.read_text(encoding="utf-8"))["model"]
    order = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return fairseq_dictionary.renumber(model["merges"], order, str(TOY_FILE))


def split_synonyms(classes: Sequence[str]) -> tuple[list[str], list[int]]:
    """Returns the names of all classes in order, and the class of each: "giraffe|camelopard" has two. Raises UserError for an
    empty name, and for one that is there twice: it would be twice as probable, or two classes could not be told apart."""
    names, owners = [], []
    known: set[str] = set()
    for k, entry in enumerate(classes):
        for name in entry.split(SYNONYM):
            if not name.strip():
                raise UserError(
                    f"the class {escaped_value(entry)} has an empty name; give each class a name, synonyms as 'a|b'"
                )
            words = " ".join(name.split())
            if words in known:
                raise UserError(f"the class name {escaped_value(words)} is there twice, also counting synonyms; give it once")
            known.add(words)
            names.append(name)
            owners.append(k)
    return names, owners


def text_ids(tokenizer: Tokenizer, names: Sequence[str]) -> list[int]:
    """Returns the token ids of the text that lists the names, with start and end token."""
    words = [token for name in names for token in tokenizer.encode(name)]
    return [START, *tokenizer.encode(PROMPT), *words, *tokenizer.encode(UNKNOWN), END]


def pad_ids(rows: Sequence[Sequence[int]], count: int, length: int) -> Int32[np.ndarray, "{count} {length}"]:
    """Stacks token ids, filled with padding."""
    ids = np.full((count, length), PADDING, np.int32)
    for k, row in enumerate(rows):
        ids[k, : len(row)] = row
    return ids
