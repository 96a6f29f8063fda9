"""Every registered benchmark, from sample files to scores, with predictions computed from the pixels."""

import contextlib
import dataclasses
import io
import json
import shutil
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_engine import ANSWERS, make_engine, make_outputs
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hyperseg_jax import config as configs
from hyperseg_jax.datasets import masks
from hyperseg_jax.evaluation import benchmark_run, benchmarks, clicks
from hyperseg_jax.evaluation.benchmarks import BENCHMARKS
from hyperseg_jax.evaluation.submissions import WRITERS
from hyperseg_jax.metrics.average_precision import NAMES as AP_NAMES
from hyperseg_jax.ops import run_lengths
from hyperseg_jax.ops.transforms import fit_to_square
from hyperseg_jax.results.mask_resize import canvas_size, geometry_array, make_mask_resize
from hyperseg_jax.structs import Prediction, Prompt
from hyperseg_jax.systems import system as systems
from hyperseg_jax.toy.samples import write_samples

QUERIES = 6
NAMES = [name for name, line in BENCHMARKS.items() if line.reader != "toy" and line.task != "caption"]
SUBMISSION_ONLY = {"ref_youtube_vos", "youtube_vis_2019", "youtube_vis_2021"}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    root = tmp_path_factory.mktemp("samples") / "data"
    write_samples(root)
    return root


def predict(params, batch, query=None):
    """Each query segments one side of one colour, with the same embedding on every frame."""
    pixels = batch["images"][:, 0, ::4, ::4] / 255.0  # [B, h, w, 3]
    logits = 8 * (np.moveaxis(pixels, -1, 1) - 0.5)
    logits = np.concatenate([logits, -logits], 1)
    rows = len(pixels)
    shaped = lambda x: np.broadcast_to(x, (rows, 1, 1, *x.shape))
    classes = 4 * np.eye(QUERIES, batch["class_valid"].shape[-1] or 2)
    regions = 4 * np.eye(QUERIES, batch["regions"].shape[2] or 1)
    outputs = {
        "mask_logits": logits[:, None, None],
        "expression": shaped(np.arange(QUERIES) + 3.0),
        "class": shaped(classes),
        "region": shaped(regions),
        "embedding": shaped(9 * np.eye(QUERIES)),
    }
    return make_outputs(batch, **outputs), pixels.mean((1, 2, 3))


def write(params, batch, features, seeds, decoding):
    """Generates the same word for every prompt."""
    return np.full((len(batch["images"]), 1, 1, 2), 40)


ENGINE = make_engine(predict, write)


def open_sample_task(name, root):
    return benchmarks.open_task(name, BENCHMARKS[name], configs.load("tiny"), systems.get("hyperseg"), str(root))


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_runs_on_samples(samples, tmp_path, monkeypatch, name):
    line, task = BENCHMARKS[name], open_sample_task(name, samples)
    limit = 1 if line.scoring in ("clips", "revos", "ref_davis", "clicks") else 5
    monkeypatch.setattr(clicks, "LIMIT", 3)
    result, repeated = (
        benchmark_run.run(ENGINE, line, task, batch_size=3, state_file=tmp_path / "kept.json", limit=limit) for _ in range(2)
    )
    scores = result.scorer.compute()
    assert repeated.resumed == result.done == min(limit, len(task.val)) and repeated.scorer.compute() == pytest.approx(
        scores, rel=1e-12
    )
    assert (scores == {"count": result.done}) == (name in SUBMISSION_ONLY)
    assert all(
        np.isfinite(value) and (-1 <= value <= 1 or key.startswith(("noc", "count", "classes")))
        for key, value in scores.items()
    )
    assert bool(result.rows) == bool(line.submission)
    if line.submission:
        (tmp_path / "sent").mkdir()
        assert WRITERS[line.submission](tmp_path / "sent", [row for *_, row in result.rows], task.val).exists()
    result.cases.save_sheet(tmp_path / "sheet.png", task.val)


def test_video_submissions(samples, tmp_path):
    task = open_sample_task("ref_youtube_vos", samples)
    result = benchmark_run.run(ENGINE, BENCHMARKS["ref_youtube_vos"], task)
    path = WRITERS["ref_youtube_vos"](tmp_path, [row for *_, row in result.rows], task.val)
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
    frames = sorted((samples / "ref_youtube_vos" / "valid" / "JPEGImages" / "val-0").iterdir())
    assert len(names) == len(task.val) * len(frames)
    assert {name.rsplit("/", 1)[0] for name in names} == {f"Annotations/val-0/{k}" for k in range(len(task.val))}


def test_ref_davis_is_scored_by_annotator_and_view(samples):
    task = open_sample_task("ref_davis", samples)
    scores = benchmark_run.run(ENGINE, BENCHMARKS["ref_davis"], task).scorer.compute()
    groups = [value for key, value in scores.items() if key.startswith("jf/annotator")]
    assert len(groups) == 4 == len(task.val) and scores["jf"] == pytest.approx(np.mean(groups))
    spoken, rest = (
        sum(len(part) for part in parts)
        for parts in zip(*((example.prompts, example.prompts[0].others) for example in task.val), strict=True)
    )
    assert rest > 0 and scores["count"] == spoken + rest  # objects without an expression count as missed


