"""hyperseg predict"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import pathlib
import re
from collections.abc import Iterator

import numpy as np
from rich.console import Console

from hyperseg_jax.atomic import check_free, whole_folder
from hyperseg_jax.datasets.visual_prompts import shares_area
from hyperseg_jax.errors import UserError
from hyperseg_jax.results.drawing import draw_segments, save_image
from hyperseg_jax.structs import Prediction, Region
from hyperseg_jax.untrusted import strict_json
from hyperseg_jax.untrusted.printing import say

WRITTEN = ("result.json", "*_mask.png", "*_mask[0-9]*.png", "*_overlay.png")
"""What a folder of results holds."""
LONGEST_STEM = 230
"""Bytes of a name that others are made of."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    # so that `--box -5,60,80,120` is a value, not an option
    parser._negative_number_matcher = re.compile(r"-[\d.][\d.,eE+-]*$")
    parser.add_argument("image", type=pathlib.Path, help="an image, a video file, or a folder of frames")
    parser.add_argument("text", nargs="?", help='what to segment: "the red ring left of the square"')
    parser.add_argument("--model", default="tiny", help="a workdir, a model folder, or a shipped model (tiny)")
    parser.add_argument(
        "--reasoning", action="store_true", help='the text is a question to think about: "what could one sit on?"'
    )
    parser.add_argument("--classes", help="comma-separated things to find, every instance apart: 'red ring,blue star'")
    parser.add_argument("--stuff", help="comma-separated backgrounds for --classes: 'grass,sand'")
    parser.add_argument(
        "--point", action="append", default=[], metavar="X,Y", help="the object at a point, in pixels; repeatable"
    )
    parser.add_argument(
        "--box",
        action="append",
        default=[],
        metavar="X0,Y0,X1,Y1",
        help="the object in a box, given by two opposite corners; repeatable",
    )
    parser.add_argument(
        "--scribble",
        action="append",
        default=[],
        metavar="X,Y,X,Y,...",
        help="the object under a line, given by its corners; repeatable",
    )
    parser.add_argument("--always", action="store_true", help="answer even where the text seems to name nothing")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("segmentation"), help="folder for the results")


def run(parsed: argparse.Namespace) -> None:
    _check(parsed)
    from hyperseg_jax.data.video_files import image_files, is_video, read_frames
    from hyperseg_jax.predictors.model import load, read_image

    console, absent = Console(stderr=True), (None if parsed.always else ...)
    is_clip = is_video(parsed.image)
    if is_clip and (parsed.text is None or parsed.reasoning):
        raise UserError(f"{parsed.image} is a video; give a text to segment it by, without --reasoning")
    # The first frame is read before the model, which takes a while to load.
    frames = read_frames(parsed.image) if is_clip else iter([read_image(parsed.image)])
    frame = next(frames)
    names = _stems(parsed.image, image_files(parsed.image) if parsed.image.is_dir() else [])
    drawn, labels = _regions(parsed.point, parsed.box, parsed.scribble, frame.shape[:2])
    model = load(parsed.model)
    report: dict = {"model": str(parsed.model), "image": str(parsed.image)}
    with _results(parsed.out) as out:
        if is_clip:
            rows = []
            predictions = model.segment_clip(itertools.chain([frame], frames), parsed.text, no_target_threshold=absent)
            for (name, stem), (frame, predicted) in zip(names, predictions, strict=False):
                rows.append({"frame": name, "segments": _write(out, stem, frame, predicted)})
            report |= {"text": parsed.text, "frames": rows}
            said = f"{len(rows)} frames, {parsed.text!r} found in {sum(bool(row['segments']) for row in rows)}"
        else:
            if parsed.text is not None:
                predicted = model.segment(frame, parsed.text, no_target_threshold=absent, reasoning=parsed.reasoning)
                report["text"] = parsed.text
            elif parsed.classes is not None:
                predicted = model.segment_classes(frame, _names(parsed.classes), stuff=_names(parsed.stuff))
                report["classes"] = _names(parsed.classes) + _names(parsed.stuff)
            else:
                predicted = model.segment_regions(frame, drawn, labels=labels)
            report["segments"] = _write(out, next(names)[1], frame, predicted)
            said = "; ".join(f"{s.label} ({s.mask.mean():.1%} of the image, score {s.score:.2f})" for s in predicted)
        (out / "result.json").write_text(strict_json.text(report))
    say(console, f"found: {said or 'nothing that fits'}\nwrote {parsed.out}/")


