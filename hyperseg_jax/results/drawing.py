"""Draws masks: overlays, comparisons and contact sheets."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hyperseg_jax.atomic import atomic_file
from hyperseg_jax.datasets.visual_prompts import draw_region
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Prediction, Prompt, Segment, WrittenName
from hyperseg_jax.untrusted.printing import printable

TILE = 320
"""Pixels of the longer side of an image in a comparison."""
SHOWN = 8
"""Number of regions of a caption prompt that are drawn, and of captions that are printed."""
LINE = 14
"""Pixels between two lines of a caption."""
COLOURS = np.array(
    [
        [255, 64, 64],
        [64, 160, 255],
        [80, 220, 100],
        [255, 200, 40],
        [200, 110, 255],
        [255, 140, 220],
        [60, 220, 220],
        [255, 150, 60],
    ],
    np.float32,
)


def outline_pixels(mask: np.ndarray) -> np.ndarray:
    """Returns the boundary pixels inside a mask. bool [H, W] -> bool [H, W]."""
    padded = np.pad(mask, 1)
    interior = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~interior


def draw_masks(frame: np.ndarray, masks: Sequence[np.ndarray], *, scale: int = 1, tints: Sequence[int] = ()) -> np.ndarray:
    """Draws each mask with an outline and dims the rest. uint8 [H, W, 3] -> uint8 [H * scale, W * scale, 3].

    Pixels inside a mask keep their colours, because the prompt may mention them. tints: for each mask the number of a colour
    that is blended into it, to separate many adjacent masks.
    """
    if wrong := [np.shape(mask) for mask in masks if np.shape(mask) != frame.shape[:2] or np.asarray(mask).dtype != bool]:
        raise UserError(f"a mask of {wrong[0]} is not bool {frame.shape[:2]}, the size of the image; give masks of its size")
    if len(tints) not in (0, len(masks)):
        raise UserError(f"{len(tints)} tints for {len(masks)} masks; give one for each")
    image = Image.fromarray(frame).resize((frame.shape[1] * scale, frame.shape[0] * scale), Image.Resampling.BICUBIC)
    canvas = np.asarray(image, np.float32).copy()
    scaled = [np.kron(mask, np.ones((scale, scale), bool)) for mask in masks]
    covered = np.any(scaled, axis=0) if scaled else np.zeros(canvas.shape[:2], bool)
    grey = canvas.mean(-1, keepdims=True)
    canvas = np.where(covered[..., None], canvas, 0.45 * (0.35 * canvas + 0.65 * grey) + 22)
    for k, mask in enumerate(scaled):
        if len(tints):
            canvas[mask] = 0.5 * canvas[mask] + 0.5 * COLOURS[tints[k] % len(COLOURS)]
        boundary = outline_pixels(mask)
        canvas[boundary] = 255
        canvas[outline_pixels(mask & ~boundary)] = 20
    return canvas.clip(0, 255).astype(np.uint8)


def add_caption(tile: np.ndarray, text: str, *, height: int = 30) -> np.ndarray:
    """Adds wrapped text below a tile, cut to what fits. uint8 [H, W, 3] -> [H + height, W, 3]."""
    canvas = Image.new("RGB", (tile.shape[1], tile.shape[0] + height), "white")
    canvas.paste(Image.fromarray(tile), (0, 0))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    most, lines = height // LINE, [""]
    for word in printable(text[: most * tile.shape[1]]).split():  # a letter has at least one pixel
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font) > tile.shape[1] - 6 and lines[-1]:
            if len(lines) == most:
                break
            lines.append(word)
        else:
            lines[-1] = longer
    for k, line in enumerate(lines[:most]):
        draw.text((3, tile.shape[0] + 1 + LINE * k), line, fill="black", font=font)
    return np.asarray(canvas)


def arrange_tiles(tiles: Sequence[np.ndarray], columns: int, *, gap: int = 6) -> np.ndarray:
    """Arranges tiles in a white grid, row by row. Cells have the size of the largest tile; unused cells stay white."""
    height, width = (max(tile.shape[k] for tile in tiles) for k in (0, 1))
    rows = -(-len(tiles) // columns)
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for k, tile in enumerate(tiles):
        y, x = gap + k // columns * (height + gap), gap + k % columns * (width + gap)
        canvas[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return canvas


def save_image(path: pathlib.Path, image: np.ndarray) -> None:
    """Writes a PNG atomically. Its folder must exist."""
    with atomic_file(path) as part:
        Image.fromarray(image).save(part, format="PNG")


def draw_segments(frame: np.ndarray, segments: Prediction | Sequence[Segment], *, scale: int = 1) -> np.ndarray:
    """Draws predicted segments with draw_masks(); tinted if there are several. A track has the same colour on all frames."""
    masks, tracks = [segment.mask for segment in segments], [segment.track_id for segment in segments]
    several = range(len(masks)) if len(masks) > 1 else ()
    return draw_masks(frame, masks, scale=scale, tints=tracks if all(track >= 0 for track in tracks) else several)


def draw_comparison(
    frame: np.ndarray,
    prompt: Prompt,
    masks: Sequence[np.ndarray],
    text: str = "",
    *,
    labels: Sequence[int] = (),
    at: int = 0,
    longest: int = TILE,
    height: int = 30,
) -> np.ndarray:
    """Draws the targets of a prompt beside the predicted masks, with a caption: uint8 [h + height, 2 * w, 3].

    Without target masks, the regions of the prompt are drawn. masks: each bool [H, W]. text: the caption; the description of
    the prompt by default. labels: the class of each predicted mask of a class list; a class has one colour in both. at: which
    frame of the video it is. longest: maximum pixels of the longer side; larger frames are subsampled.
    """
    step = max(1, -(-max(frame.shape[:2]) // longest))
    small = lambda mask: mask[::step, ::step]
    targets = [small(mask[at]) for mask in prompt.masks] if prompt.masks is not None else []
    if prompt.task == "caption":
        targets = [small(mask) for mask in _draw_regions(prompt, frame)]
    numbers = {label: k for k, label in enumerate(dict.fromkeys([*prompt.labels, *labels]))}
    tints = [[numbers[label] for label in each] if prompt.task == "panoptic" else () for each in (prompt.labels, labels)]
    shown = targets, [small(mask) for mask in masks]
    panels = [draw_masks(small(frame), each, tints=colours) for each, colours in zip(shown, tints, strict=True)]
    return add_caption(np.concatenate(panels, axis=1), text or describe_prompt(prompt), height=height)


def _draw_regions(prompt: Prompt, frame: np.ndarray) -> list[np.ndarray]:
    """Draws the first regions of a prompt, without those that mark no pixel of the frame."""
    drawn = []
    for region in prompt.regions[:SHOWN]:
        with contextlib.suppress(UserError):
            drawn.append(draw_region(region, frame.shape[:2]))
    return drawn


def describe_prompt(prompt: Prompt) -> str:
    """Returns a short description of a prompt: its text, the captions or the kinds of its visual prompts, or the classes of its
    targets."""
    if prompt.captions:
        return join_captions([texts[0] for texts in prompt.captions])
    classes = dict.fromkeys(prompt.classes[label] for label in prompt.labels) if prompt.classes else ()
    return prompt.text or ", ".join(region.kind for region in prompt.regions) or ", ".join(classes or prompt.classes)


def join_captions(texts: Sequence[str]) -> str:
    """Returns the texts of the first regions as one."""
    return "; ".join(texts[:SHOWN])


def describe_answer(prompt: Prompt, texts: Sequence[str], written: Sequence[WrittenName] | None = None) -> str:
    """Returns a short description of a prompt, and of the texts or names that were generated for it."""
    if written is not None:
        return f"wrote: {', '.join(name.name for name in written) or 'no name'}"
    return f"{describe_prompt(prompt)}{f' -> {join_captions(texts)}' if any(texts) else ''}"
