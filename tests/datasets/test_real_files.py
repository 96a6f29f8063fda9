"""Files of annotation tools and cameras: what readers and the check make of them."""

import base64
import io
import json

import numpy as np
import pytest
from damage import edit_json, run_check, sorted_problems
from PIL import Image

from hyperseg_jax.data.targets import TargetArrays
from hyperseg_jax.datasets import CocoInstances, Folder, LabelMe, PseudoLabels, ReasonSeg, layouts
from hyperseg_jax.datasets.check import check_reader
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.datasets.visual_prompts import box_region, draw_region
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops.transforms import fit_to_square
from hyperseg_jax.structs import Example, Prompt, Region
from hyperseg_jax.untrusted.orientation import turn_upright

PHOTO = np.zeros((12, 20, 3), np.uint8)
PHOTO[3:6, 4:10] = 250
OBJECT = PHOTO[..., 0] > 0


def turned(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def write_caption(folder, mask, **saving):
    """Writes a folder with one image, one text and one mask."""
    Image.fromarray(PHOTO).save(folder / "a.png", **saving)
    (folder / "m.png").write_bytes(mask if isinstance(mask, bytes) else to_bytes(mask))
    (folder / "captions.jsonl").write_text(json.dumps({"image": "a.png", "text": "a bar", "mask": "m.png"}))
    return folder


def to_bytes(pixels, form="PNG", **options):
    data = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(data, form, **options)
    return data.getvalue()


def problems_of(root, name, split=None):
    return [message for _, message in sorted_problems(run_check(root, name, split))]


def test_masks_of_palettes_are_read_by_colour(tmp_path):
    """Quantized images have white at any index."""
    write_caption(tmp_path, Image.fromarray(np.where(OBJECT, 255, 0).astype(np.uint8)).convert("RGB").quantize(2))
    (prompt,) = Folder(tmp_path)[0].prompts
    assert np.array_equal(prompt.masks[0, 0], OBJECT) and problems_of(tmp_path, "folder") == []


def test_grey_masks_are_read_and_reported(tmp_path):
    pixels = np.where(OBJECT, 255, 0).astype(np.uint8)
    pixels[2, 4:10] = 100
    write_caption(tmp_path, pixels)
    assert np.array_equal(Folder(tmp_path)[0].prompts[0].masks[0, 0], OBJECT)
    (message,) = problems_of(tmp_path, "folder")
    assert "m.png: has values between black and white, so the mask is what is brighter than the middle; save it" in message
    write_caption(tmp_path, to_bytes(np.where(OBJECT, 255, 0).astype(np.uint8), "JPEG", quality=90))
    assert (Folder(tmp_path)[0].prompts[0].masks[0, 0] == OBJECT).mean() > 0.98
    assert "between black and white" in problems_of(tmp_path, "folder")[0]


def test_the_mask_of_a_turned_image_is_upright(tmp_path):
    upright = np.rot90(OBJECT, -1)
    write_caption(tmp_path, np.where(upright, 255, 0).astype(np.uint8), exif=turned(6))
    example = Folder(tmp_path)[0]
    assert np.array_equal(example.prompts[0].masks[0, 0], upright) and (example.frames[0][upright] == 250).all()
    write_caption(tmp_path, np.where(OBJECT, 255, 0).astype(np.uint8), exif=turned(6))
    (message,) = problems_of(tmp_path, "folder")
    assert "m.png: is 20x12 pixels, its image 12x20; both must have the same size; if the image has an EXIF" in message


def write_labelme(folder, shapes, size, **saving):
    Image.fromarray(PHOTO).save(folder / "a.png", **saving)
    record = {"imagePath": "a.png", "imageHeight": size[0], "imageWidth": size[1], "shapes": shapes}
    (folder / "a.json").write_text(json.dumps(record))
    return folder


def shape(points, kind="polygon", label="bar", **fields):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, **fields}


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_labelme_points_are_in_the_upright_image(tmp_path, orientation):
    upright = turn_upright(OBJECT, orientation)
    rows, columns = (np.flatnonzero(upright.any(axis)).tolist() for axis in (1, 0))
    corners = [[columns[0], rows[0]], [columns[-1], rows[-1]]]
    write_labelme(tmp_path, [shape(corners, "rectangle")], upright.shape, exif=turned(orientation))
    example = LabelMe(tmp_path)[0]
    assert np.array_equal(example.prompts[0].masks[0, 0], upright) and (example.frames[0][upright] == 250).all()
    assert problems_of(tmp_path, "labelme") == []


