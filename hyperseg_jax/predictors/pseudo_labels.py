"""Labels images with a model, for self-training: each pixel gets the most probable class if the model is sure enough."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from hyperseg_jax.data.video_files import image_files
from hyperseg_jax.datasets import files, pseudo_labels
from hyperseg_jax.errors import UserError
from hyperseg_jax.predictors.model import Model
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.printing import escaped, one_line


@dataclasses.dataclass(frozen=True)
class Labelled:
    """What label_images has done. images: number of labelled images. skipped: a line for each image that cannot be read or
    segmented. share: share of their pixels that have a class."""

    images: int
    skipped: tuple[str, ...]
    share: float


def label_images(
    load: Callable[[], Model],
    images: pathlib.Path,
    classes: Sequence[str],
    out: pathlib.Path,
    *,
    confidence: float,
    steps: int,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Labelled:
    """Writes the label images of a folder of images into `out`, and labels.json at the end (datasets.pseudo_labels).

    load: returns the model; called if an image has no label image yet, so an interrupted call is continued. confidence: the
    lowest probability of a class at a pixel that gets it. steps: the training steps of the model. progress: receives (images
    done, of all). Raises UserError if `out` was written with other classes, confidence or steps, or for the images of another
    folder, if the model cannot be loaded, if no image can be labelled, or if no pixel has a class.
    """
    names = [path.name for path in image_files(images)]
    settings = check_settings(images, classes, out, confidence=confidence, steps=steps)
    if not (out / pseudo_labels.INDEX).exists():
        out.mkdir(parents=True, exist_ok=True)
        pseudo_labels.write_index(out, {**settings, "images": []})
    model: Model | None = None
    labelled, skipped = list[str](), list[str]()
    pixels = sure = 0
    for done, name in enumerate(names, 1):
        image = numbers = None
        with _collecting_errors(name, skipped):
            path = files.join_inside(out, pseudo_labels.label_file(name), str(out))
            numbers = pseudo_labels.read_label_numbers(path)
            if numbers is None:
                image = files.read_image(files.join_inside(images, name, str(images)))
        if image is not None:
            model = model or load()
            with _collecting_errors(name, skipped):
                numbers = label_image(model, image, classes, confidence)
                pseudo_labels.write_label_image(path, numbers, len(classes))
        if numbers is not None:
            labelled.append(name)
            pixels, sure = pixels + numbers.size, sure + int((numbers > 0).sum())
        progress(done, len(names))
    if not labelled:
        raise UserError(f"{images}: none of its {len(names)} images can be labelled; the first: {skipped[0]}")
    if not sure:
        raise UserError(
            f"{images}: the model is not sure of any pixel (confidence {confidence}); give a lower confidence, and remove {out}"
        )
    pseudo_labels.write_index(out, {**settings, "images": labelled})
    return Labelled(len(labelled), tuple(skipped), sure / pixels)


@contextlib.contextmanager
def _collecting_errors(name: str, lines: list[str]) -> Iterator[None]:
    """Appends a line about an image that cannot be read or segmented."""
    try:
        yield
    except (UserError, BadFile) as error:
        lines.append(f"{escaped(name)}: {one_line(str(error))}")


def check_settings(
    images: pathlib.Path, classes: Sequence[str], out: pathlib.Path, *, confidence: float, steps: int
) -> dict[str, Any]:
    """Returns the settings of `label_images` that labels.json stores. Raises UserError if label images in `out` were written
    with others."""
    settings = {"classes": list(classes), "confidence": confidence, "steps": steps, "folder": str(images)}
    saved = pseudo_labels.read_index(out) if (out / pseudo_labels.INDEX).exists() else settings
    if changed := [name for name, value in settings.items() if saved.get(name) != value]:
        raise UserError(f"{out}: was labelled with other {', '.join(changed)}; remove this folder, or give another --out")
    return settings


def label_image(model: Model, image: np.ndarray, classes: Sequence[str], confidence: float) -> np.ndarray:
    """Returns the class of each pixel plus 1, int [H, W]; 0 where it is less probable than `confidence`."""
    label, probability = model.most_probable_classes(image, classes)
    return np.where(probability >= confidence, label.astype(np.int32) + 1, 0)
