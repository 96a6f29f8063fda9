"""GPT-2's tokens in the numbering of fairseq, as OFA has them.

fairseq gives the first ids to SPECIAL, and the next ones to the lines of a dict.txt, "TOKEN COUNT" each, whose tokens are ids
of GPT-2 as text, the most frequent first. A text is split at white space, and each word is encoded with one leading space.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from hyperseg_jax.text.tokenizer import LARGEST, Tokenizer
from hyperseg_jax.untrusted import strict_json, tokenizers
from hyperseg_jax.untrusted.bad_file import BadFile, naming_path
from hyperseg_jax.untrusted.paths import model_file_path
from hyperseg_jax.untrusted.printing import escaped, one_line

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
"""Start, padding, end and unknown token: ids 0 to 3."""
END = SPECIAL[2]
DICTIONARY = "dict.txt"
VOCABULARIES, MERGES = ("encoder.json", "vocab.json"), ("vocab.bpe", "merges.txt")
"""Names of GPT-2's files, in fairseq and in transformers."""
FILLER = "madeupword"
"""Start of the tokens that only fill the dictionary."""
ENGLISH = "give the folder utils/BPE of the English OFA (dict.txt, encoder.json, vocab.bpe)"


def is_in(folder: pathlib.Path) -> bool:
    """Whether a folder has a dictionary of fairseq."""
    return (folder / DICTIONARY).is_file()


def load(folder: pathlib.Path, extra: Sequence[str] = ()) -> Tokenizer:
    """Loads GPT-2's files and the dict.txt of a folder. extra: tokens that get the ids after those of the dictionary.

    Raises UserError if a file is missing or damaged, or if the dictionary is not one of GPT-2's tokens, such as that of the
    Chinese OFA.
    """
    vocabulary = _find(folder, VOCABULARIES)
    with naming_path(vocabulary):
        content = strict_json.parse(strict_json.read_bytes(vocabulary, LARGEST), "its content")
        table = tokenizers.check_dense_ids(tokenizers.validate_vocabulary(content, "its content"))
    merges = _find(folder, MERGES)
    with naming_path(merges):
        lines = strict_json.read_bytes(merges, LARGEST).replace(b"\r\n", b"\n")
        pairs = tokenizers.parse_merges(lines.decode(errors="replace"))
        tokenizers.check_merges(pairs, table)
    dictionary = _find(folder, (DICTIONARY,))
    with naming_path(dictionary):
        order = parse_dictionary(strict_json.read_bytes(dictionary, LARGEST), table)
    with naming_path(folder):
        return renumber(pairs, [*order, *extra], one_line(folder))


def _find(folder: pathlib.Path, names: Sequence[str]) -> pathlib.Path:
    """Returns the path of the first file that exists, or else of the first name."""
    name = next((name for name in names if (folder / name).is_file()), names[0])
    with naming_path(folder):
        return model_file_path(folder, name)


def parse_dictionary(data: bytes, table: Mapping[str, int]) -> list[str]:
    """Returns the tokens of a dict.txt in the order of its lines. table: {token: id of GPT-2}. Raises BadFile unless it names
    each id once, besides tokens that only fill it."""
    tokens = {str(number): token for token, number in table.items()}
    lines = data.decode("utf-8", errors="replace").removesuffix("\n").split("\n")
    if len(lines) > tokenizers.TOKENS:
        raise BadFile(f"has {len(lines)} lines, more than {tokenizers.TOKENS}", ENGLISH)
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, _, count = line.rstrip("\r").rpartition(" ")
        if not (name and count.isascii() and count.isdecimal()):
            raise BadFile(f"line {number} is {escaped(line[:40])}, not a token and its count", ENGLISH)
        if name not in tokens and not (name.startswith(FILLER) and name not in table):
            raise BadFile(f"line {number} has {escaped(name[:40])}, which is no token id of GPT-2: another vocabulary", ENGLISH)
        if name in found:
            raise BadFile(f"line {number} has the token {escaped(name)} of an earlier line", ENGLISH)
        found[name] = tokens.get(name, name)
    if missing := [name for name in tokens if name not in found]:
        raise BadFile(f"has {len(lines)} lines and lacks {len(missing)} tokens of GPT-2, first {missing[0]}", ENGLISH)
    return [*found.values()]


def renumber(merges: Sequence[Any], order: Sequence[str], where: str) -> Tokenizer:
    """Returns the tokenizer of GPT-2's merges in which SPECIAL and then the tokens `order` have the ids from 0. where: its
    origin, for messages. Raises BadFile if a token is there twice."""
    names = [*SPECIAL, *order]
    vocab = {token: number for number, token in enumerate(names)}
    if len(vocab) < len(names):
        twice = next(token for number, token in enumerate(names) if vocab[token] != number)
        raise BadFile(f"has the token {escaped(twice)} twice", ENGLISH)
    words = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    content = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, words]},
        "decoder": words,
        "model": {"type": "BPE", "vocab": vocab, "merges": list(merges)},
    }
    return Tokenizer.from_content(content, where, eos=END)
