"""InstructSeg's batches, cached frames and losses at a small size."""

import collections
import dataclasses

import jax
import numpy as np
import pytest
from instructseg_config import small_config
from sample_inputs import random_params

from hyperseg_jax.connectors.text_fusion import FORMS
from hyperseg_jax.data import sources
from hyperseg_jax.data.sources import Task
from hyperseg_jax.datasets.frame_sampling import ReferenceFrames
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.engine import AnswerOptions, Engine, run_protocols
from hyperseg_jax.evaluation.protocols import EvalProtocol
from hyperseg_jax.predictors.model import Model
from hyperseg_jax.structs import IGNORED, Example, Prompt, Source
from hyperseg_jax.systems import system as systems
from hyperseg_jax.systems.instructseg import processor as processor_module
from hyperseg_jax.text.tokenizer import Tokenizer

SYSTEM = systems.get("instructseg")
RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 255, (9, 20, 30, 3), np.uint8)
MASK = np.zeros((1, 1, 20, 30), bool)
MASK[..., 5:15, 5:20] = True
REFERRING = Prompt("referring", "the red ring", masks=MASK)
TOKENIZER = Tokenizer.toy()


@pytest.fixture(scope="module", params=FORMS)
def config(request):
    return small_config(model__text_fusion__form=request.param)


@pytest.fixture(scope="module")
def params(config):
    return random_params(SYSTEM.shapes(config), seed=1)


def make_processor(config, **sizes):
    return SYSTEM.processor(config, TOKENIZER, {"length": 256, "expression": 16, **sizes})


def stack_rows(*rows):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def shapes_of(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, np.dtype(leaf.dtype)), tree)


@pytest.mark.parametrize("sizes", [{}, {"references": 4}, {"prompts": 2, "answers": 0}, {"masks": 0}])
def test_elements_have_the_declared_shapes(config, sizes):
    processor = make_processor(config, **sizes)
    prompt = Prompt("chat", "What is it?", answer="A ring.") if not sizes.get("masks", 1) else REFERRING
    element = processor(Example("it", FRAMES[:1], (prompt,)), train=True)
    spec = processor.spec(3)
    expected = jax.tree.map(lambda leaf: (leaf.shape[1:], np.dtype(leaf.dtype)), spec)
    assert shapes_of(element) == expected and shapes_of(processor.blank()) == expected
    assert element["bad"] == False and processor.blank()["bad"] == True  # noqa: E712


def test_a_prompt_is_tokenized_once(config, monkeypatch):
    calls, tokenize = [], processor_module.tokenize_prompt
    monkeypatch.setattr(
        processor_module, "tokenize_prompt", lambda *args, **more: calls.append(args) or tokenize(*args, **more)
    )
    make_processor(config)(Example("it", FRAMES[:1], (REFERRING,)), train=True)
    assert len(calls) == 1


def test_consecutive_queries_differ_in_one_slot(config):
    processor, references = make_processor(config, references=4), ReferenceFrames(4)
    before, changed = None, []
    for t in range(len(FRAMES)):
        numbers = references.query(t, len(FRAMES))
        example = Example("it", FRAMES[list(numbers)], (REFERRING,), frame_numbers=numbers)
        element = processor(example, train=False)
        clips = list(element["clip_images"].values())
        whole = [make_processor(config)(Example("it", FRAMES[n : n + 1], (REFERRING,)), train=False) for n in numbers]
        for slot, alone in zip((element["key_slot"], *element["reference_slots"]), whole, strict=True):
            np.testing.assert_array_equal(clips[slot], alone["clip_images"]["slot_000"])
        np.testing.assert_array_equal(element["images"], whole[0]["images"])
        if before is not None:
            changed.append(sum(not np.array_equal(one, other) for one, other in zip(clips, before, strict=True)))
        before = clips
    assert changed == [0, 0, 1, 1, 1, 1, 0, 0]


