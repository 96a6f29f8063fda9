"""SCA as a system: it starts from SAM and GPT-2 of transformers, trains its mixer, writes captions, and is exported."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.numpy import load_file
from sam_model import make_config as make_sam_config
from sam_model import make_reference

from hyperseg_jax import config as configs
from hyperseg_jax.commands.main import main
from hyperseg_jax.data.mixture import MIXED
from hyperseg_jax.data.sources import make_augmentation, make_processor
from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import placement
from hyperseg_jax.predictors.automatic import AutomaticOptions
from hyperseg_jax.predictors.model import Model
from hyperseg_jax.structs import Example, Prompt, Region
from hyperseg_jax.systems import system as systems
from hyperseg_jax.systems.sca import inference
from hyperseg_jax.systems.sca.objective import mask_loss
from hyperseg_jax.systems.sca.processor import ScaProcessor
from hyperseg_jax.tables import flatten
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.training.initial_state import trace_initial_state
from hyperseg_jax.training.param_groups import groups_from_config, split_params
from hyperseg_jax.weights.exporting import export_weights
from hyperseg_jax.weights.importing import import_weights

HIDDEN, VOCAB = 32, 576
BOXES = ((5.0, 4.0, 60.0, 50.0), (20.0, 10.0, 90.0, 60.0), (0.0, 0.0, 96.0, 64.0))


def make_config():
    config = configs.load("sca_tiny")
    with config.unlocked():
        sam = make_sam_config()
        for block in ("image_encoder", "prompt_encoder", "mask_decoder"):
            config.model[block] = sam.model[block]
        config.model.caption_mixer.transformer.update({"num_heads": 4, "mlp_dim": 48, "downsample": 2})
        config.model.llm.update({"hidden_size": HIDDEN, "mlp_size": 64, "vocab_size": VOCAB})
        config.data.image_size = sam.data.image_size
    return config


@pytest.fixture(scope="module")
def references():
    torch.manual_seed(0)
    settings = transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=HIDDEN, n_layer=2, n_head=4, n_positions=64, n_inner=64, bos_token_id=0, eos_token_id=0
    )
    return make_reference(), transformers.GPT2LMHeadModel(settings).eval()


@pytest.fixture(scope="module")
def folder(references, tmp_path_factory):
    root = tmp_path_factory.mktemp("sca")
    for name, model in zip(("sam", "gpt2"), references, strict=True):
        model.save_pretrained(root / name)
    report = import_weights([root / "sam", root / "gpt2"], make_config(), root / "model")
    assert "caption mixer" in str(report.initialized)
    return root / "model"


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)


def test_starts_from_the_weights_of_transformers(references, folder):
    model = Model.load(folder)
    table = systems.get("sca").weight_table(model.config)
    exported = table.to_torch(jax.tree.map(np.asarray, model.params))
    for prefix, reference in zip(("", "language_model."), references, strict=True):
        for name, tensor in reference.state_dict().items():
            np.testing.assert_array_equal(exported[prefix + name], tensor.numpy(), err_msg=name)


def test_captions_of_regions_are_those_of_each_alone(folder, image, monkeypatch):
    monkeypatch.setattr(inference, "CHUNK", 3)  # of 4 regions, one of which is padding
    model = Model.load(folder)
    regions = [Region.from_box(*box) for box in BOXES]
    together = model.caption_regions(image, regions)
    assert together == tuple(model.caption_regions(image, [region])[0] for region in regions)
    assert len(set(together)) > 1, "the case must tell regions apart"
    masks = model.segment_regions(image, regions)
    assert len(masks) == 3


def test_many_regions_need_the_memory_of_a_chunk(folder):
    """Each region has an image map of its own in both mixers."""
    config, system = make_config(), systems.get("sca")
    model, tokenizer = system.build(config), system.load_tokenizer(config)
    decoding = dataclasses.replace(system.decoding(config), max_new_tokens=1)
    write = jax.jit(system.write(model, config).write)

    def memory(regions):
        batch = system.processor(config, tokenizer, {"regions": regions}).spec(1)
        features = {"image": jax.ShapeDtypeStruct((1, 6, 6, 32), np.float32)}
        seeds = jax.ShapeDtypeStruct((1,), np.uint32)
        program = write.lower(system.shapes(config), batch, features, seeds, decoding.for_tokenizer(0, VOCAB)).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert memory(128) < 2 * memory(16)


def test_round_trip_of_the_authors_folder(folder, tmp_path):
    export_weights(folder, tmp_path / "hf")
    settings = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert settings["architectures"] == ["ScaMultitaskV2Model"]
    import_weights([tmp_path / "hf"], make_config(), tmp_path / "again")
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "again"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)

    export_weights(folder, tmp_path / "file", format="state-dict")
    report = import_weights([tmp_path / "file" / "state_dict.pth"], make_config(), tmp_path / "of_file")
    assert not report.config and not report.notes

    settings["architectures"] = ["ScaMultitaskSplitMixerModel"]
    (tmp_path / "hf" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"needs model.caption_mixer.reads = raw, but the config has decoded"):
        import_weights([tmp_path / "hf"], make_config(), tmp_path / "wrong")
    settings["architectures"] = ["ScaMultitaskV2Model"]
    for changed, message in (
        ({"n_head": 2}, r"text_config: is of a model with num_heads = 2, but model\.llm\.num_heads = 4"),
        ({"layer_norm_epsilon": 10**400}, r"text_config: layer_norm_epsilon = .* must be a number of at least 0"),
    ):
        wrong = settings | {"text_config": settings["text_config"] | changed}
        (tmp_path / "hf" / "config.json").write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=message):
            import_weights([tmp_path / "hf"], make_config(), tmp_path / "wrong")
    (tmp_path / "hf" / "config.json").unlink()
    (note,) = import_weights([tmp_path / "hf"], make_config(), tmp_path / "unknown").notes
    assert "has no config.json" in note


def test_the_other_mixer_is_restored_and_not_trained_further(folder, tmp_path):
    """Both mixers have the same tensors, so only the config tells them apart."""
    config = make_config()
    config.model.caption_mixer.reads = "raw"
    shutil.copytree(folder, tmp_path / "raw")
    (tmp_path / "raw" / "config.json").write_text(config.to_json())
    export_weights(tmp_path / "raw", tmp_path / "hf")
    assert import_weights([tmp_path / "hf"], make_config(), tmp_path / "again").config == {
        "model.caption_mixer.reads": ["decoded", "raw"]
    }
    config = make_config()
    config.init_from = str(tmp_path / "again")
    system, mesh = systems.get("sca"), placement.make("single")
    groups = groups_from_config(config.optimizer.param_groups)
    state = trace_initial_state(config, system, system.build(config), groups, lambda step: 0.0, mesh)
    with pytest.raises(UserError, match=r"init_from = .*again: model\.caption_mixer\.reads: 'raw' saved, 'decoded' given"):
        state.check_source(config)


def test_parts_are_those_of_transformers(references, folder, tmp_path):
    for part, kind, reference in zip(
        ("sam", "gpt2"), (transformers.SamModel, transformers.GPT2LMHeadModel), references, strict=True
    ):
        export_weights(folder, tmp_path / part, part=part)
        state = kind.from_pretrained(tmp_path / part).state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in reference.state_dict().items())


def example_of(image, captions):
    regions = tuple(Region.from_box(*box) for box in BOXES[: len(captions)])
    return Example("it", image[None], (Prompt("caption", regions=regions, captions=tuple((text,) for text in captions)),))


def make_batch(config, examples, *, train=True):
    system = systems.get("sca")
    tokenizer = system.load_tokenizer(config)
    processor = system.processor(config, tokenizer, {"regions": 3, "marks": 2, "length": 8})
    rng = np.random.default_rng(0)
    elements = [processor(example, train=train, rng=rng) if example else processor.blank() for example in examples]
    expected = processor.spec(len(elements))
    batch = jax.tree.map(lambda *rows: np.stack(rows), *elements)
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in batch.items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in expected.items()
    }
    return batch


def test_losses_of_the_parts_of_a_batch_add_up(folder, image):
    """The losses of the parts of a batch add up to that of the whole batch; unreadable examples change nothing."""
    config = configs.ml_collections.ConfigDict(Model.load(folder).config.to_dict())
    config.data.jitter = ()
    system, params = systems.get("sca"), Model.load(folder).params
    model = system.build(config)
    examples = [example_of(image, ["red ring", "a blue star"]), example_of(image[::-1], ["green cross"]), None]
    counts, loss = system.training_functions(model, config)
    run = jax.jit(loss)
    whole = make_batch(config, examples)
    divisor = counts(whole)
    total, _ = run(params, whole, jax.random.key(0), divisor)
    rows = [jax.tree.map(lambda leaf, k=k: leaf[k : k + 1], whole) for k in range(3)]
    parts = [run(params, row, jax.random.key(0), divisor)[0] for row in rows]
    assert divisor["tokens"] == sum(counts(row)["tokens"] for row in rows) and parts[2] == 0
    np.testing.assert_allclose(sum(parts), total, rtol=1e-5)


def test_released_recipe_trains_the_mixer_alone():
    """19.4 million of 1.43 billion parameters, as published."""
    config, system = configs.load("sca_gpt2_large"), systems.get("sca")
    shapes = flatten(system.shapes(config))
    total = sum(int(np.prod(leaf.shape)) for leaf in shapes.values())
    trainable, _ = split_params(system.shapes(config), groups_from_config(config.optimizer.param_groups))
    trained = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(trainable))
    buffer = 2 * 128  # the matrix of the positions, no parameter in PyTorch
    assert (total - buffer, trained) == (1_434_553_520, 19_432_832)


def test_captions_of_llama_begin_with_its_start_token(image, tmp_path):
    """The authors' tokenizer adds it to every caption, in front of the other ids."""
    config, system = make_config(), systems.get("sca")
    config.model.llm = {
        "kind": "llama",
        "vocab_size": 600,
        "hidden_size": HIDDEN,
        "mlp_size": 64,
        "num_layers": 1,
        "num_heads": 4,
    }
    Tokenizer.train(["red ring"], [], 300, added=["<s>", "</s>"]).save(tmp_path)
    tokenizer = system.load_tokenizer(config, tmp_path)
    start, end = tokenizer.id_of("<s>"), tokenizer.id_of("</s>")
    for train in (True, False):
        processor = system.processor(config, tokenizer, {"regions": 1, "marks": 2, "length": 12})
        batch = processor(example_of(image, ["red ring"]), train=train, rng=np.random.default_rng(0))
        ids = batch["caption_ids"][0][batch["caption_mask"][0]].tolist()
        assert ids == [start, *tokenizer.encode("red ring"), end]
    Tokenizer.train(["red ring"], [], 300, added=["</s>"]).save(tmp_path)
    with pytest.raises(UserError, match="has no token '<s>'"):
        system.processor(config, system.load_tokenizer(config, tmp_path), {"regions": 1, "marks": 2, "length": 12})


