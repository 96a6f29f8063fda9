"""The few structs that rooms hand each other."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import flax.struct
import jax
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int32, Shaped, UInt8

from hyperseg_jax.errors import UserError

Array = jax.Array | np.ndarray

if TYPE_CHECKING:
    DeviceArray = jax.Array
else:
    DeviceArray = Array
"""An array that a model computes with. JAX accepts NumPy arrays as well; mypy sees jax.Array only."""

IGNORED = -100
"""A label that is not trained on (PyTorch's ignore_index, used in every published data set)."""

TASKS = ("referring", "reasoning", "panoptic", "region", "video", "chat", "caption")
KINDS = ("point", "scribble", "box", "mask")
"""Kinds of regions."""
_MOST, _FAR, _LONGEST, _THICKEST = 4096, 1e6, 1e6, 256
"""Limits of a region: its points, boxes, or corners of scribbles; pixels from the corner of the image to each; pixels of its
scribbles together; its radius. Drawing takes time for each."""


@flax.struct.dataclass
class Pyramid:
    """Feature maps of one image at several strides, fine to coarse.

    levels: each of H/stride x W/stride cells.
    strides: pixels a cell, one for each level.
    """

    levels: tuple[Float[DeviceArray, "B _ _ _"], ...]
    strides: tuple[int, ...] = flax.struct.field(pytree_node=False)


class Source(enum.IntEnum):
    """The bank that a position of the stream comes from."""

    PADDING = 0
    TEXT = 1
    IMAGE = 2
    FINE_GRAINED = 3
    EXPRESSION = 4  # text of the expression, pooled into its embedding
    CLASS = 5  # text of a class name, pooled into the embedding of its class
    REGION = 6
    QUERY = 7


@flax.struct.dataclass
class Layout:
    """The prompts of an image as fixed-length arrays, [L] on the host and [B, L] on the device.

    Several prompts share one sequence: what they have in common (the image above all) stands once at the start, and each
    then goes on by itself, seeing the common part and its own. A causal model computes the same for it as for the prompts one
    by one.

    text_ids: token ids at TEXT, EXPRESSION and CLASS positions, 0 elsewhere.
    source: a Source. index: the position's number inside its source, from 0.
    segment: what it is pooled into: 1 for the expression, the number of its class or region from 1, else 0.
    labels: the token to be written at this position (not shifted), -100 where none is asked for.
    mask: True where other positions may look.
    prompt: the number of its prompt from 1; 0 where all prompts share the position.
    position: its place in its own prompt.
    """

    text_ids: Int[Array, "*B L"]
    source: Int[Array, "*B L"]
    index: Int[Array, "*B L"]
    segment: Int[Array, "*B L"]
    labels: Int[Array, "*B L"]
    mask: Bool[Array, "*B L"]
    prompt: Int[Array, "*B L"]
    position: Int[Array, "*B L"]

    def part(self, start: int, stop: int | None = None) -> Layout:
        """Positions start..stop of a batch of layouts."""
        part: Layout = jax.tree.map(lambda field: field[:, start:stop], self)
        return part


@flax.struct.dataclass
class TokenStream:
    """The mixed sequence that enters the language model.

    mask: True where a token stands.
    source: the bank each position came from (Source).
    prompt: the prompt each position belongs to; it sees its own and those of 0. None: one prompt a row.
    """

    embeddings: Float[DeviceArray, "B L D"]
    positions: Int[DeviceArray, "B L"]
    mask: Bool[DeviceArray, "B L"]
    source: Int[DeviceArray, "B L"]
    prompt: Int[DeviceArray, "B L"] | None = None


@flax.struct.dataclass
class MaskPrediction:
    """What a mask decoder says about its queries.

    mask_logits: at the stride of the mask features.
    scores: raw logits by kind: "expression" [B, Q], "class" [B, Q, C], "region" [B, Q, R], "box_iou" [B, Q].
    boxes: cxcywh in 0..1, or None.
    embeddings: by kind: "query" [B, Q, D] (last layer, before the final norm), "reid" [B, Q, D].
    stages: one dict for each earlier prediction (deep supervision and golden tests): "mask_logits", "scores", and
        "attention_mask" [B, Q, hw] (True = blocked, before a fully blocked row is opened) of the layer that followed it.
    """

    mask_logits: Float[DeviceArray, "B Q h w"]
    scores: dict[str, Float[DeviceArray, "B Q *C"]]
    boxes: Float[DeviceArray, "B Q 4"] | None = None
    embeddings: dict[str, Float[DeviceArray, "B Q _"]] = flax.struct.field(default_factory=dict)
    stages: tuple[dict[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class Region:
    """What somebody drew to point at one object, in pixels from the image's top left corner; all its marks mean that object.

    kind: one of KINDS, what scores are grouped by.
    points: x and y, and 1 on the object or 0 beside it. Pixel (column, row) has its centre at (column + 0.5,
        row + 0.5) and holds whatever is rounded down to it.
    boxes: left, top, right, bottom. scribbles: each the corners of a line as x, y. mask: of the image's size, or None.
    radius: pixels by which the mask of a point or a scribble is still to be thickened; None: as the system does it.
    UserError for numbers of another shape, too many of them, or ones that are not finite.
    """

    kind: str
    points: Float64[np.ndarray, "N 3"] = dataclasses.field(default_factory=lambda: np.zeros((0, 3)))
    boxes: Float64[np.ndarray, "M 4"] = dataclasses.field(default_factory=lambda: np.zeros((0, 4)))
    scribbles: tuple[Float64[np.ndarray, "_ 2"], ...] = ()
    mask: Bool[np.ndarray, "H W"] | None = None
    radius: int | None = 0

    def __post_init__(self) -> None:
        if self.radius is not None and not (type(self.radius) is int and 0 <= self.radius <= _THICKEST):
            raise UserError(f"a region has the radius {str(self.radius)[:40]}; give 0 up to {_THICKEST} whole pixels, or none")
        if self.kind not in KINDS:
            raise UserError(f"a region is of the kind {str(self.kind)[:40]!r}; use one of {', '.join(KINDS)}")
        points, boxes = _places("points", self.points, 3), _places("boxes", self.boxes, 4)
        if len(self.scribbles) > _MOST:
            raise UserError(f"a region has {len(self.scribbles)} scribbles; give {_MOST} at most")
        scribbles = tuple(_places("scribbles", line, 2) for line in self.scribbles)
        if not np.isin(points[:, 2], (0, 1)).all():
            raise UserError(
                "the third number of a point is 1 where it is on what is meant, 0 where it is beside it; found another"
            )
        if (boxes[:, :2] > boxes[:, 2:]).any():
            raise UserError("a box of a region is left, top, right, bottom; found one whose sides are swapped")
        if not all(map(len, scribbles)) or sum(map(len, scribbles)) > _MOST:
            raise UserError(f"the scribbles of a region need a corner each, and {_MOST} corners at most in all")
        if sum(float(np.abs(np.diff(line, axis=0)).sum()) for line in scribbles) > _LONGEST:
            raise UserError(f"the scribbles of a region are longer than {_LONGEST:.0f} pixels; give fewer corners")
        for name, value in (("points", points), ("boxes", boxes), ("scribbles", scribbles)):
            object.__setattr__(self, name, value)

    @classmethod
    def of_point(cls, x: float, y: float) -> Region:
        """A point on the object."""
        return cls("point", points=np.array([[x, y, 1]]))

    @classmethod
    def of_box(cls, left: float, top: float, right: float, bottom: float) -> Region:
        return cls("box", boxes=np.array([[left, top, right, bottom]]))

    @classmethod
    def of_scribble(cls, corners: Shaped[np.ndarray, "L 2"] | Sequence[Sequence[float]]) -> Region:
        """corners: x and y."""
        return cls("scribble", scribbles=(np.asarray(corners),))

    @classmethod
    def of_mask(cls, mask: Shaped[np.ndarray, "H W"], kind: str = "mask", radius: int | None = 0) -> Region:
        """kind: what it was drawn as."""
        return cls(kind, mask=np.asarray(mask, bool), radius=radius)


def _places(what: str, numbers: Any, columns: int) -> np.ndarray:
    """Numbers of pixels as float64 [N, columns]. UserError where they are something else."""
    try:
        found = np.asarray(numbers, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"the {what} of a region are no numbers of pixels; correct them") from error
    if not found.size:
        return np.zeros((0, columns))
    if found.ndim != 2 or found.shape[1] != columns or len(found) > _MOST:
        raise UserError(f"the {what} of a region are of shape {found.shape}; give up to {_MOST} rows of {columns} numbers")
    if not (np.abs(found) < _FAR).all():
        raise UserError(f"the {what} of a region have a number of {_FAR:.0f} pixels or more, or none at all; correct it")
    return found


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One question about an example, on the host.

    task: one of TASKS.
    text: the expression (referring, reasoning, video) or the question (chat).
    answer: the text to be written (chat, caption), or the explanation of a reasoning answer; may be empty.
    answers: every answer that the benchmark accepts, as often as it was given (VQAv2: ten people's); () where there is one.
    classes: the class list of a panoptic prompt, without "background".
    things: for each class, whether its instances are counted apart.
    masks: what is to be found. referring, reasoning, video: one mask (the union of what the text names) or
        none where nothing fits; panoptic: one a segment; region: one a region, in order.
    labels: N integers: class of each mask (panoptic) or region of each mask (region).
    regions: what is drawn for a region task, or the one region that a caption is about; () otherwise. They lie on the first
        frame, or on Example.drawn_on where there is one.
    ignore: pixels that no metric counts; None where every pixel counts.
    crowds: those of the ignored pixels that are crowds of a class (panoptic), with their crowd_labels.
    areas: pixels of each mask as the annotations count them (COCO, of polygons); () where they do not.
    others: further objects of the clip, which nobody speaks of but scores count (video).
    foreground: every object of the clip, named or not (video), which ReVOS's robustness wants.
    group: a tag for grouped scores: "attribute", "relation", "plural", "absent", "counting", ...
    key: the benchmark's own number of the question (question_id, image_id, index), as its server wants it back.
    """

    task: str
    text: str = ""
    answer: str = ""
    answers: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    things: tuple[bool, ...] = ()
    masks: Bool[np.ndarray, "N T H W"] | None = None
    labels: tuple[int, ...] = ()
    regions: tuple[Region, ...] = ()
    ignore: Bool[np.ndarray, "T H W"] | None = None
    group: str = ""
    crowds: Bool[np.ndarray, "_ T H W"] | None = None
    crowd_labels: tuple[int, ...] = ()
    foreground: Bool[np.ndarray, "T H W"] | None = None
    areas: tuple[float, ...] = ()
    others: Bool[np.ndarray, "_ T H W"] | None = None
    key: str = ""


@dataclasses.dataclass(frozen=True)
class Example:
    """One record of a benchmark as its reader gives it: an image or clip and what is asked about it.

    name: unique within its file, used in every message ("val.json#12").
    frames: T = 1 for an image, 0 for a record without pixels, from which a system may train.
    prompts: at least one; those of one example share its pixels.
    frame_names: of the frames of a clip, as a server wants them back; () where none does.
    drawn_on: the image that the regions of its prompts were drawn on; None where that is the first frame.
    """

    name: str
    frames: UInt8[np.ndarray, "T H W 3"]
    prompts: tuple[Prompt, ...]
    frame_names: tuple[str, ...] = ()
    drawn_on: UInt8[np.ndarray, "_ _ 3"] | None = None


@dataclasses.dataclass(frozen=True)
class Segment:
    """One mask of a prediction. mask: at the image's own size, or probabilities. score: 0..1, NaN where the
    prediction has no scores. label: what it was found as."""

    mask: Bool[np.ndarray, "H W"] | Float32[np.ndarray, "H W"]
    score: float
    label: str


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The answer to one prompt about one frame. Iterating gives its masks as Segments.

    masks: at the image's own size, or probabilities.
    labels: N class indices into prompt.classes; () where no classes were asked for.
    scores: N numbers in 0..1; () where there are none.
    names: N strings, what each mask was found as; () where nobody named them.
    texts: what the model wrote: one text, or one for each region that it was asked about.
    classes: the probability of each class, of candidates for tracking.
    embeddings: appearance embeddings, of candidates for tracking.
    ious: for each object its IoU after each click (interactive segmentation).
    """

    masks: Bool[np.ndarray, "N H W"] | Float32[np.ndarray, "N H W"]
    labels: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    classes: Float32[np.ndarray, "N C"] | None = None
    embeddings: Float32[np.ndarray, "N D"] | None = None
    ious: tuple[tuple[float, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> Segment:
        score = self.scores[index] if self.scores else float("nan")
        return Segment(self.masks[index], score, self.names[index] if self.names else "")

    def __iter__(self) -> Iterator[Segment]:
        return (self[k] for k in range(len(self)))

    @property
    def text(self) -> str:
        """The first text, "" where the model wrote none."""
        return self.texts[0] if self.texts else ""

    @property
    def union(self) -> Bool[np.ndarray, "H W"] | Float32[np.ndarray, "H W"]:
        """The maximum over all masks; zeros where there are none."""
        return self.masks.max(0, initial=0).astype(self.masks.dtype)

    @property
    def ids(self) -> Int32[np.ndarray, "H W"]:
        """The number of each pixel's mask, from 1, or 0. Of masks that overlap, the last one has the pixel."""
        ids = np.zeros(self.masks.shape[1:], np.int32)
        for k, mask in enumerate(self.masks, 1):
            ids[mask > 0] = k
        return ids
