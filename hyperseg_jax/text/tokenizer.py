"""Text <-> token ids, over the `tokenizers` library. Folders of the Hugging Face format are read by transformers."""

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
from hyperseg_jax.untrusted.bad_file import BadFile, naming, without_panics
from hyperseg_jax.untrusted.printing import one_line, shown

EOS = "<|endoftext|>"  # of GPT-2's tokenizer and those that follow it
TOY_FILE = paths.ASSETS / "toy_tokenizer.json"
JSON_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json")
REMEMBERED = 2048  # texts whose ids are kept: class names, and prompts that are asked about frame by frame
LARGEST = 2**26  # bytes of one tokenizer file; those of known models have at most 20 million
# What transformers is given of tokenizer_config.json and special_tokens_map.json. Other fields may name paths, classes or code.
CONFIG_FIELDS = {"added_tokens_decoder", "add_prefix_space", "bos_token", "eos_token", "unk_token", "pad_token"}


class Tokenizer:
    """eos, with the id eos_id, ends an answer and pads; ids are below vocab_size. Picklable."""

    def __init__(self, backend: _Backend, where: str = "tokenizer", *, eos: str = EOS, added: Sequence[str] = ()):
        """eos: the token that ends a text. added: special tokens that get the next ids where they are missing."""
        backend.add_special_tokens([AddedToken(token, normalized=False) for token in added])
        self._backend, self._where, self.eos = backend, where, eos
        self._ids = functools.lru_cache(maxsize=REMEMBERED)(self._encode)
        self.eos_id = self.id_of(eos)

    def id_of(self, token: str) -> int:
        """The id of a special token. UserError where there is none."""
        found = self._backend.token_to_id(token)
        if found is None:
            raise UserError(f"{self._where}: has no token {token!r}; use the tokenizer of the model")
        return found

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    def check_fits(self, rows: int, field: str) -> None:
        """UserError where a model with a token table of so many rows has none for some id; JAX would take the last one.
        field: of the config, which says how many there are."""
        if self.vocab_size > rows:
            raise UserError(
                f"{self._where}: has ids up to {self.vocab_size - 1}, and the model has embeddings of {rows} tokens "
                f"({field}); give the tokenizer that the model was trained with"
            )

    def encode(self, text: str) -> list[int]:
        """The ids of a text; nothing is put before or after it. UserError where it is longer than the limit `letters`, or no
        text that the tokenizer takes."""
        if len(text) > limits.in_force().letters:  # class lists have hundreds of texts
            limits.check("letters", len(text), shown(text[:40]), "letters")
        return list(self._ids(text))

    def _encode(self, text: str) -> tuple[int, ...]:
        try:
            with without_panics("its tokenizer cannot read it"):
                return tuple(self._backend.encode(text, add_special_tokens=False).ids)
        except BadFile as error:
            raise UserError(f"the text {shown(text[:40])}: {error.why}; change the text, or take another tokenizer") from error

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        try:
            with without_panics("its decoder fails"):
                return self._backend.decode([int(k) for k in ids], skip_special_tokens=True)
        except BadFile as error:
            raise UserError(f"the tokenizer: {error.why}; take another one") from error

    def save(self, folder: str | os.PathLike) -> None:
        """Writes tokenizer.json (the Hugging Face format) into a folder, making it."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self._backend.to_str(pretty=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike, *, eos: str = EOS, added: Sequence[str] = ()) -> Tokenizer:
        """From a tokenizer.json, or from a folder of the Hugging Face format: one that holds tokenizer.json, or GPT-2's older
        files (vocab.json, merges.txt). tokenizer_config.json and added_tokens.json are read where they are there.

        Nothing in the folder is executed. UserError where there is no tokenizer, or where it cannot be read.
        """
        path = pathlib.Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file() and not cls.is_in(path):
            raise UserError(f"{file}: no such file; give a tokenizer.json or a folder that holds one")
        with naming(path):
            for name in (*JSON_FILES, "merges.txt") if path.is_dir() else ():
                paths.of_model(path, name)
        # A tokenizer.json alone says everything, and transformers takes seconds to import.
        alone = file.is_file() and not (file.parent / "tokenizer_config.json").is_file()
        if alone or not path.is_dir():
            return cls(_from_file(file), one_line(file), eos=eos, added=added)
        return cls(_from_folder(path), one_line(path), eos=eos, added=added)

    @staticmethod
    def is_in(folder: pathlib.Path) -> bool:
        """Whether load() finds files of a tokenizer here."""
        held = lambda *names: all((folder / name).is_file() for name in names)
        return held("tokenizer.json") or held("vocab.json", "merges.txt")

    @classmethod
    def toy(cls) -> Tokenizer:
        """The one that ships in the package, trained on the toy world's words and the prompt templates."""
        return cls.load(TOY_FILE)

    @classmethod
    def train(cls, words: Iterable[str], phrases: Iterable[str], vocab_size: int, *, added: Sequence[str] = ()) -> Tokenizer:
        """A byte-level byte-pair tokenizer.

        words: what to merge; each counts once, however often it comes, so that rare words are whole as well.
        phrases: become one token each, wherever they stand in a text (the longest that fits).
        vocab_size: of the merged vocabulary, without phrases.
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
        return _from_text, (self._backend.to_str(), self._where, self.eos)


def _from_text(text: str, where: str, eos: str) -> Tokenizer:
    return Tokenizer(_Backend.from_str(text), where, eos=eos)


def _from_file(file: pathlib.Path) -> _Backend:
    """The tokenizer that a tokenizer.json describes."""
    with naming(file):
        content = tokenizers.checked(strict_json.parse(strict_json.contents(file, LARGEST), "its content"))
        with without_panics("is no tokenizer"):
            backend = _Backend.from_str(json.dumps(content, ensure_ascii=False))
        _check_ids(backend, tokenizers.ids(content))
    return backend


def _check_ids(backend: _Backend, table: Mapping[str, int]) -> None:
    """Raises BadFile where the library gives tokens other ids than the file says."""
    made = backend.get_vocab(with_added_tokens=True)
    if made != table:
        token = next(token for token in sorted(made.keys() | table.keys()) if made.get(token) != table.get(token))
        raise BadFile(f"the token {shown(token)} does not get the id {table.get(token)} that it is given", tokenizers.PUBLISHED)


def _from_folder(folder: pathlib.Path) -> _Backend:
    """The tokenizer of a folder in the Hugging Face format, read by transformers.

    transformers sees a copy of the plain files that are known here, so that nothing else in the folder is opened, and of
    tokenizer_config.json only the fields that are known to be data.
    """
    from transformers import AutoTokenizer

    parsed = {name: _parsed(folder / name) for name in JSON_FILES if (folder / name).exists()}
    given = parsed.get("tokenizer_config.json", {})
    if "auto_map" in given:
        raise UserError(
            f"{folder / 'tokenizer_config.json'}: auto_map names code, which is never run; remove it, or give a tokenizer.json"
        )
    whole = "tokenizer.json" in parsed
    config, specials = (
        {name: value for name, value in fields.items() if name in CONFIG_FIELDS}
        for fields in (given, parsed.get("special_tokens_map.json", {}))
    )
    # The class of a whole file only reads it; other classes build a tokenizer of their own from its vocabulary.
    parsed["tokenizer_config.json"] = config | {"tokenizer_class": "PreTrainedTokenizerFast" if whole else "GPT2Tokenizer"}
    parsed["special_tokens_map.json"] = specials
    with naming(folder), scratch_folder() as copy:
        with without_panics("not a tokenizer"):
            for name, content in parsed.items():
                (copy / name).write_text(json.dumps(content), encoding="utf-8")
            if not whole:
                with naming(folder / "merges.txt"):
                    merges = strict_json.contents(folder / "merges.txt", LARGEST)
                    tokenizers.check_merges(tokenizers.merges_of(merges.decode(errors="replace")), parsed["vocab.json"])
                    (copy / "merges.txt").write_bytes(merges)
            options = {"local_files_only": True, "trust_remote_code": False}
            made = AutoTokenizer.from_pretrained(copy, tokenizer_type=None if whole else "gpt2", **options)
            backend: _Backend = made.backend_tokenizer
            backend.no_padding()
            backend.no_truncation()
        added = config.get("added_tokens_decoder", {})
        table = parsed.get("added_tokens.json", {}) | {token["content"]: int(number) for number, token in added.items()}
        for token, number in table.items():
            if backend.token_to_id(token) != number:
                raise BadFile(f"gives {shown(token)} the id {number}, which is not the next one", tokenizers.PUBLISHED)
        tokenizers.dense(backend.get_vocab(with_added_tokens=True))
    return backend


def _parsed(file: pathlib.Path) -> dict[str, Any]:
    """The JSON object in a tokenizer's file, whose known fields are of their kinds."""
    with naming(file):
        content = strict_json.parse(strict_json.contents(file, LARGEST), "its content")
        match file.name:
            case "tokenizer.json":
                return tokenizers.checked(content)
            case "vocab.json" | "added_tokens.json":
                return dict(tokenizers.vocabulary(content, "its content"))
        tokenizers.check_settings({name: value for name, value in content.items() if name in CONFIG_FIELDS})
        return content
