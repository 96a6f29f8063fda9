"""hyperseg predict"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import math
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hyperseg_jax.atomic import atomic_folder, check_replaceable
from hyperseg_jax.commands import first_frame_masks
from hyperseg_jax.commands.numbers import parse_number
from hyperseg_jax.datasets.labels import read_mask_image
from hyperseg_jax.datasets.visual_prompts import shares_area, shares_pixels
from hyperseg_jax.errors import UserError
from hyperseg_jax.results.drawing import draw_segments, save_image
from hyperseg_jax.results.objects import encode_ids
from hyperseg_jax.structs import Prediction, Region, Segment, WrittenName
from hyperseg_jax.untrusted import strict_json
from hyperseg_jax.untrusted.printing import log, make_console, one_line

if TYPE_CHECKING:
    from hyperseg_jax.predictors.model import Model

WRITTEN = ("result.json", "*_mask.png", "*_mask[0-9]*.png", "*_overlay.png", "*_ids.png")
"""Patterns of the files in a results folder."""
MARKS = "--point / --box / --scribble / --mask"
LONGEST_STEM = 230
"""Maximum length in bytes of the file stem to which suffixes are added."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    # makes argparse accept negative coordinates as values, as in `--box -5,60,80,120`
    parser._negative_number_matcher = re.compile(r"-[\d.][\d.,eE+-]*$")
    parser.add_argument("image", type=pathlib.Path, help="an image, a video file, or a folder of frames")
    parser.add_argument("text", nargs="?", help='what to segment: "the red ring left of the square"')
    parser.add_argument("--text", dest="text_option", metavar="TEXT", help="the same as an option, to combine with regions")
    parser.add_argument("--model", default="tiny", help="a workdir, a model folder, or a shipped model (tiny)")
    parser.add_argument(
        "--reasoning", action="store_true", help='the text is a question that requires reasoning: "what could one sit on?"'
    )
    parser.add_argument(
        "--classes",
        help="comma-separated thing classes, segmented per instance: 'red ring,blue star'; on a "
        "video, each instance has the same track number on all frames",
    )
    parser.add_argument("--stuff", help="comma-separated stuff classes for --classes: 'grass,sand'")
    parser.add_argument(
        "--kind",
        choices=("panoptic", "instances", "semantic"),
        help="with --classes: segments without overlap (panoptic, the default), instances of the thing classes that may "
        "overlap, or one mask for each class (semantic, the default of systems that have no other)",
    )
    parser.add_argument(
        "--point",
        action="append",
        default=[],
        metavar="X,Y",
        help="the object at a point, in pixels; repeatable. Marks on a video are on its first frame",
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
        help="the object under a polyline, given by its vertices; repeatable",
    )
    parser.add_argument(
        "--mask",
        action="append",
        default=[],
        type=pathlib.Path,
        metavar="FILE",
        help="the object under the white pixels of a black and white image; repeatable",
    )
    parser.add_argument(
        "--example",
        type=pathlib.Path,
        metavar="IMAGE",
        help="another image, on which the object is marked by the options above",
    )
    parser.add_argument(
        first_frame_masks.FLAG,
        action="append",
        default=[],
        type=pathlib.Path,
        metavar="PNG",
        help="follow several objects through a video, without overlap: a PNG of object ids of the first frame, one PNG per "
        "object (repeat the option), or a folder of PNGs of object ids named as their frames, for objects that appear later",
    )
    parser.add_argument("--everything", action="store_true", help="find all objects by prompting a grid of points (SAM, SCA)")
    parser.add_argument("--caption", action="store_true", help="describe what is marked, or everything that is found (SCA)")
    parser.add_argument("--audio", help=argparse.SUPPRESS)
    parser.add_argument("--always", action="store_true", help="return a mask even if no object seems to match the text")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("segmentation"), help="folder for the results")


