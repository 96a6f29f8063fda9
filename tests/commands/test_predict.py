"""hyperseg predict and hyperseg_jax.load on a micro model: files, sizes, texts, buckets."""

import json
import shutil

import av
import numpy as np
import pytest
from drawn import pixels_of
from PIL import Image

import hyperseg_jax
from hyperseg_jax.commands.main import main
from hyperseg_jax.datasets.visual_prompts import draw_region
from hyperseg_jax.errors import UserError
from hyperseg_jax.predictors.model import Model
from hyperseg_jax.structs import Region


@pytest.fixture
def image(tmp_path, world):
    """An image that is not square."""
    with Image.open(next(iter(sorted((world / "coco" / "val").iterdir())))) as opened:
        opened.crop((0, 10, 150, 110)).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def predict(trained, out, *arguments):
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
    found = predict(trained, out, image, "the red ring", "--always")
    assert found["text"] == "the red ring" and [s["label"] for s in found["segments"]] == ["the red ring"]
    check_masks(out, found["segments"], (150, 100))
    with Image.open(out / "image_overlay.png") as overlay:
        assert overlay.size == (150, 100)
    assert sorted(p.name for p in out.iterdir()) == ["image_mask.png", "image_overlay.png", "result.json"]
    assert "wrote" in capsys.readouterr().err
    (segment,) = hyperseg_jax.load(trained).segment(image, "the red ring", no_target_threshold=None)
    assert segment.mask.shape == (100, 150) and int(segment.mask.sum()) == found["segments"][0]["pixels"]
    predict(trained, out, image, "the red ring", "--always")  # earlier results are replaced
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_classes_and_stuff(trained, image, tmp_path):
    found = predict(trained, tmp_path / "out", image, "--classes", "red ring, blue star", "--stuff", "grass")
    assert found["classes"] == ["red ring", "blue star", "grass"]
    check_masks(tmp_path / "out", found["segments"], (150, 100))
    assert (tmp_path / "out" / "image_overlay.png").exists()


def test_points_and_boxes(trained, image, tmp_path):
    found = predict(trained, tmp_path / "out", image, "--point", "20,30", "--box", "50,20,120,90")
    assert [s["label"] for s in found["segments"]] == ["point 20,30", "box 50,20,120,90"]
    assert [s["mask"] for s in found["segments"]] == ["image_mask1.png", "image_mask2.png"]
    check_masks(tmp_path / "out", found["segments"], (150, 100))


def test_scribbles(trained, image, tmp_path):
    found = predict(trained, tmp_path / "out", image, "--scribble", "20,30,60,35,70,80", "--point", "20,30")
    assert [s["label"] for s in found["segments"]] == ["point 20,30", "scribble 20,30,60,35,70,80"]
    check_masks(tmp_path / "out", found["segments"], (150, 100))


def test_regions_of_marks_and_masks_are_asked_together(trained, image):
    """A mark is asked for as the mask that it is drawn as."""
    model = hyperseg_jax.load(trained)
    marks = [Region.from_point(20, 30), Region("box", boxes=[[50, 20, 120, 90]], points=[[60, 60, 1]])]
    masks = [draw_region(mark, (100, 150)) for mark in marks]
    wanted = model.segment_regions(image, masks)
    for given in (marks, [marks[0], masks[1]], [masks[0], Region.from_mask(masks[1])]):
        found = model.segment_regions(image, given)
        assert np.array_equal(found.masks, wanted.masks) and found.scores == wanted.scores
        assert found.names == ("region 1", "region 2")
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
    found = predict(trained, tmp_path / "out", frames, "the thing that moves", "--always")
    assert [f["frame"] for f in found["frames"]] == ["a.jpg", "b.png"]
    for frame, size in zip(found["frames"], ((90, 120), (150, 100)), strict=True):
        check_masks(tmp_path / "out", frame["segments"], size)


def test_a_video_file(trained, image, tmp_path, capsys):
    path = tmp_path / "clip.mp4"
    with Image.open(image) as opened, av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 150, 100, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.asarray(opened.convert("RGB")), format="rgb24")
        for packet in (*stream.encode(frame), *stream.encode(frame), *stream.encode()):
            container.mux(packet)
    found = predict(trained, tmp_path / "out", path, "the thing that moves", "--always")
    assert [f["frame"] for f in found["frames"]] == ["000000", "000001"] and "2 frames" in capsys.readouterr().err
    for frame in found["frames"]:
        check_masks(tmp_path / "out", frame["segments"], (150, 100))
    assert (tmp_path / "out" / "000001_overlay.png").exists()
    for content, told in ((b"hello", "cannot be read as a video"), (path.read_bytes(), "give a text")):
        path.write_bytes(content)
        with pytest.raises(SystemExit) as stopped:
            predict(trained, tmp_path / "out", path, *(["a cat"] if content == b"hello" else ["--classes", "a cat"]))
        assert stopped.value.code == 2 and told in capsys.readouterr().err


