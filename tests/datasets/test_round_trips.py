"""Examples of every reader on sample files, compared with the toy scenes."""

import pickle

import numpy as np
import pytest
from PIL import Image
from sample_inputs import draw_regions, region_kinds
from scipy.io import savemat

from hyperseg_jax.datasets import CocoInstances, Folder, LabelMe, PascalContext59, class_names, layouts, masks, refcoco_refs
from hyperseg_jax.datasets.choices import REQUEST
from hyperseg_jax.errors import UserError
from hyperseg_jax.toy import toy_images
from hyperseg_jax.toy.samples import write_samples
from hyperseg_jax.toy.vocabulary import CATEGORY_IDS, SIZE


def mask_iou(a, b):
    return np.logical_and(a, b).sum() / max(1, np.logical_or(a, b).sum())


def open_samples(samples, name, split=None, **options):
    layout = layouts.find_layout(name)
    folder = samples / "yours" / name
    return layout.open(folder if folder.exists() else samples, split or layout.splits[-1], **options)


CLIPS = (
    "davis2016",
    "davis2017",
    "davis2017_unsupervised",
    "ref_davis",
    "ref_youtube_vos",
    "youtube_vis_2019",
    "youtube_vis_2021",
    "revos",
)


@pytest.mark.parametrize("name", layouts.LAYOUTS)
def test_every_split_opens_and_is_picklable(samples, toy_scenes, name):
    for split in layouts.find_layout(name).splits:
        reader = open_samples(samples, name, split)
        repeated = pickle.loads(pickle.dumps(reader))
        names = set()
        for k in range(len(reader)):
            example, other = reader[k], repeated[k]
            names.add(example.name)
            assert example.frames.dtype == np.uint8 and example.frames.shape[1:] == (SIZE, SIZE, 3)
            clip = len(example.frames) > 1
            if clip:
                assert name in CLIPS and all(prompt.key for prompt in example.prompts)
                assert len(example.frame_names) == len(example.frames) or name.startswith("youtube_vis")
            output = min(np.abs(example.frames[0].astype(int) - one.pixels).mean() for one in toy_scenes) < 6
            assert output or clip or name == "reasonseg"
            assert example.prompts and len(example.prompts) == len(other.prompts)
            for prompt, twin in zip(example.prompts, other.prompts, strict=True):
                for field in ("text", "answer", "labels", "key"):
                    assert getattr(prompt, field) == getattr(twin, field)
                assert (prompt.masks is None) == (twin.masks is None)
                assert prompt.masks is None or (prompt.masks.dtype == bool and np.array_equal(prompt.masks, twin.masks))
                assert region_kinds(prompt) == region_kinds(twin)
                assert np.array_equal(draw_regions(prompt, (SIZE, SIZE)), draw_regions(twin, (SIZE, SIZE)))
        assert len(names) == len(reader) > 0


def test_instances(samples, toy_scenes):
    reader = open_samples(samples, "coco_instances")
    for k, image in enumerate(toy_scenes):
        (prompt,) = reader[k].prompts
        assert [prompt.classes[label] for label in prompt.labels] == [thing.name for thing in image.scene.things]
        assert all(prompt.things) and prompt.key == str(k) and prompt.ignore is None
        for n, (result, seen) in enumerate(zip(prompt.masks[:, 0], image.scene.masks, strict=True)):
            exact = (k * 10 + n + 1) % 2 == 0  # the others are polygons through the centres of border pixels
            assert np.array_equal(result, seen) if exact else 0.8 < mask_iou(result, seen) < 1
    assert reader.category_ids == tuple(CATEGORY_IDS[name] for name in reader.classes)


def test_class_lists_of_some(samples, toy_scenes):
    for name in ("coco_instances", "ade20k"):
        reader = open_samples(samples, name, max_classes=4, prompts_per_example=2)
        first, second = reader[0].prompts
        output = {reader.classes.index(first.classes[label]) for label in first.labels}
        assert len(first.classes) == len(second.classes) == 4 and first.classes != second.classes and output
        assert first.ignore is not None or len(output) == 4 or name == "coco_instances"
        assert open_samples(samples, name, max_classes=4, prompts_per_example=2)[0].prompts[1].classes == second.classes


