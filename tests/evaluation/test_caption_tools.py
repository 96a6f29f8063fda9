"""Tools for captions: what they are given, what they return, and the lines where one is missing or fails."""

import json
import os
import pathlib
import stat
import sys
import types

import pytest

from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation import caption_tools
from hyperseg_jax.evaluation.caption_tools import (
    METEOR,
    SPICE,
    SPICE_PARSER,
    SPLITTER,
    JavaTools,
    Tools,
    check_tags,
    load_spacy,
)
from hyperseg_jax.metrics import CaptionScores

RECORDED = pathlib.Path(__file__).parents[1] / "golden" / "sca" / "metrics" / "captions_and_scores.json"
FAKE_JAVA = """
import json, pathlib, sys
with open(LOG, "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
arguments = " ".join(sys.argv)
if FAILS and FAILS in arguments:
    sys.exit("Exception: out of memory")
if "PTBTokenizer" in arguments:
    for line in sys.stdin:
        print(" ".join(line.lower().replace(".", " .").split()))
elif "meteor" in arguments:
    for line in sys.stdin:
        kind, *texts = line.strip().split(" ||| ")
        if kind == "SCORE":
            print(len(texts[-1].split()), flush=True)
        else:
            print("\\n".join(str(float(text) / 10) for text in texts))
            print(sum(map(float, texts)) / 100)
else:
    given, result = sys.argv[4], sys.argv[6]
    rows = json.loads(pathlib.Path(given).read_text())
    scores = [0.5 if row["test"] in row["refs"] else float("nan") for row in rows]
    pathlib.Path(result).write_text(json.dumps([{"scores": {"All": {"f": score}}} for score in scores]))
"""
"""A program that writes its arguments to LOG, and fails if one of them contains FAILS."""


@pytest.fixture
def java(tmp_path, monkeypatch):
    """java(fails="meteor", without=(...)): a Java that only copies words, with the programs of the package."""

    def install(fails="", without=()):
        folder, path = tmp_path / "package", tmp_path / "bin" / "java"
        for jar in (SPLITTER, METEOR, SPICE, *SPICE_PARSER):
            if jar not in without:
                (folder / jar).parent.mkdir(parents=True, exist_ok=True)
                (folder / jar).touch()
        path.parent.mkdir(exist_ok=True)
        start = f"#!{sys.executable}\nLOG, FAILS = {str(tmp_path / 'log')!r}, {fails!r}\n"
        path.write_text(start + FAKE_JAVA)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(path.parent), prepend=os.pathsep)
        spec = types.SimpleNamespace(submodule_search_locations=[str(folder)])
        monkeypatch.setattr(caption_tools.importlib.util, "find_spec", lambda name: spec)
        return tmp_path / "log"

    return install


def make_scores(*rows):
    scores = CaptionScores()
    for k, (captions, references) in enumerate(rows):
        scores.update(f"image {k}", captions, references)
    return scores


HOSTILE = "a cup; touch hacked ||| $(id) `id`\n-out\r\u2028x \ud800\0"
SCORES = make_scores((["A cup.", "the dog"], [["a cup"], ["a cat", "the dog"]]), ([HOSTILE], [["a hat"]]))


def test_all_tools_are_used(java, tmp_path, monkeypatch):
    log, lines = java(), []
    monkeypatch.chdir(tmp_path)
    scores = Tools().scores(SCORES, lines.append)
    assert scores["meteor"] == pytest.approx(
        sum(len(text.split()) for text in ("a cup", "the dog", HOSTILE.replace("|||", " "))) / 100
    )
    assert scores["spice"] == pytest.approx((0.5 + 0.5 + 0) / 3) and scores["rouge_l"] == pytest.approx(2 / 3, abs=0.1)
    assert scores["count"] == 3 and {"cider", "bleu@4", "cider_swapped", "cider_blind"} < set(scores)
    assert lines == ["recall of nouns and verbs needs a spaCy pipeline: --spacy-model en_core_web_lg"]
    commands = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(commands) == 3 and not any("cup" in word or "id" in word for words in commands for word in words)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("fails", "kept", "message"),
    [
        (
            "PTBTokenizer",
            {"cider_swapped"},
            "the tokenizer failed (Exception: out of memory); check the Java installation. CIDEr-D",
        ),
        ("meteor", {"spice", "cider"}, "METEOR failed (Exception: out of memory); check the Java installation"),
        ("spice", {"meteor", "cider"}, "SPICE failed (Exception: out of memory); check the Java installation"),
    ],
)
def test_a_tool_that_fails_is_one_line(java, fails, kept, message):
    lines = []
    java(fails=fails)
    scores = Tools().scores(SCORES, lines.append)
    assert lines[0].startswith(message) and len(lines) == 2 and all(line.isprintable() for line in lines)
    assert kept < set(scores) and fails not in scores and ("meteor" in scores) == (fails == "spice")


