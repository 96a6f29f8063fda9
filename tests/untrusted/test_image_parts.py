"""Parts of image files: counted before Pillow reads them, checksums are compared, and metadata is not read."""

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
    kept = lambda data: images.open_and_take(data, lambda image: {"exif", "comment", "a"} & set(image.info))
    assert [kept(full) for _, full in pairs[:3]] == [set()] * 3


def test_colours_of_jpegs_and_pngs_are_kept():
    """Adobe's segment, which tells how the colours of a JPEG are stored, and palettes of PNGs with transparency."""
    cmyk = io.BytesIO()
    Image.fromarray(PIXELS).convert("CMYK").save(cmyk, "JPEG")
    assert b"Adobe" in image_parts.without_metadata(io.BytesIO(cmyk.getvalue())).read()
    assert np.array_equal(images.read_rgb(cmyk.getvalue()), np.asarray(Image.open(cmyk).convert("RGB")))
    plain, transparent = io.BytesIO(), io.BytesIO()
    palette = Image.fromarray(PIXELS).quantize(9)
    palette.save(plain, "PNG")
    palette.save(transparent, "PNG", transparency=b"\0\1\2")
    assert np.array_equal(images.read_rgb(transparent.getvalue()), images.read_rgb(plain.getvalue()))


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
