"""The few structs that rooms hand each other."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Sequence
from typing import Any

import flax.struct
import jax
import numpy as np

from hyperseg_jax.errors import UserError

Array = jax.Array | np.ndarray

IGNORED = -100
"""A label that is not trained on (PyTorch's ignore_index, used in every published data set)."""

TASKS = ("referring", "reasoning", "panoptic", "region", "video", "chat", "caption")
KINDS = ("point", "scribble", "box", "mask")
"""Kinds of regions."""
_MOST, _FAR, _LONGEST = 4096, 1e6, 1e6
"""Limits of a region: its points, boxes, or corners of scribbles; pixels from the corner of the image to each; pixels of its
scribbles together. Drawing takes time for each."""


@flax.struct.dataclass
class Pyramid:
    """Feature maps of one picture at several strides, fine to coarse.

    levels: tuple of [B, H/stride, W/stride, C].
    strides: pixels a cell, one for each level.
    """

    levels: tuple[jax.Array, ...]
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
    """The prompts of a picture as fixed-length arrays, [L] on the host and [B, L] on the device.

    Several prompts share one sequence: what they have in common (the picture above all) stands once at the start, and each
    then goes on by itself, seeing the common part and its own. A causal model computes the same for it as for the prompts one
    by one.

    text_ids: int32 token ids at TEXT, EXPRESSION and CLASS positions, 0 elsewhere.
    source: int32, a Source. index: int32, the position's number inside its source, from 0.
    segment: int32, what it is pooled into: 1 for the expression, the number of its class or region from 1, else 0.
    labels: int32, the token to be written at this position (not shifted), -100 where none is asked for.
    mask: bool, True where other positions may look.
    prompt: int32, the number of its prompt from 1; 0 where all prompts share the position.
    position: int32, its place in its own prompt.
    """

    text_ids: Array
    source: Array
    index: Array
    segment: Array
    labels: Array
    mask: Array
    prompt: Array
    position: Array

    def part(self, start: int, stop: int | None = None) -> Layout:
        """Positions start..stop of a batch of layouts."""
        part: Layout = jax.tree.map(lambda field: field[:, start:stop], self)
        return part


@flax.struct.dataclass
class TokenStream:
    """The mixed sequence that enters the language model.

    embeddings: [B, L, D]. positions: [B, L] int32. mask: [B, L] bool, True where a token stands.
    source: [B, L] int32, the bank each position came from (Source).
    prompt: [B, L] int32, the prompt each position belongs to; it sees its own and those of 0. None: one prompt a row.
    """

    embeddings: jax.Array
    positions: jax.Array
    mask: jax.Array
    source: jax.Array
    prompt: jax.Array | None = None


@flax.struct.dataclass
class MaskPrediction:
    """What a mask decoder says about its queries.

    mask_logits: [B, Q, h, w], at the stride of the mask features.
    scores: raw logits by kind: "expression" [B, Q], "class" [B, Q, C], "region" [B, Q, R], "box_iou" [B, Q].
    boxes: [B, Q, 4] cxcywh in 0..1, or None.
    embeddings: by kind: "query" [B, Q, D] (last layer, before the final norm), "reid" [B, Q, D].
    stages: one dict for each earlier prediction (deep supervision and golden tests): "mask_logits", "scores", and
        "attention_mask" [B, Q, hw] (True = blocked, before a fully blocked row is opened) of the layer that followed it.
    """

    mask_logits: jax.Array
    scores: dict[str, jax.Array]
    boxes: jax.Array | None = None
    embeddings: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
    stages: tuple[dict[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class Region:
    """What somebody drew to point at one object, in pixels from the image's top left corner; all its marks mean that object.

    kind: one of KINDS, what scores are grouped by.
    points: float64 [N, 3], x and y, and 1 on the object or 0 beside it. Pixel (column, row) has its centre at (column + 0.5,
        row + 0.5) and holds whatever is rounded down to it.
    boxes: float64 [M, 4], left, top, right, bottom. scribbles: float64 [L, 2] each, the corners of a line as x, y.
    mask: bool [H, W] of the image's size, or None.
    UserError for numbers of another shape, too many of them, or ones that are not finite.
    """

    kind: str
    points: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 3)))
    boxes: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 4)))
    scribbles: tuple[np.ndarray, ...] = ()
    mask: np.ndarray | None = None

    def __post_init__(self) -> None:
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
    def of_scribble(cls, corners: np.ndarray | Sequence[Sequence[float]]) -> Region:
        """corners: [L, 2], x and y."""
        return cls("scribble", scribbles=(np.asarray(corners),))

    @classmethod
    def of_mask(cls, mask: np.ndarray, kind: str = "mask") -> Region:
        """mask: bool [H, W]. kind: what it was drawn as."""
        return cls(kind, mask=np.asarray(mask, bool))


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
    masks: bool [N, T, H, W], what is to be found. referring, reasoning, video: one mask (the union of what the text names) or
        none where nothing fits; panoptic: one a segment; region: one a region, in order.
    labels: N integers: class of each mask (panoptic) or region of each mask (region).
    regions: what is drawn for a region task, or the one region that a caption is about; () otherwise. They lie on the first
        frame, or on Example.drawn_on where there is one.
    ignore: bool [T, H, W], pixels that no metric counts; None where every pixel counts.
    crowds: bool [M, T, H, W], those of the ignored pixels that are crowds of a class (panoptic), with their crowd_labels.
    areas: pixels of each mask as the annotations count them (COCO, of polygons); () where they do not.
    others: bool [M, T, H, W], further objects of the clip, which nobody speaks of but scores count (video).
    foreground: bool [T, H, W], every object of the clip, named or not (video), which ReVOS's robustness wants.
    group: a tag for grouped scores: "attribute", "relation", "plural", "absent", "counting", ...
    key: the benchmark's own number of the question (question_id, image_id, index), as its server wants it back.
    """

    task: str
    text: str = ""
    answer: str = ""
    answers: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    things: tuple[bool, ...] = ()
    masks: np.ndarray | None = None
    labels: tuple[int, ...] = ()
    regions: tuple[Region, ...] = ()
    ignore: np.ndarray | None = None
    group: str = ""
    crowds: np.ndarray | None = None
    crowd_labels: tuple[int, ...] = ()
    foreground: np.ndarray | None = None
    areas: tuple[float, ...] = ()
    others: np.ndarray | None = None
    key: str = ""


@dataclasses.dataclass(frozen=True)
class Example:
    """One record of a benchmark as its reader gives it: a picture or clip and what is asked about it.

    name: unique within its file, used in every message ("val.json#12").
    frames: uint8 [T, H, W, 3]; T = 1 for a picture, 0 for a record without pixels, from which a system may train.
    prompts: at least one; those of one example share its pixels.
    frame_names: of the frames of a clip, as a server wants them back; () where none does.
    drawn_on: uint8 [H, W, 3], the image that the regions of its prompts were drawn on; None where that is the first frame.
    """

    name: str
    frames: np.ndarray
    prompts: tuple[Prompt, ...]
    frame_names: tuple[str, ...] = ()
    drawn_on: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Segment:
    """One mask of a prediction. mask: bool [H, W] at the image's own size, or float32 probabilities. score: 0..1, NaN where the
    prediction has no scores. label: what it was found as."""

    mask: np.ndarray
    score: float
    label: str


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The answer to one prompt about one frame. Iterating gives its masks as Segments.

    masks: bool [N, H, W] at the image's own size, or float32 probabilities.
    labels: N class indices into prompt.classes; () where no classes were asked for.
    scores: N numbers in 0..1; () where there are none.
    names: N strings, what each mask was found as; () where nobody named them.
    texts: what the model wrote: one text, or one for each region that it was asked about.
    classes: float32 [N, C], the probability of each class, of candidates for tracking.
    embeddings: float32 [N, D], appearance embeddings, of candidates for tracking.
    ious: for each object its IoU after each click (interactive segmentation).
    """

    masks: np.ndarray
    labels: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    classes: np.ndarray | None = None
    embeddings: np.ndarray | None = None
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
    def union(self) -> np.ndarray:
        """[H, W]: the maximum over all masks; zeros where there are none."""
        return self.masks.max(0, initial=0).astype(self.masks.dtype)

    @property
    def ids(self) -> np.ndarray:
        """int32 [H, W]: the number of each pixel's mask, from 1, or 0. Of masks that overlap, the last one has the pixel."""
        ids = np.zeros(self.masks.shape[1:], np.int32)
        for k, mask in enumerate(self.masks, 1):
            ids[mask > 0] = k
        return ids
