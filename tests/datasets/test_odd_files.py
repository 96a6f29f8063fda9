"""Odd files of each format: every record has the right value or is one line that names its file, and the check agrees."""

import base64
import io
import json

import fuzz
import hypothesis.strategies as st
import numpy as np
import pytest
from damage import check
from PIL import Image

from hyperseg_jax.data.targets import TargetArrays
from hyperseg_jax.datasets import CocoInstances, Folder, LabelMe, layouts
from hyperseg_jax.ops.transforms import fit_to_square
from hyperseg_jax.untrusted import images
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.orientation import turn_upright

HEIGHT, WIDTH = SIZE = 16, 24
EXAMPLES = 40
ORIENTATIONS = st.integers(1, 8)
BOXES = st.tuples(st.integers(-6, 22), st.integers(-6, 14), st.integers(1, 9), st.integers(1, 9))
"""Left, top, width and height: inside, over each edge, and outside of an image."""


def fill(box, size=SIZE):
    """Returns the pixels of a box that are in the image."""
    left, top, width, height = box
    rows, columns = np.ogrid[: size[0], : size[1]]
    return (left <= columns) & (columns < left + width) & (top <= rows) & (rows < top + height)


def encode(pixels, form="PNG", orientation=1, **options):
    data, tags = io.BytesIO(), Image.Exif()
    tags[0x0112] = orientation
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(data, form, exif=tags, **options)
    return data.getvalue()


# images


def palette_of(rgb):
    image = Image.fromarray(np.arange(rgb.shape[0] * rgb.shape[1], dtype=np.uint8).reshape(rgb.shape[:2]), "P")
    image.putpalette(rgb.reshape(-1).tolist())
    return image


def with_alpha(rgb, alpha):
    return np.concatenate([rgb, np.broadcast_to(np.uint8(alpha), rgb.shape[:2])[..., None]], axis=2)


PICTURES = {  # what is stored, and what is shown, of random colours uint8 [9, 12, 3]; None: it is refused
    "colours": lambda rgb: (rgb, rgb),
    "grey": lambda rgb: (rgb[..., 0], np.repeat(rgb[..., :1], 3, axis=2)),
    "palette": lambda rgb: (palette_of(rgb), rgb),
    "opaque": lambda rgb: (with_alpha(rgb, 255), rgb),
    "transparent": lambda rgb: (with_alpha(rgb, 0), np.full_like(rgb, 255)),
    "partly transparent": lambda rgb: (
        with_alpha(rgb, np.where(rgb[..., 0] < 99, 0, 255)),
        np.where(rgb[..., :1] < 99, 255, rgb),
    ),
    "16 bits": lambda rgb: (rgb[..., 0].astype(np.uint16) * 256 + rgb[..., 1], np.repeat(rgb[..., :1], 3, axis=2)),
    "black and white": lambda rgb: (rgb[..., 0] > 99, np.repeat(np.where(rgb[..., :1] > 99, 255, 0), 3, axis=2)),
    "32 bits": lambda rgb: (rgb[..., 0].astype(np.int32), None),
    "fractions": lambda rgb: (rgb[..., 0] / np.float32(255), None),
}
FORMS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True, "exact": True}}


def check_picture(kind, form, orientation, frames, seed):
    rgb = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    stored, shown = PICTURES[kind](rgb)
    if form == "WEBP" and not kind.startswith(("colours", "opaque", "transparent", "partly")):
        form = "PNG"
    if form == "PNG" and shown is None:
        form = "TIFF"
    options = FORMS[form]
    if frames > 1:
        first = stored if isinstance(stored, Image.Image) else Image.fromarray(stored)
        options = options | {"save_all": True, "append_images": [Image.fromarray(255 - rgb).convert(first.mode)] * (frames - 1)}
    data = encode(stored, form, orientation, **options)
    if shown is None or frames > 1:
        with pytest.raises(BadFile, match="has several frames" if frames > 1 else "one 32-bit number per pixel, not a colour"):
            images.read_rgb(data)
        return
    expected = turn_upright(shown, orientation)
    assert np.array_equal(images.read_rgb(data), expected) and images.read_size(data) == expected.shape[:2]


PICTURE_CASES = (
    st.sampled_from(sorted(PICTURES)),
    st.sampled_from(sorted(FORMS)),
    ORIENTATIONS,
    st.sampled_from((1, 1, 1, 1, 2, 3)),
    st.integers(0, 2**32 - 1),
)


def test_odd_pictures():
    fuzz.run_property(check_picture, *PICTURE_CASES, examples=2 * EXAMPLES)


# masks


def two_colours(mask, first, second):
    """Returns a palette image whose index 1 is the mask, or the rest if `first` is the brighter colour."""
    swap = sum(first) > sum(second)
    image = Image.fromarray((mask ^ swap).astype(np.uint8), "P")
    image.putpalette([*first, *second])
    return image


