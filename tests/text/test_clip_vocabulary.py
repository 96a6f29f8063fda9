"""CLIP's tokenizer of published size, against the code in the package openai-clip."""

import importlib.util
import json
import sys

import pytest
import real_vocabulary
from real_vocabulary import CLIP_END, CLIP_START

from hyperseg_jax.systems.seem.texts import text_ids
from hyperseg_jax.text.tokenizer import Tokenizer

TEXTS = (
    "a photo of a cat",
    "the man in the RED shirt, on the left!",
    "it's  the dog's 2nd toy;\tisn't it?",
    "caf\u00e9 na\u00efve \u4e2d\u6587 \U0001f600",
    "",
    "dining table-merged",
    "word " * 100,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.load(real_vocabulary.write_clip(tmp_path_factory.mktemp("clip") / "clip"), eos=real_vocabulary.CLIP_END)


@pytest.fixture(scope="module")
def published():
    spec = importlib.util.spec_from_file_location("simple_tokenizer", real_vocabulary.clip_package() / "simple_tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()


def test_size(tokenizer):
    assert tokenizer.vocab_size == real_vocabulary.CLIP_SIZE
    assert tokenizer.eos_id == 49407


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_the_published_ones(tokenizer, published, text):
    assert tokenizer.encode(text) == published.encode(text)


def test_long_texts_keep_start_and_end(tokenizer):
    ids = text_ids(tokenizer, "word " * 100, 77)
    assert len(ids) == 77
    assert (ids[0], ids[-1]) == (49406, 49407)


def test_older_files_have_the_same_ids(tokenizer, tmp_path):
    """vocab.json and merges.txt, which have the names of GPT-2's files."""
    model = json.loads(tokenizer.to_json())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, model["merges"])))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": CLIP_START, "eos_token": CLIP_END}))
    older = Tokenizer.load(tmp_path, eos=CLIP_END, added=(CLIP_START,))
    assert [older.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
    assert older.vocab_size == tokenizer.vocab_size and older.eos_id == tokenizer.eos_id