def test_crowds_are_not_counted(samples, tmp_path, copy_samples):
    import json

    root = copy_samples("coco")
    path = root / "coco" / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][1]["iscrowd"] = 1
    path.write_text(json.dumps(content))
    (prompt,) = open_samples(root, "coco_instances")[0].prompts
    before = open_samples(samples, "coco_instances")[0].prompts[0]
    assert len(prompt.masks) == len(before.masks) - 1
    assert np.array_equal(prompt.ignore[0], before.masks[1, 0])
    assert len(open_samples(root, "coco_visual_prompts")[0].prompts[0].masks) == len(before.masks) - 1


@pytest.mark.parametrize("name", ["refcoco", "refcoco+", "refcocog", "grefcoco"])
def test_refs(samples, toy_scenes, name):
    """Pickles of protocols 0 and 2 and json give the same expressions."""
    reader = open_samples(samples, name)
    expected = [
        (k, expression)
        for k, image in enumerate(toy_scenes)
        for expression in image.expressions
        if name == "grefcoco" or len(expression.targets) == 1
    ]
    assert len(reader) == len(expected)
    for n, (k, expression) in enumerate(expected):
        (prompt,) = reader[n].prompts
        assert prompt.task == "referring" and prompt.text == f"{expression.text}."
        assert prompt.group == ("none", "one", "many")[min(len(expression.targets), 2)]
        assert len(prompt.masks) == min(len(expression.targets), 1)
        if expression.targets:
            assert mask_iou(prompt.masks[0, 0], toy_scenes[k].scene.masks[list(expression.targets)].any(0)) > 0.8
    assert {"none", "many"} <= {reader[n].prompts[0].group for n in range(len(reader))} or name != "grefcoco"
    together = open_samples(samples, name, prompts_per_example=3)
    assert [prompt.text for n in range(len(together)) for prompt in together[n].prompts] == [
        f"{expression.text}." for _, expression in expected
    ]
    assert max(len(together[n].prompts) for n in range(len(together))) == 3
    with pytest.raises(UserError, match="no split 'dev'; available splits: test"):
        layouts.find_layout(name).reader(
            samples
            / "refer"
            / name
            / ("grefs(unc).json" if name == "grefcoco" else "refs(umd).p" if name == "refcocog" else "refs(unc).p"),
            samples / "refer" / name / "instances.json",
            samples / "coco" / "train2014",
            split="dev",
        )


def test_polygon_fill_options(samples):
    """Polygons are filled like COCO's tools by default, or like OpenCV with the outline included."""
    instances = open_samples(samples, "coco_instances")
    official, wide = (open_samples(samples, "refcoco", **options) for options in ({}, {"polygons": "fill_poly"}))
    grown = 0
    for n in range(len(official)):
        target, wider = (reader[n].prompts[0].masks[0, 0] for reader in (official, wide))
        assert any(np.array_equal(target, mask) for k in range(len(instances)) for mask in instances[k].prompts[0].masks[:, 0])
        grown += wider.sum() > target.sum() and mask_iou(wider, target) > 0.8
    assert grown  # those with polygons


def test_sentences_of_a_ref(samples, tmp_path):
    import json

    folder = samples / "refer" / "grefcoco"
    refs = json.loads((folder / "grefs(unc).json").read_text())[:1]
    refs[0]["sentences"].append({"sent": "also that", "raw": "Also, that"})
    (tmp_path / "refs.json").write_text(json.dumps(refs))
    images = samples / "coco" / "train2014"
    read = lambda sentences: layouts.find_layout("grefcoco").reader(
        tmp_path / "refs.json", folder / "instances.json", images, split="train", sentences=sentences
    )
    texts = {sentences: [example.prompts[0].text for example in read(sentences)] for sentences in refcoco_refs.SENTENCES}
    first = refs[0]["sentences"][0]["sent"]
    assert texts == {
        "joined": [f"{first}. also that."],
        "each": [f"{first}.", "also that."],
        "raw": [first, "also, that"],
        "first": [first],
    }


def test_polygons_by_both_rules():
    polygon = [6, 4, 14.9, 4.2, 14.7, 8.9, 6.3, 8]
    from pycocotools import mask as coco_mask

    official = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([polygon], 20, 30))).astype(bool)
    assert np.array_equal(masks.decode_segmentation([polygon], 20, 30, "", polygons="coco"), official)
    assert masks.decode_segmentation([polygon], 20, 30, "").sum() > official.sum()