@pytest.mark.parametrize("name", ["panoptic", "instances", "semantic", "candidates"])
def test_padded_classes_are_never_predicted(name):
    """Two classes and background padded to five: padded classes are never predicted, even with the highest scores."""
    prompt = Prompt(task="panoptic", classes=("cat", "dog"), things=(True, True))
    outputs = {
        "mask_logits": 9.0 - 18 * (np.arange(8) // 3 != np.arange(3)[:, None])[:, None].repeat(8, 1),
        "class": np.array([[5.0, 0, 0, 9, 9], [0, 5.0, 0, 9, 9], [0, 0, 5.0, 9, 9]]),
        "class_valid": np.arange(5) < 3,
        "embedding": np.eye(3),
    }
    geometry, way = fit_to_square(8, 8, 8), ANSWERS.find(name)
    here = make_mask_resize(geometry_array(geometry), (8, 8), canvas_size(8, 8))
    result = jax.device_get(way.select(jax.tree.map(jnp.asarray, outputs), here, ANSWERS.default.segment_thresholds()))
    answer = way.predict(result, prompt, geometry, ANSWERS.default)
    assert set(answer.labels) <= {0, 1} and (name == "candidates" or set(answer.labels) == {0, 1})
    assert answer.classes is None or answer.classes.shape[1] == 2


@pytest.fixture
def crowded_coco(samples, tmp_path):
    """COCO instances with two crowds of one class in an image, areas unlike the masks', numbers of images not in the
    order of the file, and an image without objects."""
    path = samples / "coco" / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    notes = content["annotations"]
    for number, note in enumerate(notes):
        mask = masks.decode_segmentation(note["segmentation"], 192, 192, "", polygons="coco")
        note.update(area=float(mask.sum()) * (4 if number % 2 else 0.3), bbox=[0, 0, 1, 1])
    first = [note for note in notes if note["image_id"] == notes[0]["image_id"]]
    for note, kind in zip(first[:2], (first[0]["category_id"],) * 2, strict=True):
        full = masks.decode_segmentation(note["segmentation"], 192, 192, "", polygons="coco")
        note.update(iscrowd=1, category_id=kind, segmentation=run_lengths.encode(full))
    empty = {"file_name": content["images"][0]["file_name"], "height": 192, "width": 192}
    content["images"] += [empty | {"id": number} for number in (40, 7, 5)]
    notes += [
        note | {"id": 900 + 10 * number + k, "image_id": number, "iscrowd": 0}
        for number in (40, 5)
        for k, note in enumerate(first)
    ]
    shutil.copytree(samples / "coco" / "val2017", tmp_path / "coco" / "val2017")
    (tmp_path / "coco" / "annotations").mkdir()
    (tmp_path / "coco" / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return tmp_path, content


def test_coco_ap_equals_pycocotools(crowded_coco, monkeypatch):
    """A full evaluation from a COCO json to the table agrees with pycocotools on the same json and predictions."""
    root, content = crowded_coco
    task, messages = open_sample_task("coco_instances", root), []
    real = ANSWERS.find("instances")
    truth = json.loads((root / "coco" / "annotations" / "instances_val2017.json").read_text())

    def answers(result, prompt, geometry, thresholds):
        """Returns slightly shifted targets, some with another class, in addition to the colour predictions."""
        rng, number = np.random.default_rng(int(prompt.key)), int(prompt.key)
        notes = [note for note in truth["annotations"] if note["image_id"] == number]
        first = real.predict(result, prompt, geometry, thresholds)
        ours, labels, scores = list(first.masks[:5]), list(first.labels[:5]), list(first.scores[:5])
        for note in notes:
            for _ in range(2):
                mask = masks.decode_segmentation(note["segmentation"], 192, 192, "", polygons="coco")
                ours.append(np.roll(mask, rng.integers(-5, 6, 2), (0, 1)))
                labels.append(task.val.category_ids.index(note["category_id"]))
                scores.append(float(rng.integers(1, 6)) / 6)  # with ties
        messages.extend(
            {
                "image_id": number,
                "category_id": task.val.category_ids[label],
                "segmentation": run_lengths.encode(mask),
                "score": score,
            }
            for mask, label, score in zip(ours, labels, scores, strict=True)
        )
        return Prediction(np.array(ours), tuple(labels), tuple(scores))

    kinds = {"instances": dataclasses.replace(real, predict=answers)}
    moved = dataclasses.replace(ENGINE, answers=dataclasses.replace(ANSWERS, kinds=kinds))
    output = benchmark_run.run(moved, BENCHMARKS["coco_instances"], task, batch_size=3).scorer.compute()
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = content | {"info": {}}
        coco.createIndex()
        tool = COCOeval(coco, coco.loadRes(messages), "segm")
        tool.evaluate()
        tool.accumulate()
        tool.summarize()
    expected = {name: float(value) for name, value in zip(AP_NAMES, tool.stats, strict=True) if value >= 0}
    assert output.pop("count") == len(content["images"])
    assert output == pytest.approx(expected, rel=1e-12) and 0.1 < expected["ap"] < expected["ap50"] < 1