def smooth(mask):
    """Returns a mask with values of 100 around it."""
    around = np.pad(mask, 1)
    around = around[:-2, 1:-1] | around[2:, 1:-1] | around[1:-1, :-2] | around[1:-1, 2:]
    return np.where(mask, 255, np.where(around, 100, 0)).astype(np.uint8)


WHITE = lambda mask, value=255: np.where(mask, value, 0).astype(np.uint8)
MASKS = {  # what is written; whether it is refused, read, or read and reported
    "white": (lambda mask: encode(WHITE(mask)), "read"),
    "ones": (lambda mask: encode(WHITE(mask, 1)), "read"),
    "dark grey": (lambda mask: encode(WHITE(mask, 40)), "read"),
    "one bit": (lambda mask: encode(mask), "read"),
    "16 bits": (lambda mask: encode(WHITE(mask).astype(np.uint16) * 257), "read"),
    "white first": (lambda mask: encode(two_colours(mask, (255, 255, 255), (0, 0, 0))), "read"),
    "white second": (lambda mask: encode(two_colours(mask, (0, 0, 0), (255, 255, 255))), "read"),
    "red": (lambda mask: encode(two_colours(mask, (0, 0, 0), (90, 0, 0))), "read"),
    "grey colours": (lambda mask: encode(np.repeat(WHITE(mask)[..., None], 3, axis=2)), "read"),
    "cut out": (lambda mask: encode(with_alpha(np.full((*mask.shape, 3), 255, np.uint8), WHITE(mask))), "read"),
    "a GIF": (lambda mask: encode(two_colours(mask, (255, 255, 255), (0, 0, 0)), "GIF"), "read"),
    "objects": (lambda mask: encode(WHITE(mask, 2) - (mask & (np.arange(mask.shape[1]) % 2 > 0))), "read"),
    "smooth": (lambda mask: encode(smooth(mask)), "reported"),
    "colours": (lambda mask: encode(np.stack([WHITE(mask), WHITE(mask, 90), WHITE(~mask, 70)], axis=-1)), "refused"),
    "fractions": (lambda mask: encode(mask.astype(np.float32), "TIFF"), "refused"),
    "animated": (lambda mask: encode(WHITE(mask), save_all=True, append_images=[Image.fromarray(WHITE(~mask))]), "refused"),
    "another size": (lambda mask: encode(WHITE(mask)[1:]), "refused"),
    "no image": (lambda mask: b"mask", "refused"),
}


def check_mask(folder, kind, box):
    mask = fill(box)
    (folder / "a.png").write_bytes(encode(np.zeros((*SIZE, 3), np.uint8)))
    write, fate = MASKS[kind]
    (folder / "m.png").write_bytes(write(mask))
    (folder / "captions.jsonl").write_text(json.dumps({"image": "a.png", "text": "a bar", "mask": "m.png"}))
    problems, errors = check(lambda: Folder(folder), "m.png")
    if fate == "refused" or not mask.any():
        assert len(problems) == len(errors) == 1
        return
    assert np.array_equal(Folder(folder)[0].prompts[0].masks[0, 0], mask)
    between = fate == "reported" and not mask.all()
    assert not errors and ["between black and white" in message for message in problems] == [True] * between


MASK_CASES = st.sampled_from(sorted(MASKS)), BOXES


def test_odd_masks(tmp_path):
    fuzz.run_property(lambda *case: check_mask(tmp_path, *case), *MASK_CASES, examples=EXAMPLES)


# COCO


def polygon(box):
    left, top, width, height = box
    return [[left, top, left + width, top, left + width, top + height, left, top + height]]


def run_lengths(box):
    columns = fill(box).T.reshape(-1).astype(np.int8)
    edges = np.flatnonzero(np.diff(columns, prepend=0, append=0))
    return {
        "size": list(SIZE),
        "counts": np.diff(
            [0, *edges.tolist(), *([HEIGHT * WIDTH] if not len(edges) or edges[-1] < HEIGHT * WIDTH else [])]
        ).tolist(),
    }


NOTES = {  # changes of an annotation, and whether its image can be read
    "polygon": (lambda note, box: note.update(segmentation=polygon(box)), True),
    "run lengths": (lambda note, box: note.update(segmentation=run_lengths(box)), True),
    "a point": (lambda note, box: note.update(segmentation=[[4, 4] * 3]), True),
    "two points": (lambda note, box: note.update(segmentation=[[4, 4, 9, 9]]), False),
    "no polygon": (lambda note, box: note.update(segmentation=[]), False),
    "another size": (lambda note, box: note.update(segmentation={"size": [HEIGHT, 9], "counts": [HEIGHT * 9]}), False),
    "no class": (lambda note, box: note.update(category_id=9), False),
    "the id of another": (lambda note, box: note.update(id=100), False),
    "an image that is not there": (lambda note, box: note.update(image_id=9), False),
    "crowd as text": (lambda note, box: note.update(iscrowd="0"), True),
}
COCO_CASES = (st.lists(st.tuples(st.sampled_from(sorted(NOTES)), BOXES), min_size=1, max_size=4), ORIENTATIONS)


