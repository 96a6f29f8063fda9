"""Parts of image files: counted before Pillow reads them, checksums are compared, and metadata is not read."""

import contextlib
import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from hyperseg_jax.untrusted import image_parts, images
from hyperseg_jax.untrusted.bad_file import BadFile

PIXELS = (np.arange(8 * 8 * 3) * 37 % 256).astype(np.uint8).reshape(8, 8, 3)


def encode(form, pixels=PIXELS, **options):
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, form, **options)
    return data.getvalue()


def chunk(kind, body=b""):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def webp_chunks(count):
    data = encode("WEBP", lossless=True) + (b"junk" + bytes(4)) * count
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


def tiff(*tags, data=b"", width=8, height=8):
    """Returns a grey TIFF with these additional tags: (number, type, count, value)."""
    fields = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 277: 1, 278: height, 279: width * height}
    entries = sorted({**{tag: (tag, 4, 1, value) for tag, value in fields.items()}, **{tag[0]: tag for tag in tags}}.values())
    offset = 8 + 2 + 12 * (len(entries) + 1) + 4
    entries = sorted([*entries, (273, 4, 1, offset)] if 273 not in {entry[0] for entry in entries} else entries)
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + bytes(width * height) + data


MANY = image_parts.PARTS + 10
EXIF = Image.Exif()
EXIF[0x010E] = "a text"
TOO_MANY = {
    "application segments": lambda: encode("JPEG")[:2] + b"\xff\xe5\0\2" * MANY + encode("JPEG")[2:],
    "comments": lambda: encode("JPEG")[:2] + b"\xff\xfe\0\2" * MANY + encode("JPEG")[2:],
    "private chunks": lambda: encode("PNG")[:33] + chunk(b"aaAa") * MANY + encode("PNG")[33:],
    "chunks after the pixels": lambda: encode("PNG")[:-12] + chunk(b"aaAa") * MANY + encode("PNG")[-12:],
    "blocks of a comment": lambda: encode("GIF")[:6] + bytes(7) + b"!\xfe" + b"\1a" * MANY + b"\0" + encode("GIF")[13:],
    "chunks of a WebP": lambda: webp_chunks(MANY),
    "bytes of tags": lambda: tiff(*((40000 + k, 1, 10_000, 8) for k in range(99)), data=bytes(20_000)),
    "numbers of tags": lambda: tiff((40000, 3, 2**21, 8), data=bytes(2**22)),
    "bytes of EXIF tags": lambda: tiff((34665, 4, 1, 198), data=struct.pack("<HHHII", 1, 40000, 1, 20_000, 8) + bytes(10_000)),
    "strips": lambda: tiff((278, 4, 1, 7), (273, 4, 99, 8), data=bytes(400)),
    "bytes of a BMP": lambda: encode("BMP") + bytes(2**20 + 600),
}


@pytest.mark.parametrize("name", TOO_MANY)
def test_too_many_parts(name):
    data, began = TOO_MANY[name](), time.process_time()
    with pytest.raises(BadFile, match=r"^(has more than 65536 |has tags of |decodes its pixels too often|has \d+ bytes, more)"):
        images.read_rgb(data)
    assert time.process_time() - began < 3


def test_metadata_is_not_read():
    """Images with the metadata of cameras and editors keep their pixels, and Pillow does not see the metadata."""
    note = b"Exif\0\0" + EXIF.tobytes().removeprefix(b"Exif\0\0")
    segments = b"".join(b"\xff" + bytes([kind]) + struct.pack(">H", 2 + len(note)) + note for kind in (0xE1, 0xE2, 0xED, 0xFE))
    plain = encode("JPEG")
    texts = PngImagePlugin.PngInfo()
    texts.add_text("a", "b" * 500, zip=True)
    pairs = [
        (plain, plain[:2] + segments * 500 + plain[2:]),
        (encode("PNG"), encode("PNG", pnginfo=texts, exif=EXIF, dpi=(9, 9))),
    ]
    pairs += [(encode("GIF"), encode("GIF", comment=b"c" * 900)), (encode("WEBP"), encode("WEBP", exif=EXIF))]
    pairs += [(encode("TIFF"), encode("TIFF", exif=EXIF)), (encode("MPO"), encode("MPO", exif=EXIF))]
    for sound, full in pairs:
        assert np.array_equal(images.read_rgb(full), images.read_rgb(sound))
    kept = lambda data: images.open_and_take(data, lambda image, _: {"exif", "comment", "a"} & set(image.info))
    assert [kept(full) for _, full in pairs[:3]] == [set()] * 3


def test_colours_of_jpegs_and_pngs_are_kept():
    """Adobe's segment, which tells how the colours of a JPEG are stored, and palettes of PNGs with transparency."""
    cmyk = io.BytesIO()
    Image.fromarray(PIXELS).convert("CMYK").save(cmyk, "JPEG")
    assert b"Adobe" in image_parts.without_metadata(io.BytesIO(cmyk.getvalue())).content.read()
    assert np.array_equal(images.read_rgb(cmyk.getvalue()), np.asarray(Image.open(cmyk).convert("RGB")))
    plain, transparent = io.BytesIO(), io.BytesIO()
    palette = Image.fromarray(PIXELS).quantize(9)
    palette.save(plain, "PNG")
    palette.save(transparent, "PNG", transparency=b"\0\1\2")
    shown, hidden = images.read_rgb(transparent.getvalue()), np.asarray(palette)[..., None] < 3
    assert np.array_equal(np.where(hidden, 0, shown), np.where(hidden, 0, images.read_rgb(plain.getvalue())))
    assert (shown[np.asarray(palette) == 0] == 255).all() and hidden.any()