def test_missing_tools_are_one_line_each(java, monkeypatch):
    lines = []
    java(without=SPICE_PARSER)
    assert "spice" not in Tools().scores(SCORES, lines.append)
    assert "stanford-corenlp-3.6.0-models.jar; both are in nlp.stanford.edu" in lines[0]
    java(without=(METEOR,))
    monkeypatch.setattr(caption_tools.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"need the programs of pycocoevalcap; pip install 'hyperseg-jax\[captions\]'"):
        JavaTools.find()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="need Java, and there is no command java; install a Java runtime"):
        JavaTools.find()
    lines.clear()
    assert set(Tools().scores(SCORES, lines.append)) == {"cider_swapped", "cider_blind"}
    assert len(lines) == 2 and lines[0].endswith("install a Java runtime. CIDEr-D, BLEU and ROUGE-L are those of our own words")
    assert Tools().scores(CaptionScores(), lines.append) == {}


@pytest.mark.slow
@pytest.mark.parametrize("table", ["single_reference", "multi_reference"])
def test_the_real_programs_give_the_recorded_scores(table):
    """METEOR and the words of the official tokenizer; SPICE also needs its parser."""
    try:
        tools = JavaTools.find()
    except UserError as error:
        pytest.skip(str(error))
    rows = json.loads(RECORDED.read_text())[table]
    texts = [text for item in rows["items"] for text in (*item["candidates"], *item["references"])]
    expected = [
        text
        for ours, truth in zip(rows["tokenized_candidates"], rows["tokenized_references"], strict=True)
        for text in (*ours, *truth)
    ]
    assert tools.split_words(texts) == expected
    empty, hostile, dots = tools.split_words(["", HOSTILE, "..."])
    assert empty == dots == "" and hostile.startswith("a cup touch hacked")
    captions = [
        (text, tuple(truth)) for (text,), truth in zip(rows["tokenized_candidates"], rows["tokenized_references"], strict=True)
    ]
    assert tools.meteor(captions) == pytest.approx(rows["meteor"]["corpus"], rel=1e-9)
    if not tools.missing_parser():
        assert 0 < tools.spice(captions) < 1


class Pipeline:
    """Tags words that end with "s" as verbs, and others as nouns."""

    vocab = types.SimpleNamespace(vectors_length=3)

    def __call__(self, text):
        return [
            types.SimpleNamespace(
                text=word, pos_="VERB" if word[-1] == "s" else "NOUN", similarity=lambda other, w=word: float(w == other.text)
            )
            for word in text.split()
        ]

    def pipe(self, texts):
        return map(self, texts)


def test_recall_of_a_pipeline(java):
    java()
    scores = make_scores((["dog runs", "cup"], [["dog runs", "dog eats"], ["hat"]]))
    result = Tools(Pipeline()).scores(scores, lambda line: None)
    assert (result["noun"], result["verb"]) == (0.5, 0.25) and result["noun_fuzzy"] == 0.5 and result["verb_fuzzy"] == 0.25
    lines, plain = [], Pipeline()
    plain.vocab = types.SimpleNamespace(vectors_length=0)
    assert "noun_fuzzy" not in Tools(plain).scores(scores, lines.append)
    assert lines == ["the spaCy pipeline has no word vectors, so there is no fuzzy recall of nouns and verbs"]


def test_pipelines_that_do_not_tag():
    pipeline = lambda text: [types.SimpleNamespace(pos_="") for word in text.split()]
    with pytest.raises(UserError, match="--spacy-model 'blank': does not tag parts of speech; use one such as en_core_web_lg"):
        check_tags("blank", pipeline)


def test_a_pipeline_of_spacy(tmp_path, monkeypatch):
    spacy = pytest.importorskip("spacy")
    import numpy as np

    made = spacy.blank("en")
    ruler = made.add_pipe("attribute_ruler")
    for word, kind in (("dog", "NOUN"), ("Rome", "PROPN"), ("runs", "VERB")):
        ruler.add(patterns=[[{"TEXT": word}]], attrs={"POS": kind})
    for word in ("dog", "Rome", "runs"):
        made.vocab.set_vector(word, np.array([1.0, float(word == "dog"), 0.0]))
    made.to_disk(tmp_path / "tagger")
    spacy.blank("en").to_disk(tmp_path / "blank")
    monkeypatch.setenv("PATH", "")
    scores = make_scores((["a dog runs"], [["the dog", "in Rome"]]))
    result = Tools(load_spacy(str(tmp_path / "tagger"))).scores(scores, lambda line: None)
    assert result["noun"] == 0.5 and result["verb"] == 0 and result["noun_fuzzy"] == pytest.approx((1 + 2**-0.5) / 2, abs=1e-6)
    with pytest.raises(UserError, match="does not tag parts of speech"):
        load_spacy(str(tmp_path / "blank"))
    with pytest.raises(
        UserError, match="--spacy-model 'none': no such pipeline; install it with python -m spacy download NAME"
    ):
        load_spacy("none")


def test_spacy_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UserError, match=r"--spacy-model en: spaCy is not installed; pip install 'hyperseg-jax\[captions\]'"):
        load_spacy("en")
