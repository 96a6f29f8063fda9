"""Interactive segmentation of one image: marks and texts are added one after another, and can be taken back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from jaxtyping import Bool, Float64, Shaped

from hyperseg_jax.datasets.masks import MAX_COORDINATE, fill_polygons
from hyperseg_jax.datasets.regions import has_positive_mark
from hyperseg_jax.errors import UserError
from hyperseg_jax.predictors import arguments as check
from hyperseg_jax.structs import Prediction, Region

if TYPE_CHECKING:
    from hyperseg_jax.predictors.model import ImageLike, Model

Coordinates = Shaped[np.ndarray, "N 2"] | Sequence[Sequence[float]]
NO_AUDIO = "audio is not supported; transcribe it, for instance with Whisper as SEEM's authors do, and give the text"


@dataclasses.dataclass(frozen=True)
class _Round:
    """What was added until a round, and the answer to it. memory: that of the model."""

    regions: tuple[Region, ...] = ()
    text: str = ""
    example: np.ndarray | None = None
    prediction: Prediction | None = None
    memory: Any = None


class Session:
    """Segments objects of one image interactively; the image is encoded once. Create it with Model.session.

    Each method adds something and returns the Prediction for all objects so far: one mask for each object, in the order in
    which they were begun. `target` is the index of an object, the newest by default; the index after the last one begins
    another object. prediction: the newest Prediction; None before the first. Raises UserError for marks outside of the image,
    and for prompts that the model does not support; the session then stays as it was.
    """

    def __init__(self, model: Model, image: np.ndarray, classes: Sequence[str] = ()) -> None:
        """classes: names of which each mask gets the most probable one; () without names."""
        self._model, self._image, self._classes = model, image, tuple(classes)
        self._rounds = [_Round()]

    @property
    def prediction(self) -> Prediction | None:
        return self._rounds[-1].prediction

    def add_points(
        self, points: Coordinates, positive: bool | Sequence[bool] = True, *, target: int | None = None
    ) -> Prediction:
        """Adds clicks at points (x, y) in pixels. positive: whether they are on the object, for all or for each."""
        xy = _as_points("points", points)
        signs = np.asarray(positive)
        if signs.dtype != bool and not np.isin(signs, (0, 1)).all():
            raise UserError(f"positive is {check.describe(positive)}; give True or False for all or for each")
        signs = signs.astype(bool)
        if signs.shape not in ((), (len(xy),)):
            raise UserError(
                f"positive has the shape {signs.shape} for {len(xy)} points; give True or False for all or for each"
            )
        return self._add_marks(Region("point", points=np.column_stack([xy, np.broadcast_to(signs, len(xy))])), target)

    def add_box(self, left: float, top: float, right: float, bottom: float, *, target: int | None = None) -> Prediction:
        """Adds a box around the object, in pixels."""
        sides = check.check_numbers("the box", (left, top, right, bottom))
        return self._add_marks(Region.from_box(*sides), target)

    def add_scribble(self, corners: Coordinates, *, target: int | None = None) -> Prediction:
        """Adds a polyline on the object. corners: its vertices (x, y) in pixels."""
        return self._add_marks(Region.from_scribble(corners), target)

    def add_polygon(self, corners: Coordinates, *, target: int | None = None) -> Prediction:
        """Adds a polygon around the object. corners: its vertices (x, y) in pixels, at least three."""
        vertices = _as_points("corners", corners)
        if len(vertices) < 3:
            raise UserError(f"the polygon has {len(vertices)} corners; give at least three")
        height, width = self._image.shape[:2]
        return self.add_mask(fill_polygons([vertices], height, width, "the polygon"), target=target)

    def add_mask(self, mask: Bool[np.ndarray, "H W"], *, target: int | None = None) -> Prediction:
        """Adds a rough mask of the object."""
        if not isinstance(mask, np.ndarray):
            raise UserError(f"the mask is {check.describe(mask)}; give a bool mask [height, width]")
        if np.shape(mask) != (size := self._image.shape[:2]):
            raise UserError(f"the mask has size {np.shape(mask)}, but the image has {size}; use the size of the image")
        return self._add_marks(Region.from_mask(mask), target)

    def add_text(self, text: str) -> Prediction:
        """Adds a phrase, which replaces an earlier one. Without marks, it is segmented; with marks, it helps to find what they
        mark."""
        return self._answer(dataclasses.replace(self._rounds[-1], text=check.check_text(text)))

    def add_example(self, image: ImageLike, *regions: Region | Bool[np.ndarray, "H W"]) -> Prediction:
        """Finds in this image what each region marks in another one. Earlier marks are replaced; a text is kept."""
        from hyperseg_jax.predictors.model import read_image

        if not regions:
            raise UserError("no region is given; mark the object in the example image")
        marks = check.check_regions(regions)
        return self._answer(_Round(regions=marks, example=read_image(image), text=self._rounds[-1].text))

    def add_audio(self, audio: Any) -> NoReturn:
        """Raises UserError: speech has to be transcribed first."""
        raise UserError(f"{NO_AUDIO} to add_text")

    def undo(self) -> Prediction | None:
        """Takes back what was added last; returns the Prediction before it."""
        if len(self._rounds) == 1:
            raise UserError("there is nothing to undo; add a prompt first")
        self._rounds.pop()
        return self.prediction

    def reset(self) -> None:
        """Takes back everything."""
        self._rounds = [_Round()]

    def _add_marks(self, marks: Region, target: int | None) -> Prediction:
        last = self._rounds[-1]
        if not (has_positive_mark(marks) or len(marks.points)):
            raise UserError("nothing is marked; mark at least one pixel of the image")
        if last.example is not None:
            raise UserError("the marks are those of an example image; call reset() before marking this image")
        index = max(len(last.regions) - 1, 0) if target is None else target
        if not isinstance(index, int | np.integer) or not 0 <= index <= len(last.regions):
            raise UserError(f"target = {index}: give the index of an object, or {len(last.regions)} for another one")
        regions = list(last.regions)
        regions[index : index + 1] = [_join(regions[index], marks) if index < len(regions) else marks]
        return self._answer(dataclasses.replace(last, regions=tuple(regions)))

    def _answer(self, request: _Round) -> Prediction:
        prediction, memory = self._model.answer_round(
            self._image,
            request.regions,
            text=request.text,
            classes=self._classes,
            example=request.example,
            memory=self._rounds[-1].memory if request.example is None else None,
        )
        self._rounds.append(dataclasses.replace(request, prediction=prediction, memory=memory))
        return prediction


def _as_points(name: str, points: Coordinates) -> Float64[np.ndarray, "N 2"]:
    """Returns points as an array. Raises UserError if they are no (x, y). name: of the argument."""
    try:
        xy = np.asarray(points)
        xy = xy.astype(np.float64) if xy.dtype.kind in "iuf" else np.zeros(0)
    except (TypeError, ValueError):
        xy = np.zeros(0)
    if xy.ndim != 2 or xy.shape[1] != 2 or not (np.abs(xy) < MAX_COORDINATE).all():
        raise UserError(f"{name}: are no points; give at least one in pixels, as [[x, y], ...]")
    return xy


def _join(old: Region, new: Region) -> Region:
    """Returns a region with the marks of both."""
    masks = [region.mask for region in (old, new) if region.mask is not None]
    return Region(
        new.kind,
        points=np.concatenate([old.points, new.points]),
        boxes=np.concatenate([old.boxes, new.boxes]),
        scribbles=(*old.scribbles, *new.scribbles),
        mask=np.any(masks, axis=0) if masks else None,
    )