def test_training_clips_keep_their_reference_frames(config):
    masks = np.zeros((1, 5, 20, 30), bool)
    masks[:, 0, 5:15, 5:20] = True  # only the queried frame counts
    example = Example("it", FRAMES[:5], (Prompt("video", "the red ring", masks=masks),))
    task = Task("video", [example], None, 1, make_processor(config, references=4, targets=1))
    element = task.prepare(example, np.random.default_rng(0))
    assert element["key_slot"] == 0 and element["reference_slots"].tolist() == [1, 2, 3, 4]
    count = (element["layout"]["source"] == Source.RESAMPLED).sum()
    assert count == 4 * config.model.object_perceiver.num_queries and element["segments"].any()


def test_an_image_and_a_video_of_one_frame_are_their_own_reference(config):
    for references in (0, 4):
        element = make_processor(config, references=references)(Example("it", FRAMES[:1], (REFERRING,)), train=False)
        assert element["key_slot"] == 0 and not element["reference_slots"].any()
        assert (element["layout"]["source"] == Source.RESAMPLED).sum() == config.model.object_perceiver.num_queries


def test_only_answers_of_chats_and_of_reasoning_about_images_are_supervised(config):
    processor = make_processor(config, references=4, targets=1)
    prompts = {
        "referring": REFERRING,
        "reasoning": dataclasses.replace(REFERRING, task="reasoning", answer="It is round."),
        "video": dataclasses.replace(REFERRING, task="video"),
        "chat": Prompt("chat", "What is it?", answer="A ring."),
    }
    for task, prompt in prompts.items():
        element = processor(Example("it", FRAMES[:1], (prompt,)), train=True)
        labels, source = element["layout"]["labels"], element["layout"]["source"]
        assert (labels != IGNORED).any() == element["answered"] == (task in ("reasoning", "chat")), task
        visible = element["layout"]["mask"][(source == Source.TEXT) & (element["layout"]["text_ids"] == TOKENIZER.eos_id)]
        assert len(visible) and not visible.any()  # no position attends to an end token


def test_half_of_the_explanations_are_trained(config):
    processor, prompt = make_processor(config), dataclasses.replace(REFERRING, task="reasoning", answer="It is round.")
    rng = np.random.default_rng(0)
    elements = [processor(Example("it", FRAMES[:1], (prompt,)), train=True, rng=rng) for _ in range(40)]
    lengths = collections.Counter(int((element["layout"]["labels"] != IGNORED).sum()) for element in elements)
    (short, without), (long, explained) = sorted(lengths.items())
    assert 10 <= explained <= 30 and without + explained == 40
    assert long - short >= len(TOKENIZER.encode("It is round."))
    assert max(lengths) == (processor(Example("it", FRAMES[:1], (prompt,)), train=True)["layout"]["labels"] != IGNORED).sum()


def test_prompts_about_one_image_have_separate_reference_tokens(config):
    """The perceiver reads the expression, so prompts share only the text before its tokens."""
    processor = make_processor(config, prompts=2, length=512)
    other = dataclasses.replace(REFERRING, text="the blue star left of it")
    both = processor(Example("it", FRAMES[:1], (REFERRING, other)), train=False)
    shared = both["layout"]["prompt"] == 0
    sources = both["layout"]["source"][shared]
    assert (sources[: sources.argmax() or None] != Source.RESAMPLED).all()
    for k, prompt in enumerate((REFERRING, other), 1):
        count = ((both["layout"]["source"] == Source.RESAMPLED) & (both["layout"]["prompt"] == k)).sum()
        assert count == config.model.object_perceiver.num_queries, prompt.text