def test_reasonseg_sentences_and_ignored_pixels(samples):
    world = toy_images.World(0, train=0, val=2, compositional=0, clips=0)
    scene, _, question = toy_images.generate_reasoning_image(world, "val", 0)
    folder = samples / "reasonseg"
    explanations = folder / "explanatory" / "train.json"
    reader = layouts.find_layout("reasonseg").reader(folder / "train", sentences="each", explanations=explanations)
    first, second = (reader[k].prompts[0] for k in range(2))
    assert (first.text, second.text) == (question.text, f"{question.text} again")
    assert first.answer == second.answer == question.answer  # one explanation for the sentences of one image
    assert first.ignore.sum() == 36 and np.array_equal(first.masks[0, 0], scene.masks[list(question.targets)].any(0))


def test_marks_are_drawn_in_their_objects(samples, toy_scenes):
    layout = layouts.find_layout("coco_visual_prompts")
    for kind in ("point", "scribble", "box", "mask"):
        (prompt,) = layout.open(samples, "val2017", kinds=(kind,), point_radius=0, scribble_radius=0)[0].prompts
        (repeated,) = layout.open(samples, "val2017", kinds=(kind,), point_radius=0, scribble_radius=0, max_regions=2)[
            0
        ].prompts
        (other,) = layout.open(samples, "val2017", kinds=(kind,), point_radius=0, scribble_radius=0, seed=1)[0].prompts
        assert region_kinds(prompt) == (kind,) * len(toy_scenes[0].scene.masks) and prompt.labels == tuple(
            range(len(prompt.masks))
        )
        for mark, seen in zip(draw_regions(prompt), toy_scenes[0].scene.masks, strict=True):
            if kind in ("point", "scribble"):
                assert not (mark & ~seen).any() and (mark.sum() == 1) == (kind == "point")
            else:
                assert mask_iou(mark, seen) > 0.3
        assert all(any(np.array_equal(one, mark) for mark in draw_regions(prompt)) for one in draw_regions(repeated))
        assert not np.array_equal(draw_regions(prompt), draw_regions(other))


SEMANTIC = {
    "ade20k": (class_names.ADE20K, range(1, 151)),
    "cityscapes": (class_names.CITYSCAPES, class_names.CITYSCAPES_IDS),
    "pascal_context59": (class_names.PASCAL_CONTEXT59, range(1, 60)),
    "pascal_voc20": (class_names.PASCAL_VOC20, range(1, 21)),
    "coco_stuff": (class_names.COCO_STUFF, class_names.COCO_STUFF_IDS),
}


@pytest.mark.parametrize("name", SEMANTIC)
def test_label_images(samples, toy_scenes, name):
    names, numbers = SEMANTIC[name]
    assert len(names) == len(set(names)) == len(list(numbers))
    reader = open_samples(samples, name)
    for k, image in enumerate(toy_scenes):
        (prompt,) = reader[k].prompts
        assert prompt.classes == names and not any(prompt.things)
        owner = np.full((SIZE, SIZE), -1)
        for thing, seen in zip(image.scene.things, image.scene.masks, strict=True):
            owner[seen] = CATEGORY_IDS[thing.name] % len(names)
        if name == "cityscapes":
            owner[owner < 0] = 0  # the ground is painted as road
        if name == "pascal_voc20":
            owner[0] = -1  # the border of an object
        assert prompt.labels == tuple(np.unique(owner[owner >= 0]))
        for label, mask in zip(prompt.labels, prompt.masks[:, 0], strict=True):
            assert np.array_equal(mask, owner == label)
        assert prompt.ignore is None if (owner >= 0).all() else np.array_equal(prompt.ignore[0], owner < 0)