def run(parsed: argparse.Namespace) -> None:
    if parsed.text_option is not None:
        if parsed.text is not None:
            raise UserError("the text is given twice; give it once")
        parsed.text = parsed.text_option
    _check_options(parsed)
    from hyperseg_jax.data.video_files import image_files, is_video, read_frames
    from hyperseg_jax.predictors.model import load, read_image

    console, absent = make_console(stderr=True), (None if parsed.always else ...)
    has_frames = is_video(parsed.image)
    if parsed.first_frame_masks and not has_frames:
        raise UserError(f"{parsed.image} is no video; give its masks as --mask")
    if has_frames and (parsed.everything or parsed.caption):
        raise UserError(f"{parsed.image} is a video; give a text, or mark an object, or give --classes")
    if has_frames and (parsed.stuff is not None or parsed.kind not in (None, "instances")):
        raise UserError(f"{parsed.image} is a video, on which --classes are tracked; remove --stuff and --kind")
    # Reads the first frame before the model, so that invalid input fails without the slow loading of the model.
    frames = read_frames(parsed.image) if has_frames else iter([read_image(parsed.image)])
    frame = next(frames)
    example = None if parsed.example is None else read_image(parsed.example)
    names = _output_stems(parsed.image, image_files(parsed.image) if parsed.image.is_dir() else [])
    masks = {}
    if parsed.first_frame_masks:
        stems = {path.stem: k for k, path in enumerate(image_files(parsed.image))} if parsed.image.is_dir() else None
        masks = first_frame_masks.read_masks(parsed.first_frame_masks, frame.shape[:2], stems)
    regions, labels = _parse_regions(parsed, (frame if example is None else example).shape[:2])
    marks: dict[str, Any] = {"regions": regions, "labels": labels, "drawn_on": example, "text": parsed.text or ""}
    model = load(parsed.model)
    report: dict = {"model": str(parsed.model), "image": str(parsed.image)}
    report |= {"text": parsed.text} if parsed.text else {}
    report |= {"example": str(parsed.example)} if parsed.example else {}
    with _replace_results(
        parsed.out, [parsed.image, *parsed.mask, *parsed.first_frame_masks, *([parsed.example] if parsed.example else [])]
    ) as out:
        if has_frames:
            rows, tracks, images = [], set[int](), itertools.chain([frame], frames)
            if masks:
                predictions = model.segment_objects(images, masks)
            elif parsed.classes is not None:
                report["classes"] = _split_names(parsed.classes)
                predictions = model.track_classes(images, report["classes"])
            else:
                predictions = model.segment_video(images, **marks, no_target_threshold=absent, reasoning=parsed.reasoning)
            for frame, predicted in predictions:
                name, stem = next(names)
                rows.append({"frame": name, "segments": _write_images(out, stem, frame, predicted)})
                if masks:
                    (out / f"{stem}_ids.png").write_bytes(encode_ids(_object_ids(predicted)))
                tracks |= {*predicted.track_ids}
            report |= {"frames": rows}
            summary = f"{len(rows)} frames"
            if parsed.classes is not None:
                summary += f", {len(tracks)} instances"
            elif parsed.text is not None and not regions:
                summary += f", {parsed.text!r} found in {sum(bool(row['segments']) for row in rows)}"
        else:
            if parsed.everything:
                predicted = model.automatic(frame).prediction
            elif regions:
                predicted = model.segment_regions(frame, **marks)
            elif parsed.text is not None:
                predicted = model.segment(frame, parsed.text, no_target_threshold=absent, reasoning=parsed.reasoning)
            else:
                things, stuff = _split_names(parsed.classes), _split_names(parsed.stuff)
                predicted = model.segment_classes(frame, things, stuff=stuff, kind=parsed.kind or "")
                report["classes"] = things + stuff
                if predicted.written is not None:
                    report["written"] = [name.name for name in predicted.written]
                    log(console, _describe_written(predicted.written))
            if parsed.caption:
                predicted = _name_by_captions(model, frame, regions or [Region.from_mask(s.mask) for s in predicted], predicted)
            report["segments"] = _write_images(out, next(names)[1], frame, predicted)
            summary = "; ".join(map(_summary, predicted))
        (out / "result.json").write_text(strict_json.dumps_finite(report))
    log(console, f"found: {summary or 'no matching object'}")
    log(console, f"wrote {parsed.out}/")


