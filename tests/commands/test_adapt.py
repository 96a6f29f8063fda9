"""hyperseg adapt: image-free, on labelled images, and on pseudo labels, with a tiny random IFSeg on the toy world."""

import functools
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import ofa_dictionary
import pytest
from run_check import run_check
from sample_inputs import random_params

from hyperseg_jax import config as configs
from hyperseg_jax.commands.adapt import parse_classes
from hyperseg_jax.commands.evaluate import write_class_iou
from hyperseg_jax.commands.main import main
from hyperseg_jax.datasets import PseudoLabels, class_names
from hyperseg_jax.errors import UserError
from hyperseg_jax.predictors import pseudo_labels
from hyperseg_jax.predictors.model import Model
from hyperseg_jax.predictors.pseudo_labels import label_image, label_images
from hyperseg_jax.systems import system as systems
from hyperseg_jax.training import loop
from hyperseg_jax.untrusted import limits
from hyperseg_jax.weights import model_folder

CLASSES = "sand|beach,grass,water"
NAMES = ("sand|beach", "grass", "water")
IFSEG = systems.get("ifseg")
FROZEN = re.compile("(image_encoder|image_projection|tokens|unused)/")


def small_config():
    """ifseg_tiny with images of 4 x 4 cells."""
    layers = {"hidden_size": 16, "mlp_size": 32, "num_layers": 1, "num_heads": 2}
    changes = {
        **{f"model.encoder.{name}": value for name, value in {**layers, "side": 6, "base": (4, 4)}.items()},
        **{f"model.decoder.{name}": value for name, value in {**layers, "side": 4}.items()},
        **{"model.image_encoder.width": 4, "data.image_size": 64},
        **{f"data.resize.{name}": value for name, value in {"short_side": 64, "long_side": 96}.items()},
    }
    return configs.load("ifseg_tiny", [f"{name}={value}" for name, value in changes.items()])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder, config = tmp_path_factory.mktemp("adapt") / "model", small_config()
    params = random_params(IFSEG.shapes(config), seed=0, spread=0.1)
    positive = lambda path, value: np.abs(value) + 0.5 if path[-1].key == "variance" else value
    params = jax.tree_util.tree_map_with_path(positive, params)
    model_folder.save_model(folder, config, IFSEG.load_tokenizer(config), params)
    return folder


@pytest.fixture(scope="module")
def adapt(model, world):
    """adapt(out, *arguments): runs a few steps."""

    def run(out, *arguments, classes=CLASSES):
        given = ["--model", str(model), "--out", str(out), "--data-root", str(world), "--steps", "4", "--batch-size", "2"]
        given += ["--classes", classes] if classes else []
        settings = {"train.preset": "single", "data.workers": 0, "train.log_every": 1, "data.resize.multiple": 32}
        main(["adapt", *given, *(f"--config.{name}={value}" for name, value in settings.items()), *arguments])

    return run


@pytest.fixture(scope="module")
def adapted(adapt, tmp_path_factory):
    """The workdir of an uninterrupted image-free run, with a validation."""
    folder = tmp_path_factory.mktemp("adapted") / "run"
    adapt(folder, "--validate", "toy")
    return folder


def params_of(workdir):
    return model_folder.read_arrays(model_folder.find_model_folder(workdir))


def changed_params(one, other):
    """Returns the paths of the parameters of the other model that differ from those of the first."""
    before, after = params_of(one), params_of(other)
    return {path for path, value in after.items() if not np.array_equal(value, before[path])}


def test_image_free_training_changes_what_the_authors_train(adapted, model):
    changed = changed_params(model, adapted)
    assert {"decoder/positions", "encoder/kinds", "classifier"} <= changed and not any(map(FROZEN.match, changed))
    assert [params_of(folder)["classifier"].shape[0] for folder in (model, adapted)] == [8, 3]
    config = model_folder.read_config(adapted / "model")
    recipe = configs.load("ifseg_base")
    assert config.optimizer.learning_rate == recipe.optimizer.learning_rate
    assert config.model.encoder.hidden_size == 16 and config.model.num_classes == 3
    assert {name: config.data.tasks.words[name] for name in ("words", "classes", "class_length")} == {
        "words": 1,
        "classes": 8,  # four names, in steps of eight
        "class_length": 4,
    }


