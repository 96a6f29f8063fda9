"""Converts text to token ids with the `tokenizers` library. Hugging Face tokenizer folders are loaded by transformers."""

from __future__ import annotations

import functools
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as _Backend

from hyperseg_jax.atomic import scratch_folder
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import limits, paths, strict_json, tokenizers
from hyperseg_jax.untrusted.bad_file import BadFile, converting_exceptions, naming_path
from hyperseg_jax.untrusted.printing import escaped, one_line

EOS = "<|endoftext|>"  # end-of-sequence token of GPT-2 and similar tokenizers
TOY_FILE = paths.ASSETS / "toy_tokenizer.json"
JSON_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json")
CACHE_SIZE = 2048  # texts whose ids are cached: class names, and prompts that are repeated for each frame
CLIP_WORD_END = "</w>"  # ends the tokens of CLIP that end a word; CLIP's files have the names of GPT-2's
LARGEST = 2**26  # maximum bytes of a tokenizer file; those of known models have at most 20 million
# Fields of tokenizer_config.json and special_tokens_map.json passed to transformers; others may name paths, classes or code.
CONFIG_FIELDS = {"added_tokens_decoder", "add_prefix_space", "bos_token", "eos_token", "unk_token", "pad_token"}


class Tokenizer:
    """A tokenizer. eos, with id eos_id, ends generated text and is used as padding. All ids are below vocab_size. Picklable."""

    def __init__(self, backend: _Backend, where: str = "tokenizer", *, eos: str = EOS, added: Sequence[str] = ()):
        """eos: the end-of-sequence token. added: special tokens, which are added with the next ids if they are missing."""
        backend.add_special_tokens([AddedToken(token, normalized=False) for token in added])
        backend.encode_special_tokens = True  # the library's name for: their letters in a text are plain text
        self._backend, self._where, self.eos = backend, where, eos
        self._ids = functools.lru_cache(maxsize=CACHE_SIZE)(self._encode)
        self.eos_id = self.id_of(eos)
        self._special_ids = self._find_special_ids()

    def id_of(self, token: str) -> int:
        """Returns the id of a special token. Raises UserError if there is none."""
        token_id = self._backend.token_to_id(token)
        if token_id is None:
            raise UserError(f"{self._where}: has no token {token!r}; use the tokenizer of the model")
        return token_id

    @property
    def vocab_size(self) -> int:
        """The largest id plus one."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    def _find_special_ids(self) -> frozenset[int]:
        """Returns the ids of all special tokens, except of the one for unknown text, which stands for no text of its own."""
        known = self._backend.get_added_tokens_decoder().items()
        unknown = getattr(self._backend.model, "unk_token", None)
        special = {number for number, token in known if token.special and token.content != unknown}
        return frozenset(special | {self.eos_id})

    def check_fits(self, rows: int, field: str) -> None:
        """Raises UserError if some id is beyond an embedding table of `rows` rows; JAX would silently use the last row.
        field: the config field with the number of rows."""
        if self.vocab_size > rows:
            raise UserError(
                f"{self._where}: has ids up to {self.vocab_size - 1}, but the model has embeddings of {rows} tokens "
                f"({field}); give the tokenizer that the model was trained with"
            )

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text, without special tokens before or after it.

        A text is never searched for special tokens: "[SEG]" or "<|endoftext|>" in it are plain letters, and the ids of special
        tokens come from `id_of` only. Raises UserError if the text is longer than the limit `letters`, or cannot be tokenized.
        """
        if len(text) > limits.current().letters:  # checked here first, since class lists have hundreds of texts
            limits.check_limit("letters", len(text), escaped(text[:40]), "letters")
        return list(self._ids(text))

    def _encode(self, text: str) -> tuple[int, ...]:
        try:
            with converting_exceptions("cannot be tokenized"):
                ids = tuple(self._backend.encode(text, add_special_tokens=False).ids)
                if not self._special_ids.isdisjoint(ids):  # the vocabulary of its model has the letters of the token as a word
                    raise BadFile("it has the letters of a special token, which this tokenizer cannot tell from it")
                return ids
        except BadFile as error:
            why = f"the tokenizer {self._where}: the text {escaped(text[:40])}: {error.why}"
            raise UserError(f"{why}; change the text, or use another tokenizer") from error

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids, without special tokens."""
        try:
            with converting_exceptions("its decoder fails"):
                return self._backend.decode([int(k) for k in ids], skip_special_tokens=True)
        except BadFile as error:
            raise UserError(f"the tokenizer: {error.why}; use another one") from error

    def save(self, folder: str | os.PathLike) -> None:
        """Writes tokenizer.json (the Hugging Face format) into a folder, which is created if necessary."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self.to_json(), encoding="utf-8")

    def to_json(self) -> str:
        """Returns the content of tokenizer.json (the Hugging Face format)."""
        return self._backend.to_str(pretty=True) + "\n"

    @classmethod
    def load(cls, path: str | os.PathLike, *, eos: str = EOS, added: Sequence[str] = ()) -> Tokenizer:
        """Loads a tokenizer.json, or a Hugging Face folder with tokenizer.json or the older files of GPT-2 and CLIP
        (vocab.json, merges.txt) and optionally tokenizer_config.json and added_tokens.json.

        No code in the folder is executed. Raises UserError if there is no tokenizer, or if it is invalid.
        """
        path = pathlib.Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file() and not cls.is_in(path):
            raise UserError(f"{file}: no such file; give a tokenizer.json or a folder that contains one")
        with naming_path(path):
            for name in (*JSON_FILES, "merges.txt") if path.is_dir() else ():
                paths.model_file_path(path, name)
        # A tokenizer.json without tokenizer_config.json is complete; transformers takes seconds to import.
        is_complete = file.is_file() and not (file.parent / "tokenizer_config.json").is_file()
        if is_complete or not path.is_dir():
            return cls(_load_file(file), one_line(file), eos=eos, added=added)
        return cls(_load_folder(path), one_line(path), eos=eos, added=added)

    @classmethod
    def from_content(cls, content: Mapping[str, Any], where: str, *, eos: str = EOS) -> Tokenizer:
        """Loads the content of a tokenizer.json. where: its origin, for messages. Raises BadFile if it is invalid."""
        return cls(_load_content(content), where, eos=eos)

    @staticmethod
    def is_in(folder: pathlib.Path) -> bool:
        """Whether a folder contains tokenizer files that load() can read."""
        has_files = lambda *names: all((folder / name).is_file() for name in names)
        return has_files("tokenizer.json") or has_files("vocab.json", "merges.txt")

    @classmethod
    def toy(cls) -> Tokenizer:
        """Loads the tokenizer that ships with the package, trained on the words of the toy data and the prompt templates."""
        return cls.load(TOY_FILE)

    @classmethod
    def train(cls, words: Iterable[str], phrases: Iterable[str], vocab_size: int, *, added: Sequence[str] = ()) -> Tokenizer:
        """Trains a byte-level BPE tokenizer.

        words: training words; duplicates are removed, so that rare words are merged as well.
        phrases: each becomes a single token wherever it occurs in a text (longest match).
        vocab_size: size of the BPE vocabulary, without phrases.
        """
        backend = _Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=1,
            special_tokens=[EOS, *added],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(sorted(set(words)), trainer)
        backend.add_tokens([AddedToken(phrase, normalized=False) for phrase in sorted(set(phrases))])
        return cls(backend)

    def __reduce__(self) -> tuple[Callable[[str, str, str], Tokenizer], tuple[str, str, str]]:
        return _load_text, (self._backend.to_str(), self._where, self.eos)