def test_padding_is_reported_by_the_length_of_a_caption(image):
    """The length in the report is the field `length` of the task, and the longest caption is what it must hold."""
    config, system = make_config(), systems.get("sca")
    tokenizer = system.load_tokenizer(config)
    processor = system.processor(config, tokenizer, {"regions": 3, "marks": 2, "length": 12})
    texts = ["red ring", "a small blue star"]
    used = processor.padding(processor(example_of(image, texts), train=False))
    lengths = [len(tokenizer.encode(text)) + 1 for text in texts]
    assert used["positions"] == (max(lengths), 12) and used["tokens"] == (sum(lengths), 36)


def test_the_recipe_flips_only_where_the_captions_allow_it(image):
    augment = make_augmentation(configs.load("sca_gpt2_large"), "caption")
    assert augment.horizontal_flip == 0.5
    augment = dataclasses.replace(augment, horizontal_flip=1.0)
    for caption, flips in (("a red ring", True), ("the left ring", False), ("a sign that says stop", False)):
        changed, _ = augment(example_of(image, [caption]), np.random.default_rng(0))
        assert np.array_equal(changed.frames[0], image[:, ::-1] if flips else image)
        assert changed.prompts[0].captions == ((caption,),)


def test_a_training_image_without_regions_is_empty_and_counts_nothing(folder, image):
    config = Model.load(folder).config
    empty = Example("it", image[None], (Prompt("caption", regions=(), captions=()),))
    batch = make_batch(config, [empty])
    assert not batch["region_valid"].any() and not batch["bad"].any()
    counts, _ = systems.get("sca").training_functions(systems.get("sca").build(config), config)
    assert counts(batch) == {"tokens": 0}


