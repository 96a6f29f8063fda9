import numpy as np
import pytest
from sample_inputs import make_regions

from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import IGNORED, Prompt
from hyperseg_jax.systems.hyperseg.prompts import normalize_prompt, tokenize_prompt
from hyperseg_jax.systems.psalm.markers import Marker
from hyperseg_jax.text.expressions import clean_video_expression, join_sentences

NAMES = {marker: f"<{marker.name.lower()}>" for marker in Marker}


class ByteTokenizer:
    eos_id = 1
    id_of = staticmethod({"[SEG]": 3}.get)

    def encode(self, text):
        return [byte + 10 for byte in text.encode()]


def decode(ids):
    special = {1: "<end>", 3: "[SEG]", IGNORED: "", **NAMES}
    return "".join(special[i] if i in special else chr(i - 10) for i in ids)


def render(prompt, **kwargs):
    return tokenize_prompt(prompt, ByteTokenizer(), template="short", **kwargs)


REGIONS = make_regions(np.ones((3, 4, 4), bool))


IMAGE_LINE = "This is an image <image>\n<temporal>\n, Please "
FOLLOW = " according to the following instruction"
RESULT = "\nSure, the segmentation result is "
CASES = {
    "referring": (
        Prompt("referring", "the dog."),
        f"{IMAGE_LINE}doing Referring Segmentation{FOLLOW}:\n<refer>",
        f"{RESULT}[SEG]<seg>",
    ),
    "reasoning": (
        Prompt("reasoning", "who?"),
        f"{IMAGE_LINE}doing Reasoning Segmentation{FOLLOW}:\n<refer>",
        f"{RESULT}[SEG]<seg>",
    ),
    "explain": (
        Prompt("reasoning", "who barks?", answer="dogs bark"),
        f"{IMAGE_LINE}doing Reasoning Segmentation{FOLLOW} and explain why:\n<refer>",
        f"{RESULT}dogs bark[SEG]<seg>",
    ),
    "video": (
        Prompt("video", "the dog"),
        f"This is a frame <image>\n<temporal>\n, Please doing Reasoning Segmentation{FOLLOW}.\n"
        "This is all the instruction: <refer>\n",
        f"{RESULT}[SEG]<seg>",
    ),
    "panoptic": (
        Prompt("panoptic", classes=("cat", "dog")),
        f"{IMAGE_LINE}do Panoptic Segmentation.\nThis is all the candidate categories: <cls>, <cls>, <cls>.\n",
        f"{RESULT}<seg>",
    ),
    "region": (
        Prompt("region", regions=REGIONS),
        f"{IMAGE_LINE}segment by given regions\nThis is all regions:  <region>, <region>, <region>.\n",
        "\n[SEG]<seg>",
    ),
    "chat": (Prompt("chat", "What is it?", answer="A dog."), "<image>\nWhat is it?", "A dog."),
}


@pytest.mark.parametrize("prompt, question, answer", CASES.values(), ids=CASES)
def test_training_prompts(prompt, question, answer):
    tokens = render(prompt, train=True)
    assert decode(tokens.ids) == f"USER: {question} ASSISTANT: {answer}<end>"
    assert decode(tokens.labels) == f": {answer}<end>"
    assert len(tokens.ids) == len(tokens.labels) == len(tokens.mask) and all(tokens.mask)


def test_marker_contents():
    assert decode(render(Prompt("referring", " the dog. ")).expression) == "the dog.[SEG]"
    classes = render(Prompt("panoptic", classes=("cat", "hot dog"))).classes
    assert [decode(ids) for ids in classes] == ["cat[SEG]", "hot dog[SEG]", "background[SEG]"]
    assert render(Prompt("region", regions=REGIONS)).num_regions == 3
    assert not render(Prompt("chat", "hm?")).expression


def test_prediction_prompts_contain_no_answer():
    chat = render(Prompt("chat", "What is it?", answer="A dog."))
    assert decode(chat.ids) == "USER: <image>\nWhat is it? ASSISTANT:"
    assert set(chat.labels) == {IGNORED}
    assert render(Prompt("reasoning", "who?", answer="dogs bark")).ids == render(Prompt("reasoning", "who?"), train=True).ids


def test_published_template_has_the_system_sentence():
    long = decode(tokenize_prompt(Prompt("chat", "hm?"), ByteTokenizer()).ids)
    assert long.startswith("A chat between a curious user and an artificial intelligence assistant. The assistant gives")
    assert long.endswith("questions. USER: <image>\nhm? ASSISTANT:")


def test_user_text_is_never_a_marker():
    tokens = render(Prompt("chat", "is <image> or {answer} [SEG]?", answer="no <seg> {text}"), train=True)
    assert [i for i in tokens.ids if i < 10] == [Marker.IMAGE, 1]
    assert decode(tokens.ids).endswith("is <image> or {answer} [SEG]? ASSISTANT: no <seg> {text}<end>")
    assert [i for i in render(Prompt("referring", "the <seg> {text}")).expression if i < 10] == [3]


def test_expressions_of_records():
    assert join_sentences(["the left dog", "dog on left"]) == "the left dog. dog on left."
    assert clean_video_expression(" the dog(s) running ") == "the dog running"


@pytest.mark.parametrize(
    "prompt, message",
    [
        (Prompt("referring", "  "), "referring prompt needs a text"),
        (Prompt("chat", ""), "chat prompt needs a text"),
        (Prompt("panoptic"), "needs class names"),
        (Prompt("panoptic", classes=("cat", " ")), "needs class names"),
        (Prompt("region"), "at least one region"),
        (Prompt("depth", "x"), "referring, reasoning"),
        (Prompt("caption", "x"), "HyperSeg does not support it"),
    ],
)
def test_missing_parts_are_named(prompt, message):
    with pytest.raises(UserError, match=message):
        render(prompt)


def test_unknown_templates_are_named():
    for prompt in (Prompt("referring", "the cat"), Prompt("chat", "What is it?")):
        with pytest.raises(UserError, match="v0, short"):
            tokenize_prompt(prompt, ByteTokenizer(), template="long")


@pytest.mark.parametrize(
    ("task", "text", "expected"),
    [
        ("referring", "the dog", "the dog."),
        ("referring", " the dog. ", "the dog."),
        ("referring", "a dog. the left one.", "a dog. the left one."),  # the result of join_sentences
        ("referring", "what?", "what?."),  # the published data code always appends a period
        ("reasoning", " who barks? ", "who barks?"),
        ("video", "the dog(s) that run ", "the dog that run"),
        ("chat", "What is it?", "What is it?"),
        ("panoptic", "", ""),
    ],
)
def test_texts_are_normalized_as_in_training(task, text, expected):
    once = normalize_prompt(Prompt(task, text))
    assert once.text == expected and normalize_prompt(once) == once