@pytest.mark.parametrize("options", [{}, {"compress_level": 0}, {"bits": 4}])
def test_flipped_bits_of_pngs(options):
    """Each chunk has a checksum: no flipped bit is overlooked."""
    labels = np.zeros((16, 16), np.uint8)
    labels[4:9, 4:9] = 3
    data = io.BytesIO()
    image = Image.fromarray(labels)
    (image.convert("P") if "bits" in options else image).save(data, "PNG", **options)
    sound = data.getvalue()
    for at in range(8, len(sound)):
        for bit in (1, 128):
            bad = bytearray(sound)
            bad[at] ^= bit
            with pytest.raises(BadFile, match=r"damaged PNG|without its end|cannot be read"):
                images.read_rgb(bytes(bad))
    with pytest.raises(BadFile, match="without its end"):
        images.read_rgb(sound[:-12])
    assert np.array_equal(images.read_rgb(sound + b"a note of the camera"), images.read_rgb(sound))


SMOOTH = np.stack([np.mgrid[:64, :64][0] * 4, np.mgrid[:64, :64][1] * 4, np.full((64, 64), 90)], -1).astype(np.uint8)
JPEGS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 1},
    "progressive restart markers": {"progressive": True, "restart_marker_rows": 1},
    "EXIF": {"exif": EXIF, "comment": b"a comment"},
    "colour profile": {"icc_profile": bytes(range(256)) * 500},
    "RGB": {"keep_rgb": True},
    "optimized": {"optimize": True, "subsampling": 0},
}


@pytest.mark.parametrize("name", JPEGS)
def test_ordinary_jpegs_are_read(name):
    data = encode("JPEG", SMOOTH, **JPEGS[name])
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(images.read_rgb(data), expected)
    filled = data[:2] + b"\xff\xff\xff" + data[2:]  # fill bytes before a marker are valid
    assert np.array_equal(images.read_rgb(filled), expected)
    assert np.array_equal(images.read_rgb(data + b"\0a video of the phone"), expected)
    padded = data[:-2] + b"\0\0\0" + data[-2:]  # some cameras pad the compressed data
    assert np.array_equal(images.read_rgb(padded), expected)


def test_pictures_of_several_images_are_read():
    data = io.BytesIO()
    Image.fromarray(SMOOTH).save(data, "MPO", save_all=True, append_images=[Image.fromarray(SMOOTH[::-1])], exif=EXIF)
    assert np.array_equal(images.read_rgb(data.getvalue()), images.read_rgb(encode("JPEG", SMOOTH)))


@pytest.mark.parametrize("name", JPEGS)
def test_damaged_markers_of_jpegs(name):
    """A scan whose marker is damaged was left out, which gave other pixels without an error."""
    data = encode("JPEG", SMOOTH, **JPEGS[name])
    at, header = 2, []
    while data[at + 1] != image_parts.SCAN:
        header.append(at)
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    scans = [k for k in range(at, len(data)) if data[k : k + 2] == b"\xff\xda"]
    for at in (*header, *scans):
        for code in (0x01, 0x20, 0xBF, 0xD8, *((0x00, 0xD0, 0xD7, 0xFF) if at <= scans[0] else ())):
            with pytest.raises(BadFile, match=r"image \((no|the) segment of the JPEG"):
                images.read_rgb(data[: at + 1] + bytes([code]) + data[at + 2 :])
    for at in (*header[1:], scans[0]):  # the first marker is part of the signature
        with pytest.raises(BadFile, match=rf"image \(no segment of the JPEG begins at byte {at}\)"):
            images.read_rgb(data[:at] + b"\0" + data[at:])
    with pytest.raises(BadFile, match=r"image \(the segment of the JPEG at byte 2 is not valid\)"):
        images.read_rgb(data[:4] + b"\0\1" + data[6:])


def test_damaged_blocks_of_gifs():
    """An image whose first byte is damaged was left out, and the next one was read."""
    data = io.BytesIO()
    frames = [Image.fromarray(pixels).quantize(16) for pixels in (SMOOTH, SMOOTH[::-1])]
    frames[0].save(data, "GIF", save_all=True, append_images=frames[1:], comment=b"a comment", loop=0)
    sound = data.getvalue()
    with pytest.raises(BadFile, match="has several frames"):
        images.read_rgb(sound)
    at = sound.index(b",\0\0\0\0\x40\0\x40\0")
    for code in (0, 1, 255):
        with pytest.raises(BadFile, match=rf"image \(no block of the GIF begins at byte {at}\)"):
            images.read_rgb(sound[:at] + bytes([code]) + sound[at + 1 :])


@pytest.mark.parametrize("filling", [b"\xff", b"\xff\0", b"\xff\xd0", b"\xff\xda\0\2", b"\xff\xfe\0\2", b"\xff\1"])
def test_the_parts_of_a_jpeg_are_found_in_bounded_time(filling):
    data = encode("JPEG")
    for at in (2, len(data) - 2):
        began = time.process_time()
        with contextlib.suppress(BadFile):
            images.read_rgb(data[:at] + filling * (2**22 // len(filling)) + data[at:])
        assert time.process_time() - began < 3
