"""Objects whose masks are given: `hyperseg predict --first-frame-masks` and Model.segment_objects."""

import json

import numpy as np
import pytest
from PIL import Image

import hyperseg_jax
from hyperseg_jax.commands.main import main
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.engine import Engine
from hyperseg_jax.predictors.video_objects import segment_objects
from hyperseg_jax.results.objects import davis_palette
from hyperseg_jax.structs import Prediction

SIZE = (40, 60)


def blocks(**corners):
    """Returns object ids; id3=(row, column) is a block of 10 pixels."""
    ids = np.zeros(SIZE, np.uint8)
    for name, (row, column) in corners.items():
        ids[row : row + 10, column : column + 10] = int(name[2:])
    return ids


@pytest.fixture
def video(tmp_path):
    """Three frames, and the ids of objects 1 and 3 on the first."""
    (tmp_path / "frames").mkdir()
    for t in range(3):
        frame = np.full((*SIZE, 3), 90, np.uint8)
        frame[5:15, 5 + 4 * t : 15 + 4 * t] = (200, 30, 30)
        Image.fromarray(frame).save(tmp_path / "frames" / f"f{t}.png")
    ids = blocks(id1=(5, 5), id3=(25, 40))
    Image.fromarray(ids).save(tmp_path / "ids.png")
    return tmp_path, ids


def test_objects_appear_late_and_do_not_overlap():
    """Object 5 is given on the second frame. Where two are probable, the more probable one wins; background, where none is."""
    frames = [np.full((*SIZE, 3), t, np.uint8) for t in range(3)]
    first, later = blocks(id2=(0, 0), id1=(20, 20)), blocks(id5=(0, 5), id1=(0, 40))
    asked = []

    def answer(example, memory):
        (prompt,) = example.prompts
        asked.append((int(example.frames.max()), int(example.drawn_on.max()), memory))
        soft = np.full((len(prompt.regions), *SIZE), 0.1, np.float32)
        soft[0, :, :30], soft[-1, :, 20:] = 0.7, 0.8
        return Prediction(soft), (memory or 0) + 1

    found = [prediction for _, prediction in segment_objects(frames, {0: first, 1: later}, answer)]
    assert asked == [(0, 0, None), (1, 0, 1), (1, 1, None), (2, 0, 2), (2, 1, 1)]
    assert [prediction.names for prediction in found] == [("1", "2"), *[("1", "2", "5")] * 2]
    assert np.array_equal(found[0].masks, [first == 1, first == 2])
    assert np.array_equal(found[1].masks[2], later == 5)  # the id 1 of the second frame is not given again
    assert found[1].masks[0].any() and not (found[1].masks.sum(0) > 1).any()
    one, two, five = found[2].masks
    assert one[:, :20].all() and two[:, 20:].all() and not five.any()  # the first of equally probable objects


def test_no_object_and_masks_after_the_end():
    frames = [np.zeros((*SIZE, 3), np.uint8)]
    answer = lambda example, memory: (Prediction(np.zeros((1, *SIZE), np.float32)), None)
    with pytest.raises(UserError, match="show no object"):
        segment_objects(frames, np.zeros(SIZE, np.uint8), answer)
    with pytest.raises(UserError, match="given for frame 4, but the video has 1 frames"):
        list(segment_objects(frames, {0: blocks(id1=(0, 0)), 4: blocks(id2=(0, 0))}, answer))
    with pytest.raises(UserError, match=r"have size \(60, 40\), the frame \(40, 60\)"):
        list(segment_objects(frames, blocks(id1=(0, 0)).T, answer))


