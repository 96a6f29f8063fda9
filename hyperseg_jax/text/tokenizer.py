"""Text <-> token ids. A thin face over the `tokenizers` library, so that nothing here needs transformers."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence

from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as _Backend

from hyperseg_jax.errors import UserError

EOS = "<|endoftext|>"
SEG = "[SEG]"
TOY_FILE = pathlib.Path(__file__).parent.parent / "assets" / "toy_tokenizer.json"


class Tokenizer:
    """eos_id ends an answer and pads; seg_id stands for a mask; ids are below vocab_size. Picklable."""

    def __init__(self, backend: _Backend, where: str = "tokenizer"):
        """backend: holds "<|endoftext|>"; "[SEG]" is added where it is missing, as the published system does."""
        backend.add_special_tokens([AddedToken(SEG, normalized=False)])
        eos_id, seg_id = backend.token_to_id(EOS), backend.token_to_id(SEG)
        if eos_id is None or seg_id is None:
            raise UserError(f"{where}: has no token {EOS!r}, which ends every answer; use the tokenizer of the model")
        self._backend = backend
        self.eos_id: int = eos_id
        self.seg_id: int = seg_id

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> list[int]:
        """The ids of a text; nothing is put before or after it."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without "<|endoftext|>" and "[SEG]"."""
        return self._backend.decode([int(k) for k in ids], skip_special_tokens=True)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes tokenizer.json (the Hugging Face format) into a folder, making it."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self._backend.to_str(pretty=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike) -> Tokenizer:
        """From a tokenizer.json, or a folder that holds one or GPT-2's files (vocab.json, merges.txt, added_tokens.json).

        UserError where there is none or it cannot be read.
        """
        path = pathlib.Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        pair = path / "vocab.json", path / "merges.txt"
        parted = not file.is_file() and all(part.is_file() for part in pair)
        if not parted and not file.is_file():
            raise UserError(f"{file}: no such file; give a tokenizer.json or a folder that holds one")
        try:
            backend = _from_parts(*pair, path / "added_tokens.json") if parted else _Backend.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{path if parted else file}: not a tokenizer ({error}); write or download it again") from error
        return cls(backend, str(path if parted else file))

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
    def train(cls, words: Iterable[str], phrases: Iterable[str], vocab_size: int) -> Tokenizer:
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
            special_tokens=[EOS, SEG],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(sorted(set(words)), trainer)
        backend.add_tokens([AddedToken(phrase, normalized=False) for phrase in sorted(set(phrases))])
        return cls(backend)

    def __reduce__(self) -> tuple[Callable[[str], Tokenizer], tuple[str]]:
        return _from_text, (self._backend.to_str(),)


def _from_text(text: str) -> Tokenizer:
    return Tokenizer(_Backend.from_str(text))


def _from_parts(vocab: pathlib.Path, merges: pathlib.Path, added: pathlib.Path) -> _Backend:
    """GPT-2's byte-level tokenizer as its older files describe it."""
    backend = _Backend(models.BPE.from_file(str(vocab), str(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(EOS, normalized=False)])
    tokens = json.loads(added.read_text(encoding="utf-8")) if added.is_file() else {}
    for token, number in sorted(tokens.items(), key=lambda item: item[1]):
        backend.add_tokens([AddedToken(token, normalized=False)])
        if backend.token_to_id(token) != number:
            raise ValueError(f"{added.name} gives {token!r} the id {number}, which is not the next one")
    return backend
