"""hyperseg predict and hyperseg_jax.load on a micro model: files, sizes, texts, buckets."""

import argparse
import dataclasses
import functools
import json
import shutil

import av
import numpy as np
import pytest
from PIL import Image
from sample_inputs import draw_regions

import hyperseg_jax
from hyperseg_jax.commands.main import main
from hyperseg_jax.datasets.visual_prompts import draw_region
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.engine import Engine
from hyperseg_jax.predictors import model as predict_model
from hyperseg_jax.predictors.model import Model
from hyperseg_jax.results import instances
from hyperseg_jax.results.tracking import Tracker
from hyperseg_jax.structs import Region
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.weights import model_folder


@pytest.fixture
def image(tmp_path, world):
    """A non-square image."""
    with Image.open(next(iter(sorted((world / "coco" / "val").iterdir())))) as opened:
        opened.crop((0, 10, 150, 110)).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def run_predict(trained, out, *arguments):
    main(["predict", "--model", str(trained), "--out", str(out), *map(str, arguments)])
    return json.loads((out / "result.json").read_text())


def check_masks(out, segments, size):
    for segment in segments:
        with Image.open(out / segment["mask"]) as opened:
            mask = np.asarray(opened)
            assert opened.size == size and opened.mode == "L" and set(np.unique(mask)) <= {0, 255}
        assert (mask > 0).sum() == segment["pixels"] and 0 <= segment["score"] <= 1


def test_text(trained, image, tmp_path, capsys):
    out = tmp_path / "out"
    result = run_predict(trained, out, image, "the red ring", "--always")
    assert result["text"] == "the red ring" and [s["label"] for s in result["segments"]] == ["the red ring"]
    check_masks(out, result["segments"], (150, 100))
    with Image.open(out / "image_overlay.png") as overlay:
        assert overlay.size == (150, 100)
    assert sorted(p.name for p in out.iterdir()) == ["image_mask.png", "image_overlay.png", "result.json"]
    assert "wrote" in capsys.readouterr().err
    (segment,) = hyperseg_jax.load(trained).segment(image, "the red ring", no_target_threshold=None)
    assert segment.mask.shape == (100, 150) and int(segment.mask.sum()) == result["segments"][0]["pixels"]
    run_predict(trained, out, image, "the red ring", "--always")  # earlier results are replaced
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_classes_and_stuff(trained, image, tmp_path):
    result = run_predict(trained, tmp_path / "out", image, "--classes", "red ring, blue star", "--stuff", "grass")
    assert result["classes"] == ["red ring", "blue star", "grass"]
    check_masks(tmp_path / "out", result["segments"], (150, 100))
    assert (tmp_path / "out" / "image_overlay.png").exists()


def test_points_and_boxes(trained, image, tmp_path):
    result = run_predict(trained, tmp_path / "out", image, "--point", "20,30", "--box", "50,20,120,90")
    assert [s["label"] for s in result["segments"]] == ["point 20,30", "box 50,20,120,90"]
    assert [s["mask"] for s in result["segments"]] == ["image_mask1.png", "image_mask2.png"]
    check_masks(tmp_path / "out", result["segments"], (150, 100))


def test_scribbles(trained, image, tmp_path):
    result = run_predict(trained, tmp_path / "out", image, "--scribble", "20,30,60,35,70,80", "--point", "20,30")
    assert [s["label"] for s in result["segments"]] == ["point 20,30", "scribble 20,30,60,35,70,80"]
    check_masks(tmp_path / "out", result["segments"], (150, 100))


