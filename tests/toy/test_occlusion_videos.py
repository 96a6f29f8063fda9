"""Videos with occlusion: what happens in them, their files, and their readers."""

import hashlib
import itertools
import json

import numpy as np
import pytest

from hyperseg_jax import toy
from hyperseg_jax.errors import UserError
from hyperseg_jax.toy import toy_images
from hyperseg_jax.toy.videos import STATES

SMALL = {"train": 1, "val": 1, "compositional": 0, "clips": 4, "videos": "occlusion"}
WORLD = toy.World(**SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy.write_world(tmp_path_factory.mktemp("toy") / "world", **SMALL, log=lambda line: None)


@pytest.fixture(scope="module")
def clips():
    return [toy_images.generate_video(WORLD, "train", k) for k in range(6)]


def test_videos_are_frozen(clips):
    total = hashlib.sha256()
    for clip, _, written in clips[:2]:
        total.update(np.packbits(clip.masks).tobytes() + repr(written).encode())
    assert total.hexdigest()[:16] == "cf840f135523a32f"


def test_objects_vanish_return_enter_and_leave(clips):
    seen = set()
    for clip, frames, _ in clips:
        assert frames.shape[0] == clip.masks.shape[1] == 12
        for thing, role, states, masks in zip(clip.things, clip.roles, np.array(STATES)[clip.states], clip.masks, strict=True):
            seen.add(role)
            assert np.array_equal(states == "visible", masks.any((1, 2)))
            changes = [states[0], *(now for before, now in itertools.pairwise(states) if now != before)]
            expected = {"hidden": ["visible", "occluded", "visible"], "enters": ["outside", "visible"]}
            assert changes == expected.get(role, ["visible", "outside"] if role == "leaves" else ["visible"]), thing
            assert role != "hidden" or (states == "occluded").sum() >= 2
        assert clip.roles.count("hidden") == 1
    assert seen == {"hidden", "enters", "leaves", ""}


def test_events_of_a_clip_can_be_asked_about():
    texts = {}
    for k in range(30):
        clip, _, written = toy_images.generate_video(WORLD, "train", k)
        for expression in written:
            texts.setdefault(expression.text, []).append([clip.roles[target] for target in expression.targets])
    for role, text in (("hidden", "Which shape is hidden behind another one and returns?"), ("enters", "Which shape enters")):
        asked = [roles for question, roles in texts.items() if question.startswith(text)]
        assert asked and all(roles == [role] for each in asked for roles in each)


def test_files_of_all_objects(folder):
    states = json.loads((folder / "revos" / "states.json").read_text())
    objects = toy.open_reader(folder, "video_objects", "train")
    assert len(objects) == 4
    for k in range(4):
        clip, _, _ = toy_images.generate_video(WORLD, "train", k)
        (drawn,) = objects[k].prompts
        in_first_frame = clip.masks[:, 0].any((1, 2))
        in_order = [k + 1 for k in np.flatnonzero(in_first_frame)]
        assert objects.first_object_ids(f"train_{k:05d}") == in_order
        assert np.array_equal(drawn.masks, clip.masks[in_first_frame])
        assert np.array_equal([region.mask for region in drawn.regions], clip.masks[in_first_frame, 0])
        assert list(states[f"train_{k:05d}"].values()) == np.array(STATES)[clip.states].tolist()


def test_worlds_without_the_field_stay_as_they_were(folder, tmp_path):
    other = toy.write_world(tmp_path / "world", **{**SMALL, "videos": "default", "clips": 1}, log=lambda line: None)
    assert "videos" not in json.loads((other / "toy.json").read_text())
    assert json.loads((folder / "toy.json").read_text())["videos"] == "occlusion"
    assert not (other / "revos" / "Annotations").exists()
    with pytest.raises(UserError, match="has no objects for task 'video_objects'; write a world with videos='occlusion'"):
        toy.open_reader(other, "video_objects", "train")
    with pytest.raises(UserError, match="other parameters"):
        toy.write_world(other, **{**SMALL, "clips": 1})
    with pytest.raises(UserError, match="videos='fast' is unknown; choose one of default, occlusion"):
        toy.World(videos="fast")
