"""OFA's vocabulary: GPT-2's tokens in the order of a dictionary. Damaged and foreign dictionaries are refused in one line."""

import pickle

import ml_collections
import numpy as np
import ofa_dictionary
import pytest

from hyperseg_jax.errors import UserError
from hyperseg_jax.systems.ifseg import texts
from hyperseg_jax.text import fairseq_dictionary
from hyperseg_jax.text.tokenizer import TOY_FILE, Tokenizer


@pytest.fixture
def folder(tmp_path):
    return ofa_dictionary.write_small(tmp_path / "ofa")


def test_tokens_have_the_order_of_the_dictionary(folder):
    tokenizer = fairseq_dictionary.load(folder, ("<mask>", "<code_0>"))
    # the words " the", " t", " Th e": lines 0 to 9 are the tokens 8 to 0 and a filler
    assert tokenizer.encode("the") == [4 + 8 - 7]
    assert tokenizer.encode("  the\n\tt ") == [5, 4], "each word has one leading space"
    assert tokenizer.encode("the the") == tokenizer.encode("the") * 2
    assert tokenizer.encode("The") == [12, 8, 10, 9], "case is kept"
    assert (tokenizer.id_of("<s>"), tokenizer.id_of("<pad>"), tokenizer.eos_id, tokenizer.id_of("<unk>")) == (0, 1, 2, 3)
    assert (tokenizer.id_of("madeupword0000"), tokenizer.id_of("<mask>"), tokenizer.id_of("<code_0>")) == (13, 14, 15)
    assert tokenizer.vocab_size == 16


def test_lines_may_end_as_on_windows(folder):
    for name in ("dict.txt", "vocab.bpe"):
        (folder / name).write_bytes((folder / name).read_bytes().replace(b"\n", b"\r\n"))
    assert fairseq_dictionary.load(folder).encode("the The") == [5, 12, 8, 10, 9]


def test_special_tokens_are_no_part_of_texts(folder):
    assert 0 not in fairseq_dictionary.load(folder).encode("the <s> the")


def test_it_is_saved_and_sent_to_workers_unchanged(folder, tmp_path):
    tokenizer = fairseq_dictionary.load(folder, ("<mask>",))
    tokenizer.save(tmp_path / "model")
    for again in (Tokenizer.load(tmp_path / "model", eos="</s>"), pickle.loads(pickle.dumps(tokenizer))):
        assert again.encode("the The") == tokenizer.encode("the The")
        assert (again.eos_id, again.id_of("<mask>"), again.vocab_size) == (2, 14, 15)


@pytest.mark.parametrize(
    "content, message",
    [
        (lambda text: text.replace("3 ", "[PAD] "), "line 6 has [PAD], which is no token id of GPT-2: another vocabulary"),
        (lambda text: text.replace("3 ", "4 "), "line 6 has the token 4 of an earlier line"),
        (lambda text: "".join(text.splitlines(True)[:-3]), "lacks 2 tokens of GPT-2, first 0"),
        (lambda text: text.replace("4 996", "4"), "line 5 is 4, not a token and its count"),
        (lambda text: "", "not a token and its count"),
        (lambda text: "\x00\xff", "not a token and its count"),
        (lambda text: text + "madeup 0\n", "no token id of GPT-2"),
    ],
)
def test_a_foreign_dictionary_is_refused(folder, content, message):
    (folder / "dict.txt").write_text(content((folder / "dict.txt").read_text()))
    with pytest.raises(UserError) as caught:
        fairseq_dictionary.load(folder)
    assert message in str(caught.value) and "dict.txt: " in str(caught.value) and "utils/BPE" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_files_are_refused(folder):
    (folder / "vocab.bpe").write_text("t x\n")
    with pytest.raises(UserError, match=r"vocab.bpe: .*merge"):
        fairseq_dictionary.load(folder)
    (folder / "vocab.bpe").unlink()
    with pytest.raises(UserError, match=r"vocab.bpe: .*no such file"):
        fairseq_dictionary.load(folder)
    (folder / "encoder.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match=r"encoder.json: "):
        fairseq_dictionary.load(folder)


def test_the_system_refuses_other_numberings(folder):
    config = ml_collections.ConfigDict({"model": {"vocab_size": 9000 + 300}, "data": {"tokenizer": "toy", "root": ""}})
    toy = texts.load_tokenizer(config)
    assert toy.encode("red") == [k + 4 for k in Tokenizer.toy().encode(" red")]
    with pytest.raises(UserError, match="has no token '</s>'"):
        texts.load_tokenizer(config, TOY_FILE.parent / "tiny" / "tokenizer.json")
    assert texts.load_tokenizer(config, folder).vocab_size == 4 + 10 + 1 + 8192 + 1000
    config.model.vocab_size = 9000
    with pytest.raises(UserError, match=r"model.vocab_size"):
        texts.load_tokenizer(config, folder)


def test_a_dictionary_in_another_order_is_refused(tmp_path):
    """As of another corpus: it has the same tokens, and all its ids have embeddings, of other words."""
    config = ml_collections.ConfigDict({"model": {"vocab_size": 59458}, "data": {"tokenizer": "toy", "root": ""}})
    published = texts.load_tokenizer(config, ofa_dictionary.write_published(tmp_path / "ofa"))
    assert published.vocab_size == 59457
    published.save(tmp_path / "model")
    assert texts.load_tokenizer(config, tmp_path / "model").encode("the image?") == [5, 2274, 116]
    with pytest.raises(UserError, match=r"other: numbers the tokens of 'what is .*' in another way than OFA; give the folder"):
        texts.load_tokenizer(config, ofa_dictionary.write_recorded(tmp_path / "other", {}))


def test_synonyms_are_names_of_one_class():
    assert texts.split_synonyms(("cow", "giraffe|camelopard", "grass")) == (
        ["cow", "giraffe", "camelopard", "grass"],
        [0, 1, 1, 2],
    )
    for bad in ("", "cow|", " "):
        with pytest.raises(UserError, match="has an empty name"):
            texts.split_synonyms(("grass", bad))
    for twice in ("cow|cow", "tree|grass", " grass"):
        with pytest.raises(
            UserError, match=r"the class name '(cow|grass)' is there twice, also counting synonyms; give it once"
        ):
            texts.split_synonyms(("grass", twice))
    assert texts.split_synonyms(("grass", "Grass", "grass land"))[1] == [0, 1, 2]


def test_damaged_dictionaries_load_or_are_refused(folder):
    """Any bytes in place of a dict.txt, encoder.json or vocab.bpe: one line, or a tokenizer whose ids fit its size."""
    rng = np.random.default_rng(0)
    for name in ("dict.txt", "encoder.json", "vocab.bpe"):
        good = (folder / name).read_bytes()
        refused = 0
        for _ in range(60):
            data = bytearray(good)
            for _ in range(int(rng.integers(1, 4))):
                place = int(rng.integers(len(data)))
                data[place : place + int(rng.integers(0, 3))] = rng.integers(
                    0, 256, int(rng.integers(0, 3)), np.uint8
                ).tobytes()
            (folder / name).write_bytes(data)
            try:
                loaded = fairseq_dictionary.load(folder)
            except UserError as error:
                refused += 1
                assert "\n" not in str(error) and str(folder) in str(error)
            else:
                assert all(0 <= k < loaded.vocab_size for k in loaded.encode("the The th"))
        (folder / name).write_bytes(good)
        assert refused > 10
