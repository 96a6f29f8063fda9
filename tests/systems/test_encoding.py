"""What HyperSeg encodes apart is what a whole pass computes, and is computed once."""

import collections
import dataclasses
import json

import jax
import numpy as np
import pytest
from drawn import regions_of

from hyperseg_jax.data.sources import Task
from hyperseg_jax.evaluation.engine import AnswerOptions, Engine, predictions
from hyperseg_jax.evaluation.features import CACHE_SIZE, FeatureCache
from hyperseg_jax.evaluation.protocols import EvalProtocol
from hyperseg_jax.parallel import hosts, placement
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.systems import system as systems
from hyperseg_jax.systems.hyperseg.encoding import prefix_length

SYSTEM = systems.get("hyperseg")
RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 255, (2, 40, 60, 3), np.uint8)
REGIONS = np.zeros((2, 40, 60), bool)
REGIONS[0, 5:20, 5:20] = REGIONS[1, 20:35, 30:50] = True
PROMPTS = {
    "referring": Prompt("referring", "the red ring left of the square"),
    "reasoning": Prompt("reasoning", "what is round?"),
    "panoptic": Prompt("panoptic", classes=("ring", "star"), things=(True, True)),
    "region": Prompt("region", regions=regions_of(REGIONS)),
    "video": Prompt("video", "the star that moves"),
    "chat": Prompt("chat", "what is left of the ring?"),
}


@pytest.fixture(scope="module")
def asked(random_model):
    """f(*examples) -> (processor, batch) of examples of one image each."""

    def make(*examples):
        processor = random_model._processor
        processor = processor.for_bucket({"prompts": max(len(example.prompts) for example in examples)})
        for example in examples:
            processor = processor.with_common_shape([processor.for_bucket(processor.bucket(example))])
        drawn_on = int(any(example.drawn_on is not None for example in examples))
        processor = dataclasses.replace(processor, drawn_on=drawn_on, targets=0)
        rows = [processor(example, train=False) for example in examples]
        return processor, jax.tree.map(lambda *leaves: np.stack(leaves), *rows)

    return make


@pytest.fixture(scope="module")
def predict(random_model):
    return jax.jit(SYSTEM.predict(SYSTEM.build(random_model.config), random_model.config))


def cache_of(model):
    return FeatureCache(SYSTEM.encode(SYSTEM.build(model.config), model.config))


def example(*prompts, frame=0, **given):
    return Example("it", FRAMES[frame][None], prompts, **given)


@pytest.mark.parametrize(
    "kinds, other",
    [
        (("referring",), False),
        (("referring", "reasoning", "panoptic", "region"), False),
        (("video",), False),
        (("region",), True),
    ],
)
def test_what_is_encoded_apart_is_what_a_whole_pass_computes(kinds, other, asked, predict, random_model):
    drawn_on = FRAMES[1] if other else None
    prompts = [PROMPTS[kind] for kind in kinds]
    processor, batch = asked(example(*prompts, drawn_on=drawn_on), example(*prompts, frame=1, drawn_on=drawn_on))
    parts = processor.parts(batch)
    assert parts.keys() == {"image_tokens", "image", "prefix"} | ({"example"} if other else set())
    features = cache_of(random_model).features(random_model.params, parts, lambda part: part)
    whole, memory = predict(random_model.params, batch, {}, None)
    rest = {name: value for name, value in batch.items() if "images" not in name}
    found, kept = predict(random_model.params, rest, features, None)
    for name in whole:
        np.testing.assert_allclose(found[name], whole[name], rtol=1e-4, atol=2e-4, err_msg=name)
    np.testing.assert_allclose(kept, memory, rtol=1e-4, atol=1e-4)
    assert np.abs(whole["mask_logits"][0] - whole["mask_logits"][1]).max() > 1e-2
    without = {name: features[name] for name in features if name != "image_tokens"}  # any part may be missing
    found, _ = predict(random_model.params, rest | {"clip_images": batch["clip_images"]}, without, None)
    np.testing.assert_allclose(found["mask_logits"], whole["mask_logits"], rtol=1e-4, atol=2e-4)
    later = cache_of(random_model).features(random_model.params, parts, lambda part: part, memory=True)
    assert "prefix" not in later  # it was read with the query of a first frame
    second, _ = predict(random_model.params, batch, {}, 2 * memory)
    found, _ = predict(random_model.params, rest, later, 2 * memory)
    np.testing.assert_allclose(found["mask_logits"], second["mask_logits"], rtol=1e-4, atol=2e-4)
    assert np.abs(second["mask_logits"] - whole["mask_logits"]).max() > 1e-2