def test_a_png_of_object_ids(trained, video, capsys):
    folder, ids = video
    arguments = [str(folder / "frames"), "--model", str(trained), "--out", str(folder / "out")]
    main(["predict", *arguments, "--first-frame-masks", str(folder / "ids.png")])
    assert "3 frames" in capsys.readouterr().err
    rows = json.loads((folder / "out" / "result.json").read_text())["frames"]
    assert [[segment["label"] for segment in row["segments"]] for row in rows] == [["1", "3"]] * 3
    with Image.open(folder / "out" / "f0_ids.png") as written:
        assert written.mode == "P" and np.array_equal(np.asarray(written), ids)
        assert bytes(written.getpalette()[:12]) == davis_palette()[:12] == bytes([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    model = hyperseg_jax.load(trained)
    found = [prediction for _, prediction in model.segment_objects(folder / "frames", ids)]
    for t, prediction in enumerate(found):
        expected = prediction.masks[0] + 3 * prediction.masks[1].astype(np.uint8)
        assert np.array_equal(np.asarray(Image.open(folder / "out" / f"f{t}_ids.png")), expected)
    main(["predict", *arguments, "--first-frame-masks", str(folder / "ids.png")])  # replaces its own results


def test_memory_passes_from_frame_to_frame(trained, video, monkeypatch):
    folder, ids = video
    asked, real = [], Engine.select
    monkeypatch.setattr(Engine, "select", lambda *given: asked.append(given[1:]) or real(*given))
    list(hyperseg_jax.load(trained).segment_objects(folder / "frames", ids))
    assert [memory is None for *_, memory in asked] == [True, False, False]
    assert all(np.array_equal(request.batch["region_images"], asked[0][0].batch["region_images"]) for request, *_ in asked)


def test_masks_of_one_object_each_and_of_later_frames(zero_model, video):
    from hyperseg_jax.commands.first_frame_masks import read_masks

    folder, ids = video
    for number in (1, 3):
        Image.fromarray((ids == number) * np.uint8(255)).save(folder / f"object{number}.png")
    (joined,) = read_masks([folder / "object3.png", folder / "object1.png"], SIZE, None).values()
    assert np.array_equal(joined, 2 * (ids == 1) + (ids == 3))
    (single,) = read_masks([folder / "object3.png"], SIZE, None).values()
    assert np.array_equal(single, ids == 3)
    (folder / "annotations").mkdir()
    for name in ("f0", "f2"):
        Image.fromarray(ids).save(folder / "annotations" / f"{name}.png")
    assert sorted(read_masks([folder / "annotations"], SIZE, {"f0": 0, "f1": 1, "f2": 2})) == [0, 2]


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (["none.png"], "no such mask"),
        (["colours.png"], "has colours (mode RGB)"),
        (["large.png"], "is 61x40 pixels, its frame 60x40"),
        (["empty.png"], "shows no object"),
        (["ids.png", "ids.png"], "a pixel belongs to one object"),
        (["ids.png", "empty.png"], "has no pixel above 0"),
        (["annotations"], "the video has no frame f9; name each mask as its frame"),
        (["annotations", "ids.png"], "is a folder; give it alone"),
    ],
)
def test_bad_masks_are_one_line(zero_model, video, capsys, masks, message):
    folder, ids = video
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(folder / "colours.png")
    Image.fromarray(np.pad(ids, ((0, 0), (0, 1)))).save(folder / "large.png")
    Image.fromarray(ids * 0).save(folder / "empty.png")
    (folder / "annotations").mkdir()
    Image.fromarray(ids).save(folder / "annotations" / "f9.png")
    flags = [text for name in masks for text in ("--first-frame-masks", str(folder / name))]
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(folder / "frames"), "--model", str(zero_model / "model"), "--out", str(folder / "out"), *flags])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in " ".join(error.split()) and "Traceback" not in error
    assert not (folder / "out").exists()


@pytest.mark.parametrize("more", [["--text", "the red ring"], ["--point", "3,3"], ["--classes", "cat"]])
def test_one_kind_of_prompt(video, capsys, more):
    folder, _ = video
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(folder / "frames"), "--first-frame-masks", str(folder / "ids.png"), *more])
    assert stopped.value.code == 2 and "--first-frame-masks" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(folder / "frames" / "f0.png"), "--first-frame-masks", str(folder / "ids.png")])
    assert stopped.value.code == 2 and "is no video; give its masks as --mask" in capsys.readouterr().err