def _summary(segment: Segment) -> str:
    score = "" if math.isnan(segment.score) else f", score {segment.score:.2f}"
    return f"{one_line(segment.label)} ({segment.mask.mean():.1%} of the image{score})"


def _object_ids(predicted: Prediction) -> np.ndarray:
    """Returns the object id of each pixel, uint8 [H, W]. The names of the masks are the ids."""
    return np.array([0, *map(int, predicted.names)], np.uint8)[predicted.ids]


def _describe_written(names: Sequence[WrittenName]) -> str:
    """Returns a line about the names that the model wrote before it segmented."""
    text = f"wrote: {', '.join(one_line(name.name) for name in names) or 'that it sees nothing of the list'}"
    unlisted = [one_line(name.name) for name in names if name.label is None]
    return f"{text} (not in the list: {', '.join(unlisted)})" if unlisted else text


def _name_by_captions(model: Model, frame: np.ndarray, regions: Sequence[Region], predicted: Prediction) -> Prediction:
    """Returns the masks, each named by the text that describes its region."""
    captions = model.caption_regions(frame, regions)
    return dataclasses.replace(predicted, names=tuple(captions))


def _check_options(parsed: argparse.Namespace) -> None:
    """Raises UserError for invalid combinations of options, before any file is read."""
    has_regions = bool(parsed.point or parsed.box or parsed.scribble or parsed.mask)
    if parsed.audio is not None:
        from hyperseg_jax.predictors.session import NO_AUDIO

        raise UserError(f"{NO_AUDIO} as --text")
    if parsed.example is not None and not has_regions:
        raise UserError(f"--example requires {MARKS}; mark the object in that image")
    kinds = [parsed.text is not None or has_regions, parsed.classes is not None, parsed.everything]
    if [*kinds, bool(parsed.first_frame_masks)].count(True) != 1:
        raise UserError(
            f"give a text, or --classes, or --everything, or {first_frame_masks.FLAG}, or {MARKS}, which may have a --text as "
            "well"
        )
    if parsed.caption and (parsed.example is not None or not (has_regions or parsed.everything)):
        raise UserError(f"--caption requires {MARKS} on the image itself, or --everything")
    if parsed.text is not None and not parsed.text.strip():
        raise UserError("the prompt is empty; say what to segment")
    if parsed.stuff is not None and parsed.classes is None:
        raise UserError("--stuff requires --classes; give the thing classes")
    if parsed.reasoning and parsed.text is None:
        raise UserError("--reasoning requires a text; give the question")
    if parsed.reasoning and has_regions:
        raise UserError(f"--reasoning is for a text alone; remove it, or {MARKS}")
    if parsed.kind is not None and parsed.classes is None:
        raise UserError("--kind requires --classes; give the thing classes")
    if not parsed.image.exists():
        raise UserError(f"{parsed.image}: no such file or folder; give an image, a video, or a folder of frames")


def _output_stems(image: pathlib.Path, frames: list[pathlib.Path]) -> Iterator[tuple[str, str]]:
    """Returns an iterator over (name, stem of the output file names) of the image or of each frame. frames: files of a folder
    of frames, or []. Frames of a video file are numbered from 0, without end. Raises UserError if a file name is too long."""
    from hyperseg_jax.data.video_files import is_video

    if is_video(image) and not frames:
        return ((f"{k:06d}", f"{k:06d}") for k in itertools.count())
    files = frames or [image]
    has_duplicates = len({path.stem for path in files}) < len(files)  # such as 1.jpg and 1.png
    names = [(path.name, path.name if has_duplicates else path.stem) for path in files]
    for path, (_, stem) in zip(files, names, strict=True):
        if len(os.fsencode(stem)) > LONGEST_STEM:
            raise UserError(f"{one_line(path)}: the file name is too long; shorten it to {LONGEST_STEM} bytes")
    return iter(names)


