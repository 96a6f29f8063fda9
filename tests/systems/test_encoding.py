"""HyperSeg's cached encodings equal a full forward pass and are computed once."""

import collections
import dataclasses
import json

import jax
import numpy as np
import pytest
from sample_inputs import make_regions

from hyperseg_jax.data.sources import Task
from hyperseg_jax.evaluation.engine import AnswerOptions, Engine, run_protocols
from hyperseg_jax.evaluation.features import CACHE_SIZE, FeatureCache
from hyperseg_jax.evaluation.protocols import EvalProtocol
from hyperseg_jax.llms.decoding import Decoding
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
    "region": Prompt("region", regions=make_regions(REGIONS)),
    "video": Prompt("video", "the star that moves"),
    "chat": Prompt("chat", "what is left of the ring?"),
}


@pytest.fixture(scope="module")
def make_batch(random_model):
    """f(*examples) -> (processor, batch) of single-image examples."""

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


def make_cache(model):
    return FeatureCache(SYSTEM.encode(SYSTEM.build(model.config), model.config))


def make_example(*prompts, frame=0, **kwargs):
    return Example("it", FRAMES[frame][None], prompts, **kwargs)


@pytest.mark.parametrize(
    "kinds, other",
    [
        (("referring",), False),
        (("referring", "reasoning", "panoptic", "region"), False),
        (("video",), False),
        (("region",), True),
    ],
)
def test_cached_encodings_equal_a_full_pass(kinds, other, make_batch, predict, random_model):
    drawn_on = FRAMES[1] if other else None
    prompts = [PROMPTS[kind] for kind in kinds]
    processor, batch = make_batch(make_example(*prompts, drawn_on=drawn_on), make_example(*prompts, frame=1, drawn_on=drawn_on))
    parts = processor.parts(batch)
    assert parts.keys() == {"image_tokens", "image", "prefix"} | ({"example"} if other else set())
    features = make_cache(random_model).features(random_model.params, parts, lambda part: part)
    full, memory = predict(random_model.params, batch, {}, None)
    rest = {name: value for name, value in batch.items() if "images" not in name}
    result, memory_out = predict(random_model.params, rest, features, None)
    for name in full:
        np.testing.assert_allclose(result[name], full[name], rtol=1e-4, atol=2e-4, err_msg=name)
    np.testing.assert_allclose(memory_out.query, memory.query, rtol=1e-4, atol=1e-4)
    assert np.abs(full["mask_logits"][0] - full["mask_logits"][1]).max() > 1e-2
    remaining = {name: features[name] for name in features if name != "image_tokens"}  # any encoding may be missing
    result, _ = predict(random_model.params, rest | {"clip_images": batch["clip_images"]}, remaining, None)
    np.testing.assert_allclose(result["mask_logits"], full["mask_logits"], rtol=1e-4, atol=2e-4)
    later = make_cache(random_model).features(random_model.params, parts, lambda part: part, memory=True)
    assert "prefix" not in later  # the prefix uses the query of a first frame
    doubled = jax.tree.map(lambda leaf: 2 * leaf, memory)
    second, _ = predict(random_model.params, batch, {}, doubled)
    result, _ = predict(random_model.params, rest, later, doubled)
    np.testing.assert_allclose(result["mask_logits"], second["mask_logits"], rtol=1e-4, atol=2e-4)
    assert np.abs(second["mask_logits"] - full["mask_logits"]).max() > 1e-2


def test_text_is_the_same_with_a_cached_prefix(make_batch, random_model):
    processor, batch = make_batch(make_example(PROMPTS["chat"]), make_example(PROMPTS["chat"], frame=1))
    parts = processor.parts(batch)
    assert parts.keys() == {"image_tokens", "prefix"}
    features = make_cache(random_model).features(random_model.params, parts, lambda part: part)
    tokenizer, seeds = processor.tokenizer, np.zeros(2, np.uint32)
    decoding = Decoding(max_new_tokens=6).for_tokenizer(tokenizer.eos_id, tokenizer.vocab_size)
    writer = SYSTEM.write(SYSTEM.build(random_model.config), random_model.config)
    generate = jax.jit(lambda batch, features: writer.write(random_model.params, batch, features, seeds, decoding))
    rest = {name: value for name, value in batch.items() if "images" not in name}
    full = generate(batch, {})
    assert full.shape == (2, 1, 1, 6) and len(np.unique(full)) > 2
    np.testing.assert_array_equal(generate(rest, features), full)