def test_labels_of_labelme_that_are_no_classes(tmp_path):
    box = [[4, 3], [9, 5]]
    labels = ("bar", "__ignore__", "_background_")
    write_labelme(tmp_path, [shape(box, "rectangle", label) for label in labels], OBJECT.shape)
    (prompt,) = LabelMe(tmp_path)[0].prompts
    assert (
        prompt.classes == ("bar",) and np.array_equal(prompt.masks[:, 0], [OBJECT]) and np.array_equal(prompt.ignore[0], OBJECT)
    )
    (prompt,) = LabelMe(tmp_path, classes=labels)[0].prompts
    assert prompt.labels == (0, 1, 2) and problems_of(tmp_path, "labelme") == []


def test_a_turned_image_of_another_size_is_named(tmp_path):
    write_labelme(tmp_path, [shape([[4, 3], [9, 3], [9, 5]])], OBJECT.shape, exif=turned(6))
    with pytest.raises(UserError, match=r"a.png: is 12x20 pixels when turned upright \(its EXIF orientation is 6\), its anno"):
        LabelMe(tmp_path)[0]
    (message,) = problems_of(tmp_path, "labelme")
    assert "annotate the upright image, or remove its orientation" in message


def test_labelme_masks_are_read_by_colour(tmp_path):
    mask = Image.fromarray(np.where(OBJECT[3:6, 4:10], 255, 0).astype(np.uint8)).convert("RGB").quantize(2)
    text = base64.b64encode(to_bytes(mask)).decode()
    write_labelme(tmp_path, [shape([[4, 3], [9, 5]], "mask", mask=text)], OBJECT.shape)
    assert np.array_equal(LabelMe(tmp_path)[0].prompts[0].masks[0, 0], OBJECT)


def test_animations_are_problems(tmp_path):
    write_caption(tmp_path, np.where(OBJECT, 255, 0).astype(np.uint8))
    Image.fromarray(PHOTO).save(tmp_path / "a.png", save_all=True, append_images=[Image.fromarray(PHOTO[::-1])])
    assert ["a.png: has several frames" in message for message in problems_of(tmp_path, "folder")] == [True]
    with pytest.raises(UserError, match="has several frames; save one of them as an image, or all of them as a video"):
        Folder(tmp_path)[0]


def test_masks_of_one_object_in_videos_are_read_by_colour(copy_samples):
    root = copy_samples("davis2016")
    reader = layouts.find_layout("davis2016").open(root, "val")
    before = reader[0].prompts[0].masks
    for path in root.glob("davis2016/Annotations/480p/*/*.png"):
        index = np.asarray(Image.open(path).convert("L")) == 0
        image = Image.fromarray(index.astype(np.uint8), "P")
        image.putpalette([255, 255, 255, 0, 0, 0])
        image.save(path)
    assert before.any() and np.array_equal(layouts.find_layout("davis2016").open(root, "val")[0].prompts[0].masks, before)


@pytest.mark.parametrize("name", ["masks", "ignore", "crowds", "others", "foreground"])
def test_masks_of_own_readers_are_bool(name):
    """Soft masks would be cut at 0."""

    class Own:
        @guard_record
        def __getitem__(self, index):
            prompt = Prompt("referring", "a bar", masks=OBJECT[None, None])
            return Example("own#0", PHOTO[None], (vague(prompt, name),))

    def vague(prompt, name):
        object.__setattr__(prompt, name, np.full((1, 1, *OBJECT.shape), 0.2, np.float32))
        return prompt

    with pytest.raises(UserError, match=rf"own#0: field '{name}' of a prompt is float32, expected bool; threshold it in the"):
        Own()[0]


# Identity


def test_an_annotation_of_another_image_is_a_problem(copy_samples):
    root = copy_samples("refer", "coco")
    edit_json(root / "refer/grefcoco/instances.json", lambda c: [note.update(image_id=1) for note in c["annotations"][:1]])
    number = json.loads((root / "refer/grefcoco/instances.json").read_text())["annotations"][0]["id"]
    open_reader = lambda: layouts.find_layout("grefcoco").open(root, "train", sentences="joined")
    messages = problems_of(root, "grefcoco", "train")
    assert len(messages) == 1 and "annotations#0: is about the image 1, but used for the image 0; correct its" in messages[0]
    reader = open_reader()
    refs = json.loads((root / "refer/grefcoco/grefs(unc).json").read_text())
    of_object = [ref for ref in refs if ref["split"] == "train" and number in ref["ann_id"]]
    errors = [message for k in range(len(reader)) if "is about the image 1" in (message := error_of(reader, k))]
    assert len(errors) == len(of_object) > 0