@pytest.mark.parametrize(
    "sizes, prompt, message",
    [
        ({"expression": 2}, REFERRING, "tokens of an expression, but the task allows 2; increase expression in its config"),
        ({"masks": 0}, REFERRING, "masks = 0"),
        ({"answers": 0}, dataclasses.replace(REFERRING, task="reasoning"), "answers = 0"),
        ({"length": 20}, REFERRING, "raise the task's `length`"),
        ({}, Prompt("panoptic", classes=("ring",)), "InstructSeg does not support it"),
        ({}, Prompt("referring", " "), "needs a text"),
    ],
)
def test_unfit_examples_are_named(config, sizes, prompt, message):
    with pytest.raises(UserError, match=f"it#3: .*{message}"):
        make_processor(config, **sizes)(Example("it#3", FRAMES[:1], (prompt,)), train=True)


def test_invalid_sizes_are_named(config):
    with pytest.raises(UserError, match=r"data\.reference_frames = 4"):
        make_processor(config, references=3)
    with pytest.raises(UserError, match="masks = 0 is for single images"):
        make_processor(config, masks=0, references=4)


@pytest.mark.parametrize("fields", [{"frames": 8}, {"frames": 3}, {"sampling": "jump"}, {"frames": None}])
def test_training_clips_that_do_not_fit_the_task_are_refused(fields):
    """Too many frames would be dropped, too few or another order would train other references or another key frame."""
    config = small_config().unlock()
    config.data.tasks.video.train.update(fields)
    with pytest.raises(UserError, match=r"data\.tasks\.video\.train: .*; give frames = 5, sampling = 'references', or"):
        sources.make_processor(config, SYSTEM, TOKENIZER, "video")
    config.data.tasks.video.references = 0  # an image of each clip, its own reference
    assert sources.make_processor(config, SYSTEM, TOKENIZER, "video").frames == 1


BENCHMARK = {"split": "train", "root": "{root}"}


@pytest.mark.parametrize(
    "reader, train, checked",
    [
        ("words", {"frames": 2, "sampling": "mine"}, False),
        ("benchmark", {"name": "refcoco", **BENCHMARK}, False),
        ("benchmark", {"name": "revos", **BENCHMARK}, True),
        ("toy", {"folder": "{root}", "split": "train", "task": "referring"}, False),
        ("refcoco", {"json_path": "a.json", "image_root": "b"}, False),
    ],
)
def test_only_readers_that_sample_clips_are_checked(monkeypatch, reader, train, checked):
    """A registered reader may take any fields; images are their own references."""
    monkeypatch.setitem(sources.READERS, "words", lambda **fields: [])
    config = small_config().unlock()
    del config.data.tasks.video.train
    config.data.tasks.video.update({"reader": reader, "train": train})
    if checked:
        with pytest.raises(UserError, match=r"frames = 5, sampling = 'references', or sizes of the task for a single frame$"):
            sources.make_processor(config, SYSTEM, TOKENIZER, "video")
    else:
        assert sources.make_processor(config, SYSTEM, TOKENIZER, "video").frames == 5