def test_features_are_cached_by_content(make_batch, random_model):
    added, cache = [], make_cache(random_model)

    def features(examples, params=random_model.params):
        added.clear()
        processor, batch = make_batch(*examples)
        cache.features(params, processor.parts(batch), lambda part: added.append(sorted(part)) or part)
        return sorted(name for part in added for name in part)

    everything = ["clip_images", "images", "layout"]
    assert features([make_example(PROMPTS["referring"])]) == everything
    assert features([make_example(PROMPTS["panoptic"])]) == []  # the same image and the same prefix
    assert features([make_example(PROMPTS["video"])]) == ["layout"]  # "This is a frame"
    assert features([make_example(PROMPTS["referring"], frame=1)]) == everything
    assert features([make_example(PROMPTS["referring"])]) == ["layout"]  # two entries per encoding are cached
    assert CACHE_SIZE == 2
    assert features([make_example(PROMPTS["referring"])], dict(random_model.params)) == []  # the same arrays in another dict
    assert (
        features([make_example(PROMPTS["referring"])], jax.tree.map(lambda leaf: leaf + 0, random_model.params)) == everything
    )
    cache.clear()
    assert features([make_example(PROMPTS["referring"])]) == everything


def test_hosts_agree_on_what_is_encoded(make_batch, random_model, monkeypatch):
    """Encodings that a host lacks or has in another shape are not used; ones that a host has not cached are computed by all."""
    processor, batch = make_batch(make_example(PROMPTS["referring"]))
    parts, encoded = processor.parts(batch), []
    cache = make_cache(random_model)

    def features():
        encoded.clear()
        return sorted(cache.features(random_model.params, parts, lambda part: encoded.append(*part) or part))

    other_host: dict = {}
    monkeypatch.setattr(hosts, "exchange", lambda what, own: [own, json.dumps(json.loads(own) | other_host)])
    assert features() == ["image", "image_tokens", "prefix"] == sorted(parts) and len(encoded) == 3
    assert features() == ["image", "image_tokens", "prefix"] and encoded == []
    shape = [list(batch["images"].shape[1:])]
    other_host["image"] = [shape, False]
    assert features() == ["image", "image_tokens", "prefix"] and encoded == ["images"]
    other_host["prefix"] = [[[7]], True]
    assert features() == ["image", "image_tokens"] and encoded == ["images"]
    del other_host["prefix"]
    other_host["image"] = [[[7]], True]
    assert features() == ["image_tokens"]  # the prefix needs the image


def test_prompts_about_one_image_encode_it_once(random_model, monkeypatch):
    encoded = []
    cache = random_model.engine.feature_cache
    cache.clear()
    jitted = {name: lambda *args, f=f, name=name: encoded.append(name) or f(*args) for name, f in cache._jitted.items()}
    monkeypatch.setattr(cache, "_jitted", jitted)
    examples = [make_example(*(Prompt("referring", text) for text in ("the ring", "the star", "the square")))]
    task = Task("it", None, examples, 0, dataclasses.replace(random_model._processor, length=96))
    options = AnswerOptions("expression", random_model.engine.answers.published)
    protocol = lambda one: EvalProtocol(one, lambda prompt, outputs: outputs["mask"][0, 0])
    args = {"count": 1, "batch_size": 1, "options": options, "on_unreadable": pytest.fail}
    for _, answered in run_protocols(random_model.engine, task, examples, protocol, **args):
        list(answered)
    assert encoded == ["image_tokens", "image", "prefix"]
    assert not any(cache._cached.values())  # and their memory is released