def check_coco(folder, notes, orientation):
    (folder / "images").mkdir(exist_ok=True)
    (folder / "images" / "a.png").write_bytes(
        encode(turn_back(np.zeros((*SIZE, 3), np.uint8), orientation), "PNG", orientation)
    )
    sound = {"image_id": 1, "category_id": 1, "iscrowd": 0}
    rows = [sound | {"id": 100, "segmentation": polygon((2, 3, 4, 5))}]
    for k, (kind, box) in enumerate(notes):
        rows.append(sound | {"id": k, "segmentation": polygon(box)})
        NOTES[kind][0](rows[-1], box)
    records = [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}]
    content = {"images": records, "annotations": rows, "categories": [{"id": 1, "name": "bar"}]}
    (folder / "annotations.json").write_text(json.dumps(content))
    problems, errors = check(lambda: layouts.find_layout("coco_json").open(folder, "all"), "annotations")
    expected = [fill((2, 3, 4, 5)), *(np.zeros(SIZE, bool) if kind == "a point" else fill(box) for kind, box in notes)]
    if all(NOTES[kind][1] for kind, _ in notes):
        (prompt,) = CocoInstances(folder / "annotations.json", folder / "images")[0].prompts
        assert np.array_equal(prompt.masks[:, 0], expected) and not errors
        made, _ = TargetArrays(len(expected), 0, 1, WIDTH).make(prompt, fit_to_square(*SIZE, WIDTH), True)
        assert made["valid"].tolist() == [bool(mask.any()) for mask in expected]
        assert len(problems) == sum(not mask.any() for mask in expected)
        return
    assert len(errors) == 1 and any(f"annotations#{k}" in errors[0] or f"#{k}" in errors[0] for k in range(len(rows)))


def turn_back(pixels, orientation):
    """Returns the pixels that `turn_upright` turns to these."""
    return turn_upright(pixels, {6: 8, 8: 6}.get(orientation, orientation))


def test_odd_coco_files(tmp_path):
    fuzz.run_property(lambda *case: check_coco(tmp_path, *case), *COCO_CASES, examples=EXAMPLES)


# LabelMe


def corners(box):
    left, top, width, height = box
    return [[left, top], [left + width - 1, top + height - 1]]


def base64_mask(box):
    return base64.b64encode(encode(np.full((box[3], box[2]), 255, np.uint8))).decode()


SHAPES = {  # fields of a shape, and whether it can be read
    "rectangle": (lambda box: {"points": corners(box)}, True),
    "other corners": (lambda box: {"points": corners(box)[::-1]}, True),
    "mask": (lambda box: {"points": corners(box), "mask": base64_mask(box)}, True),
    "polygon": (lambda box: {"points": np.reshape(polygon((*box[:2], box[2] - 1, box[3] - 1)), (-1, 2)).tolist()}, True),
    "line": (lambda box: {"points": corners(box), "shape_type": "polygon"}, False),
    "one point": (lambda box: {"points": corners(box)[:1]}, False),
    "words": (lambda box: {"points": [["a", "b"], ["c", "d"]]}, False),
    "no points": (lambda box: {"points": None}, False),
}
LABELME_CASES = (st.lists(st.tuples(st.sampled_from(sorted(SHAPES)), BOXES), min_size=1, max_size=4), ORIENTATIONS)


def check_labelme(folder, shapes, orientation):
    (folder / "a.png").write_bytes(encode(turn_back(np.zeros((*SIZE, 3), np.uint8), orientation), "PNG", orientation))
    kinds = {"mask": "mask", "polygon": "polygon"}
    rows = [{"label": "bar", "shape_type": kinds.get(kind, "rectangle")} | SHAPES[kind][0](box) for kind, box in shapes]
    record = {"imagePath": "a.png", "imageHeight": HEIGHT, "imageWidth": WIDTH, "shapes": rows}
    (folder / "a.json").write_text(json.dumps(record))
    problems, errors = check(lambda: LabelMe(folder), "a.json")
    masks = [fill(box) for _, box in shapes]
    bad = [not SHAPES[kind][1] for kind, _ in shapes]
    assert len(problems) == sum(is_bad or not mask.any() for is_bad, mask in zip(bad, masks, strict=True))
    assert len(errors) == any(bad)
    if not any(bad):
        assert np.array_equal(LabelMe(folder)[0].prompts[0].masks[:, 0], masks)


def test_odd_labelme_files(tmp_path):
    fuzz.run_property(lambda *case: check_labelme(tmp_path, *case), *LABELME_CASES, examples=EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["picture", "mask", "coco", "labelme"])
def test_odd_files_for_long(tmp_path, kind, run_property_long):
    prop, cases = {
        "picture": (check_picture, PICTURE_CASES),
        "mask": (lambda *case: check_mask(tmp_path, *case), MASK_CASES),
        "coco": (lambda *case: check_coco(tmp_path, *case), COCO_CASES),
        "labelme": (lambda *case: check_labelme(tmp_path, *case), LABELME_CASES),
    }[kind]
    run_property_long(prop, *cases)
