"""Every task of the recipes fits its length with Phi-2's vocabulary and the longest prompts it is made for."""

import pathlib

import numpy as np
import pytest
from real_vocabulary import write_phi2

from hyperseg_jax import config as configs
from hyperseg_jax.data import sources
from hyperseg_jax.datasets import class_names
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt, Region
from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import flatten
from hyperseg_jax.text.expressions import join_sentences
from hyperseg_jax.untrusted import limits

CONFIGS = ("hyperseg_3b", "hyperseg_3b_full", "hyperseg_3b_lora", "hyperseg_3b_released", "instructseg_3b")
SENTENCE = (  # 47 tokens, longer than the sentences of RefCOCOg
    "the woman in the white shirt and blue jeans who is holding a large black umbrella over the head of a small child that is "
    "standing next to the red bicycle on the left side of the crowded street near the old brick building with the green door"
)
IMAGE = np.zeros((1, 48, 64, 3), np.uint8)
MASK = np.ones((1, 1, 48, 64), bool)


def longest_prompts(task, block):
    """Returns the longest prompts of a task that its training data is expected to have."""
    if task == "panoptic":
        names = tuple(class_names.COCO_PANOPTIC.values())
        return (Prompt("panoptic", classes=names, masks=MASK, labels=(132,), entities=names),)  # the answer is full of names
    if task == "region":
        regions = tuple(Region.from_box(1, 1, 20, 20) for _ in range(block.regions))
        return (Prompt("region", regions=regions, masks=MASK, labels=(0,)),)
    if task == "reasoning":
        return (Prompt("reasoning", text=SENTENCE, answer=SENTENCE, masks=MASK),)
    if task == "chat":
        return (Prompt("chat", text=SENTENCE, answer=" ".join([SENTENCE] * 20)),)
    texts = [f"{SENTENCE} {k}" for k in range(block.get("prompts", 1))]
    if block.reader == "refcoco" and block.train.get("sentences", "joined") == "joined":
        texts = [join_sentences([SENTENCE] * 2)]  # RefCOCO has two or three sentences of an object, most of them short
    masks = MASK.repeat(block.get("frames", 1 + block.get("references", 0)), axis=1)
    kind = "video" if block.reader in ("revos", "ref_youtube_vos") else "referring"
    return tuple(Prompt(kind, text=text, masks=masks) for text in texts)


@pytest.fixture(scope="module")
def tokenizer(shared):
    config = configs.load("hyperseg_3b")
    return systems.get("hyperseg").tokenizer(config, shared("phi-2", write_phi2))


@pytest.mark.parametrize("name", CONFIGS)
def test_longest_prompts_fit(name, tokenizer):
    config = configs.load(name)
    system = systems.get(config.system)
    assert tokenizer.vocab_size == 50296 <= config.model.llm.vocab_size
    for task, block in config.data.tasks.items():
        processor = sources.make_processor(config, system, tokenizer, task)
        frames = np.repeat(IMAGE, processor.frames, axis=0)
        element = processor(Example(task, frames, longest_prompts(task, block)), train=True)
        used, room = processor.padding(element)["positions"]
        assert used <= room == block.length, task
        if name in ("hyperseg_3b", "instructseg_3b"):  # the arrays have the described shapes
            expected = {path: spec.shape[1:] for path, spec in flatten(processor.spec(1)).items()}
            assert {path: np.shape(array) for path, array in flatten(element).items()} == expected


def test_the_error_of_a_short_length_names_the_field(tokenizer):
    config = configs.load("hyperseg_3b", ["data.tasks.panoptic.length=1664"])
    processor = sources.make_processor(config, systems.get("hyperseg"), tokenizer, "panoptic")
    prompts = longest_prompts("panoptic", config.data.tasks.panoptic)
    with pytest.raises(UserError, match="needs 1861 positions, the layout has 1664: raise the task's `length`"):
        processor(Example("a photo", IMAGE, prompts), train=True)


@pytest.mark.parametrize(
    ("name", "classes", "length"),
    [
        ("hyperseg_3b", class_names.ADE20K, 1664),  # without the answer, which is written
        ("hyperseg_3b", class_names.COCO_STUFF, 2048),
        ("hyperseg_3b", class_names.PASCAL_CONTEXT59, 1280),
        ("hyperseg_3b_released", class_names.ADE20K, 1792),
        ("hyperseg_3b_released", class_names.COCO_STUFF, 2048),
    ],
)
def test_class_lists_of_benchmarks_have_a_bucket(tokenizer, name, classes, length):
    config = configs.load(name)
    processor = sources.make_processor(config, systems.get("hyperseg"), tokenizer, "panoptic")
    assert processor.bucket(Example("a photo", IMAGE, (Prompt("panoptic", classes=classes),)))["length"] == length


def test_a_list_of_847_classes_needs_a_higher_limit(tokenizer):
    """ADE20K's full list (first synonyms, ADE20K_2021_17_01) needs more positions than `limits.tokens` allows by default."""
    names = tuple((pathlib.Path(__file__).parent / "ade20k_847.txt").read_text().splitlines())
    example = Example("a photo", IMAGE, (Prompt("panoptic", classes=names),))
    config = configs.load("hyperseg_3b_released")
    processor = sources.make_processor(config, systems.get("hyperseg"), tokenizer, "panoptic")
    with pytest.raises(UserError, match=r"5357 positions, and the limit is 4096.*raise limits\.tokens"):
        processor.bucket(example)
    with limits.temporary_limits(tokens=8192):
        shape = processor.bucket(example)
    assert (len(names), shape["length"], shape["classes"]) == (847, 5376, 848)