def test_an_interrupted_run_gives_the_same_model(adapt, adapted, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        patched.setattr(loop, "train", functools.partial(loop.train, stop_at=2))
        adapt(tmp_path / "run", "--validate", "toy")
    assert "wrote" not in capsys.readouterr().err
    adapt(tmp_path / "run", "--validate", "toy")
    shown = capsys.readouterr().err
    assert "resuming at step 2" in shown
    assert f"next: hyperseg predict IMAGE --model {tmp_path}" in shown.replace("\n", "") and "hyperseg evaluate" in shown
    for path, value in params_of(adapted).items():
        np.testing.assert_array_equal(value, params_of(tmp_path / "run")[path], err_msg=path)


def test_evaluate_reports_each_class(adapted, world, tmp_path, capsys):
    main(["evaluate", "--model", str(adapted), "--data-root", str(world), "--out", str(tmp_path / "scores")])
    table = capsys.readouterr().out
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())["panoptic"]
    by_class = json.loads((tmp_path / "scores" / "class_iou.json").read_text())["panoptic"]
    assert set(by_class) <= set(NAMES) and scores["miou"] == pytest.approx(np.mean([*by_class.values()]))
    assert "miou" in table and all(name in table for name in by_class)
    write_class_iou(tmp_path / "scores", {})
    assert not (tmp_path / "scores" / "class_iou.json").exists(), "it would be of an earlier evaluation"


def test_predict_uses_the_model(adapted, world, tmp_path):
    image = next((world / "coco" / "val").iterdir())
    main(["predict", str(image), "--model", str(adapted), "--classes", CLASSES, "--out", str(tmp_path / "out")])
    segments = json.loads((tmp_path / "out" / "result.json").read_text())["segments"]
    assert {row["label"] for row in segments} <= set(NAMES) and sum(row["pixels"] for row in segments) == 192 * 192


def test_labelled_images(adapt, model, world, tmp_path, capsys):
    """Their other classes are ignored; the frozen parts stay."""
    adapt(tmp_path / "run", "--images", "toy")
    config = model_folder.read_config(tmp_path / "run" / "model")
    assert config.data.tasks.words.ratio == 0 and config.data.tasks["images"].train.split == "train"
    changed = changed_params(model, tmp_path / "run")
    assert "decoder/positions" in changed and not any(map(FROZEN.match, changed))
    assert "(images)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", "--model", str(tmp_path / "run"), "--data-root", str(world)])
    assert "its tasks have no validation images" in capsys.readouterr().err