def test_marks_and_masks_in_one_request(trained, image):
    """A mark is equivalent to its drawn mask."""
    model = hyperseg_jax.load(trained)
    marks = [Region.from_point(20, 30), Region("box", boxes=[[50, 20, 120, 90]], points=[[60, 60, 1]])]
    masks = [draw_region(mark, (100, 150)) for mark in marks]
    expected = model.segment_regions(image, masks)
    for inputs in (marks, [marks[0], masks[1]], [masks[0], Region.from_mask(masks[1])]):
        result = model.segment_regions(image, inputs)
        assert np.array_equal(result.masks, expected.masks) and result.scores == expected.scores
        assert result.names == ("region 1", "region 2")
    with pytest.raises(UserError, match="the image: region 2: it has only points beside the object"):
        model.segment_regions(image, [marks[0], Region("point", points=[[3, 3, 0]])])
    for empty in (np.zeros((100, 150), bool), Region.from_mask(np.zeros((100, 150), bool))):
        with pytest.raises(UserError, match="region 2 is empty; draw it inside the image"):
            model.segment_regions(image, [masks[0], empty])
    for other in (masks[0].T, Region.from_mask(masks[0].T)):
        with pytest.raises(UserError, match=r"region 1 has size \(150, 100\), but the image has \(100, 150\)"):
            model.segment_regions(image, [other])


def test_a_folder_of_frames_of_different_sizes(trained, image, tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    shutil.copy(image, frames / "b.png")
    with Image.open(image) as opened:
        opened.resize((90, 120)).convert("RGB").save(frames / "a.jpg")
    (frames / "notes.txt").write_text("not a frame")
    result = run_predict(trained, tmp_path / "out", frames, "the thing that moves", "--always")
    assert [f["frame"] for f in result["frames"]] == ["a.jpg", "b.png"]
    for frame, size in zip(result["frames"], ((90, 120), (150, 100)), strict=True):
        check_masks(tmp_path / "out", frame["segments"], size)


def test_objects_of_the_first_frame(trained, image, monkeypatch):
    """The memory of the model passes from frame to frame; all frames are asked about the first one."""
    asked, real = [], Engine.select
    monkeypatch.setattr(Engine, "select", lambda *given: asked.append(given[1:]) or real(*given))
    model = hyperseg_jax.load(trained)
    frames = [np.roll(predict_model.read_image(image), 9 * k, axis=1) for k in range(3)]
    regions = [Region.from_point(20, 30), Region.from_box(50, 20, 120, 90)]
    found = [prediction for _, prediction in model.segment_video(frames, regions=regions)]
    assert [(prediction.masks.shape, prediction.names) for prediction in found] == [
        ((2, 100, 150), ("region 1", "region 2"))
    ] * 3
    assert [memory is None for *_, memory in asked] == [True, False, False]
    drawn_on = [request.batch["region_images"] for request, *_ in asked]
    assert all(np.array_equal(each, drawn_on[0]) for each in drawn_on)
    assert not np.array_equal(asked[0][0].batch["images"], asked[2][0].batch["images"])
    with pytest.raises(UserError, match="does not support a text with regions"):
        next(model.segment_video(frames, "the red ring", regions=regions))


def test_instances_of_a_video_are_tracked(random_model, image, tmp_path, monkeypatch, capsys):
    """An instance has the same track on all frames, in files as in Python; a system that cannot track is one line."""
    monkeypatch.setattr(instances, "MIN_SCORE", 0.0)
    monkeypatch.setattr(instances, "Tracker", functools.partial(Tracker, first_score=0.0, new_score=0.0))
    trained, frames = tmp_path / "model", tmp_path / "frames"
    model_folder.save_model(trained, random_model.config, Tokenizer.toy(), random_model.params)
    frames.mkdir()
    pixels = [predict_model.read_image(image)] * 3
    for k, frame in enumerate(pixels):
        Image.fromarray(frame).save(frames / f"{k}.png")
    result = run_predict(trained, tmp_path / "out", frames, "--classes", "red ring,blue star")
    model = hyperseg_jax.load(trained)
    found = [prediction for _, prediction in model.track_classes(pixels, ["red ring", "blue star"])]
    assert [[row["track"] for row in frame["segments"]] for frame in result["frames"]] == [[*p.track_ids] for p in found]
    assert found[0].track_ids == tuple(range(len(found[0]))) and set(found[0].track_ids) & set(found[2].track_ids)
    assert all(row["label"] in result["classes"] for frame in result["frames"] for row in frame["segments"])
    for frame in result["frames"]:
        check_masks(tmp_path / "out", frame["segments"], (150, 100))
    tracks = {track for prediction in found for track in prediction.track_ids}
    assert f"found: 3 frames, {len(tracks)} instances" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        run_predict(trained, tmp_path / "out", frames, "--classes", "a cat", "--stuff", "grass")
    assert stopped.value.code == 2 and "on which --classes are tracked; remove --stuff" in capsys.readouterr().err
    cannot = dataclasses.replace(model.engine, answers=dataclasses.replace(model.engine.answers, kinds={}))
    monkeypatch.setattr(model, "engine", cannot)
    with pytest.raises(UserError, match="does not support answers of kind 'candidates'"):
        model.track_classes(pixels, ["red ring"])


def test_a_video_file(trained, image, tmp_path, capsys):
    path = tmp_path / "clip.mp4"
    with Image.open(image) as opened, av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 150, 100, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.asarray(opened.convert("RGB")), format="rgb24")
        for packet in (*stream.encode(frame), *stream.encode(frame), *stream.encode()):
            container.mux(packet)
    result = run_predict(trained, tmp_path / "out", path, "the thing that moves", "--always")
    assert [f["frame"] for f in result["frames"]] == ["000000", "000001"] and "2 frames" in capsys.readouterr().err
    for frame in result["frames"]:
        check_masks(tmp_path / "out", frame["segments"], (150, 100))
    assert (tmp_path / "out" / "000001_overlay.png").exists()
    for content, messages in ((b"hello", "cannot be read as a video"), (path.read_bytes(), "give a text")):
        path.write_bytes(content)
        with pytest.raises(SystemExit) as stopped:
            run_predict(trained, tmp_path / "out", path, *(["a cat"] if content == b"hello" else ["--everything"]))
        assert stopped.value.code == 2 and messages in capsys.readouterr().err


