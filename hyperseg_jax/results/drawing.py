"""Pictures of masks: overlays and contact sheets."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hyperseg_jax.results.answers import Segment

COLOURS = np.array([[255, 64, 64], [64, 160, 255], [80, 220, 100], [255, 200, 40], [200, 110, 255], [255, 140, 220],
                    [60, 220, 220], [255, 150, 60]], np.float32)  # fmt: skip


def outline(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask that touch its outside. bool [H, W] -> bool [H, W]."""
    inner = np.pad(mask, 1)
    inside = inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
    return mask & ~inside


def overlay(frame: np.ndarray, masks: Sequence[np.ndarray], *, scale: int = 1, strength: float = 0.55) -> np.ndarray:
    """The picture with each mask tinted and outlined. uint8 [H, W, 3] -> uint8 [H * scale, W * scale, 3].

    Outside the masks the picture is dimmed a little, so that a mask of any colour stands out.
    """
    image = Image.fromarray(frame).resize((frame.shape[1] * scale, frame.shape[0] * scale), Image.Resampling.BICUBIC)
    canvas = np.asarray(image, np.float32).copy()
    large = [np.kron(mask, np.ones((scale, scale), bool)) for mask in masks]
    covered = np.any(large, axis=0) if large else np.zeros(canvas.shape[:2], bool)
    canvas[~covered] *= 0.72
    for k, mask in enumerate(large):
        colour = COLOURS[k % len(COLOURS)]
        canvas[mask] = (1 - strength) * canvas[mask] + strength * colour
        edge = outline(mask)
        canvas[edge | outline(mask & ~edge)] = 255
    return canvas.clip(0, 255).astype(np.uint8)


def caption(tile: np.ndarray, text: str, *, height: int = 30) -> np.ndarray:
    """A tile with lines of text below it. uint8 [H, W, 3] -> [H + height, W, 3]."""
    canvas = Image.new("RGB", (tile.shape[1], tile.shape[0] + height), "white")
    canvas.paste(Image.fromarray(tile), (0, 0))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    words, lines = text.split(), [""]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font) > tile.shape[1] - 6 and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    for k, line in enumerate(lines[: height // 14]):
        draw.text((3, tile.shape[0] + 1 + 14 * k), line, fill="black", font=font)
    return np.asarray(canvas)


def sheet(tiles: Sequence[np.ndarray], columns: int, *, gap: int = 6) -> np.ndarray:
    """Equal tiles on a white sheet, row by row. Missing ones at the end stay white."""
    h, w = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    canvas = np.full((rows * (h + gap) + gap, columns * (w + gap) + gap, 3), 255, np.uint8)
    for k, tile in enumerate(tiles):
        y, x = gap + k // columns * (h + gap), gap + k % columns * (w + gap)
        canvas[y : y + h, x : x + w] = tile
    return canvas


def save_image(path: pathlib.Path, image: np.ndarray) -> None:
    """Writes a PNG under a temporary name, then renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    Image.fromarray(image).save(part, format="PNG")
    part.replace(path)


def draw_segments(frame: np.ndarray, segments: Sequence[Segment], *, scale: int = 1) -> np.ndarray:
    """overlay() of found segments."""
    return overlay(frame, [segment.mask for segment in segments], scale=scale)
