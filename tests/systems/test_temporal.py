"""The temporal adapter: what frames pass to the next ones, in training and frame by frame."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sample_inputs import make_regions, random_params

from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import placement
from hyperseg_jax.structs import Example, Layout, Prompt, Source
from hyperseg_jax.systems import system as systems
from hyperseg_jax.systems.hyperseg.frames import run_frames
from hyperseg_jax.systems.hyperseg.temporal import FrameMemory, PromptMemory, Temporal, present_items, spread
from hyperseg_jax.tables import flatten
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.training import resume
from hyperseg_jax.weights import model_folder
from hyperseg_jax.weights.exporting import export_weights
from hyperseg_jax.weights.importing import import_weights

SYSTEM, TOKENIZER = systems.get("hyperseg"), Tokenizer.toy()
ROWS, FRAMES, KEPT = 8, 4, 2
PIXELS = np.random.default_rng(0).integers(0, 255, (ROWS, FRAMES, 32, 32, 3), np.uint8)
SQUARE = np.zeros((1, 32, 32), bool)
SQUARE[0, 4:20, 8:24] = True
PROMPTS = (
    Prompt("video", text="the red ring"),
    Prompt("panoptic", classes=("ring", "red star"), things=(True, True)),
    Prompt("region", regions=make_regions(SQUARE)),
)


def make_config(micro, **fields):
    config = micro(("video",))
    config.model.temporal.update({"aggregation": True, "frames": KEPT, **fields})
    return config


@pytest.fixture(scope="module")
def config(micro):
    return make_config(micro)


@pytest.fixture(scope="module")
def params(config):
    return random_params(SYSTEM.shapes(config), seed=3)


@pytest.fixture(scope="module")
def clips(config):
    """A batch of clips with three packed prompts of different kinds. Row 1 ends early; row 2 has a padding frame inside."""
    sizes = {"frames": FRAMES, "prompts": 3, "length": 288, "classes": 3, "regions": 1, "targets": 0}
    processor = SYSTEM.processor(config, TOKENIZER, sizes)
    elements = [processor(Example(str(k), frames, PROMPTS), train=False) for k, frames in enumerate(PIXELS)]
    batch = jax.tree.map(lambda *rows: np.stack(rows), *elements)
    batch["frame_valid"][1, 2:] = batch["frame_valid"][2, 1] = False
    return batch


@pytest.fixture(scope="module")
def predict(config):
    return jax.jit(SYSTEM.predict(SYSTEM.build(config), config))


@pytest.fixture(scope="module")
def at_once(predict, params, clips):
    return predict(params, clips, {})


def frame(batch, t):
    of_frames = ("images", "clip_images", "frame_valid")
    return {name: value[:, t : t + 1] if name in of_frames else value for name, value in batch.items()}


def compare(found, expected, rows=slice(None), share=0.99):
    """Nearly all elements are equal: rounding may flip a cell of an attention mask."""
    for name in ("mask_logits", "expression", "class", "region"):
        a, b = (np.asarray(each[name][rows], np.float32) for each in (found, expected))
        assert a.shape == b.shape and np.isclose(a, b, rtol=1e-3, atol=1e-3 * b.std()).mean() > share, name


def test_the_mean_is_that_of_the_last_valid_frames():
    """Against a list for each item, with padding frames and items that are only in some frames."""
    rng = np.random.default_rng(1)
    rows, prompts, items, width, kept = 3, 2, 4, 5, 3
    memory = PromptMemory.empty(rows, prompts, kept, items, width, "float32")
    assert not memory.mean()[1].any()
    seen = [[] for _ in range(rows)]
    for _ in range(9):
        values = rng.standard_normal((rows, prompts, items, width)).astype(np.float32)
        valid, present = rng.random((rows, prompts, items)) < 0.7, rng.random(rows) < 0.7
        memory = memory.with_frame(values, valid, present)
        assert memory.embeddings.shape == (rows, prompts, kept, items, width)
        mean, remembered = memory.mean()
        for row in range(rows):
            seen[row] += [(values[row], valid[row])] * bool(present[row])
            for k, n in np.ndindex(prompts, items):
                last = [value[k, n] for value, listed in seen[row][-kept:] if listed[k, n]]
                assert remembered[row, k, n] == bool(last)
                np.testing.assert_allclose(mean[row, k, n], np.mean(last, axis=0) if last else 0, atol=1e-6)


def test_values_are_at_the_positions_of_their_item():
    """A class list of two names, two tokens each, then an expression, as two packed prompts."""
    text, expression, classes = Source.TEXT, Source.EXPRESSION, Source.CLASS
    rows = {
        "source": [text, classes, classes, text, classes, classes, expression, expression, Source.QUERY, Source.PADDING],
        "segment": [0, 1, 1, 0, 2, 2, 1, 1, 0, 0],
        "prompt": [0, 1, 1, 1, 1, 1, 2, 2, 2, 0],
        "index": [0, 0, 1, 1, 2, 3, 0, 1, 0, 0],
    }
    fields = {field.name: rows.get(field.name, [0] * 10) for field in dataclasses.fields(Layout)}
    layout = Layout(**{name: np.asarray([row], bool if name == "mask" else np.int32) for name, row in fields.items()})
    values = np.arange(1.0, 7).reshape(1, 2, 3, 1)  # of two prompts with up to three items
    np.testing.assert_array_equal(spread(values, layout)[0, :, 0], [0, 1, 1, 0, 2, 2, 4, 4, 0, 0])
    np.testing.assert_array_equal(present_items(layout, 2, 3)[0], [[True, True, False], [True, False, False]])


def test_memory_by_prompt_and_by_image():
    rng = np.random.default_rng(2)
    prompts = PromptMemory(jnp.asarray(rng.random((2, 3, 4, 5, 6))), jnp.asarray(rng.random((2, 3, 4, 5)) < 0.5))
    memory = FrameMemory(jnp.asarray(rng.random((2, 7, 8))), prompts)
    split = memory.of_prompts(3)
    np.testing.assert_array_equal(split.query[4], memory.query[1])
    np.testing.assert_array_equal(split.prompts.embeddings[4, 0], prompts.embeddings[1, 1])
    jax.tree.map(np.testing.assert_array_equal, split.of_images(3), memory)
    wider = prompts.with_room(6)
    np.testing.assert_array_equal(wider.embeddings[..., :5, :], prompts.embeddings)
    assert wider.valid.shape[-1] == 6 and not wider.valid[..., 5].any()


def test_a_clip_equals_its_frames_one_by_one(predict, params, clips, at_once):
    """Padding frames included, with a memory of constant size and one program for all later frames."""
    outputs, memory = [], None
    for t in range(FRAMES):
        before, (found, memory) = predict._cache_size(), predict(params, frame(clips, t), {}, memory)
        assert predict._cache_size() == before + (t < 2)
        outputs.append(found)
        assert memory.prompts.embeddings.shape == (ROWS, 3, KEPT, 3, 32) and memory.query.shape == (ROWS, 2, 16)
    compare({name: np.concatenate([each[name] for each in outputs], axis=1) for name in outputs[0]}, at_once[0])
    for name, value in flatten(dataclasses.asdict(memory)).items():
        np.testing.assert_allclose(value, flatten(dataclasses.asdict(at_once[1]))[name], atol=1e-3, err_msg=name)
    np.testing.assert_array_equal(
        memory.prompts.valid[0, :, 0], [[True, False, False], [True, True, True], [True, False, False]]
    )


def test_padding_frames_change_nothing(predict, params, clips, at_once):
    """Other pixels in the padding frames: the same memory, and the same masks in the other frames."""
    changed = {name: value.copy() if "images" in name else value for name, value in clips.items()}
    for name in ("images", "clip_images"):
        changed[name][1, 2:] = changed[name][2, 1] = 255 - changed[name][0, 0]
    outputs, memory = predict(params, changed, {})
    jax.tree.map(np.testing.assert_array_equal, memory, at_once[1])
    for name, value in outputs.items():
        np.testing.assert_array_equal(
            np.asarray(value)[clips["frame_valid"]], np.asarray(at_once[0][name])[clips["frame_valid"]]
        )
    assert (np.asarray(outputs["mask_logits"])[2, 1] != np.asarray(at_once[0]["mask_logits"])[2, 1]).any()


def test_released_weights_compute_the_same_with_it(micro, predict, params, clips, at_once):
    """The projection starts at zero. A config without the block has the released adapter."""
    plain = micro(("video",)).copy_and_resolve_references().unlock()
    del plain.model.temporal
    released = {name: value for name, value in params.items() if name != "prompt_aggregation"}
    assert flatten(SYSTEM.shapes(plain)).keys() == flatten(released).keys()
    expected, memory = jax.jit(SYSTEM.predict(SYSTEM.build(plain), plain))(released, clips, {})
    assert memory.prompts is None
    zero = jax.tree.map(np.zeros_like, params["prompt_aggregation"])
    found, _ = predict(params | {"prompt_aggregation": zero}, clips, {})
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    for name in ("mask_logits", "expression", "class", "region"):
        first, later = (np.asarray(at_once[0][name])[0] != np.asarray(value)[0] for value in (expected[name],) * 2)
        assert not first[0].any() and later[1:].any(), name


def test_on_a_mesh(config, params, clips, at_once):
    mesh = placement.make("fsdp")
    positions = placement.parameter_shardings(SYSTEM.boxed_shapes(config), mesh)
    with placement.use(mesh):
        predict = jax.jit(SYSTEM.predict(SYSTEM.build(config), config), out_shardings=mesh.batch)
        outputs, memory = predict(jax.device_put(params, positions), jax.device_put(clips, mesh.batch), {})
    assert memory.prompts.embeddings.sharding.shard_shape(memory.prompts.embeddings.shape)[0] == 1
    compare(outputs, at_once[0])


def test_in_bfloat16(config, params, clips, at_once):
    config = config.copy_and_resolve_references()
    config.model.precision.update({"params": "bfloat16", "compute": "bfloat16"})
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    _, memory = jax.jit(SYSTEM.predict(SYSTEM.build(config), config))(rounded, clips, {})
    assert memory.prompts.embeddings.dtype == memory.query.dtype == jnp.bfloat16
    np.testing.assert_array_equal(memory.prompts.valid, at_once[1].prompts.valid)
    found, expected = (np.asarray(each.prompts.embeddings, np.float32) for each in (memory, at_once[1]))
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98


def test_gradients_of_a_later_frame(micro, params, clips):
    """With one frame in the memory, what was before the first frame reaches the second only through what the first became."""
    config = make_config(micro, frames=1, injection=False)
    model, batch = SYSTEM.build(config), jax.tree.map(lambda x: jnp.asarray(x[:1]), clips)
    for name in ("images", "clip_images", "frame_valid"):
        batch[name] = batch[name][:, :2]
    before = PromptMemory(jnp.ones((1, 3, 1, 3, 32)), jnp.ones((1, 3, 1, 3), bool))

    @jax.jit
    def gradients(projection, embeddings):
        def second_frame(projection, embeddings):
            memory = FrameMemory(None, dataclasses.replace(before, embeddings=embeddings))
            scores = lambda output, t: jnp.stack([score.sum() for score in output.prediction.scores.values()])
            outputs, _ = run_frames(model, params | {"prompt_aggregation": projection}, batch, memory, scores)
            return outputs[1].sum()

        return jax.grad(second_frame, argnums=(0, 1))(projection, embeddings)

    projection, embeddings = gradients(params["prompt_aggregation"], before.embeddings)
    assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in (*projection.values(), embeddings))
    assert np.asarray(embeddings).any((0, 2, 3, 4)).all(), "of each prompt"
    zero = jax.tree.map(np.zeros_like, params["prompt_aggregation"])
    assert np.any(gradients(zero, before.embeddings)[0]["kernel"]), "it learns from its start at zero"


def test_exports_say_so_and_imports_restore_it(config, micro, params, tmp_path):
    model_folder.save_model(tmp_path / "own", config, TOKENIZER, params)
    export_weights(tmp_path / "own", tmp_path / "out")
    assert "`model.temporal.aggregation = True`" in (tmp_path / "out" / "README.md").read_text()
    assert set(json.loads((tmp_path / "out" / "extra_names.json").read_text())) >= {"prompt_aggregation.weight"}
    with pytest.raises(UserError, match=r"prompt_aggregation\.weight"):
        export_weights(tmp_path / "own", tmp_path / "strict", strict_authors=True)
    import_weights([tmp_path / "out"], micro(("video",)), tmp_path / "back")
    restored = model_folder.read_config(tmp_path / "back").model.temporal
    assert restored.to_dict() == {"injection": True, "aggregation": True, "frames": KEPT}


def test_an_import_of_the_release_starts_at_zero(config, micro, params, tmp_path):
    plain = {name: value for name, value in params.items() if name != "prompt_aggregation"}
    model_folder.save_model(tmp_path / "own", micro(("video",)), TOKENIZER, plain)
    export_weights(tmp_path / "own", tmp_path / "release")
    path = tmp_path / "release" / "config.json"
    settings = json.loads(path.read_text())
    del settings["hyperseg_jax"]  # as in the authors' release
    path.write_text(json.dumps(settings))
    import_weights([tmp_path / "release"], config, tmp_path / "ours")
    loaded = model_folder.load_params(tmp_path / "ours", SYSTEM.shapes(config))
    flat = flatten(loaded)
    assert not np.any(flat["prompt_aggregation/kernel"]) and not np.any(flat["prompt_aggregation/bias"])
    np.testing.assert_array_equal(flat["query_projector/kernel"], params["query_projector"]["kernel"])


def test_runs_from_before_the_adapter(config):
    """A run without the block continues with the released adapter only."""
    saved, given = config.to_dict(), config.to_dict()
    del saved["model"]["temporal"]
    assert resume.state_changes(saved, given) == "model.temporal.aggregation: False saved, True given"
    given["model"]["temporal"].update(aggregation=False, injection=False)
    assert resume.state_changes(saved, given) == "model.temporal.injection: True saved, False given"
    given["model"]["temporal"].update(injection=True, frames=9)
    assert resume.state_changes(saved, given) == ""


@pytest.mark.parametrize("field, value", [("frames", 0), ("frames", 2.0), ("aggregation", 1), ("injection", "yes")])
def test_bad_fields(field, value):
    with pytest.raises(UserError, match=f"model.temporal.{field} = "):
        Temporal(**{field: value})