def test_text_is_the_same_behind_a_kept_prefix(asked, random_model):
    processor, batch = asked(example(PROMPTS["chat"]), example(PROMPTS["chat"], frame=1))
    parts = processor.parts(batch)
    assert parts.keys() == {"image_tokens", "prefix"}
    features = cache_of(random_model).features(random_model.params, parts, lambda part: part)
    size = {"max_new_tokens": 6, "eos_id": processor.tokenizer.eos_id, "vocab_size": processor.tokenizer.vocab_size}
    writer = SYSTEM.write(SYSTEM.build(random_model.config), random_model.config)
    written = jax.jit(lambda batch, features: writer.greedy(random_model.params, batch, features, **size))
    rest = {name: value for name, value in batch.items() if "images" not in name}
    whole = written(batch, {})
    assert whole.shape == (2, 1, 1, 6) and len(np.unique(whole)) > 2
    np.testing.assert_array_equal(written(rest, features), whole)


def test_features_are_kept_by_content(asked, random_model):
    put, cache = [], cache_of(random_model)

    def features(examples, params=random_model.params):
        put.clear()
        processor, batch = asked(*examples)
        cache.features(params, processor.parts(batch), lambda part: put.append(sorted(part)) or part)
        return sorted(name for part in put for name in part)

    everything = ["clip_images", "images", "layout"]
    assert features([example(PROMPTS["referring"])]) == everything
    assert features([example(PROMPTS["panoptic"])]) == []  # the same image and the same beginning
    assert features([example(PROMPTS["video"])]) == ["layout"]  # "This is a frame"
    assert features([example(PROMPTS["referring"], frame=1)]) == everything
    assert features([example(PROMPTS["referring"])]) == ["layout"]  # two of each part are kept
    assert CACHE_SIZE == 2
    assert features([example(PROMPTS["referring"])], dict(random_model.params)) == []  # the same arrays
    assert features([example(PROMPTS["referring"])], jax.tree.map(lambda leaf: leaf + 0, random_model.params)) == everything
    cache.clear()
    assert features([example(PROMPTS["referring"])]) == everything


def test_hosts_agree_on_what_is_encoded(asked, random_model, monkeypatch):
    """What another host does not have, or has in another shape, no host uses; what another one has not kept, all encode."""
    processor, batch = asked(example(PROMPTS["referring"]))
    parts, encoded = processor.parts(batch), []
    cache = cache_of(random_model)

    def features():
        encoded.clear()
        return sorted(cache.features(random_model.params, parts, lambda part: encoded.append(*part) or part))

    other: dict = {}
    monkeypatch.setattr(hosts, "exchange", lambda what, own: [own, json.dumps(json.loads(own) | other)])
    assert features() == ["image", "image_tokens", "prefix"] == sorted(parts) and len(encoded) == 3
    assert features() == ["image", "image_tokens", "prefix"] and encoded == []
    shape = [list(batch["images"].shape[1:])]
    other["image"] = [shape, False]
    assert features() == ["image", "image_tokens", "prefix"] and encoded == ["images"]
    other["prefix"] = [[[7]], True]
    assert features() == ["image", "image_tokens"] and encoded == ["images"]
    del other["prefix"]
    other["image"] = [[[7]], True]
    assert features() == ["image_tokens"]  # the prefix needs the image


def test_prompts_about_one_image_encode_it_once(random_model, monkeypatch):
    encoded = []
    cache = random_model.engine.feature_cache
    cache.clear()
    jitted = {name: lambda *given, f=f, name=name: encoded.append(name) or f(*given) for name, f in cache._jitted.items()}
    monkeypatch.setattr(cache, "_jitted", jitted)
    examples = [example(*(Prompt("referring", text) for text in ("the ring", "the star", "the square")))]
    task = Task("it", None, examples, 0, dataclasses.replace(random_model._processor, length=96))
    options = AnswerOptions("expression", random_model.engine.answers.published)
    protocol = lambda one: EvalProtocol(one, lambda prompt, outputs: outputs["mask"][0, 0])
    given = {"count": 1, "batch_size": 1, "options": options, "unread": pytest.fail}
    for _, answered in predictions(random_model.engine, task, examples, protocol, **given):
        list(answered)
    assert encoded == ["image_tokens", "image", "prefix"]
    assert not any(cache._cached.values())  # and their memory is free again


