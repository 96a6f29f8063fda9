"""hyperseg predict"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import pathlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console

from hyperseg_jax.atomic import whole_folder
from hyperseg_jax.errors import UserError
from hyperseg_jax.results.answers import Segment
from hyperseg_jax.results.drawing import draw_segments, save_image


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=pathlib.Path, help="a picture, a video file, or a folder of frames")
    parser.add_argument("text", nargs="?", help='what to segment: "the red ring left of the square"')
    parser.add_argument("--model", default="tiny", help="a workdir, a model folder, or a shipped model (tiny)")
    parser.add_argument("--classes", help="comma-separated things to find, every instance apart: 'red ring,blue star'")
    parser.add_argument("--stuff", help="comma-separated backgrounds for --classes: 'grass,sand'")
    parser.add_argument(
        "--point", action="append", default=[], metavar="X,Y", help="the object at a point, in pixels; repeatable"
    )
    parser.add_argument("--box", action="append", default=[], metavar="X0,Y0,X1,Y1", help="the object in a box; repeatable")
    parser.add_argument("--always", action="store_true", help="answer even where the text seems to name nothing")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("segmentation"), help="folder for the results")


def run(parsed: argparse.Namespace) -> None:
    regions = bool(parsed.point or parsed.box)
    if sum((parsed.text is not None, parsed.classes is not None, regions)) != 1:
        raise UserError("say what to segment in one way: a text, or --classes, or --point / --box")
    if parsed.text is not None and not parsed.text.strip():
        raise UserError("the prompt is empty; say what to segment")
    if parsed.stuff is not None and parsed.classes is None:
        raise UserError("--stuff goes with --classes; name the things to find there")
    if not parsed.image.exists():
        raise UserError(f"{parsed.image}: no such file or folder")
    from hyperseg_jax.data.video_files import is_video, picture_files, read_frames
    from hyperseg_jax.predictors.model import load, read_picture

    console, absent = Console(stderr=True), (None if parsed.always else 0.5)
    is_clip = is_video(parsed.image)
    if is_clip and parsed.text is None:
        raise UserError(f"{parsed.image} is a clip; give a text to segment it by")
    frame = next(read_frames(parsed.image)) if is_clip else read_picture(parsed.image)  # before the model, which takes a while
    drawn, labels = _draw_regions(parsed.point, parsed.box, frame.shape[:2])
    model = load(parsed.model)
    report: dict = {"model": str(parsed.model), "image": str(parsed.image)}
    with _results(parsed.out) as out:
        if is_clip:
            frames = []
            found_in = model.segment_clip(read_frames(parsed.image), parsed.text, absent_below=absent)
            names = _names_of(picture_files(parsed.image)) if parsed.image.is_dir() else _numbers()
            for (name, stem), (frame, segments) in zip(names, found_in, strict=False):
                frames.append({"frame": name, "segments": _write(out, stem, frame, segments)})
            report |= {"text": parsed.text, "frames": frames}
            said = f"{len(frames)} frames, {parsed.text!r} found in {sum(bool(f['segments']) for f in frames)}"
        else:
            if parsed.text is not None:
                segments = model.segment(frame, parsed.text, absent_below=absent)
                report["text"] = parsed.text
            elif parsed.classes is not None:
                found = model.segment_classes(frame, _names(parsed.classes), stuff=_names(parsed.stuff))
                segments = [Segment(found.ids == row["id"], row["score"], row["label"]) for row in found.rows]
                report["classes"] = _names(parsed.classes) + _names(parsed.stuff)
            else:
                segments = model.segment_regions(frame, drawn, labels=labels)
            report["segments"] = _write(out, parsed.image.stem, frame, segments)
            said = "; ".join(f"{s.label} ({s.mask.mean():.1%} of the picture, score {s.score:.2f})" for s in segments)
        (out / "result.json").write_text(json.dumps(report, indent=2) + "\n")
    console.print(f"found: {said or 'nothing that fits'}\nwrote {parsed.out}/", highlight=False, markup=False)


def _names_of(files: list[pathlib.Path]) -> Iterator[tuple[str, str]]:
    """(name, stem of the results) of each frame of a folder."""
    same = len({path.stem for path in files}) < len(files)  # 1.jpg beside 1.png
    return ((path.name, path.name if same else path.stem) for path in files)


def _numbers() -> Iterator[tuple[str, str]]:
    """The same for a video file, without end: numbers from 0."""
    return ((f"{k:06d}", f"{k:06d}") for k in itertools.count())


def _write(out: pathlib.Path, stem: str, frame: np.ndarray, segments: list[Segment]) -> list[dict]:
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
    if out.exists() and not (out / "result.json").exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: exists and does not hold earlier results; give another folder")
    if out.resolve() == pathlib.Path.cwd():
        raise UserError(f"--out {out}: is the working folder; give a folder of its own")
    try:
        with whole_folder(out) as part:
            yield part
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror or error}); give another folder") from error


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _draw_regions(points: list[str], boxes: list[str], size: tuple[int, int]) -> tuple[list[np.ndarray], list[str]]:
    """Points as discs and boxes as filled rectangles, bool [H, W]."""
    radius = max(2, round(10 * max(size) / 1024))  # the published 10 pixels at 1024
    drawn, labels = [], []
    for flag, texts, count in (("--point", points, 2), ("--box", boxes, 4)):
        for text in texts:
            try:
                numbers = [float(number) for number in text.split(",")]
            except ValueError:
                numbers = []
            if len(numbers) != count:
                raise UserError(f"{flag} {text}: give {count} numbers in pixels, as in {flag} {','.join(['40'] * count)}")
            x, y = numbers[:2]
            corners = numbers if count == 4 else [x - radius, y - radius, x + radius, y + radius]
            canvas = Image.new("L", (size[1], size[0]))
            draw = ImageDraw.Draw(canvas)
            inside = 0 <= x < size[1] and 0 <= y < size[0]
            if not inside or corners[2] <= corners[0] or corners[3] <= corners[1]:
                raise UserError(
                    f"{flag} {text}: not inside the picture of {size[1]} x {size[0]} pixels (x, y from the top left)"
                )
            (draw.rectangle if count == 4 else draw.ellipse)(corners, fill=1)
            drawn.append(np.asarray(canvas) > 0)
            labels.append(f"{flag.strip('-')} {text}")
    return drawn, labels