def test_masks_are_supervised_where_they_are_given(folder, image):
    """With config.loss.mask, for models that do not start from a trained SAM."""
    system, config = systems.get("sca"), configs.ml_collections.ConfigDict(Model.load(folder).config.to_dict())
    processor = system.processor(config, system.load_tokenizer(config), {"regions": 3, "marks": 2, "length": 8, "masks": 1})
    example = example_of(image, ["a ring", "a star"])
    (prompt,) = example.prompts
    masks = np.zeros((2, 1, *image.shape[:2]), bool)
    for mask, region in zip(masks[:, 0], prompt.regions, strict=True):
        left, top, right, bottom = region.boxes[0].round().astype(int)
        mask[top:bottom, left:right] = True
    prompt = dataclasses.replace(prompt, masks=masks, labels=(0, 1))
    for seed, jitter in enumerate([(), (0.5, 2.0), (0.5, 2.0), (0.5, 2.0)]):
        changed = dataclasses.replace(processor, jitter=jitter or None)
        rng = np.random.default_rng(seed)
        element = changed(dataclasses.replace(example, prompts=(prompt,)), train=True, rng=rng)
        assert jax.tree.map(np.shape, element) == jax.tree.map(lambda leaf: leaf.shape[1:], changed.spec(1))
        for k in np.flatnonzero(element["region_valid"]):
            rows, columns = np.nonzero(element["region_masks"][k])
            corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(element["places"][k].ravel(), corners, atol=1.5)
        assert not element["region_masks"][~element["region_valid"]].any()
    with pytest.raises(UserError, match="its regions have no masks; read them with masks=True"):
        processor(example, train=True, rng=np.random.default_rng(0))
    batch = jax.tree.map(lambda row: row[None], element)
    model, params = system.build(config), Model.load(folder).params
    config.loss.mask = 0.0
    without = system.full_loss(model, config)(params, batch, jax.random.key(0))
    assert set(without[1]) == {"caption"}
    config.loss.mask = 2.0
    config.data.tasks = {"caption": {"ratio": 1, "masks": 0}}
    with pytest.raises(UserError, match=r"loss\.mask = 2\.0: no task in training has masks; give 0, or set"):
        system.loss(model, config)
    config.data.tasks.caption.masks = 1
    total, metrics = system.full_loss(model, config)(params, batch, jax.random.key(0))
    np.testing.assert_allclose(total, without[0] + 2 * metrics["mask"], rtol=1e-5)
    assert metrics["mask"] > 0.5


