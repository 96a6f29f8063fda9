"""Files of annotation tools and cameras: what readers and the check make of them."""

import base64
import io
import json

import numpy as np
import pytest
from damage import run_check, sorted_problems
from PIL import Image

from hyperseg_jax.datasets import Folder, LabelMe, layouts
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt

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


def problems_of(root, name):
    return [message for _, message in sorted_problems(run_check(root, name))]


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
    from hyperseg_jax.untrusted.orientation import turn_upright

    upright = turn_upright(OBJECT, orientation)
    rows, columns = (np.flatnonzero(upright.any(axis)).tolist() for axis in (1, 0))
    corners = [[columns[0], rows[0]], [columns[-1], rows[-1]]]
    write_labelme(tmp_path, [shape(corners, "rectangle")], upright.shape, exif=turned(orientation))
    example = LabelMe(tmp_path)[0]
    assert np.array_equal(example.prompts[0].masks[0, 0], upright) and (example.frames[0][upright] == 250).all()
    assert problems_of(tmp_path, "labelme") == []


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
