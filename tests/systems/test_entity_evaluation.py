"""Hybrid entity recognition in evaluations, on a mesh, over frames, in bfloat16, and in exports."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from sample_inputs import random_params

from hyperseg_jax.data.sources import Task
from hyperseg_jax.evaluation.engine import AnswerOptions, Engine, run_protocols
from hyperseg_jax.evaluation.protocols import AllFrames, EvalProtocol
from hyperseg_jax.parallel import placement
from hyperseg_jax.predictors.model import Model
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.systems import system as systems
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.weights import model_folder
from hyperseg_jax.weights.exporting import export_weights
from hyperseg_jax.weights.importing import import_weights

SYSTEM, TOKENIZER = systems.get("hyperseg"), Tokenizer.toy()
FRAMES = np.random.default_rng(0).integers(0, 255, (8, 40, 60, 3), np.uint8)
FRAMES //= np.array([1, 4, 2, 9, 3, 1, 6, 40], np.uint8)[:, None, None, None]  # a darker image gets other names
CLASSES = ("ring", "red star", "red", "grass")
MASKS = np.zeros((2, 1, 40, 60), bool)
MASKS[0, :, :5] = MASKS[1, :, 5:] = True
PROMPT = Prompt("panoptic", classes=CLASSES, things=(True,) * 4, masks=MASKS, labels=(0, 3))
TRUE_NAMES = ("grass", "ring")


def make_config(micro, **fields):
    config = micro(("panoptic",))
    config.model.entities.update({"recognition": "hybrid", "tokens": 16, **fields})
    config.model.temporal.update({"aggregation": True, "frames": 2})
    return config


@pytest.fixture(scope="module")
def model(micro):
    config = make_config(micro)
    return Model(config, TOKENIZER, random_params(SYSTEM.shapes(config), seed=5))


def evaluate(engine, model, examples, *, together=False):
    """Returns the Predictions of each example, as evaluation or (together) validation asks for them."""
    task = Task("panoptic", None, examples, 0, dataclasses.replace(model._processor, length=96))
    options = AnswerOptions("candidates", engine.answers.published)
    predict = lambda prompt, outputs: outputs
    protocol = lambda one: AllFrames(one, predict, group_size=1) if together else EvalProtocol(one, predict)
    args = {"count": len(examples), "batch_size": len(examples), "options": options, "on_unreadable": pytest.fail}
    return [
        [outputs for _, frames in protocol.answers() for outputs in frames]
        for _, finished in run_protocols(engine, task, examples, protocol, **args)
        for _, protocol in finished
    ]


def texts(outputs):
    return [str(np.asarray(frame["written"]).item()) for frame in outputs]


def agreement(found, expected):
    """The smallest share of equal elements of any selected output: rounding may flip a few pixels."""
    return min(np.mean(np.isclose(found[name], expected[name], atol=1e-3)) for name in expected if name != "written")


def test_evaluation_gives_the_true_names(model):
    """With `given`, as if the caller had named what is in the image; without, the model writes names."""
    example = Example("it", FRAMES[:1], (PROMPT,))
    ((written,),) = evaluate(model.engine, model, [example])
    assert "written" in written
    told = Engine.from_system(SYSTEM, make_config_given(model.config), model.params)
    ((given,),) = evaluate(told, model, [example])
    as_asked = dataclasses.replace(model.engine, give=lambda prompt: prompt)
    ((named,),) = evaluate(as_asked, model, [dataclasses.replace(example, prompts=(with_names(PROMPT),))])
    assert "written" not in given and "written" not in named
    for name in named:
        np.testing.assert_array_equal(given[name], named[name])
    others = dataclasses.replace(example, prompts=(with_names(PROMPT, ("red",)),))
    ((own,),) = evaluate(model.engine, model, [others])
    assert texts([own]) == texts([written]), "names of a record are targets"
    ((other,),) = evaluate(as_asked, model, [others])
    assert any((np.asarray(other[name]) != np.asarray(given[name])).any() for name in given), "the names change the answer"


def make_config_given(config):
    changed = config.copy_and_resolve_references()
    changed.model.entities.given = True
    return changed


def with_names(prompt, names=TRUE_NAMES):
    return dataclasses.replace(prompt, entities=names)


def test_the_frames_of_a_video_in_one_query(model):
    """Each frame has its own names, and the masks of a frame-by-frame evaluation with the memory of the last frame."""
    example = Example("it", FRAMES[:3], (dataclasses.replace(PROMPT, masks=MASKS.repeat(3, axis=1)),))
    (at_once,) = evaluate(model.engine, model, [example], together=True)
    (one_by_one,) = evaluate(model.engine, model, [example])
    assert texts(at_once) == texts(one_by_one) and len(set(texts(at_once))) > 1
    for found, expected in zip(at_once, one_by_one, strict=True):
        assert agreement(found, expected) > 0.99
    assert agreement(at_once[0], at_once[1]) < 0.99, "the frames differ"


@pytest.mark.slow
def test_names_on_a_mesh(model):
    """Eight images on eight devices get the names and masks of one device."""
    mesh = placement.make("fsdp")
    positions = placement.parameter_shardings(SYSTEM.boxed_shapes(model.config), mesh)
    engine = Engine.from_system(SYSTEM, model.config, jax.device_put(model.params, positions), mesh.batch)
    examples = [Example(str(k), frame[None], (PROMPT,)) for k, frame in enumerate(FRAMES)]
    with placement.use(mesh):
        on_mesh = evaluate(engine, model, examples)
    alone = evaluate(model.engine, model, examples)
    assert len({text for outputs in alone for text in texts(outputs)}) > 1
    for found, expected in zip(on_mesh, alone, strict=True):
        assert texts(found) == texts(expected)
        assert agreement(found[0], expected[0]) > 0.99


@pytest.mark.slow
def test_names_in_bfloat16(model):
    """Only names of the list are written, and the masks are those of float32, but for rounding."""
    config = model.config.copy_and_resolve_references()
    config.model.precision.update({"params": "bfloat16", "compute": "bfloat16"})
    rounded = jax.tree.map(lambda leaf: leaf.astype(jax.numpy.bfloat16), model.params)
    engine = Engine.from_system(SYSTEM, config, rounded)
    example = Example("it", FRAMES[1:2], (PROMPT,))
    ((found,),) = evaluate(engine, model, [example])
    names = texts([found])[0].split(", ")
    assert set(names) <= set(CLASSES) and len(set(names)) == len(names)
    told = dataclasses.replace(example, prompts=(with_names(PROMPT, tuple(names)),))
    ((given,),) = evaluate(dataclasses.replace(engine, give=lambda prompt: prompt), model, [told])
    assert agreement(given, found) > 0.9


def test_an_export_keeps_how_names_are_written(micro, tmp_path):
    """The settings that a model was trained with come back; those of prediction stay the config's."""
    config = make_config(micro, separator="; ", order="list", limit=3, beams=2)
    model_folder.save_model(tmp_path / "own", config, TOKENIZER, random_params(SYSTEM.shapes(config), seed=5))
    export_weights(tmp_path / "own", tmp_path / "out")
    recorded = json.loads((tmp_path / "out" / "config.json").read_text())["hyperseg_jax"]
    names = ("recognition", "order", "separator", "repeats", "none", "limit", "tokens")
    of_names = {name: value for name, value in recorded.items() if name.startswith("model.entities.")}
    assert of_names == {f"model.entities.{name}": config.model.entities[name] for name in names}
    import_weights([tmp_path / "out"], micro(("panoptic",)), tmp_path / "back")
    restored = model_folder.read_config(tmp_path / "back").model.entities
    assert {name: restored[name] for name in names} == {name: config.model.entities[name] for name in names}
    assert restored.beams == 1

    model_folder.save_model(
        tmp_path / "own", make_config(micro, recognition="decoding"), TOKENIZER, random_params(SYSTEM.shapes(config), seed=3)
    )
    export_weights(tmp_path / "own", tmp_path / "plain")
    recorded = json.loads((tmp_path / "plain" / "config.json").read_text())["hyperseg_jax"]
    assert {name for name in recorded if name.startswith("model.entities.")} == {"model.entities.recognition"}