def test_tasks_of_a_mixed_batch_have_one_number():
    """One processor makes all elements of mixed batches; it cannot know which task an example is of."""
    config, system = configs.load("sca_tiny", ["data.batches=mixed"]), systems.get("sca")
    with pytest.raises(UserError, match=r"task or masks differ cannot be in one batch; set data\.batches = 'task'"):
        make_processor(config, system, None, MIXED)
    config.data.tasks.category.update({"task": 1, "masks": 0, "length": 20})
    shared = make_processor(config, system, None, MIXED)
    assert (shared.task, shared.masks, shared.length) == (1, 0, 20)


def test_mask_loss_is_small_for_the_right_masks():
    targets = np.zeros((1, 2, 8, 8), bool)
    targets[0, 0, :4, :6] = targets[0, 1, 4:] = True
    right = np.where(targets[:, :, ::2, ::2], 20.0, -20.0)
    both, one = np.ones((1, 2), bool), np.array([[True, False]])
    assert mask_loss(right, targets, both) < 1e-3 < 20 < mask_loss(-right, targets, one) < mask_loss(-right, targets, both)


def test_captions_are_cut_and_end(folder, image):
    config = Model.load(folder).config
    tokenizer = systems.get("sca").load_tokenizer(config)
    batch = make_batch(config, [example_of(image, ["red ring left of a blue star above a small green cross"])], train=False)
    assert isinstance(systems.get("sca").processor(config, tokenizer, {}), ScaProcessor)
    ids, mask = batch["caption_ids"][0, 0], batch["caption_mask"][0, 0]
    assert mask.all() and ids[-1] == tokenizer.eos_id and (ids[:-1] != tokenizer.eos_id).all()
    assert not batch["caption_mask"][0, 1:].any()


def test_the_command_writes_captions(folder, image, tmp_path):
    file, out = tmp_path / "it.png", tmp_path / "out"
    Image.fromarray(image).save(file)
    main(["predict", str(file), "--model", str(folder), "--box", "5,4,60,50", "--caption", "--out", str(out)])
    (segment,) = json.loads((out / "result.json").read_text())["segments"]
    assert segment["label"] == Model.load(folder).caption_regions(image, [Region.from_box(5, 4, 60, 50)])[0]
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(file), "the ring", "--model", str(folder), "--caption"])
    assert ended.value.code == 2


@pytest.mark.parametrize("threshold, finds", [(0, True), (1, False)])
def test_the_command_captions_everything(folder, image, tmp_path, monkeypatch, threshold, finds):
    options = AutomaticOptions(points_per_side=2, pred_iou_thresh=threshold, stability_score_thresh=threshold)
    file, out, model = tmp_path / "it.png", tmp_path / "out", Model.load(folder)
    Image.fromarray(image).save(file)
    with monkeypatch.context() as patched:
        patched.setattr("hyperseg_jax.predictors.model.AutomaticOptions", lambda: options)
        main(["predict", str(file), "--model", str(folder), "--everything", "--caption", "--out", str(out)])
    masks = model.automatic(image, options).prediction.masks
    assert (len(masks) > 0) == finds
    captions = model.caption_regions(image, list(masks))
    assert [row["label"] for row in json.loads((out / "result.json").read_text())["segments"]] == list(captions)