@pytest.mark.parametrize(
    ("benchmark", "file", "edit"),
    [
        ("refcoco_json", "refcoco/refcoco_val.json", lambda c: c[0]["anns"][0].update(image_id=77)),
        ("interactive", "interactive/coco_interactive_val.json", lambda c: c[0]["anns"][0].update(image_id=77)),
        ("vqav2", "vqav2/v2_mscoco_val2014_annotations.json", lambda c: c["annotations"][0].update(image_id=77)),
    ],
)
def test_annotations_name_their_image(copy_samples, benchmark, file, edit):
    root = copy_samples(*{file.split("/")[0], "coco"})
    split = {"refcoco_json": "val", "interactive": "val", "vqav2": "val2014"}[benchmark]
    assert problems_of(root, benchmark, split) == []
    edit_json(root / file, edit)
    (message,) = problems_of(root, benchmark, split)
    assert "is about the image 77, but used for the image" in message
    reader = layouts.find_layout(benchmark).open(root, split)
    assert sum(error_of(reader, k) == message for k in range(len(reader))) > 0


def error_of(reader, k):
    """Returns the message of a record that cannot be read, or ""."""
    try:
        reader[k]
    except UserError as error:
        return str(error)
    return ""


def test_images_and_classes_of_pseudo_labels_are_named_once(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    Image.fromarray(OBJECT.astype(np.uint8)).save(tmp_path / "a.png.png")
    (tmp_path / "labels.json").write_text(json.dumps({"classes": ["bar", "bar"], "images": ["a.png", "a.png"]}))
    with pytest.raises(UserError, match=r"labels\.json images#0: image 'a.png' is also the id of #1; correct one of them"):
        PseudoLabels(tmp_path, tmp_path)
    report = check_reader(lambda: PseudoLabels(tmp_path, tmp_path), lambda **_: None, threads=1)
    assert any("labels.json classes: two names are 'bar'" in message for _, message in sorted_problems(report))


# Empty and outside

INSIDE, OUTSIDE, THIN = [4, 3, 10, 3, 10, 6, 4, 6], [40, 30, 60, 30, 60, 60], [4.1, 3.2, 4.2, 3.2, 4.2, 3.3]
OVER = [-10, 3, 10, 3, 10, 6, -10, 6]


def write_coco(folder, *segmentations, **fields):
    Image.fromarray(PHOTO).save(folder / "a.png")
    notes = [
        {"id": k, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": segmentation, "bbox": [4, 3, 6, 3], **fields}
        for k, segmentation in enumerate(segmentations)
    ]
    (folder / "images").mkdir(exist_ok=True)
    Image.fromarray(PHOTO).save(folder / "images" / "a.png")
    images = [{"id": 1, "file_name": "a.png", "height": 12, "width": 20}]
    content = {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "bar"}]}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


NOTHING = {"size": [12, 20], "counts": [240]}


def test_polygons_without_a_pixel_are_reported_and_no_targets(tmp_path):
    write_coco(tmp_path, [OUTSIDE], [INSIDE], [THIN], NOTHING)
    messages = problems_of(tmp_path, "coco_json")
    assert [message.split("/")[-1].split(":")[0] for message in messages] == [
        f"annotations.json annotations#{k} segmentation" for k in (0, 2, 3)
    ]
    assert all("has no pixel of its image, 20x12, so training leaves it out; correct or remove it" in m for m in messages)
    (prompt,) = CocoInstances(tmp_path / "annotations.json", tmp_path / "images")[0].prompts
    assert prompt.masks.any((1, 2, 3)).tolist() == [False, True, False, False]  # all are scored
    assert trained(prompt) == [False, True, False, False]


def trained(prompt):
    """Returns which masks are targets in training."""
    masks, size = prompt.masks, prompt.masks.shape[-2:]
    made, _ = TargetArrays(len(masks), 0, 1, 32).make(prompt, fit_to_square(*size, 32), True)
    return made["valid"].tolist()


def test_targets_may_be_empty_in_clips_only():
    masks = np.stack([OBJECT, np.zeros_like(OBJECT)])[:, None]
    for task, expected in (("video", True), ("panoptic", False), ("region", False), ("referring", False), ("reasoning", False)):
        assert trained(Prompt(task, masks=masks, labels=(0, 0))) == [True, expected], task
    made, vanished = TargetArrays(2, 0, 1, 32).make(
        Prompt("panoptic", masks=masks, labels=(0, 0)), fit_to_square(12, 20, 32), False
    )
    assert made["valid"].all() and not vanished


