"""SEEM as its users call it: interactive sessions, names for masks, and videos by an example."""

import gc
import weakref

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sample_inputs import random_params
from seem_config import small_config

from hyperseg_jax.decoders.seem import SeemPrediction, SeemStage
from hyperseg_jax.errors import UserError
from hyperseg_jax.predictors import model as predictors
from hyperseg_jax.predictors.model import Model
from hyperseg_jax.structs import Region
from hyperseg_jax.systems import system as systems
from hyperseg_jax.systems.seem import rounds

SYSTEM = systems.get("seem")
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 255, (40, 60, 3), np.uint8)
EXAMPLE = RNG.integers(0, 255, (50, 44, 3), np.uint8)
CLASSES = ("ring", "star-merged", "square")


@pytest.fixture(scope="module")
def model():
    config = small_config()
    return Model(config, SYSTEM.tokenizer(config), random_params(SYSTEM.shapes(config), seed=3, spread=0.3))


def two_boxes():
    return [Region.from_box(5, 5, 25, 30), Region.from_box(30, 8, 44, 35)]


def count_calls(monkeypatch, model, name):
    """Returns a list that gets an entry for each time that a part is encoded."""
    calls, jitted = [], model.engine.feature_cache._jitted
    real = jitted[name]
    monkeypatch.setitem(jitted, name, lambda *inputs: calls.append(name) or real(*inputs))
    model.engine.feature_cache.clear()
    return calls


def test_a_second_round_remembers_the_first(model):
    first, second = model.segment_rounds(IMAGE, [two_boxes(), two_boxes()])
    assert first.scores != second.scores


def test_a_session(model, monkeypatch):
    encoded = count_calls(monkeypatch, model, "image")
    session = model.session(IMAGE, classes=CLASSES)
    assert session.prediction is None
    first = session.add_points([[10, 10]])
    second = session.add_points([[40, 20]], positive=False)
    assert len(first) == len(second) == 1 and first.scores != second.scores
    third = session.add_box(30, 8, 55, 35, target=1)
    assert len(third) == 2
    assert session.undo() is second and session.prediction is second
    again = session.add_box(30, 8, 55, 35, target=1)
    assert again.scores == third.scores
    with_text = session.add_text("the red ring")
    assert len(with_text) == 2 and with_text.scores != again.scores
    for prediction in (first, third, with_text):
        assert set(prediction.names) <= set(CLASSES)
        assert prediction.names == tuple(CLASSES[label] for label in prediction.labels)
    assert session.undo() is again
    session.reset()
    assert session.prediction is None
    with pytest.raises(UserError, match="nothing to undo"):
        session.undo()
    assert session.add_points([[10, 10]]).scores == first.scores  # nothing is remembered
    assert len(encoded) == 1


