"""Readers of the video benchmarks on toy clips in their layouts: what they take, what they read, and what broken files get."""

import json
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image
from sample_inputs import draw_regions, region_kinds

from hyperseg_jax import toy
from hyperseg_jax.data.sources import READERS
from hyperseg_jax.datasets import Davis2016, Davis2017, RefDavis, RefYouTubeVos, YouTubeVis, files, masks, video_folders
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops import run_lengths
from hyperseg_jax.toy.toy_images import generate_video


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    return toy.write_video_layouts(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def copy(written, tmp_path):
    """Of one benchmark, to be broken."""
    return lambda name: shutil.copytree(written / name, tmp_path / name)


def drawn(split, k):
    result, frames, output = generate_video(toy.World(clips=5), split, k)
    return result, frames, {e.text: e.targets[0] for e in output if len(e.targets) == 1}


def ref_davis(home, split="train", **options):
    return RefDavis(home, home / "davis_text_annotations", split, **options)


def ref_youtube(home, split="train", **options):
    kwargs = {"mask_root": home / split / "Annotations"} if split == "train" else {}
    return RefYouTubeVos(
        home / "meta_expressions" / split / "meta_expressions.json", home / split / "JPEGImages", **kwargs, **options
    )


def youtube_vis(home, split="train", **options):
    return YouTubeVis(home / split / "instances.json", home / split / "JPEGImages", **options)


def near(frames, pixels):
    return frames.shape == pixels.shape and np.abs(frames.astype(int) - pixels).mean() < 8  # JPEG


# what readers take


def test_davis_2017_follows_what_the_first_frame_shows(written):
    reader = Davis2017(written / "davis2017", "train")
    assert len(reader) == 2
    example, (result, pixels, _) = reader[1], drawn("train", 1)
    (prompt,) = example.prompts
    assert example.name == "train-1" and near(example.frames, pixels)
    assert prompt.task == "region" and np.array_equal(prompt.masks, result.masks) and prompt.ignore is None
    assert np.array_equal(draw_regions(prompt), result.masks[:, 0])
    assert region_kinds(prompt) == ("mask",) * len(result.things) and prompt.labels == tuple(range(len(result.things)))


def test_davis_2017_unsupervised_and_void(copy):
    home = copy("davis2017")
    path = home / "Annotations_unsupervised" / "480p" / "train-0" / "00000.png"
    with Image.open(path) as image:
        owner = np.array(image)
    owner[:5] = video_folders.VOID
    Image.fromarray(owner).save(path)
    (prompt,) = Davis2017(home, "train", task="unsupervised")[0].prompts
    result, _, _ = drawn("train", 0)
    assert (prompt.task, prompt.classes, prompt.things, prompt.regions) == ("panoptic", ("object",), (True,), ())
    assert len(prompt.masks) == len(prompt.labels) == len(result.things) and set(prompt.labels) == {0}
    assert prompt.ignore[0, :5].all() and prompt.ignore.sum() == prompt.ignore[0, :5].sum()
    assert not prompt.masks[:, 0, :5].any() and np.array_equal(prompt.masks[:, 1], result.masks[:, 1])


def test_davis_2016_has_one_object_in_either_release(written):
    result, _, _ = drawn("train", 0)
    for home in ("davis2016", "davis2017"):
        for task in ("semi-supervised", "unsupervised"):
            (prompt,) = Davis2016(written / home, "train", task=task)[0].prompts
            assert np.array_equal(prompt.masks, result.masks.any(0)[None]) and prompt.ignore is None
    assert len(Davis2016(written / "davis2016", "train")) == 2 and len(Davis2016(written / "davis2016", None)) == 3


def test_davis_2017_test_sets_have_the_first_mask(copy):
    home = copy("davis2017")
    for path in (home / "Annotations" / "480p" / "val-0").iterdir():
        if path.stem != "00000":
            path.unlink()
    example, (result, pixels, _) = Davis2017(home, "val", frames=2)[0], drawn("val", 0)
    assert len(example.frames) == len(pixels) and example.prompts[0].masks is None
    assert np.array_equal(draw_regions(example.prompts[0]), result.masks[:, 0])


def test_a_sampled_clip_begins_where_an_object_is_seen(copy):
    home = copy("davis2017")
    folder = home / "Annotations" / "480p" / "train-0"
    paths = sorted(folder.iterdir())
    for path in paths[:-1]:
        Image.fromarray(np.zeros((192, 192), np.uint8)).save(path)
    for seed in range(4):
        (prompt,) = Davis2017(home, "train", frames=2, seed=seed, sampling="jump")[0].prompts
        assert draw_regions(prompt).any((1, 2)).all() and len(prompt.regions)
    Image.fromarray(np.zeros((192, 192), np.uint8)).save(paths[-1])
    with pytest.raises(UserError, match=r"train-0: its masks show no object in frame 0; remove the video"):
        Davis2017(home, "train", frames=2)[0]


def test_ref_davis_sentences_of_two_people_and_two_views(written):
    reader = ref_davis(written / "davis2017")
    result, pixels, output = drawn("train", 0)
    examples = [reader[k] for k in range(len(reader))]
    assert len(reader) == 4 * sum(len({n for n in drawn("train", k)[2].values()}) for k in range(2))
    assert len({example.name for example in examples}) == len(reader)
    for example in [e for e in examples if e.name.startswith("train-0/")]:
        (prompt,) = example.prompts
        text = prompt.text.split(", as ")[0]
        assert (
            prompt.task == "video"
            and np.array_equal(prompt.masks[0], result.masks[output[text]])
            and near(example.frames, pixels)
        )
    groups = [example.prompts[0].group for example in examples[:4]]
    assert groups == [f"annotator {a}, {v}" for a in (1, 2) for v in ("first_frame", "full_video")]
    one = ref_davis(written / "davis2017", annotators=(2,), views=("full_video",))
    assert len(one) * 4 == len(reader) and one[0].prompts[0].text.endswith("as 2 saw it in the full video.")
    joined = ref_davis(written / "davis2017", sentences="joined", group_by_video=True)
    assert len(joined) == 2 and joined[0].prompts[0].text.count(", as ") == 4


def test_ref_davis_texts_of_the_archive(copy):
    """Latin-1 in the files of the second annotator, and three videos under other names."""
    home = copy("davis2017")
    for kind in ("JPEGImages", "Annotations_unsupervised"):
        (home / kind / "480p" / "val-0").rename(home / kind / "480p" / "classic-car")
    (home / "ImageSets" / "2017" / "val.txt").write_text("classic-car\n")
    (home / "davis_text_annotations" / "Davis17_annot2.txt").write_bytes('clasic-car 1 "a caf\u00e9 car"\r\n'.encode("latin-1"))
    (example,) = [ref_davis(home, "val", annotators=(2,), views=("first_frame",))[0]]
    assert example.prompts[0].text == "a caf\u00e9 car." and example.name == "classic-car/1.2.first_frame"


def test_ref_youtube_vos(written):
    reader = ref_youtube(written / "ref_youtube_vos")
    result, pixels, output = drawn("train", 0)
    for k in range(len(output)):
        (prompt,) = reader[k].prompts
        assert reader[k].name == f"train-0/{k}" and near(reader[k].frames, pixels)
        assert np.array_equal(prompt.masks[0], result.masks[output[prompt.text.removesuffix(".")]])
    valid = ref_youtube(written / "ref_youtube_vos", "valid")
    assert len(valid) == len(drawn("val", 0)[2]) and valid[0].prompts[0].masks is None
    with pytest.raises(UserError, match="use sentences='each'"):
        ref_youtube(written / "ref_youtube_vos", "valid", sentences="joined")


def test_youtube_vis_tracks_and_gaps(copy):
    home = copy("youtube_vis_2021")
    content = json.loads((home / "train" / "instances.json").read_text())
    result, pixels, _ = drawn("train", 0)
    content["annotations"][0]["segmentations"][2] = None
    content["annotations"][1]["iscrowd"] = 1
    content["annotations"][2]["segmentations"][0] = [[10, 10, 20, 10, 20, 20, 10, 20]]
    (home / "train" / "instances.json").write_text(json.dumps(content))
    reader = youtube_vis(home)
    example, (prompt,) = reader[0], reader[0].prompts
    assert example.name == "instances.json#1" and near(example.frames, pixels) and prompt.classes == reader.classes
    assert prompt.task == "panoptic" and prompt.things == (True,) * len(reader.classes)
    kept = [0, *range(2, len(result.things))]
    assert [reader.classes[label] for label in prompt.labels] == [result.things[n].name for n in kept]
    assert not prompt.masks[0, 2].any() and np.array_equal(prompt.masks[0, 3], result.masks[0, 3])
    assert prompt.masks[1, 0, 10:20, 10:20].all() and prompt.masks[1, 0].sum() <= 11 * 11
    assert np.array_equal(prompt.ignore, result.masks[1])
    assert youtube_vis(home, "valid", frames=3)[0].prompts[0].masks is None
    (short,) = youtube_vis(home, max_classes=1)[0].prompts  # other objects are ignored
    shown = [mask for mask, label in zip(prompt.masks, prompt.labels, strict=True) if reader.classes[label] in short.classes]
    assert (
        len(short.classes) == len(short.things) == 1
        and short.labels == (0,) * len(shown)
        and np.array_equal(short.masks, shown)
    )
    assert np.array_equal(short.ignore | short.masks.any(0), np.any([prompt.ignore, *prompt.masks], 0))


def test_runs_that_are_not_compressed(copy):
    home = copy("youtube_vis_2021")
    content = json.loads((home / "train" / "instances.json").read_text())
    mask = drawn("train", 0)[0].masks[0, 0]
    flat = np.concatenate([[False], mask.T.reshape(-1)])
    edges = np.flatnonzero(np.diff(flat.astype(int)))
    counts = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    content["annotations"][0]["segmentations"][0] = {"size": [192, 192], "counts": counts}
    (home / "train" / "instances.json").write_text(json.dumps(content))
    assert np.array_equal(youtube_vis(home)[0].prompts[0].masks[0, 0], mask)


# what they read, and how often they would read it so


CLIPS = {
    "davis2016": lambda home, **options: Davis2016(home / "davis2016", "train", **options),
    "davis2017": lambda home, **options: Davis2017(home / "davis2017", "train", **options),
    "ref_davis": lambda home, **options: ref_davis(home / "davis2017", **options),
    "ref_youtube_vos": lambda home, **options: ref_youtube(home / "ref_youtube_vos", **options),
    "youtube_vis": lambda home, **options: youtube_vis(home / "youtube_vis_2021", **options),
}


@pytest.mark.parametrize("name", CLIPS)
def test_only_the_frames_asked_for_are_read(written, monkeypatch, name):
    read = []
    label_readers = "read_label_image", "read_mask_image"
    of_labels = [(video_folders, function) for function in label_readers]
    for module, function in ((files, "read_image"), *of_labels, (masks, "decode_segmentation")):
        original = getattr(module, function)
        monkeypatch.setattr(module, function, lambda *a, _o=original, _f=function, **b: read.append(_f) or _o(*a, **b))
    example = CLIPS[name](written, frames=2)[0]
    things = len(drawn("train", 0)[0].things)
    assert len(example.frames) == 2 == example.prompts[0].masks.shape[1] and read.count("read_image") == 2
    assert sum(map(read.count, label_readers)) in (0, 2) and read.count("decode_segmentation") <= 2 * things
    assert len(set(read)) == 2


@pytest.mark.parametrize("name", CLIPS)
def test_clips_follow_from_seed_and_index(written, name):
    assert READERS[name] is type(CLIPS[name](written))
    one, same, other = (CLIPS[name](written, frames=3, sampling="jump", seed=seed) for seed in (1, 1, 2))
    same = pickle.loads(pickle.dumps(same))  # as it comes to a worker
    equal = [[np.array_equal(one[k].frames, r[k].frames) for k in range(2)] for r in (same, other)]
    assert all(equal[0]) and not all(equal[1])
    repeated = [one.sample(0, np.random.default_rng(5)) for _ in range(2)]
    assert np.array_equal(repeated[0].frames, repeated[1].frames) and np.array_equal(
        repeated[0].prompts[0].masks, repeated[1].prompts[0].masks
    )


# what broken files get


FRAMES = {
    "davis2017": "JPEGImages/480p/train-0",
    "ref_youtube_vos": "train/JPEGImages/train-0",
    "youtube_vis_2021": "train/JPEGImages/train-0",
}
OPEN = {"davis2017": lambda home: Davis2017(home, "train"), "ref_youtube_vos": ref_youtube, "youtube_vis_2021": youtube_vis}


@pytest.mark.parametrize("name", ["ref_youtube_vos", "youtube_vis_2021"])
def test_a_missing_frame_is_named(copy, name):
    home = copy(name)
    (home / FRAMES[name] / "00002.jpg").unlink()
    with pytest.raises(UserError, match=r"train-0.00002\.jpg: no such image"):
        OPEN[name](home)[0]
    (home / FRAMES[name] / "00000.jpg").unlink()
    with pytest.raises(UserError, match=r"train-0.00000\.jpg: no such image"):
        OPEN[name](home)[0]


@pytest.mark.parametrize("name", OPEN)
def test_a_frame_of_another_size_or_cut_short_is_named(copy, name):
    home = copy(name)
    path = home / FRAMES[name] / "00001.jpg"
    full = path.read_bytes()
    Image.new("RGB", (190, 192)).save(path)
    with pytest.raises(UserError, match=r"00001\.jpg: is 190x192 pixels"):
        OPEN[name](home)[0]
    path.write_bytes(full[: len(full) // 2])
    with pytest.raises(UserError, match=r"00001\.jpg: cannot be read as an image"):
        OPEN[name](home)[0]


@pytest.mark.parametrize(("name", "folder"), [("davis2017", "Annotations/480p"), ("ref_youtube_vos", "train/Annotations")])
def test_bad_masks_are_named(copy, name, folder):
    home = copy(name)
    path = home / folder / "train-0" / "00001.png"
    full = path.read_bytes()
    for broken, messages in (
        (lambda: path.unlink(), "no such mask"),
        (lambda: Image.new("P", (192, 191)).save(path), "is 192x191 pixels, its frame 192x192"),
        (lambda: Image.new("RGB", (192, 192)).save(path), r"cannot be read as a mask .it has colours .mode RGB"),
        (lambda: path.write_bytes(full[: len(full) // 2]), "is a PNG without its end"),
        (lambda: path.write_text("hello"), "cannot be read as a mask"),
    ):
        broken()
        with pytest.raises(UserError, match=rf"00001\.png: {messages}"):
            OPEN[name](home)[0]


def test_unknown_objects_are_named(copy):
    home = copy("ref_youtube_vos")
    path = home / "meta_expressions" / "train" / "meta_expressions.json"
    content = json.loads(path.read_text())
    content["videos"]["train-0"]["expressions"]["0"]["obj_id"] = "9"
    content["videos"]["train-0"]["expressions"]["1"]["obj_id"] = "the cat"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"meta_expressions\.json train-0 1: obj_id 'the cat' is not an object number"):
        list(map(ref_youtube(home).__getitem__, range(1, len(ref_youtube(home)))))
    content["videos"]["train-0"]["expressions"]["1"]["obj_id"] = 1
    path.write_text(json.dumps(content))
    for options in ({}, {"frames": 2}):
        with pytest.raises(UserError, match=r"meta_expressions\.json train-0 0: no mask in .*train-0 has object 9"):
            ref_youtube(home, **options)[0]
    assert len(ref_youtube(home)[1].prompts) == 1
    text = copy("davis2017") / "davis_text_annotations" / "Davis17_annot1.txt"
    text.write_text('train-0 8 "the cat"\ntrain-1 1 "a dog"\n')
    with pytest.raises(UserError, match=r"train-0 8\.1\.first_frame: no mask in .*train-0 has object 8"):
        ref_davis(text.parent.parent, annotators=(1,), views=("first_frame",))[0]


def test_an_object_that_a_clip_does_not_show_is_empty(copy):
    home = copy("ref_youtube_vos")
    for path in sorted((home / "train" / "Annotations" / "train-0").iterdir())[1:]:
        Image.fromarray(np.zeros((192, 192), np.uint8)).save(path)
    result = [ref_youtube(home, frames=2, seed=seed)[0].prompts[0].masks for seed in range(8)]
    assert {bool(mask.any()) for mask in result} == {False, True} and all(mask.shape[:2] == (1, 2) for mask in result)


def test_bad_texts_of_ref_davis_are_named(copy):
    home = copy("davis2017")
    path = home / "davis_text_annotations" / "Davis17_annot1.txt"
    path.write_text('train-0 1 "the cat"\ntrain-1 the dog\n')
    with pytest.raises(UserError, match=r"Davis17_annot1\.txt line 2: expected: video"):
        ref_davis(home)
    path.write_text('train-0 1 "the cat"\n')
    with pytest.raises(UserError, match="no expression for train-1"):
        ref_davis(home, annotators=(1,), views=("first_frame",))
    path.unlink()
    with pytest.raises(UserError, match=r"Davis17_annot1\.txt: no such file; unpack davis_text_annotations"):
        ref_davis(home)
    with pytest.raises(UserError, match="views: 'whole' is unknown"):
        ref_davis(home, views=("whole",))


def test_bad_lists_and_folders_of_davis_are_named(copy):
    home = copy("davis2017")
    with pytest.raises(UserError, match=r"test-dev\.txt: no such list of videos"):
        Davis2017(home, "test-dev")
    (home / "ImageSets" / "2017" / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="lists no video"):
        Davis2017(home, "empty")
    with pytest.raises(UserError, match="Full-Resolution: no such folder"):
        Davis2017(home, resolution="Full-Resolution")
    with pytest.raises(UserError, match="choose one of semi-supervised, unsupervised"):
        Davis2017(home, task="interactive")
    (home / "JPEGImages" / "480p" / "nothing").mkdir()
    with pytest.raises(UserError, match=r"nothing: has no \.jpg frames"):
        Davis2017(home, None)[0]


def test_bad_json_of_youtube_is_named(copy):
    home = copy("youtube_vis_2021")
    path = home / "train" / "instances.json"
    full = path.read_text()
    changes = {
        "video_id 77 is not among the videos": lambda c: c["annotations"][0].update(video_id=77),
        "category_id 99 is not among the categories": lambda c: c["annotations"][0].update(category_id=99),
        "has 1 segmentations, its video": lambda c: c["annotations"][0].update(segmentations=[None]),
        "field 'segmentations' is missing": lambda c: c["annotations"][0].pop("segmentations"),
        r"annotations#0 segmentations, frame 0: the mask is 5x5 pixels": lambda c: c["annotations"][0][
            "segmentations"
        ].__setitem__(0, run_lengths.encode(np.ones((5, 5), bool))),
        "field 'categories' is missing": lambda c: c.pop("categories"),
        "video 1: field 'file_names' lists no frames": lambda c: c["videos"][0].update(file_names=[]),
    }
    for messages, change in changes.items():
        content = json.loads(full)
        change(content)
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match=rf"instances\.json.*{messages}"):
            youtube_vis(home)[0]
    for name, open_it in (("train/instances.json", lambda: youtube_vis(home)),):
        (home / name).write_text(full[: len(full) // 2])
        with pytest.raises(UserError, match=r"instances\.json: is not valid JSON"):
            open_it()
    meta = copy("ref_youtube_vos") / "meta_expressions" / "train" / "meta_expressions.json"
    meta.write_text(meta.read_text()[:-9])
    with pytest.raises(UserError, match=r"meta_expressions\.json: is not valid JSON"):
        ref_youtube(meta.parent.parent.parent)