def _write_images(out: pathlib.Path, stem: str, frame: np.ndarray, segments: Prediction) -> list[dict]:
    """Writes the masks and the overlay of a frame as PNG files. Returns the entry of each mask in result.json."""
    rows = []
    for k, segment in enumerate(segments, 1):
        name = f"{stem}_mask{k}.png" if len(segments) > 1 else f"{stem}_mask.png"
        save_image(out / name, segment.mask.astype(np.uint8) * 255)
        row = {"label": segment.label, "score": round(segment.score, 4), "pixels": int(segment.mask.sum()), "mask": name}
        rows.append(row | ({"track": segment.track_id} if segment.track_id >= 0 else {}))
    save_image(out / f"{stem}_overlay.png", draw_segments(frame, segments))
    return rows


@contextlib.contextmanager
def _replace_results(out: pathlib.Path, inputs: Sequence[pathlib.Path]) -> Iterator[pathlib.Path]:
    """Yields a temporary folder for the results, which atomically replaces `out` on exit. Raises UserError if `out` contains
    anything but results of an earlier run, or one of the input files."""
    folder = pathlib.Path(os.path.realpath(out))  # follows a link given by the user
    if folder == pathlib.Path.cwd():
        raise UserError(f"--out {out}: is the current directory; give a separate folder")
    check_replaceable(out, WRITTEN if (out / "result.json").is_file() else (), inputs)
    try:
        with atomic_folder(folder) as part:
            yield part
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror or error}); give another folder") from error


def _split_names(text: str | None) -> list[str]:
    """Splits a comma-separated list of class names."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _parse_regions(parsed: argparse.Namespace, size: tuple[int, int]) -> tuple[list[Region], list[str]]:
    """Parses the values of --point, --box, --scribble and --mask for an image of this (height, width). Returns the regions and
    the text that labels each in the results. Boxes and scribbles are cut at the edges of the image."""
    regions, labels = [], []
    for text in parsed.point:
        x, y = _parse_numbers("--point", text, 2)
        if not (0 <= x < size[1] and 0 <= y < size[0]):
            raise UserError(f"--point {text}: is not inside {_describe_size(size)}; give coordinates in it")
        regions.append(Region.from_point(x, y))
        labels.append(f"point {text}")
    for text in parsed.box:
        x0, y0, x1, y1 = _parse_numbers("--box", text, 4)
        left, right, top, bottom = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
        if not shares_area((left, top, right, bottom), size) or left == right or top == bottom:
            raise UserError(
                f"--box {text}: has no area inside {_describe_size(size)}; give two opposite corners of a box in it"
            )
        regions.append(Region.from_box(max(left, 0), max(top, 0), min(right, size[1]), min(bottom, size[0])))
        labels.append(f"box {text}")
    for text in parsed.scribble:
        corners = _parse_numbers("--scribble", text, max(4, 2 * (text.count(",") // 2 + 1)))
        line = np.reshape(corners, (-1, 2))
        if not shares_pixels(line, size):
            raise UserError(f"--scribble {text}: is not inside {_describe_size(size)}; give coordinates in it")
        regions.append(Region.from_scribble(line))
        labels.append(f"scribble {text}")
    for path in parsed.mask:
        pixels = read_mask_image(path, size)
        if pixels is None or not pixels.any():
            raise UserError(f"--mask {path}: has no white pixel; mark the object in white")
        regions.append(Region.from_mask(pixels))
        labels.append(f"mask {path.name}")
    return regions, labels


def _parse_numbers(flag: str, text: str, count: int) -> list[float]:
    """Parses `count` comma-separated numbers. flag: for messages."""
    try:
        numbers = [parse_number(float, number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise UserError(f"{flag} {text}: give {count} numbers in pixels, as in {flag} {','.join(['40'] * count)}")
    return numbers


def _describe_size(size: tuple[int, int]) -> str:
    return f"the image of {size[1]} x {size[0]} pixels (x, y from the top left)"