@pytest.mark.parametrize("benchmark", ["refcoco", "refcoco_json", "interactive", "coco_visual_prompts", "coco_instances"])
def test_objects_outside_are_reported_by_every_reader(copy_samples, benchmark):
    file, notes = {
        "refcoco": ("refer/refcoco/instances.json", lambda c: c["annotations"]),
        "refcoco_json": ("refcoco/refcoco_val.json", lambda c: [note for record in c for note in record["anns"]]),
        "interactive": ("interactive/coco_interactive_val.json", lambda c: [note for record in c for note in record["anns"]]),
    }.get(benchmark, ("coco/annotations/instances_val2017.json", lambda c: c["annotations"]))
    root = copy_samples(*{file.split("/")[0], "coco"})
    edit_json(root / file, lambda c: [note.update(segmentation=[[900, 900, 990, 900, 990, 990]]) for note in notes(c)])
    split = {"refcoco": "val", "refcoco_json": "val", "interactive": "val"}.get(benchmark, "val2017")
    messages = problems_of(root, benchmark, split)
    assert any("has no pixel of its image, 192x192, so training leaves it out" in message for message in messages), messages


def test_shapes_outside_are_reported(tmp_path):
    shapes = [
        shape([[40, 30], [60, 30], [60, 60]]),
        shape([[4, 3], [9, 5]], "rectangle"),
        shape([[-9, -9], [-8, -9]], "circle"),
    ]
    write_labelme(tmp_path, shapes, OBJECT.shape)
    assert ["has no pixel of its image" in message for message in problems_of(tmp_path, "labelme")] == [True, True]
    assert trained(LabelMe(tmp_path)[0].prompts[0]) == [False, True, False]


def test_a_question_about_shapes_outside_has_a_target_without_pixels(tmp_path):
    """It is not a question about nothing."""
    Image.fromarray(PHOTO).save(tmp_path / "a.jpg")
    outside = {"label": "target", "points": [[40, 30], [60, 30], [60, 60]]}
    for shapes, expected in (([outside], [False]), ([], []), ([outside | {"label": "ignore"}], [])):
        (tmp_path / "a.json").write_text(json.dumps({"text": ["what is it?"], "shapes": shapes}))
        report = check_reader(lambda: ReasonSeg(tmp_path), lambda **_: None, threads=1)
        assert report.problem_count == len(shapes)
        (prompt,) = ReasonSeg(tmp_path)[0].prompts
        assert prompt.masks.shape == (len(expected), 1, 12, 20) and (not expected or trained(prompt) == expected)


@pytest.mark.parametrize("move", [(-7, 0), (13, 0), (0, -4), (0, 8), (-7, -4), (13, 8)])
def test_shapes_over_an_edge_are_cut(tmp_path, move):
    """In every reader of polygons, rectangles, masks and boxes, and for prompts."""
    dx, dy = move
    rows, columns = np.ogrid[:12, :20]
    corners = [[4 + dx, 3 + dy], [9 + dx, 5 + dy]]
    expected = (4 + dx <= columns) & (columns <= 9 + dx) & (3 + dy <= rows) & (rows <= 5 + dy)
    mask = base64.b64encode(to_bytes(np.full((3, 6), 255, np.uint8))).decode()
    write_labelme(tmp_path, [shape(corners, "rectangle"), shape(corners, "mask", mask=mask)], OBJECT.shape)
    for drawn in LabelMe(tmp_path)[0].prompts[0].masks:
        assert np.array_equal(drawn[0], expected)
    left, top, right, bottom = 4 + dx, 3 + dy, 10 + dx, 6 + dy
    write_coco(tmp_path, [[left, top, right, top, right, bottom, left, bottom]])
    (drawn,) = CocoInstances(tmp_path / "annotations.json", tmp_path / "images")[0].prompts[0].masks
    assert np.array_equal(drawn[0], expected)
    region = box_region([left, top, 6, 3], (12, 20), "a box")
    assert np.array_equal(draw_region(region, (12, 20)), expected)
    assert np.array_equal(draw_region(Region.from_box(left, top, right, bottom), (12, 20)), expected)


def test_scribbles_over_an_edge_are_cut():
    line = Region.from_scribble([(-10, 5.5), (40, 5.5)])
    assert draw_region(line, (12, 20))[5].all() and not draw_region(line, (12, 20))[0].any()
