"""Scores of text answers: published normalization, yes/no and choices."""

import time

import pytest

from hyperseg_jax.metrics import ExactScores, MultipleChoiceScores, PopeScores, VqaScores
from hyperseg_jax.metrics.multiple_choice import choose_option
from hyperseg_jax.metrics.pope import is_yes
from hyperseg_jax.metrics.vqa import CONTRACTIONS, accuracy, normalize_answer


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("A dog.", "dog"),
        ("Two  Dogs!", "2 dogs"),
        ("dont know", "don't know"),
        ("3.5 miles.", "3.5 miles"),
        ("1,000", "1000"),
        ("red/white", "red white"),
        ("red / white", "red white"),
        ("the cat's bed", "cat's bed"),
        ("10:30", "10:30"),
        ("none", "0"),
        ("couldnt've", "couldn't've"),
        ("lets go", "lets go"),
        ("an\napple\t", "apple"),
        ("t-shirt", "t shirt"),
    ],
)
def test_vqa_normalisation(said, kept):
    assert normalize_answer(said) == kept


def test_vqa_contractions():
    assert CONTRACTIONS["hed've"] == CONTRACTIONS["he'dve"] == "he'd've"
    assert {"im", "ill", "well", "wed", "shell", "id", "were"}.isdisjoint(CONTRACTIONS)
    assert CONTRACTIONS["twas"] == "'twas" and CONTRACTIONS["oclock"] == "o'clock" and CONTRACTIONS["somebody'd"] == "somebodyd"
    assert len(CONTRACTIONS) > 110


def test_vqa_accuracy_leaves_one_out():
    """If k of ten people agree, k of the ten leave-one-out sets contain k - 1 of them, the others k."""
    for k, expected in [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)]:
        assert accuracy("Two", ["2"] * k + ["x"] * (10 - k)) == pytest.approx(expected)


def test_vqa_accuracy_of_many_truths():
    start = time.process_time()
    assert accuracy("dog", ["dog"] * 50_000, "released") == 1
    assert time.process_time() < start + 3


def test_vqa_rules_differ_for_unnormalized_answers():
    truths = ["The Cat"] * 10
    assert accuracy("cat", truths) == 1 and accuracy("cat", truths, "released") == 0
    assert accuracy("t shirt", ["t-shirt"] * 9 + ["coat"], "released") == pytest.approx(1)
    scores = VqaScores()
    scores.update("yes", ["yes"] * 10, "yes/no")
    scores.update("4", ["3"] * 10, "number")
    assert scores.compute() == {"accuracy": 0.5, "count": 2, "accuracy/number": 0, "accuracy/yes/no": 1}
    with pytest.raises(ValueError, match="at least 2"):
        scores.update("a", ["a"])


@pytest.mark.parametrize(
    ("said", "yes"),
    [
        ("Yes", True),
        ("No, there is none.", False),
        ("There is not a dog.", False),
        ("A dog. There is no cat.", True),
        ("NO", False),
        ("Notably there is one", True),
    ],
)
def test_pope_reads_the_first_sentence(said, yes):
    assert is_yes(said) is yes


def test_pope_by_hand():
    scores = PopeScores()
    for output, truth, group in [
        ("yes", True, "random"),
        ("yes", False, "random"),
        ("no", True, "popular"),
        ("no", False, "popular"),
        ("yes", True, "popular"),
    ]:
        scores.update(output, truth, group)
    result = scores.compute()
    assert (result["accuracy"], result["precision"], result["recall"]) == pytest.approx((3 / 5, 2 / 3, 2 / 3))
    assert result["f1"] == pytest.approx(2 / 3) and result["yes_share"] == 0.6
    assert result["f1/random"] == pytest.approx(2 / 3) and result["f1_mean"] == pytest.approx((2 / 3 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("B", "B"),
        ("B. dog", "B"),
        ("(C)", "C"),
        ("The answer is A.", "A"),
        ("A or B", None),
        ("It is the dog", "B"),
        ("a cat and a dog", None),
        ("I cannot tell", None),
        ("A dog lies on the mat over there", None),
    ],
)
def test_choice(said, letter):
    assert choose_option(said, {"A": "cat", "B": "dog", "C": "fish"}) == letter


def test_circular_evaluation_needs_every_rotation():
    scores = MultipleChoiceScores()
    for question, output, truth in [(1, "A", "A"), (1, "B", "B"), (2, "A", "A"), (2, "A", "B")]:
        scores.update(output, truth, {"A": "cat", "B": "dog"}, question, "nature")
    assert scores.compute() == {"accuracy": 0.5, "plain": 0.75, "count": 2, "accuracy/nature": 0.5}


def test_exact():
    scores = ExactScores()
    scores.update(" Left.", "left", "direction")
    scores.update("right", "left", "direction")
    assert scores.compute() == {"accuracy": 0.5, "count": 2, "accuracy/direction": 0.5}