def test_features_on_a_mesh(random_model):
    """Eight rows on eight devices with replicated weights give the results of one device."""
    mesh = placement.make("fsdp")
    positions = placement.parameter_shardings(SYSTEM.boxed_shapes(random_model.config), mesh)
    engine = Engine.from_system(SYSTEM, random_model.config, jax.device_put(random_model.params, positions), mesh.batch)
    frames = RNG.integers(0, 255, (8, 1, 40, 60, 3), np.uint8)
    prompts = tuple(Prompt("referring", text) for text in ("the red ring", "the star on the left"))
    examples = [Example(str(k), frame, prompts) for k, frame in enumerate(frames)]
    task = Task("it", None, examples, 0, dataclasses.replace(random_model._processor, length=96))
    options = AnswerOptions("expression", engine.answers.published)
    messages = collections.defaultdict(list)
    protocol = lambda one: EvalProtocol(one, lambda prompt, outputs: messages[one.name].append(outputs))
    with placement.use(mesh):
        for _, answered in run_protocols(
            engine, task, examples, protocol, count=8, batch_size=8, options=options, on_unreadable=pytest.fail
        ):
            list(answered)
    for one in examples:
        for prompt, outputs in zip(prompts, messages[one.name], strict=True):
            (segment,) = random_model.segment(one.frames[0], prompt.text, no_target_threshold=None)
            assert segment.score == pytest.approx(float(outputs["score"].item()), rel=1e-4)
            mask = np.unpackbits(outputs["mask"][0, 0], axis=-1)[:40, :60].astype(bool)
            assert (mask != segment.mask).mean() < 0.01 and 0 < mask.mean() < 1


def test_rows_without_a_common_prefix(make_batch):
    _, alone = make_batch(make_example(PROMPTS["referring"]))
    length = prefix_length(alone["layout"])
    assert length > 0
    _, mixed = make_batch(make_example(PROMPTS["referring"], PROMPTS["video"]))  # the image is in both segments of the sequence
    assert prefix_length(mixed["layout"]) == 0
    _, unlike = make_batch(make_example(PROMPTS["referring"]), make_example(PROMPTS["chat"]))
    assert prefix_length(unlike["layout"]) == 0


def test_changed_parameters_invalidate_the_cache(make_batch, random_model):
    cache, params = make_cache(random_model), dict(random_model.params)
    processor, batch = make_batch(make_example(PROMPTS["referring"]))
    parts = processor.parts(batch)
    before = cache.features(params, parts, lambda arrays: arrays)
    assert cache.features(params, parts, lambda arrays: arrays)["image_tokens"] is before["image_tokens"]
    params["projector"] = jax.tree.map(lambda leaf: 2 * leaf, params["projector"])
    assert not np.array_equal(cache.features(params, parts, lambda arrays: arrays)["image_tokens"], before["image_tokens"])


def test_encodings_needed_on_one_host_only_are_not_shared(make_batch, random_model, monkeypatch):
    """The other host's prefix needs the image, ours does not: encoding it with and without the image would be two different
    programs."""
    cache = make_cache(random_model)
    processor, batch = make_batch(make_example(PROMPTS["referring"]))
    parts = dict(processor.parts(batch))
    del parts["image"]

    def other_host(what, own):
        mine = json.loads(own)
        return [own, json.dumps({**mine, "image": [[[7]], False]})]

    monkeypatch.setattr(hosts, "exchange", other_host)
    assert [*cache.features(random_model.params, parts, lambda arrays: arrays)] == ["image_tokens"]


def test_videos_are_not_cached(random_model):
    """Their features would need the memory of all frames, and `predict` runs frame by frame."""
    both = Example("it", FRAMES, (PROMPTS["video"],))
    processor = random_model._processor.for_bucket(random_model._processor.bucket(both))
    batch = jax.tree.map(lambda leaf: leaf[None], processor(both, train=False))
    assert processor.parts(batch) == {}