def test_failures_keep_earlier_results(trained, image, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run_predict(trained, out, image, "the red ring", "--always")
    before = (out / "result.json").read_text()
    monkeypatch.setattr("hyperseg_jax.commands.predict.draw_segments", lambda *_: 1 / 0)
    with pytest.raises(SystemExit):
        run_predict(trained, out, image, "the blue star", "--always")
    assert (out / "result.json").read_text() == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_questions_use_the_reasoning_prompt(trained, image, tmp_path, monkeypatch):
    requests, real = [], Model._predict
    monkeypatch.setattr(
        Model, "_predict", lambda self, example, *a: requests.append(example.prompts[0]) or real(self, example, *a)
    )
    run_predict(trained, tmp_path / "out", image, "what could one wear?", "--always", "--reasoning")
    run_predict(trained, tmp_path / "other", image, "the red ring", "--always")
    assert [(prompt.task, prompt.text) for prompt in requests] == [
        ("reasoning", "what could one wear?"),
        ("referring", "the red ring"),
    ]


def test_marks_are_drawn_as_in_training(world):
    """A point is the same disc as in training examples of the toy world; a box is given by any two corners and clipped at the
    border."""
    from hyperseg_jax import toy
    from hyperseg_jax.commands.predict import _parse_regions

    example = toy.open_reader(world, "region", "train", kinds=("point",), max_regions=1)[0]
    (drawn,) = draw_regions(example.prompts[0])
    rows, columns = np.nonzero(drawn)
    middle = f"{(columns.min() + columns.max()) / 2},{(rows.min() + rows.max()) / 2}"
    marks = lambda **given: argparse.Namespace(**{"point": [], "box": [], "scribble": [], "mask": []} | given)
    (point,), labels = _parse_regions(marks(point=[middle]), drawn.shape)
    assert np.array_equal(draw_region(point, drawn.shape), drawn) and labels == [f"point {middle}"]
    boxes, _ = _parse_regions(marks(box=["20,30,50,60", "50,60,20,30", "-5,30,50,60"]), (100, 120))
    one, other, left = (draw_region(box, (100, 120)) for box in boxes)
    assert np.array_equal(one, other) and one.sum() == 30 * 30 and left.sum() == 30 * 50


def test_videos_are_opened_once(trained, image, tmp_path, monkeypatch):
    from hyperseg_jax.data import video_files

    frames = tmp_path / "frames"
    frames.mkdir()
    for k in range(3):
        shutil.copy(image, frames / f"{k}.png")
    opened, real = [], video_files.read_frames
    monkeypatch.setattr(video_files, "read_frames", lambda source: opened.append(source) or real(source))
    result = run_predict(trained, tmp_path / "out", frames, "the thing that moves", "--always")
    assert len(result["frames"]) == 3 and opened == [frames]


def test_buckets_do_not_change_the_prediction(trained, image):
    model = hyperseg_jax.load(trained)
    longer = model.config.copy_and_resolve_references().unlock()
    longer.data.buckets = [288]
    (one,) = model.segment(image, "the red ring", no_target_threshold=None)
    (other,) = Model(longer, model.tokenizer, model.params).segment(image, "the red ring", no_target_threshold=None)
    assert one.score == pytest.approx(other.score, rel=1e-4)
    assert (one.mask != other.mask).mean() < 1e-3


def test_changed_models_are_reloaded(trained, tmp_path):
    folder = shutil.copytree(trained / "model", tmp_path / "model")
    first = hyperseg_jax.load(folder)
    assert hyperseg_jax.load(folder) is first
    (folder / "model.safetensors").touch()
    assert hyperseg_jax.load(folder) is not first


def test_output_folders_may_be_links(trained, image, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "results")
    for _ in range(2):
        main(["predict", str(image), "red ring", "--model", str(trained), "--out", str(tmp_path / "out")])
        assert (tmp_path / "out").is_symlink() and (tmp_path / "disk" / "results" / "result.json").is_file()


def test_invalid_outputs_are_one_line(trained, image, tmp_path, capsys):
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "frames").mkdir()
    long = shutil.copy(image, tmp_path / "frames" / f"{'a' * 240}.jpg")
    for inputs, out, words in (
        (image, "circle", "circle: cannot be written"),
        (long, "out", "the file name is too long"),
        (tmp_path / "frames", "out", "the file name is too long"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["predict", str(inputs), "red ring", "--model", str(trained), "--out", str(tmp_path / out)])
        messages = capsys.readouterr().err
        assert ended.value.code == 2 and messages.count("\n") == 1 and words in messages


def test_a_folder_that_vanishes_is_one_line(trained, image, tmp_path, monkeypatch, capsys):
    """The temporary folder is removed after the masks were written into it."""

    def drawn(frame, segments):
        for path in tmp_path.glob(".out.hyperseg-*"):
            shutil.rmtree(path)
        return frame

    monkeypatch.setattr("hyperseg_jax.commands.predict.draw_segments", drawn)
    with pytest.raises(SystemExit) as ended:
        run_predict(trained, tmp_path / "out", image, "the red ring", "--always")
    messages = capsys.readouterr().err
    assert (
        ended.value.code == 2
        and messages.count("\n") == 1
        and "cannot be written" in messages
        and not (tmp_path / "out").exists()
    )
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("given", ["out/a_mask.png", "out", "link.png"])
def test_the_input_is_never_replaced(trained, image, tmp_path, capsys, given):
    """Named as our results are, beside a result.json."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "result.json").write_text("{}")
    shutil.copy(image, out / "a_mask.png")
    (tmp_path / "link.png").symlink_to(out / "a_mask.png")
    with pytest.raises(SystemExit) as ended:
        run_predict(trained, out, tmp_path / given, "the red ring", "--always")
    messages = capsys.readouterr().err
    assert ended.value.code == 2 and messages.count("\n") == 1 and f"is or contains {tmp_path / given}" in messages
    assert sorted(path.name for path in out.iterdir()) == ["a_mask.png", "result.json"]


@pytest.mark.parametrize("name", ["result.json", "a_mask.png"])
def test_folders_of_others_are_not_our_results(trained, image, tmp_path, capsys, name):
    (tmp_path / "out" / name).mkdir(parents=True)
    (tmp_path / "out" / name / "mine").touch()
    if name != "result.json":
        (tmp_path / "out" / "result.json").touch()
    with pytest.raises(SystemExit) as ended:
        run_predict(trained, tmp_path / "out", image, "the red ring", "--always")
    assert ended.value.code == 2 and f"contains {name}, which would be deleted" in capsys.readouterr().err
    assert (tmp_path / "out" / name / "mine").exists()
