"""Video frames with expressions: frame selection, pairs and masks."""

import json

import numpy as np
import pytest
from PIL import Image

from hyperseg_jax.datasets import ReferringClips, ReferringFrames
from hyperseg_jax.errors import UserError

VIDEOS = {"ant": 40, "bee": 120, "cow": 200}  # grey value of the object
HEIGHT, WIDTH, FRAMES = 24, 32, 5


def write_videos(root, heights=(HEIGHT,) * 3):
    for (video, grey), height in zip(VIDEOS.items(), heights, strict=True):
        for kind in ("JPEGImages", "Annotations"):
            (root / kind / "240p" / video).mkdir(parents=True)
        for t in range(FRAMES):
            mask = np.zeros((height, WIDTH), np.uint8)
            mask[8:16, 4 * t : 4 * t + 8] = 1
            Image.fromarray(np.repeat((mask * grey)[..., None], 3, -1)).save(
                root / "JPEGImages" / "240p" / video / f"{t:05d}.jpg", quality=95
            )
            Image.fromarray(mask).save(root / "Annotations" / "240p" / video / f"{t:05d}.png")
    output = {video: {"expressions": [f"the {video}", f"what a {video} is"], "frames": FRAMES} for video in VIDEOS}
    (root / "expressions.json").write_text(json.dumps(output))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("clips"))


def test_every_frame_of_a_split_occurs_once(root):
    parts = {part: ReferringFrames(root, part) for part in ("even", "odd", "all")}
    names = {part: [example.name.split()[0] for example in reader] for part, reader in parts.items()}
    assert names["even"] == [f"{video}/{t:05d}" for video in VIDEOS for t in (0, 2, 4)]
    assert names["odd"] == [f"{video}/{t:05d}" for video in VIDEOS for t in (1, 3)]
    assert len(names["all"]) == len(VIDEOS) * FRAMES
    for part in ("even", "odd"):  # the other one of a pair as well
        partners = {example.name.split()[-1] for example in parts[part] if " beside " in example.name}
        assert partners and partners <= set(names[part])


def test_expressions_refer_to_objects_of_their_video(root):
    reader = ReferringFrames(root)
    pairs = 0
    for k in range(len(reader)):
        example = reader[k]
        paired = " beside " in example.name
        pairs += paired
        assert paired == bool(k % 2)
        assert example.frames.shape == (1, HEIGHT, WIDTH * (1 + paired), 3)
        assert [prompt.group for prompt in example.prompts] == ["beside" if paired else "alone"] * (4 if paired else 2)
        assert example.prompts[0].key in example.name
        for prompt in example.prompts:
            assert prompt.key in prompt.text
            inside = example.frames[0][prompt.masks[0, 0]].mean()
            assert prompt.masks.sum() == 64 and abs(inside - VIDEOS[prompt.key]) < 12
    assert pairs == len(reader) // 2


def test_pairs_are_random_in_training_and_fixed_in_testing(root):
    reader = ReferringFrames(root)
    assert [reader[k].name for k in range(4)] == [ReferringFrames(root)[k].name for k in range(4)]
    drawn = [reader.sample(0, np.random.default_rng(k)) for k in range(40)]
    assert 10 <= sum(" beside " in example.name for example in drawn) <= 30
    firsts = {example.prompts[0].key for example in drawn}
    assert firsts == set(VIDEOS), "either side, and every other video"
    alone = ReferringFrames(root, beside=False)
    assert all(len(alone[k].prompts) == 2 for k in range(len(alone)))
    assert len(alone.sample(0, np.random.default_rng(1)).prompts) == 2


def test_invalid_videos_are_reported(root, tmp_path):
    with pytest.raises(UserError, match="part='third' is unknown; choose one of even, odd, all"):
        ReferringFrames(root, "third")
    with pytest.raises(UserError, match=r"expressions\.json: no such file"):
        ReferringFrames(tmp_path)
    uneven = write_videos(tmp_path, (24, 20, 28))
    with pytest.raises(UserError, match="differ in height; use frames of one height or set beside=False"):
        ReferringFrames(uneven)[1]
    (uneven / "expressions.json").write_text('{"ant": {"sentences": []}}')
    with pytest.raises(UserError, match=r"expressions\.json ant: field 'expressions' is missing"):
        ReferringFrames(uneven)[0]


def test_clips_have_the_frames_of_a_part(root):
    for part, times in {"even": (0, 2, 4), "odd": (1, 3), "all": range(FRAMES)}.items():
        reader = ReferringClips(root, part)
        assert len(reader) == len(VIDEOS)
        for example, video in zip(reader, VIDEOS, strict=True):
            assert example.frame_names == tuple(f"{t:05d}" for t in times)
            assert [prompt.text for prompt in example.prompts] == [f"the {video}.", f"what a {video} is."]
            for prompt in example.prompts:
                assert prompt.task == "video" and prompt.masks.shape == (1, len(times), HEIGHT, WIDTH)
                for mask, t in zip(prompt.masks[0], times, strict=True):
                    assert mask.sum() == 64 and mask[8:16, 4 * t : 4 * t + 8].all()


def test_clips_are_sampled_within_a_part(root):
    reader = ReferringClips(root, "even", frames=2, reach=1)
    sampled = {reader.sample(1, np.random.default_rng(seed)).frame_names for seed in range(20)}
    assert sampled == {("00000", "00002"), ("00002", "00004")}


def test_clips_of_an_unknown_part(root):
    with pytest.raises(UserError, match="part='first' is unknown; choose one of even, odd, all"):
        ReferringClips(root, "first")


def test_damaged_sentences_are_errors_of_their_video(tmp_path):
    root = write_videos(tmp_path)
    written = json.loads((root / "expressions.json").read_text())
    written["bee"]["expressions"] = "the bee"
    (root / "expressions.json").write_text(json.dumps(written))
    reader = ReferringClips(root)
    assert len(reader) == 3 and reader[0].prompts[0].text == "the ant." and reader[2].prompts[0].text == "the cow."
    with pytest.raises(UserError, match=r"expressions\.json bee: field 'expressions' is 'the bee'"):
        reader[1]
