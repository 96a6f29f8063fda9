"""Submission files for the evaluation servers of benchmarks. WRITERS has one entry per format."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from hyperseg_jax.datasets.masks import decode_segmentation
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.qualitative import check_masks
from hyperseg_jax.evaluation.scoring import parse_number, parse_options
from hyperseg_jax.metrics.multiple_choice import choose_option
from hyperseg_jax.ops import run_lengths
from hyperseg_jax.results.objects import merge_hard
from hyperseg_jax.results.server import coco_panoptic, davis, mmbench, ref_youtube_vos, vqa, youtube_vis
from hyperseg_jax.structs import Example, Prediction, Prompt
from hyperseg_jax.untrusted import limits
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.printing import escaped_value

Row = dict[str, Any]
COMPARED = 12
"""Maximum number of examples whose questions are compared with those of a partial evaluation."""

NUMBERED = {"coco_panoptic": "image_id", "youtube_vis": "video id", "vqa": "question_id", "mmbench": "index"}
"""Formats with integer ids of questions -> name of the id field in their files."""
PER_FRAME = ("davis", "ref_youtube_vos")
"""Formats whose zips have a file for each frame."""
PER_MASK = {"coco_panoptic": ("labels",), "youtube_vis": ("labels", "scores")}
"""Formats with class labels of masks -> fields of a row with a value for each mask of a frame."""


def check_question(submission: str, example: Example, prompt: Prompt) -> None:
    """Raises UserError if the answer could not be written in this format, a name of WRITERS. Called before the model runs."""
    _check_names(submission, prompt.key, example.frame_names, example.name)


def _check_names(submission: str, key: str, frame_names: Sequence[str], where: str) -> None:
    if submission in NUMBERED:
        parse_number(key, NUMBERED[submission], where)
    elif submission in PER_FRAME:  # they become file names in a zip
        for name in (key, *frame_names):
            if not ref_youtube_vos.is_file_name(name):
                raise UserError(f"{where}: {escaped_value(name)} cannot be a file name in a zip; correct it")
        if len(set(frame_names)) < len(frame_names):
            raise UserError(f"{where}: its video has two frames with the same name; correct the list of frames")
        if submission == "ref_youtube_vos" and "/" not in key:
            raise UserError(f"{where}: {escaped_value(key)} is not a key like video/expression; correct it")


def make_row(example: Example, prompt: Prompt, predictions: Sequence[Prediction]) -> Row:
    """Returns the answer to a prompt as JSON values, with the masks of all frames as run lengths. Raises UserError if the
    prompt has no key."""
    if not prompt.key:
        raise UserError(
            f"{example.name}: the prompt has no key, which the evaluation server needs; the reader must return Prompt.key"
        )
    height, width = example.frames.shape[1:3]
    return {
        "key": prompt.key,
        "question": prompt.text,
        "text": predictions[0].text,
        "labels": list(predictions[0].labels),
        "scores": list(predictions[0].scores),
        "frames": list(example.frame_names),
        "height": height,
        "width": width,
        "masks": [[run_lengths.encode(mask) for mask in frame.masks] for frame in predictions],
    }


def check_rows(submission: str, rows: list[Any], done: int, examples: Any) -> None:
    """Raises BadFile if a JSON value is not the list of (example, prompt, row of `make_row`) of all prompts of the first `done`
    examples, or if a row could not be written."""
    is_index = lambda value: type(value) is int and 0 <= value < 2**31
    if not all(type(entry) is list and len(entry) == 3 and is_index(entry[0]) and is_index(entry[1]) for entry in rows):
        raise BadFile("an answer has an unexpected format")
    prompts = collections.Counter(entry[0] for entry in rows)
    expected = [(index, prompt) for index in range(done) for prompt in range(max(1, prompts[index]))]
    if sorted((index, prompt) for index, prompt, _ in rows) != expected:
        raise BadFile(f"its answers are not those of the first {done} examples")
    for index, prompt, row in rows:
        where = f"the answer to prompt {prompt} of example {index}"
        if not _is_row(row):
            raise BadFile(f"{where} has an unexpected format")
        try:
            _check_names(submission, row["key"], row["frames"], where)
        except UserError as error:
            raise BadFile(str(error)) from error
        for masks in row["masks"]:
            check_masks(masks, (row["height"], row["width"]), where)
        counts = [len(row[name]) for name in PER_MASK.get(submission, ())]
        if any(len(masks) != count for masks in row["masks"] for count in counts):
            raise BadFile(f"{where} has masks without labels or scores, or labels or scores without masks")
        if counts and any(label >= len(examples.category_ids) for label in row["labels"]):
            raise BadFile(f"{where} has a label that is not a class")


def compare_rows(rows: Sequence[Any], done: int, examples: Sequence[Example]) -> None:
    """Raises BadFile if checked rows are not answers to the questions of the first `done` examples. Reads and compares COMPARED
    examples, since reading all may take hours; the answers themselves cannot be compared."""
    questions: dict[int, list[tuple[Any, ...]]] = {}
    for index, _, row in sorted(rows, key=lambda entry: entry[:2]):
        questions.setdefault(index, []).append((row["key"], row["question"], row["frames"], row["height"], row["width"]))
    for index in sorted({round(k) for k in np.linspace(0, done - 1, COMPARED)}):
        example = examples[index]
        size, names = example.frames.shape[1:3], list(example.frame_names)
        if questions[index] != [(prompt.key, prompt.text, names, *size) for prompt in example.prompts]:
            raise BadFile(f"its answers to example {index} are to other questions, or of other frames or another size")


def _is_row(row: Any) -> bool:
    kinds = {**dict.fromkeys(("key", "question", "text"), str), **dict.fromkeys(("labels", "scores", "frames", "masks"), list)}
    if type(row) is not dict or {name: type(value) for name, value in row.items()} != {**kinds, "height": int, "width": int}:
        return False
    allowed, pixels = limits.current(), row["height"] * row["width"]
    if not (
        min(row["height"], row["width"]) > 0 and pixels <= allowed.pixels and all(type(frame) is list for frame in row["masks"])
    ):
        return False
    masks = sum(map(len, row["masks"]))
    return (
        len(row["masks"]) == (len(row["frames"]) or len(row["masks"]))
        and all(type(label) is int and label >= 0 for label in row["labels"])
        and all(type(score) in (int, float) for score in row["scores"])
        and all(type(name) is str for name in row["frames"])
        and masks <= allowed.masks
        and max(masks, len(row["frames"])) * pixels <= allowed.mask_pixels
    )


def _decode_masks(row: Row, frame: int) -> np.ndarray:
    """Returns the masks of a frame, bool [N, H, W]."""
    height, width = row["height"], row["width"]
    masks = [decode_segmentation(mask, height, width, row["key"]) for mask in row["masks"][frame]]
    return np.array(masks, bool).reshape(-1, height, width)


def _make_mmbench_answer(row: Row) -> dict[str, Any]:
    options = parse_options(row["question"])
    return {
        "index": int(row["key"]),
        "question": row["question"].split("\n")[0],
        **options,
        "prediction": choose_option(row["text"], options) or row["text"],
    }


def _write_expressions(folder: pathlib.Path, rows: Sequence[Row], examples: Any) -> pathlib.Path:
    """Writes expression masks; keys are video/expression."""
    path = folder / "submission.zip"
    video = lambda row: np.stack([_decode_masks(row, t).any(0) for t in range(len(row["frames"]))])
    ref_youtube_vos.write(path, ((*row["key"].rsplit("/", 1), row["frames"], video(row)) for row in rows))
    return path


def _write_objects(folder: pathlib.Path, rows: Sequence[Row], examples: Any) -> pathlib.Path:
    """Writes object maps; keys are videos. examples.first_object_ids: ids of the objects of a video."""

    def maps() -> Iterator[tuple[str, Sequence[str], np.ndarray]]:
        for row in rows:
            ids = np.array([0, *examples.first_object_ids(row["key"])], np.uint8)
            maps = (merge_hard(_decode_masks(row, t)) for t in range(len(row["frames"])))
            yield row["key"], row["frames"], ids[np.stack(list(maps))]

    path = folder / "submission.zip"
    davis.write(path, maps())
    return path


def _write_panoptic(folder: pathlib.Path, rows: Sequence[Row], examples: Any) -> pathlib.Path:
    """Writes panoptic images; keys are image ids, and PNG names follow COCO. examples.category_ids: ids of the classes."""

    def images() -> Iterator[tuple[int, str, np.ndarray, list[dict[str, int]]]]:
        for row in rows:
            ids = np.zeros((row["height"], row["width"]), np.int32)
            for k, mask in enumerate(_decode_masks(row, 0), 1):
                ids[mask] = k
            segments = [{"id": k, "category_id": examples.category_ids[label]} for k, label in enumerate(row["labels"], 1)]
            yield int(row["key"]), f"{int(row['key']):012d}.png", ids, segments

    coco_panoptic.write(folder / "submission", images())
    return folder / "submission"


def _write_tracks(folder: pathlib.Path, rows: Sequence[Row], examples: Any) -> pathlib.Path:
    """Writes video instances; keys are video ids. examples.category_ids: ids of the classes."""

    def instances() -> Iterator[tuple[int, int, float, np.ndarray]]:
        for row in rows:
            frames = [_decode_masks(row, t) for t in range(len(row["masks"]))]
            for k, (label, score) in enumerate(zip(row["labels"], row["scores"], strict=True)):
                yield int(row["key"]), examples.category_ids[label], score, np.stack([frame[k] for frame in frames])

    path = folder / "submission.zip"
    youtube_vis.write(path, instances())
    return path


def _write_vqa(folder: pathlib.Path, rows: Sequence[Row], examples: Any) -> pathlib.Path:
    path = folder / "submission.json"
    vqa.write(path, ((int(row["key"]), row["text"]) for row in rows))
    return path


def _write_mmbench(folder: pathlib.Path, rows: Sequence[Row], examples: Any) -> pathlib.Path:
    path = folder / "submission.xlsx"
    mmbench.write(path, map(_make_mmbench_answer, rows))
    return path


WRITERS: dict[str, Callable[[pathlib.Path, Sequence[Row], Any], pathlib.Path]] = {
    "davis": _write_objects,
    "ref_youtube_vos": _write_expressions,
    "coco_panoptic": _write_panoptic,
    "youtube_vis": _write_tracks,
    "vqa": _write_vqa,
    "mmbench": _write_mmbench,
}
"""Format -> write(folder, rows in the order of the examples, reader of the examples), which returns the path to submit."""