def _check(parsed: argparse.Namespace) -> None:
    """The options that can be judged before anything is read."""
    regions = bool(parsed.point or parsed.box or parsed.scribble)
    if sum((parsed.text is not None, parsed.classes is not None, regions)) != 1:
        raise UserError("say what to segment in one way: a text, or --classes, or --point / --box / --scribble")
    if parsed.text is not None and not parsed.text.strip():
        raise UserError("the prompt is empty; say what to segment")
    if parsed.stuff is not None and parsed.classes is None:
        raise UserError("--stuff goes with --classes; name the things to find there")
    if parsed.reasoning and parsed.text is None:
        raise UserError("--reasoning goes with a text; give the question")
    if not parsed.image.exists():
        raise UserError(f"{parsed.image}: no such file or folder")


def _stems(image: pathlib.Path, frames: list[pathlib.Path]) -> Iterator[tuple[str, str]]:
    """(name, stem of the results) of the image, of each of the frames of a folder, or of a video's frames: numbers from 0,
    without end. UserError where a name is too long."""
    from hyperseg_jax.data.video_files import is_video

    if is_video(image) and not frames:
        return ((f"{k:06d}", f"{k:06d}") for k in itertools.count())
    read = frames or [image]
    same = len({path.stem for path in read}) < len(read)  # 1.jpg beside 1.png
    names = [(path.name, path.name if same else path.stem) for path in read]
    for path, (_, stem) in zip(read, names, strict=True):
        if len(os.fsencode(stem)) > LONGEST_STEM:
            raise UserError(f"{path}: its name is too long for those of the results; shorten it to {LONGEST_STEM} bytes")
    return iter(names)


def _write(out: pathlib.Path, stem: str, frame: np.ndarray, segments: Prediction) -> list[dict]:
    rows = []
    for k, segment in enumerate(segments, 1):
        name = f"{stem}_mask{k}.png" if len(segments) > 1 else f"{stem}_mask.png"
        save_image(out / name, segment.mask.astype(np.uint8) * 255)
        rows.append({"label": segment.label, "score": round(segment.score, 4), "pixels": int(segment.mask.sum()), "mask": name})
    save_image(out / f"{stem}_overlay.png", draw_segments(frame, segments))
    return rows


@contextlib.contextmanager
def _results(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """A results folder that appears whole, or not at all; earlier results there are replaced, anything else is not touched."""
    home = pathlib.Path(os.path.realpath(out))  # a link that was given is followed
    if home == pathlib.Path.cwd():
        raise UserError(f"--out {out}: is the working folder; give a folder of its own")
    check_free(out, WRITTEN if (out / "result.json").exists() else ())
    try:
        with whole_folder(home) as part:
            yield part
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror or error}); give another folder") from error


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _regions(
    points: list[str], boxes: list[str], scribbles: list[str], size: tuple[int, int]
) -> tuple[list[Region], list[str]]:
    """Points, boxes and scribbles in the image of this (height, width), and what they are called."""
    regions, labels = [], []
    for text in points:
        (point,) = _places("--point", text, 2, size)
        regions.append(Region.of_point(*point))
        labels.append(f"point {text}")
    for text in boxes:
        x0, y0, x1, y1 = _numbers_of("--box", text, 4)
        left, right, top, bottom = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
        if not shares_area((left, top, right, bottom), size) or left == right or top == bottom:
            raise UserError(f"--box {text}: has no area inside {_extent(size)}")
        regions.append(Region.of_box(max(left, 0), max(top, 0), min(right, size[1]), min(bottom, size[0])))
        labels.append(f"box {text}")
    for text in scribbles:
        regions.append(Region.of_scribble(_places("--scribble", text, max(4, 2 * (text.count(",") // 2 + 1)), size)))
        labels.append(f"scribble {text}")
    return regions, labels


def _places(flag: str, text: str, count: int, size: tuple[int, int]) -> list[list[float]]:
    """[x, y] of each place inside the image."""
    numbers = _numbers_of(flag, text, count)
    places = [numbers[k : k + 2] for k in range(0, count, 2)]
    if not all(0 <= x < size[1] and 0 <= y < size[0] for x, y in places):
        raise UserError(f"{flag} {text}: not inside {_extent(size)}")
    return places


def _numbers_of(flag: str, text: str, count: int) -> list[float]:
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise UserError(f"{flag} {text}: give {count} numbers in pixels, as in {flag} {','.join(['40'] * count)}")
    return numbers


def _extent(size: tuple[int, int]) -> str:
    return f"the image of {size[1]} x {size[0]} pixels (x, y from the top left)"