def test_a_failure_leaves_earlier_results_alone(trained, image, tmp_path, monkeypatch):
    out = tmp_path / "out"
    predict(trained, out, image, "the red ring", "--always")
    before = (out / "result.json").read_text()
    monkeypatch.setattr("hyperseg_jax.commands.predict.draw_segments", lambda *_: 1 / 0)
    with pytest.raises(SystemExit):
        predict(trained, out, image, "the blue star", "--always")
    assert (out / "result.json").read_text() == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_question_is_asked_with_the_reasoning_prompt(trained, image, tmp_path, monkeypatch):
    asked, real = [], Model._predict
    monkeypatch.setattr(
        Model, "_predict", lambda self, frame, prompt, *a: asked.append(prompt) or real(self, frame, prompt, *a)
    )
    predict(trained, tmp_path / "out", image, "what could one wear?", "--always", "--reasoning")
    predict(trained, tmp_path / "other", image, "the red ring", "--always")
    assert [(prompt.task, prompt.text) for prompt in asked] == [
        ("reasoning", "what could one wear?"),
        ("referring", "the red ring"),
    ]


def test_marks_are_drawn_as_in_training(world):
    """A point is the disc that the toy world's training examples hold; a box may be given by any two corners and is cut at the
    border."""
    from hyperseg_jax import toy
    from hyperseg_jax.commands.predict import _regions

    example = toy.open_reader(world, "region", "train", kinds=("point",), max_regions=1)[0]
    (drawn,) = pixels_of(example.prompts[0])
    rows, columns = np.nonzero(drawn)
    middle = f"{(columns.min() + columns.max()) / 2},{(rows.min() + rows.max()) / 2}"
    (point,), labels = _regions([middle], [], [], drawn.shape)
    assert np.array_equal(draw_region(point, drawn.shape), drawn) and labels == [f"point {middle}"]
    boxes, _ = _regions([], ["20,30,50,60", "50,60,20,30", "-5,30,50,60"], [], (100, 120))
    one, other, left = (draw_region(box, (100, 120)) for box in boxes)
    assert np.array_equal(one, other) and one.sum() == 30 * 30 and left.sum() == 30 * 50


def test_a_video_is_opened_once(trained, image, tmp_path, monkeypatch):
    from hyperseg_jax.data import video_files

    frames = tmp_path / "frames"
    frames.mkdir()
    for k in range(3):
        shutil.copy(image, frames / f"{k}.png")
    opened, real = [], video_files.read_frames
    monkeypatch.setattr(video_files, "read_frames", lambda source: opened.append(source) or real(source))
    found = predict(trained, tmp_path / "out", frames, "the thing that moves", "--always")
    assert len(found["frames"]) == 3 and opened == [frames]


def test_the_bucket_does_not_change_the_answer(trained, image):
    model = hyperseg_jax.load(trained)
    longer = model.config.copy_and_resolve_references().unlock()
    longer.data.buckets = [288]
    (one,) = model.segment(image, "the red ring", no_target_threshold=None)
    (other,) = Model(longer, model.tokenizer, model.params).segment(image, "the red ring", no_target_threshold=None)
    assert one.score == pytest.approx(other.score, rel=1e-4)
    assert (one.mask != other.mask).mean() < 1e-3


def test_a_model_that_was_trained_on_is_loaded_anew(trained, tmp_path):
    folder = shutil.copytree(trained / "model", tmp_path / "model")
    first = hyperseg_jax.load(folder)
    assert hyperseg_jax.load(folder) is first
    (folder / "model.safetensors").touch()
    assert hyperseg_jax.load(folder) is not first


def test_results_go_where_a_given_link_leads(trained, image, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "results")
    for _ in range(2):
        main(["predict", str(image), "red ring", "--model", str(trained), "--out", str(tmp_path / "out")])
        assert (tmp_path / "out").is_symlink() and (tmp_path / "disk" / "results" / "result.json").is_file()


def test_what_cannot_be_named_or_followed_is_one_line(trained, image, tmp_path, capsys):
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "frames").mkdir()
    long = shutil.copy(image, tmp_path / "frames" / f"{'a' * 240}.jpg")
    for given, out, words in (
        (image, "circle", "circle: cannot be written"),
        (long, "out", "the file name is too long"),
        (tmp_path / "frames", "out", "the file name is too long"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["predict", str(given), "red ring", "--model", str(trained), "--out", str(tmp_path / out)])
        told = capsys.readouterr().err
        assert ended.value.code == 2 and told.count("\n") == 1 and words in told


def test_a_folder_that_vanishes_is_one_line(trained, image, tmp_path, monkeypatch, capsys):
    """The temporary folder is removed after the masks were written into it."""

    def drawn(frame, segments):
        for path in tmp_path.glob(".out.hyperseg-*"):
            shutil.rmtree(path)
        return frame

    monkeypatch.setattr("hyperseg_jax.commands.predict.draw_segments", drawn)
    with pytest.raises(SystemExit) as ended:
        predict(trained, tmp_path / "out", image, "the red ring", "--always")
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.count("\n") == 1 and "cannot be written" in told and not (tmp_path / "out").exists()
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
        predict(trained, out, tmp_path / given, "the red ring", "--always")
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.count("\n") == 1 and f"is or contains {tmp_path / given}" in told
    assert sorted(path.name for path in out.iterdir()) == ["a_mask.png", "result.json"]


@pytest.mark.parametrize("name", ["result.json", "a_mask.png"])
def test_folders_of_others_are_not_our_results(trained, image, tmp_path, capsys, name):
    (tmp_path / "out" / name).mkdir(parents=True)
    (tmp_path / "out" / name / "mine").touch()
    if name != "result.json":
        (tmp_path / "out" / "result.json").touch()
    with pytest.raises(SystemExit) as ended:
        predict(trained, tmp_path / "out", image, "the red ring", "--always")
    assert ended.value.code == 2 and f"contains {name}, which would be deleted" in capsys.readouterr().err
    assert (tmp_path / "out" / name / "mine").exists()