def _load_text(text: str, where: str, eos: str) -> Tokenizer:
    """Loads a tokenizer from the content of a tokenizer.json. Unpickles a Tokenizer, see __reduce__."""
    return Tokenizer(_Backend.from_str(text), where, eos=eos)


def _load_file(file: pathlib.Path) -> _Backend:
    """Loads a tokenizer.json."""
    with naming_path(file):
        return _load_content(strict_json.parse(strict_json.read_bytes(file, LARGEST), "its content"))


def _load_content(content: Mapping[str, Any]) -> _Backend:
    """Loads the content of a tokenizer.json. Raises BadFile if it is invalid."""
    content = tokenizers.validate_tokenizer(content)
    with converting_exceptions("is not a tokenizer"):
        backend = _Backend.from_str(json.dumps(content, ensure_ascii=False))
    _check_ids(backend, tokenizers.collect_token_ids(content))
    _check_added_tokens(backend)
    return backend


def _check_ids(backend: _Backend, table: Mapping[str, int]) -> None:
    """Raises BadFile if the library assigns other ids to tokens than the file."""
    vocab = backend.get_vocab(with_added_tokens=True)
    if vocab != table:
        token = next(token for token in sorted(vocab.keys() | table.keys()) if vocab.get(token) != table.get(token))
        raise BadFile(f"the token {escaped(token)} does not get its id {table.get(token)} when loaded", tokenizers.PUBLISHED)


