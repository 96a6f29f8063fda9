"""Hybrid entity recognition: the answer names what is in the image, and the masks are predicted behind the names."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from sample_inputs import random_params

from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.features import FeatureCache
from hyperseg_jax.predictors.model import Model
from hyperseg_jax.structs import IGNORED, Example, Layout, Prompt, Source, WrittenName
from hyperseg_jax.systems import system as systems
from hyperseg_jax.systems.hyperseg.entities import Entities
from hyperseg_jax.systems.hyperseg.model import named_classes
from hyperseg_jax.systems.hyperseg.prompts import tokenize_prompt
from hyperseg_jax.systems.psalm.templates import SEG
from hyperseg_jax.text.tokenizer import Tokenizer

SYSTEM, TOKENIZER = systems.get("hyperseg"), Tokenizer.toy()
FRAMES = np.random.default_rng(0).integers(0, 255, (2, 40, 60, 3), np.uint8)
CLASSES = ("ring", "red star", "red", "grass")


def make_masks(*heights):
    masks = np.zeros((len(heights), 1, 40, 60), bool)
    for mask, height in zip(masks, heights, strict=True):
        mask[0, :height] = True
    return masks


PROMPT = Prompt("panoptic", classes=CLASSES, things=(True,) * 4, masks=make_masks(3, 20, 5, 0), labels=(0, 3, 0, 2))


def written_text(entities, prompt=PROMPT):
    *tokens, end = (token for name in entities.answer(prompt, TOKENIZER) for token in name.ids)
    assert end == TOKENIZER.id_of(SEG)
    return TOKENIZER.decode(tokens).strip()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "grass, ring"),
        ({"order": "list"}, "ring, grass"),
        ({"repeats": True}, "grass, ring, ring"),
        ({"limit": 1}, "grass"),
        ({"separator": " and "}, "grass and ring"),
    ],
)
def test_the_names_of_an_answer(fields, text):
    """A class without a pixel is not named; the largest area is first."""
    assert written_text(Entities("hybrid", **fields)) == text
    assert Entities(**fields).split(text) == tuple(text.replace(" and ", ", ").split(", "))


def test_nothing_of_the_list():
    nothing = dataclasses.replace(PROMPT, masks=None, labels=())
    assert written_text(Entities("hybrid"), nothing) == "none"
    assert written_text(Entities("hybrid", none="nothing"), nothing) == "nothing"
    assert Entities().split("none") == Entities(none=" none").split("none") == ()


def test_names_that_do_not_fit_are_left_out():
    whole = sum(len(name.ids) for name in Entities("hybrid").answer(PROMPT, TOKENIZER))
    assert written_text(Entities("hybrid", tokens=whole)) == "grass, ring"
    assert written_text(Entities("hybrid", tokens=whole - 1)) == "grass"


def test_given_entities_replace_those_of_the_targets():
    given = dataclasses.replace(PROMPT, entities=("blue moon", "red"))
    names = Entities("hybrid").answer(given, TOKENIZER)
    assert written_text(Entities("hybrid"), given) == "blue moon, red"
    assert [name.label for name in names] == [0, 0, 3, 5]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"recognition": "both"}, "model.entities.recognition"),
        ({"order": "random"}, "model.entities.order"),
        ({"tokens": 0}, "model.entities.tokens"),
        ({"limit": True}, "model.entities.limit"),
        ({"beams": 65}, "model.entities.beams = 65: give an integer from 1 to 64"),
        ({"separator": " "}, "model.entities.separator"),
        ({"none": "no, nothing"}, "model.entities.none"),
        ({"none": "no [SEG]"}, "model.entities.none"),
        ({"separator": ",\x1b[31m"}, "model.entities.separator = ',.x1b"),
        ({"none": "n" * 101}, "at most 100 letters"),
        ({"given": "yes"}, "model.entities.given = 'yes': give True or False"),
        ({"recognition": "generation", "restricted": False}, "restricted"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        Entities(**fields)


@pytest.mark.parametrize("name", ["rock, stone", "none"])
@pytest.mark.parametrize("given", [False, True])
def test_names_that_cannot_be_told_apart_are_refused(name, given):
    prompt = Prompt("panoptic", classes=CLASSES, entities=(name,)) if given else Prompt("panoptic", classes=(*CLASSES, name))
    with pytest.raises(UserError, match=re.escape(name)):
        tokenize_prompt(prompt, TOKENIZER, entities=Entities("hybrid", none=" none"))


def make_config(micro, recognition, **fields):
    config = micro(("panoptic",))
    config.model.entities.update({"recognition": recognition, "tokens": 16, **fields})
    return config


@pytest.fixture(scope="module", params=["hybrid", pytest.param("generation", marks=pytest.mark.slow)])
def model(request, micro):
    config = make_config(micro, request.param)
    return Model(config, TOKENIZER, random_params(SYSTEM.shapes(config), seed=3))


def make_batch(model, *examples, **sizes):
    processor = model._processor
    processor = processor.for_bucket({"prompts": max(len(example.prompts) for example in examples)})
    for example in examples:
        processor = processor.with_common_shape([processor.for_bucket(processor.bucket(example))])
    processor = dataclasses.replace(processor, **sizes)
    rows = [processor(example, train=False) for example in examples]
    return processor, jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def examples_of(*prompts):
    return [Example("it", frame[None], prompts) for frame in FRAMES]


def without_targets(prompt, entities=None):
    return dataclasses.replace(prompt, masks=None, labels=(), entities=entities)


def test_the_prompt_and_its_labels_in_training(micro):
    """The names and [SEG] are targets of the text loss; without a class list in the prompt, they hold the classes."""
    for recognition, listed in (("hybrid", 5), ("generation", 0)):
        config = make_config(micro, recognition)
        processor = SYSTEM.processor(config, TOKENIZER, {"length": 128, "targets": 4, "classes": 6})
        element = processor(examples_of(PROMPT)[0], train=True)
        layout = Layout(**element["layout"])
        named = layout.source == Source.NAME
        assert TOKENIZER.decode(layout.labels[named].tolist()).strip() == "grass, ring"
        assert (layout.labels[named] == layout.text_ids[named]).all() and named.argmax() < (
            layout.source == Source.QUERY
        ).argmax()
        assert len(set(layout.segment[layout.source == Source.CLASS].tolist())) == listed
        batched = jax.tree.map(lambda leaf: leaf[None], layout)
        classes = named_classes(batched, 1, 6)[0, 0].tolist()
        assert classes == [True, False, False, True, True, False], "ring, grass and the background"
        if recognition == "generation":
            assert element["class_valid"][0].tolist() == classes
            assert element["valid"].tolist() == [[True, True, True, False]]
        else:
            assert element["class_valid"][0].tolist() == [True] * 5 + [False]


def test_targets_without_a_name_are_not_supervised(micro):
    """In the ablation without a class list, a class that the answer does not name has no embedding."""
    config = make_config(micro, "generation", limit=1)
    processor = SYSTEM.processor(config, TOKENIZER, {"length": 128, "targets": 4, "classes": 6})
    element = processor(examples_of(PROMPT)[0], train=True)
    assert element["valid"].tolist() == [[False, True, False, False]]


def predict_batch(model, batch, features=None, memory=None):
    return model.engine.predict(model.params, batch, features or {}, memory)


def check_close(found, expected, name=""):
    """Rounding differs by up to 1.5e-6 of the largest value."""
    largest = float(np.abs(np.asarray(expected, np.float32)).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6 * largest, err_msg=name)


def compare(found, expected):
    for name in ("mask_logits", "class", "embedding", "class_valid"):
        check_close(found[name], expected[name], name)


@pytest.mark.parametrize("cached", [False, True])
def test_masks_behind_written_names_equal_a_full_pass(model, cached):
    """One step over the names and queries, after the cached prompt, gives what a full pass over all of it gives."""
    processor, batch = make_batch(model, *examples_of(without_targets(PROMPT)))
    features = {}
    if cached:
        parts = processor.parts(batch)
        assert {"image", "image_tokens"} <= parts.keys()
        features = FeatureCache(SYSTEM.encode(SYSTEM.build(model.config), model.config)).features(
            model.params, parts, lambda part: part
        )
    found, memory = predict_batch(model, batch, features)
    texts = [TOKENIZER.decode(row[row >= 0].tolist()).strip() for row in np.asarray(found["written"])[:, 0, 0]]
    entities = Entities.from_config(model.config)
    assert len(set(texts)) == 2, "the images differ"
    for row, text in enumerate(texts):
        names = entities.split(text)
        assert set(names) <= set(CLASSES) and len(set(names)) == len(names)
        given = [Example("it", FRAMES[row][None], (without_targets(PROMPT, names),))]
        _, full = make_batch(model, *given)
        assert "names" not in full
        expected, expected_memory = predict_batch(model, full)
        compare({name: value[row : row + 1] for name, value in found.items()}, expected)
        check_close(memory.query[row : row + 1], expected_memory.query)


def test_packed_prompts_and_later_frames(model):
    """Each prompt of a packed sequence, and a frame with the memory of an earlier one, as alone."""
    other = Prompt("panoptic", classes=("moon", "ring"), things=(True, True))
    prompts = without_targets(PROMPT), other
    _, packed = make_batch(model, *examples_of(*prompts))
    found, memory = predict_batch(model, packed)
    assert memory.query.shape[0] == 2
    doubled = jax.tree.map(lambda leaf: 2 * leaf, memory)
    later, _ = predict_batch(model, packed, memory=doubled)
    assert np.abs(later["mask_logits"] - found["mask_logits"]).max() > 1e-3
    for k, prompt in enumerate(prompts):
        _, alone = make_batch(model, *examples_of(prompt), classes=5, name_size=8)
        for given, result in ((None, found), (doubled, later)):
            expected, _ = predict_batch(model, alone, memory=given)
            compare({name: value[:, :, k : k + 1] for name, value in result.items()}, expected)
            assert (np.asarray(result["written"][:, :, k]) == np.asarray(expected["written"][:, :, 0])).all()


def test_other_prompts_in_a_batch_that_writes_names(model):
    """A prompt that is not a class list is answered as without names."""
    expression = Prompt("referring", "the red ring")
    _, mixed = make_batch(model, *examples_of(without_targets(PROMPT), expression))
    found, _ = predict_batch(model, mixed)
    _, alone = make_batch(model, *examples_of(expression))
    expected, _ = predict_batch(model, alone)
    for name in ("mask_logits", "expression"):
        check_close(found[name][:, :, 1], expected[name][:, :, 0], name)
    assert (np.asarray(found["written"][:, :, 1]) < 0).all()


def test_the_prediction_has_the_names(model):
    written = [model.segment_classes(frame, CLASSES).written for frame in FRAMES]
    assert None not in written and any(written), "one may be ()"
    assert all(CLASSES[name.label] == name.name for names in written for name in names)


def test_free_names_and_beams(micro):
    """Names outside of the list are reported; beams write a text that is at least as probable."""
    config = make_config(micro, "hybrid", restricted=False)
    params = random_params(SYSTEM.shapes(config), seed=3)
    free = Model(config, TOKENIZER, params).segment_classes(FRAMES[0], CLASSES)
    assert any(written.label is None for written in free.written)
    assert all(isinstance(written, WrittenName) for written in free.written)
    config = make_config(micro, "hybrid", beams=3)
    beams = Model(config, TOKENIZER, params).segment_classes(FRAMES[0], CLASSES)
    assert all(written.label is not None for written in beams.written)


def test_the_entities_may_be_given(model):
    """The names of what is in the image replace those that the model would write."""
    written = [name.name for name in model.segment_classes(FRAMES[0], CLASSES).written]
    given = model.segment_classes(FRAMES[0], CLASSES, entities=written)
    again = model.segment_classes(FRAMES[0], CLASSES)
    assert given.written is None and given.labels == again.labels and (given.masks == again.masks).all()
    with pytest.raises(UserError, match="empty"):
        model.segment_classes(FRAMES[0], CLASSES, entities=["ring", " "])


def test_a_model_that_writes_no_names_refuses_them(random_model):
    assert random_model.engine.split_names is None
    with pytest.raises(UserError, match="writes no names"):
        random_model.segment_classes(FRAMES[0], CLASSES, entities=["ring"])


def test_rows_behind_a_blank_one(model):
    """Blank rows and padding prompts have no end token of their own."""
    processor, batch = make_batch(model, *examples_of(without_targets(PROMPT)))
    blank = jax.tree.map(lambda leaf, other: np.concatenate([leaf[None], other]), processor.blank(), batch)
    found, _ = predict_batch(model, blank)
    expected, _ = predict_batch(model, batch)
    compare({name: value[1:] for name, value in found.items()}, expected)


def test_the_masks_need_one_more_step_and_no_second_pass(micro):
    """Counts the operations of the language model: the prompt once, and the answer once."""
    config = make_config(micro, "hybrid")
    config.model.llm.update({"hidden_size": 256, "mlp_size": 4096, "num_layers": 2, "num_heads": 8})
    model = Model(config, TOKENIZER, jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), SYSTEM.shapes(config)))
    predict = jax.jit(SYSTEM.predict(SYSTEM.build(config), config))
    flops = lambda batch: predict.lower(model.params, batch, {}, None).compile().cost_analysis()["flops"]
    classes = tuple(f"ring {k}" for k in range(40))
    _, writing = make_batch(model, *examples_of(Prompt("panoptic", classes=classes, things=(True,) * 40)))
    given = Prompt("panoptic", classes=classes, things=(True,) * 40, entities=classes[:3])
    _, full = make_batch(model, *examples_of(given))
    per_token = 2 * 2 * (4 * 256**2 + 2 * 256 * 4096) * 2  # of two rows and two layers
    most = flops(full) + per_token * (16 + 4 + 1) * 1.1  # the tokens of the answer, and one generated token
    assert most < 1.5 * flops(full), "a second pass would show"
    assert 0.8 * flops(full) < flops(writing) < most


def test_a_chat_prompt_beside_named_entities_is_refused(model):
    with pytest.raises(UserError, match="chat prompt"):
        make_batch(model, *examples_of(without_targets(PROMPT), Prompt("chat", "what is this?")))


def test_labels_of_predictions_are_ignored(model):
    _, batch = make_batch(model, *examples_of(without_targets(PROMPT)))
    assert not (batch["layout"]["source"] == Source.QUERY).any() and (batch["layout"]["labels"] == IGNORED).any()