@pytest.fixture
def photos(world, tmp_path):
    """Images without labels, of which one is damaged."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in sorted((world / "coco" / "val").iterdir())[:3]:
        shutil.copy(path, folder)
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def test_self_training(adapt, photos, tmp_path, monkeypatch, capsys):
    """Stopped in its second stage; the labels are not computed again."""
    arguments, train = (tmp_path / "run", "--pseudo-labels", str(photos), "--confidence", "0.2"), loop.train
    stop = lambda config, workdir, **options: train(
        config, workdir, **options, stop_at=None if pathlib.Path(workdir).name == "image_free" else 2
    )
    with monkeypatch.context() as patched:
        patched.setattr(loop, "train", stop)
        adapt(*arguments)
    shown = " ".join(capsys.readouterr().err.split())
    assert "labelled 3 images" in shown and "1 images are skipped" in shown and "broken.jpg" in shown and "wrote" not in shown
    with monkeypatch.context() as patched:
        patched.setattr(pseudo_labels, "label_image", None)
        adapt(*arguments)
    shown = " ".join(capsys.readouterr().err.split())
    assert "resuming at step 2" in shown and f"wrote {tmp_path}" in shown
    reader = PseudoLabels(tmp_path / "run" / "pseudo_labels", photos)
    assert len(reader) == 3 and reader.classes == NAMES
    first = Model.load(tmp_path / "run" / "image_free")
    assert "decoder/positions" in changed_params(tmp_path / "run" / "image_free", tmp_path / "run")
    (prompt,) = reader[0].prompts
    numbers = label_image(first, reader[0].frames[0], NAMES, 0.2)
    for mask, label in zip(prompt.masks[:, 0], prompt.labels, strict=True):
        np.testing.assert_array_equal(mask, numbers == label + 1)
    with pytest.raises(SystemExit):
        adapt(*arguments[:-1], "0.9")
    assert "was labelled with other confidence; remove this folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        adapt(*arguments, "--steps", "6")
    shown = capsys.readouterr().err
    assert "was labelled with other steps; remove this folder" in shown and "stage 1" not in shown


class Sure:
    """A model that is sure of the left half of an image alone."""

    def __init__(self):
        self.images = 0

    def most_probable_classes(self, image, classes):
        self.images += 1
        left = np.broadcast_to(np.arange(image.shape[1]) < image.shape[1] // 2, image.shape[:2])
        return np.where(left, 1, 0).astype(np.int16), np.where(left, 0.9, 0.4).astype(np.float32)


def test_pixels_below_the_confidence_have_no_label(photos, tmp_path):
    calls, done = [], []
    load = lambda: calls.append(Sure()) or calls[0]
    label = functools.partial(label_images, load, photos, NAMES, tmp_path / "out", steps=3)
    result = label(confidence=0.5, progress=lambda *counts: done.append(counts))
    assert (result.images, result.share, len(result.skipped)) == (3, 0.5, 1) and done[-1] == (4, 4)
    example = PseudoLabels(tmp_path / "out", photos)[0]
    assert (
        example.prompts[0].labels == (1,) and example.prompts[0].masks.mean() == 0.5 and example.prompts[0].ignore.mean() == 0.5
    )
    next((tmp_path / "out").glob("*.jpg.png")).unlink()
    assert label(confidence=0.5) == result and (len(calls), calls[0].images) == (2, 4)  # only the missing one
    with pytest.raises(UserError, match=r"was labelled with other confidence, steps"):
        label_images(load, photos, NAMES, tmp_path / "out", confidence=0.4, steps=4)
    with pytest.raises(UserError, match=r"not sure of any pixel \(confidence 0\.95\); give a lower confidence"):
        label_images(load, photos, NAMES, tmp_path / "other", confidence=0.95, steps=3)


@pytest.mark.parametrize("name", ["x" * 250 + ".jpg", "é" * 125 + ".jpg"])
def test_an_image_with_a_name_too_long_for_its_label_image_is_skipped(photos, tmp_path, name):
    shutil.copy(next(photos.glob("0*")), photos / name)
    result = label_images(Sure, photos, NAMES, tmp_path / "out", confidence=0.5, steps=1)
    assert result.images == 3 and len(result.skipped) == 2 and "is not a file name" in result.skipped[1]


def test_labelling_needs_no_mask_of_each_class(adapted):
    """Of 3 classes here, and for 150 classes of a photo they would need 14 GB."""
    model, image = Model.load(adapted), np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    label, probability = model.most_probable_classes(image, NAMES)
    hard = model.segment_classes(image, NAMES)
    assert (label.dtype, probability.dtype, label.shape) == (np.int16, np.float32, image.shape[:2])
    for mask, number in zip(hard.masks, hard.labels, strict=True):
        np.testing.assert_array_equal(mask, label == number)
    assert probability.min() >= 1 / 3 and probability.max() <= 1
    with limits.temporary_limits(mask_pixels=100_000), pytest.raises(UserError, match=r"raise limits\.mask_pixels"):
        model.segment_classes(image, NAMES)
    assert (label_image(model, image, NAMES, 0.0) == label + 1).all()


def test_labels_of_another_folder_are_not_used(photos, tmp_path):
    """Its images may have the same names."""
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    label_images(Sure, photos, NAMES, tmp_path / "out", confidence=0.5, steps=1)
    with pytest.raises(UserError, match="was labelled with other folder; remove this folder"):
        label_images(Sure, other, NAMES, tmp_path / "out", confidence=0.5, steps=1)


def test_a_model_that_cannot_be_loaded_is_no_skipped_image(photos, tmp_path):
    def load():
        raise UserError("model.safetensors: is damaged")

    label = functools.partial(label_images, images=photos, classes=NAMES, out=tmp_path / "out", confidence=0.5, steps=1)
    label(Sure)
    next((tmp_path / "out").glob("*.jpg.png")).unlink()
    with pytest.raises(UserError, match=r"^model\.safetensors: is damaged$"):
        label(load)


def test_no_image_can_be_read(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"no")
    with pytest.raises(UserError, match=r"none of its 1 images can be labelled; the first: a\.png: "):
        label_images(Sure, tmp_path / "images", NAMES, tmp_path / "out", confidence=0.5, steps=1)


def test_class_names():
    assert parse_classes(" giraffe | camelopard, grass") == ("giraffe|camelopard", "grass")
    for text in ("", "a,,b", "a|,b", " "):
        with pytest.raises(UserError, match="has an empty name; give a name between all commas"):
            parse_classes(text)
    for text in ("a,b,a", "a|b,b", "a|a"):
        with pytest.raises(UserError, match="twice; give each name once"):
            parse_classes(text)


STOP = "--config.train.stepz=1"
"""An error that ends a command after the checks of its options."""
LONG = ",".join(f"number {k} of many" for k in range(40))
ERRORS = {
    "no classes": (["--model", "{model}"], "no classes are given; give --classes, --class-list, or --images"),
    "missing model": (["--model", "nowhere", "--classes", "a"], "nowhere: is not a model; give a workdir"),
    "a checkpoint": (["--model", "{file}", "--classes", "a"], "convert it to a model folder with `hyperseg import-weights"),
    "another system": (
        ["--model", "tiny", "--classes", "a"],
        "tiny: is a model of the system hyperseg, which is not adapted to",
    ),
    "too long": (["--model", "{model}", "--classes", LONG], "tokens, and the model reads 128 (model.encoder.num_positions)"),
    "the model itself": (
        ["--model", "{model}", "--classes", "a", "--out", "{model}"],
        "has the model that the training starts",
    ),
    "its own first stage": (
        ["--model", "{two}/image_free", "--classes", "a", "--out", "{two}", "--pseudo-labels", "{world}/coco/val"],
        "has the model that the training starts",
    ),
    "another run": (
        ["--model", "{model}", "--classes", "grass,tree,sea", "--out", "{run}"],
        "has a run of another model, class",
    ),
    "another mode": (
        ["--model", "{model}", "--classes", CLASSES, "--out", "{run}", "--pseudo-labels", "{world}/coco/val"],
        "has a run of another model, class list or images",
    ),
    "no benchmark": (
        ["--model", "{model}", "--classes", "a", "--images", "refcoco"],
        "is no benchmark of class lists; give one",
    ),
    "no split": (
        ["--model", "{model}", "--classes", "a", "--images", "ade20k", "--split", "x", "--data-root", "{world}"],
        "has no split 'x'; choose one",
    ),
    "no data": (["--model", "{model}", "--validate", "ade20k", "--classes", "a"], "--validate ade20k: give --data-root, the"),
    "a lone split": (["--model", "{model}", "--classes", "a", "--split", "x"], "--split is of --images; give both"),
    "not in the benchmark": (
        ["--model", "{model}", "--classes", "gras", "--images", "toy", "--data-root", "{world}"],
        "the labelled images have no class 'gras'; did you mean 'grass'?",
    ),
    "sentences": (
        ["--model", "{model}", "--classes", "a", "--images", "coco_with_sentences"],
        "is no benchmark of class lists; give one of",
    ),
    "empty folder": (["--model", "{model}", "--classes", "a", "--pseudo-labels", "{empty}"], "no images here"),
    "no folder": (["--model", "{model}", "--classes", "a", "--pseudo-labels", "{empty}/b"], "no such folder"),
    "confidence": (["--model", "{model}", "--classes", "a", "--confidence", "2"], "--confidence 2.0: give a probability"),
    "a lone confidence": (
        ["--model", "{model}", "--classes", "a", "--confidence", "0.9", STOP],
        "--confidence is of --pseudo-labels; give both",
    ),
    "labels between the images": (
        ["--model", "{model}", "--classes", "a", "--pseudo-labels", "{mixed}/pseudo_labels", "--out", "{mixed}", STOP],
        "would write PNG files between the images of --pseudo-labels",
    ),
    "labels elsewhere": (
        ["--model", "{model}", "--classes", "a", "--pseudo-labels", "{world}/coco/val", "--out", "{linked}", "--steps", "1"],
        "pseudo_labels is a link that leaves",
    ),
    "a first stage elsewhere": (
        ["--model", "{model}", "--classes", "a", "--pseudo-labels", "{world}/coco/val", "--out", "{linked2}", "--steps", "1"],
        "image_free is a link that leaves",
    ),
    "no model": (["--model", "", "--classes", "a", STOP], "--model: is empty; give a model folder"),
    "no steps": (["--model", "{model}", "--classes", "a", "--steps", "0"], "--steps 0: give at least 1"),
    "an unknown field": (["--model", "{model}", "--classes", "a", STOP], "unknown config key 'stepz'"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_bad_input_is_one_line(case, model, world, request, tmp_path, capsys):
    arguments, message = ERRORS[case]
    (tmp_path / "empty").mkdir()
    (tmp_path / "ofa_base.pt").write_bytes(b"PK")
    (tmp_path / "mixed" / "pseudo_labels").mkdir(parents=True)
    (tmp_path / "mixed" / "pseudo_labels" / "a.jpg").touch()
    for folder, name in (("linked", "pseudo_labels"), ("linked2", "image_free")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).symlink_to(tmp_path / "empty")
    places = {name: tmp_path / name for name in ("empty", "mixed", "linked", "linked2")}
    places |= {"model": model, "world": world, "file": tmp_path / "ofa_base.pt"}
    if any("{run}" in text for text in arguments):
        places["run"] = request.getfixturevalue("adapted")
    if any("{two}" in text for text in arguments):
        places["two"] = tmp_path / "two"
        shutil.copytree(model, places["two"] / "image_free" / "model")
    given = [text.format(**places) for text in arguments]
    before = sorted(map(str, tmp_path.rglob("*")))
    capsys.readouterr()  # of the run
    with pytest.raises(SystemExit) as ended:
        main(["adapt", *([] if "--out" in given else ["--out", str(tmp_path / "out")]), *given])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and message in error and error.startswith("error: ") and error.count("\n") == 1
    assert sorted(map(str, tmp_path.rglob("*"))) == before


@pytest.mark.slow
@pytest.mark.parametrize(("name", "images"), [("ade20k", True), ("coco_stuff", True), ("coco_unseen", False)])
def test_real_class_lists_fit_the_published_size(name, images, tmp_path, monkeypatch):
    """With GPT-2's vocabulary in the order of a made-up dictionary of OFA's size: everything up to the first step."""
    from hyperseg_jax.toy.samples import write_samples

    write_samples(tmp_path)
    ofa_dictionary.write_recorded(tmp_path / "ofa", {})
    start = configs.load("ifseg_base", [f"data.root={tmp_path}"])
    classes = class_names.CLASS_LISTS[name]
    benchmark = {"ade20k": ("ade20k", "training"), "coco_stuff": ("coco_stuff_words", "train2017")}.get(name)
    fields = (
        {"reader": "benchmark", "name": benchmark[0], "split": benchmark[1], "root": "{root}", "chosen": classes}
        if images
        else None
    )
    config = IFSEG.adapt(start, IFSEG.load_tokenizer(start), classes, train=fields)
    with config.unlocked():
        config.data.root = str(tmp_path)
    assert config.model.num_classes == len(classes)
    assert dict(config.data.tasks.words)["length"] == start_length(name)
    assert "ready: no step was run" in run_check(config, topology="v5e:2x2")


def start_length(name):
    return {"ade20k": 224, "coco_stuff": 240, "coco_unseen": 48}[name]
