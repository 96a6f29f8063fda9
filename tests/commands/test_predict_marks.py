"""hyperseg predict on SEEM: marks on the image, on another image, and on videos."""

import json

import numpy as np
import pytest
from PIL import Image
from sample_inputs import random_params
from seem_config import small_config

from hyperseg_jax.commands.main import main
from hyperseg_jax.systems import system as systems
from hyperseg_jax.weights import model_folder

RNG = np.random.default_rng(0)
SIZE = (60, 40)  # width, height


@pytest.fixture(scope="module")
def seem(tmp_path_factory):
    config, system = small_config(), systems.get("seem")
    params = random_params(system.shapes(config), seed=3, spread=0.3)
    folder = tmp_path_factory.mktemp("models") / "seem"
    model_folder.save_model(folder, config, system.tokenizer(config), params)
    return folder


@pytest.fixture
def files(tmp_path):
    """A folder of frames, an example image of another size with a mask, and another mask."""
    (tmp_path / "frames").mkdir()
    pixels = RNG.integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)
    for k in range(3):
        Image.fromarray(np.roll(pixels, 4 * k, axis=1)).save(tmp_path / "frames" / f"{k}.png")
    Image.fromarray(RNG.integers(0, 255, (50, 44, 3), np.uint8)).save(tmp_path / "example.png")
    mask = np.zeros((50, 44), np.uint8)
    mask[10:30, 5:20] = 7
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(0 * mask).save(tmp_path / "empty.png")
    return tmp_path


def run_predict(seem, files, *arguments):
    main(["predict", "--model", str(seem), "--out", str(files / "out"), *map(str, arguments)])
    return json.loads((files / "out" / "result.json").read_text())


def labels_of(rows):
    return [segment["label"] for segment in rows]


def test_prompts_are_combined(seem, files):
    image = files / "frames" / "0.png"
    alone = run_predict(seem, files, image, "--point", "20,20", "--box", "5,5,30,30")
    combined = run_predict(seem, files, image, "--point", "20,20", "--box", "5,5,30,30", "--text", "the red ring")
    assert labels_of(combined["segments"]) == ["point 20,20", "box 5,5,30,30"] and combined["text"] == "the red ring"
    assert [row["score"] for row in combined["segments"]] != [row["score"] for row in alone["segments"]]


def test_an_object_of_another_image(seem, files):
    """Of the size of that image; its mask is one of the inputs."""
    marks = ("--example", files / "example.png", "--mask", files / "mask.png", "--box", "1,1,30,45")
    result = run_predict(seem, files, files / "frames" / "0.png", *marks)
    assert labels_of(result["segments"]) == ["box 1,1,30,45", "mask mask.png"]
    assert result["example"] == str(files / "example.png")
    with Image.open(files / "out" / "0_overlay.png") as overlay:
        assert overlay.size == SIZE
    video = run_predict(seem, files, files / "frames", *marks)
    assert [frame["frame"] for frame in video["frames"]] == ["0.png", "1.png", "2.png"]
    assert video["frames"][0]["segments"][0]["score"] == result["segments"][0]["score"]
    assert all(labels_of(frame["segments"]) == labels_of(result["segments"]) for frame in video["frames"])


def test_an_object_of_the_first_frame(seem, files, capsys):
    first = run_predict(seem, files, files / "frames", "--point", "20,20")
    assert len(first["frames"]) == 3 and "found: 3 frames" in capsys.readouterr().err
    frame = ("--example", files / "frames" / "0.png", "--point", "20,20")
    assert run_predict(seem, files, files / "frames", *frame)["frames"] == first["frames"]


def test_class_lists_of_other_kinds(seem, files, capsys):
    image = files / "frames" / "0.png"
    semantic = run_predict(seem, files, image, "--classes", "ring,star", "--kind", "semantic")
    assert sum(row["pixels"] for row in semantic["segments"]) == SIZE[0] * SIZE[1]
    assert "score" not in capsys.readouterr().err  # masks of classes have none
    instances = run_predict(seem, files, image, "--classes", "ring", "--stuff", "grass", "--kind", "instances")
    assert set(labels_of(instances["segments"])) <= {"ring"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("frames --everything", "frames is a video; give a text, or mark an object, or give --classes"),
        ("frames/0.png --example example.png", "--example requires --point / --box / --scribble / --mask"),
        ("frames/0.png ring --example example.png", "--example requires --point"),
        ("frames/0.png --example gone.png --point 1,1", "gone.png"),
        ("frames/0.png --example example.png --point 50,1", "is not inside the image of 44 x 50 pixels"),
        ("frames/0.png --mask mask.png", "is 44x50 pixels, its image 60x40"),
        ("frames/0.png --example example.png --mask empty.png", "empty.png: has no white pixel"),
        ("frames/0.png --mask example.png", "example.png"),
        ("frames/0.png ring --kind semantic", "--kind requires --classes"),
        ("frames/0.png --audio speech.wav", "audio is not supported; transcribe it"),
    ],
)
def test_bad_marks_are_one_line(seem, files, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(files)
    with pytest.raises(SystemExit) as ended:
        run_predict(seem, files, *arguments.split())
    messages = capsys.readouterr().err
    assert ended.value.code == 2 and messages.count("\n") == 1 and message in messages
    assert not (files / "out").exists()