def test_prompts_in_one_sequence_predict_as_alone(config, params):
    """Also with padded expressions, and with features that were encoded before."""
    predict = jax.jit(SYSTEM.predict(SYSTEM.build(config), config))
    prompts = (REFERRING, dataclasses.replace(REFERRING, text="the blue star left of it"))
    alone = [
        predict(params, stack_rows(make_processor(config)(Example("it", FRAMES[:1], (prompt,)), train=False)), {})[0]
        for prompt in prompts
    ]
    processor = make_processor(config, prompts=2, length=512, expression=24)
    batch = stack_rows(processor(Example("it", FRAMES[:1], prompts), train=False))
    both, _ = predict(params, batch, {})
    encodings, parts = SYSTEM.encode(SYSTEM.build(config), config), processor.parts(batch)
    features = {name: encodings[name].function(params, part, {}) for name, part in parts.items()}
    rest = {name: value for name, value in batch.items() if name not in ("images", "clip_images")}
    cached, _ = predict(params, rest, features)
    for name in ("mask_logits", "expression"):
        assert both[name].shape[:3] == (1, 1, 2) and np.std(both[name]) > 1e-3
        for k in range(2):
            np.testing.assert_allclose(both[name][:, :, k], alone[k][name][:, :, 0], rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(both[name], cached[name], rtol=1e-4, atol=1e-4)


def test_reference_frames_change_the_prediction(config, params):
    predict = jax.jit(SYSTEM.predict(SYSTEM.build(config), config))
    processor = make_processor(config, references=4)

    def masks(*numbers):
        example = Example("it", FRAMES[list(numbers)], (dataclasses.replace(REFERRING, task="video"),), frame_numbers=numbers)
        return predict(params, stack_rows(processor(example, train=False)), {})[0]["mask_logits"]

    base = masks(2, 0, 1, 3, 4)
    assert np.abs(base - masks(2, 0, 1, 3, 5)).max() > 1e-5  # the last reference
    assert np.abs(base - masks(3, 0, 1, 2, 4)).max() > 1e-5  # the queried frame
    np.testing.assert_array_equal(base, masks(2, 0, 1, 3, 4))


@pytest.mark.parametrize("lengths", [(9,), (9, 6, 1)])
def test_each_frame_is_encoded_once(config, params, lengths, monkeypatch):
    """In a batch of videos of different lengths, the language branch encodes as many frames as the longest has."""
    engine = Engine.from_system(SYSTEM, config, params)
    calls = collections.Counter()

    def count(name, function):
        return lambda *args: calls.update([name]) or function(*args)

    jitted = {name: count(name, function) for name, function in engine.feature_cache._jitted.items()}
    monkeypatch.setattr(engine.feature_cache, "_jitted", jitted)
    prompt = Prompt("video", "the red ring", masks=np.zeros((1, 9, 20, 30), bool))
    examples = [Example(f"video {n}", FRAMES[:n], (dataclasses.replace(prompt, masks=prompt.masks[:, :n]),)) for n in lengths]
    task = Task("video", None, examples, 0, make_processor(config))
    options = AnswerOptions("expression", engine.answers.published)
    predicted = collections.Counter()
    for _, finished in run_protocols(
        engine,
        task,
        examples,
        lambda each: EvalProtocol(each, lambda *_: predicted.update([each.name]), engine.reference_frames),
        count=len(examples),
        batch_size=len(examples),
        options=options,
        on_unreadable=lambda index, reason: pytest.fail(reason),
    ):
        list(finished)
    assert predicted == {f"video {n}": n for n in lengths}
    slots = sum(count for name, count in calls.items() if name != "image")
    assert slots == max(lengths) and calls["image"] == max(lengths)


def test_a_stream_predicts_as_an_offline_video(config, params):
    model = Model(config, TOKENIZER, params)
    options = {"no_target_threshold": None}
    streamed = [prediction.masks for _, prediction in model.segment_video(iter(FRAMES), "the red ring", **options)]
    answers = AnswerOptions("expression", model.engine.answers.published)
    for t, masks in enumerate(streamed):
        numbers = ReferenceFrames(4).query(t, len(FRAMES))
        example = Example("it", FRAMES[list(numbers)], (Prompt("video", "the red ring"),), frame_numbers=numbers)
        np.testing.assert_array_equal(masks, model._predict(example, answers, cache_features=False)[0].masks)
    assert len(streamed) == len(FRAMES) and 0 < np.mean(streamed) < 1
    with pytest.raises(UserError, match="give frames of one size"):
        list(model.segment_video([FRAMES[0], FRAMES[1][:10]], "the red ring"))


@pytest.fixture(scope="module")
def loss_of(config, params):
    model = SYSTEM.build(config)
    counts, loss = jax.jit(SYSTEM.counts(model, config)), jax.jit(jax.value_and_grad(SYSTEM.loss(model, config), has_aux=True))

    def compute(*rows, divisors=None):
        batch = stack_rows(*rows)
        (total, metrics), gradient = loss(params, batch, jax.random.key(0), counts(batch) if divisors is None else divisors)
        return total, metrics, gradient

    return compute, lambda *rows: counts(stack_rows(*rows))


def test_bad_elements_have_no_loss(config, loss_of):
    compute, _ = loss_of
    processor = make_processor(config, targets=1)
    row = processor(Example("it", FRAMES[:1], (dataclasses.replace(REFERRING, task="reasoning"),)), train=True)
    total, metrics, gradient = compute(row, row)
    assert set(metrics) == {"mask", "dice", "expression", "text"} and all(float(value) > 0 for value in metrics.values())
    left_out = compute(row, processor.blank())
    close = lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    close(left_out[0], total)
    jax.tree.map(close, left_out[2], gradient)
    nothing, _, gradient = compute(processor.blank(), processor.blank())
    assert nothing == 0 and all(not leaf.any() for leaf in jax.tree.leaves(gradient))


def test_slices_of_a_batch_add_up(config, loss_of):
    compute, counts = loss_of
    processor = make_processor(config, targets=1)
    prompts = (dataclasses.replace(REFERRING, task="reasoning"), dataclasses.replace(REFERRING, text="a star"))
    rows = [processor(Example("it", FRAMES[k : k + 1], (prompt,)), train=True) for k, prompt in enumerate(prompts)]
    whole, divisors = compute(*rows), counts(*rows)
    assert jax.tree.map(float, divisors) == jax.tree.map(lambda *parts: float(sum(parts)), *(counts(row) for row in rows))
    parts = [compute(row, processor.blank(), divisors=divisors) for row in rows]
    np.testing.assert_allclose(sum(part[0] for part in parts), whole[0], rtol=1e-4)


def test_a_mixed_batch_trains_each_task_like_a_separate_batch(config, loss_of):
    compute, counts = loss_of
    tasks = {"targets": 1, "answers": 0}, {"targets": 1, "references": 4}, {"masks": 0}
    first, *others = (make_processor(config, **sizes) for sizes in tasks)
    shared = first.with_common_shape(others)
    prompts = [
        (FRAMES[:1], REFERRING),
        (FRAMES[:5], Prompt("video", "the red ring", masks=np.repeat(MASK, 5, axis=1))),
        (FRAMES[:1], Prompt("chat", "What?", answer="A ring.")),
    ]
    rows = [shared(Example("it", frames, (prompt,)), train=True) for frames, prompt in prompts]
    assert all(shapes_of(row) == shapes_of(shared.blank()) for row in rows)
    whole, metrics, _ = compute(*rows, shared.blank())
    divisors = counts(*rows, shared.blank())
    parts = [compute(row, *[shared.blank()] * 3, divisors=divisors) for row in rows]
    np.testing.assert_allclose(sum(part[0] for part in parts), whole, rtol=1e-4)
    assert all(float(part[0]) > 0 for part in parts) and {"mask", "text"} <= set(metrics)


def test_tasks_without_answers_or_masks_compile_no_such_loss(config, loss_of):
    compute, _ = loss_of
    referring = make_processor(config, targets=1, answers=0)(Example("it", FRAMES[:1], (REFERRING,)), train=True)
    assert "text" not in compute(referring)[1]
    chat = make_processor(config, masks=0)(Example("it", FRAMES[:1], (Prompt("chat", "What?", answer="A ring."),)), train=True)
    total, metrics, gradient = compute(chat)
    assert set(metrics) == {"text"} and float(total) > 0
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradient["mask_decoder"]))


def test_forms_of_the_text_fusion_differ():
    """Details of the text have an effect on the scores only as the paper describes it."""
    params, scores = random_params(SYSTEM.shapes(small_config()), seed=1), {}
    for form in FORMS:
        config = small_config(model__text_fusion__form=form)
        model = SYSTEM.build(config)
        processor = make_processor(config)
        batch = stack_rows(processor(Example("it", FRAMES[:1], (REFERRING,)), train=False))
        scores[form] = jax.jit(SYSTEM.predict(model, config))(params, batch, {})[0]["expression"]
    assert np.abs(scores["published"] - scores["multi_granularity"]).max() > 1e-3
