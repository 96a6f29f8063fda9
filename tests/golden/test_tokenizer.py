"""The tokenizer gives the recorded ids of GPT-2 for all recorded strings."""

import os
import pathlib

import pytest
from real_vocabulary import SPACE_RUNS, TAB_RUNS, write_gpt2, write_phi2

from hyperseg_jax.text.tokenizer import Tokenizer

SEPARATOR = "\n__ggml_vocab_test__\n"
FOLDERS = [pathlib.Path(__file__).parent, *map(pathlib.Path, filter(None, os.environ.get("HYPERSEG_GOLDEN", "").split(":")))]
FILES = sorted(path for folder in FOLDERS for path in (folder / "tokenizer").glob("gpt2*.inp"))


def read_case(path):
    """Returns [(text, ids)] of a recorded file. The last text is followed by a separator."""
    texts = path.read_bytes().decode().split(SEPARATOR)
    ids = [[int(number) for number in line.split()] for line in path.with_suffix(".out").read_text().splitlines()]
    return list(zip(texts, ids, strict=False))


@pytest.fixture(scope="module")
def folders(shared):
    return shared("gpt2", write_gpt2), shared("phi-2", write_phi2)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parts[-3] + "-" + path.stem)
def test_recorded_strings(folders, path):
    gpt2, phi2 = map(Tokenizer.load, folders)
    cases = read_case(path)
    assert len(cases) > 40
    for text, ids in cases:
        assert gpt2.encode(text) == ids, ascii(text)
        if "  " not in text and "\t\t" not in text:  # Phi-2 has tokens of its own for runs of spaces and tabs
            assert phi2.encode(text) == ids, ascii(text)


def test_runs_of_spaces_and_tabs_are_tokens_of_phi2(folders):
    phi2 = Tokenizer.load(folders[1])
    assert phi2.vocab_size == 50295
    assert [phi2.encode(" " * n) for n in SPACE_RUNS] == [[50257 + k] for k in range(30)]
    assert [phi2.encode("\t" * n) for n in TAB_RUNS] == [[50287 + k] for k in range(8)]