@pytest.mark.parametrize(("variant", "text"), [("v1", ""), ("v0", ""), ("v0", "the red ring")])
def test_objects_that_are_begun_later_have_no_memory(variant, text):
    """What was predicted for the padding of the last round is not taken for their last mask. The table of demo, which v0 uses
    with a text, has no memory at all."""
    fields = {"variant": variant, "num_layers": 3}
    config = small_config(data__image_size=128, **{f"model__mask_decoder__{name}": value for name, value in fields.items()})
    large = Model(config, SYSTEM.tokenizer(config), random_params(SYSTEM.shapes(config), seed=3, spread=0.3))
    four = [*two_boxes(), Region.from_point(50, 5), Region.from_box(4, 32, 20, 38)]
    _, memory = large.answer_round(IMAGE, four[:3], text=text)
    assert memory.known.tolist() == [[True, True, True, False]]

    def scores(*remembered):
        """Answers with these masks (left or right half) in the memory."""
        signs = np.where(np.arange(memory.mask_logits.shape[-1]) < memory.mask_logits.shape[-1] // 2, 9.0, -9.0)
        masks = [np.broadcast_to(signs * sign, memory.mask_logits.shape[-2:]) for sign in remembered]
        predicted, _ = large.answer_round(IMAGE, four, text=text, memory=memory.replace(mask_logits=jnp.asarray([masks])))
        return np.array(predicted.scores)

    first = np.array(large.answer_round(IMAGE, four, text=text)[0].scores)
    again = scores(1, 1, 1, 1)
    np.testing.assert_array_equal(scores(1, 1, 1, -1), again)
    np.testing.assert_allclose(again[3], first[3], rtol=1e-5)
    changed = np.abs(scores(-1, -1, -1, 1) - again) > 1e-5
    remembers = variant == "v1" or (variant == "v0" and not text)
    assert changed[:3].any() == remembers and not changed[3]
    assert np.allclose(again, first, rtol=1e-5) != remembers


def test_names_are_those_of_the_objects_that_overlap_most():
    """A prompt whose own class embedding says something else, and whose mask shares more with the second object."""
    masks = -np.ones((1, 3, 4, 4), np.float32)
    masks[0, 0, :2] = masks[0, 1, 2:] = masks[0, 2, 1:, :3] = 1  # two objects, and the answer to a mark
    zeros, classes = jnp.zeros((1, 3, 2)), jnp.arange(3.0)[None, :, None]
    stage = SeemStage(zeros, jnp.asarray(masks), zeros, classes)
    prediction = SeemPrediction((stage,), jnp.ones((1, 1, 2)), None, (("object", 0, 2), ("mark_query", 2, 3)))
    answers = rounds.answer_marks(prediction)
    assert answers.class_embedding.tolist() == [[[2.0]]]
    named = rounds.name_by_objects(answers, prediction)
    assert named.class_embedding.tolist() == [[[1.0]]] and named.scores is answers.scores


def test_a_phrase_is_named_by_its_class(model):
    (named,) = model.session(IMAGE, classes=CLASSES).add_text("the red ring")
    assert named.label in CLASSES
    (phrase,) = model.session(IMAGE).add_text("the red ring")
    assert phrase.label == "the red ring" and phrase.score == pytest.approx(named.score, rel=1e-5)
    assert np.array_equal(phrase.mask, named.mask)


def test_marks_of_all_kinds(model):
    """A polygon, a box and a mask of the same pixels are the same prompt; a box marks all of them, not only its centre."""
    session, answers = model.session(IMAGE), []
    mask = np.zeros(IMAGE.shape[:2], bool)
    mask[8:20, 10:31] = True
    answers = [
        session.add_polygon([[10, 8], [30, 8], [30, 19], [10, 19]]),
        session.add_box(10, 8, 31, 20, target=1),
        session.add_mask(mask, target=2),
        session.add_scribble([[12, 10], [28, 18]], target=3),
        session.add_points([[20, 14]], target=4),
    ]
    assert [len(answer) for answer in answers] == [1, 2, 3, 4, 5]
    polygon, box, drawn, scribble, click = (region for region in session._rounds[-1].regions)
    alone = [model.segment_regions(IMAGE, [region]).scores for region in (polygon, box, drawn, scribble, click)]
    assert alone[0] == alone[1] == alone[2] and len({*alone}) == 3


@pytest.mark.parametrize(
    "add, message",
    [
        (lambda s: s.add_points([[1, 1]], target=5), "target = 5: give the index of an object, or 1 for another one"),
        (lambda s: s.add_points([[1, 1]], target=0.5), "target = 0.5: give the index of an object"),
        (lambda s: s.add_points([[100, 1]]), r"the point \(100, 1\) is not inside an image of 60 x 40 pixels"),
        (lambda s: s.add_points([[5, 5], [-1, 1]]), r"the point \(-1, 1\) is not inside"),
        (lambda s: s.add_points([]), "points: are no points"),
        (lambda s: s.add_points([5, 5]), "points: are no points"),
        (lambda s: s.add_points([[5, 5, 1], [6, 6, 1]]), "points: are no points"),
        (lambda s: s.add_points([[5, np.nan]]), "points: are no points"),
        (lambda s: s.add_points([[5, 5], [6, 6]], positive=[True]), r"positive has the shape \(1,\) for 2 points"),
        (lambda s: s.add_points([[5, 5]], positive=False, target=1), "region 2 has only points beside the object"),
        (lambda s: s.add_scribble([]), "a scribble of a region is empty"),
        (lambda s: s.add_scribble([[100, 1], [120, 5]]), "no pixel of a scribble is inside"),
        (lambda s: s.add_box(30, 5, 20, 9), "left > right"),
        (lambda s: s.add_box(70, 5, 80, 9), "is not in an image of 60 x 40"),
        (lambda s: s.add_polygon([[5, 5], [9, 9]]), "2 corners; give at least three"),
        (lambda s: s.add_polygon([[70, 5], [90, 9], [80, 20]]), "nothing is marked"),
        (lambda s: s.add_mask(np.zeros((40, 60), bool)), "nothing is marked"),
        (lambda s: s.add_mask(np.ones((60, 40), bool)), r"the mask has size \(60, 40\), but the image has \(40, 60\)"),
        (lambda s: s.add_text(" . "), "the prompt is empty"),
        (lambda s: s.add_example(EXAMPLE), "no region is given"),
        (lambda s: s.add_example(EXAMPLE, np.ones((40, 60), bool)), r"region 1 has size \(40, 60\), but the image has"),
        (lambda s: s.add_audio("speech.wav"), "audio is not supported; transcribe it"),
    ],
)
def test_bad_marks_leave_the_session_as_it_was(model, add, message):
    session = model.session(IMAGE)
    before = session.add_points([[10, 10]])
    with pytest.raises(UserError, match=message):
        add(session)
    assert session.prediction is before and len(session._rounds) == 2


def test_an_example_image_of_another_size(model):
    session = model.session(IMAGE, classes=CLASSES)
    session.add_text("the red ring")
    both = session.add_example(EXAMPLE, *two_boxes())
    assert both.masks.shape == (2, 40, 60) and set(both.names) <= set(CLASSES)
    with pytest.raises(UserError, match="example image"):
        session.add_points([[10, 10]])
    session.reset()
    without_text = session.add_example(EXAMPLE, *two_boxes())
    assert without_text.scores != both.scores
    one = session.add_example(EXAMPLE, two_boxes()[1])
    assert one.scores[0] == pytest.approx(without_text.scores[1], rel=1e-4)  # objects do not change each other
    other = session.add_example(IMAGE, two_boxes()[1])
    assert other.scores != one.scores


def frames_of(count, kept):
    """Yields frames; kept gets a weak reference to each."""
    for k in range(count):
        frame = np.roll(IMAGE, 5 * k, axis=1)
        kept.append(weakref.ref(frame))
        yield frame


def test_a_video_by_an_example(model, monkeypatch):
    """The example is encoded once, frames are independent, and only a few are in memory."""
    encoded, images, kept, alive, scores = (
        count_calls(monkeypatch, model, "example"),
        count_calls(monkeypatch, model, "image"),
        [],
        [],
        [],
    )
    for frame, found in model.segment_video(frames_of(12, kept), regions=two_boxes(), drawn_on=EXAMPLE, labels=("a", "b")):
        assert found.masks.shape == (2, *frame.shape[:2]) and found.names == ("a", "b")
        scores.append(found.scores)
        del frame, found
        gc.collect()
        alive.append(sum(reference() is not None for reference in kept))
    assert len(encoded) == 1 and len(images) == len(scores) == 12 and len(set(scores)) > 1
    assert max(alive) <= predictors.FRAMES_AHEAD + 2
    alone = model.segment_regions(np.roll(IMAGE, 25, axis=1), two_boxes(), drawn_on=EXAMPLE)
    np.testing.assert_allclose(scores[5], alone.scores, rtol=1e-5)
    assert all(len(cached) <= 2 for cached in model.engine.feature_cache._cached.values())


def test_a_video_by_its_first_frame(model, tmp_path):
    frames = [np.roll(IMAGE, 5 * k, axis=1) for k in range(3)]
    for k, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{k}.png")
    by_first = [found.scores for _, found in model.segment_video(frames, regions=two_boxes())]
    by_example = [found.scores for _, found in model.segment_video(tmp_path, regions=two_boxes(), drawn_on=frames[0])]
    assert by_first == by_example and len(by_first) == 3
    composed = [found.scores for _, found in model.segment_video(frames, "the red ring", regions=two_boxes())]
    assert composed != by_first
    assert list(model.segment_video([], regions=two_boxes())) == []
    with pytest.raises(UserError, match="say what to segment"):
        model.segment_video(frames)
    with pytest.raises(UserError, match="no images here"):
        (tmp_path / "empty").mkdir()
        list(model.segment_video(tmp_path / "empty", regions=two_boxes()))


def test_class_lists_of_all_kinds(model):
    instances = model.segment_classes(IMAGE, CLASSES[:2], stuff=CLASSES[2:], kind="instances")
    assert len(instances) and set(instances.names) <= set(CLASSES[:2])
    semantic = model.segment_classes(IMAGE, CLASSES, kind="semantic")
    assert (semantic.masks.sum(0) == 1).all() and len(set(semantic.names)) == len(semantic)
    with pytest.raises(UserError, match="kind = 'boxes': use one of panoptic, instances, semantic"):
        model.segment_classes(IMAGE, CLASSES, kind="boxes")


@pytest.mark.parametrize(
    "ask, message",
    [
        (
            lambda m: m.segment_classes(IMAGE, "dog"),
            r"classes = 'dog': is one text; .* as in classes=\['dog'\]",
        ),
        (lambda m: m.segment_classes(IMAGE, ["dog"], stuff="grass"), "stuff = 'grass': is one text"),
        (lambda m: m.session(IMAGE, classes="dog"), "classes = 'dog': is one text"),
        (lambda m: m.segment_classes(IMAGE, [], kind="semantic"), "no classes are given; name at least one"),
        (lambda m: m.segment_regions(IMAGE, two_boxes(), text=" "), "the prompt is empty"),
        (lambda m: list(m.segment_video([IMAGE], ".", regions=two_boxes())), "the prompt is empty"),
    ],
)
def test_texts_that_say_nothing_are_refused(model, ask, message):
    with pytest.raises(UserError, match=message):
        ask(model)