def test_features_lie_on_a_mesh(random_model):
    """Eight rows on eight devices that share the weights: the answers are those of one device."""
    mesh = placement.make("fsdp")
    places = placement.shardings(SYSTEM.boxed_shapes(random_model.config), mesh)
    engine = Engine.from_system(SYSTEM, random_model.config, jax.device_put(random_model.params, places), mesh.batch)
    frames = RNG.integers(0, 255, (8, 1, 40, 60, 3), np.uint8)
    prompts = tuple(Prompt("referring", text) for text in ("the red ring", "the star on the left"))
    examples = [Example(str(k), frame, prompts) for k, frame in enumerate(frames)]
    task = Task("it", None, examples, 0, dataclasses.replace(random_model._processor, length=96))
    options = AnswerOptions("expression", engine.answers.published)
    heard = collections.defaultdict(list)
    protocol = lambda one: EvalProtocol(one, lambda prompt, outputs: heard[one.name].append(outputs))
    with placement.use(mesh):
        for _, answered in predictions(
            engine, task, examples, protocol, count=8, batch_size=8, options=options, unread=pytest.fail
        ):
            list(answered)
    for one in examples:
        for prompt, outputs in zip(prompts, heard[one.name], strict=True):
            (segment,) = random_model.segment(one.frames[0], prompt.text, no_target_threshold=None)
            assert segment.score == pytest.approx(float(outputs["score"].item()), rel=1e-4)
            mask = np.unpackbits(outputs["mask"][0, 0], axis=-1)[:40, :60].astype(bool)
            assert (mask != segment.mask).mean() < 0.01 and 0 < mask.mean() < 1


def test_rows_without_a_common_prefix_share_none(asked):
    _, alone = asked(example(PROMPTS["referring"]))
    length = prefix_length(alone["layout"])
    assert length > 0
    _, mixed = asked(example(PROMPTS["referring"], PROMPTS["video"]))  # the image stands in both parts of the sequence
    assert prefix_length(mixed["layout"]) == 0
    _, unlike = asked(example(PROMPTS["referring"]), example(PROMPTS["chat"]))
    assert prefix_length(unlike["layout"]) == 0


def test_parameters_that_were_changed_in_place_have_other_features(asked, random_model):
    cache, params = cache_of(random_model), dict(random_model.params)
    processor, batch = asked(example(PROMPTS["referring"]))
    parts = processor.parts(batch)
    before = cache.features(params, parts, lambda arrays: arrays)
    assert cache.features(params, parts, lambda arrays: arrays)["image_tokens"] is before["image_tokens"]
    params["projector"] = jax.tree.map(lambda leaf: 2 * leaf, params["projector"])
    assert not np.array_equal(cache.features(params, parts, lambda arrays: arrays)["image_tokens"], before["image_tokens"])


def test_a_part_that_is_needed_on_one_host_only_is_shared_by_none(asked, random_model, monkeypatch):
    """The other host's prefix needs the image, ours does not: a part that is encoded with it there and without it here would
    be two programs."""
    cache = cache_of(random_model)
    processor, batch = asked(example(PROMPTS["referring"]))
    parts = dict(processor.parts(batch))
    del parts["image"]

    def other(what, own):
        mine = json.loads(own)
        return [own, json.dumps({**mine, "image": [[[7]], False]})]

    monkeypatch.setattr(hosts, "exchange", other)
    assert [*cache.features(random_model.params, parts, lambda arrays: arrays)] == ["image_tokens"]


def test_a_batch_of_several_frames_has_no_parts(random_model):
    """Their features would take the memory of all frames, and `predict` goes through the frames one by one."""
    both = Example("it", FRAMES, (PROMPTS["video"],))
    processor = random_model._processor.for_bucket(random_model._processor.bucket(both))
    batch = jax.tree.map(lambda leaf: leaf[None], processor(both, train=False))
    assert processor.parts(batch) == {}