NUMBERS = {  # of the benchmarks' own lists
    "COCO_STUFF": {
        "person": 0,
        "stop sign": 12,
        "backpack": 26,
        "wine glass": 45,
        "dining table": 66,
        "toilet": 69,
        "toothbrush": 89,
        "banner": 91,
        "wall-brick": 170,
        "wood": 181,
    },
    "CITYSCAPES": {"road": 7, "pole": 17, "person": 24, "car": 26, "train": 31, "bicycle": 33},
    "PASCAL_CONTEXT59": {"aeroplane": 2, "car": 59, "person": 284, "sky": 360, "tvmonitor": 427, "wood": 458},
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_classes(name):
    names, numbers = getattr(class_names, name), getattr(class_names, f"{name}_IDS")
    assert {one: number for one, number in zip(names, numbers, strict=True) if one in NUMBERS[name]} == NUMBERS[name]
    assert list(numbers) == sorted(numbers)


@pytest.mark.parametrize(
    ("name", "folder", "void", "refused"),
    [
        ("cityscapes", "cityscapes/gtFine/val", (0, 6, 29, 255), 34),
        ("coco_stuff", "coco/stuffthingmaps/val2017", (11, 90, 255), 182),
        ("ade20k", "ADEChallengeData2016/annotations/validation", (0,), 151),
        ("pascal_voc20", "VOCdevkit/VOC2012/SegmentationClass", (0, 255), 21),
        ("pascal_context59", "VOCdevkit/VOC2010/SegmentationClassContext", (0, 255), 60),
    ],
)
def test_void_and_unknown_labels(copy_samples, name, folder, void, refused):
    root = copy_samples(folder.split("/")[0], *({"coco"} - {folder.split("/")[0]}))
    path = sorted((root / folder).rglob("*.png"))[0]
    for number in (*void, refused):
        Image.fromarray(np.full((SIZE, SIZE), number, np.uint8)).save(path)
        if number == refused:
            with pytest.raises(UserError, match=f"has pixel values {refused}"):
                open_samples(root, name)[0]
        else:
            (prompt,) = open_samples(root, name)[0].prompts
            assert prompt.ignore.all() and not len(prompt.masks)


def test_pascal_context_in_its_original_files(samples, copy_samples):
    """LabelMap has the numbers of labels.txt, of which 59 count."""
    root = copy_samples("VOCdevkit")
    folder = root / "VOCdevkit" / "VOC2010"
    from_png = PascalContext59(folder, "val")
    for path in (folder / "SegmentationClassContext").glob("*.png"):
        numbers = np.array((0, *class_names.PASCAL_CONTEXT59_IDS))[np.array(Image.open(path))]
        numbers[0, 0] = 3  # air conditioner, none of the 59
        (folder / "trainval").mkdir(exist_ok=True)
        savemat(folder / "trainval" / f"{path.stem}.mat", {"LabelMap": numbers.astype(np.uint16)})
    from_mat = PascalContext59(folder, "val")
    for k in range(len(from_png)):
        (a,), (b,) = from_png[k].prompts, from_mat[k].prompts
        assert a.labels == b.labels and b.ignore[0, 0, 0]
        assert np.array_equal(a.masks[..., 1:, :], b.masks[..., 1:, :])


@pytest.mark.parametrize("name", ["vqav2", "gqa"])
def test_questions(samples, toy_scenes, name):
    reader = open_samples(samples, name, suffix=" Be brief.")
    expected = [pair for image in toy_scenes for pair in image.conversation]
    requests = [reader[n].prompts[0] for n in range(len(reader))]
    assert [(prompt.text, prompt.answer) for prompt in requests] == [(f"{q} Be brief.", a) for q, a in expected]
    assert [int(prompt.key) for prompt in requests] == list(range(len(expected)))
    assert all(prompt.answers == ((prompt.answer,) * 10 if name == "vqav2" else ()) for prompt in requests)
    assert requests[0].group == ("other" if name == "vqav2" else "query")


def test_flipped_questions_have_flipped_answers():
    from hyperseg_jax.data.augment import flip_horizontally
    from hyperseg_jax.structs import Example, Prompt

    requests = Prompt("chat", text="what is on the left?", answer="the right one", answers=("right", "the left one", "cat"))
    (prompt,) = flip_horizontally(Example("x", np.zeros((1, 2, 2, 3), np.uint8), (requests,))).prompts
    assert (prompt.text, prompt.answer) == ("what is on the right?", "the left one")
    assert prompt.answers == ("left", "the right one", "cat")


def test_vqav2_without_answers(samples):
    folder = samples / "vqav2" / "v2_OpenEnded_mscoco_val2014_questions.json"
    prompt = layouts.find_layout("vqav2").reader(folder, samples / "coco" / "val2014")[0].prompts[0]
    assert prompt.answer == "" and prompt.answers == () and prompt.key == "0"


def test_pope(samples, toy_scenes):
    reader = open_samples(samples, "pope", "popular")
    for n in range(len(reader)):
        (prompt,) = reader[n].prompts
        shape = prompt.text.split()[3]
        there = any(thing.shape == shape for thing in toy_scenes[n % len(toy_scenes)].scene.things)
        assert prompt.answer == ("yes" if there else "no") and prompt.group == "popular"


@pytest.mark.parametrize("name", ["scienceqa", "mmbench"])
def test_choices(samples, toy_scenes, name):
    reader = open_samples(samples, name)
    (prompt,) = reader[0].prompts
    lines = prompt.text.removesuffix(REQUEST).split("\n")
    requests = ["One of them is.", "Which shape is there?"] if name == "scienceqa" else ["Which shape", 'is "there"?']
    assert lines[:2] == requests and prompt.text.endswith(REQUEST)
    assert lines[2] == f"A. {toy_scenes[0].scene.things[0].shape}" and prompt.answer == "A"
    assert [line[:3] for line in lines[2:]] == ["A. ", "B. ", "C. ", "D. "]
    if name == "scienceqa":
        assert reader.text_only == 1 and len(reader) == len(toy_scenes)
    else:  # every second row has the index of an image in place of an image
        assert len(reader) == 2 * len(toy_scenes) and reader[1].prompts[0].key == "1000000"
        assert np.array_equal(reader[0].frames, reader[1].frames)
        assert "\nB. " in reader[2].prompts[0].text and "\nC." not in reader[2].prompts[0].text


def test_a_folder_of_images_and_captions(samples, toy_scenes):
    folder = samples / "yours" / "folder"
    expected = [(k, expression) for k, image in enumerate(toy_scenes) for expression in image.expressions]
    reader = Folder(folder)
    for n, (k, expression) in enumerate(expected):
        (prompt,) = reader[n].prompts
        assert (prompt.text, prompt.group) == (expression.text, expression.group)
        seen = toy_scenes[k].scene.masks[list(expression.targets)]
        assert np.array_equal(prompt.masks, seen.any(0)[None, None]) if expression.targets else not len(prompt.masks)
    train, val = Folder(folder, split="train"), Folder(folder, split="val", task="reasoning")
    assert len(train) + len(val) == len(reader) and val[0].prompts[0].task == "reasoning"
    with pytest.raises(UserError, match="no line with split 'dev'"):
        Folder(folder, split="dev")


def test_labelme(samples, toy_scenes):
    reader = LabelMe(samples / "yours" / "labelme")
    assert reader.classes == tuple(sorted({thing.name for image in toy_scenes for thing in image.scene.things}))
    for k, image in enumerate(toy_scenes):
        (prompt,) = reader[k].prompts
        assert [prompt.classes[label] for label in prompt.labels] == [thing.name for thing in image.scene.things]
        assert np.array_equal(prompt.masks[:, 0], image.scene.masks)  # rings are two shapes of one group


def test_labelme_shapes(tmp_path):
    import base64
    import io
    import json

    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    part = io.BytesIO()
    Image.fromarray(np.array([[255, 0], [0, 255]], np.uint8)).save(part, "PNG")
    shapes = [
        {"label": "a", "shape_type": "rectangle", "points": [[8, 9], [4, 5]]},
        {"label": "a", "shape_type": "circle", "points": [[20, 10], [23, 10]]},
        {"label": "b", "shape_type": "mask", "points": [[1, 2], [2, 3]], "mask": base64.b64encode(part.getvalue()).decode()},
    ]
    note = {"imagePath": "a.png", "imageHeight": 20, "imageWidth": 30, "shapes": shapes}
    (tmp_path / "a.json").write_text(json.dumps(note))
    (prompt,) = LabelMe(tmp_path, stuff=("b",))[0].prompts
    assert prompt.classes == ("a", "b") and prompt.things == (True, False) and prompt.labels == (0, 0, 1)
    assert prompt.masks[0].sum() == 25 and prompt.masks[0, 0, 5, 4]
    rows, columns = np.mgrid[:20, :30]
    assert np.array_equal(prompt.masks[1, 0], (columns - 20) ** 2 + (rows - 10) ** 2 <= 9)
    assert np.argwhere(prompt.masks[2, 0]).tolist() == [[2, 1], [3, 2]]
    for shape, group in zip(shapes, (4, 4, 4), strict=True):
        shape["group_id"] = group
    (tmp_path / "a.json").write_text(json.dumps(note))
    (grouped,) = LabelMe(tmp_path)[0].prompts  # two labels, so two objects
    assert grouped.labels == (0, 1) and np.array_equal(grouped.masks[0], prompt.masks[0] | prompt.masks[1])


def test_own_coco_json(samples, toy_scenes):
    folder = samples / "yours" / "coco_json"
    (prompt,) = CocoInstances(folder / "annotations.json", folder / "images")[0].prompts
    assert np.array_equal(prompt.masks[:, 0], toy_scenes[0].scene.masks)


def test_samples_are_not_written_to_existing_folders(tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match="is not empty"):
        write_samples(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