def _check_added_tokens(backend: _Backend) -> None:
    """Raises BadFile if the normalizer removes all letters of an added token: the library then fails at every text."""
    for token in backend.get_added_tokens_decoder().values():
        if token.normalized and backend.normalizer is not None and not backend.normalizer.normalize_str(token.content):
            raise BadFile(f"its normalizer removes the added token {escaped(token.content)}", tokenizers.PUBLISHED)


def _load_folder(folder: pathlib.Path) -> _Backend:
    """Loads the tokenizer of a Hugging Face folder with transformers.

    transformers gets a copy of the known files, so that nothing else in the folder is opened, and only the fields of
    tokenizer_config.json that are known to be data.
    """
    from transformers import AutoTokenizer

    parsed = {name: _parse_json(folder / name) for name in JSON_FILES if (folder / name).exists()}
    tokenizer_config = parsed.get("tokenizer_config.json", {})
    if "auto_map" in tokenizer_config:
        raise UserError(
            f"{folder / 'tokenizer_config.json'}: auto_map names code, which is never executed; remove it, or give a "
            "tokenizer.json"
        )
    is_fast = "tokenizer.json" in parsed
    config, specials = (
        {name: value for name, value in fields.items() if name in CONFIG_FIELDS}
        for fields in (tokenizer_config, parsed.get("special_tokens_map.json", {}))
    )
    # PreTrainedTokenizerFast loads tokenizer.json unchanged; other classes would rebuild the tokenizer from its vocabulary.
    is_clip = not is_fast and any(token.endswith(CLIP_WORD_END) for token in parsed["vocab.json"])
    kind, name = ("clip", "CLIPTokenizer") if is_clip else ("gpt2", "GPT2Tokenizer")
    parsed["tokenizer_config.json"] = config | {"tokenizer_class": "PreTrainedTokenizerFast" if is_fast else name}
    parsed["special_tokens_map.json"] = specials
    with naming_path(folder), scratch_folder() as copy:
        with converting_exceptions("is not a tokenizer"):
            for name, content in parsed.items():
                (copy / name).write_text(json.dumps(content), encoding="utf-8")
            if not is_fast:
                with naming_path(folder / "merges.txt"):
                    merges = strict_json.read_bytes(folder / "merges.txt", LARGEST)
                    tokenizers.check_merges(tokenizers.parse_merges(merges.decode(errors="replace")), parsed["vocab.json"])
                    (copy / "merges.txt").write_bytes(merges)
            options = {"local_files_only": True, "trust_remote_code": False}
            tokenizer = AutoTokenizer.from_pretrained(copy, tokenizer_type=None if is_fast else kind, **options)
            backend: _Backend = tokenizer.backend_tokenizer
            backend.no_padding()
            backend.no_truncation()
        added = config.get("added_tokens_decoder", {})
        table = parsed.get("added_tokens.json", {}) | {token["content"]: int(number) for number, token in added.items()}
        for token, number in table.items():
            if backend.token_to_id(token) != number:
                raise BadFile(f"gives {escaped(token)} the id {number}, which is not the next free id", tokenizers.PUBLISHED)
        tokenizers.check_dense_ids(backend.get_vocab(with_added_tokens=True))
        _check_added_tokens(backend)
    return backend


def _parse_json(file: pathlib.Path) -> dict[str, Any]:
    """Reads and validates a JSON file of a tokenizer."""
    with naming_path(file):
        content = strict_json.parse(strict_json.read_bytes(file, LARGEST), "its content")
        match file.name:
            case "tokenizer.json":
                return tokenizers.validate_tokenizer(content)
            case "vocab.json" | "added_tokens.json":
                return dict(tokenizers.validate_vocabulary(content, "its content"))
        tokenizers.check_tokenizer_config({name: value for name, value in content.items() if name in CONFIG_FIELDS})
        return content
