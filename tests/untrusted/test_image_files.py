"""Images as people have them: turned by EXIF data, transparent, of 16 bits, animated; and masks in any black and white."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from hyperseg_jax.untrusted import images
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.orientation import parse_orientation, turn_upright

PIXELS = (np.arange(12 * 8 * 3) * 37 % 256).astype(np.uint8).reshape(12, 8, 3)
OBJECT = np.zeros((12, 8), bool)
OBJECT[2:7, 1:4] = True


def encode(image, form="PNG", **options):
    data = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(data, form, **options)
    return data.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def rgba(colours, alpha):
    return np.concatenate([colours, np.broadcast_to(np.uint8(alpha), colours.shape[:2])[..., None]], axis=2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(orientation):
    """In every format that gives an orientation; size, colours, numbers and masks agree with each other and with Pillow."""
    stored, numbers = Image.fromarray(PIXELS), Image.fromarray(OBJECT.astype(np.uint8) * 255)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encode(stored, exif=exif(orientation))))))
    assert np.array_equal(turn_upright(PIXELS, orientation), expected)
    for form, options in {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}.items():
        data = encode(stored, form, exif=exif(orientation), **options)
        assert np.array_equal(images.read_rgb(data), expected), form
        assert images.read_size(data) == expected.shape[:2]
        mask, is_grey = images.read_mask(encode(numbers, form, exif=exif(orientation), **options))
        assert np.array_equal(mask, turn_upright(OBJECT, orientation)) and not is_grey
    data = encode(stored, "JPEG", exif=exif(orientation))
    assert np.array_equal(images.read_rgb(data), turn_upright(images.read_rgb(encode(stored, "JPEG")), orientation))
    assert images.read_size(data) == expected.shape[:2] and images.read_orientation(data) == orientation
    coded = encode(stored, exif=exif(orientation))
    assert np.array_equal(images.read_colours(coded), expected)
    labels = images.read_numbers(encode(numbers, exif=exif(orientation)), ("L",), "label image")
    assert np.array_equal(labels > 0, turn_upright(OBJECT, orientation))


@pytest.mark.parametrize("order", "<>")
def test_damaged_orientations_are_none(order):
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "L", 8)
    tags = lambda *entry: head + struct.pack(order + "H", 1) + struct.pack(order + "HHLHH", *entry)
    assert parse_orientation(tags(0x0112, 3, 1, 6, 0)) == parse_orientation(b"Exif\0\0" + tags(0x0112, 3, 1, 6, 0)) == 6
    damaged = (
        b"",
        head,
        tags(0x0112, 3, 1, 9, 0),
        tags(0x0112, 4, 1, 6, 0),
        tags(0x0112, 3, 2, 6, 0),
        tags(0x0113, 3, 1, 6, 0),
    )
    endless = head[:4] + struct.pack(order + "L", 2**32 - 1)
    for data in (*damaged, endless, tags(0x0112, 3, 1, 6, 0)[:-4], head + b"\xff\xff" * 9):
        assert parse_orientation(data) == 1


def test_transparent_pixels_are_white():
    hidden = np.where(OBJECT, 0, 255).astype(np.uint8)
    expected = np.where(OBJECT[..., None], 255, PIXELS)
    for form in ("PNG", "TIFF"):
        assert np.array_equal(images.read_rgb(encode(rgba(PIXELS, hidden), form)), expected)
    grey = np.stack([PIXELS[..., 0], hidden], axis=-1)
    assert np.array_equal(images.read_rgb(encode(Image.fromarray(grey, "LA")))[..., 1], expected[..., 0])
    half = images.read_rgb(encode(rgba(np.zeros((1, 1, 3), np.uint8), 128)))
    assert half[0, 0].tolist() == [127] * 3
    keyed = Image.fromarray(np.array([[0, 9, 200]], np.uint8))
    assert images.read_rgb(encode(keyed, transparency=9))[0, :, 0].tolist() == [0, 255, 200]
    wide = Image.fromarray(np.array([[0, 4096, 51200]], np.uint16))
    assert images.read_rgb(encode(wide))[0, :, 0].tolist() == [0, 16, 200]
    chunk = b"tRNS" + struct.pack(">H", 4096)
    data = encode(wide)
    data = data[:33] + struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    assert images.read_rgb(data)[0, :, 0].tolist() == [0, 255, 200]


def test_segment_ids_keep_their_colours():
    """The colours under transparent pixels are numbers as well."""
    assert np.array_equal(images.read_colours(encode(rgba(PIXELS, 0))), PIXELS)
    assert np.array_equal(images.read_colours(encode(PIXELS[..., 0]))[..., 2], PIXELS[..., 0])
    with pytest.raises(BadFile, match=r"has no colours of 8 bits \(mode I;16\)"):
        images.read_colours(encode(PIXELS[..., 0].astype(np.uint16)))
    with pytest.raises(BadFile, match="it is none of PNG"):
        images.read_colours(encode(PIXELS, "JPEG"))


def animated(form, count=2):
    frames = [Image.fromarray(PIXELS), *(Image.fromarray(PIXELS[::-1] // (k + 2)) for k in range(count - 1))]
    return encode(frames[0], form, save_all=True, append_images=frames[1:])


def test_animations_and_pages_are_refused():
    for form in ("GIF", "PNG", "WEBP", "TIFF"):
        for read in (images.read_rgb, images.read_size, images.read_mask, images.read_colours):
            with pytest.raises(BadFile, match="has several frames; save one of them as an image, or all of them as a video or"):
                read(animated(form))
        assert images.read_size(animated(form, 1)) == (12, 8)
    assert images.read_size(animated("MPO")) == (12, 8)  # the second picture of a camera is no frame


@pytest.mark.parametrize("order", "<>")
def test_smaller_copies_in_a_tiff_are_no_pages(order):
    """Overviews and thumbnails; pages that point at each other end."""

    def page(offset, role, following):
        fields = {254: role, 256: 2, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 2}
        # a LONG holds each value in either byte order
        entries = b"".join(struct.pack(order + "HHLL", tag, 4, 1, value) for tag, value in fields.items())
        return struct.pack(order + "H", len(fields)) + entries + struct.pack(order + "L", following)

    size = len(page(0, 0, 0))
    make = lambda *roles, last=0: (
        {"<": b"II*\0", ">": b"MM\0*"}[order]
        + struct.pack(order + "L", 10)
        + b"\7\11"
        + b"".join(page(0, role, 10 + size * (k + 1) if k + 1 < len(roles) else last) for k, role in enumerate(roles))
    )
    for data in (make(0), make(0, 1), make(0, 1, 5), make(0, last=10)):
        assert images.read_rgb(data)[0, :, 0].tolist() == [7, 9]
    for data in (make(0, 0), make(0, 1, 0), make(0, 2)):
        with pytest.raises(BadFile, match="has several frames"):
            images.read_rgb(data)


GREY = np.where(OBJECT, 255, 0).astype(np.uint8)


def palette(index, *colours):
    image = Image.fromarray(index.astype(np.uint8), "P")
    image.putpalette([value for colour in colours for value in colour])
    return image


EDGES = GREY.copy()
EDGES[1, 1:4], EDGES[7, 1:4] = 127, 128
SMOOTH = OBJECT.copy()
SMOOTH[7, 1:4] = True
BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (128, 0, 0)
MASKS = {  # file, mask, whether values in between are reported
    "0 and 255": (encode(GREY), OBJECT, False),
    "0 and 1": (encode(GREY // 255), OBJECT, False),
    "0 and 100": (encode(GREY // 255 * 100), OBJECT, False),
    "one bit": (encode(Image.fromarray(OBJECT)), OBJECT, False),
    "16 bits": (encode(GREY.astype(np.uint16) * 257), OBJECT, False),
    "numbers of objects": (encode(GREY // 255 + (np.arange(8) % 2 * OBJECT).astype(np.uint8)), OBJECT, False),
    "a palette that begins with white": (encode(palette(~OBJECT, WHITE, BLACK)), OBJECT, False),
    "a palette that begins with black": (encode(palette(OBJECT, BLACK, WHITE)), OBJECT, False),
    "a palette of colours": (encode(palette(OBJECT, BLACK, RED)), OBJECT, False),
    "a palette of black": (encode(palette(OBJECT, BLACK, BLACK)), OBJECT, False),
    "a black palette without a mask": (encode(palette(~OBJECT | OBJECT, WHITE, BLACK)), np.zeros_like(OBJECT), False),
    "colours that are grey": (encode(np.repeat(GREY[..., None], 3, axis=2)), OBJECT, False),
    "transparent ground": (encode(rgba(np.full((12, 8, 3), 255, np.uint8), GREY)), OBJECT, False),
    "a transparent palette": (encode(palette(OBJECT, WHITE, WHITE), transparency=0), OBJECT, False),
    "smooth edges": (encode(EDGES), SMOOTH, True),
    "smooth edges of a palette": (encode(Image.fromarray(EDGES).convert("P")), SMOOTH, True),
    "smooth edges of 16 bits": (encode(EDGES.astype(np.uint16) * 257), SMOOTH, True),
    "white and grey": (encode(np.where(OBJECT, 255, 90).astype(np.uint8)), OBJECT, True),
    "JPEG": (
        encode(np.kron(GREY, np.ones((8, 8), np.uint8)), "JPEG", quality=60),
        np.kron(OBJECT, np.ones((8, 8), bool)),
        None,
    ),
    "black JPEG": (encode(np.zeros((12, 8), np.uint8), "JPEG"), np.zeros_like(OBJECT), False),
    "all": (encode(np.full((12, 8), 255, np.uint8)), np.ones_like(OBJECT), False),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_are_black_and_white(name):
    data, expected, reported = MASKS[name]
    mask, is_grey = images.read_mask(data)
    assert mask.dtype == bool and np.array_equal(mask, expected)
    assert reported is None or is_grey == reported


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (encode(PIXELS), r"it has colours \(mode RGB\), and a mask is black and white"),
        (encode(np.zeros((2, 2), np.float32), "TIFF"), "its values are no whole numbers"),
        (encode(np.full((2, 2), 70000, np.int32), "TIFF"), "it has the value 70000, and white is 255 or 65535"),
        (encode(np.full((2, 2), -1, np.int32), "TIFF"), "has the label -1"),
    ],
)
def test_masks_that_are_refused(data, why):
    with pytest.raises(BadFile, match=why):
        images.read_mask(data)
